"""The plan by which a net is run: a deterministic choice by cost.

Costs are cycles, counted from the loads and multiplications of an entry on a machine
with 512-bit vectors; only their ratios matter. `SparseModel.tune` measures instead.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from sklearn_sparse_nn.runtime.graph import Graph
from sklearn_sparse_nn.runtime.kernels import layout as at
from sklearn_sparse_nn.runtime.kernels.layout import GROUP, LANES

__all__ = ["SLICE_COLUMNS", "Choice", "Plan", "choose", "cycles"]

# A tile of 64 rows: one weight is four loads of activations and one of its own.
_ROW, _PER_COLUMN = 12.0, 5.2
_GROUP, _PER_GROUP_COLUMN = 16.0, 17.0
# A step of sixteen weights, for tiles of 1, 8, 16 and 32 rows; and a slice's own cost.
_PER_STEP = {1: 13.0, 8: 21.0, 16: 30.4, 32: 60.0}
_SLICE = {1: 14.0, 8: 30.0, 16: 40.0, 32: 70.0}
# A column of sixty-four dense weights, by rows at once; for a few, memory is slower.
_PER_DENSE = {0: 0.0, 1: 10.6, 2: 10.8, 3: 12.6, 4: 16.3}
_LEAST_PANEL, _PANEL_COLUMNS = 160, 14  # its slice of a tile is about 40 KiB
SLICE_COLUMNS = 2**16 - 1  # one number is left for the padding


@dataclass(frozen=True, eq=False)
class Choice:
    """The way in which one layer is run.

    Parameters
    ----------
    panel : int
        The number of columns of a panel, for tiles of 64 rows.
    grouped : ndarray of shape (n_out // 4,), bool
        The fours of output rows that share their columns, for tiles of 64 rows.
    dense_limit : int
        The largest number of rows that are multiplied with all weights; 0 for none.
    """

    panel: int
    grouped: NDArray[np.bool_]
    dense_limit: int


@dataclass(frozen=True, eq=False)
class Plan:
    """The way in which a net is run.

    Parameters
    ----------
    choices : tuple of Choice
        The choices for the linear layers, in order.
    single_limit : int
        The largest number of rows that are run one by one, if no layer is too wide for
        that.
    """

    choices: tuple[Choice, ...]
    single_limit: int

    def with_choice(self, i: int, **changes: Any) -> "Plan":
        """Return the plan with another choice for layer `i`."""
        new = list(self.choices)
        new[i] = replace(new[i], **changes)
        return replace(self, choices=tuple(new))

    def with_single_limit(self, n: int) -> "Plan":
        """Return the plan with another limit for single rows."""
        return replace(self, single_limit=n)


def choose(graph: Graph) -> Plan:
    """Choose the plan of a net by counting.

    Parameters
    ----------
    graph : Graph
        The net.

    Returns
    -------
    plan : Plan
        The same for the same net, on any machine.
    """
    choices = tuple(_choice(op.weight) for op in graph.layers)
    pairs = list(zip(graph.layers, choices, strict=True))
    single = sum(_cost(op.weight, 1, choice) for op, choice in pairs)
    limit = 1
    while limit < at.NARROWEST and single * (limit + 1) < sum(
        _cost(op.weight, limit + 1, choice) for op, choice in pairs
    ):
        limit += 1
    return Plan(choices, limit)


def cycles(graph: Graph, plan: Plan, n: int) -> float:
    """Count the cycles of `n` rows, up to a tile, through the layers.

    Parameters
    ----------
    graph : Graph
        The net.
    plan : Plan
        The way in which it is run.
    n : int
        The number of rows, 1 to 64.

    Returns
    -------
    cycles : float
    """
    pairs = zip((op.weight for op in graph.layers), plan.choices, strict=True)
    if n > at.WIDE // 2:
        return float(sum(w.nnz * _PER_COLUMN + w.shape[0] * _ROW for w, _ in pairs))
    if n <= plan.single_limit:
        return n * sum(_cost(w, 1, choice) for w, choice in pairs)
    return sum(_cost(w, n, choice) for w, choice in pairs)


def _choice(weight: csr_array) -> Choice:
    """Choose how a layer is run."""
    n_out, n_in = weight.shape
    density = max(weight.nnz / max(1, n_out * n_in), 1e-9)
    panel = int(max(_LEAST_PANEL, min(n_in, _PANEL_COLUMNS / density)))
    limit = 0
    if n_in <= SLICE_COLUMNS:
        for n in (1, 2, 4, 8, 16, 32):
            if dense_cost(weight, n) > sparse_cost(weight, n):
                break
            limit = n
    return Choice(panel, _worth_grouping(weight), limit)


def _cost(weight: csr_array, n: int, choice: Choice) -> float:
    """Count the cycles of `n` rows, up to 32, through a layer."""
    return (dense_cost if n <= choice.dense_limit else sparse_cost)(weight, n)


def _worth_grouping(weight: csr_array) -> NDArray[np.bool_]:
    """Find the fours of rows that are cheaper with the columns of all four."""
    n_groups = weight.shape[0] // GROUP
    counts = np.diff(weight.indptr)[: n_groups * GROUP].reshape(-1, GROUP)
    alone = counts.sum(axis=1) * _PER_COLUMN + GROUP * _ROW
    # The four need at least the columns of the longest.
    hopeful: NDArray[np.bool_] = (
        alone > counts.max(axis=1, initial=0) * _PER_GROUP_COLUMN + _GROUP
    )
    shared = np.zeros(n_groups)
    shared[hopeful] = _shared_columns(weight, np.flatnonzero(hopeful) * GROUP)
    hopeful &= alone > shared * _PER_GROUP_COLUMN + _GROUP
    return hopeful


def _shared_columns(weight: csr_array, firsts: NDArray[np.intp]) -> NDArray[np.int32]:
    """Count the columns that any of four rows has, for fours with these first rows."""
    ones = np.ones(weight.nnz, dtype=np.int8)
    pattern = csr_array((ones, weight.indices, weight.indptr), shape=weight.shape)
    a, b, c, d = (pattern[firsts + i] for i in range(GROUP))
    counts: NDArray[np.int32] = np.diff(((a + b) + (c + d)).indptr)
    return counts


def sparse_cost(weight: csr_array, n: int) -> float:
    """Count the cycles of `n` rows, up to 32, through a layer's slices."""
    tile = 1 if n == 1 else next(t for t in (8, 16, 32) if n <= t)
    longest = np.sort(np.diff(weight.indptr))[::-1][::LANES]
    return float(longest.sum() * _PER_STEP[tile] + len(longest) * _SLICE[tile])


def dense_cost(weight: csr_array, n: int) -> float:
    """Count the cycles of `n` rows, up to 32, through all weights of a layer."""
    n_out, n_in = weight.shape
    fours, rest = divmod(n, 4)
    cycles = fours * _PER_DENSE[4] + _PER_DENSE[rest]
    return float(-(-n_out // at.SIDE) * (n_in + 16) * cycles)
