"""The net that a pruner starts from: built here, cloned from a user's, or frozen."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted
from skorch import NeuralNet, NeuralNetBinaryClassifier
from skorch.callbacks import Initializer
from torch import Tensor, nn

from sklearn_sparse_nn._compat import check_parameters
from sklearn_sparse_nn.dense.base import NET_ESTIMATORS, as_net_input
from sklearn_sparse_nn.dense.tabular import TabularNet
from sklearn_sparse_nn.nets.callbacks import clone_net
from sklearn_sparse_nn.nets.copies import copy_module, first_outputs
from sklearn_sparse_nn.nets.host import part_names
from sklearn_sparse_nn.nets.seeding import is_ours
from sklearn_sparse_nn.nets.targets import Labels, Values

__all__ = ["DenseNet", "NetFormat", "dense_net", "is_own_net", "may_draw", "net_rows"]


@dataclass(frozen=True)
class NetFormat:
    """The types and shapes that a net takes rows and targets in.

    Parameters
    ----------
    targets : Labels or Values
        What its outputs stand for.
    own_dtype : numpy dtype or None
        The type of X that a user's own net takes; None for a TabularNet.
    y_dtype : numpy dtype
        The type of the encoded targets.
    y_ndim : int
        Their number of dimensions.
    row_shape : tuple of int
        The shape of a row.
    names : ndarray of str or None, default=None
        The names of the columns, where they have names.
    """

    targets: Labels | Values
    own_dtype: np.dtype | None
    y_dtype: np.dtype
    y_ndim: int
    row_shape: tuple[int, ...]
    names: np.ndarray | None = None

    def rows(self, X: Any) -> Any:
        """Convert validated rows."""
        return net_rows(X, self.own_dtype)

    def encode(self, y: np.ndarray) -> np.ndarray:
        """Encode targets."""
        encoded = self.targets.encode(y).astype(self.y_dtype)
        return encoded.reshape(-1, *[1] * (self.y_ndim - 1))


@dataclass
class DenseNet:
    """An initialized net, and training data in its format.

    Parameters
    ----------
    net : skorch.NeuralNet
        Initialized, nothing of it shared with the user's objects.
    format : NetFormat
        How it takes rows and targets.
    X, y : arrays
        The training data in this format.
    frozen : bool
        Whether it is trained already, so that there is no dense phase.
    """

    net: NeuralNet
    format: NetFormat
    X: Any
    y: np.ndarray
    frozen: bool = False


Begin = Callable[[NeuralNet, Any, np.ndarray], None]
Feed = Callable[[NeuralNet, Any, Any, Any], DenseNet]


def is_own_net(estimator: Any) -> bool:
    """Check whether a net is a user's own skorch net, frozen or not.

    Parameters
    ----------
    estimator : TabularNet, pruner, skorch.NeuralNet, FrozenEstimator or None
        The `estimator` of a pruner.
    """
    if isinstance(estimator, FrozenEstimator):
        estimator = estimator.estimator
    of_fitted_pruner = getattr(estimator, "_own_dtype", None)
    return of_fitted_pruner is not None or isinstance(estimator, NeuralNet)


def may_draw(estimator: Any) -> bool:
    """Check whether code in a net may draw from the global generators.

    Parameters
    ----------
    estimator : TabularNet, skorch.NeuralNet, FrozenEstimator or None
        The `estimator` of a pruner.
    """
    if is_own_net(estimator):
        return True
    if isinstance(estimator, FrozenEstimator):
        net = getattr(estimator.estimator, "net_", None)
        return net is not None and not is_ours(net.optimizer, net.callbacks)
    return estimator is not None and not is_ours(
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
    begin: Begin | None = None,
    names: np.ndarray | None = None,
) -> DenseNet:
    """Make the net that a pruner starts from.

    Parameters
    ----------
    estimator : TabularNet, skorch.NeuralNet, FrozenEstimator or None
        The `estimator` of the pruner; never changed.
    default : type
        The TabularNet class of the pruner's kind.
    X, y : arrays
        Validated training data.
    random_state : int, RandomState instance or None
        The pruner's; an estimator's own comes first.
    classes : ndarray of shape (n_classes,) or None, default=None
        Labels that the net is to know, where not all of them are in `y`.
    begin : callable or None, default=None
        The function that tells the net and its callbacks of the beginning of training,
        called with the net and the rows and targets for it. Callbacks may replace the
        module, so its outputs and types are looked at afterwards. None if the net is
        not to be trained.
    names : ndarray of str or None, default=None
        The names of the columns of `X`, if they have names.

    Returns
    -------
    dense : DenseNet
    """
    dense = _dense_net(estimator, default, X, y, random_state, classes, begin)
    dense.format = replace(dense.format, names=names)
    return dense


def _dense_net(
    estimator: Any,
    default: type[TabularNet],
    X: Any,
    y: Any,
    random_state: Any,
    classes: np.ndarray | None,
    begin: Begin | None,
) -> DenseNet:
    if estimator is None:
        estimator = default()
    frozen = isinstance(estimator, FrozenEstimator)
    inner = estimator.estimator if frozen else estimator
    _check_kind(inner, default)
    if frozen:
        return _from_frozen(inner, default, X, y, begin)
    targets = _learn(default, y if classes is None else classes)
    if isinstance(inner, NeuralNet):
        net = clone_net(inner).initialize()
        return _begun(_fed, net, targets, X, y, begin)
    inner = clone(inner)
    if inner.random_state is None:
        inner.set_params(random_state=random_state)
    check_parameters(inner)
    net = inner.build_net(X, y, targets).initialize()
    return _begun(_tabular, net, targets, X, y, begin)


def _begun(
    feed: Feed, net: NeuralNet, targets: Any, X: Any, y: Any, begin: Begin | None
) -> DenseNet:
    """Start the training of a net, and convert data to what its module then takes."""
    if begin is not None:
        begin(net, *_first_data(feed, net, targets, X, y))
    return feed(net, targets, X, y)


def _first_data(
    feed: Feed, net: NeuralNet, targets: Any, X: Any, y: Any
) -> tuple[Any, np.ndarray]:
    """Return data for callbacks at the beginning, also where the module fits no rows.

    Its width may be set by one of them.
    """
    try:
        dense = feed(net, targets, X, y)
    except Exception:  # a module of another width may fail in any way
        encoded = targets.encode(y)
        return net_rows(X, np.dtype(np.float32)), encoded
    return dense.X, dense.y


def _learn(default: type[TabularNet], y: Any) -> Labels | Values:
    return default()._learn_targets(y)


def _check_kind(inner: Any, default: type[TabularNet]) -> None:
    if isinstance(getattr(inner, "best_estimator_", None), Pipeline):
        raise TypeError(
            f"A FrozenEstimator around a {type(inner).__name__} that has found a "
            "Pipeline was given; a pruner takes one around the last step of its "
            "best_estimator_, and the rows that reach it there."
        )
    if not isinstance(inner, (NeuralNet, *NET_ESTIMATORS)):
        raise TypeError(
            f"A FrozenEstimator around a {type(inner).__name__} was given; a pruner "
            "takes one around a fitted skorch net, TabularNet or pruner. A net that is "
            "a step of a Pipeline can be taken out of it."
        )
    wanted, other = is_classifier, is_regressor
    if is_regressor(default()):
        wanted, other = other, wanted
    if (isinstance(inner, NET_ESTIMATORS) and not wanted(inner)) or other(inner):
        raise TypeError(
            f"estimator is a {type(inner).__name__}, but this pruner needs a "
            f"{'classifier' if wanted is is_classifier else 'regressor'} such as "
            f"{default.__name__}; use the other pruner for it."
        )


def _from_frozen(
    inner: Any, default: type[TabularNet], X: Any, y: Any, begin: Begin | None
) -> DenseNet:
    if isinstance(inner, NeuralNet) and not inner.initialized_:
        raise NotFittedError(
            f"The frozen {type(inner).__name__} is not fitted yet. Fit it first, or "
            "give it unfrozen to have it trained here."
        )
    check_is_fitted(inner)
    net = _trained_copy(inner if isinstance(inner, NeuralNet) else inner.net_)
    feed = _fed
    if isinstance(inner, NET_ESTIMATORS):
        targets = inner.targets_
        feed = _fed if is_own_net(inner) else _tabular
    else:
        targets = _learn(default, y)
        if isinstance(targets, Labels):
            # A net of its own was trained on class numbers: they are its labels.
            outputs = _outputs_of_trained(net, X)
            n_outputs = outputs.shape[1] if outputs.ndim > 1 else 2
            targets = Labels(np.arange(max(2, n_outputs)))
    if begin is not None:
        begin = partial(_begin_trained, begin)
    dense = _begun(feed, net, targets, X, y, begin)
    return replace(dense, frozen=True)


def _outputs_of_trained(net: NeuralNet, X: Any) -> Tensor:
    """Compute outputs for two rows, or say that they are not what was trained on."""
    try:
        return first_outputs(net, net_rows(X, input_dtype(net, X)))
    except RuntimeError as error:
        raise ValueError(
            f"The frozen {type(net).__name__} cannot predict rows of X, of shape "
            f"{X.shape}: {error}. Give it rows like those that it was trained on."
        ) from error


def _begin_trained(begin: Begin, net: NeuralNet, X: Any, y: Any) -> None:
    """Start the training of a net that keeps what it has learnt.

    Callbacks that set weights anew have done their work before the net was frozen.
    """
    net.callbacks_ = [
        item for item in net.callbacks_ if not isinstance(item[1], Initializer)
    ]
    trained = {
        name: deepcopy(part.state_dict())
        for name in part_names(net)
        if isinstance(part := getattr(net, name), nn.Module)
    }
    begin(net, X, y)
    for name, state in trained.items():
        try:
            getattr(net, name).load_state_dict(state)
        except RuntimeError as error:
            raise ValueError(
                f"A callback of the frozen net has replaced {name} when training "
                f"began, and its trained weights do not fit the new one: {error}. Take "
                "the callback out, or give the net unfrozen."
            ) from error


def _tabular(net: NeuralNet, targets: Any, X: Any, y: Any) -> DenseNet:
    """Build the dense net of a TabularNet, which takes validated rows as they are."""
    encoded = targets.encode(y)
    format = NetFormat(targets, None, encoded.dtype, encoded.ndim, X.shape[1:])
    return DenseNet(net, format, as_net_input(X), encoded)


def _trained_copy(net: NeuralNet) -> NeuralNet:
    """Copy a trained net; its optimizer, callbacks and history begin anew."""
    net.check_training_readiness()
    copy = clone_net(net).initialize()
    for name in part_names(copy):
        part = getattr(net, name)
        is_module = isinstance(part, nn.Module)
        setattr(copy, name, copy_module(part) if is_module else deepcopy(part))
    copy.initialize_optimizer()
    return copy


def _fed(net: NeuralNet, targets: Any, X: Any, y: Any) -> DenseNet:
    """Feed a user's net in the types and shapes that its module and loss take."""
    if not isinstance(getattr(net, "module_", None), nn.Module):
        raise TypeError(
            f"{type(net).__name__} has no module_ after initialize(); a pruner looks "
            "for the weights to prune there."
        )
    X = net_rows(X, input_dtype(net, X))
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
    format = NetFormat(targets, X.dtype, encoded.dtype, encoded.ndim, X.shape[1:])
    return DenseNet(net, format, X, encoded)


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
        first_outputs(net, net_rows(X, own_float))
    except (RuntimeError, TypeError):
        return np.dtype(np.int64)
    return own_float


