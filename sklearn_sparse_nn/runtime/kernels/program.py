"""What the kernels read, written from a plan."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from sklearn_sparse_nn.runtime.activations import CODES
from sklearn_sparse_nn.runtime.graph import (
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
from sklearn_sparse_nn.runtime.kernels import layout as at
from sklearn_sparse_nn.runtime.kernels.packing import (
    Slices,
    pack_dense,
    pack_slices,
    pack_tiles,
)
from sklearn_sparse_nn.runtime.kernels.plan import SLICE_COLUMNS, Plan

__all__ = ["Program", "aligned", "make_program", "place_values"]


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

    @cached_property
    def places(self) -> list[int]:
        """Address and lengths of every array."""
        lines = [self.lines.ctypes.data, *self.lines.shape]
        arrays = (self.floats, self.table, self.columns)
        return lines + [n for a in arrays for n in (a.ctypes.data, len(a))]


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

    def __init__(self, graph: Graph, plan: Plan, n_parts: int) -> None:
        self.graph, self.plan, self.n_parts = graph, plan, n_parts
        self.floats = _Pool(np.float32)
        self.table = _Pool(np.int32)
        self.columns = _Pool(np.uint16)
        self.places, self.rows = place_values(graph)
        self.layer = 0

    def program(self) -> Program:
        lines = [self.head()]
        for i, op in enumerate(self.graph.ops):
            before, new = len(lines), self.lines(i, op)
            for line in new:
                line[at.BEFORE] = before
            new[-1][at.LAST] = 1
            lines += new
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
        too_wide = any(op.weight.shape[1] > SLICE_COLUMNS for op in self.graph.layers)
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
        if isinstance(op, Linear):
            return self.linear(i, op)
        line = self.line(i, op, inputs_of(op)[0])
        if isinstance(op, Add):
            line[at.IN2] = self.places[op.inputs[1]]
        elif isinstance(op, Affine):
            line[at.A], line[at.B] = map(self.floats.add, (op.scale, op.shift))
        elif isinstance(op, LayerNorm):
            line[at.A], line[at.B] = map(self.floats.add, (op.weight, op.bias))
        return [line]

    def line(self, i: int, op: Op, v: int) -> list[int]:
        line = [0] * at.N_FIELDS
        line[at.KIND] = _kind(op)
        line[at.IN], line[at.N_IN] = self.places[v], self.graph.widths[v]
        line[at.OUT], line[at.N_OUT] = self.places[i + 1], self.graph.widths[i + 1]
        params: Sequence[float] = (0.0, 0.0)
        if not isinstance(op, (Concat, Softmax)):
            line[at.ACT] = CODES[op.activation.name]
            params = [*op.activation.params, 0.0, 0.0][:2]
        eps = op.eps if isinstance(op, LayerNorm) else 0.0
        line[at.PARAMS] = self.floats.add([*params, eps])
        return line

    def linear(self, i: int, op: Linear) -> list[list[int]]:
        choice = self.plan.choices[self.layer]
        self.layer += 1
        lines = []
        cuts = self.cuts(len(op.bias))
        for start, stop in cuts:
            line = self.line(i, op, op.input)
            line[at.OUT], line[at.N_OUT] = line[at.OUT] + start, stop - start
            weight = op.weight[start:stop] if len(cuts) > 1 else op.weight
            bias = op.bias[start:stop]
            grouped = choice.grouped[start // at.GROUP : stop // at.GROUP]
            relu = op.activation.name == "relu"
            tiles = pack_tiles(weight, choice.panel, grouped, relu=relu)
            line[at.A] = self.floats.add(bias + np.float32(0))  # no -0, as in slices
            line[at.N_ENTRIES] = len(tiles.entries)
            line[at.ENTRIES_AT] = self.table.add(tiles.entries)
            line[at.TILE_WEIGHTS] = self.floats.add(tiles.weights)
            line[at.TILE_COLUMNS] = self.columns.add(tiles.columns)
            limit = choice.dense_limit  # for tiles up to half as wide as the widest
            line[at.DENSE_LIMIT] = limit
            if limit:
                dense, padded = pack_dense(weight, bias)
                line[at.DENSE_WEIGHTS] = self.floats.add(dense)
                line[at.DENSE_BIAS] = self.floats.add(padded)
            if limit < at.WIDE // 2 and weight.shape[1] <= SLICE_COLUMNS:
                self.slices(line, pack_slices(weight, bias))
            lines.append(line)
        return lines

    def cuts(self, n_out: int) -> list[tuple[int, int]]:
        """Cut a layer's outputs into parts; whole sixty-fours, but for the last."""
        sides = -(-n_out // at.SIDE)
        n_parts = max(1, min(self.n_parts, sides))
        ends = [min(n_out, sides * k // n_parts * at.SIDE) for k in range(n_parts + 1)]
        return list(pairwise(ends))

    def slices(self, line: list[int], slices: Slices) -> None:
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


def make_program(graph: Graph, plan: Plan, n_parts: int = 1) -> Program:
    """Write what the kernels read.

    Parameters
    ----------
    graph : Graph
        The net.
    plan : Plan
        How to run it.
    n_parts : int, default=1
        Into how many lines a layer is cut by its outputs, if it has as many
        sixty-fours, so that threads can share the layers of one tile.

    Returns
    -------
    program : Program
    """
    return _Writer(graph, plan, n_parts).program()
