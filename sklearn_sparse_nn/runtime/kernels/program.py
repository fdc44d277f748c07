"""The program that the kernels read, written from a plan."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sklearn_sparse_nn.runtime.activations import CODES
from sklearn_sparse_nn.runtime.graph import (
    Add,
    Affine,
    Concat,
    Graph,
    LayerNorm,
    Linear,
    Multiply,
    Op,
    Softmax,
    inputs_of,
)
from sklearn_sparse_nn.runtime.kernels import layout as at
from sklearn_sparse_nn.runtime.kernels.choice import SLICE_COLUMNS, Choice, Plan
from sklearn_sparse_nn.runtime.kernels.packing import (
    Slices,
    pack_dense,
    pack_slices,
    pack_tiles,
)

__all__ = ["Program", "aligned", "make_program", "place_values"]

Number = TypeVar("Number", bound=np.generic)


@dataclass(frozen=True, eq=False)
class Program:
    """A net as the arrays that the kernels read.

    Parameters
    ----------
    lines : ndarray of shape (1 + n_ops, N_FIELDS), int64
        The input and output, then every operation; their fields are in `layout`.
    floats, table, columns : ndarray
        The numbers that the lines point to: float32 from a multiple of 64 bytes, int32,
        uint16.
    scratch_size : int
        The number of floats of scratch that a tile of 64 rows needs.
    """

    lines: NDArray[np.int64]
    floats: NDArray[np.float32]
    table: NDArray[np.int32]
    columns: NDArray[np.uint16]
    scratch_size: int


class _Arena:
    """An allocator of rows of scratch, which are free again after a last use."""

    def __init__(self) -> None:
        self.size = 0
        self._free: list[tuple[int, int]] = []

    def take(self, n: int) -> int:
        """Allocate `n` rows; return the first."""
        for i, (start, size) in enumerate(self._free):
            if size >= n:
                self._free[i] = (start + n, size - n)
                return start
        start = self.size
        if self._free and sum(self._free[-1]) == self.size:
            start = self._free.pop()[0]
        self.size = start + n
        return start

    def free(self, start: int, n: int) -> None:
        """Make `n` rows free again."""
        spans = sorted([*self._free, (start, n)])
        merged: list[tuple[int, int]] = []
        for a, size in spans:
            if merged and sum(merged[-1]) == a:
                merged[-1] = (merged[-1][0], merged[-1][1] + size)
            elif size:
                merged.append((a, size))
        self._free = merged


def place_values(graph: Graph) -> tuple[list[int], int]:
    """Place every value in scratch memory.

    Returns
    -------
    places : list of int
        The first row of every value.
    n_rows : int
        The number of rows of scratch.

    Notes
    -----
    A value has a row more than it is wide: a zero, where padding points to.
    """
    arena, last = _Arena(), graph.last_uses()
    places = [arena.take(graph.widths[0] + 1)]
    for i, op in enumerate(graph.ops):
        places.append(arena.take(graph.widths[i + 1] + 1))
        for v in {*inputs_of(op), i + 1}:
            if last[v] in (i, -1):
                arena.free(places[v], graph.widths[v] + 1)
    return places, arena.size


class _Pool(Generic[Number]):
    """One long array of short ones, each from a multiple of 64 bytes."""

    def __init__(self, dtype: type[Number]) -> None:
        self.dtype = np.dtype(dtype)
        self._parts: list[NDArray[Number]] = []
        self._size = 0

    def add(self, values: ArrayLike) -> int:
        """Append values; return the place of the first."""
        start = self._size
        part = np.asarray(values, dtype=self.dtype).ravel()
        pad = -len(part) % (64 // self.dtype.itemsize)
        self._parts += [part, np.zeros(pad, dtype=self.dtype)]
        self._size += len(part) + pad
        return start

    def join(self) -> NDArray[Number]:
        """Return all as one array from a multiple of 64 bytes, with a margin."""
        joined = aligned(self._size + 64, self.dtype.type)
        if self._parts:
            joined[: self._size] = np.concatenate(self._parts)
        return joined


def aligned(n: int, dtype: type[Number]) -> NDArray[Number]:
    """Return `n` zeros that start at a multiple of 64 bytes."""
    size = n * np.dtype(dtype).itemsize
    raw = np.zeros(size + 64, dtype=np.uint8)
    skip = -raw.ctypes.data % 64
    zeros: NDArray[Number] = raw[skip : skip + size].view(dtype)
    return zeros


class _Writer:
    """Writes the program of a plan."""

    def __init__(self, graph: Graph, plan: Plan) -> None:
        self.graph = graph
        self.choices = iter(plan.choices)
        self.single_limit = plan.single_limit
        self.floats = _Pool(np.float32)
        self.table = _Pool(np.int32)
        self.columns = _Pool(np.uint16)
        self.places, self.rows = place_values(graph)

    def program(self) -> Program:
        """Write all lines."""
        lines = [self.head()]
        for i, op in enumerate(self.graph.ops):
            new = self.concat(i, op) if isinstance(op, Concat) else [self.line(i, op)]
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
        """Write the line of the input stage and the output."""
        line, stage = [-1] * at.N_FIELDS, self.graph.stage
        line[at.OUT] = self.places[-1]
        line[at.N_OUT] = self.graph.n_outputs
        line[at.WIDTH] = stage.width
        too_wide = any(op.weight.shape[1] > SLICE_COLUMNS for op in self.graph.layers)
        line[at.WIDE_ONLY] = too_wide
        line[at.SINGLE_LIMIT] = 0 if too_wide else self.single_limit
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

    def concat(self, i: int, op: Concat) -> list[list[int]]:
        """Write a line for every value that is copied."""
        lines, out = [], self.places[i + 1]
        for v in op.inputs:
            line = self.common(i, op, v)
            width = self.graph.widths[v]
            line[at.OUT], line[at.N_OUT] = out, width
            lines.append(line)
            out += width
        return lines

    def line(self, i: int, op: Op) -> list[int]:
        """Write the line of an operation."""
        line = self.common(i, op, inputs_of(op)[0])
        match op:
            case Linear():
                self.linear(line, op, next(self.choices))
            case Add() | Multiply():
                line[at.IN2] = self.places[op.inputs[1]]
            case Affine():
                line[at.A], line[at.B] = map(self.floats.add, (op.scale, op.shift))
            case LayerNorm():
                line[at.A], line[at.B] = map(self.floats.add, (op.weight, op.bias))
        return line

    def common(self, i: int, op: Op, v: int) -> list[int]:
        """Write what all operations have: input `v`, output, activation."""
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

    def linear(self, line: list[int], op: Linear, choice: Choice) -> None:
        """Write the weights of a layer in every form that its rows may need."""
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
            dense, padded = pack_dense(op.weight, op.bias)
            line[at.DENSE_WEIGHTS] = self.floats.add(dense)
            line[at.DENSE_BIAS] = self.floats.add(padded)
        if limit < at.WIDE // 2 and op.weight.shape[1] <= SLICE_COLUMNS:
            self.slices(line, pack_slices(op.weight, op.bias))

    def slices(self, line: list[int], slices: Slices) -> None:
        """Write the weights of a layer for single rows and narrow tiles."""
        line[at.N_SLICES] = len(slices.counts)
        line[at.SLICES_AT] = self.table.add(slices.counts)
        line[at.SLICE_WEIGHTS] = self.floats.add(slices.weights)
        line[at.SLICE_COLUMNS] = self.columns.add(slices.columns)
        line[at.ORDER_AT] = self.table.add(slices.order)
        line[at.SLICE_BIAS] = self.floats.add(slices.bias)


def _kind(op: Op) -> int:
    """Return the number of a kind of operation."""
    if isinstance(op, Softmax):
        return at.LOG_SOFTMAX if op.log else at.SOFTMAX
    return _KINDS[type(op)]


_KINDS = {
    Linear: at.LINEAR,
    Affine: at.AFFINE,
    LayerNorm: at.LAYER_NORM,
    Add: at.ADD,
    Multiply: at.MULTIPLY,
    Concat: at.CONCAT,
}


def make_program(graph: Graph, plan: Plan) -> Program:
    """Write the program of a net.

    Parameters
    ----------
    graph : Graph
        The net.
    plan : Plan
        The way to run it.

    Returns
    -------
    program : Program
    """
    return _Writer(graph, plan).program()