def net_rows(X: Any, own_dtype: np.dtype | None) -> Any:
    """Convert validated rows to what a net takes, refusing integers of fractions.

    Parameters
    ----------
    X : ndarray or csr array of shape (n_samples, n_features)
        Validated rows.
    own_dtype : numpy dtype or None
        The type that a user's own net takes; None for a TabularNet, which takes the
        rows as they are.

    Returns
    -------
    X : ndarray or csr_matrix of shape (n_samples, n_features)
        Converted, and writable for a user's own net.

    Raises
    ------
    ValueError
        The net looks up whole numbers in an embedding, and X has fractions.
    """
    if own_dtype is None:
        return as_net_input(X)
    converted = X.astype(own_dtype, copy=False)
    if own_dtype.kind == "i" and X.dtype.kind == "f" and (converted != X).sum():
        raise ValueError(
            "The net looks its inputs up in an embedding, so X must have whole "
            "numbers, as OrdinalEncoder gives; it has fractions."
        )
    # A user's loader makes tensors of rows. torch warns about memory that it must not
    # write, such as what joblib shares between workers, and takes no negative strides.
    if isinstance(converted, np.ndarray):
        backwards = any(stride < 0 for stride in converted.strides)
        if backwards or not converted.flags.writeable:
            converted = converted.copy()
    return as_net_input(converted)


def _numpy_dtype(dtype: torch.dtype) -> np.dtype:
    """Return numpy's name of a torch dtype; bfloat16 is fed as float32."""
    if dtype is torch.bfloat16:
        return np.dtype(np.float32)
    return torch.empty(0, dtype=dtype).numpy().dtype
