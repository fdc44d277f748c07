"""The beginning of a training run, remembered to be put back before fine-tuning."""

from copy import deepcopy
from typing import Any

from skorch import NeuralNet

from sklearn_sparse_nn.nets.host import optimizers

__all__ = ["Beginning"]


class Beginning:
    """Weights and learning rates as they are now.

    Parameters
    ----------
    net : skorch.NeuralNet
        Initialized, its callbacks begun.

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
        """Put back weights, buffers and a fresh optimizer state."""
        self._net.module_.load_state_dict(self._weights)
        for optimizer in optimizers(self._net):
            optimizer.state.clear()

    def restore_learning_rate(self) -> None:
        """Put back the optimizer's settings and start learning-rate schedules anew."""
        for optimizer, groups in zip(optimizers(self._net), self._groups, strict=True):
            for group, settings in zip(optimizer.param_groups, groups, strict=True):
                group.update(deepcopy(settings))
        for callback, state in self._schedulers:
            callback.lr_scheduler_.load_state_dict(deepcopy(state))
            callback.batch_idx_ = 0


def _settings(group: dict[str, Any]) -> dict[str, Any]:
    return {key: deepcopy(value) for key, value in group.items() if key != "params"}
