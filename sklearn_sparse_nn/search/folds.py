"""The scores of a path on the rows that one fold leaves out."""

from time import perf_counter
from typing import Any

from sklearn.utils import _safe_indexing

from sklearn_sparse_nn.dense.pipelines import StepsBefore
from sklearn_sparse_nn.search.levels import Start, fit_levels
from sklearn_sparse_nn.search.path import scores_of

__all__ = ["Fold", "scored_path"]

Fold = tuple[dict[str, Any], list[dict[str, Any]]]


def scored_path(
    before: StepsBefore,
    pruner: Any,
    X: Any,
    y: Any,
    split: Any,
    levels: list[Any],
    scorer: Any,
    *,
    start: Start,
    number: int,
    task: Any,
    caller: Any,
    verbose: int,
) -> Fold:
    """Score the dense net and every level on the rows left out of training.

    Parameters
    ----------
    before : StepsBefore
        The steps of a pipeline that rows pass before they reach the pruner.
    pruner : pruner
        The pruner, with a seed.
    X, y : arrays
        All rows, with their targets.
    split : tuple of arrays
        The places of the rows to train on and to score on.
    levels : list
        The sparsities to fit, in order.
    scorer : callable
        The scorer of a fitted estimator.
    start : {"previous", "dense"}
        The net that a level is pruned from.
    number : int
        The number of the fold, for what is printed.
    task : sklearn.callback.CallbackContext or None
        The task of the fold.
    caller : estimator
        The search, for callbacks.
    verbose : int
        Whether every level is printed.

    Returns
    -------
    fold : tuple of dict and list of dict
        The scores and times of the dense net, and of every level.
    """
    (X, X_test), (y, y_test) = (
        [_safe_indexing(part, rows) for rows in split] for part in (X, y)
    )
    rows = []
    if task is not None:
        task.call_on_fit_task_begin(estimator=caller)
    before, train = before.fit(X, y)
    for level, model, seconds in fit_levels(
        pruner, train, y, levels, start=start, context=task, caller=caller
    ):
        begin = perf_counter()
        scores = scores_of(scorer, before.around(model), X_test, y_test)
        rows.append({"scores": scores, "fit": seconds, "score": perf_counter() - begin})
        if verbose:
            text = "  ".join(f"{name} {score:.4g}" for name, score in scores.items())
            print(f"fold {number}  sparsity {level}  {text}  {seconds:.1f} s")
    if task is not None:
        task.call_on_fit_task_end(estimator=caller)
    return rows[0], rows[1:]
