"""Callbacks of a net as a fit takes them: copies, and none that cannot be copied."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any, TypeVar

import cloudpickle
from sklearn.base import clone
from skorch import NeuralNet
from skorch.callbacks import Callback

from sklearn_sparse_nn.nets.seeding import is_ours

__all__ = [
    "InnerCallback",
    "clone_net",
    "clone_without",
    "copy_callbacks",
    "refuse_to_pickle",
]

_Estimator = TypeVar("_Estimator")


class InnerCallback(Callback):
    """A callback of this package's own, which has no parameters.

    ``net.get_params()`` asks all callbacks, and would else find the net in it.
    """

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return no parameters."""
        return {}


def clone_net(net: _Estimator) -> _Estimator:
    """Clone a net, with copies of callbacks that cannot be cloned.

    Parameters
    ----------
    net : skorch.NeuralNet, TabularNet, pruner or FrozenEstimator
        A net, which is not changed.

    Returns
    -------
    net : the same class
        Not initialized, unless it is frozen.
    """

    def plain() -> _Estimator:
        cloned: _Estimator = clone(net)
        return cloned

    if not isinstance(net, NeuralNet):  # the others know how they are cloned
        return plain()
    return clone_without(net, "callbacks", plain, copy_callbacks)


def clone_without(
    estimator: _Estimator,
    name: str,
    plain: Callable[[], _Estimator],
    copy: Callable[[Any], Any],
) -> _Estimator:
    """Clone an estimator; where that fails, clone it without one of its parameters.

    Parameters
    ----------
    estimator : estimator
        The estimator, which is not changed.
    name : str
        The name of the parameter.
    plain : callable
        The function that clones it.
    copy : callable
        The function that copies the parameter.

    Returns
    -------
    estimator : estimator
        Not fitted.
    """
    try:
        return plain()
    except Exception:  # what a user's __init__ may raise
        value = getattr(estimator, name)
        if value is None:
            raise
        bare = object.__new__(type(estimator))
        vars(bare).update(vars(estimator), **{name: None})
        cloned: _Estimator = clone(bare)
        vars(cloned)[name] = copy(value)
        return cloned


def copy_callbacks(callbacks: Any) -> Any:
    """Copy callbacks, so that a fit does not change a user's own.

    A callback is cloned; if it cannot be, as where ``__init__`` sets an attribute that
    is no parameter, it is copied with its attributes. An attribute that cannot be
    copied, such as a lock, an open file or a writer of logs, is shared, as in the net's
    own ``fit``.

    Parameters
    ----------
    callbacks : list, str or None
        The parameter of a net: callbacks, classes, and pairs of a name and one of them.

    Returns
    -------
    callbacks : list, str or None
    """
    if not isinstance(callbacks, (list, tuple)):
        return callbacks
    memo: dict[int, Any] = {}
    return [
        (item[0], _copy_of(item[1], memo))
        if isinstance(item, tuple)
        else _copy_of(item, memo)
        for item in callbacks
    ]


def refuse_to_pickle(owner: str, *nets: Any) -> None:
    """Raise an error that names a callback that cannot be pickled, nor copied.

    Parameters
    ----------
    owner : str
        What is pickled.
    *nets : skorch.NeuralNet, TabularNet or None
        The nets that are part of it.

    Raises
    ------
    TypeError
        A callback has an attribute that cannot be pickled.
    """
    for net in nets:
        callbacks = getattr(net, "callbacks_", None) or getattr(net, "callbacks", None)
        for item in callbacks if isinstance(callbacks, list) else ():
            callback = item[1] if isinstance(item, tuple) else item
            if isinstance(callback, type) or is_ours(callback):
                continue
            for name, value in getattr(callback, "__dict__", {}).items():
                error = _pickling_error(value)
                if error is not None and _pickling_error(callback) is not None:
                    raise TypeError(
                        f"{owner} cannot be pickled or copied: its callback "
                        f"{type(callback).__name__} has an attribute {name!r} that "
                        f"cannot be ({error}). Take the callback out of the net, or "
                        "give it a __getstate__ that leaves the attribute out."
                    ) from error


def _copy_of(callback: Any, memo: dict[int, Any]) -> Any:
    if isinstance(callback, type):
        return callback
    try:
        return clone(callback, safe=False)
    except Exception:  # what a user's __init__ may raise
        return _copied(callback, memo, is_callback=True)


def _copied(value: Any, memo: dict[int, Any], *, is_callback: bool = False) -> Any:
    """Copy a value and what it holds; share what cannot be copied."""
    tried = dict(memo)  # a copy that fails leaves unfinished objects there
    try:
        copy = deepcopy(value, tried)
        memo.update(tried)
        return copy
    except Exception:  # a lock, an open file, a generator, ...
        if type(value) is dict:
            return {key: _copied(item, memo) for key, item in value.items()}
        if type(value) in (list, tuple):
            return type(value)(_copied(item, memo) for item in value)
        if not is_callback:
            return value
        copy = object.__new__(type(value))
        vars(copy).update(_copied(vars(value), memo))
        return copy


def _pickling_error(value: Any) -> Exception | None:
    try:
        cloudpickle.dumps(value)
    except Exception as error:  # pickling anything may fail in any way
        try:
            deepcopy(value)
        except Exception:
            return error
    return None
