"""The sparse runtime: predictions from scipy.sparse weights, without torch."""

from sklearn_sparse_nn.runtime.model import SparseModel

__all__ = ["SparseModel"]
