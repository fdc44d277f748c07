"""Where the dense net comes from: built here, cloned from a user's, or frozen."""

from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.utils.validation import check_is_fitted
from skorch import NeuralNet, NeuralNetBinaryClassifier
from torch import nn

from sklearn_sparse_nn._compat import check_parameters
from sklearn_sparse_nn.dense.base import NetEstimator, as_net_input
from sklearn_sparse_nn.dense.tabular import TabularNet
from sklearn_sparse_nn.nets.copies import copy_module, first_outputs
from sklearn_sparse_nn.nets.seeding import has_foreign_parts
from sklearn_sparse_nn.nets.targets import Labels, Values

__all__ = ["DenseNet", "as_dtype", "brings_code", "dense_net", "is_own_net"]


@dataclass
class DenseNet:
    """An initialized net and how to feed it.

    Parameters
    ----------
    net : skorch.NeuralNet
        Initialized, nothing of it shared with the user's objects.
    targets : Labels or Values
        What its outputs stand for.
    X, y : arrays
        The training data as the net takes them.
    frozen : bool
        Whether it is trained already, so that there is no dense phase.
    """

    net: NeuralNet
    targets: Labels | Values
    X: Any
    y: np.ndarray
    frozen: bool = False


def is_own_net(estimator: Any) -> bool:
    """Tell a user's own skorch net, frozen or not, from an estimator of ours."""
    if isinstance(estimator, FrozenEstimator):
        estimator = estimator.estimator
    if hasattr(estimator, "_own_dtype"):  # a fitted pruner
        return estimator._own_dtype is not None
    return isinstance(estimator, NeuralNet)


def brings_code(estimator: Any) -> bool:
    """Tell whether something in a net is a user's, and may draw random numbers.

    Parameters
    ----------
    estimator : TabularNet, skorch.NeuralNet, FrozenEstimator or None
        As given to a pruner.
    """
    if is_own_net(estimator):
        return True
    if isinstance(estimator, FrozenEstimator):
        net = getattr(estimator.estimator, "net_", None)
        return net is not None and has_foreign_parts(net.optimizer, net.callbacks)
    return estimator is not None and has_foreign_parts(
        estimator.optimizer, estimator.callbacks
    )


def dense_net(
    estimator: Any,
    default: type[TabularNet],
    X: Any,
    y: Any,
    *,
    random_state: Any,
    classes: np.ndarray | None = None,
) -> DenseNet:
    """Make the net that a pruner starts from.

    Parameters
    ----------
    estimator : TabularNet, skorch.NeuralNet, FrozenEstimator or None
        As given to the pruner; never changed.
    default : type
        The TabularNet class of the pruner's kind.
    X, y : arrays
        Validated training data.
    random_state : int, RandomState instance or None
        The pruner's; an estimator's own comes first.
    classes : ndarray of shape (n_classes,) or None, default=None
        Labels that the net is to know, where not all of them are in `y`.

    Returns
    -------
    dense : DenseNet
    """
    if estimator is None:
        estimator = default()
    frozen = isinstance(estimator, FrozenEstimator)
    inner = estimator.estimator if frozen else estimator
    _check_kind(inner, default)
    if frozen:
        return _from_frozen(inner, default, X, y)
    targets = _learn(default, y if classes is None else classes)
    if isinstance(inner, NeuralNet):
        return _fed(clone(inner).initialize(), targets, X, y)
    inner = clone(inner)
    if inner.random_state is None:
        inner.set_params(random_state=random_state)
    check_parameters(inner)
    net = inner.build_net(X, y, targets).initialize()
    return DenseNet(net, targets, as_net_input(X), targets.encode(y))


def _learn(default: type[TabularNet], y: Any) -> Labels | Values:
    return default()._learn_targets(y)


def _check_kind(inner: Any, default: type[TabularNet]) -> None:
    if not isinstance(inner, (NeuralNet, NetEstimator)):
        raise TypeError(
            f"A FrozenEstimator around a {type(inner).__name__} was given; a pruner "
            "takes one around a fitted skorch net, TabularNet or pruner. A net that is "
            "a step of a Pipeline can be taken out of it."
        )
    wanted, other = is_classifier, is_regressor
    if is_regressor(default()):
        wanted, other = other, wanted
    if (isinstance(inner, NetEstimator) and not wanted(inner)) or other(inner):
        raise TypeError(
            f"estimator is a {type(inner).__name__}, but this pruner needs a "
            f"{'classifier' if wanted is is_classifier else 'regressor'} such as "
            f"{default.__name__}; use the other pruner for it."
        )


