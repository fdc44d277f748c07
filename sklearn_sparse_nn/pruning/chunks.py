"""Training by chunks of rows, and pruning between two chunks."""

from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import is_classifier
from sklearn.frozen import FrozenEstimator
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets, unique_labels
from sklearn.utils.validation import check_is_fitted
from skorch import NeuralNet

from sklearn_sparse_nn._compat import check_parameters
from sklearn_sparse_nn.core.budget import Sparsity
from sklearn_sparse_nn.core.method import OVER_A_FIT
from sklearn_sparse_nn.core.plan import Event
from sklearn_sparse_nn.dense.base import MatrixLike, NetRows, check_fit, transaction
from sklearn_sparse_nn.dense.source import dense_net, is_own_net, may_draw
from sklearn_sparse_nn.dense.tabular import TabularNet
from sklearn_sparse_nn.nets.seeding import GlobalState, as_seed, is_ours
from sklearn_sparse_nn.nets.targets import Labels, Values
from sklearn_sparse_nn.pruning.checks import warn_of_counts, warn_of_unpruned_weights
from sklearn_sparse_nn.pruning.limits import Shared, counts_to_keep
from sklearn_sparse_nn.pruning.parameters import Pruner
from sklearn_sparse_nn.pruning.progress import Progress
from sklearn_sparse_nn.pruning.request import Request
from sklearn_sparse_nn.pruning.run import WATCHED, PruningRun
from sklearn_sparse_nn.statistics.gathering import GATHERED
from sklearn_sparse_nn.training.run import (
    ChunkRun,
    begin_training,
    refuse_restoring,
)

__all__ = ["by_chunks", "partial_fit", "prune"]

# The parameters that say when `fit` prunes; here the caller does.
_AT_ONCE: Mapping[str, str | int] = {
    "schedule": "oneshot",
    "n_steps": 1,
    "dense_epochs": 1,
    "prune_epochs": 0,
    "finetune_epochs": 0,
}


def _takes_chunks(pruner: Pruner) -> bool:
    """Check that no parameter needs a whole fit; raise AttributeError otherwise.

    scikit-learn then takes the method to be missing, as for ``MLPClassifier``.
    """
    for name in OVER_A_FIT:
        value = getattr(pruner, name)
        if value is not None and getattr(value, "weight", value) != 0:
            raise AttributeError(
                f"partial_fit and prune do not support {name}={value!r}, which needs a "
                "whole fit. Call fit, or set it back to its default."
            )
    return True


Method = TypeVar("Method", bound=Callable[..., Any])


def by_chunks(method: Method) -> Method:
    """Hide a method of a pruner that needs a whole fit; its type stays what it is."""
    return available_if(_takes_chunks)(method)


def partial_fit(
    pruner: Pruner, X: MatrixLike, y: ArrayLike, classes: ArrayLike | None = None
) -> None:
    """Train a pruner for one epoch on a chunk of rows, under the masks so far.

    Parameters
    ----------
    pruner : PrunedClassifier or PrunedRegressor
        The pruner; a failed call leaves it as it was.
    X : {array-like, sparse matrix, DataFrame} of shape (n_samples, n_features)
        The chunk.
    y : array-like of shape (n_samples,)
        The targets of its rows.
    classes : array-like of shape (n_classes,) or None, default=None
        All labels that there will be.
    """
    check_parameters(pruner)
    with transaction(pruner):
        rows, targets = _check_chunk(pruner, X, y, classes)
        run = _take_up(pruner)
        state = _global_state(pruner, run)
        with state.isolated():
            if run is None:
                run = _begin(pruner, rows, targets, state, classes)
            else:
                _go_on(run, state)
                run.training.feed(run.format.rows(rows), run.format.encode(targets))
            _train(pruner, run)
            _finish(pruner, run)


