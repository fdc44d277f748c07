"""The pruner for classification."""
from typing import Any

from sklearn_sparse_nn.nets.estimator import NetClassifierMixin
from sklearn_sparse_nn.nets.tabular import TabularNetClassifier
from sklearn_sparse_nn.pruning._base import BasePruner

__all__ = ["PrunedClassifier"]


class PrunedClassifier(NetClassifierMixin, BasePruner):
    """x."""

    _default_estimator = TabularNetClassifier
