"""Penalties at work on a training net, with the strength that a sparsity asks for."""

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from skorch import NeuralNet
from skorch.callbacks import Callback
from torch import Tensor

from sklearn_sparse_nn.core.granularity import Granularity, group_sizes
from sklearn_sparse_nn.core.penalties import (
    chance_alive,
    mean_gate,
    sample_gate,
    shrink,
)
from sklearn_sparse_nn.nets.host import optimizers
from sklearn_sparse_nn.nets.layers import PrunableLayer

__all__ = ["L0Penalty", "L1Penalty", "Penalty"]

#: How fast the strength answers to what is still missing, per step and unit.
_GAIN = 1.0
#: Where an open gate starts (open with probability 0.99), and its step size.
_OPEN, _GATE_STEP = 2.5, 0.05


class Penalty(Callback):
    """Drives weights to zero until a fraction of them is; the strength finds itself.

    The fraction that is aimed at rises evenly from what is zero now. While less is
    zero, the strength grows at a rate in proportion to what is missing; while enough
    is, it falls, and clearly enough is not pushed. It is measured by what training
    itself does in a step and never exceeds it: a stronger push would close everything,
    important or not. What is missing in the end is left to the pruning event.

    Use as a context manager around training; nothing of it stays behind.

    Parameters
    ----------
    net : skorch.NeuralNet
        Initialized.
    layers : mapping of name to PrunableLayer
        The layers under the penalty.
    granularity : Granularity
        What goes to zero together.
    """

    strength = 0.05
    #: How much more than enough may be zero before nothing is pushed.
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
        self._hooks: list[Any] = []
        self._from = self._to = 0.0
        self._step, self._n_steps = 0, 1
        self._push = 0.0
        self._size = sum(layer.weight.numel() for layer in layers.values())

    def __enter__(self) -> "Penalty":
        self._net.callbacks_.insert(0, ("penalty", self))
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Push no more; the same as the end of the context."""
        self._restore()
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        callbacks = self._net.callbacks_
        callbacks[:] = [item for item in callbacks if item[1] is not self]

    def aim(self, fraction: float, n_steps: int) -> None:
        """Aim at this fraction of zeros after so many steps from now."""
        self._from, self._to = min(self._found(), fraction), fraction
        self._step, self._n_steps = 0, max(n_steps, 1)

    def _found(self) -> float:
        """Give the fraction that is zero now."""
        weights = [layer.weight for layer in self._layers.values()]
        alive = sum(int(torch.count_nonzero(weight)) for weight in weights)
        return 1 - alive / self._size

    def _restore(self) -> None:
        """Put back weights that are, for a while, something else."""

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Let the weights be, for a while, what they are for prediction."""
        yield

    def fold(self) -> None:
        """Make the weights, for good, what they are for prediction."""

    def on_batch_begin(
        self, net: NeuralNet, batch: Any = None, training: bool = False, **_: Any
    ) -> None:
        """Set the strength by what is missing (skorch calls this)."""
        if not training:
            return
        self._step += 1
        progress = min(1.0, self._step / self._n_steps)
        missing = self._from + progress * (self._to - self._from) - self._found()
        self.strength = min(1.0, self.strength * math.exp(_GAIN * missing))
        self._push = self.strength if missing > -self.slack else 0.0

    def _trained(self) -> dict[str, PrunableLayer]:
        """Give the layers that nobody has frozen."""
        layers = self._layers.items()
        return {name: layer for name, layer in layers if layer.weight.requires_grad}

    def __reduce__(self) -> tuple[Any, ...]:
        return Callback, ()  # a checkpoint of the whole net holds no penalty


