"""The allocations: splits of the budget over layers.

An allocation is a function ``(pooled, sizes, budget) -> groups to keep per layer``.
Those with parameters are small estimators, so that ``allocation__max_sparsity`` can
be searched.
"""

from collections.abc import Callable, Iterable, Mapping
from fractions import Fraction
from math import ceil, floor, frexp
from numbers import Real
from types import MappingProxyType
from typing import Literal

import torch
from sklearn.base import BaseEstimator
from torch import Tensor

from sklearn_sparse_nn.core.budget import (
    Budget,
    Remainder,
    n_pruned,
    round_together,
)
from sklearn_sparse_nn.exceptions import UnknownNameError

__all__ = [
    "ALLOCATIONS",
    "Allocation",
    "AllocationName",
    "Bounded",
    "Budget",
    "below_threshold",
    "erk",
    "global_",
    "lamp",
    "n_pruned",
    "resolve_allocation",
    "uniform",
]

Scores = Mapping[str, Tensor]
Allocation = Callable[[Scores, Scores, Budget], dict[str, int]]
AllocationName = Literal["auto", "global", "uniform", "erk", "lamp"]


def global_(pooled: Scores, sizes: Scores, budget: Budget) -> dict[str, int]:
    """Rank the groups of all layers in one list and keep the best that fit.

    The longest run of best groups whose weights fit in the budget is kept: exactly the
    budget when every group is one weight. Of equal scores, those of the first layer,
    and the first in memory order, are kept.

    Parameters
    ----------
    pooled : mapping of layer name to Tensor
        One score per group; ``-inf`` marks a group without living weights.
    sizes : mapping of layer name to Tensor
        The number of living weights of every group, or their cost; same shapes.
    budget : Budget
        The number of weights that may live, or their cost.

    Returns
    -------
    n_groups : dict of layer name to int
        The number of groups to keep.

    References
    ----------
    Blalock et al. 2020, "What is the State of Neural Network Pruning?" (the common
    strong baseline); Han et al. 2015 prune layer by layer.

    Examples
    --------
    >>> import torch
    >>> scores = {"a": torch.tensor([3.0, 1.0]), "b": torch.tensor([2.0, 0.0])}
    >>> ones = {name: torch.ones(2, dtype=torch.int64) for name in scores}
    >>> global_(scores, ones, Budget({"a": 2, "b": 2}, 0.75))
    {'a': 1, 'b': 0}
    """
    flat = torch.cat([scores.reshape(-1) for scores in pooled.values()])
    size = torch.cat([size.reshape(-1) for size in sizes.values()])
    layer = torch.repeat_interleave(
        torch.arange(len(pooled)),
        torch.tensor([scores.numel() for scores in pooled.values()]),
    )
    order = _ranked(flat, size)
    kept = order[size[order].cumsum(0) <= budget.kept()]
    counts = torch.bincount(layer[kept], minlength=len(pooled))
    return dict(zip(pooled, counts.tolist(), strict=True))


def uniform(pooled: Scores, sizes: Scores, budget: Budget) -> dict[str, int]:
    """Keep the same share of every layer, or a share by layer where given.

    Parameters
    ----------
    pooled, sizes, budget
        The arguments of every allocation; see `global_`.

    Returns
    -------
    n_groups : dict of layer name to int
        In every layer the longest run of best groups that fits in its budget.

    Examples
    --------
    >>> import torch
    >>> scores = {"a": torch.tensor([3.0, 1.0]), "b": torch.tensor([2.0, 0.0])}
    >>> ones = {name: torch.ones(2, dtype=torch.int64) for name in scores}
    >>> uniform(scores, ones, Budget({"a": 2, "b": 2}, 0.5))
    {'a': 1, 'b': 1}
    """
    return {
        name: _n_that_fit(_runs(scores, sizes[name]), budget.kept(name))
        for name, scores in pooled.items()
    }