def prune(
    pruner: Pruner, sparsity: Sparsity | None, X: MatrixLike | None, y: ArrayLike | None
) -> None:
    """Prune a pruner's net now, between two chunks.

    Parameters
    ----------
    pruner : PrunedClassifier or PrunedRegressor
        A fitted pruner; a failed call leaves it as it was.
    sparsity : float, int, dict or None
        In place of what the pruner's parameters ask for; None for these.
    X, y : arrays or None
        Rows for importances that look at rows.
    """
    check_is_fitted(pruner)
    if (X is None) != (y is None):
        given, missing = ("X", "y") if y is None else ("y", "X")
        raise ValueError(f"prune got {given} without {missing}; give both or none.")
    check_parameters(pruner)
    at_once = _at_once(pruner, sparsity)
    if pruner._snapshot is None and X is None:
        raise ValueError(
            "prune goes on from partial_fit, and this pruner was fitted by fit. "
            "Give prune some rows X and y for it to set up training again, or call "
            "partial_fit first."
        )
    with transaction(pruner):
        rows = None
        if X is not None and y is not None:
            rows = _check_chunk(pruner, X, y, None)
        run = _take_up(pruner)
        state = _global_state(pruner, run)
        with state.isolated():
            if run is not None:
                _go_on(run, state)
            elif rows is not None:
                run = _begin(pruner, *rows, state, None)
            assert run is not None
            if rows is not None:
                run.training.show(run.format.rows(rows[0]), run.format.encode(rows[1]))
            _prune(run, at_once, has_rows=rows is not None)
            _finish(pruner, run)


def _at_once(pruner: Pruner, sparsity: Sparsity | None = None) -> Pruner:
    """Build a pruner that prunes now what was asked for; check its parameters."""
    params = {**pruner.get_params(deep=False), **_AT_ONCE}
    if sparsity is not None:
        params |= {"sparsity": sparsity, "threshold": None, "budget": None}
    at_once = type(pruner)(**params)
    check_parameters(at_once)
    return at_once


def _check_chunk(
    pruner: Pruner, X: MatrixLike, y: ArrayLike, classes: ArrayLike | None
) -> tuple[NetRows, np.ndarray]:
    """Check rows by themselves, and against the chunks before them."""
    first = not hasattr(pruner, "net_")
    own = is_own_net(pruner.estimator) if first else pruner._own_dtype is not None
    X, y = check_fit(pruner, X, y, pruner._row_rules(own), reset=first)
    if is_classifier(pruner):
        check_classification_targets(y)
        _check_classes(pruner, y, classes, first=first)
    return X, y


def _check_classes(
    pruner: Pruner, y: np.ndarray, classes: ArrayLike | None, *, first: bool
) -> None:
    """Compare the classes with those of the first call, in scikit-learn's words."""
    known: Any = None if first else pruner.classes_
    if classes is None and first:
        if isinstance(pruner.estimator, FrozenEstimator):
            return  # it knows them
        raise ValueError("classes must be passed on the first call to partial_fit.")
    if classes is not None:
        given = unique_labels(classes)
        if known is not None and not np.array_equal(known, given):
            raise ValueError(
                f"`classes={classes!r}` is not the same as on last call to "
                f"partial_fit, was: {known!r}"
            )
        known = given
    seen = np.unique(y)
    if len(np.setdiff1d(seen, known, assume_unique=True)):
        raise ValueError(
            "`y` has classes not in `self.classes_`. `self.classes_` has "
            f"{known}. 'y' has {seen}."
        )


def _source(pruner: Pruner) -> NeuralNet | TabularNet | FrozenEstimator | None:
    """Return where the net comes from: the pruner's own fit, or its estimator."""
    return FrozenEstimator(pruner) if hasattr(pruner, "net_") else pruner.estimator


def _take_up(pruner: Pruner) -> PruningRun | None:
    """Return a copy of the run that the last call put away, if one did."""
    snapshot = getattr(pruner, "_snapshot", None)
    return None if snapshot is None else snapshot.restore()


def _global_state(pruner: Pruner, run: PruningRun | None) -> GlobalState:
    parts = pruner.importance, pruner.allocation, pruner.granularity
    used = may_draw(_source(pruner)) or not is_ours(*parts)
    seed = as_seed(pruner.random_state) if run is None else run.global_state.seed
    return GlobalState(seed, used, own_net=is_own_net(_source(pruner)))


def _go_on(run: PruningRun, state: GlobalState) -> None:
    """Restore the global generators to where the last call stopped."""
    run.global_state = state
    state.restore(run.drawn)


