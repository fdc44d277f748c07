"""The dense phase: what is trained before the first pruning event."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

from skorch import NeuralNet
from torch import Tensor

from sklearn_sparse_nn.dense.source import DenseNet
from sklearn_sparse_nn.memory.snapshot import (
    dump,
    global_rng,
    load,
    restore_global_rng,
)
from sklearn_sparse_nn.memory.store import recall
from sklearn_sparse_nn.nets.layers import PrunableLayer
from sklearn_sparse_nn.pruning.progress import Progress
from sklearn_sparse_nn.training.movement import Movement
from sklearn_sparse_nn.training.rewinding import Beginning
from sklearn_sparse_nn.training.run import TrainingRun

__all__ = [
    "DensePhase",
    "KeptPhase",
    "OnPath",
    "epoch_row",
    "shared_dense",
    "train_dense",
]


@dataclass
class DensePhase:
    """A training run after its dense epochs, and what pruning wants to know of them.

    Parameters
    ----------
    net : skorch.NeuralNet
        Trained so far.
    run : TrainingRun
        Goes on from here.
    history : list of dict
        A row for every epoch.
    go_on : bool
        Whether no callback asked for a stop.
    beginning : Beginning or None
        The epoch that is rewound to.
    movement, initial : dict of layer name to Tensor of shape (out, in, ...)
        How far training has moved the weights, and where they began; where asked for.
    """

    net: NeuralNet
    run: TrainingRun
    history: list[dict[str, Any]] = field(default_factory=list)
    go_on: bool = True
    beginning: Beginning | None = None
    movement: dict[str, Tensor] = field(default_factory=dict)
    initial: dict[str, Tensor] = field(default_factory=dict)


def train_dense(
    net: NeuralNet,
    run: TrainingRun,
    *,
    n_epochs: int,
    rewind_epoch: int | None,
    layers: Mapping[str, PrunableLayer],
    needs: tuple[str, ...],
    progress: Progress,
) -> DensePhase:
    """Train the epochs before the first pruning event.

    Parameters
    ----------
    net : skorch.NeuralNet
        Initialized.
    run : TrainingRun
        Of this net.
    n_epochs : int
        At most so many; callbacks may ask for a stop before.
    rewind_epoch : int or None
        The epoch before which all is remembered, if any is rewound to.
    layers : mapping of name to PrunableLayer
        Whose weights are watched.
    needs : tuple of str
        Statistics that importances ask for.
    progress : Progress
        Told of every epoch.

    Returns
    -------
    phase : DensePhase
    """
    phase = DensePhase(net, run)
    if "initial" in needs:
        phase.initial = {
            name: layer.turned(layer.weight.detach().clone())
            for name, layer in layers.items()
        }
    movement = Movement(layers) if "movement" in needs else None
    with movement or nullcontext(), progress.phase("dense", n_epochs, net):
        for epoch in range(n_epochs):
            if epoch == rewind_epoch:
                phase.beginning = Beginning(net)
            progress.begin_epoch()
            phase.go_on = run.epoch("dense")
            row = epoch_row(net, "dense", epoch + 1, 0.0)
            phase.history.append(row)
            phase.go_on = progress.end_epoch(row, net) and phase.go_on
            if not phase.go_on:
                break
    phase.movement = movement.total if movement else {}
    return phase


@dataclass
class OnPath:
    """What a fit has to do with the other fits of a path.

    Parameters
    ----------
    heirs : sequence of (pruner, bool)
        Pruners that go on from its net, each with whether it is trained for them. What
        they ask for and cannot have is refused before any training.
    dense : KeptPhase or None
        Where the dense phase is kept, if all fits of the path start from it.
    """

    heirs: Sequence[tuple[Any, bool]] = ()
    dense: "KeptPhase | None" = None


class KeptPhase:
    """A dense phase, and copies of it for the other fits of a path."""

    def __init__(self) -> None:
        self._blob: bytes | None = None
        self._fails = False

    def copy(self, dense: DenseNet) -> tuple[DensePhase, Any] | None:
        """Give a copy around the rows of `dense`; None if none is kept."""
        if self._blob is None:
            return None
        found: tuple[DensePhase, Any] = load(self._blob, (dense.X, dense.y))
        return found

    def keep(self, found: tuple[DensePhase, Any], dense: DenseNet) -> None:
        """Keep a phase, and what belongs to it; warn, once, if that cannot be."""
        if self._fails or self._blob is not None:
            return
        try:
            self._blob = dump(found, (dense.X, dense.y))
        except Exception as error:  # pickling anything may fail in any way
            self._fails = True
            warnings.warn(
                f"The dense net cannot be copied ({type(error).__name__}: {error}), so "
                "it is trained again for every level. Results are the same, only "
                "slower.",
                UserWarning,
                stacklevel=2,
            )


def shared_dense(
    memory: Any,
    key: tuple[str, tuple[Any, ...]] | None,
    train: Callable[[], DensePhase],
    dense: DenseNet,
    *,
    foreign: bool,
    progress: Progress,
    kept: KeptPhase | None = None,
) -> DensePhase:
    """Take a dense phase out of a store, or train it and put it there.

    Parameters
    ----------
    memory : str, joblib.Memory or object with ``cache``
        The store.
    key : tuple of str and tuple, or None
        Of all that the phase depends on, with the parts of it that are not stored; None
        if it can have none.
    train : callable
        Trains the phase.
    dense : DenseNet
        Whose rows are not stored.
    foreign : bool
        Whether the global generators are part of the run.
    progress : Progress
        Told of a phase that is found.
    kept : KeptPhase or None, default=None
        Asked before the store.

    Returns
    -------
    phase : DensePhase
        Where it was found, around another net than that of `dense`.
    """

    def train_and_look() -> tuple[DensePhase, Any]:
        phase = train()
        if progress.stopped:
            raise _StoppedError(phase)
        return phase, global_rng() if foreign else None

    def look() -> tuple[tuple[DensePhase, Any], str]:
        if key is None:
            return train_and_look(), ""
        data = (dense.X, dense.y, *key[1])
        found, was_there = recall(memory, key[0], train_and_look, data)
        return found, "memory" if was_there else ""

    copy = None if kept is None else kept.copy(dense)
    try:
        (phase, rng), place = look() if copy is None else (copy, "the path")
    except _StoppedError as stop:
        return stop.phase
    if kept is not None:
        kept.keep((phase, rng), dense)
    if place:
        if foreign and rng is not None:
            restore_global_rng(rng)
        progress.recalled(phase.history, phase.net, place)
    return phase


class _StoppedError(Exception):
    """Keeps from the store what a callback cut short: the key knows none of them."""

    def __init__(self, phase: DensePhase) -> None:
        super().__init__()
        self.phase = phase


def epoch_row(
    net: NeuralNet, phase: str, epoch: int, sparsity: float
) -> dict[str, Any]:
    """Make an epoch's row of the history.

    Parameters
    ----------
    net : skorch.NeuralNet
        Just trained for the epoch; what it recorded is in the row.
    phase : str
        ``"dense"``, ``"prune"`` or ``"finetune"``.
    epoch : int
        Counted from 1, over all phases.
    sparsity : float
        Of the weights to prune.

    Returns
    -------
    row : dict
    """
    row = {"phase": phase, "epoch": epoch, "sparsity": sparsity}
    recorded = net.history[-1].items()
    return row | {key: value for key, value in recorded if _is_record(key, value)}


def _is_record(key: str, value: Any) -> bool:
    """Tell scores and losses of an epoch from skorch's bookkeeping."""
    bookkeeping = key == "epoch" or key.endswith("_batch_count")
    return not bookkeeping and isinstance(value, Real) and not isinstance(value, bool)
