"""How much may live: exact counts of weights, or of what they cost."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from fractions import Fraction
from numbers import Integral
from typing import Any

__all__ = ["Budget", "Remainder", "in_proportion", "n_pruned", "round_together"]


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

    With `costs`, whatever a budget counts is counted in units of cost: the size of a
    layer, a number of non-zeros, what is kept.

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
    shapes : mapping of layer name to tuple of int, or None, default=None
        Shapes (out, in, ...) of the weights, for allocations that ask for them.
    costs : mapping of layer name to int, or None, default=None
        What one weight of a layer costs, in FLOPs for example: 1 or more. None: 1 in
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
    sparsity: Any = 0.0
    threshold: float | None = None
    share: float = 1.0
    shapes: Mapping[str, tuple[int, ...]] | None = None
    costs: Mapping[str, int] | None = None

    def cost(self, layer: str) -> int:
        """Give what one weight of a layer costs."""
        return 1 if self.costs is None else self.costs[layer]

    def size(self, layer: str | None = None) -> int:
        """Count all weights, dead or alive, of one layer or of all together."""
        if layer is None:
            return sum(self.size(name) for name in self.n_weights)
        return self.n_weights[layer] * self.cost(layer)

    def due(self, n_zeros: int) -> int:
        """Give the part of `n_zeros` final zeros that is due by now, half up."""
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
        if not self._counts_nonzeros:
            return size - self.due(n_pruned(self.sparsity, size))
        k = min(int(self.sparsity), self.size())
        if layer is not None:
            k = in_proportion(k, self._sizes)[layer]
        return size - self.due(size - k)

    def rest(self, layers: Collection[str], left: int) -> "Remainder":
        """Give some layers what is left when the others have got theirs.

        Parameters
        ----------
        layers : collection of str
            The layers that are still to be served.
        left : int
            What may live in them by now, whatever sparsity and share say.

        Returns
        -------
        budget : Remainder
            Of these layers only; all else as here.

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
    def _counts_nonzeros(self) -> bool:
        return isinstance(self.sparsity, Integral) and int(self.sparsity) > 0

    def asks_to_empty(self, layer: str) -> bool:
        """Tell whether a layer was asked to lose every weight."""
        return isinstance(self.sparsity, Mapping) and self.sparsity[layer] == 1


@dataclass(frozen=True)
class Remainder(Budget):
    """What is left of a budget for some of its layers.

    Parameters
    ----------
    n_weights, sparsity, threshold, share, shapes, costs
        As for `Budget`; what may live does not follow from them here.
    left : int, default=0
        What may live by now.
    """

    left: int = 0

    def kept(self, layer: str | None = None) -> int:
        """Count the weights that live; layers get theirs in proportion to size."""
        if layer is None:
            return self.left
        return in_proportion(self.left, self._sizes)[layer]


def in_proportion(total: int, sizes: Mapping[str, int]) -> dict[str, int]:
    """Split `total` in proportion to `sizes`; the largest remainders round up.

    Parameters
    ----------
    total : int
        What is split.
    sizes : mapping of name to int
        Not all of them 0.

    Returns
    -------
    split : dict of name to int
        Adds up to `total`.

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
        Parts that add up to a whole number.

    Returns
    -------
    rounded : dict of name to int
        The largest remainders are rounded up, of equal ones the first.

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
