"""The granularities: groups of weights that live or die together.

A granularity pools the scores of a layer into one score per group, chooses the groups
to keep, and expands that choice into a mask. Weights come as (out, in, ...); the
trailing kernel axes of a convolution belong to the inputs.
"""

import re
from typing import Protocol, runtime_checkable

import torch
from sklearn.base import BaseEstimator
from torch import Tensor

from sklearn_sparse_nn.exceptions import UnknownNameError

__all__ = [
    "NM",
    "Block",
    "Granularity",
    "Input",
    "Neuron",
    "Unstructured",
    "best",
    "group_sizes",
    "largest_group",
    "resolve_granularity",
]

NAMES = ("unstructured", "neuron", "input", "block:4x1", "2:4")


@runtime_checkable
class Granularity(Protocol):
    """The protocol of a granularity object.

    An optional method ``preferred(pooled) -> bool tensor`` marks groups that must
    outlive all others (as N:M does); without it no group is preferred. An optional
    method ``group_shape(shape) -> (rows, columns)`` says that all groups of a weight of
    this shape are such rectangles; importances that refit weights need it.
    """

    def pool(self, scores: Tensor) -> Tensor:
        """Return one score per group; `scores` has the weight's shape."""

    def choose(self, pooled: Tensor, n: int) -> Tensor:
        """Keep `n` groups: a boolean tensor of the shape of `pooled`."""

    def expand(self, values: Tensor, shape: torch.Size) -> Tensor:
        """Return a tensor of `shape`, with its group's value for every weight."""


def best(pooled: Tensor, n: int) -> Tensor:
    """Mark the n highest scores; of equal ones the first in memory order are kept.

    Parameters
    ----------
    pooled : Tensor of any shape
        One score per group, without NaN.
    n : int
        The number of groups to keep, between 0 and all.

    Returns
    -------
    keep : bool Tensor of the same shape
        The marks; exactly `n` are True.

    Examples
    --------
    >>> import torch
    >>> best(torch.tensor([1.0, 3.0, 1.0, 1.0]), 2)
    tensor([ True,  True, False, False])
    """
    flat = pooled.reshape(-1)
    keep = torch.zeros(flat.shape, dtype=torch.bool, device=flat.device)
    if n > 0:
        # kthvalue counts from the smallest; all above it live, and as many of the
        # ties at it as there is room for, lowest index first.
        cut = flat.kthvalue(flat.numel() - n + 1).values
        keep = flat > cut
        ties = (flat == cut).nonzero().reshape(-1)
        keep[ties[: n - int(keep.sum())]] = True
    return keep.reshape(pooled.shape)


def group_sizes(granularity: Granularity, pooled: Tensor, alive: Tensor) -> Tensor:
    """Count the living weights of every group.

    Parameters
    ----------
    granularity : Granularity
        The groups.
    pooled : Tensor
        Any values by group; only the shape is used.
    alive : bool Tensor of shape (out, in, ...)
        The weights to count.

    Returns
    -------
    sizes : int64 Tensor of the shape of `pooled`

    Examples
    --------
    >>> import torch
    >>> alive = torch.tensor([[True, True], [False, True]])
    >>> group_sizes(Neuron(), torch.zeros(2), alive)
    tensor([2, 1])
    """
    if isinstance(granularity, (Unstructured, NM)):  # every weight is its own group
        return alive.long().reshape(pooled.shape)
    labels = torch.arange(pooled.numel()).reshape(pooled.shape)
    owner = granularity.expand(labels, alive.shape)
    return torch.bincount(owner[alive], minlength=pooled.numel()).reshape(pooled.shape)


def largest_group(granularity: Granularity, shape: torch.Size) -> int:
    """Count the weights of the largest group.

    Parameters
    ----------
    granularity : Granularity
        The groups.
    shape : torch.Size
        The shape (out, in, ...) of a weight.

    Returns
    -------
    size : int

    Examples
    --------
    >>> largest_group(Neuron(), torch.Size([2, 5]))
    5
    """
    alive = torch.ones(shape, dtype=torch.bool)
    return int(group_sizes(granularity, granularity.pool(alive.double()), alive).max())


class Unstructured:
    """Single weights: every weight is a group."""

    def group_shape(self, shape: torch.Size) -> tuple[int, int]:
        """Return the shape of a group: one weight."""
        return 1, 1

    def pool(self, scores: Tensor) -> Tensor:
        """Return the scores themselves."""
        return scores

    def choose(self, pooled: Tensor, n: int) -> Tensor:
        """Keep the `n` best weights."""
        return best(pooled, n)

    def expand(self, values: Tensor, shape: torch.Size) -> Tensor:
        """Return the values themselves."""
        return values.reshape(shape)


class Neuron:
    """Whole neurons: the rows of a weight (filters of a convolution)."""

    def group_shape(self, shape: torch.Size) -> tuple[int, int]:
        """Return the shape of a group: one row."""
        return 1, shape[1]

    def pool(self, scores: Tensor) -> Tensor:
        """Return the mean score of every row, shape (out,)."""
        return scores.flatten(1).mean(1)

    def choose(self, pooled: Tensor, n: int) -> Tensor:
        """Keep the `n` best rows."""
        return best(pooled, n)

    def expand(self, values: Tensor, shape: torch.Size) -> Tensor:
        """Repeat every row's value along the row."""
        return values.reshape(-1, *[1] * (len(shape) - 1)).expand(shape)


