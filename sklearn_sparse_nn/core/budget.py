"""Budgets: exact counts of the weights that may live, or of their cost."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from fractions import Fraction
from numbers import Integral

__all__ = [
    "Budget",
    "Remainder",
    "Sparsity",
    "in_proportion",
    "n_pruned",
    "round_together",
]

#: A fraction of zeros, a number of non-zeros (an int above 0), or fractions by layer.
Sparsity = float | int | Mapping[str, float]


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
        The count, which never decreases when `sparsity` grows.

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
    """The number of weights that may live, and the share of the pruning that is due.

    With `costs`, a budget counts everything in units of cost: the size of a layer, a
    number of non-zeros, the weights to keep.

    Parameters
    ----------
    n_weights : mapping of layer name to int
        The number of weights of every layer, pruned or not. A sparsity is a fraction of
        these.
    sparsity : float, int or mapping of layer name to float
        The fraction of zeros, the number of non-zeros to keep (an int above 0), or the
        fraction for every layer.
    threshold : float or None, default=None
        The score below which every group is pruned, instead of a `sparsity`.
    share : float in [0, 1], default=1.0
        The share of the final number of zeros that is due by now.
    shapes : mapping of layer name to tuple of int, or None, default=None
        The shapes (out, in, ...) of the weights, for allocations that need them.
    costs : mapping of layer name to int, or None, default=None
        The cost of one weight of a layer, in FLOPs for example: 1 or more. None: 1 in
        every layer.

    Examples
    --------
    >>> Budget({"a": 600, "b": 400}, 0.9, share=0.5).kept()
    550
    >>> Budget({"a": 600, "b": 400}, 0.9).kept("b")
    40
    >>> Budget({"a": 600, "b": 400}, 0.9, costs={"a": 1, "b": 10}).kept()
    460
    """

    n_weights: Mapping[str, int]
    sparsity: Sparsity = 0.0
    threshold: float | None = None
    share: float = 1.0
    shapes: Mapping[str, tuple[int, ...]] | None = None
    costs: Mapping[str, int] | None = None

    def cost(self, layer: str) -> int:
        """Return the cost of one weight of a layer."""
        return 1 if self.costs is None else self.costs[layer]

    def size(self, layer: str | None = None) -> int:
        """Count all weights, dead or alive, of one layer or of all together."""
        if layer is None:
            return sum(self.size(name) for name in self.n_weights)
        return self.n_weights[layer] * self.cost(layer)

    def due(self, n_zeros: int) -> int:
        """Compute the part of `n_zeros` final zeros that is due by now, half up."""
        return n_pruned(self.share, n_zeros)

    def kept(self, layer: str | None = None) -> int:
        """Count the weights that live, in one layer or in all together.

        A fraction is applied to the layer's own weights. A number of non-zeros is
        split in proportion to the layers' sizes (largest remainders), so that in the
        end the layers add up to it.
        """
        size = self.size(layer)
        if isinstance(self.sparsity, Mapping):
            if layer is None:
                return sum(self.kept(name) for name in self.n_weights)
            return size - self.due(n_pruned(self.sparsity[layer], size))
        if self.n_nonzero is None:
            return size - self.due(n_pruned(self.sparsity, size))
        k = min(self.n_nonzero, self.size())
        if layer is not None:
            k = in_proportion(k, self._sizes)[layer]
        return size - self.due(size - k)

    def rest(self, layers: Collection[str], left: int) -> "Remainder":
        """Return the rest of the budget, for the layers that have no part of it yet.

        Parameters
        ----------
        layers : collection of str
            The layers without a part.
        left : int
            The number of weights that may live in them by now, or their cost, whatever
            sparsity and share say.

        Returns
        -------
        budget : Remainder
            The budget of these layers; all else is the same.

        Examples
        --------
        >>> Budget({"a": 600, "b": 400, "c": 100}, 0.9).rest(["b", "c"], 25).kept("b")
        20
        """
        n_weights = {name: self.n_weights[name] for name in layers}
        return Remainder(
            n_weights,
            self.sparsity,
            self.threshold,
            self.share,
            self.shapes,
            self.costs,
            left=left,
        )

    @property
    def _sizes(self) -> dict[str, int]:
        return {name: self.size(name) for name in self.n_weights}

    @property
    def n_nonzero(self) -> int | None:
        """The number of non-zeros to keep; None where fractions are given."""
        if isinstance(self.sparsity, Integral) and int(self.sparsity) > 0:
            return int(self.sparsity)
        return None

    def asks_to_empty(self, layer: str) -> bool:
        """Check whether a sparsity by layer prunes every weight of a layer."""
        return isinstance(self.sparsity, Mapping) and self.sparsity[layer] == 1


@dataclass(frozen=True)
class Remainder(Budget):
    """The rest of a budget, for some of its layers.

    Parameters
    ----------
    n_weights, sparsity, threshold, share, shapes, costs
        The parameters of the `Budget`. The number that may live does not follow from
        them here.
    left : int, default=0
        The number of weights that may live by now, or their cost.
    """

    left: int = 0

    def kept(self, layer: str | None = None) -> int:
        """Count the weights that live; a layer's part is in proportion to its size."""
        if layer is None:
            return self.left
        return in_proportion(self.left, self._sizes)[layer]


def in_proportion(total: int, sizes: Mapping[str, int]) -> dict[str, int]:
    """Split `total` in proportion to `sizes`; the largest remainders round up.

    Parameters
    ----------
    total : int
        The number to split.
    sizes : mapping of name to int
        The sizes; not all are 0.

    Returns
    -------
    split : dict of name to int
        The parts, which add up to `total`.

    Examples
    --------
    >>> in_proportion(5, {"a": 6, "b": 3})
    {'a': 3, 'b': 2}
    """
    all_sizes = sum(sizes.values())
    exact = {name: Fraction(total * size, all_sizes) for name, size in sizes.items()}
    return round_together(exact)


def round_together(exact: Mapping[str, Fraction]) -> dict[str, int]:
    """Round parts of a whole number so that they still add up to it.

    Parameters
    ----------
    exact : mapping of name to Fraction
        The parts, which add up to a whole number.

    Returns
    -------
    rounded : dict of name to int
        The whole parts. The largest remainders are rounded up, of equal ones the first.

    Examples
    --------
    >>> round_together({"a": Fraction(5, 2), "b": Fraction(9, 4), "c": Fraction(1, 4)})
    {'a': 3, 'b': 2, 'c': 0}
    """
    rounded = {name: int(part) for name, part in exact.items()}
    rest = int(sum(exact.values())) - sum(rounded.values())
    for name in sorted(exact, key=lambda name: rounded[name] - exact[name])[:rest]:
        rounded[name] += 1
    return rounded
