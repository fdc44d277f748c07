"""A pruning method: a pruner's parameters, resolved to parts before a net is known."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType
from typing import Any, Literal

from sklearn_sparse_nn._compat import as_python
from sklearn_sparse_nn.core.allocation import (
    Allocation,
    erk,
    global_,
    resolve_allocation,
    uniform,
)
from sklearn_sparse_nn.core.budget import Budget, Sparsity
from sklearn_sparse_nn.core.granularity import (
    Granularity,
    Unstructured,
    resolve_granularity,
)
from sklearn_sparse_nn.core.importance import (
    IMPORTANCES,
    Importance,
    declares,
    resolve_importance,
    statistics_of,
)
from sklearn_sparse_nn.core.plan import Plan, make_plan, most_steps
from sklearn_sparse_nn.core.recovery import (
    Rewind,
    SoftTargets,
    resolve_distill,
    resolve_rewind,
)
from sklearn_sparse_nn.core.regrowth import Regrow, resolve_regrow
from sklearn_sparse_nn.core.schedules import SCHEDULES, Schedule, resolve_schedule

__all__ = ["OVER_A_FIT", "PruningMethod", "resolve_method"]

#: The parameters that act over a whole fit, with the value that switches each off.
OVER_A_FIT: Mapping[str, object] = MappingProxyType(
    {"penalty": None, "regrow": None, "rewind": None, "distill": 0.0}
)


@dataclass(frozen=True, kw_only=True)
class PruningMethod:
    """The parameters of a pruner, with every name resolved to its part.

    A parameter that is passed on as it is needs no field here: it is read from `given`.

    Parameters
    ----------
    importance, granularity, schedule : Importance, Granularity, Schedule
        The parts.
    allocation : Allocation or None
        The part; None for ``"auto"``.
    regrow : (Regrow, Importance) or None
        The regrowth, and the importance by which dead groups grow.
    rewind, distill : Rewind or None, SoftTargets
        The parts of recovery.
    penalty, sparsity, threshold, budget, layers, n_steps, subsample
        The pruner's parameters of the same names.
    dense_epochs, prune_epochs, finetune_epochs : int
        The lengths of the phases; `dense_epochs` may be None, for the net's own.
    given : mapping of str to object
        Every parameter as the pruner has it.
    """

    importance: Importance = IMPORTANCES["magnitude"]
    granularity: Granularity = field(default_factory=Unstructured)
    allocation: Allocation | None = None
    schedule: Schedule = SCHEDULES["cubic"]
    regrow: tuple[Regrow, Importance] | None = None
    penalty: Literal["l1", "l0"] | None = None
    rewind: Rewind | None = None
    distill: SoftTargets = field(default_factory=lambda: SoftTargets(0.0))
    sparsity: Sparsity = 0.9
    threshold: float | None = None
    budget: Mapping[str, float] | None = None
    layers: str | Sequence[str] | None = None
    n_steps: int | None = None
    dense_epochs: int | None = None
    prune_epochs: int = 10
    finetune_epochs: int = 10
    subsample: int | None = 2048
    given: Mapping[str, Any] = field(default_factory=dict)

    @property
    def grow(self) -> Importance | None:
        """The importance by which dead groups grow, if they do."""
        return self.regrow[1] if self.regrow else None

    @property
    def needs(self) -> tuple[str, ...]:
        """The statistics that importance and regrowth need."""
        return statistics_of(self.importance, self.grow)

    def allocation_for(self, *, trained: bool) -> Allocation:
        """Return the allocation; for "auto", the one that the papers use.

        Parameters
        ----------
        trained : bool
            Whether the net is trained before its first pruning event.

        Returns
        -------
        allocation : callable
            For ``"auto"``: ERK where a sparse net is trained from scratch; uniform for
            scores of neurons, which cannot be compared across layers; else global.

        Examples
        --------
        >>> PruningMethod().allocation_for(trained=True).__name__
        'global_'
        """
        if self.allocation is not None:
            return self.allocation
        if self.regrow is not None and not trained:
            return erk
        return uniform if declares(self.importance, "scores_neurons") else global_

    def plan(
        self, budget: Budget, *, frozen: bool, n_batches: int | None = None
    ) -> Plan:
        """Compute the plan of phases and pruning events.

        Parameters
        ----------
        budget : Budget
            The budget; if it prunes nothing, the plan has no events.
        frozen : bool
            Whether the net is trained already, so that there is no dense phase.
        n_batches : int or None, default=None
            The number of training steps of an epoch, if it is known.

        Returns
        -------
        plan : Plan
        """
        plan = make_plan(
            self.schedule,
            n_steps=self.n_steps or most_steps(self.prune_epochs, n_batches),
            dense_epochs=0 if frozen else self.dense_epochs or 0,
            prune_epochs=self.prune_epochs,
            finetune_epochs=self.finetune_epochs,
            regrow=self.regrow[0] if self.regrow else None,
        )
        if budget.threshold is None and budget.kept() == budget.size():
            return replace(plan, events=())
        return plan


_RESOLVERS: Mapping[str, Callable[[Any], Any]] = MappingProxyType(
    {
        "importance": resolve_importance,
        "granularity": resolve_granularity,
        "allocation": lambda part: None if part == "auto" else resolve_allocation(part),
        "schedule": resolve_schedule,
        "regrow": resolve_regrow,
        "rewind": resolve_rewind,
        "distill": resolve_distill,
    }
)


def resolve_method(given: Mapping[str, Any]) -> PruningMethod:
    """Resolve the parameters of a pruner to parts.

    Parameters
    ----------
    given : mapping of str to object
        The parameters, as from ``pruner.get_params(deep=False)``. A field of
        `PruningMethod` that is left out has its default.

    Returns
    -------
    method : PruningMethod
        The parts, which may still not go together; `compatibility` checks that.

    Raises
    ------
    UnknownNameError
        A name does not exist.
    ValueError
        The numbers of a part make no sense.

    Examples
    --------
    >>> resolve_method({"rewind": "weights", "granularity": "2:4"}).granularity
    NM(m=4, n=2)
    """
    given = {name: as_python(value) for name, value in given.items()}
    names = {item.name for item in fields(PruningMethod)}
    parts = {
        name: _RESOLVERS[name](value) if name in _RESOLVERS else value
        for name, value in given.items()
        if name in names
    }
    return PruningMethod(**parts, given=given)
