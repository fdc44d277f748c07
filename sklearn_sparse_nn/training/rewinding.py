"""Rewinding: weights and learning rates from earlier in the training."""

from copy import deepcopy
from typing import Any

from skorch import NeuralNet

from sklearn_sparse_nn.nets.host import optimizers

__all__ = ["Beginning"]


class Beginning:
    """Store the present weights and learning rates, to restore them later.

    Parameters
    ----------
    net : skorch.NeuralNet
        An initialized net whose ``on_train_begin`` was called.

    References
    ----------
    Frankle and Carbin 2019, "The Lottery Ticket Hypothesis" (weights);
    Renda et al. 2020, "Comparing Rewinding and Fine-tuning", section 3 (both).
    """

    def __init__(self, net: NeuralNet) -> None:
        self._net = net
        self._weights = deepcopy(net.module_.state_dict())
        self._groups = [
            [_settings(group) for group in optimizer.param_groups]
            for optimizer in optimizers(net)
        ]
        self._schedulers = [
            (callback, deepcopy(callback.lr_scheduler_.state_dict()))
            for _, callback in net.callbacks_
            if getattr(callback, "lr_scheduler_", None) is not None
        ]

    def restore_weights(self) -> None:
        """Restore weights and buffers, and clear the optimizer's state."""
        self._net.module_.load_state_dict(self._weights)
        for optimizer in optimizers(self._net):
            optimizer.state.clear()

    def restore_learning_rate(self) -> None:
        """Restore the optimizer's settings and the state of learning-rate schedules."""
        for optimizer, groups in zip(optimizers(self._net), self._groups, strict=True):
            for group, settings in zip(optimizer.param_groups, groups, strict=True):
                group.update(deepcopy(settings))
        for callback, state in self._schedulers:
            callback.lr_scheduler_.load_state_dict(deepcopy(state))
            callback.batch_idx_ = 0


def _settings(group: dict[str, Any]) -> dict[str, Any]:
    """Copy a parameter group's settings, without its parameters."""
    return {key: deepcopy(value) for key, value in group.items() if key != "params"}
