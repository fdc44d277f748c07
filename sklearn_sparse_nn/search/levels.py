"""The fits of a path: the dense net, then level after level of sparsity."""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from time import perf_counter
from typing import Any, Literal, get_args

from sklearn.base import clone
from sklearn.frozen import FrozenEstimator

from sklearn_sparse_nn._compat import check_parameters
from sklearn_sparse_nn.core.method import OVER_A_FIT
from sklearn_sparse_nn.core.recovery import resolve_rewind
from sklearn_sparse_nn.pruning.dense_phase import OnPath, SharedDense

__all__ = ["STARTS", "Start", "fit_levels"]

Start = Literal["previous", "dense"]
STARTS: tuple[Start, ...] = get_args(Start)
_NOT_PRUNED = {
    "sparsity": 0.0,
    "prune_epochs": 0,
    "finetune_epochs": 0,
    "allocation": "auto",
    **OVER_A_FIT,
}


def fit_levels(
    pruner: Any,
    X: Any,
    y: Any,
    levels: Sequence[Any],
    *,
    start: Start = "previous",
    context: Any = None,
    caller: Any = None,
) -> Iterator[tuple[Any, Any, float]]:
    """Fit the dense net and then level after level.

    Parameters
    ----------
    pruner : PrunedClassifier or PrunedRegressor
        An unfitted pruner.
    X, y : arrays
        Rows to train on.
    levels : sequence of float or of int
        The levels that `check_levels` returned.
    start : {"previous", "dense"}, default="previous"
        The net that a level is pruned from: that of the level before, or the dense one.
    context : sklearn.callback.CallbackContext or None, default=None
        The callback task that has a subtask for every fit.
    caller : estimator or None, default=None
        The estimator that this task belongs to.

    Yields
    ------
    level : float or int
        The level; 0.0 for the dense net.
    model : the class of `pruner`
        A fitted pruner, with the parameters of `pruner` but for `sparsity`.
    seconds : float
        The time of this fit.
    """
    chained = start == "previous"
    template = clone(pruner)
    models = [clone(template).set_params(sparsity=level) for level in levels]
    check_parameters(models[0])  # also what the dense net is given without
    if chained:
        _refuse_rewinding(template)
    shared = None if chained else SharedDense()
    rewind = None if chained else template.rewind
    before = clone(template).set_params(**{**_NOT_PRUNED, "rewind": rewind})
    later = [(_without_dense_phase(m) if chained else m, chained) for m in models]
    place = OnPath(later=later, dense=shared)
    yield 0.0, before, _fit(before, X, y, place, "dense", context, caller)
    for level, model in zip(levels, models, strict=True):
        source = FrozenEstimator(before) if chained else None
        place = OnPath(source, dense=shared)
        seconds = _fit(model, X, y, place, f"sparsity {level}", context, caller)
        yield level, model, seconds
        before = model


def _without_dense_phase(pruner: Any) -> Any:
    return clone(pruner).set_params(dense_epochs=None)


def _refuse_rewinding(pruner: Any) -> None:
    rewind = resolve_rewind(pruner.rewind)
    if rewind is not None and rewind.epoch:
        raise ValueError(
            f"rewind={pruner.rewind!r} and start='previous' do not go together: a "
            "level that starts from another one has no dense epoch to go back to. Use "
            "start='dense', or rewind='weights'."
        )


def _fit(
    model: Any, X: Any, y: Any, place: OnPath, name: str, context: Any, caller: Any
) -> float:
    """Fit a model as a task of its own; return the seconds that it took."""
    begin = perf_counter()
    task = None if context is None else context.subcontext(task_name=name)
    with nullcontext() if task is None else task.propagate_callback_context(model):
        if task is not None:
            task.call_on_fit_task_begin(estimator=caller, X=X, y=y)
        model._fit_on_path(X, y, place)
        if task is not None:
            task.call_on_fit_task_end(estimator=caller, X=X, y=y)
    return perf_counter() - begin
