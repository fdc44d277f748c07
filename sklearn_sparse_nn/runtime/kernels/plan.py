"""How a net is run: a deterministic choice by cost.

Costs are cycles, counted from the loads and multiplications of an entry on a machine
with 512-bit vectors; only their ratios matter. `SparseModel.tune` measures instead.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

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
    """How one layer is run.

    Parameters
    ----------
    panel : int
        Columns of a panel, for tiles of 64 rows.
    grouped : ndarray of shape (n_out // 4,), bool
        Fours of output rows that share their columns, for tiles of 64 rows.
    dense_limit : int
        Up to so many rows are multiplied with all weights; 0 for none.
    """

    panel: int
    grouped: Any
    dense_limit: int


@dataclass(frozen=True, eq=False)
class Plan:
    """How a net is run.

    Parameters
    ----------
    choices : tuple of Choice
        Of the linear layers, in order.
    single_limit : int
        Up to so many rows are run one by one, if no layer is too wide for that.
    """

    choices: tuple[Choice, ...]
    single_limit: int

    def with_choice(self, i: int, **changes: Any) -> "Plan":
        """Give the plan with something else for layer `i`."""
        new = list(self.choices)
        new[i] = replace(new[i], **changes)
        return replace(self, choices=tuple(new))

    def with_single_limit(self, n: int) -> "Plan":
        """Give the plan with another limit for single rows."""
        return replace(self, single_limit=n)


def choose(graph: Graph) -> Plan:
    """Choose by counting.

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
        How it is run.
    n : int
        1 to 64.
    """
    pairs = zip((op.weight for op in graph.layers), plan.choices, strict=True)
    if n > at.WIDE // 2:
        return float(sum(w.nnz * _PER_COLUMN + w.shape[0] * _ROW for w, _ in pairs))
    if n <= plan.single_limit:
        return n * sum(_cost(w, 1, choice) for w, choice in pairs)
    return sum(_cost(w, n, choice) for w, choice in pairs)


def _choice(weight: Any) -> Choice:
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


def _cost(weight: Any, n: int, choice: Choice) -> float:
    """Give the cycles of `n` rows, up to 32, through a layer."""
    return (dense_cost if n <= choice.dense_limit else sparse_cost)(weight, n)


def _worth_grouping(weight: Any) -> Any:
    """Find the fours of rows that are cheaper with the columns of all four."""
    n_out, n_in = weight.shape
    n_groups = n_out // GROUP
    counts = np.diff(weight.indptr)[: n_groups * GROUP].reshape(-1, GROUP)
    alone = counts.sum(axis=1) * _PER_COLUMN + GROUP * _ROW
    # The four need at least the columns of the longest.
    hopeful = alone > counts.max(axis=1, initial=0) * _PER_GROUP_COLUMN + _GROUP
    if not hopeful.any():
        return hopeful
    groups = np.repeat(np.arange(n_groups), counts.sum(axis=1))
    columns = weight.indices[: len(groups)].astype(np.int64)
    keep = hopeful[groups]
    keys = np.unique(groups[keep] * n_in + columns[keep])
    shared = np.bincount(keys // n_in, minlength=n_groups)
    return hopeful & (alone > shared * _PER_GROUP_COLUMN + _GROUP)


def sparse_cost(weight: Any, n: int) -> float:
    """Give the cycles of `n` rows, up to 32, through a layer's slices."""
    tile = 1 if n == 1 else next(t for t in (8, 16, 32) if n <= t)
    longest = np.sort(np.diff(weight.indptr))[::-1][::LANES]
    return float(longest.sum() * _PER_STEP[tile] + len(longest) * _SLICE[tile])


def dense_cost(weight: Any, n: int) -> float:
    """Give the cycles of `n` rows, up to 32, through all weights of a layer."""
    n_out, n_in = weight.shape
    fours, rest = divmod(n, 4)
    cycles = fours * _PER_DENSE[4] + _PER_DENSE[rest]
    return float(-(-n_out // at.SIDE) * (n_in + 16) * cycles)
