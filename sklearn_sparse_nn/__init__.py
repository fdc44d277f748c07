"""Sparse neural nets for tabular data, as scikit-learn estimators.

The public names are loaded when they are first used (PEP 562): importing the package
alone loads neither torch nor scikit-learn.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sklearn_sparse_nn._version import __version__ as __version__

if TYPE_CHECKING:
    from sklearn_sparse_nn.dense.tabular import (
        TabularNetClassifier,
        TabularNetRegressor,
    )
    from sklearn_sparse_nn.export import export_module, export_pipeline
    from sklearn_sparse_nn.nets.batches import BatchIterator
    from sklearn_sparse_nn.pruning.classifier import PrunedClassifier
    from sklearn_sparse_nn.pruning.regressor import PrunedRegressor
    from sklearn_sparse_nn.search.cv import PrunedClassifierCV, PrunedRegressorCV
    from sklearn_sparse_nn.search.path import pruning_path

_HOMES = {
    "BatchIterator": "sklearn_sparse_nn.nets.batches",
    "PrunedClassifier": "sklearn_sparse_nn.pruning.classifier",
    "PrunedClassifierCV": "sklearn_sparse_nn.search.cv",
    "PrunedRegressor": "sklearn_sparse_nn.pruning.regressor",
    "PrunedRegressorCV": "sklearn_sparse_nn.search.cv",
    "TabularNetClassifier": "sklearn_sparse_nn.dense.tabular",
    "TabularNetRegressor": "sklearn_sparse_nn.dense.tabular",
    "export_module": "sklearn_sparse_nn.export",
    "export_pipeline": "sklearn_sparse_nn.export",
    "pruning_path": "sklearn_sparse_nn.search.path",
}

__all__ = [
    "BatchIterator",
    "PrunedClassifier",
    "PrunedClassifierCV",
    "PrunedRegressor",
    "PrunedRegressorCV",
    "TabularNetClassifier",
    "TabularNetRegressor",
    "export_module",
    "export_pipeline",
    "pruning_path",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
