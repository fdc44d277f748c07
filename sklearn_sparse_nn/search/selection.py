"""The scores over folds, and the choice of a level by them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
from scipy.stats import rankdata

__all__ = ["SELECTIONS", "Selection", "choose_level", "cv_results", "means_of"]

Selection = Literal["best", "one_se", "tolerance"]
SELECTIONS: tuple[Selection, ...] = get_args(Selection)


def cv_results(
    levels: Sequence[Any], folds: Sequence[Sequence[Mapping[str, Any]]]
) -> dict[str, Any]:
    """Tabulate scores of levels over folds as GridSearchCV does.

    Parameters
    ----------
    levels : sequence
        The sparsities.
    folds : sequence of sequences of dict
        A row for every level of every fold: seconds to ``fit`` and to ``score``, and
        ``scores`` by name.

    Returns
    -------
    results : dict
        The table, in the form of ``cv_results_``.
    """
    results: dict[str, Any] = {}

    def add(name: str, values: np.ndarray) -> None:
        results[f"mean_{name}"] = values.mean(axis=0)
        results[f"std_{name}"] = values.std(axis=0)

    for name in ("fit", "score"):
        add(f"{name}_time", np.array([[row[name] for row in fold] for fold in folds]))
    dtype = np.int64 if isinstance(levels[0], (int, np.integer)) else np.float64
    results["param_sparsity"] = np.ma.MaskedArray(np.array(levels, dtype=dtype))
    results["params"] = [{"sparsity": level} for level in levels]
    for name in folds[0][0]["scores"]:
        scores = np.array([[row["scores"][name] for row in fold] for fold in folds])
        for k, split in enumerate(scores):
            results[f"split{k}_test_{name}"] = split
        add(f"test_{name}", scores)
        means = results[f"mean_test_{name}"]
        known = np.where(np.isnan(means), np.nanmin(means, initial=0.0) - 1, means)
        results[f"rank_test_{name}"] = rankdata(-known, method="min").astype(np.int32)
    return results


def means_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Average scores by name over folds.

    Parameters
    ----------
    rows : sequence of dict
        A row for every fold, with ``scores`` by name.

    Returns
    -------
    means : dict of name to float
    """
    names = rows[0]["scores"]
    return {name: float(np.mean([r["scores"][name] for r in rows])) for name in names}


def choose_level(
    results: dict[str, Any],
    dense: Sequence[float],
    name: str,
    *,
    select: Selection | Callable[[dict[str, Any]], int],
    tolerance: float,
) -> int:
    """Choose a level of a path.

    Parameters
    ----------
    results : dict
        The results of `cv_results`; levels from the densest to the sparsest.
    dense : sequence of float
        The dense net's score in every fold.
    name : str
        The score that decides.
    select : {"best", "one_se", "tolerance"} or callable
        The rule; see `PrunedClassifierCV`.
    tolerance : float
        The fraction of the dense score that may be lost.

    Returns
    -------
    index : int

    Raises
    ------
    ValueError
        No level has a score, or a callable returned no index of a level.

    Examples
    --------
    >>> rows = [[0.90, 0.91, 0.905, 0.7], [0.92, 0.93, 0.915, 0.8]]
    >>> folds = [[{"fit": 0, "score": 0, "scores": {"s": s}} for s in r] for r in rows]
    >>> results = cv_results([0.5, 0.8, 0.9, 0.99], folds)
    >>> [
    ...     choose_level(results, [0.91, 0.92], "s", select=rule, tolerance=0.01)
    ...     for rule in SELECTIONS
    ... ]
    [1, 2, 2]
    """
    means = results[f"mean_test_{name}"]
    n_levels = len(means)
    if callable(select):
        index = select(results)
        if not isinstance(index, (int, np.integer)) or not 0 <= index < n_levels:
            raise ValueError(
                f"select must give an index of one of {n_levels} levels; it gave "
                f"{index!r}."
            )
        return int(index)
    if np.isnan(means).all():
        raise ValueError(f"No level has a score: every mean of {name!r} is NaN.")
    splits = np.array([results[f"split{k}_test_{name}"] for k in range(len(dense))])
    best = n_levels - 1 - int(np.nanargmax(means[::-1]))  # of equal ones the sparsest
    if select == "best":
        return best
    if select == "one_se":
        fine = means >= means[best] - _standard_error(splits[:, best])
    else:
        losses = splits - np.array(dense)[:, None]
        least = losses.mean(axis=0) - _standard_error(losses)
        fine = least >= -tolerance * abs(float(np.mean(dense)))
    return int(np.flatnonzero(fine)[-1]) if fine.any() else best


def _standard_error(values: np.ndarray) -> Any:
    """Compute the standard error of a mean over folds; 0 for a single fold."""
    n = len(values)
    return values.std(axis=0, ddof=1) / np.sqrt(n) if n > 1 else np.zeros(())
