"""How far training has moved the weights, summed up while it goes on."""

from collections.abc import Mapping
from typing import Any

import torch
from skorch import NeuralNet
from skorch.callbacks import Callback
from torch import Tensor

from sklearn_sparse_nn.nets.layers import PrunableLayer

__all__ = ["Movement"]


class Movement(Callback):
    """Sums ``-g * w`` over training steps.

    Use as a context manager around training; nothing of it stays behind.

    Parameters
    ----------
    net : skorch.NeuralNet
        Initialized.
    layers : mapping of name to PrunableLayer
        The layers to watch.

    Attributes
    ----------
    total : dict of layer name to Tensor of shape (out, in, ...)
        The sums so far.
    """

    def __init__(self, net: NeuralNet, layers: Mapping[str, PrunableLayer]) -> None:
        self._net = net
        self._layers = layers
        self.total: dict[str, Tensor] = {
            name: torch.zeros_like(layer.turned(layer.weight.detach()))
            for name, layer in layers.items()
        }

    def __enter__(self) -> "Movement":
        # Last: after masks have made the gradients of what is dead zero.
        self._net.callbacks_.append(("movement", self))
        return self

    def __exit__(self, *error: object) -> None:
        callbacks = self._net.callbacks_
        callbacks[:] = [item for item in callbacks if item[1] is not self]

    @torch.no_grad()
    def on_grad_computed(self, net: NeuralNet, *args: Any, **kwargs: Any) -> None:
        """Add a step's share (skorch calls this)."""
        for name, layer in self._layers.items():
            if layer.weight.grad is not None:
                step = layer.weight.grad.to_dense() * layer.weight
                self.total[name] -= layer.turned(step)
