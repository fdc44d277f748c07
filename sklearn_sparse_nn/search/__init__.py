"""The choice of a sparsity: along a path, and by cross-validation."""