def erk(pooled: Scores, sizes: Scores, budget: Budget) -> dict[str, int]:
    """Keep more of small and of narrow layers: the Erdos-Renyi-Kernel split.

    The density of a layer, the fraction of its weights that live, is
    ``epsilon * sum(shape) / prod(shape)``; so the number that live in it is in
    proportion to ``sum(shape)``. One epsilon makes the whole fit in the budget. A
    layer that would keep more than lives in it keeps all of that, and epsilon is
    solved again for the others. No layer is dense unless the formula says so.

    Parameters
    ----------
    pooled, sizes, budget
        The arguments of every allocation; see `global_`. The budget needs `shapes`.

    Returns
    -------
    n_groups : dict of layer name to int
        In every layer the longest run of best groups that fits in its part. The parts
        add up to exactly the budget, or to all that lives.

    Raises
    ------
    ValueError
        The budget has no shapes.

    References
    ----------
    Evci et al. 2020, "Rigging the Lottery: Making All Tickets Winners", section 3;
    for fully connected layers Mocanu et al. 2018, "Scalable training of artificial
    neural networks with adaptive sparse connectivity".

    Examples
    --------
    >>> import torch
    >>> scores = {"a": torch.rand(8, 8), "b": torch.rand(2, 8)}
    >>> ones = {name: torch.ones(x.shape).long() for name, x in scores.items()}
    >>> shapes = {"a": (8, 8), "b": (2, 8)}
    >>> erk(scores, ones, Budget({"a": 64, "b": 16}, 26, shapes=shapes))
    {'a': 16, 'b': 10}
    """
    if budget.shapes is None:
        raise ValueError(
            "allocation='erk' needs the shapes of the weights, and this budget has "
            "none. Give them as Budget(..., shapes={layer: (out, in, ...)}), or choose "
            "another allocation."
        )
    parts = _water_filled(
        budget.kept(),
        {name: sum(budget.shapes[name]) * budget.cost(name) for name in pooled},
        {name: int(sizes[name].sum()) for name in pooled},
    )
    return {
        name: _n_that_fit(_runs(scores, sizes[name]), parts[name])
        for name, scores in pooled.items()
    }


def _water_filled(
    total: int, weights: Mapping[str, int], caps: Mapping[str, int]
) -> dict[str, int]:
    """Split `total` in proportion to `weights`, no part above its cap."""
    exact: dict[str, Fraction] = {}
    free = dict(weights)
    while free:
        epsilon = Fraction(total - sum(exact.values()), sum(free.values()))
        full = [name for name in free if epsilon * free[name] >= caps[name]]
        if not full:
            break
        for name in full:
            exact[name] = Fraction(caps[name])
            del free[name]
    # Caps are whole numbers: a part that is rounded up here stays below its own.
    exact |= {name: epsilon * weight for name, weight in free.items()}
    return round_together(exact)


def lamp(pooled: Scores, sizes: Scores, budget: Budget) -> dict[str, int]:
    """Rank all groups by their squared score relative to the higher ones of the layer.

    A group's LAMP score is its squared score, divided by the sum of the squares in its
    layer from itself up to the best. Of equal scores the first counts as better. The
    best of a layer therefore has 1, and no layer is emptied before all others are down
    to one group, unless all its scores are 0. A score below 0 counts as 0.

    Parameters
    ----------
    pooled, sizes, budget
        The arguments of every allocation; see `global_`. A score of ``+inf`` ranks
        above all others, and is left out of the sums.

    Returns
    -------
    n_groups : dict of layer name to int
        The number of groups to keep.

    References
    ----------
    Lee et al. 2021, "Layer-adaptive sparsity for the Magnitude-based Pruning",
    equation 1.

    Examples
    --------
    >>> import torch
    >>> scores = {"a": torch.tensor([30.0, 20.0]), "b": torch.tensor([0.2, 0.3])}
    >>> ones = {name: torch.ones(2, dtype=torch.int64) for name in scores}
    >>> lamp(scores, ones, Budget({"a": 2, "b": 2}, 0.5))
    {'a': 1, 'b': 1}
    """
    relative, ranked_sizes = {}, {}
    for name, scores in pooled.items():
        flat, size = scores.reshape(-1), sizes[name].reshape(-1)
        # Best first, so that scores too small to differ when squared keep their order.
        order = _ranked(flat, size)
        relative[name] = _lamp_scores(flat[order])
        ranked_sizes[name] = size[order]
    return global_(relative, ranked_sizes, budget)


