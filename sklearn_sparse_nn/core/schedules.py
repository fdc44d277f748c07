"""The schedules: functions from progress in 0..1 to a share of the final sparsity.

A schedule is any function with ``f(1) == 1`` that does not decrease, except to 0,
which lets every weight live again. Those with a parameter are small estimators, so
that ``schedule__power`` can be searched.
"""

import math
from collections.abc import Callable, Mapping
from copy import copy
from itertools import pairwise
from numbers import Integral, Real
from types import MappingProxyType
from typing import Literal

from sklearn.base import BaseEstimator

from sklearn_sparse_nn.exceptions import UnknownNameError

__all__ = [
    "SCHEDULES",
    "Between",
    "Cyclic",
    "Exponential",
    "Polynomial",
    "Schedule",
    "ScheduleName",
    "constant",
    "cosine",
    "event_shares",
    "linear",
    "oneshot",
    "resolve_schedule",
]

Schedule = Callable[[float], float]
ScheduleName = Literal[
    "oneshot", "constant", "linear", "cubic", "exponential", "cosine", "cyclic"
]


def oneshot(progress: float) -> float:
    """Prune everything at the first event.

    Parameters
    ----------
    progress : float in [0, 1]
        The progress of the pruning phase.

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


def constant(progress: float) -> float:
    """Hold the whole sparsity from the first event on: training that starts sparse.

    Parameters
    ----------
    progress : float in [0, 1]
        The progress of the pruning phase.

    Returns
    -------
    share : float
        Always 1.

    References
    ----------
    Mocanu et al. 2018, "Scalable training of artificial neural networks with adaptive
    sparse connectivity": the sparsity never changes, only where the weights are.

    Examples
    --------
    >>> constant(0.1)
    1.0
    """
    return 1.0


def linear(progress: float) -> float:
    """Prune the same number of weights at every event.

    Parameters
    ----------
    progress : float in [0, 1]
        The progress of the pruning phase.

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
        The progress of the pruning phase.

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
        """Compute the share of the final sparsity that is due at `progress`."""
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
        """Compute the share of the final sparsity that is due at `progress`."""
        if not self.rate > 0:
            raise ValueError(
                f"Exponential(rate={self.rate!r}): rate must be greater than 0."
            )
        return math.expm1(-self.rate * progress) / math.expm1(-self.rate)


class Cyclic(BaseEstimator):
    """Alternate between all pruned and all alive, in phases of equal length.

    The pruning phase has ``2 * cycles - 1`` parts. In the first, the third, ... and
    the last the whole sparsity holds; in those between every weight lives.

    Parameters
    ----------
    cycles : int, default=4
        The number of compressed phases, 1 or more. `n_steps` of the pruner should be a
        multiple of ``2 * cycles - 1``, so that events begin the phases.

    References
    ----------
    Peste et al. 2021, "AC/DC: Alternating Compressed/DeCompressed Training of Deep
    Neural Networks", section 3. There a dense warm-up comes first and the last
    compressed phase goes on for longer: `dense_epochs` and `finetune_epochs`.

    Examples
    --------
    >>> [Cyclic(cycles=2)(step / 3) for step in (1, 2, 3)]
    [1.0, 0.0, 1.0]
    """

    def __init__(self, cycles: int = 4) -> None:
        self.cycles = cycles

    def __call__(self, progress: float) -> float:
        """Return 1 in a compressed part, including its end, and else 0."""
        if not (isinstance(self.cycles, Integral) and self.cycles >= 1):
            raise ValueError(
                f"Cyclic(cycles={self.cycles!r}): cycles must be an int of at least 1."
            )
        # The end of part 7 of 25 is in it, though 7 / 25 * 25 comes out above 7.
        part = math.ceil(progress * (2 * self.cycles - 1) - 1e-9) - 1
        return float(max(part, 0) % 2 == 0)


class Between(BaseEstimator):
    """Stretch a schedule over a part of the pruning phase.

    Parameters
    ----------
    schedule : str or callable, default="cubic"
        The schedule to stretch: a name, a function or an object.
    begin : float in [0, 1), default=0.0
        The progress up to which nothing is pruned; with 0 `schedule` decides.
    end : float in (0, 1], default=1.0
        The progress from which the whole sparsity holds; greater than `begin`.

    Examples
    --------
    >>> schedule = Between("linear", begin=0.5, end=0.75)
    >>> [schedule(step / 8) for step in (4, 5, 6, 7)]
    [0.0, 0.5, 1.0, 1.0]
    """

    def __init__(
        self,
        schedule: "str | Schedule" = "cubic",
        begin: float = 0.0,
        end: float = 1.0,
    ) -> None:
        self.schedule = schedule
        self.begin = begin
        self.end = end

    def __call__(self, progress: float) -> float:
        """Compute the share of the final sparsity that is due at `progress`."""
        numbers = isinstance(self.begin, Real) and isinstance(self.end, Real)
        if not (numbers and 0 <= self.begin < self.end <= 1):
            raise ValueError(
                f"Between(begin={self.begin!r}, end={self.end!r}): must satisfy "
                "0 <= begin < end <= 1."
            )
        if progress <= self.begin and self.begin > 0:
            return 0.0
        inside = (min(progress, self.end) - self.begin) / (self.end - self.begin)
        return resolve_schedule(self.schedule)(inside)


SCHEDULES: Mapping[str, Schedule] = MappingProxyType(
    {
        "oneshot": oneshot,
        "constant": constant,
        "linear": linear,
        "cubic": Polynomial(power=3),
        "exponential": Exponential(),
        "cosine": cosine,
        "cyclic": Cyclic(),
    }
)


def resolve_schedule(schedule: str | Schedule) -> Schedule:
    """Return the schedule of a name.

    Parameters
    ----------
    schedule : str or callable
        A name in `SCHEDULES` or a function of progress.

    Returns
    -------
    schedule : callable
        A function from progress to the share of the final sparsity.

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
    """Compute the shares of a schedule at its pruning events, and check them.

    Parameters
    ----------
    schedule : callable
        The function from progress in 0..1 to the share of the final sparsity.
    n_steps : int
        The number of events; event i of n is at progress ``i / n``.

    Returns
    -------
    shares : tuple of float, length `n_steps`
        The shares. They never decrease, except to exactly 0, and end at exactly 1.

    Raises
    ------
    ValueError
        A share is no number in [0, 1], the shares decrease to anything but 0, or the
        last is not 1.

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
        if 0.0 < after < before:
            raise ValueError(
                f"The schedule falls from {before!r} to {after!r}; pruned weights stay "
                "pruned, so it must not decrease, except to 0, which lets every weight "
                "live again."
            )
    return tuple(shares)
