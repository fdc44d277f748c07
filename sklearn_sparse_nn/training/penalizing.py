"""Sparsity penalties during training, with a strength that reaches a target."""

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from operator import is_
from typing import Any

import torch
from skorch import NeuralNet
from skorch.callbacks import Callback
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from sklearn_sparse_nn.core.granularity import Granularity, group_sizes
from sklearn_sparse_nn.core.penalties import (
    chance_alive,
    mean_gate,
    sample_gate,
    shrink,
)
from sklearn_sparse_nn.nets.callbacks import InnerCallback
from sklearn_sparse_nn.nets.host import optimizers
from sklearn_sparse_nn.nets.layers import PrunableLayer

__all__ = ["L0Penalty", "L1Penalty", "Penalty"]

#: How fast the strength grows, per step and missing fraction of zeros.
_GAIN = 1.0
#: The initial value of a gate (open with probability 0.99), and its step size.
_OPEN, _GATE_STEP = 2.5, 0.05


class Penalty(InnerCallback):
    """Drive weights to zero until a target fraction of them is zero.

    The target rises linearly from the present fraction of zeros. Below the target, the
    strength grows, at a rate proportional to the missing fraction; above it, the
    strength falls, and clearly above it there is no penalty at all. The strength is
    relative to the changes of a training step and at most 1: a stronger penalty would
    set all weights to zero, important or not. If the target is not reached, the pruning
    event sets the missing weights to zero.

    A context manager for training; it removes its hooks and callback afterwards.

    Parameters
    ----------
    net : skorch.NeuralNet
        An initialized net.
    layers : mapping of name to PrunableLayer
        The layers that are penalized.
    granularity : Granularity
        The groups of weights that become zero together.
    """

    strength = 0.05
    #: How far the fraction of zeros may be above the target before the penalty stops.
    slack = 0.0

    def __init__(
        self,
        net: NeuralNet,
        layers: Mapping[str, PrunableLayer],
        granularity: Granularity,
    ) -> None:
        self._net = net
        self._layers = layers
        self._granularity = granularity
        self._hooks: list[RemovableHandle] = []
        self._from = self._to = 0.0
        self._step, self._n_steps = 0, 1
        self._push = 0.0
        self._size = sum(layer.weight.numel() for layer in layers.values())

    def __enter__(self) -> "Penalty":
        self._optimizers = optimizers(self._net)
        self._net.callbacks_.insert(0, ("penalty", self))
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End the penalty, as the end of the context does."""
        self._restore()
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        callbacks = self._net.callbacks_
        callbacks[:] = [item for item in callbacks if item[1] is not self]

    def set_target(self, fraction: float, n_steps: int) -> None:
        """Set the target: a fraction of zeros, and the steps to it from now."""
        self._from, self._to = min(self._fraction_zero(), fraction), fraction
        self._step, self._n_steps = 0, max(n_steps, 1)

    def _fraction_zero(self) -> float:
        """Compute the fraction of weights that is zero now."""
        weights = [layer.weight for layer in self._layers.values()]
        alive = sum(int(torch.count_nonzero(weight)) for weight in weights)
        return 1 - alive / self._size

    def _restore(self) -> None:
        """Restore the trained weights, if others are in their place."""

    @contextmanager
    def prediction_weights(self) -> Iterator[None]:
        """Use the weights of predictions inside a context."""
        yield

    def fold(self) -> None:
        """Replace the trained weights by those of predictions."""

    def on_batch_begin(
        self, net: NeuralNet, batch: Any = None, training: bool = False, **_: Any
    ) -> None:
        """Update the strength (skorch calls this)."""
        if not training:
            return
        if not all(map(is_, optimizers(net), self._optimizers)):
            raise RuntimeError(
                "A callback has replaced the optimizer, whose steps the penalty "
                "follows. Change its settings in place, as a learning-rate schedule "
                "does, or use no penalty."
            )
        self._step += 1
        progress = min(1.0, self._step / self._n_steps)
        missing = (
            self._from + progress * (self._to - self._from) - self._fraction_zero()
        )
        self.strength = min(1.0, self.strength * math.exp(_GAIN * missing))
        self._push = self.strength if missing > -self.slack else 0.0

    def _trained(self) -> dict[str, PrunableLayer]:
        """Return the layers that are trained, and not frozen."""
        layers = self._layers.items()
        return {name: layer for name, layer in layers if layer.weight.requires_grad}

    def __reduce__(self) -> tuple[Any, ...]:
        return Callback, ()  # a checkpoint of the whole net has no penalty


class L1Penalty(Penalty):
    """Take proximal steps of the L1 norm, or of the group lasso for groups of weights.

    A proximal step reduces a weight by at most the root mean square of the changes of
    the optimizer's step before it.
    """

    slack = 0.05  # without the penalty, zeros change at the next step

    def __enter__(self) -> "L1Penalty":
        super().__enter__()
        for optimizer in optimizers(self._net):
            self._hooks += [
                optimizer.register_step_pre_hook(self.before_step),
                optimizer.register_step_post_hook(self.after_step),
            ]
        return self

    @torch.no_grad()
    def before_step(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        """Copy the weights (torch calls this before an optimizer's step)."""
        own = {id(p) for group in optimizer.param_groups for p in group["params"]}
        self._before = [
            (layer, layer.weight.clone())
            for layer in self._trained().values()
            if id(layer.weight) in own
        ]

    @torch.no_grad()
    def after_step(self, *_: Any) -> None:
        """Take a proximal step (torch calls this after an optimizer's step)."""
        changes = [layer.weight - before for layer, before in self._before]
        push = self._push * _root_mean_square(changes)
        for layer, _before in self._before:
            small = shrink(layer.turned(layer.weight), push, self._granularity)
            layer.weight.copy_(layer.turned(small))
        self._before = []


class L0Penalty(Penalty):
    """Train a hard concrete gate for every group, together with the weights.

    A training step multiplies weights by sampled gates; predictions use mean gates. The
    penalty's gradient of a gate is at most the root mean square of the loss's gradients
    of all gates.

    Parameters
    ----------
    net, layers, granularity
        The parameters of `Penalty`.
    seed : int
        The seed of the sampled gates.
    """

    def __init__(self, *args: Any, seed: int) -> None:
        super().__init__(*args)
        self._generator = torch.Generator().manual_seed(seed)
        self._sizes = self._group_sizes(alive=False)
        self._living = self._sizes
        self._gates = {
            name: torch.full(sizes.shape, _OPEN).to(self._layers[name].weight)
            for name, sizes in self._sizes.items()
        }
        for gates in self._gates.values():
            gates.requires_grad_()
        self._adam = torch.optim.Adam(list(self._gates.values()), lr=_GATE_STEP)
        self._drawn: dict[str, Tensor] = {}
        self._slopes: dict[str, Tensor] = {}
        self._trained_weights: dict[str, Tensor] = {}

    def _group_sizes(self, *, alive: bool) -> dict[str, Tensor]:
        """Count the weights of every group: all of them, or those that are not zero."""
        sizes = {}
        for name, layer in self._layers.items():
            weight = layer.turned(layer.weight.detach())
            counted = (weight != 0).cpu() if alive else torch.ones(weight.shape) > 0
            pooled = self._granularity.pool(weight)
            found = group_sizes(self._granularity, pooled, counted)
            sizes[name] = found.to(weight)
        return sizes

    def set_target(self, fraction: float, n_steps: int) -> None:
        """Set the target: a fraction of zeros, and the steps to it from now."""
        self._living = self._group_sizes(alive=True)
        super().set_target(fraction, n_steps)

    def _fraction_zero(self) -> float:
        """Compute the expected fraction of zeros, from the gates' probabilities."""
        alive = sum(
            float((chance_alive(self._gates[name].detach()) * living).sum())
            for name, living in self._living.items()
        )
        return 1 - alive / self._size

    def __enter__(self) -> "L0Penalty":
        super().__enter__()
        for name, layer in self._trained().items():
            hook = layer.weight.register_hook(partial(self._split_gradient, name))
            self._hooks.append(hook)
        for optimizer in optimizers(self._net):
            self._hooks.append(optimizer.register_step_pre_hook(self._after_backward))
        return self

    def on_batch_begin(
        self, net: NeuralNet, batch: Any = None, training: bool = False, **_: Any
    ) -> None:
        """Multiply the weights by sampled or mean gates (skorch calls this)."""
        super().on_batch_begin(net, batch, training)
        if training:
            self._slopes.clear()
            self._drawn = {
                name: sample_gate(gates, self._noise(gates))
                for name, gates in self._gates.items()
            }
            self._multiply(self._drawn)
        else:
            self._multiply(self._mean_gates())

    def _split_gradient(self, name: str, grad: Tensor) -> Tensor:
        """Split a gradient into those of gates and weights (torch calls this)."""
        if name not in self._trained_weights or name not in self._drawn:
            return grad
        layer = self._layers[name]
        by_weight = layer.turned(grad.to_dense() * self._trained_weights[name])
        self._slopes[name] = self._granularity.pool(by_weight) * self._sizes[name]
        return grad * self._expand(layer, self._drawn[name].detach())

    def on_grad_computed(self, net: NeuralNet, *args: Any, **_: Any) -> None:
        """Restore the weights and train the gates (skorch calls this)."""
        self._after_backward()

    def on_batch_end(self, net: NeuralNet, *args: Any, **_: Any) -> None:
        """Restore the trained weights (skorch calls this)."""
        self._after_backward()
        self._restore()

    def on_epoch_end(self, net: NeuralNet, **_: Any) -> None:
        """Use the weights of predictions for scores (skorch calls this)."""
        self._multiply(self._mean_gates())

    def on_epoch_begin(self, net: NeuralNet, **_: Any) -> None:
        """Restore the trained weights (skorch calls this)."""
        self._restore()

    def _after_backward(self, *_: Any) -> None:
        """Restore the weights and take a step of the gates.

        Nothing happens before a step that computes the loss itself, as in LBFGS.
        """
        if not self._slopes:
            return
        self._restore()
        drawn = {name: self._drawn[name] for name in self._slopes}
        gates = [self._gates[name] for name in drawn]
        chances = [chance_alive(gate) for gate in gates]
        slopes = list(self._slopes.values())
        push = self._push * _root_mean_square(slopes)
        pushes = [torch.full_like(chance, push) for chance in chances]
        outputs = [*drawn.values(), *chances]
        grads = torch.autograd.grad(outputs, gates, [*slopes, *pushes])
        for gate, grad in zip(gates, grads, strict=True):
            gate.grad = grad
        self._adam.step()
        self._slopes.clear()
        self._drawn.clear()

    @contextmanager
    def prediction_weights(self) -> Iterator[None]:
        """Use the weights of predictions inside a context."""
        self._multiply(self._mean_gates())
        try:
            yield
        finally:
            self._restore()

    def fold(self) -> None:
        """Replace the trained weights by those of predictions."""
        self._multiply(self._mean_gates())
        self._trained_weights.clear()
        with torch.no_grad():
            for gates in self._gates.values():
                gates.fill_(torch.inf)  # wide open

    def _mean_gates(self) -> dict[str, Tensor]:
        """Compute the gates of predictions."""
        return {name: mean_gate(gates.detach()) for name, gates in self._gates.items()}

    def _noise(self, gates: Tensor) -> Tensor:
        """Sample uniform noise for gates, inside (0, 1)."""
        drawn = torch.rand(gates.shape, generator=self._generator)
        return drawn.clamp(1e-6, 1 - 1e-6).to(gates.device)

    @torch.no_grad()
    def _multiply(self, gates: Mapping[str, Tensor]) -> None:
        """Multiply the weights by gates, and keep the trained ones."""
        self._restore()  # an error may have ended the step before
        for name, layer in self._trained().items():
            self._trained_weights[name] = layer.weight.detach().clone()
            layer.weight.mul_(self._expand(layer, gates[name].detach()))

    @torch.no_grad()
    def _restore(self) -> None:
        """Restore the trained weights, if others are in their place."""
        for name, weight in self._trained_weights.items():
            self._layers[name].weight.copy_(weight)
        self._trained_weights.clear()

    def _expand(self, layer: PrunableLayer, gates: Tensor) -> Tensor:
        """Expand gates of groups to the shape of a layer's weight."""
        shape = layer.turned(layer.weight).shape
        return layer.turned(self._granularity.expand(gates, shape))


def _root_mean_square(tensors: Iterable[Tensor]) -> float:
    """Compute the root mean square of all values that are not zero."""
    total, n = 0.0, 0
    for tensor in tensors:
        total += float(tensor.double().square().sum())
        n += int(torch.count_nonzero(tensor))
    return math.sqrt(total / max(n, 1))
