"""Nets of torch and skorch: layers, the default module, batches, targets, seeds."""
