"""The pruner for regression."""
from sklearn_sparse_nn.nets.estimator import NetRegressorMixin
from sklearn_sparse_nn.nets.tabular import TabularNetRegressor
from sklearn_sparse_nn.pruning._base import BasePruner

__all__ = ["PrunedRegressor"]


class PrunedRegressor(NetRegressorMixin, BasePruner):
    """x."""

    _default_estimator = TabularNetRegressor
