"""How the budget is split over layers.

An allocation is a function ``(pooled, sizes, budget) -> groups to keep per layer``.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from numbers import Integral
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from sklearn_sparse_nn.exceptions import UnknownNameError

__all__ = [
    "ALLOCATIONS",
    "Allocation",
    "Budget",
    "n_pruned",
    "resolve_allocation",
]


def n_pruned(sparsity: float, size: int) -> int:
    """Count the weights to prune: ``sparsity * size``, rounded to nearest, half up.

    The arithmetic is exact on the decimal that was written, so 0.29 of 100 is 29
    (in floating point ``int(100 * 0.29)`` is 28).

    Parameters
    ----------
    sparsity : float in [0, 1]
        Fraction of the weights that become zero.
    size : int
        Number of weights.

    Returns
    -------
    n : int
        Never decreases when `sparsity` grows.

    Examples
    --------
    >>> n_pruned(0.29, 100)
    29
    """
    return _round_half_up(Fraction(str(sparsity)) * size)


def _round_half_up(value: Fraction) -> int:
    return (2 * value.numerator + value.denominator) // (2 * value.denominator)


@dataclass(frozen=True)
class Budget:
    """How many weights may live, and how much of the pruning is due by now.

    Parameters
    ----------
    n_weights : mapping of layer name to int
        Weights of every layer, pruned or not: what a sparsity is a fraction of.
    sparsity : float, int or mapping of layer name to float
        Fraction of zeros, number of non-zeros kept (an int above 0), or the fraction
        for every layer.
    threshold : float or None, default=None
        Instead of `sparsity`: every group that scores below it goes.
    share : float in [0, 1], default=1.0
        Share of the final number of zeros that is due by now.

    Examples
    --------
    >>> Budget({"a": 600, "b": 400}, 0.9, share=0.5).kept()
    550
    >>> Budget({"a": 600, "b": 400}, 0.9).kept("b")
    40
    """

    n_weights: Mapping[str, int]
    sparsity: Any = 0.0
    threshold: float | None = None
    share: float = 1.0

    def due(self, n_zeros: int) -> int:
        """Give the part of `n_zeros` final zeros that is due by now, half up."""
        return n_pruned(self.share, n_zeros)

    def kept(self, layer: str | None = None) -> int:
        """Count the weights that live, in one layer or in all together.

        A fraction is applied to the layer's own weights. A number of non-zeros is
        split in proportion to the layers' sizes (largest remainders), so that in the
        end the layers add up to it.
        """
        size = sum(self.n_weights.values()) if layer is None else self.n_weights[layer]
        if isinstance(self.sparsity, Mapping):
            if layer is None:
                return sum(self.kept(name) for name in self.n_weights)
            return size - self.due(n_pruned(self.sparsity[layer], size))
        if not self._counts_nonzeros:
            return size - self.due(n_pruned(self.sparsity, size))
        k = min(int(self.sparsity), sum(self.n_weights.values()))
        if layer is not None:
            k = _in_proportion(k, self.n_weights)[layer]
        return size - self.due(size - k)

    @property
    def _counts_nonzeros(self) -> bool:
        return isinstance(self.sparsity, Integral) and int(self.sparsity) > 0

    def asks_to_empty(self, layer: str) -> bool:
        """Tell whether a layer was asked to lose every weight."""
        return isinstance(self.sparsity, Mapping) and self.sparsity[layer] == 1


def _in_proportion(total: int, sizes: Mapping[str, int]) -> dict[str, int]:
    """Split `total` in proportion to `sizes`; the largest remainders round up."""
    all_sizes = sum(sizes.values())
    exact = {name: Fraction(total * size, all_sizes) for name, size in sizes.items()}
    split = {name: int(part) for name, part in exact.items()}
    rest = total - sum(split.values())
    for name in sorted(exact, key=lambda name: split[name] - exact[name])[:rest]:
        split[name] += 1
    return split


Scores = Mapping[str, Tensor]
Allocation = Callable[[Scores, Scores, Budget], dict[str, int]]


def global_(pooled: Scores, sizes: Scores, budget: Budget) -> dict[str, int]:
    """Rank the groups of all layers in one list and keep the best that fit.

    Kept is the longest run of best groups whose weights fit in the budget: exactly
    the budget when every group is one weight. Of equal scores those of the first
    layer, and the first in memory order, live.

    Parameters
    ----------
    pooled : mapping of layer name to Tensor
        One score per group; ``-inf`` marks a group without living weights.
    sizes : mapping of layer name to Tensor
        Living weights of every group, same shapes.
    budget : Budget
        What may live.

    Returns
    -------
    n_groups : dict of layer name to int

    References
    ----------
    Han et al. 2015 prune layer by layer; one ranking over all layers is the common
    strong baseline of Blalock et al. 2020, "What is the State of Neural Network
    Pruning?".

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
    """Give every layer the same sparsity (or its own, where given by layer).

    Parameters
    ----------
    pooled, sizes, budget
        As for `global_`.

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
    n_groups = {}
    for name, scores in pooled.items():
        size = sizes[name].reshape(-1)
        order = _ranked(scores.reshape(-1), size)
        fits = size[order].cumsum(0) <= budget.kept(name)
        n_groups[name] = int(fits.sum())
    return n_groups


def below_threshold(pooled: Scores, sizes: Scores, budget: Budget) -> dict[str, int]:
    """Keep the groups that score at least ``budget.threshold``.

    While only a share of the pruning is due, that share of the groups below the
    threshold goes, the worst of every layer first.

    Parameters
    ----------
    pooled, sizes, budget
        As for `global_`.

    Returns
    -------
    n_groups : dict of layer name to int

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
        # What died earlier counts as below, so that the shares do not compound.
        below = int((scores < budget.threshold).sum())
        alive = int((sizes[name] > 0).sum())
        n_groups[name] = min(scores.numel() - budget.due(below), alive)
    return n_groups


def _ranked(scores: Tensor, size: Tensor) -> Tensor:
    """Sort the living groups, best first, equal ones in memory order."""
    order = scores.sort(descending=True, stable=True).indices
    return order[size[order] > 0]


ALLOCATIONS: Mapping[str, Allocation] = MappingProxyType(
    {"global": global_, "uniform": uniform}
)


def resolve_allocation(allocation: str | Allocation, budget: Budget) -> Allocation:
    """Turn a name into its allocation; what the budget already splits comes first.

    Parameters
    ----------
    allocation : str or callable
        A name in `ALLOCATIONS` or a function of that form.
    budget : Budget
        A threshold, or a sparsity by layer, leaves nothing to split.

    Returns
    -------
    allocation : callable

    Raises
    ------
    UnknownNameError
        The name does not exist.

    Examples
    --------
    >>> resolve_allocation("global", Budget({"a": 2}, 0.5)).__name__
    'global_'
    """
    if isinstance(allocation, str):
        if allocation not in ALLOCATIONS:
            raise UnknownNameError("allocation", allocation, ALLOCATIONS)
        allocation = ALLOCATIONS[allocation]
    if budget.threshold is not None:
        return below_threshold
    if isinstance(budget.sparsity, Mapping):
        return uniform
    return allocation
