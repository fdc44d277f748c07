"""The inspection of pruning: controls and the sensitivity of layers."""

from sklearn_sparse_nn.inspection.controls import controls
from sklearn_sparse_nn.inspection.sensitivity import layer_sensitivity

__all__ = ["controls", "layer_sensitivity"]
