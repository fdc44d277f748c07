"""Dense nets: the estimators of this package, and where a pruner takes its net from."""
