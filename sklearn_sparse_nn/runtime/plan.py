"""How a net is run: a deterministic choice by cost, and the program that follows.

Costs are cycles, counted from the loads and multiplications of an entry on a machine
with 512-bit vectors; only their ratios matter. `SparseModel.tune` measures instead.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sklearn_sparse_nn.runtime import layout as at
from sklearn_sparse_nn.runtime.graph import (
    ACTIVATIONS,
    Add,
    Affine,
    Concat,
    Graph,
    LayerNorm,
    Linear,
    Op,
    Softmax,
    inputs_of,
)
from sklearn_sparse_nn.runtime.layout import GROUP, LANES
from sklearn_sparse_nn.runtime.packing import (
    pack_dense,
    pack_slices,
    pack_tiles,
)

__all__ = ["Choice", "Plan", "Program", "choose", "make_program"]

# A tile of 64 rows: one weight is four loads of activations and one of its own.
_ROW, _PER_COLUMN = 12.0, 5.2
_GROUP, _PER_GROUP_COLUMN = 16.0, 17.0
# A step of sixteen weights, for tiles of 1, 8, 16 and 32 rows; and a slice's own cost.
_PER_STEP = {1: 13.0, 8: 21.0, 16: 30.4, 32: 60.0}
_SLICE = {1: 14.0, 8: 30.0, 16: 40.0, 32: 70.0}
# A column of sixty-four dense weights, by rows at once; for a few, memory is slower.
_PER_DENSE = {0: 0.0, 1: 10.6, 2: 10.8, 3: 12.6, 4: 16.3}
_LEAST_PANEL, _PANEL_COLUMNS = 160, 14  # its slice of a tile is about 40 KiB
_SLICE_COLUMNS = 2**16 - 1  # one number is left for the padding


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


@dataclass(frozen=True, eq=False)
class Program:
    """What the kernels read.

    Parameters
    ----------
    lines : ndarray of shape (1 + n_ops, N_FIELDS), int64
        See `layout`.
    floats, table, columns : ndarray
        float32 from a multiple of 64 bytes, int32, uint16.
    scratch_size : int
        Floats of scratch that a tile of 64 rows needs.
    """

    lines: Any
    floats: Any
    table: Any
    columns: Any
    scratch_size: int


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


def _choice(weight: Any) -> Choice:
    n_out, n_in = weight.shape
    density = max(weight.nnz / max(1, n_out * n_in), 1e-9)
    panel = int(max(_LEAST_PANEL, min(n_in, _PANEL_COLUMNS / density)))
    limit = 0
    if n_in <= _SLICE_COLUMNS:
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


class _Arena:
    """Rows of scratch: given out to values, taken back after their last use."""

    def __init__(self) -> None:
        self.size = 0
        self._free: list[tuple[int, int]] = []

    def take(self, n: int) -> int:
        for i, (start, size) in enumerate(self._free):
            if size >= n:
                self._free[i] = (start + n, size - n)
                return start
        start = self.size
        if self._free and sum(self._free[-1]) == self.size:
            start = self._free.pop()[0]
        self.size = start + n
        return start

    def give_back(self, start: int, n: int) -> None:
        spans = sorted([*self._free, (start, n)])
        merged: list[tuple[int, int]] = []
        for a, size in spans:
            if merged and sum(merged[-1]) == a:
                merged[-1] = (merged[-1][0], merged[-1][1] + size)
            elif size:
                merged.append((a, size))
        self._free = merged


def place_values(graph: Graph) -> tuple[list[int], int]:
    """Give every value its first row of scratch, and the rows needed in all.

    A value has a row more than it is wide: a zero, where padding points to.
    """
    arena, last = _Arena(), graph.last_uses()
    places = [arena.take(graph.widths[0] + 1)]
    for i, op in enumerate(graph.ops):
        places.append(arena.take(graph.widths[i + 1] + 1))
        for v in {*inputs_of(op), i + 1}:
            if last[v] in (i, -1):
                arena.give_back(places[v], graph.widths[v] + 1)
    return places, arena.size


class _Pool:
    """Arrays one after the other, each from a multiple of 64 bytes."""

    def __init__(self, dtype: Any) -> None:
        self.dtype = np.dtype(dtype)
        self._parts: list[Any] = []
        self._size = 0

    def add(self, values: Any) -> int:
        """Append values; give where they begin."""
        start = self._size
        part = np.asarray(values, dtype=self.dtype).ravel()
        pad = -len(part) % (64 // self.dtype.itemsize)
        self._parts += [part, np.zeros(pad, dtype=self.dtype)]
        self._size += len(part) + pad
        return start

    def join(self) -> Any:
        """Give all as one array from a multiple of 64 bytes, with a margin."""
        joined = aligned(self._size + 64, self.dtype)
        if self._parts:
            joined[: self._size] = np.concatenate(self._parts)
        return joined


def aligned(n: int, dtype: Any) -> Any:
    """Give zeros that start at a multiple of 64 bytes."""
    size = n * np.dtype(dtype).itemsize
    raw = np.zeros(size + 64, dtype=np.uint8)
    skip = -raw.ctypes.data % 64
    return raw[skip : skip + size].view(dtype)


class _Writer:
    """Writes the program of a plan."""

    def __init__(self, graph: Graph, plan: Plan) -> None:
        self.graph, self.plan = graph, plan
        self.floats = _Pool(np.float32)
        self.table = _Pool(np.int32)
        self.columns = _Pool(np.uint16)
        self.places, self.rows = place_values(graph)
        self.layer = 0

    def program(self) -> Program:
        lines = [self.head()]
        for i, op in enumerate(self.graph.ops):
            lines += self.lines(i, op)
        spare = (max(self.graph.widths) + at.SIDE) * at.WIDE // 2  # sums of few rows
        return Program(
            np.array(lines, dtype=np.int64),
            self.floats.join(),
            self.table.join(),
            self.columns.join(),
            self.rows * at.WIDE + spare,
        )

    def head(self) -> list[int]:
        line, stage = [-1] * at.N_FIELDS, self.graph.stage
        line[at.OUT] = self.places[-1]
        line[at.N_OUT] = self.graph.n_outputs
        line[at.WIDTH] = stage.width
        too_wide = any(op.weight.shape[1] > _SLICE_COLUMNS for op in self.graph.layers)
        line[at.WIDE_ONLY] = too_wide
        line[at.SINGLE_LIMIT] = 0 if too_wide else self.plan.single_limit
        line[at.SCRATCH_ROWS] = self.rows
        for field, values in (
            (at.FILL_AT, stage.fill),
            (at.SHIFT_AT, stage.shift),
            (at.SCALE_AT, stage.scale),
        ):
            if values is not None:
                line[field] = self.floats.add(values)
        if stage.columns is not None:
            line[at.COLUMNS_AT] = self.table.add(stage.columns)
        return line

    def lines(self, i: int, op: Op) -> list[list[int]]:
        if isinstance(op, Concat):
            lines, out = [], self.places[i + 1]
            for v in op.inputs:
                line = self.line(i, op, v)
                width = self.graph.widths[v]
                line[at.OUT], line[at.N_OUT] = out, width
                lines.append(line)
                out += width
            return lines
        line = self.line(i, op, inputs_of(op)[0])
        if isinstance(op, Add):
            line[at.IN2] = self.places[op.inputs[1]]
        elif isinstance(op, Affine):
            line[at.A], line[at.B] = map(self.floats.add, (op.scale, op.shift))
        elif isinstance(op, LayerNorm):
            line[at.A], line[at.B] = map(self.floats.add, (op.weight, op.bias))
        elif isinstance(op, Linear):
            self.linear(line, op)
        return [line]

    def line(self, i: int, op: Op, v: int) -> list[int]:
        line = [0] * at.N_FIELDS
        line[at.KIND] = _kind(op)
        line[at.IN], line[at.N_IN] = self.places[v], self.graph.widths[v]
        line[at.OUT], line[at.N_OUT] = self.places[i + 1], self.graph.widths[i + 1]
        params: Sequence[float] = (0.0, 0.0)
        if not isinstance(op, (Concat, Softmax)):
            line[at.ACT] = list(ACTIVATIONS).index(op.activation.name)
            params = [*op.activation.params, 0.0, 0.0][:2]
        eps = op.eps if isinstance(op, LayerNorm) else 0.0
        line[at.PARAMS] = self.floats.add([*params, eps])
        return line

    def linear(self, line: list[int], op: Linear) -> None:
        choice = self.plan.choices[self.layer]
        self.layer += 1
        relu = op.activation.name == "relu"
        tiles = pack_tiles(op.weight, choice.panel, choice.grouped, relu=relu)
        line[at.A] = self.floats.add(op.bias + np.float32(0))  # no -0, as in slices
        line[at.N_ENTRIES] = len(tiles.entries)
        line[at.ENTRIES_AT] = self.table.add(tiles.entries)
        line[at.TILE_WEIGHTS] = self.floats.add(tiles.weights)
        line[at.TILE_COLUMNS] = self.columns.add(tiles.columns)
        limit = choice.dense_limit  # for tiles up to half as wide as the widest
        line[at.DENSE_LIMIT] = limit
        if limit:
            weights, bias = pack_dense(op.weight, op.bias)
            line[at.DENSE_WEIGHTS] = self.floats.add(weights)
            line[at.DENSE_BIAS] = self.floats.add(bias)
        if limit < at.WIDE // 2 and op.weight.shape[1] <= _SLICE_COLUMNS:
            self.slices(line, op)

    def slices(self, line: list[int], op: Linear) -> None:
        slices = pack_slices(op.weight, op.bias)
        line[at.N_SLICES] = len(slices.counts)
        line[at.SLICES_AT] = self.table.add(slices.counts)
        line[at.SLICE_WEIGHTS] = self.floats.add(slices.weights)
        line[at.SLICE_COLUMNS] = self.columns.add(slices.columns)
        line[at.ORDER_AT] = self.table.add(slices.order)
        line[at.SLICE_BIAS] = self.floats.add(slices.bias)


def _kind(op: Op) -> int:
    if isinstance(op, Softmax):
        return at.LOG_SOFTMAX if op.log else at.SOFTMAX
    kinds = {
        "linear": at.LINEAR,
        "affine": at.AFFINE,
        "layer_norm": at.LAYER_NORM,
        "add": at.ADD,
        "concat": at.CONCAT,
    }
    return kinds[op.kind]


def make_program(graph: Graph, plan: Plan) -> Program:
    """Write what the kernels read.

    Parameters
    ----------
    graph : Graph
        The net.
    plan : Plan
        How to run it.

    Returns
    -------
    program : Program
    """
    return _Writer(graph, plan).program()
