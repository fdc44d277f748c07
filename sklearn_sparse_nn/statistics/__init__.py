"""Statistics of a net over rows, for the importances of its weights."""
