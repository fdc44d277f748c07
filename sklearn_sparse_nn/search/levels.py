"""From level to level of sparsity: the fits of a path, one at a time."""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from time import perf_counter
from typing import Any

from sklearn.base import clone
from sklearn.frozen import FrozenEstimator

from sklearn_sparse_nn._compat import check_parameters
from sklearn_sparse_nn.core.recovery import resolve_rewind
from sklearn_sparse_nn.pruning.dense_phase import KeptPhase, OnPath

__all__ = ["STARTS", "walk"]

STARTS = ("previous", "dense")
_NOT_PRUNED = {
    "sparsity": 0.0,
    "prune_epochs": 0,
    "finetune_epochs": 0,
    "regrow": None,
    "penalty": None,
    "distill": 0.0,
    "allocation": "auto",
}


def walk(
    pruner: Any,
    X: Any,
    y: Any,
    levels: Sequence[Any],
    *,
    start: str = "previous",
    context: Any = None,
    caller: Any = None,
) -> Iterator[tuple[Any, Any, float]]:
    """Fit the dense net and then level after level.

    Parameters
    ----------
    pruner : PrunedClassifier or PrunedRegressor
        Unfitted.
    X, y : arrays
        Rows to train on.
    levels : sequence
        From `check_levels`.
    start : {"previous", "dense"}, default="previous"
        What a level is pruned from.
    context : sklearn.callback.CallbackContext or None, default=None
        A task for as many subtasks as there are fits.
    caller : estimator or None, default=None
        Whose task that is.

    Yields
    ------
    level : float or int
        0.0 for the dense net.
    model : the class of `pruner`
        Fitted, with the parameters of `pruner` but for `sparsity`.
    seconds : float
        That this fit took.
    """
    chained = start == "previous"
    asked = clone(pruner)
    models = [clone(asked).set_params(sparsity=level) for level in levels]
    check_parameters(models[0])  # also what the dense net is given without
    if chained:
        _refuse_rewinding(asked)
        for model in models:
            model.set_params(dense_epochs=None)
    kept = None if chained else KeptPhase()
    rewind = None if chained else asked.rewind
    before = clone(asked).set_params(**_NOT_PRUNED, rewind=rewind)
    before._path = OnPath([(model, chained) for model in models], kept)
    yield 0.0, before, _fit(before, X, y, "dense", context, caller)
    for level, model in zip(levels, models, strict=True):
        model._path = OnPath(dense=kept)
        if chained:
            model.estimator = FrozenEstimator(before)
        seconds = _fit(model, X, y, f"sparsity {level}", context, caller)
        # What it was fitted from is over; its parameters are again those asked for.
        model.set_params(**clone(asked).get_params(deep=False) | {"sparsity": level})
        yield level, model, seconds
        before = model


def _refuse_rewinding(pruner: Any) -> None:
    rewind = resolve_rewind(pruner.rewind)
    if rewind is not None and rewind.epoch:
        raise ValueError(
            f"rewind={pruner.rewind!r} and start='previous' do not go together: a "
            "level that starts from another one has no dense epoch to go back to. Use "
            "start='dense', or rewind='weights'."
        )


def _fit(model: Any, X: Any, y: Any, name: str, context: Any, caller: Any) -> float:
    """Fit a model as a task of its own; give the seconds."""
    begin = perf_counter()
    task = None if context is None else context.subcontext(task_name=name)
    with nullcontext() if task is None else task.propagate_callback_context(model):
        if task is not None:
            task.call_on_fit_task_begin(estimator=caller, X=X, y=y)
        model.fit(X, y)
        if task is not None:
            task.call_on_fit_task_end(estimator=caller, X=X, y=y)
    return perf_counter() - begin
