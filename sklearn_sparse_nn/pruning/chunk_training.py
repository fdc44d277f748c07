"""A training run between two chunks of rows, and a pruning event there."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from skorch import NeuralNet
from skorch.callbacks import Checkpoint, EarlyStopping
from torch import Tensor

from sklearn_sparse_nn.core.budget import Budget
from sklearn_sparse_nn.core.granularity import Block
from sklearn_sparse_nn.core.plan import Event
from sklearn_sparse_nn.dense.base import as_net_input
from sklearn_sparse_nn.dense.source import as_dtype
from sklearn_sparse_nn.nets.batches import BatchIterator
from sklearn_sparse_nn.nets.layers import PrunableLayer, prunable_layers
from sklearn_sparse_nn.nets.targets import Labels, Values
from sklearn_sparse_nn.pruning.base import all_alive
from sklearn_sparse_nn.pruning.dense_phase import DensePhase
from sklearn_sparse_nn.pruning.events import Surgery
from sklearn_sparse_nn.pruning.request import Request, resolve_request
from sklearn_sparse_nn.statistics.gathering import GATHERED
from sklearn_sparse_nn.training.holding import MaskHolder
from sklearn_sparse_nn.training.movement import Movement
from sklearn_sparse_nn.training.run import TrainingRun

__all__ = [
    "ChunkRun",
    "ChunkTraining",
    "asked_to_live",
    "own_order",
    "prune_now",
    "refuse_restoring",
    "resolve_now",
    "watch",
]

_WATCHED = ("initial", "movement")


class ChunkRun(TrainingRun):
    """One run, whose rows are exchanged.

    Callbacks hear of one beginning, of every epoch and of no end, so that a
    learning-rate schedule goes on from chunk to chunk.
    """

    def feed(self, X: Any, y: Any) -> None:
        """Train on these rows from now on."""
        self.net.check_data(X, y)
        train, valid = self.net.get_split_datasets(X, y)
        self._data = {"X": X, "y": y}
        self._datasets = {"dataset_train": train, "dataset_valid": valid}
        self._train = self.net.get_iterator(train, training=True)
        self._valid = (
            None if valid is None else self.net.get_iterator(valid, training=False)
        )

    def show(self, X: Any, y: Any) -> None:
        """Let statistics be gathered over all of these rows."""
        self._datasets = {"dataset_train": self.net.get_dataset(X, y)}

    def release(self) -> None:
        """Let go of the rows, and of what an epoch left."""
        self._data, self._datasets = {}, {}
        self._train = self._valid = None
        self.net.module_.zero_grad(set_to_none=True)

    def end_chunk(self) -> None:
        """Refuse parameters that are NaN; forget the batches, but not their means."""
        self._trained = False  # callbacks hear of no end
        self.end()
        self.net.history[-1]["batches"].clear()


@dataclass
class ChunkTraining:
    """A training run between two chunks; holds no rows.

    Parameters
    ----------
    net : skorch.NeuralNet
        With its optimizer and callbacks.
    run : ChunkRun
        Of this net.
    targets : Labels or Values
        What the net's outputs stand for.
    own_dtype : numpy dtype or None
        What a user's own net takes.
    y_dtype, y_ndim : numpy dtype, int
        Targets as the net takes them.
    seed : int
        Of everything random.
    order : int or None
        Seed of the order of rows, where a generator of the run's own replaces it.
    last, width : str or None, int
        The layer that gives the outputs, and how many values reach it.
    uses : mapping of layer name to int
        How often each weight is used for one row.
    masks : dict of layer name to bool Tensor of shape (out, in, ...)
        What is held.
    generator : torch.Generator
        Where all that is random in pruning comes from.
    initial, movement : dict of layer name to Tensor of shape (out, in, ...)
        What importances want to know of the training, where one asked for it.
    rng : object or None
        State of the global generators, where a part of somebody else may use them.
    block : tuple of int or None
        Shape of the blocks that live together.
    kept : dict of tuple to int
        What was asked to live, by layers and unit.
    """

    net: NeuralNet
    run: ChunkRun
    targets: Labels | Values
    own_dtype: Any
    y_dtype: Any
    y_ndim: int
    seed: int
    order: int | None
    last: str | None
    width: int
    uses: Mapping[str, int]
    masks: dict[str, Tensor]
    generator: torch.Generator
    initial: dict[str, Tensor] = field(default_factory=dict)
    movement: dict[str, Tensor] = field(default_factory=dict)
    rng: Any = None
    block: tuple[int, int] | None = None
    kept: dict[tuple[Any, ...], int] = field(default_factory=dict)

    @property
    def layers(self) -> dict[str, PrunableLayer]:
        """The layers under masks."""
        found = prunable_layers(self.net.module_)
        return {name: found[name] for name in self.masks}

    @property
    def phase(self) -> str:
        """The phase of the next epoch."""
        dense = all(bool(mask.all()) for mask in self.masks.values())
        return "dense" if dense else "finetune"

    def as_input(self, X: Any) -> Any:
        """Give validated rows as the net takes them."""
        own = self.own_dtype
        return as_net_input(X if own is None else as_dtype(X, own))

    def encode(self, y: np.ndarray) -> np.ndarray:
        """Give targets as the net takes them."""
        encoded = self.targets.encode(y).astype(self.y_dtype)
        return encoded.reshape(-1, *[1] * (self.y_ndim - 1))

    def tell_classes(self) -> None:
        """Let a net that looks for its classes in every chunk know them all."""
        if hasattr(self.net, "classes_inferred_"):
            self.net.classes_inferred_ = np.arange(self.targets.n_outputs)


def own_order(net: NeuralNet) -> int | None:
    """Let the order of rows come from one generator for all chunks, not from a seed.

    A `BatchIterator` with a seed would begin anew at every chunk.
    """
    iterator = net.iterator_train
    seed = net.__dict__.get("iterator_train__random_state")
    cuts = isinstance(iterator, type) and issubclass(iterator, BatchIterator)
    if not cuts or not isinstance(seed, (int, np.integer)):
        return None
    generator = torch.Generator().manual_seed(int(seed))
    net.__dict__["iterator_train__random_state"] = generator
    return int(seed)


def refuse_restoring(net: NeuralNet) -> None:
    """Refuse callbacks that compare epochs which here have different rows."""
    for name, callback in net.callbacks_:
        restores = isinstance(callback, Checkpoint) and callback.load_best
        if restores or isinstance(callback, EarlyStopping):
            raise ValueError(
                "partial_fit does not support early_stopping=True, nor other "
                f"callbacks that go back to a best epoch ({name!r}): every chunk has "
                "rows of its own, so their scores cannot be compared."
            )


def resolve_now(
    asked: Any, net: NeuralNet, last: str | None, uses: Mapping[str, int]
) -> Request:
    """Resolve what is asked for between two chunks."""
    layers = prunable_layers(net.module_)
    return resolve_request(
        asked, layers, last=last, uses=uses, max_epochs=1, frozen=False
    )


def watch(training: ChunkTraining, needs: tuple[str, ...]) -> None:
    """Begin to remember what importances want to know of the training."""
    layers = training.layers
    if "initial" in needs:
        training.initial = {
            name: layer.turned(layer.weight.detach().clone())
            for name, layer in layers.items()
        }
    if "movement" in needs:
        training.movement = Movement(layers).total


def prune_now(training: ChunkTraining, asked: Any, *, has_rows: bool) -> None:
    """Carry out one pruning event."""
    net = training.net
    request = resolve_now(asked, net, training.last, training.uses)
    masks = {**all_alive(request.layers), **training.masks}
    masks = {name: masks[name] for name in request.layers}
    _check_total(training, request.budget, masks)
    _check_statistics(training, request, asked, has_rows=has_rows)
    if request.plan.events:
        phase = DensePhase(
            net, training.run, initial=training.initial, movement=training.movement
        )
        with (
            MaskHolder(net, request.layers, masks) as holder,
            Surgery(phase, holder, request, training.generator) as surgery,
        ):
            surgery.operate(Event(Fraction(0), 1.0), None)
        masks = dict(holder.masks)
        training.run.forget_best()
    training.masks = {**training.masks, **masks}
    training.kept = training.kept | asked_to_live(request.budget)
    part = request.granularity
    training.block = (part.rows, part.columns) if isinstance(part, Block) else None


def _check_statistics(
    training: ChunkTraining, request: Request, asked: Any, *, has_rows: bool
) -> None:
    """Refuse an importance that asks for what is not there."""
    said = f"importance={asked.importance!r}"
    rows = [name for name in request.needs if name in GATHERED]
    if rows and not has_rows:
        raise ValueError(
            f"{said} asks for {', '.join(map(repr, rows))}, which rows of data give: "
            "call prune(X=..., y=...) with a chunk, or some rows of it."
        )
    for name in _WATCHED:
        known = getattr(training, name)
        if name in request.needs and not known.keys() >= request.layers.keys():
            raise ValueError(
                f"{said} asks for {name!r}, which is watched from the first call of "
                "partial_fit on: set importance and layers before it."
            )


def asked_to_live(budget: Budget) -> dict[tuple[Any, ...], int]:
    """Give what may live, by the layers that share it and its unit."""
    if budget.threshold is not None:
        return {}
    names = tuple(budget.n_weights)
    unit = None if budget.costs is None else tuple(budget.costs.items())
    if isinstance(budget.sparsity, Mapping):
        return {((name,), unit): budget.kept(name) for name in names}
    return {(names, unit): budget.kept()}


def _check_total(
    training: ChunkTraining, budget: Budget, masks: Mapping[str, Tensor]
) -> None:
    """Refuse to let weights live again; what was asked before may be asked again.

    Groups that live together may have left fewer than was asked for.
    """
    for (names, unit), kept in asked_to_live(budget).items():
        alive = sum(int(masks[name].sum()) * budget.cost(name) for name in names)
        if kept > max(alive, training.kept.get((names, unit), 0)):
            size = sum(budget.size(name) for name in names)
            raise ValueError(
                f"A sparsity of {1 - kept / size:.6g} is less than the "
                f"{1 - alive / size:.6g} that {', '.join(names)} have: what was pruned "
                "stays pruned. Ask for more, or fit anew."
            )
