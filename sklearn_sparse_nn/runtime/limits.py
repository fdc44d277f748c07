"""The limits of what a model may hold: parameters, eps, targets, labels, threads."""

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

__all__ = [
    "MOST_THREADS",
    "check_eps",
    "check_parameters",
    "check_targets",
    "check_unique",
    "thread_count",
]

#: More threads than any machine can use for one prediction.
MOST_THREADS = 1024
_LARGEST = float(np.finfo(np.float32).max)


def check_parameters(name: str, params: Sequence[float]) -> None:
    """Check that an activation is a function of float32 with these parameters.

    Parameters
    ----------
    name : str
        The name of the activation.
    params : sequence of float
        The parameters, in the order of the table of activations.

    Raises
    ------
    ValueError
        A parameter is NaN, infinite in float32, or makes every result so.
    """
    if any(isinstance(p, bool) or not abs(p) <= _LARGEST for p in params):
        raise ValueError(
            f"Parameters of activation {name!r} must be finite numbers in float32; "
            f"got {tuple(params)!r}."
        )
    if name == "softplus" and not abs(params[0]) >= 1 / _LARGEST:
        raise ValueError(
            "The beta of activation 'softplus' divides, so it must not be 0, nor its "
            f"inverse infinite in float32; got {params[0]!r}."
        )


def check_eps(eps: float) -> None:
    """Check the number that a norm adds to the variance.

    Parameters
    ----------
    eps : float
        The number.

    Raises
    ------
    ValueError
        It is negative, NaN, or infinite in float32.
    """
    if isinstance(eps, bool) or not 0 <= eps <= _LARGEST:
        raise ValueError(
            f"A norm's eps must be at least 0, and finite in float32 too; got {eps!r}."
        )


def check_targets(mean: float, scale: float) -> None:
    """Check the units of a regressor: the values of any raw output must be finite.

    Parameters
    ----------
    mean : float
        The number that is added.
    scale : float
        The factor of the raw outputs, which are float32; values are float64.

    Raises
    ------
    ValueError
        One of them is NaN or infinite, the scale is 0, or they are so large that
        values can be infinite.
    """
    if not np.isfinite((mean, scale)).all():
        raise ValueError(
            f"target_mean and target_scale must be finite numbers; got {mean!r} and "
            f"{scale!r}."
        )
    if scale == 0:
        raise ValueError(
            "target_scale must not be 0, or all predictions are the same; got "
            f"{scale!r}."
        )
    if not np.isfinite(_LARGEST * abs(float(scale)) + abs(float(mean))):
        raise ValueError(
            "target_mean and target_scale must be so small that every float32 times "
            f"the scale plus the mean is finite in float64; got {mean!r} and {scale!r}."
        )


def check_unique(labels: Iterable[object], what: str) -> None:
    """Check that no label is there twice.

    Parameters
    ----------
    labels : iterable
        The labels, as Python's own values.
    what : str
        What a label is, for the message.

    Raises
    ------
    ValueError
        A label is there more than once.
    """
    try:
        counts = Counter(labels)
    except TypeError:  # lists and the like, which only a file refuses
        return
    twice = [label for label, n in counts.items() if n > 1]
    if twice:
        raise ValueError(
            f"Every {what} must be there once; {twice[0]!r:.60} is there more than "
            "once."
        )


def thread_count(given: object) -> int:
    """Return a number of threads as an int.

    Parameters
    ----------
    given : int
        The number, from a user.

    Returns
    -------
    n : int

    Raises
    ------
    ValueError
        It is no int of 1 to `MOST_THREADS`.
    """
    is_int = isinstance(given, int | np.integer) and not isinstance(given, bool)
    if not is_int or not 1 <= int(given) <= MOST_THREADS:  # type: ignore[call-overload]
        raise ValueError(
            f"n_threads must be an int of at least 1 and at most {MOST_THREADS}; got "
            f"{given!r}."
        )
    return int(given)  # type: ignore[call-overload, no-any-return]