# Squares lose the sign of a score; the rules in `compatibility` read this.
lamp.unsigned_only = True  # type: ignore[attr-defined]


def _lamp_scores(ranked: Tensor) -> Tensor:
    """Compute the LAMP scores of a layer's living groups, sorted best first."""
    scores = ranked.double().clamp(min=0.0)
    finite = scores[scores.isfinite()]
    if finite.numel() and finite[0] > 0:
        # The ratio does not depend on the scale, but the square of a large score
        # overflows, and that of a tiny one is 0. A power of two adds no rounding.
        squares = (finite * 2.0 ** -max(frexp(finite[0])[1], -1000)).square()
        finite = squares / squares.cumsum(0)
    return torch.cat([scores[: len(scores) - len(finite)], finite])


def below_threshold(pooled: Scores, sizes: Scores, budget: Budget) -> dict[str, int]:
    """Keep the groups that score at least ``budget.threshold``.

    While only a share of the pruning is due, that share of the groups below the
    threshold is pruned, the worst of every layer first.

    Parameters
    ----------
    pooled, sizes, budget
        The arguments of every allocation; see `global_`.

    Returns
    -------
    n_groups : dict of layer name to int
        The number of groups to keep.

    Examples
    --------
    >>> import torch
    >>> scores = {"a": torch.tensor([3.0, 1.0])}
    >>> ones = {"a": torch.ones(2, dtype=torch.int64)}
    >>> below_threshold(scores, ones, Budget({"a": 2}, threshold=2.0))
    {'a': 1}
    """
    if budget.threshold is None:
        raise ValueError("below_threshold needs a budget with a threshold, not None.")
    n_groups = {}
    for name, scores in pooled.items():
        # Groups pruned earlier count as below, so that the shares do not compound.
        below = int((scores < budget.threshold).sum())
        alive = int((sizes[name] > 0).sum())
        n_groups[name] = min(scores.numel() - budget.due(below), alive)
    return n_groups


def _ranked(scores: Tensor, size: Tensor) -> Tensor:
    """Sort the living groups, best first, equal ones in memory order."""
    order = scores.sort(descending=True, stable=True).indices
    return order[size[order] > 0]


def _runs(scores: Tensor, size: Tensor) -> Tensor:
    """Compute the size of the best n groups of a layer for n = 0, 1, ..., all alive."""
    flat = size.reshape(-1)
    total = flat[_ranked(scores.reshape(-1), flat)].cumsum(0)
    return torch.cat([total.new_zeros(1), total])


def _n_that_fit(runs: Tensor, limit: int) -> int:
    """Count the groups in the longest run of at most `limit`."""
    return int(torch.searchsorted(runs, limit, right=True)) - 1


def _n_that_reach(runs: Tensor, limit: int) -> int:
    """Count the groups in the shortest run of at least `limit`, or all."""
    return min(int(torch.searchsorted(runs, limit)), len(runs) - 1)


