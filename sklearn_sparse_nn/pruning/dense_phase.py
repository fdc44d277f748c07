"""The dense phase: trained before the first pruning event, or taken from a store."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sklearn.frozen import FrozenEstimator

from sklearn_sparse_nn.memory.snapshot import Snapshot
from sklearn_sparse_nn.memory.store import key_of, recall
from sklearn_sparse_nn.pruning.parameters import Pruner
from sklearn_sparse_nn.pruning.progress import Progress
from sklearn_sparse_nn.pruning.request import Request
from sklearn_sparse_nn.pruning.run import WATCHED, PruningRun
from sklearn_sparse_nn.training.rewinding import Beginning

__all__ = ["ALONE", "OnPath", "SharedDense", "dense_phase", "train_dense"]

Trained = Mapping[str, Any]
Key = tuple[str, tuple[Any, ...]]


class SharedDense:
    """A dense phase as bytes, shared by all fits of a path that start from it."""

    def __init__(self) -> None:
        self._snapshot: Snapshot | None = None
        self._fails = False

    def copy(self, run: PruningRun) -> Trained | None:
        """Return a copy around the rows of `run`; None if there is none yet."""
        if self._snapshot is None:
            return None
        trained: Trained = self._snapshot.restore(data=(run.X, run.y))
        return trained

    def keep(self, trained: Trained, run: PruningRun) -> None:
        """Keep a dense phase; warn, once, if it cannot be copied."""
        if self._fails or self._snapshot is not None:
            return
        try:
            self._snapshot = Snapshot.of(trained, data=(run.X, run.y))
        except Exception as error:  # pickling anything may fail in any way
            self._fails = True
            warnings.warn(
                f"The dense net cannot be copied ({type(error).__name__}: {error}), so "
                "it is trained again for every level. Results are the same, only "
                "slower.",
                UserWarning,
                stacklevel=2,
            )


@dataclass(frozen=True)
class OnPath:
    """The place of a fit among the fits of a path.

    Parameters
    ----------
    source : FrozenEstimator or None, default=None
        The fit before, whose net this one starts from, without a dense phase; None for
        the pruner's own estimator.
    later : sequence of (pruner, bool), default=()
        Pruners that go on from this fit's net, each with whether it is trained for
        them. What they ask for and cannot have is refused before any training.
    dense : SharedDense or None, default=None
        The store of the dense phase, if all fits of the path start from it.
    """

    source: FrozenEstimator | None = None
    later: Sequence[tuple[Pruner, bool]] = ()
    dense: SharedDense | None = None


#: The place of a fit that is not on a path.
ALONE = OnPath()


def train_dense(run: PruningRun, request: Request, progress: Progress) -> None:
    """Train the epochs before the first pruning event.

    Parameters
    ----------
    run : PruningRun
        A run whose training has begun.
    request : Request
        How many epochs there are, and what importances need of them.
    progress : Progress
        Reports every epoch; a callback may end the phase.
    """
    n_epochs = request.plan.dense_epochs
    rewind_epoch = request.rewind.epoch if request.rewind else None
    watching = run.watch(request.needs, request.layers)
    with watching, progress.phase("dense", n_epochs, run.net):
        for epoch in range(n_epochs):
            if epoch == rewind_epoch:
                run.beginning = Beginning(run.net)
            progress.begin_epoch()
            row = run.train("dense")
            run.go_on = progress.end_epoch(row, run.net) and run.go_on
            if not run.go_on:
                break
    watched = [name for name in WATCHED if name in request.needs]
    if watched and run.replaced(request.layers):
        raise RuntimeError(
            "A callback has replaced the module in the dense phase, in which the "
            f"importance watches {' and '.join(watched)}. Replace it in "
            "on_train_begin, or use another importance."
        )


def dense_phase(
    pruner: Pruner,
    run: PruningRun,
    request: Request,
    progress: Progress,
    shared: SharedDense | None = None,
) -> None:
    """Train the dense phase of a run, or take up one that was trained before.

    Parameters
    ----------
    pruner : estimator
        The pruner; its `memory` is the store.
    run : PruningRun
        A run whose training has begun. Where a phase is found, the run goes on with
        the net that was stored.
    request : Request
        What the phase depends on, besides the pruner's estimator and the rows.
    progress : Progress
        Reports every epoch, or that the phase was found.
    shared : SharedDense or None, default=None
        The dense phase of the path: tried before the store, and filled where empty.
    """
    if not request.plan.dense_epochs:
        train_dense(run, request, progress)
        return
    trained = None if shared is None else shared.copy(run)
    place = "the path"
    try:
        if trained is None:
            trained, place = _from_memory(pruner, run, request, progress)
    except _StoppedError:
        return
    if shared is not None:
        shared.keep(trained, run)
    if trained["net"] is not run.net:  # it was trained elsewhere
        run.take_up(trained)
        progress.recalled(run.history, run.net, place)


def _from_memory(
    pruner: Pruner, run: PruningRun, request: Request, progress: Progress
) -> tuple[Trained, str]:
    def train() -> Trained:
        train_dense(run, request, progress)
        if progress.stopped:
            raise _StoppedError
        return run.trained()

    key = None if pruner.memory is None else _key(pruner, run, request)
    if key is None:
        return train(), ""
    data = (run.X, run.y, *key[1])
    trained, _ = recall(pruner.memory, key[0], train, data)
    return trained, "memory"


def _key(pruner: Pruner, run: PruningRun, request: Request) -> Key | None:
    """Make a key of what the dense phase depends on, and of nothing else."""
    estimator = pruner.estimator or pruner._default_estimator()
    watched = [name for name in WATCHED if name in request.needs]
    used = run.global_state.used
    drawn: int | str | None = None
    if used or estimator.random_state is None:
        # Without a seed any dense net will do, so the one that is there.
        drawn = "any" if pruner.random_state is None else run.global_state.seed
    return key_of(
        pruner.memory,
        estimator,
        run.X,
        run.y,
        seed=(drawn, used),
        epochs=request.plan.dense_epochs,
        # By these a net's own validation data are read; the rows of y are numbers here.
        targets=None if run.format.own_dtype is None else run.format.targets,
        rewind=request.rewind and request.rewind.epoch,
        watched=watched and (watched, sorted(request.layers)),
    )


class _StoppedError(Exception):
    """Keeps a phase from the store that a callback cut short: no key knows of it."""
