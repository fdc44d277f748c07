"""The scores of estimators: one number each."""

from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.metrics import check_scoring

__all__ = ["one_score", "pandas_for", "resolve_scorer"]


def resolve_scorer(estimator: Any, scoring: Any) -> Callable[..., Any]:
    """Make a scorer of scikit-learn's `scoring`.

    Parameters
    ----------
    estimator : estimator
        The estimator whose own ``score`` is used when `scoring` is None.
    scoring : str, callable or None
        One score, as in scikit-learn.

    Returns
    -------
    scorer : callable
        ``(estimator, X, y) -> score``, high = good.

    Raises
    ------
    ValueError
        `scoring` has several scores.
    """
    if isinstance(scoring, (list, tuple, set, dict)):
        raise ValueError(
            f"scoring must be one score, such as 'accuracy' or a callable; got "
            f"{scoring!r}. Call once for each."
        )
    return check_scoring(estimator, scoring=scoring)


def one_score(scorer: Callable[..., Any], estimator: Any, X: Any, y: Any) -> float:
    """Score an estimator.

    Parameters
    ----------
    scorer : callable
        A scorer from `resolve_scorer`.
    estimator : estimator
        A fitted estimator.
    X, y : arrays
        The rows to score on, and their labels or values.

    Returns
    -------
    score : float

    Raises
    ------
    ValueError
        The scorer returns no single number.
    """
    score = scorer(estimator, X, y)
    if isinstance(score, dict) or np.ndim(score):
        raise ValueError(f"scoring must give one number; it gave {score!r}.")
    return float(score)


def pandas_for(caller: str) -> Any:
    """Import pandas, an extra.

    Parameters
    ----------
    caller : str
        The name of the function that needs it, for the error.

    Returns
    -------
    pandas : module

    Raises
    ------
    ImportError
        pandas is not installed.
    """
    try:
        import pandas  # an extra
    except ImportError as error:
        raise ImportError(
            f"{caller} gives a pandas DataFrame: install pandas, or "
            "sklearn-sparse-nn[pandas]."
        ) from error
    return pandas