class Input:
    """Whole inputs: the columns of a weight (channels of a convolution)."""

    def group_shape(self, shape: torch.Size) -> tuple[int, int]:
        """Return the shape of a group: one column."""
        return shape[0], 1

    def pool(self, scores: Tensor) -> Tensor:
        """Return the mean score of every column, shape (in,)."""
        return scores.transpose(0, 1).flatten(1).mean(1)

    def choose(self, pooled: Tensor, n: int) -> Tensor:
        """Keep the `n` best columns."""
        return best(pooled, n)

    def expand(self, values: Tensor, shape: torch.Size) -> Tensor:
        """Repeat every column's value along the column."""
        return values.reshape(1, -1, *[1] * (len(shape) - 2)).expand(shape)


class Block(BaseEstimator):
    """Blocks of `rows` x `columns` weights; those at the edges may be smaller.

    Parameters
    ----------
    rows, columns : int
        The numbers of neurons and inputs in a block. A convolution counts as
        (out, in * kernel).
    """

    def __init__(self, rows: int, columns: int) -> None:
        self.rows = rows
        self.columns = columns

    def group_shape(self, shape: torch.Size) -> tuple[int, int]:
        """Return the shape of a block."""
        return self.rows, self.columns

    def pool(self, scores: Tensor) -> Tensor:
        """Return the mean score of every block; smaller ones have fewer weights."""
        summed = self._sum(scores.flatten(1))
        size = self._sum(torch.ones_like(scores.flatten(1)))
        return summed / size

    def choose(self, pooled: Tensor, n: int) -> Tensor:
        """Keep the `n` best blocks."""
        return best(pooled, n)

    def expand(self, values: Tensor, shape: torch.Size) -> Tensor:
        """Repeat every block's value over the block."""
        tall = values.repeat_interleave(self.rows, 0)[: shape[0]]
        wide = tall.repeat_interleave(self.columns, 1)
        return wide[:, : shape[1:].numel()].reshape(shape)

    def _sum(self, matrix: Tensor) -> Tensor:
        n_rows, n_columns = matrix.shape
        pad = (0, -n_columns % self.columns, 0, -n_rows % self.rows)
        padded = torch.nn.functional.pad(matrix, pad)
        blocks = padded.reshape(
            padded.shape[0] // self.rows,
            self.rows,
            padded.shape[1] // self.columns,
            self.columns,
        )
        return blocks.sum((1, 3))


class NM(BaseEstimator):
    """At most `n` of every `m` weights in a row along the inputs.

    The last group of a row may be shorter than `m`. A sparsity above ``1 - n / m``
    prunes further inside the pattern.

    Parameters
    ----------
    n, m : int
        The number of survivors and the size of a group, ``0 < n < m``.

    References
    ----------
    Mishra et al. 2021, "Accelerating Sparse Deep Neural Networks" (2:4).
    """

    def __init__(self, n: int, m: int) -> None:
        self.n = n
        self.m = m

    def group_shape(self, shape: torch.Size) -> tuple[int, int]:
        """Return the shape of a group: one weight."""
        return 1, 1

    def pool(self, scores: Tensor) -> Tensor:
        """Return the scores as a matrix (out, in * kernel)."""
        return scores.flatten(1)

    def choose(self, pooled: Tensor, n: int) -> Tensor:
        """Keep the `n` best weights."""
        return best(pooled, n)

    def expand(self, values: Tensor, shape: torch.Size) -> Tensor:
        """Return the values themselves."""
        return values.reshape(shape)

    def preferred(self, pooled: Tensor) -> Tensor:
        """Mark the `n` best of every group of `m`; of equal ones the first."""
        n_columns = pooled.shape[1]
        pad = (0, -n_columns % self.m)
        padded = torch.nn.functional.pad(pooled, pad, value=-torch.inf)
        groups = padded.reshape(len(pooled), -1, self.m)
        order = groups.sort(dim=-1, descending=True, stable=True).indices
        top = torch.zeros(groups.shape, dtype=torch.bool, device=pooled.device)
        top.scatter_(-1, order[..., : self.n], True)
        return top.flatten(1)[:, :n_columns]


def resolve_granularity(granularity: str | Granularity) -> Granularity:
    """Return the granularity of a name.

    Parameters
    ----------
    granularity : str or object
        ``"unstructured"``, ``"neuron"``, ``"input"``, ``"block:RxC"`` such as
        ``"block:4x1"``, ``"N:M"`` such as ``"2:4"``, or an object of the protocol.

    Returns
    -------
    granularity : Granularity
        An object of the protocol.

    Raises
    ------
    UnknownNameError
        The name does not exist.
    ValueError
        The numbers of a block or of N:M make no sense.

    Examples
    --------
    >>> resolve_granularity("block:4x1")
    Block(columns=1, rows=4)
    >>> resolve_granularity("2:4")
    NM(m=4, n=2)
    """
    if not isinstance(granularity, str):
        return granularity
    simple: dict[str, type[Granularity]] = {
        "unstructured": Unstructured,
        "neuron": Neuron,
        "input": Input,
    }
    if granularity in simple:
        return simple[granularity]()
    if block := re.fullmatch(r"block:(\d+)x(\d+)", granularity):
        rows, columns = map(int, block.groups())
        if rows < 1 or columns < 1:
            raise ValueError(
                f"granularity={granularity!r}: a block needs at least 1x1 weights."
            )
        return Block(rows, columns)
    if pattern := re.fullmatch(r"(\d+):(\d+)", granularity):
        n, m = map(int, pattern.groups())
        if not 0 < n < m:
            raise ValueError(
                f"granularity={granularity!r}: N:M keeps N of every M weights, with "
                "0 < N < M, such as '2:4'."
            )
        return NM(n, m)
    raise UnknownNameError("granularity", granularity, NAMES)