class L1Penalty(Penalty):
    """Proximal steps of the L1 norm, or of the group lasso where weights have groups.

    A step takes from a weight at most the root mean square of what the optimizer's
    step has just changed.
    """

    slack = 0.05  # without a push, what is zero moves off at the next step

    def __enter__(self) -> "L1Penalty":
        super().__enter__()
        for optimizer in optimizers(self._net):
            self._hooks += [
                optimizer.register_step_pre_hook(self.before_step),
                optimizer.register_step_post_hook(self.after_step),
            ]
        return self

    @torch.no_grad()
    def before_step(self, optimizer: Any, *_: Any) -> None:
        """Remember the weights (torch calls this before an optimizer's step)."""
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
    """Hard concrete gates on every group, learned beside the weights.

    A training step multiplies weights by drawn gates; predictions use the mean ones.
    A gate is pushed at most as hard as the loss pulls at gates on average (root mean
    square).

    Parameters
    ----------
    net, layers, granularity
        As for `Penalty`.
    seed : int
        Where the draws come from.
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
        self._own: dict[str, Tensor] = {}

    def _group_sizes(self, *, alive: bool) -> dict[str, Tensor]:
        """Count the weights of every group, or those of them that are not zero."""
        sizes = {}
        for name, layer in self._layers.items():
            weight = layer.turned(layer.weight.detach())
            counted = (weight != 0).cpu() if alive else torch.ones(weight.shape) > 0
            pooled = self._granularity.pool(weight)
            found = group_sizes(self._granularity, pooled, counted)
            sizes[name] = found.to(weight)
        return sizes

    def aim(self, fraction: float, n_steps: int) -> None:
        """Aim at this fraction of zeros after so many steps from now."""
        self._living = self._group_sizes(alive=True)
        super().aim(fraction, n_steps)

    def _found(self) -> float:
        """Give the fraction that is zero, as far as gates are expected to be shut."""
        alive = sum(
            float((chance_alive(self._gates[name].detach()) * living).sum())
            for name, living in self._living.items()
        )
        return 1 - alive / self._size

    def __enter__(self) -> "L0Penalty":
        super().__enter__()
        for name, layer in self._trained().items():
            hook = layer.weight.register_hook(partial(self._hand_over, name))
            self._hooks.append(hook)
        for optimizer in optimizers(self._net):
            self._hooks.append(optimizer.register_step_pre_hook(self._after_backward))
        return self

    def on_batch_begin(
        self, net: NeuralNet, batch: Any = None, training: bool = False, **_: Any
    ) -> None:
        """Multiply the weights by gates: drawn ones for training (skorch calls)."""
        super().on_batch_begin(net, batch, training)
        if training:
            self._slopes.clear()
            self._drawn = {
                name: sample_gate(gates, self._noise(gates))
                for name, gates in self._gates.items()
            }
            self._put(self._drawn)
        else:
            self._put(self._mean())

    def _hand_over(self, name: str, grad: Tensor) -> Tensor:
        """Split a gradient between gates and weights (torch calls in backward)."""
        if name not in self._own or name not in self._drawn:
            return grad
        layer = self._layers[name]
        by_weight = layer.turned(grad.to_dense() * self._own[name])
        self._slopes[name] = self._granularity.pool(by_weight) * self._sizes[name]
        return grad * self._spread(layer, self._drawn[name].detach())

    def on_grad_computed(self, net: NeuralNet, *args: Any, **_: Any) -> None:
        """Put the weights back before the step, and learn (skorch calls this)."""
        self._after_backward()

    def on_batch_end(self, net: NeuralNet, *args: Any, **_: Any) -> None:
        """Put the weights back (skorch calls this)."""
        self._after_backward()
        self._restore()

    def on_epoch_end(self, net: NeuralNet, **_: Any) -> None:
        """Show callbacks that score what predicts (skorch calls this)."""
        self._put(self._mean())

    def on_epoch_begin(self, net: NeuralNet, **_: Any) -> None:
        """Put the weights back (skorch calls this)."""
        self._restore()

    def _after_backward(self, *_: Any) -> None:
        """Do nothing before a step that will run the loss itself."""
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
    def shown(self) -> Iterator[None]:
        """Let the weights be, for a while, what they are for prediction."""
        self._put(self._mean())
        try:
            yield
        finally:
            self._restore()

    def fold(self) -> None:
        """Make the weights, for good, what they are for prediction."""
        self._put(self._mean())
        self._own.clear()
        with torch.no_grad():
            for gates in self._gates.values():
                gates.fill_(torch.inf)  # wide open

    def _mean(self) -> dict[str, Tensor]:
        return {name: mean_gate(gates.detach()) for name, gates in self._gates.items()}

    def _noise(self, gates: Tensor) -> Tensor:
        drawn = torch.rand(gates.shape, generator=self._generator)
        return drawn.clamp(1e-6, 1 - 1e-6).to(gates.device)

    @torch.no_grad()
    def _put(self, gates: Mapping[str, Tensor]) -> None:
        self._restore()  # after a step that did not come to its end
        for name, layer in self._trained().items():
            self._own[name] = layer.weight.detach().clone()
            layer.weight.mul_(self._spread(layer, gates[name].detach()))

    @torch.no_grad()
    def _restore(self) -> None:
        """Put back weights that are, for a while, something else."""
        for name, weight in self._own.items():
            self._layers[name].weight.copy_(weight)
        self._own.clear()

    def _spread(self, layer: PrunableLayer, gates: Tensor) -> Tensor:
        shape = layer.turned(layer.weight).shape
        return layer.turned(self._granularity.expand(gates, shape))


def _root_mean_square(tensors: Iterable[Tensor]) -> float:
    """Measure values that are not zero, of all tensors together."""
    total, n = 0.0, 0
    for tensor in tensors:
        total += float(tensor.double().square().sum())
        n += int(torch.count_nonzero(tensor))
    return math.sqrt(total / max(n, 1))
