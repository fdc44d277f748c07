"""Where the dense net comes from: built here, cloned from a user's, or frozen."""

from copy import deepcopy
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
import torch
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted
from skorch import NeuralNet, NeuralNetBinaryClassifier
from torch import nn

from sklearn_sparse_nn._compat import check_parameters
from sklearn_sparse_nn.nets.estimator import NetEstimator, as_net_input
from sklearn_sparse_nn.nets.tabular import TabularNet
from sklearn_sparse_nn.nets.targets import Labels, Values

__all__ = ["DenseNet", "as_seed", "dense_net", "is_own_net"]


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


def as_seed(random_state: Any) -> int:
    """Give an int seed: an int as it is, else drawn from the random state."""
    if isinstance(random_state, Integral):
        return int(random_state)
    return int(check_random_state(random_state).randint(2**31 - 1))


def is_own_net(estimator: Any) -> bool:
    """Tell a user's own skorch net, frozen or not, from an estimator of ours."""
    while isinstance(estimator, FrozenEstimator) or hasattr(estimator, "masks_"):
        estimator = estimator.estimator  # frozen, or a pruner that was frozen
    return isinstance(estimator, NeuralNet)


def dense_net(
    estimator: Any, default: type[TabularNet], X: Any, y: Any, *, random_state: Any
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
    if isinstance(inner, NeuralNet):
        net = clone(inner).initialize()
        return _fed(net, _learn(default, y), X, y)
    inner = clone(inner)
    if inner.random_state is None:
        inner.set_params(random_state=random_state)
    check_parameters(inner)
    targets = _learn(default, y)
    net = inner.build_net(X, y, targets).initialize()
    return DenseNet(net, targets, as_net_input(X), targets.encode(y))


def _learn(default: type[TabularNet], y: Any) -> Labels | Values:
    return default()._learn_targets(y)


def _check_kind(inner: Any, default: type[TabularNet]) -> None:
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
    net = inner if isinstance(inner, NeuralNet) else inner.net_
    net = deepcopy(net)
    net.callbacks_ = []
    if net.callbacks != "disable":
        net.initialize_callbacks()
    net.initialize_optimizer()
    net.initialize_history()
    if isinstance(inner, NetEstimator):
        if X.shape[1] != inner.n_features_in_:
            raise ValueError(
                f"X has {X.shape[1]} features, but the frozen net was trained on "
                f"{inner.n_features_in_}."
            )
        targets = inner.targets_
        if is_own_net(inner):
            return _fed(net, targets, X, y, frozen=True)
        return DenseNet(net, targets, as_net_input(X), targets.encode(y), frozen=True)
    targets = _learn(default, y)
    if isinstance(targets, Labels):
        # A net of its own was trained on class numbers: they are its labels.
        n_outputs = max(2, _outputs(net, X).reshape(min(2, len(y)), -1).shape[1])
        targets = Labels(np.arange(n_outputs))
    return _fed(net, targets, X, y, frozen=True)


def _fed(
    net: NeuralNet, targets: Any, X: Any, y: Any, *, frozen: bool = False
) -> DenseNet:
    """Feed a user's net in the types and shapes that its module and loss take."""
    X = own_net_input(net.module_, X)
    outputs = _outputs(net, X)
    if isinstance(targets, Values):
        if outputs[0].numel() != 1:
            raise ValueError(
                f"The module gives {outputs[0].numel()} outputs for a row; to regress "
                "on y of shape (n_samples,) it must give one."
            )
        targets = Values()  # a user's net sees plain values
        encoded = targets.encode(y).reshape(-1, *[1] * (outputs.ndim - 1))
    elif isinstance(net, NeuralNetBinaryClassifier):
        if targets.n_outputs != 2:
            raise ValueError(
                f"{type(net).__name__} takes 2 classes; y has {targets.n_outputs}."
            )
        encoded = targets.encode(y).astype(np.float32)
    else:
        encoded = targets.encode(y)
        if outputs.ndim < 2 or outputs.shape[1] < targets.n_outputs:
            raise ValueError(
                f"The module's outputs have shape {tuple(outputs.shape)} for "
                f"{len(outputs)} rows, but y has {targets.n_outputs} classes: it must "
                "give one output for each."
            )
    return DenseNet(net, targets, as_net_input(X), encoded, frozen)


def own_net_input(module: nn.Module, X: Any) -> Any:
    """Give integers as int64 to modules with an embedding, else float32.

    Parameters
    ----------
    module : nn.Module
        A user's module.
    X : ndarray or csr matrix
        Validated.

    Returns
    -------
    X : the same, converted
    """
    embeds = any(
        isinstance(child, (nn.Embedding, nn.EmbeddingBag)) for child in module.modules()
    )
    keep = embeds and X.dtype.kind in "iu"
    X = X.astype(np.int64 if keep else np.float32, copy=False)
    # A user's loader makes tensors of rows, and torch warns about memory that it must
    # not write, such as what joblib shares between workers.
    read_only = isinstance(X, np.ndarray) and not X.flags.writeable
    return X.copy() if read_only else X


def _outputs(net: NeuralNet, X: Any) -> torch.Tensor:
    """Look at the module's outputs for a row or two; lazy layers get their shape."""
    with torch.random.fork_rng(devices=[]):
        outputs = next(
            net.forward_iter(as_net_input(own_net_input(net.module_, X)[:2]))
        )
    return outputs[0] if isinstance(outputs, tuple) else outputs