class Bounded(BaseEstimator):
    """Keep every layer's sparsity within bounds, whatever the allocation inside says.

    A layer out of bounds is set to the bound that it would cross. The allocation then
    splits the rest of the budget over the other layers, until no layer is out.

    Parameters
    ----------
    allocation : str or callable, default="global"
        The allocation inside: a name, a function or an object.
    min_sparsity : float in [0, 1], default=0.0
        The least fraction of zeros of a layer in the end. While only a share of the
        pruning is due, the bound is that share of it.
    max_sparsity : float in [0, 1], default=1.0
        The greatest fraction of zeros of a layer, at any time.

    Notes
    -----
    Bounds hold exactly for counts of weights, unless the budget, whole groups, or
    weights that were pruned before leave no such count. Then a layer may be out by one
    weight or one group, on the side of `min_sparsity` if there is a choice. Bounds
    never make the layers together exceed the budget.

    Examples
    --------
    >>> import torch
    >>> scores = {"a": torch.rand(10) + 1.0, "b": torch.rand(10)}
    >>> ones = {name: torch.ones(10, dtype=torch.int64) for name in scores}
    >>> budget = Budget({"a": 10, "b": 10}, 0.5)
    >>> global_(scores, ones, budget)
    {'a': 10, 'b': 0}
    >>> Bounded("global", max_sparsity=0.8)(scores, ones, budget)
    {'a': 8, 'b': 2}
    """

    def __init__(
        self,
        allocation: "str | Allocation" = "global",
        min_sparsity: float = 0.0,
        max_sparsity: float = 1.0,
    ) -> None:
        self.allocation = allocation
        self.min_sparsity = min_sparsity
        self.max_sparsity = max_sparsity

    def __call__(self, pooled: Scores, sizes: Scores, budget: Budget) -> dict[str, int]:
        """Compute the number of groups to keep in every layer.

        Parameters
        ----------
        pooled, sizes, budget
            The arguments of every allocation; see `global_`.

        Returns
        -------
        n_groups : dict of layer name to int

        Raises
        ------
        ValueError
            The bounds make no sense, or contradict the budget.
        """
        if not isinstance(budget, Remainder):
            # Rounding may leave a remainder just outside; the whole budget was checked.
            self.check(budget)
        allocate = resolve_allocation(self.allocation)
        runs = {name: _runs(scores, sizes[name]) for name, scores in pooled.items()}
        least, most = self._bounds(runs, budget)
        fixed: dict[str, int] = {}
        free = list(pooled)
        rest = budget
        while free:
            wanted = allocate(
                {name: pooled[name] for name in free},
                {name: sizes[name] for name in free},
                rest,
            )
            within = {
                name: min(max(wanted[name], least[name]), most[name]) for name in free
            }
            if within == wanted:
                fixed |= wanted
                break
            out = _worse_off(wanted, within, runs)
            fixed |= out or within  # of equal size: nothing is left to share out
            free = [name for name in free if name not in fixed]
            used = sum(_size(runs, fixed, name) for name in fixed)
            rest = budget.rest(free, max(budget.kept() - used, 0))
        return {name: fixed[name] for name in pooled}

    @property
    def unsigned_only(self) -> bool:
        """True if the allocation inside takes no scores below 0."""
        inner = self.allocation
        part = ALLOCATIONS.get(inner) if isinstance(inner, str) else inner
        return bool(getattr(part, "unsigned_only", False))

    def check(self, budget: Budget) -> None:
        """Check that the bounds make sense and that a budget can keep to them.

        Parameters
        ----------
        budget : Budget
            The number of weights that may live, or their cost.

        Raises
        ------
        ValueError
            The bounds are not ordered within [0, 1], or contradict the budget.

        Examples
        --------
        >>> Bounded(min_sparsity=0.2).check(Budget({"a": 10}, 0.5))
        """
        inner = resolve_allocation(self.allocation)
        numbers = isinstance(self.min_sparsity, Real)
        numbers = numbers and isinstance(self.max_sparsity, Real) and callable(inner)
        if not numbers or not 0 <= self.min_sparsity <= self.max_sparsity <= 1:
            raise ValueError(
                f"Bounded(min_sparsity={self.min_sparsity!r}, max_sparsity="
                f"{self.max_sparsity!r}): bounds must satisfy 0 <= min_sparsity <= "
                "max_sparsity <= 1, and the allocation be a name or a function."
            )
        if isinstance(inner, Bounded):
            inner.check(budget)
        size = budget.size()
        n_zeros = size - budget.kept()
        # Rounded as the budget's own sparsity is: equal numbers never contradict.
        too_many = budget.due(n_pruned(self.min_sparsity, size)) > n_zeros
        too_few = n_pruned(self.max_sparsity, size) < n_zeros
        if too_many or too_few:
            end, change = (
                (f"min_sparsity={self.min_sparsity!r}", "Lower it, or prune more")
                if too_many
                else (f"max_sparsity={self.max_sparsity!r}", "Raise it, or prune less")
            )
            raise ValueError(
                f"Bounded({end}) and sparsity={budget.sparsity!r} contradict each "
                f"other: {budget.kept()} of all {size} weights are to live by now, so "
                f"not every layer can be within that bound. {change}."
            )

    def _bounds(
        self, runs: Mapping[str, Tensor], budget: Budget
    ) -> tuple[dict[str, int], dict[str, int]]:
        """Compute the least and the greatest number of groups of every layer."""
        kept = budget.kept()
        lower = Fraction(str(budget.share)) * Fraction(str(self.min_sparsity))
        upper = Fraction(str(self.max_sparsity))
        low = _weights_kept(upper, runs, budget, ceil)
        if sum(low.values()) > kept:
            low = _weights_kept(upper, runs, budget, floor)
        # Where no count is between the bounds, the larger: a tiny layer lives.
        high = _weights_kept(lower, runs, budget, floor)
        high = {
            name: max(n, low[name], _smallest(runs[name])) for name, n in high.items()
        }
        if sum(min(high[name], int(run[-1])) for name, run in runs.items()) < kept:
            high = _weights_kept(lower, runs, budget, ceil)
        least = {name: _n_that_reach(run, low[name]) for name, run in runs.items()}
        if sum(_size(runs, least, name) for name in runs) > kept:
            least = {name: _n_that_fit(run, low[name]) for name, run in runs.items()}
        most = {
            name: max(_n_that_fit(run, high[name]), least[name])
            for name, run in runs.items()
        }
        return least, most


