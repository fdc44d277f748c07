"""Movement scores: products of weights and gradients, summed during training."""

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from sklearn_sparse_nn.nets.layers import PrunableLayer

__all__ = ["Movement"]


class Movement:
    """Sum ``-g * w`` over the backward passes of training.

    A context manager for training; it removes its hooks afterwards.

    Parameters
    ----------
    layers : mapping of name to PrunableLayer
        The layers whose weights are summed over.
    so_far : mapping of name to Tensor of shape (out, in, ...), optional
        The sums of an earlier part of the same training; the new ones are added.

    Attributes
    ----------
    total : dict of layer name to Tensor of shape (out, in, ...)
        The sums so far.
    """

    def __init__(
        self,
        layers: Mapping[str, PrunableLayer],
        so_far: Mapping[str, Tensor] | None = None,
    ) -> None:
        self._layers = layers
        self._hooks: list[RemovableHandle] = []
        self.total: dict[str, Tensor] = dict(so_far or {}) or {
            name: torch.zeros_like(layer.turned(layer.weight.detach()))
            for name, layer in layers.items()
        }

    def __enter__(self) -> "Movement":
        for name, layer in self._layers.items():
            if layer.weight.requires_grad:
                hook = layer.weight.register_hook(partial(self._add, name))
                self._hooks.append(hook)
        return self

    def __exit__(self, *error: object) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    @torch.no_grad()
    def _add(self, name: str, grad: Tensor) -> None:
        layer = self._layers[name]
        self.total[name] -= layer.turned(grad.to_dense() * layer.weight)
