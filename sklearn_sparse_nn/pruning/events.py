"""Pruning events: gather statistics, decide, refit, swap, hold."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from typing import Any, Self

import torch
from skorch import NeuralNet
from torch import Tensor

from sklearn_sparse_nn.core.plan import Event
from sklearn_sparse_nn.pruning.request import Request
from sklearn_sparse_nn.statistics.gathering import GATHERED, gather
from sklearn_sparse_nn.statistics.sampling import sample_rows
from sklearn_sparse_nn.training.holding import MaskHolder
from sklearn_sparse_nn.training.movement import Movement
from sklearn_sparse_nn.training.penalizing import L0Penalty, L1Penalty, Penalty
from sklearn_sparse_nn.training.run import TrainingRun

__all__ = ["PruningEvents"]

Masks = Mapping[str, Tensor]


class PruningEvents:
    """Carries out the pruning events of a training run.

    Use as a context manager around the run: it may watch training or push weights.

    Parameters
    ----------
    net : skorch.NeuralNet
        The net in training.
    training : TrainingRun
        The training run of the net; statistics are gathered over its rows.
    masks : mapping of layer name to bool Tensor of shape (out, in, ...)
        The masks to begin with.
    request : Request
        What is pruned, how and how much.
    generator : torch.Generator
        The source of all that is random.
    initial, movement : mapping of layer name to Tensor of shape (out, in, ...)
        The weights at the beginning, and how far training has moved them so far; empty
        where no importance needs them.

    Attributes
    ----------
    holder : MaskHolder
        The holder of the masks, from the first event to the end of the run.
    """

    def __init__(
        self,
        net: NeuralNet,
        training: TrainingRun,
        masks: Masks,
        request: Request,
        generator: torch.Generator,
        *,
        initial: Mapping[str, Tensor],
        movement: Mapping[str, Tensor],
    ) -> None:
        self._net = net
        self._training = training
        self.holder = MaskHolder(net, request.layers, masks)
        self._request = request
        self._generator = generator
        self._at_first: Masks = self.holder.masks
        self._open = ExitStack()
        self._movement: Movement | None = None
        self._penalty: Penalty | None = None
        # What lives in each layer since the share last changed: swaps keep to it.
        self._share = 0.0
        self._n_alive: dict[str, int] = {}
        self._initial = initial
        self._so_far = movement

    def __enter__(self) -> Self:
        self._open.enter_context(self.holder)
        if "movement" in self._request.needs:
            movement = Movement(self._request.layers, self._so_far)
            self._movement = self._open.enter_context(movement)
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    @contextmanager
    def penalized(self) -> Iterator[None]:
        """Apply the penalty, if there is one, until the last event."""
        request = self._request
        if request.penalty is None:
            yield
            return
        parts = self._net, request.layers, request.granularity
        if request.penalty == "l1":
            penalty: Penalty = L1Penalty(*parts)
        else:
            drawn = torch.randint(2**31, (1,), generator=self._generator)
            penalty = L0Penalty(*parts, seed=int(drawn))
        with penalty:
            self._aim(penalty, Fraction(0), request.plan.events[0])
            self._penalty = penalty
            yield
            self._penalty = None

    def carry_out(self, event: Event, following: Event | None) -> None:
        """Carry out one event.

        Parameters
        ----------
        event : Event
            The event that is due.
        following : Event or None
            The next one, which a penalty works towards.
        """
        penalty = self._penalty
        if penalty is None:
            self.holder.hold(self._decide(event))
            return
        with penalty.prediction_weights():
            masks = self._decide(event)
        if following is None:
            penalty.fold()
        self.holder.hold(masks)
        if following is None:
            penalty.stop()
        else:
            self._aim(penalty, event.at, following)

    def _aim(self, penalty: Penalty, now: Fraction, event: Event) -> None:
        """Aim a penalty at an event's sparsity, by the time that it comes."""
        n_steps = int((event.at - now) * self._training.n_batches)
        penalty.set_target(self._request.zeros_at(event.share), n_steps)

    def _decide(self, event: Event) -> Masks:
        if event.share == 0:
            return self._at_first
        request = self._request
        stats = self._statistics()
        masks = request.decide(event.share, self.holder.masks, stats)
        with torch.no_grad():
            for name, weight in request.refit(masks, stats).items():
                layer = request.layers[name]
                layer.weight.copy_(layer.turned(weight))
        if event.share != self._share:
            self._share = event.share
            self._n_alive = {name: int(mask.sum()) for name, mask in masks.items()}
        if event.swap:
            masks = request.swap(event.swap, masks, stats, self._n_alive)
        return masks

    def _statistics(self) -> dict[str, Any]:
        request = self._request
        stats: dict[str, Any] = {"generator": self._generator}
        if self._initial:
            stats["initial"] = self._initial
        if self._movement is not None:
            stats["movement"] = self._movement.total
        names = [name for name in request.needs if name in GATHERED]
        if names:
            rows = sample_rows(
                self._training.training_rows, request.subsample, self._generator
            )
            stats |= gather(self._net, rows, request.layers, names)
        return stats
