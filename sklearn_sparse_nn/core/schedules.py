"""When how much is pruned: progress in 0..1 -> share of the final sparsity.

A schedule is any function with ``f(1) == 1`` that does not decrease. Those with a
parameter are small estimators, so that ``schedule__power`` can be searched.
"""

import math
from collections.abc import Callable, Mapping
from copy import copy
from itertools import pairwise
from types import MappingProxyType

from sklearn.base import BaseEstimator

from sklearn_sparse_nn.exceptions import UnknownNameError

__all__ = [
    "SCHEDULES",
    "Exponential",
    "Polynomial",
    "Schedule",
    "cosine",
    "event_shares",
    "linear",
    "oneshot",
    "resolve_schedule",
]

Schedule = Callable[[float], float]


def oneshot(progress: float) -> float:
    """Prune everything at the first event.

    Parameters
    ----------
    progress : float in [0, 1]
        Where the pruning phase stands.

    Returns
    -------
    share : float
        Always 1.

    Examples
    --------
    >>> oneshot(0.1)
    1.0
    """
    return 1.0


def linear(progress: float) -> float:
    """Prune the same number of weights at every event.

    Parameters
    ----------
    progress : float in [0, 1]
        Where the pruning phase stands.

    Returns
    -------
    share : float
        ``progress``.

    Examples
    --------
    >>> linear(0.25)
    0.25
    """
    return progress


def cosine(progress: float) -> float:
    """Prune slowly at both ends and fastest in the middle.

    Parameters
    ----------
    progress : float in [0, 1]
        Where the pruning phase stands.

    Returns
    -------
    share : float
        ``(1 - cos(pi * progress)) / 2``.

    Examples
    --------
    >>> round(cosine(0.5), 6)
    0.5
    """
    return (1.0 - math.cos(math.pi * progress)) / 2.0


class Polynomial(BaseEstimator):
    """Prune fast at first and gently near the end: ``1 - (1 - progress) ** power``.

    Parameters
    ----------
    power : float, default=3
        3 is gradual pruning's cubic schedule, 1 the linear one. Must be positive.

    References
    ----------
    Zhu and Gupta 2017, "To prune, or not to prune", equation 1.

    Examples
    --------
    >>> Polynomial(power=3)(0.5)
    0.875
    """

    def __init__(self, power: float = 3) -> None:
        self.power = power

    def __call__(self, progress: float) -> float:
        """Give the share of the final sparsity that is due at `progress`."""
        if not self.power > 0:
            raise ValueError(
                f"Polynomial(power={self.power!r}): power must be greater than 0."
            )
        return float(1.0 - (1.0 - progress) ** self.power)


class Exponential(BaseEstimator):
    """Prune the same share of the survivors at every event.

    The share is ``(1 - exp(-rate * progress)) / (1 - exp(-rate))``.

    Parameters
    ----------
    rate : float, default=3.0
        ``-log(1 - sparsity)`` makes the number of survivors decay geometrically: 2.3
        at sparsity 0.9, 3.0 at 0.95, 4.6 at 0.99. Must be positive.

    Examples
    --------
    >>> round(Exponential(rate=3.0)(0.5), 4)
    0.8176
    """

    def __init__(self, rate: float = 3.0) -> None:
        self.rate = rate

    def __call__(self, progress: float) -> float:
        """Give the share of the final sparsity that is due at `progress`."""
        if not self.rate > 0:
            raise ValueError(
                f"Exponential(rate={self.rate!r}): rate must be greater than 0."
            )
        return math.expm1(-self.rate * progress) / math.expm1(-self.rate)


SCHEDULES: Mapping[str, Schedule] = MappingProxyType(
    {
        "oneshot": oneshot,
        "linear": linear,
        "cubic": Polynomial(power=3),
        "exponential": Exponential(),
        "cosine": cosine,
    }
)


def resolve_schedule(schedule: str | Schedule) -> Schedule:
    """Turn a name into its schedule.

    Parameters
    ----------
    schedule : str or callable
        A name in `SCHEDULES` or a function of progress.

    Returns
    -------
    schedule : callable

    Raises
    ------
    UnknownNameError
        The name does not exist.

    Examples
    --------
    >>> resolve_schedule("cubic")(1.0)
    1.0
    """
    if isinstance(schedule, str):
        if schedule not in SCHEDULES:
            raise UnknownNameError("schedule", schedule, SCHEDULES)
        return copy(SCHEDULES[schedule])
    return schedule


def event_shares(schedule: Schedule, n_steps: int) -> tuple[float, ...]:
    """Evaluate a schedule at its pruning events, checking what it gives.

    Parameters
    ----------
    schedule : callable
        Progress in 0..1 to the share of the final sparsity.
    n_steps : int
        Number of events; event i of n is at progress ``i / n``.

    Returns
    -------
    shares : tuple of float, length `n_steps`
        Non-decreasing, ending at exactly 1.

    Raises
    ------
    ValueError
        A share is no number in [0, 1], the shares decrease, or the last is not 1.

    Examples
    --------
    >>> event_shares(linear, 4)
    (0.25, 0.5, 0.75, 1.0)
    """
    shares = [float(schedule(step / n_steps)) for step in range(1, n_steps + 1)]
    if math.isclose(shares[-1], 1.0, rel_tol=1e-9):
        shares[-1] = 1.0  # rounding in a user's own formula is no mistake
    for step, share in enumerate(shares, start=1):
        if not 0.0 <= share <= 1.0:
            raise ValueError(
                f"The schedule gave {share!r} at progress {step / n_steps:g}; a share "
                "of the final sparsity must be in [0, 1]."
            )
    if shares[-1] != 1.0:
        raise ValueError(
            f"The schedule ends at {shares[-1]!r}; it must end at 1, so that the last "
            "event prunes all that was asked (f(1.0) == 1.0)."
        )
    for before, after in pairwise(shares):
        if after < before:
            raise ValueError(
                f"The schedule falls from {before!r} to {after!r}; without regrowth "
                "pruned weights stay pruned, so it must not decrease."
            )
    return tuple(shares)
