"""Training of a net: epochs, masks, penalties, soft targets and rewinding."""
