"""Scores of estimators: one number each, whatever was asked for."""

from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.metrics import check_scoring

__all__ = ["one_score", "pandas_for", "resolve_scorer"]


def resolve_scorer(estimator: Any, scoring: Any) -> Callable[..., Any]:
    """Turn what scikit-learn takes as `scoring` into a scorer.

    Parameters
    ----------
    estimator : estimator
        Its own ``score`` is used when `scoring` is None.
    scoring : str, callable or None
        One score.

    Returns
    -------
    scorer : callable
        ``(estimator, X, y) -> score``, high = good.

    Raises
    ------
    ValueError
        Several scores were asked for.
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
        From `resolve_scorer`.
    estimator : estimator
        Fitted.
    X, y : arrays
        Rows to score on.

    Returns
    -------
    score : float

    Raises
    ------
    ValueError
        The scorer gives no single number.
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
        Who needs it, for the error.

    Returns
    -------
    pandas : module

    Raises
    ------
    ImportError
        It is not installed.
    """
    try:
        import pandas  # an extra
    except ImportError as error:
        raise ImportError(
            f"{caller} gives a pandas DataFrame: install pandas, or "
            "sklearn-sparse-nn[pandas]."
        ) from error
    return pandas
