"""Sparse models of estimators that predict, remembered while their weights stay."""

from collections.abc import Iterator
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from sklearn_sparse_nn.exceptions import UnsupportedLayerError
from sklearn_sparse_nn.export.model import export_pruner
from sklearn_sparse_nn.nets.host import (
    criteria,
    n_forward_hooks,
    own_buffers,
    own_parameters,
    version,
)
from sklearn_sparse_nn.runtime import SparseModel

__all__ = ["predicting_model"]

# By module, outside of the estimator: what scikit-learn compares, copies and pickles
# stays as it was. One reading or writing of a dict is one step even with several
# threads, and a lock could be held by another thread while the process forks.
_models: WeakKeyDictionary[nn.Module, tuple[Any, SparseModel | None]] = (
    WeakKeyDictionary()
)
_INTERNAL = frozenset(vars(nn.Module()))  # torch's own attributes
_NUMPY = (torch.float32, torch.int64, torch.float64, torch.int32, torch.bool)
_SIMPLE = (int, float, str, bool, tuple, type(None))


def predicting_model(estimator: Any) -> SparseModel | None:
    """Give the sparse model that a fitted estimator may predict with.

    Parameters
    ----------
    estimator : NetEstimator
        Fitted.

    Returns
    -------
    model : SparseModel or None
        Of the weights as they are now. None if the net is not supported, is not on
        the CPU or is not of float32: torch then predicts.
    """
    net = estimator.net_
    module = getattr(net, "module_", None)
    if not isinstance(module, nn.Module):
        return None
    state = (_settings(estimator), *_state(module))
    known = _models.get(module)
    if known is None or known[0] != state:
        known = state, _exported(estimator, module)
        _models[module] = known
    return known[1]


def _exported(estimator: Any, module: nn.Module) -> SparseModel | None:
    plain = all(
        t.device.type == "cpu" and t.dtype == torch.float32 for t in module.parameters()
    )
    if not plain or estimator.net_.device not in ("cpu", torch.device("cpu")):
        return None
    try:
        return export_pruner(estimator)
    except (UnsupportedLayerError, ValueError):  # torch says what is wrong, if it is
        return None


def _settings(estimator: Any) -> Any:
    """Give what else decides about the model; equal while nothing was changed."""
    net = estimator.net_
    return (
        id(estimator.targets_),
        estimator.n_features_in_,
        type(net),
        net.device,
        net.predict_nonlinearity,
        getattr(net, "threshold", None),
        [type(criterion) for criterion in criteria(net)],
    )


def _state(module: nn.Module) -> Iterator[Any]:
    """Give what a module's values depend on, as far as it can be told quickly.

    Weights may be changed behind torch's version counters, as by ``weight.data``, so
    their bits are added up too, in a tenth of a millisecond for the default net.
    """
    for child in module.modules():
        yield id(child), n_forward_hooks(child)
        for name, value in vars(child).items():
            if name not in _INTERNAL:
                if isinstance(value, Tensor):
                    yield name, _bits(value)
                elif isinstance(value, _SIMPLE):
                    yield name, value
        for tensors in (own_parameters(child), own_buffers(child)):
            for name, tensor in tensors.items():
                yield name, None if tensor is None else _bits(tensor)


def _bits(tensor: Tensor) -> Any:
    """Tell a tensor from others, and from itself with other values."""
    n_changes = version(tensor)
    plain = type(tensor) in (Tensor, nn.Parameter) and tensor.device.type == "cpu"
    if not plain or tensor.layout is not torch.strided or tensor.dtype not in _NUMPY:
        return id(tensor), n_changes  # torch predicts then, in most cases
    values = np.ascontiguousarray(tensor.detach().numpy()).reshape(-1)
    words, rest = np.divmod(values.nbytes, 8)
    flat = values.view(np.uint8)
    whole = flat[: 8 * words].view(np.uint64)
    # Odd factors by place: a swap of two rows is seen, too.
    total = int((whole * np.arange(1, 2 * words, 2, dtype=np.uint64)).sum())
    end = flat[8 * words :].tobytes() if rest else b""
    return id(tensor), tensor.data_ptr(), tuple(tensor.shape), n_changes, total, end
