"""Sparse models that estimators predict with, remembered while nothing changes."""

import warnings
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import numpy as np
import torch
from torch import nn

from sklearn_sparse_nn.exceptions import UnsupportedLayerError
from sklearn_sparse_nn.export.model import export_pruner
from sklearn_sparse_nn.export.reading.agreement import DisagreementError
from sklearn_sparse_nn.export.state import State, state_of
from sklearn_sparse_nn.nets.host import criteria
from sklearn_sparse_nn.runtime import SparseModel

__all__ = ["predicting_model"]

# By module, outside of the estimator: what scikit-learn compares, copies and pickles
# stays as it was. One reading or writing of a dict is one step even with several
# threads, and a lock could be held by another thread while the process forks.
_models: WeakKeyDictionary[nn.Module, tuple[State, SparseModel | None]] = (
    WeakKeyDictionary()
)
_told: WeakSet[nn.Module] = WeakSet()  # modules of which a warning has said it


def predicting_model(
    estimator: Any, rows: np.ndarray | None = None
) -> SparseModel | None:
    """Return the sparse model that a fitted estimator may predict with.

    A new model is compared with the module first. Where the module computes something
    else than what was read from its forward, a warning says so, once.

    Parameters
    ----------
    estimator : NetEstimator
        The fitted estimator.
    rows : ndarray of shape (n_rows, n_features) or None, default=None
        The first rows to predict, which are compared besides drawn ones.

    Returns
    -------
    model : SparseModel or None
        The model of the weights and attributes as they are now. None if the net is not
        supported, is not on the CPU, is not of float32, or holds something that may
        change unseen: torch then predicts.
    """
    net = estimator.net_
    module = getattr(net, "module_", None)
    if not isinstance(module, nn.Module):
        return None
    state = state_of(module, _settings(estimator))
    if state is None:
        return None
    known = _models.get(module)
    if known is None or known[0] != state:
        known = state.keep(), _exported(estimator, module, rows)
        _models[module] = known
    return known[1]


def _exported(
    estimator: Any, module: nn.Module, rows: np.ndarray | None
) -> SparseModel | None:
    plain = all(
        t.device.type == "cpu" and t.dtype == torch.float32 for t in module.parameters()
    )
    if not plain or estimator.net_.device not in ("cpu", torch.device("cpu")):
        return None
    try:
        return export_pruner(estimator, rows)
    except DisagreementError as error:
        if module not in _told:
            _told.add(module)
            warnings.warn(f"Torch predicts, as in training: {error}", stacklevel=6)
        return None
    except (UnsupportedLayerError, ValueError):  # torch says what is wrong, if it is
        return None


def _settings(estimator: Any) -> list[Any]:
    """Return what decides about the model apart from the module."""
    net = estimator.net_
    return [
        id(estimator.targets_),
        estimator.n_features_in_,
        type(net),
        net.device,
        net.predict_nonlinearity,
        getattr(net, "threshold", None),
        [type(criterion) for criterion in criteria(net)],
    ]