def _from_frozen(inner: Any, default: type[TabularNet], X: Any, y: Any) -> DenseNet:
    if isinstance(inner, NeuralNet) and not inner.initialized_:
        raise NotFittedError(
            f"The frozen {type(inner).__name__} is not fitted yet. Fit it first, or "
            "give it unfrozen to have it trained here."
        )
    check_is_fitted(inner)
    net = _trained_copy(inner if isinstance(inner, NeuralNet) else inner.net_)
    if isinstance(inner, NetEstimator):
        targets = inner.targets_
        if is_own_net(inner):
            return _fed(net, targets, X, y, frozen=True)
        return DenseNet(net, targets, as_net_input(X), targets.encode(y), frozen=True)
    targets = _learn(default, y)
    if isinstance(targets, Labels):
        # A net of its own was trained on class numbers: they are its labels.
        outputs = first_outputs(net, as_net_input(as_dtype(X, input_dtype(net, X))))
        n_outputs = outputs.shape[1] if outputs.ndim > 1 else 2
        targets = Labels(np.arange(max(2, n_outputs)))
    return _fed(net, targets, X, y, frozen=True)


def _trained_copy(net: NeuralNet) -> NeuralNet:
    """Copy a trained net; its optimizer, callbacks and history begin anew."""
    net.check_training_readiness()
    copy = clone(net).initialize()
    for name in copy._modules + copy._criteria:
        part = getattr(net, f"{name}_")
        is_module = isinstance(part, nn.Module)
        setattr(copy, f"{name}_", copy_module(part) if is_module else deepcopy(part))
    copy.initialize_optimizer()
    return copy


def _fed(
    net: NeuralNet, targets: Any, X: Any, y: Any, *, frozen: bool = False
) -> DenseNet:
    """Feed a user's net in the types and shapes that its module and loss take."""
    if not isinstance(getattr(net, "module_", None), nn.Module):
        raise TypeError(
            f"{type(net).__name__} has no module_ after initialize(); a pruner looks "
            "for the weights to prune there."
        )
    X = as_net_input(as_dtype(X, input_dtype(net, X)))
    outputs = first_outputs(net, X)
    if isinstance(targets, Values):
        if outputs[0].numel() != 1:
            raise ValueError(
                f"The module gives {outputs[0].numel()} outputs for a row; to regress "
                "on y of shape (n_samples,) it must give one."
            )
        targets = Values()  # a user's net sees plain values
        encoded = targets.encode(y).reshape(-1, *[1] * (outputs.ndim - 1))
        encoded = encoded.astype(_numpy_dtype(outputs.dtype))
    elif isinstance(net, NeuralNetBinaryClassifier):
        if targets.n_outputs != 2:
            raise ValueError(
                f"{type(net).__name__} takes 2 classes; y has {targets.n_outputs}."
            )
        encoded = targets.encode(y).astype(_numpy_dtype(outputs.dtype))
    else:
        encoded = targets.encode(y)
        if outputs.ndim < 2 or outputs.shape[1] < targets.n_outputs:
            raise ValueError(
                f"The module's outputs have shape {tuple(outputs.shape)} for "
                f"{len(outputs)} rows, but y has {targets.n_outputs} classes: it must "
                "give one output for each."
            )
    return DenseNet(net, targets, X, encoded, frozen)


def input_dtype(net: NeuralNet, X: Any) -> np.dtype:
    """Choose what a user's module takes: int64 for embeddings, else its own float.

    Parameters
    ----------
    net : skorch.NeuralNet
        Initialized.
    X : ndarray or csr matrix
        Validated.

    Returns
    -------
    dtype : numpy dtype
    """
    floats = [p.dtype for p in net.module_.parameters() if p.is_floating_point()]
    own_float = _numpy_dtype(floats[0]) if floats else np.dtype(np.float32)
    embeddings = (nn.Embedding, nn.EmbeddingBag)
    if not any(isinstance(child, embeddings) for child in net.module_.modules()):
        return own_float
    if X.dtype.kind in "iu":
        return np.dtype(np.int64)
    try:  # it may take floats, and pick its entries out itself
        first_outputs(net, as_net_input(as_dtype(X, own_float)))
    except (RuntimeError, TypeError):
        return np.dtype(np.int64)
    return own_float


def as_dtype(X: Any, dtype: np.dtype) -> Any:
    """Convert X, refusing to make integers of fractions.

    Parameters
    ----------
    X : ndarray or csr matrix
        Validated.
    dtype : numpy dtype
        What the net was found to take.

    Returns
    -------
    X : the same, converted; writable
    """
    converted = X.astype(dtype, copy=False)
    if dtype.kind == "i" and X.dtype.kind == "f" and (converted != X).sum():
        raise ValueError(
            "The net looks its inputs up in an embedding, so X must have whole "
            "numbers, as OrdinalEncoder gives; it has fractions."
        )
    # A user's loader makes tensors of rows, and torch warns about memory that it must
    # not write, such as what joblib shares between workers.
    read_only = isinstance(X, np.ndarray) and not converted.flags.writeable
    return converted.copy() if read_only else converted


def _numpy_dtype(dtype: torch.dtype) -> np.dtype:
    """Give numpy's name of a torch dtype; bfloat16 is fed as float32."""
    if dtype is torch.bfloat16:
        return np.dtype(np.float32)
    return torch.empty(0, dtype=dtype).numpy().dtype
