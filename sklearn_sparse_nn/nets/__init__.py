"""The torch and skorch side: default nets, batches, training runs, held masks."""
