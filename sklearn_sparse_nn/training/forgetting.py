"""Earlier bests, forgotten when the masks change."""

from collections.abc import Iterator
from inspect import signature
from typing import Any

import numpy as np
from skorch import NeuralNet
from skorch.callbacks import Callback, EarlyStopping

from sklearn_sparse_nn.nets.host import inner_schedulers

__all__ = ["forget_best"]

_OF_A_BEST = ("best", "misses", "dynamic_threshold", "num_bad_epochs")


def forget_best(net: NeuralNet, X: Any = None, y: Any = None) -> None:
    """Reset what compares epochs with an earlier best, as if none had been trained.

    A dense net's loss is no measure of a sparse one: a schedule would lower the
    learning rate, and a callback would stop, because of epochs that cannot come back.

    Parameters
    ----------
    net : skorch.NeuralNet
        A net in training. Reset are skorch's callbacks, learning-rate schedules such as
        ``ReduceLROnPlateau``, and callbacks of a user that show skorch's convention: an
        attribute such as ``best_score_``, ``best_epoch_``, ``misses_`` or
        ``dynamic_threshold_``, which ``on_train_begin`` or ``initialize`` sets.
    X, y : arrays or None, default=None
        The training data, for ``on_train_begin``.
    """
    for _, callback in net.callbacks_:
        for scheduler in _plateaus(callback):
            scheduler.best = scheduler.mode_worse
            scheduler.num_bad_epochs = scheduler.cooldown_counter = 0
        names = _names_of_a_best(callback)
        if not names:
            continue
        if _resets_in_on_train_begin(callback):
            callback.on_train_begin(net, X=X, y=y)
        elif not _is_skorchs(type(callback).initialize):
            callback.initialize()
        _forget_values(callback, names)


def _names_of_a_best(callback: Callback) -> list[str]:
    """List the attributes that remember a best, and are no parameters."""
    parameters = signature(type(callback)).parameters
    return [
        name
        for name in vars(callback)
        if name.strip("_").startswith(_OF_A_BEST) and name not in parameters
    ]


def _resets_in_on_train_begin(callback: Callback) -> bool:
    """Check whether ``on_train_begin`` starts anew; a score's takes up the history."""
    method = type(callback).on_train_begin
    return isinstance(callback, EarlyStopping) or not _is_skorchs(method)


def _is_skorchs(method: Any) -> bool:
    return method.__module__.startswith("skorch.")


def _forget_values(callback: Callback, names: list[str]) -> None:
    """Set the best values to the worst there are, and drop the best weights."""
    worst = np.inf if getattr(callback, "lower_is_better", True) else -np.inf
    for name in names:
        value = getattr(callback, name, None)
        if isinstance(value, (float, np.floating)):
            setattr(callback, name, worst)
        elif isinstance(value, dict):
            setattr(callback, name, None)


def _plateaus(callback: Callback) -> Iterator[Any]:
    """Find schedules that wait for a better score, also inside of others."""
    scheduler = getattr(callback, "lr_scheduler_", None)
    for inner in [] if scheduler is None else inner_schedulers(scheduler):
        if hasattr(inner, "num_bad_epochs") and hasattr(inner, "mode_worse"):
            yield inner
