"""Sparse models of estimators that predict, remembered while their weights stay."""

from collections.abc import Iterator
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from sklearn_sparse_nn.exceptions import UnsupportedLayerError
from sklearn_sparse_nn.export._model import export_pruner
from sklearn_sparse_nn.runtime import SparseModel

__all__ = ["predicting_model"]

# By module, outside of the estimator: what scikit-learn compares, copies and pickles
# stays as it was. One reading or writing of a dict is one step even with several
# threads, and a lock could be held by another thread while the process forks.
_models: WeakKeyDictionary[nn.Module, tuple[Any, SparseModel | None]] = (
    WeakKeyDictionary()
)
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
        [type(getattr(net, f"{name}_", None)) for name in net._criteria],
    )


def _state(module: nn.Module) -> Iterator[Any]:
    """Give what a module's values depend on, as far as it can be told quickly.

    Weights may be changed behind torch's version counters, as by ``weight.data``, so
    their bits are added up too: that takes a twentieth of a millisecond for the
    default net.
    """
    for child in module.modules():
        for part in (vars(child), child._parameters, child._buffers):
            for name, value in part.items():
                if isinstance(value, Tensor):
                    yield name, id(value), value.dtype, value.shape, _sum(value)
                elif isinstance(value, _SIMPLE) and name != "training":
                    yield name, value
        yield id(child), len(child._forward_hooks), len(child._forward_pre_hooks)


def _sum(tensor: Tensor) -> Any:
    # The version sees what leaves the sum alone, such as a swap of two rows.
    version = None if tensor.is_inference() else tensor._version
    if tensor.layout is not torch.strided or tensor.device.type != "cpu":
        return version
    bits = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    n_words = len(bits) // 8
    head = bits[: 8 * n_words].view(torch.int64).sum()
    rest = tuple(bits[8 * n_words :].tolist())
    return version, int(head), rest, tensor.data_ptr()
