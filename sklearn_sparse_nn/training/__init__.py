"""Training under masks: epochs one by one, held zeros, penalties, soft targets."""
