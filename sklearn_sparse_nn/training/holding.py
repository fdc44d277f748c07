"""Masks held while a net trains: what is pruned stays exactly zero."""

from collections.abc import Mapping
from typing import Any

import torch
from skorch import NeuralNet
from skorch.callbacks import Callback
from torch import Tensor

from sklearn_sparse_nn.nets.host import optimizers
from sklearn_sparse_nn.nets.layers import PrunableLayer

__all__ = ["MaskHolder"]


class MaskHolder(Callback):
    """Holds masks over the weights of a skorch net, and leaves no trace.

    Masking gradients alone is not enough: momentum and weight decay move weights that
    have no gradient. So pruned weights, and the optimizer's memory of them, are set to
    +0.0 after every optimizer step. Their gradients are zeroed before other callbacks
    see them, so that a clipped gradient norm counts living weights only.

    Use as a context manager around training; hooks and callback are gone afterwards.

    Parameters
    ----------
    net : skorch.NeuralNet
        Initialized.
    layers : mapping of name to PrunableLayer
        The layers under masks.
    masks : mapping of name to bool Tensor of shape (out, in, ...)
        The masks to begin with, True = lives.
    """

    def __init__(
        self,
        net: NeuralNet,
        layers: Mapping[str, PrunableLayer],
        masks: Mapping[str, Tensor],
    ) -> None:
        self._net = net
        self._layers = layers
        self._hooks: list[Any] = []
        self.hold(masks)

    def __enter__(self) -> "MaskHolder":
        self._net.callbacks_.insert(0, ("masks", self))
        for optimizer in optimizers(self._net):
            hook = optimizer.register_step_post_hook(self.after_step)
            self._hooks.append(hook)
        return self

    def __exit__(self, *error: object) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        callbacks = self._net.callbacks_
        callbacks[:] = [item for item in callbacks if item[1] is not self]

    def hold(self, masks: Mapping[str, Tensor]) -> None:
        """Hold these masks from now on, and apply them at once."""
        self.masks = dict(masks)
        self._held = []
        for name, layer in self._layers.items():
            if not bool(masks[name].all()):
                weight = layer.weight
                alive = layer.turned(masks[name]).to(weight.device)
                self._held.append((weight, alive.to(weight.dtype).contiguous()))
        self.apply()

    @torch.no_grad()
    def apply(self) -> None:
        """Zero pruned weights and the optimizer state at their places."""
        # Products with a 0/1 mask take an eighth of masked_fill_'s time. They can
        # give -0.0, which adding +0.0 makes +0.0.
        for weight, alive in self._held:
            weight.mul_(alive).add_(0.0)
            for optimizer in optimizers(self._net):
                for value in optimizer.state.get(weight, {}).values():
                    if torch.is_tensor(value) and value.shape == weight.shape:
                        value.mul_(alive)

    def bury(self) -> None:
        """Mask weights that live and are zero all the same, so that masks are zeros.

        One that grew where nothing can move it, or that a penalty has taken there.
        """
        self.hold(
            {
                name: mask & (self._layers[name].turned(weight) != 0).cpu()
                for name, mask in self.masks.items()
                if (weight := self._layers[name].weight.detach()) is not None
            }
        )

    def on_grad_computed(self, net: NeuralNet, *args: Any, **kwargs: Any) -> None:
        """Zero the gradients of pruned weights (skorch calls this)."""
        for weight, alive in self._held:
            if weight.grad is not None and not weight.grad.is_sparse:
                weight.grad.mul_(alive)
                # A penalty such as a group's norm has no slope at zero: 0 * NaN.
                if not torch.isfinite(weight.grad.sum()):
                    weight.grad.masked_fill_(alive == 0, 0.0)

    def after_step(self, *_: Any) -> None:
        """Apply the masks (torch calls this after an optimizer's step)."""
        self.apply()

    def __reduce__(self) -> tuple[Any, ...]:
        return _Released, ()  # a checkpoint of the whole net holds no masks

    def sparsity(self) -> float:
        """Give the fraction of masked weights, over all layers."""
        size = sum(mask.numel() for mask in self.masks.values())
        return 1 - sum(int(mask.sum()) for mask in self.masks.values()) / size


class _Released(Callback):
    """What is left of a holder in a pickle that was made while it held."""

    def after_step(self, *_: Any) -> None:
        pass
