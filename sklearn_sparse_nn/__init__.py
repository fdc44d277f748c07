"""Sparse neural nets for tabular data, as scikit-learn estimators."""
