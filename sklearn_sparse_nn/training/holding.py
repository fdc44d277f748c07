"""Masks that keep pruned weights at exactly zero while a net trains."""

from collections.abc import Mapping
from operator import is_
from typing import Any

import torch
from skorch import NeuralNet
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from sklearn_sparse_nn.nets.callbacks import InnerCallback
from sklearn_sparse_nn.nets.host import optimizers
from sklearn_sparse_nn.nets.layers import PrunableLayer, prunable_layers, zero_mask

__all__ = ["MaskHolder", "check_zeros"]


class MaskHolder(InnerCallback):
    """Keep the pruned weights of a skorch net at zero during training.

    Masking gradients alone is not enough: momentum and weight decay move weights that
    have no gradient. So pruned weights, and the optimizer's state for them, are set to
    +0.0 after every optimizer step. Their gradients are zeroed before other callbacks
    see them, so that a clipped gradient norm counts only the remaining weights.

    A context manager for training; it removes its hooks and callback afterwards.

    Parameters
    ----------
    net : skorch.NeuralNet
        An initialized net.
    layers : mapping of name to PrunableLayer
        The layers that have masks.
    masks : mapping of name to bool Tensor of shape (out, in, ...)
        The first masks, True for a weight that remains.
    """

    def __init__(
        self,
        net: NeuralNet,
        layers: Mapping[str, PrunableLayer],
        masks: Mapping[str, Tensor],
    ) -> None:
        self._net = net
        self._layers = layers
        self._weights = {name: layer.weight for name, layer in layers.items()}
        self._optimizers: list[torch.optim.Optimizer] = []
        self._hooks: list[RemovableHandle] = []
        self.hold(masks)

    def __enter__(self) -> "MaskHolder":
        self._net.callbacks_.insert(0, ("masks", self))
        self._hook_optimizers()
        return self

    def __exit__(self, *error: object) -> None:
        self._unhook()
        callbacks = self._net.callbacks_
        callbacks[:] = [item for item in callbacks if item[1] is not self]

    def _hook_optimizers(self) -> None:
        """Follow the net's optimizers, which callbacks may replace."""
        now = optimizers(self._net)
        if len(now) == len(self._optimizers) and all(map(is_, now, self._optimizers)):
            return
        self._unhook()
        self._optimizers = now
        for optimizer in now:
            self._hooks.append(optimizer.register_step_post_hook(self.after_step))

    def _unhook(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        self._optimizers = []

    def check(self, phase: str) -> None:
        """Check that the net still has the weights whose masks are held.

        Parameters
        ----------
        phase : str
            The phase that an error message names.

        Raises
        ------
        RuntimeError
            A weight was replaced.
        """
        found = prunable_layers(self._net.module_)
        for name, weight in self._weights.items():
            if name not in found or found[name].weight is not weight:
                raise RuntimeError(
                    f"The weight of layer {name!r} was replaced in the {phase} phase, "
                    "by a callback such as one that calls net.set_params(module__...). "
                    "Masks cannot be held in it. Change weights in place, as "
                    "load_state_dict does, or replace the module in on_train_begin."
                )

    def follow(self) -> None:
        """Hold the masks in the layers that the net has now.

        A callback may have replaced the module when training ended, by a mean of
        weights, say.

        Raises
        ------
        RuntimeError
            A layer is missing, or has another shape.
        """
        found = prunable_layers(self._net.module_)
        for name, mask in self.masks.items():
            layer = found.get(name)
            if layer is None or layer.turned(layer.weight).shape != mask.shape:
                raise RuntimeError(
                    f"The module was replaced when training ended, and layer {name!r} "
                    "of the new one is missing or has another shape, so that no mask "
                    "fits. A callback's on_train_end must keep the layers."
                )
        self._layers = {name: found[name] for name in self.masks}
        self._weights = {name: layer.weight for name, layer in self._layers.items()}
        self.hold(self.masks)

    def hold(self, masks: Mapping[str, Tensor]) -> None:
        """Replace the masks, and apply the new ones at once."""
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
        """Zero pruned weights and the optimizer's state for them."""
        # Products with a 0/1 mask take an eighth of masked_fill_'s time. They can
        # give -0.0, which adding +0.0 makes +0.0.
        for weight, alive in self._held:
            weight.mul_(alive).add_(0.0)
            for optimizer in optimizers(self._net):
                for value in optimizer.state.get(weight, {}).values():
                    if torch.is_tensor(value) and value.shape == weight.shape:
                        value.mul_(alive)

    def mask_zeros(self) -> None:
        """Mask all weights that are zero, so that masks and zeros agree.

        A weight outside the masks is zero if it was regrown and got no gradient, or if
        a penalty has set it to zero.
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
        self._hook_optimizers()
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
        return _Released, ()  # a checkpoint of the whole net has no masks

    def sparsity(self) -> float:
        """Return the fraction of masked weights, over all layers."""
        size = sum(mask.numel() for mask in self.masks.values())
        return 1 - sum(int(mask.sum()) for mask in self.masks.values()) / size


class _Released(InnerCallback):
    """A placeholder in pickles of a net that were made during training."""

    def after_step(self, *_: Any) -> None:
        """Apply no masks (torch calls this after an optimizer's step)."""


def check_zeros(
    module: nn.Module, masks: Mapping[str, Tensor], *, exactly: bool = True
) -> None:
    """Check that the zeros of a module are those of its masks: the last of all checks.

    Parameters
    ----------
    module : nn.Module
        The module when training has ended.
    masks : mapping of layer name to bool Tensor of shape (out, in, ...)
        The masks, True for a weight that remains.
    exactly : bool, default=True
        Whether no other weight may be zero, either.

    Raises
    ------
    RuntimeError
        They differ.
    """
    found = prunable_layers(module)
    for name, alive in zero_mask({name: found[name] for name in masks}).items():
        wrong = alive != masks[name] if exactly else alive & ~masks[name]
        if wrong.any():
            raise RuntimeError(
                f"{int(wrong.sum())} weights of layer {name!r} are not zero exactly "
                "where its mask says. A callback, or the net's own code, has changed "
                "them when training had ended. Nothing is fitted."
            )
