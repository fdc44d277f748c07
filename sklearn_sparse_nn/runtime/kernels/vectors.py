"""Explicit vectors for numba: the inner loops, written as LLVM IR.

A plain numba loop keeps its accumulators in memory; here they stay in registers. The
IR says ``<16 x float>``, which LLVM lowers to AVX-512, to pairs of AVX2 or to fours of
NEON registers. All kernels add a row's products in the order of its columns, starting
from its bias, with one rounding per product where the machine has FMA: so all give the
same bits.

Addresses are raw, and nothing is checked here: every caller passes arrays that
`packing` built from a checked graph.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from llvmlite import ir
from numba import extending as numba_extending
from numba import types
from numba.core.base import BaseContext as Context
from numba.core.typing.templates import Signature

from sklearn_sparse_nn.runtime.kernels.builder import (
    F32,
    FEATURES,
    I8,
    I16,
    I32,
    I64,
    VECTOR,
    VectorBuilder,
)
from sklearn_sparse_nn.runtime.kernels.layout import (
    ACCUMULATE,
    GROUP,
    LANES,
    RELU,
    SIDE,
)

__all__ = [
    "dot_dense",
    "dot_group",
    "dot_row",
    "dot_slice",
    "dot_slice_tile",
    "transpose",
]

intrinsic: Any = numba_extending.intrinsic  # its types do not know the context
#: The arguments of a function that is written as LLVM IR.
Values: TypeAlias = Sequence[ir.Value]

#: Rows of X in a tile -> how many vectors of how many floats.
_TILES = {64: (4, 16), 32: (2, 16), 16: (1, 16), 8: (1, 8)}
#: Floats of accumulators that the registers hold, with some left for the rest.
_ROOM = 256 if "avx512f" in FEATURES else 64
_DENSE_ROOM = 384 if "avx512f" in FEATURES else 64


def _nothing(context: Context) -> ir.Value:
    """Return the value of a function that returns nothing."""
    return context.get_dummy_value()  # type: ignore[no-untyped-call]


def _by_tile(
    builder: ir.IRBuilder,
    tile: ir.Value,
    widths: tuple[int, ...],
    emit: Callable[[int], None],
) -> None:
    """Emit code for every width of a tile, and the switch that chooses."""
    end = builder.append_basic_block("end")
    blocks = [builder.append_basic_block(f"tile{w}") for w in widths]
    choice = builder.switch(tile, blocks[-1])
    for width, block in zip(widths[:-1], blocks, strict=False):
        choice.add_case(ir.Constant(I64, width), block)
    for width, block in zip(widths, blocks, strict=True):
        builder.position_at_end(block)
        emit(width)
        builder.branch(end)
    builder.position_at_end(end)


def _rows_times_tile(
    builder: ir.IRBuilder, args: Values, n_rows: int, tile: int
) -> None:
    """Emit the products of `n_rows` rows with shared columns and a tile."""
    w_addr, c_addr, n, x_addr, out_addr, b_addr, flags = args
    n_vec, lanes = _TILES[tile]
    g, b, row_bytes = VectorBuilder(builder, lanes), builder, tile * 4
    w, columns = g.pointer(w_addr, F32), g.pointer(c_addr, I16)
    bias, out8 = g.pointer(b_addr, F32), g.pointer(out_addr, I8)
    accumulate, clip = g.flag(flags, ACCUMULATE), g.flag(flags, RELU)
    shift = ir.Constant(I64, row_bytes.bit_length() - 1)
    at_once = max(1, min(n_vec, _ROOM // (n_rows * lanes)))
    for first in range(0, n_vec, at_once):
        x8 = g.at(g.pointer(x_addr, I8), first * lanes * 4)
        outs = [
            out
            for r in range(n_rows)
            for out in g.vectors(g.at(out8, r * row_bytes + first * lanes * 4), at_once)
        ]
        starts = [g.splat(g.load(g.at(bias, r))) for r in range(n_rows)]
        totals = [
            b.select(accumulate, g.load_vector(out), starts[i // at_once])
            for i, out in enumerate(outs)
        ]

        def body(k: ir.Value, now: list[ir.Value], x8: ir.Value = x8) -> list[ir.Value]:
            column = b.zext(g.load(g.at(columns, k), 2), I64)
            xs = g.vectors(g.at(x8, b.shl(column, shift)), at_once)
            xs = [g.load_vector(x) for x in xs]
            weights = g.at(w, b.mul(k, ir.Constant(I64, n_rows)))
            values = [g.splat(g.load(g.at(weights, r))) for r in range(n_rows)]
            return [
                g.multiply_add(values[i // at_once], xs[i % at_once], total)
                for i, total in enumerate(now)
            ]

        for out, total in zip(outs, g.loop(n, totals, body), strict=True):
            g.store_vector(g.finish(clip, total), out)


def _make_dot(n_rows: int) -> Any:
    """Build ``dot(weights, columns, n, x, out, bias, flags)`` for tiles of 64 rows."""

    @intrinsic
    def dot(typingctx, weights, columns, n, x, out, bias, flags):  # type: ignore[no-untyped-def]
        a, i = types.uintp, types.int64

        def codegen(
            context: Context, builder: ir.IRBuilder, sig: Signature, args: Values
        ) -> ir.Value:
            _rows_times_tile(builder, args, n_rows, 64)
            return _nothing(context)

        return types.void(a, a, i, a, a, a, i), codegen

    return dot


#: One output row times a tile of 64 rows of X, feature-major.
dot_row = _make_dot(1)
#: Four output rows with the same columns, for blocks and dense layers.
dot_group = _make_dot(GROUP)


def _slice_times_tile(builder: ir.IRBuilder, args: Values, tile: int) -> None:
    """Emit the products of sixteen interleaved rows and a narrow tile."""
    w_addr, c_addr, n, x_addr, out_addr, order_addr, b_addr, flags = args
    n_vec, lanes = _TILES[tile]
    g, b, row_bytes = VectorBuilder(builder, lanes), builder, tile * 4
    w, packed = g.pointer(w_addr, F32), g.pointer(c_addr, I64)
    x8, out8 = g.pointer(x_addr, I8), g.pointer(out_addr, I8)
    order, bias = g.pointer(order_addr, I32), g.pointer(b_addr, F32)
    clip = g.flag(flags, RELU)
    shift = ir.Constant(I64, row_bytes.bit_length() - 1)
    n_rows = min(LANES, _ROOM // tile)
    for first in range(0, LANES, n_rows):
        rows = range(first, first + n_rows)
        starts = [g.splat(g.load(g.at(bias, r))) for r in rows]
        totals = [start for start in starts for _ in range(n_vec)]

        def body(
            k: ir.Value, now: list[ir.Value], rows: range = rows
        ) -> list[ir.Value]:
            fours = g.at(packed, b.mul(k, ir.Constant(I64, LANES // 4)))
            weights, new = g.at(w, b.mul(k, ir.Constant(I64, LANES))), []
            for i, r in enumerate(rows):
                if i % 4 == 0 or r % 4 == 0:
                    four = g.load(g.at(fours, r // 4), 8)
                xs = g.vectors(g.at(x8, b.shl(g.column(four, r % 4), shift)), n_vec)
                value = g.splat(g.load(g.at(weights, r)))
                for v, x in enumerate(xs):
                    total = now[i * n_vec + v]
                    new.append(g.multiply_add(value, g.load_vector(x), total))
            return new

        totals = g.loop(n, totals, body)
        for i, r in enumerate(rows):
            place = b.zext(g.load(g.at(order, r)), I64)
            outs = g.vectors(g.at(out8, b.shl(place, shift)), n_vec)
            for v, out in enumerate(outs):
                g.store_vector(g.finish(clip, totals[i * n_vec + v]), out)


@intrinsic
def dot_slice_tile(  # type: ignore[no-untyped-def]
    typingctx, weights, columns, n, x, out, order, bias, flags, tile
):
    """Sixteen output rows, interleaved (SELL-16), times a tile of 8 to 32 rows of X."""
    a, i = types.uintp, types.int64

    def codegen(
        context: Context, builder: ir.IRBuilder, sig: Signature, args: Values
    ) -> ir.Value:
        def emit(tile: int) -> None:
            _slice_times_tile(builder, args[:-1], tile)

        _by_tile(builder, args[-1], (32, 16, 8), emit)
        return _nothing(context)

    return types.void(a, a, i, a, a, a, a, i, i), codegen


@intrinsic
def dot_slice(typingctx, weights, columns, n, x, out, bias):  # type: ignore[no-untyped-def]
    """Sixteen output rows, interleaved (SELL-16), times one row of X."""
    a, i = types.uintp, types.int64

    def codegen(
        context: Context, builder: ir.IRBuilder, sig: Signature, args: Values
    ) -> ir.Value:
        w_addr, c_addr, n, x_addr, out_addr, b_addr = args
        g, b = VectorBuilder(builder), builder
        w, x = g.pointer(w_addr, VECTOR), g.pointer(x_addr, F32)
        packed = g.pointer(c_addr, I64)  # four columns in one load

        def body(k: ir.Value, now: list[ir.Value]) -> list[ir.Value]:
            xs: ir.Value = ir.Constant(VECTOR, ir.Undefined)
            at = b.mul(k, ir.Constant(I64, LANES // 4))
            for lane in range(LANES):
                if lane % 4 == 0:
                    four = g.load(
                        g.at(packed, b.add(at, ir.Constant(I64, lane // 4))), 8
                    )
                value = g.load(g.at(x, g.column(four, lane % 4)))
                xs = b.insert_element(xs, value, ir.Constant(I32, lane))
            return [g.multiply_add(g.load(g.at(w, k), 64), xs, now[0])]

        start = g.load(g.pointer(b_addr, VECTOR))
        (total,) = g.loop(n, [start], body)
        b.store(g.plus_zero(total), g.pointer(out_addr, VECTOR), align=4)
        return _nothing(context)

    return types.void(a, a, i, a, a, a), codegen


def _dense_rows(builder: ir.IRBuilder, args: Values, n_rows: int) -> None:
    """Emit the products of 64 outputs, all weights stored, and a few rows of X."""
    w_addr, n, x_addr, x_step, out_addr, out_step, b_addr = args
    g, b, n_vec = VectorBuilder(builder), builder, SIDE // LANES
    w, bias = g.pointer(w_addr, VECTOR), g.pointer(b_addr, VECTOR)
    x, out = g.pointer(x_addr, F32), g.pointer(out_addr, F32)
    wide = max(1, min(n_vec, _DENSE_ROOM // (n_rows * LANES)))
    for first in range(0, n_vec, wide):

        def body(
            k: ir.Value, now: list[ir.Value], first: int = first
        ) -> list[ir.Value]:
            weights = g.at(g.at(w, b.mul(k, ir.Constant(I64, n_vec))), first)
            weights = [g.load(g.at(weights, v), 64) for v in range(wide)]
            place = g.at(x, b.mul(k, x_step))
            values = [g.splat(g.load(g.at(place, r))) for r in range(n_rows)]
            return [
                g.multiply_add(weights[i % wide], values[i // wide], total)
                for i, total in enumerate(now)
            ]

        starts = [g.load(g.at(bias, first + v)) for v in range(wide)]
        for i, total in enumerate(g.loop(n, starts * n_rows, body)):
            _store_dense(g, total, out, out_step, first + i % wide, i // wide, n_rows)


def _store_dense(
    g: VectorBuilder,
    total: ir.Value,
    out: ir.Value,
    out_step: ir.Value,
    vector: int,
    row: int,
    n_rows: int,
) -> None:
    """Store sixteen outputs of one row: side by side, or in a tile."""
    total = g.plus_zero(total)
    if n_rows == 1:
        vectors = g.b.bitcast(out, VECTOR.as_pointer())
        g.b.store(total, g.at(vectors, vector), align=4)
        return
    for lane in range(LANES):
        output = ir.Constant(I64, vector * LANES + lane)
        place = g.at(g.at(out, g.b.mul(output, out_step)), row)
        one = g.b.extract_element(total, ir.Constant(I32, lane))
        g.b.store(one, place, align=4)


@intrinsic
def dot_dense(  # type: ignore[no-untyped-def]
    typingctx, weights, n, x, x_step, out, out_step, bias, n_rows
):
    """Sixty-four output rows, interleaved and dense, times 1 to 4, or 6, rows of X.

    Steps are the floats from one feature, or output, to the next; rows of X stand side
    by side. For a single row outputs stand side by side, whatever the step.
    """
    a, i = types.uintp, types.int64

    def codegen(
        context: Context, builder: ir.IRBuilder, sig: Signature, args: Values
    ) -> ir.Value:
        def emit(n_rows: int) -> None:
            _dense_rows(builder, args[:-1], n_rows)

        _by_tile(builder, args[-1], (6, 4, 3, 2, 1), emit)
        return _nothing(context)

    return types.void(a, i, a, i, a, i, a, i), codegen


@intrinsic
def transpose(typingctx, source, stride, target, row_bytes):  # type: ignore[no-untyped-def]
    """Turn 16 rows of 16 floats, `stride` bytes apart, to rows `row_bytes` apart."""
    a, i = types.uintp, types.int64

    def codegen(
        context: Context, builder: ir.IRBuilder, sig: Signature, args: Values
    ) -> ir.Value:
        source, stride, target, row_bytes = args
        g, b = VectorBuilder(builder), builder
        source, target = g.pointer(source, I8), g.pointer(target, I8)

        def row(base: ir.Value, step: ir.Value, r: int) -> ir.Value:
            place = g.at(base, b.mul(step, ir.Constant(I64, r)))
            return b.bitcast(place, VECTOR.as_pointer())

        rows = [g.load(row(source, stride, r)) for r in range(LANES)]
        for r, out in enumerate(_transposed(b, rows)):
            b.store(out, row(target, row_bytes, r), align=4)
        return _nothing(context)

    return types.void(a, i, a, i), codegen


def _transposed(b: ir.IRBuilder, rows: list[ir.Value]) -> list[ir.Value]:
    """Transpose by four rounds of swaps: bit `d` of row and lane change places."""
    for d in (1, 2, 4, 8):
        low = [j if not j & d else LANES + (j ^ d) for j in range(LANES)]
        high = [(j | d) if not j & d else LANES + j for j in range(LANES)]
        masks = [ir.Constant(ir.VectorType(I32, LANES), m) for m in (low, high)]
        new = list(rows)
        for r in range(LANES):
            if not r & d:
                pair = rows[r], rows[r | d]
                new[r] = b.shuffle_vector(*pair, masks[0])
                new[r | d] = b.shuffle_vector(*pair, masks[1])
        rows = new
    return rows