def _worse_off(
    wanted: Mapping[str, int], within: Mapping[str, int], runs: Mapping[str, Tensor]
) -> dict[str, int]:
    """Find the layers that are out of bounds on the side where more weights are out.

    Once these are set, those on the other side may come back within their bounds.
    """
    off = {
        name: _size(runs, within, name) - _size(runs, wanted, name) for name in wanted
    }
    drift = sum(off.values())
    return {
        name: within[name] for name in wanted if off[name] and off[name] * drift >= 0
    }


def _smallest(run: Tensor) -> int:
    """Return the size of a layer's best group: a bound alone empties no layer."""
    return int(run[1]) if len(run) > 1 else 0


def _size(runs: Mapping[str, Tensor], n_groups: Mapping[str, int], name: str) -> int:
    """Return the size of the groups that a layer keeps."""
    return int(runs[name][n_groups[name]])


def _weights_kept(
    sparsity: Fraction,
    layers: Iterable[str],
    budget: Budget,
    round_: Callable[[Fraction], int],
) -> dict[str, int]:
    """Compute the size that every layer keeps at a sparsity, in whole weights."""
    return {
        name: round_((1 - sparsity) * budget.n_weights[name]) * budget.cost(name)
        for name in layers
    }


ALLOCATIONS: Mapping[str, Allocation] = MappingProxyType(
    {"global": global_, "uniform": uniform, "erk": erk, "lamp": lamp}
)


def resolve_allocation(
    allocation: str | Allocation, budget: Budget | None = None
) -> Allocation:
    """Return the allocation of a name, or the one that a budget leaves no choice of.

    Parameters
    ----------
    allocation : str or callable
        A name in `ALLOCATIONS`, a function of that form or an object such as
        `Bounded`.
    budget : Budget or None, default=None
        The budget to split. With a threshold or a sparsity by layer nothing is left to
        split. None: only the name is resolved.

    Returns
    -------
    allocation : callable

    Raises
    ------
    UnknownNameError
        The name does not exist.
    ValueError
        The bounds of a `Bounded` make no sense, or contradict the budget.

    Examples
    --------
    >>> resolve_allocation("global", Budget({"a": 2}, 0.5)).__name__
    'global_'
    """
    if isinstance(allocation, str):
        if allocation not in ALLOCATIONS:
            raise UnknownNameError("allocation", allocation, ALLOCATIONS)
        allocation = ALLOCATIONS[allocation]
    if budget is None:
        return allocation
    if budget.threshold is not None:
        return below_threshold
    if isinstance(budget.sparsity, Mapping):
        return uniform
    if isinstance(allocation, Bounded) and budget.kept() < budget.size():
        allocation.check(budget)
    return allocation
