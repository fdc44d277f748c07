"""When things happen: the epochs of the three phases and the events among them."""

from collections.abc import Mapping
from dataclasses import dataclass

from sklearn_sparse_nn.core.schedules import Schedule, event_shares

__all__ = ["Plan", "make_plan"]


@dataclass(frozen=True)
class Plan:
    """Epochs of the phases, and which pruning epochs begin with an event.

    Parameters
    ----------
    dense_epochs, prune_epochs, finetune_epochs : int
        Length of the phases.
    events : mapping of int to float
        Epoch of the pruning phase -> share of the final sparsity that is due at its
        beginning. The last one is 1. Empty when there is nothing to prune.
    """

    dense_epochs: int
    prune_epochs: int
    finetune_epochs: int
    events: Mapping[int, float]

    @property
    def n_epochs(self) -> int:
        """All epochs together."""
        return self.dense_epochs + self.prune_epochs + self.finetune_epochs

    @property
    def final_epochs(self) -> int:
        """Epochs that are trained at the final sparsity."""
        return self.prune_epochs - max(self.events, default=0) + self.finetune_epochs


def make_plan(
    schedule: Schedule,
    *,
    n_steps: int,
    dense_epochs: int,
    prune_epochs: int,
    finetune_epochs: int,
) -> Plan:
    """Lay the pruning events out over the pruning phase.

    Parameters
    ----------
    schedule : callable
        Progress -> share of the final sparsity.
    n_steps : int
        Number of events, evenly spread; those that add nothing fall away, as all but
        the first of a one-shot schedule.
    dense_epochs, prune_epochs, finetune_epochs : int
        Length of the phases.

    Returns
    -------
    plan : Plan

    Raises
    ------
    ValueError
        The events do not fit in the pruning epochs.

    Examples
    --------
    >>> from sklearn_sparse_nn.core.schedules import linear
    >>> plan = make_plan(
    ...     linear, n_steps=2, dense_epochs=5, prune_epochs=4, finetune_epochs=1
    ... )
    >>> plan.events
    {0: 0.5, 2: 1.0}
    """
    shares = event_shares(schedule, n_steps)
    before = (0.0, *shares)
    adding = [i for i, share in enumerate(shares) if share > before[i]]
    if len(adding) > 1 and n_steps > prune_epochs:
        raise ValueError(
            f"n_steps={n_steps} pruning events do not fit in prune_epochs="
            f"{prune_epochs}: an event begins an epoch. Set n_steps to at most "
            "prune_epochs, or train for more pruning epochs."
        )
    events = {i * prune_epochs // n_steps: shares[i] for i in adding}
    return Plan(dense_epochs, prune_epochs, finetune_epochs, events)
