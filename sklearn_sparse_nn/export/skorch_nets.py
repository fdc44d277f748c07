"""The skorch nets whose predictions are known functions of their modules' outputs."""

import torch
from skorch import (
    NeuralNet,
    NeuralNetBinaryClassifier,
    NeuralNetClassifier,
    NeuralNetRegressor,
)
from skorch.dataset import Dataset
from torch import nn
from torch.utils.data import DataLoader

from sklearn_sparse_nn.dense.tabular import TabularNetClassifier, TabularNetRegressor
from sklearn_sparse_nn.exceptions import UnsupportedLayerError
from sklearn_sparse_nn.nets.batches import BatchIterator
from sklearn_sparse_nn.nets.host import FIND_NONLINEARITY, criteria, original

__all__ = ["output_of", "refuse_unknown_net"]

_KNOWN = (
    NeuralNet,
    NeuralNetClassifier,
    NeuralNetBinaryClassifier,
    NeuralNetRegressor,
    TabularNetClassifier._net_class,
    TabularNetRegressor._net_class,
)
#: The methods that skorch calls between `predict` and the module.
_PATH = (
    "predict",
    "predict_proba",
    "forward_iter",
    "evaluation_step",
    "infer",
    "get_dataset",
    "get_iterator",
    "get_params_for",
    FIND_NONLINEARITY,
)
#: Parameters of a loader that change neither the rows nor their order.
_LOADING = (
    "batch_size",
    "generator",
    "multiprocessing_context",
    "num_workers",
    "persistent_workers",
    "pin_memory",
    "prefetch_factor",
    "shuffle",
    "timeout",
)


def refuse_unknown_net(net: NeuralNet) -> None:
    """Raise an error for a net that may change its module's outputs in an unknown way.

    Parameters
    ----------
    net : skorch.NeuralNet
        An initialized net.

    Raises
    ------
    UnsupportedLayerError
        The net overrides a method that `predict` calls, or has a dataset, iterator,
        threshold or loss that is not known.
    """
    reason = _unknown(net)
    if reason:
        raise UnsupportedLayerError(
            f"The net, a {type(net).__name__}, {reason}, so what it predicts may be "
            "another thing than its module's outputs. export_module takes the module "
            "alone."
        )


def _unknown(net: NeuralNet) -> str | None:
    """Return what is not known about a net, as the end of a sentence, or None."""
    kind = type(net)
    for name in _PATH:
        own = getattr(kind, name)
        if name in vars(net) or not any(own is getattr(k, name) for k in _KNOWN):
            return f"has its own {name}"
    if net.dataset is not Dataset or net.iterator_valid not in (
        DataLoader,
        BatchIterator,
    ):
        return "has a dataset or an iterator of its own"
    loading = [n for n in vars(net) if n.startswith(("iterator_valid__", "dataset__"))]
    odd = [n for n in loading if n.removeprefix("iterator_valid__") not in _LOADING]
    if odd or vars(net).get("iterator_valid__shuffle"):
        return f"sets {', '.join(odd) or 'iterator_valid__shuffle'}"
    if not isinstance(getattr(net, "module_", None), nn.Module):
        return "has no module_"
    if getattr(net, "threshold", 0.5) != 0.5:
        return "has another threshold than 0.5"
    if output_of(net) is None:
        if net.predict_nonlinearity not in ("auto", None):
            return f"has predict_nonlinearity={net.predict_nonlinearity!r}"
        losses = (type(loss).__name__ for loss in criteria(net))
        return f"has the loss {', '.join(losses)}"
    return None


def output_of(net: NeuralNet) -> str | None:
    """Find the function that a net applies to its module's outputs to predict.

    Parameters
    ----------
    net : skorch.NeuralNet
        An initialized net.

    Returns
    -------
    output : {"identity", "softmax", "sigmoid", "probability"} or None
        The function; ``"probability"`` if the outputs are already the probabilities of
        the second class. None if it is not known.
    """
    if net.predict_nonlinearity is None:
        return None if isinstance(net, NeuralNetBinaryClassifier) else "identity"
    if net.predict_nonlinearity != "auto":
        return None
    binary = isinstance(net, NeuralNetBinaryClassifier)
    losses = criteria(net)
    if len(losses) != 1:
        return None if binary else "identity"
    criterion = original(losses[0])
    if isinstance(criterion, torch.nn.CrossEntropyLoss):
        return None if binary else "softmax"
    if isinstance(criterion, torch.nn.BCEWithLogitsLoss):
        return "sigmoid" if binary else None
    if isinstance(criterion, torch.nn.BCELoss):
        return "probability" if binary else None
    return None if binary else "identity"