def _begin(
    pruner: Pruner,
    X: NetRows,
    y: np.ndarray,
    state: GlobalState,
    classes: ArrayLike | None,
) -> PruningRun:
    """Start a run: with a new net, or with that of an earlier fit."""
    classes = None if classes is None else unique_labels(classes)
    dense = dense_net(
        _source(pruner),
        pruner._default_estimator,
        X,
        y,
        random_state=state.seed,
        classes=classes,
        begin=begin_training,
        names=getattr(pruner, "feature_names_in_", None),
    )
    run = PruningRun.begin(dense, state)
    refuse_restoring(run.net)
    if classes is not None:
        _check_known(run.format.targets, classes)
    request = run.request(_at_once(pruner), max_epochs=1, trained=False)
    run.start_training(ChunkRun)
    run.start_masks(request, getattr(pruner, "masks_", None))
    if hasattr(pruner, "net_"):
        run.history = list(pruner.history_)
        run.counts = counts_to_keep(request.budget)
    run.watch(request.needs, run.layers)
    return run


def _check_known(targets: Labels | Values, classes: np.ndarray) -> None:
    """Compare the classes that were given with those that a frozen net knows."""
    known = targets.classes if isinstance(targets, Labels) else np.empty(0)
    if not np.array_equal(known, classes):
        raise ValueError(
            f"`classes={classes!r}` is not the same as in the frozen net, was: "
            f"{known!r}"
        )


def _train(pruner: Pruner, run: PruningRun) -> None:
    """Train for one epoch under the masks."""
    _tell_classes(run)
    watched = {name: run.layers[name] for name in run.movement}
    watching = run.watch(("movement",) if watched else (), watched)
    with run.held() as holder, watching:
        row = run.train(run.phase)
        holder.apply()  # a callback may have loaded other weights
    run.training.end_chunk()
    Progress(pruner.verbose).end_epoch(row, run.net)


def _prune(run: PruningRun, at_once: Pruner, *, has_rows: bool) -> None:
    """Carry out one pruning event."""
    _tell_classes(run)
    request = run.request(at_once, max_epochs=1, trained=False)
    counts = counts_to_keep(request.budget)
    _check_total(run, counts, request)
    warn_of_counts(request)
    warn_of_unpruned_weights(run.net.module_, request)
    _check_statistics(run, request, at_once, has_rows=has_rows)
    with run.pruning(request):
        if request.plan.events:
            run.prune(Event(Fraction(0), 1.0))
    run.counts = run.counts | counts


def _tell_classes(run: PruningRun) -> None:
    """Set all classes in a net that looks for its classes in every chunk."""
    if hasattr(run.net, "classes_inferred_"):
        run.net.classes_inferred_ = np.arange(run.format.targets.n_outputs)


def _finish(pruner: Pruner, run: PruningRun) -> None:
    """Set the fitted attributes, and put the run away."""
    snapshot = run.snapshot()
    run.training.restore_order()
    vars(pruner).update(run.fitted(snapshot))


def _check_statistics(
    run: PruningRun, request: Request, at_once: Pruner, *, has_rows: bool
) -> None:
    """Refuse an importance that needs what is not there."""
    said = f"importance={at_once.importance!r}"
    gathered = [name for name in request.needs if name in GATHERED]
    if gathered and not has_rows:
        raise ValueError(
            f"{said} asks for {', '.join(map(repr, gathered))}, which rows of data "
            "give: call prune(X=..., y=...) with a chunk, or some rows of it."
        )
    for name in WATCHED:
        known = getattr(run, name)
        if name in request.needs and not known.keys() >= request.layers.keys():
            raise ValueError(
                f"{said} asks for {name!r}, which is watched from the first call of "
                "partial_fit on: set importance and layers before it."
            )


def _check_total(
    run: PruningRun, counts: Mapping[Shared, int], request: Request
) -> None:
    """Refuse to let weights live again; an earlier request may be repeated.

    Groups that live together may have left fewer than it allowed.
    """
    budget, masks = request.budget, run.masks_of(request.layers)
    for (names, unit), kept in counts.items():
        alive = sum(int(masks[name].sum()) * budget.cost(name) for name in names)
        if kept > max(alive, run.counts.get((names, unit), 0)):
            size = sum(budget.size(name) for name in names)
            raise ValueError(
                f"A sparsity of {1 - kept / size:.6g} is less than the "
                f"{1 - alive / size:.6g} that {', '.join(names)} have: what was pruned "
                "stays pruned. Ask for more, or fit anew."
            )
