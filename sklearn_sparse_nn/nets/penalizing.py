"""Penalties at work on a training net, with the strength that a sparsity asks for."""

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
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
from sklearn_sparse_nn.nets.layers import PrunableLayer
from sklearn_sparse_nn.nets.training import optimizers

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
        self._size = sum(layer.weight.numel() for layer in layers.values())

    def __enter__(self) -> "Penalty":
        self._net.callbacks_.insert(0, ("penalty", self))
        for optimizer in optimizers(self._net):
            self._hooks.append(optimizer.register_step_post_hook(self.after_step))
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
        return self._zeros(layer.weight for layer in self._layers.values())

    def _zeros(self, weights: Iterable[Tensor]) -> float:
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

    def after_step(self, *_: Any) -> None:
        """Push, or do not (torch calls this after an optimizer's step)."""

    def _push(self, found: float, most: float) -> float:
        """Give this step's push, at most `most`, for the fraction that is zero."""
        self._step += 1
        progress = min(1.0, self._step / self._n_steps)
        missing = self._from + progress * (self._to - self._from) - found
        self.strength = min(1.0, self.strength * math.exp(_GAIN * missing))
        return self.strength * most if missing > -self.slack else 0.0


class L1Penalty(Penalty):
    """Proximal steps of the L1 norm, or of the group lasso where weights have groups.

    A step takes from a weight at most the root mean square of what the optimizer's
    step has just changed.
    """

    slack = 0.05  # without a push, what is zero moves off at the next step

    def __enter__(self) -> "L1Penalty":
        super().__enter__()
        for optimizer in optimizers(self._net):
            self._hooks.append(optimizer.register_step_pre_hook(self.before_step))
        return self

    @torch.no_grad()
    def before_step(self, *_: Any) -> None:
        """Remember the weights (torch calls this before an optimizer's step)."""
        self._before = [layer.weight.clone() for layer in self._layers.values()]

    @torch.no_grad()
    def after_step(self, *_: Any) -> None:
        """Take a proximal step (torch calls this after an optimizer's step)."""
        weights = [layer.weight for layer in self._layers.values()]
        changes = [w - b for w, b in zip(weights, self._before, strict=True)]
        # Zeros as the last push left them: a step moves each of them a little.
        push = self._push(self._zeros(self._before), _root_mean_square(changes))
        for layer in self._layers.values():
            small = shrink(layer.turned(layer.weight), push, self._granularity)
            layer.weight.copy_(layer.turned(small))


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

    def on_batch_begin(
        self, net: NeuralNet, batch: Any = None, training: bool = False, **_: Any
    ) -> None:
        """Multiply the weights by gates: drawn ones for training (skorch calls)."""
        if training:
            self._drawn = {
                name: sample_gate(gates, self._noise(gates))
                for name, gates in self._gates.items()
            }
            self._put(self._drawn)
        else:
            self._put(self._mean())

    def on_grad_computed(self, net: NeuralNet, *args: Any, **_: Any) -> None:
        """Hand the gradients on to gates and weights (skorch calls this)."""
        if not self._own:  # an optimizer that evaluates its loss more than once
            return
        slopes = []
        for name, layer in self._layers.items():
            grad = layer.weight.grad
            if grad is None:
                slopes.append(torch.zeros_like(self._drawn[name]))
                continue
            by_weight = grad.to_dense() * self._own[name]
            mean = self._granularity.pool(layer.turned(by_weight))
            slopes.append(mean * self._sizes[name])
            gates = self._spread(layer, self._drawn[name].detach())
            layer.weight.grad = grad * gates
        self._restore()
        self._learn(slopes)

    def on_batch_end(self, net: NeuralNet, *args: Any, **_: Any) -> None:
        """Put the weights back after validation (skorch calls this)."""
        self._restore()

    def _learn(self, slopes: list[Tensor]) -> None:
        gates = list(self._gates.values())
        chances = [chance_alive(gate) for gate in gates]
        push = self._push(self._found(), _root_mean_square(slopes))
        outputs = [*self._drawn.values(), *chances]
        pushes = [torch.full_like(chance, push) for chance in chances]
        grads = torch.autograd.grad(outputs, gates, [*slopes, *pushes])
        for gate, grad in zip(gates, grads, strict=True):
            gate.grad = grad
        self._adam.step()

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
        for name, layer in self._layers.items():
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
