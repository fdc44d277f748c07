"""The learning rates of a training run, scaled in its middle."""

from collections.abc import Iterator
from typing import Any

from skorch import NeuralNet

from sklearn_sparse_nn.nets.host import inner_schedulers, optimizers

__all__ = ["scale_learning_rates"]

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


def _schedulers(net: NeuralNet) -> Iterator[Any]:
    for _, callback in net.callbacks_:
        scheduler = getattr(callback, "lr_scheduler_", None)
        if scheduler is not None:
            yield from inner_schedulers(scheduler)
