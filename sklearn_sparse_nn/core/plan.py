"""The plan of a fit: dense, pruning and fine-tuning epochs, and pruning events."""

from dataclasses import dataclass
from fractions import Fraction

from sklearn_sparse_nn.core.regrowth import Regrow
from sklearn_sparse_nn.core.schedules import Schedule, event_shares

__all__ = ["Event", "Plan", "make_plan", "most_steps"]

_N_STEPS = 10  # pruning events, where nobody says how many


@dataclass(frozen=True)
class Event:
    """One pruning event.

    Parameters
    ----------
    at : Fraction
        The number of epochs of the pruning phase before the event.
    share : float
        The share of the final sparsity that is due; 0 lets all weights live again.
    swap : float, default=0.0
        The share of a layer's living groups that is dropped, for others to grow.
    """

    at: Fraction
    share: float
    swap: float = 0.0


@dataclass(frozen=True)
class Plan:
    """The epochs of the phases, and the pruning events.

    Parameters
    ----------
    dense_epochs, prune_epochs, finetune_epochs : int
        The length of the phases.
    events : tuple of Event
        The events in order; the last share is 1. Empty when there is nothing to prune.
    """

    dense_epochs: int
    prune_epochs: int
    finetune_epochs: int
    events: tuple[Event, ...]

    @property
    def n_epochs(self) -> int:
        """The number of all epochs together."""
        return self.dense_epochs + self.prune_epochs + self.finetune_epochs

    @property
    def final_epochs(self) -> int:
        """The number of epochs that end at the final sparsity."""
        last = int(self.events[-1].at) if self.events else 0
        return self.prune_epochs - last + self.finetune_epochs

    @property
    def inside_epochs(self) -> bool:
        """True if an event does not begin an epoch."""
        return any(event.at.denominator > 1 for event in self.events)

    @property
    def falls(self) -> bool:
        """True if weights live again at some event."""
        return any(event.share == 0 for event in self.events)


def most_steps(prune_epochs: int, n_batches: int | None) -> int:
    """Choose the number of pruning events where nobody has: 10, or as many as fit.

    Parameters
    ----------
    prune_epochs : int
        The length of the pruning phase.
    n_batches : int or None
        The number of training steps of an epoch; None if it is not known yet.

    Returns
    -------
    n_steps : int

    Examples
    --------
    >>> most_steps(10, 2), most_steps(1, 6), most_steps(0, 6)
    (10, 6, 10)
    """
    if n_batches is None or not prune_epochs:
        return _N_STEPS
    return min(_N_STEPS, prune_epochs * max(1, n_batches))


def make_plan(
    schedule: Schedule,
    *,
    n_steps: int,
    dense_epochs: int,
    prune_epochs: int,
    finetune_epochs: int,
    regrow: Regrow | None = None,
) -> Plan:
    """Compute the pruning events, spread over the pruning phase.

    Parameters
    ----------
    schedule : callable
        The function from progress to the share of the final sparsity.
    n_steps : int
        The number of events, evenly spread: each begins an epoch, unless there are more
        events than epochs. Without pruning epochs all come at once. Events that change
        nothing are left out, as all but the first of a one-shot schedule.
    dense_epochs, prune_epochs, finetune_epochs : int
        The length of the phases.
    regrow : Regrow, optional
        The regrowth, which swaps groups at every event but the first: before that,
        nothing was trained.

    Returns
    -------
    plan : Plan

    Examples
    --------
    >>> from sklearn_sparse_nn.core.schedules import linear
    >>> plan = make_plan(
    ...     linear, n_steps=2, dense_epochs=5, prune_epochs=4, finetune_epochs=1
    ... )
    >>> [(int(event.at), event.share) for event in plan.events]
    [(0, 0.5), (2, 1.0)]
    """
    events: list[Event] = []
    before = 0.0
    for step, share in enumerate(event_shares(schedule, n_steps)):
        at = Fraction(step * prune_epochs, n_steps)
        if n_steps <= prune_epochs:
            at = Fraction(int(at))
        swap = regrow.share(step / n_steps) if regrow and events else 0.0
        if share != before or swap:
            events.append(Event(at, share, swap))
        before = share
    return Plan(dense_epochs, prune_epochs, finetune_epochs, tuple(events))
