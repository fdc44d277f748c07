"""The learning rates of a training run, scaled in its middle."""

import warnings
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import torch
from skorch import NeuralNet
from skorch.callbacks import LRScheduler
from torch.optim import lr_scheduler

from sklearn_sparse_nn.nets.host import inner_schedulers, optimizers

__all__ = ["check_schedules", "scale_learning_rates"]

#: How many steps are tried out at most: a tenth of a second.
_MOST_STEPS = 10_000
_OF_GROUPS = ("lr", "initial_lr", "max_lr", "min_lr")
_OF_SCHEDULERS = ("base_lrs", "max_lrs")


def scale_learning_rates(net: NeuralNet, factor: float) -> None:
    """Multiply the learning rates of a net, also those that schedules lead to.

    Parameters
    ----------
    net : skorch.NeuralNet
        A net in training. Its schedules go on from where they are.
    factor : float
        The factor, above 0.

    References
    ----------
    Han et al. 2015, "Learning both Weights and Connections for Efficient Neural
    Networks", section 4: a pruned net is trained on at a tenth of its learning rate,
    or less.
    """
    for optimizer in optimizers(net):
        for group in optimizer.param_groups:
            for name in _OF_GROUPS:
                if name in group:
                    group[name] *= factor
    for scheduler in _schedulers(net):
        for name in _OF_SCHEDULERS:
            if hasattr(scheduler, name):
                rates = getattr(scheduler, name)
                setattr(scheduler, name, [rate * factor for rate in rates])


def check_schedules(
    net: NeuralNet, n_epochs: int, n_batches: int | None, said: str
) -> None:
    """Refuse a schedule of learning rates that ends before the training does.

    A copy of the schedule takes all the steps.

    Parameters
    ----------
    net : skorch.NeuralNet
        A net whose ``on_train_begin`` was called.
    n_epochs : int
        The number of epochs.
    n_batches : int or None
        The number of batches of an epoch; None where it is not known.
    said : str
        The epochs of the phases, for the message.

    Raises
    ------
    ValueError
        The schedule fails at one of the steps.
    """
    for name, callback in net.callbacks_:
        scheduler = getattr(callback, "lr_scheduler_", None)
        if not isinstance(callback, LRScheduler) or not _may_end(scheduler):
            continue
        by_epoch = callback.step_every == "epoch"
        n_steps = n_epochs * (1 if by_epoch else n_batches or 0)
        failed = _first_failure(scheduler, n_steps)
        if failed is not None:
            step, error = failed
            batches = "" if by_epoch else f" of {n_batches} batches"
            raise ValueError(
                f"The learning-rate schedule {name!r} ({type(scheduler).__name__}) "
                f"ends before the training does: it fails at step {step} of {n_steps} "
                f"({type(error).__name__}: {error}). The fit trains for {said}"
                f"{batches}. Make the schedule for {n_steps} steps, or choose one that "
                "does not end."
            ) from error


def _may_end(scheduler: Any) -> bool:
    """Check whether a schedule may have a last step; most of torch's do not."""
    ends = (
        lr_scheduler.OneCycleLR,
        lr_scheduler.LambdaLR,
        lr_scheduler.MultiplicativeLR,
        lr_scheduler.SequentialLR,
        lr_scheduler.ChainedScheduler,
    )
    if scheduler is None or isinstance(scheduler, lr_scheduler.ReduceLROnPlateau):
        return False
    known = type(scheduler).__module__.startswith(("torch.", "skorch."))
    return isinstance(scheduler, ends) or not known


def _first_failure(scheduler: Any, n_steps: int) -> tuple[int, Exception] | None:
    """Take steps with a copy of a schedule; return where it fails, and how."""
    total = getattr(scheduler, "total_steps", n_steps)
    if n_steps > total:
        return total + 1, ValueError(f"total_steps={total}")
    optimizer = getattr(scheduler, "optimizer", None)
    groups = getattr(optimizer, "param_groups", [])
    weights = [weight for group in groups for weight in group["params"]]
    memo: dict[int, Any] = {id(weight): torch.zeros(1) for weight in weights}
    try:
        copy = deepcopy(scheduler, memo)
    except Exception:  # somebody's schedule that cannot be copied
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of steps without an optimizer's
        for step in range(min(n_steps, _MOST_STEPS)):
            try:
                copy.step()
            except Exception as error:  # a user's function may raise anything
                return step + 1, error
    return None


def _schedulers(net: NeuralNet) -> Iterator[Any]:
    for _, callback in net.callbacks_:
        scheduler = getattr(callback, "lr_scheduler_", None)
        if scheduler is not None:
            yield from inner_schedulers(scheduler)
