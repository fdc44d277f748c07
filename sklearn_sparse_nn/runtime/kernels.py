"""The kernels: a whole net for a tile of rows, or for one row, in one call.

A tile holds 16, 32 or 64 rows of X, feature-major, so that activations never leave the
cache: operation by operation, products, bias and activation are done for the tile in
scratch memory. A single row is the tile of width one, with products of its own.

What to do is in `program`, one line for every operation and one before them for input
and output; it points into `floats` (vectors and weights), `table` (which products go
where) and `columns`. `plan` and `packing` write them, from a checked graph.
"""

from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit, types

from sklearn_sparse_nn.runtime.elementwise import activate, exp
from sklearn_sparse_nn.runtime.layout import (
    ACT,
    ADD,
    AFFINE,
    COLUMNS_AT,
    CONCAT,
    DENSE_BIAS,
    DENSE_LIMIT,
    DENSE_WEIGHTS,
    ENTRIES_AT,
    ENTRY_FIELDS,
    FILL_AT,
    GROUPED,
    IN,
    IN2,
    KIND,
    LAYER_NORM,
    LINEAR,
    LOG_SOFTMAX,
    N_ENTRIES,
    N_IN,
    N_OUT,
    N_SLICES,
    ORDER_AT,
    OUT,
    PARAMS,
    SCALE_AT,
    SCRATCH_ROWS,
    SHARED,
    SHIFT_AT,
    SIDE,
    SINGLE_LIMIT,
    SLICE_BIAS,
    SLICE_COLUMNS,
    SLICE_WEIGHTS,
    SLICES_AT,
    TILE_COLUMNS,
    TILE_WEIGHTS,
    WIDE,
    WIDE_ONLY,
    WIDTH,
    A,
    B,
)
from sklearn_sparse_nn.runtime.vectors import (
    GROUP,
    LANES,
    RELU,
    dot_dense,
    dot_group,
    dot_row,
    dot_slice,
    dot_slice_tile,
    transpose,
)

__all__ = ["run"]

_f = np.float32
_ZERO = _f(0)
_EXPONENT, _SIZE = np.int32(0x7F800000), np.int32(0x7FFFFFFF)

_inner = njit(nogil=True, error_model="numpy")
# Each is called in one place; compiling them by themselves would take time for nothing.
_once = njit(inline="always", nogil=True, error_model="numpy")


@_inner
def _is_bad(bits, allow_nan):  # type: ignore[no-untyped-def]
    """Tell whether a row, seen as int32, has infinite values or NaN."""
    bad = False
    if allow_nan:
        for j in range(bits.shape[0]):
            bad |= (bits[j] & _SIZE) == _EXPONENT
    else:
        for j in range(bits.shape[0]):
            bad |= (bits[j] & _EXPONENT) == _EXPONENT
    return bad


@_once
def _transpose_tile(X, first, n, lanes, scratch):  # type: ignore[no-untyped-def]
    """Turn `n` rows of X into a feature-major tile, in blocks of 16 x 16."""
    n_columns = X.shape[1]
    whole_rows = n // LANES * LANES
    whole_columns = n_columns // LANES * LANES
    for i in range(0, whole_rows, LANES):
        source = X.ctypes.data + (first + i) * n_columns * 4
        target = scratch.ctypes.data + i * 4
        for j in range(0, whole_columns, LANES):
            transpose(
                np.uintp(source + j * 4),
                n_columns * 4,
                np.uintp(target + j * lanes * 4),
                lanes * 4,
            )
        for j in range(whole_columns, n_columns):
            for lane in range(i, i + LANES):
                scratch[j * lanes + lane] = X[first + lane, j]
    for lane in range(whole_rows, n):
        for j in range(n_columns):
            scratch[j * lanes + lane] = X[first + lane, j]


@_once
def _load(  # type: ignore[no-untyped-def]
    X, first, n, lanes, program, floats, table, scratch, staged
):
    """Check `n` rows, lay them into the tile, and take them through the input stage."""
    head = program[0]
    allow_nan = head[FILL_AT] >= 0 and not staged
    bits = X.view(np.int32)
    bad = False
    for i in range(first, first + n):
        bad |= _is_bad(bits[i], allow_nan)
    if bad:
        return False
    width = head[WIDTH]
    if head[COLUMNS_AT] < 0 or staged:
        if lanes == 1:
            scratch[:width] = X[first]
        else:
            _transpose_tile(X, first, n, lanes, scratch)
    else:
        at = head[COLUMNS_AT]
        for lane in range(n):
            for j in range(width):
                scratch[j * lanes + lane] = X[first + lane, table[at + j]]
    for lane in range(n, lanes):
        for j in range(width):
            scratch[j * lanes + lane] = _ZERO
    if not staged:
        _stage(head, width, lanes, floats, scratch)
    scratch[width * lanes : (width + 1) * lanes] = _ZERO
    return True


@_once
def _stage(head, width, lanes, floats, scratch):  # type: ignore[no-untyped-def]
    """Fill NaN, subtract the shift, divide by the scale."""
    if head[FILL_AT] >= 0:
        for j in range(width):
            fill = floats[head[FILL_AT] + j]
            for k in range(j * lanes, (j + 1) * lanes):
                if scratch[k] != scratch[k]:
                    scratch[k] = fill
    if head[SCALE_AT] >= 0:
        shift = floats[head[SHIFT_AT] : head[SHIFT_AT] + width]
        scale = floats[head[SCALE_AT] : head[SCALE_AT] + width]
        if lanes == 1:
            for j in range(width):
                scratch[j] = (scratch[j] - shift[j]) / scale[j]
        else:
            for j in range(width):
                for k in range(j * lanes, (j + 1) * lanes):
                    scratch[k] = (scratch[k] - shift[j]) / scale[j]


@_once
def _linear_entries(op, lanes, floats, table, columns, scratch):  # type: ignore[no-untyped-def]
    """Multiply a tile: entries of one row or of four, in the order of their columns."""
    row_bytes = lanes * 4
    x = scratch.ctypes.data + op[IN] * row_bytes
    out = scratch.ctypes.data + op[OUT] * row_bytes
    bias = floats.ctypes.data + op[A] * 4
    weights = floats.ctypes.data + op[TILE_WEIGHTS] * 4
    ids = columns.ctypes.data + op[TILE_COLUMNS] * 2
    for e in range(op[N_ENTRIES]):
        at = op[ENTRIES_AT] + e * ENTRY_FIELDS
        row, n, flags, base = table[at], table[at + 1], table[at + 2], table[at + 3]
        args = (
            np.uintp(weights),
            np.uintp(ids),
            np.int64(n),
            np.uintp(x + np.int64(base) * row_bytes),
            np.uintp(out + np.int64(row) * row_bytes),
            np.uintp(bias + np.int64(row) * 4),
            np.int64(flags),
        )
        if flags & GROUPED:
            dot_group(*args)
            weights += np.int64(n) * 4 * GROUP
        else:
            dot_row(*args)
            weights += np.int64(n) * 4
        if not flags & SHARED:
            ids += np.int64(n) * 2


@_once
def _linear_slices(op, lanes, floats, table, columns, scratch, spare):  # type: ignore[no-untyped-def]
    """Multiply one row or a narrow tile: sixteen outputs interleaved."""
    row_bytes = lanes * 4
    x = np.uintp(scratch.ctypes.data + op[IN] * row_bytes)
    out = np.uintp(scratch.ctypes.data + op[OUT] * row_bytes)
    bias = floats.ctypes.data + op[SLICE_BIAS] * 4
    weights = floats.ctypes.data + op[SLICE_WEIGHTS] * 4
    ids = columns.ctypes.data + op[SLICE_COLUMNS] * 2
    order = table.ctypes.data + op[ORDER_AT] * 4
    flags = np.int64(RELU if op[ACT] == 1 else 0)
    for s in range(op[N_SLICES]):
        n = np.int64(table[op[SLICES_AT] + s])
        b, places = np.uintp(bias + s * LANES * 4), np.uintp(order + s * LANES * 4)
        w, c = np.uintp(weights), np.uintp(ids)
        if lanes == 1:
            dot_slice(w, c, n, x, np.uintp(spare.ctypes.data + s * LANES * 4), b)
        else:
            dot_slice_tile(w, c, n, x, out, places, b, flags, np.int64(lanes))
        weights += n * LANES * 4
        ids += n * LANES * 2
    if lanes == 1:
        for i in range(op[N_OUT]):
            scratch[op[OUT] + table[op[ORDER_AT] + i]] = spare[i]


@_once
def _linear_dense(op, n, lanes, floats, scratch, spare):  # type: ignore[no-untyped-def]
    """Multiply `n` rows with all weights: sixty-four outputs at once."""
    x = scratch.ctypes.data + op[IN] * lanes * 4
    out = spare.ctypes.data
    weights = floats.ctypes.data + op[DENSE_WEIGHTS] * 4
    bias = floats.ctypes.data + op[DENSE_BIAS] * 4
    for first in range(0, op[N_OUT], SIDE):
        row = 0
        while row < n:
            # What is too much falls on lanes that nobody reads. One alone in a tile
            # is done as two: a single row's outputs would lie side by side.
            at_once = 6 if 5 <= n - row <= 6 else min(4, n - row)
            at_once = max(at_once, min(2, lanes))
            dot_dense(
                np.uintp(weights + first * op[N_IN] * 4),
                op[N_IN],
                np.uintp(x + row * 4),
                lanes,
                np.uintp(out + (first * lanes + row) * 4),
                lanes,
                np.uintp(bias + first * 4),
                at_once,
            )
            row += at_once
    start = op[OUT] * lanes
    size = op[N_OUT] * lanes
    scratch[start : start + size] = spare[:size]
    if lanes > 1 and op[ACT] == 1:  # where others clip as they store
        activate(1, _ZERO, _ZERO, scratch[start : start + size])


@_once
def _linear(op, n, lanes, floats, table, columns, scratch, spare):  # type: ignore[no-untyped-def]
    """Multiply in the way that was planned for so many rows."""
    if lanes < WIDE and n <= op[DENSE_LIMIT]:
        _linear_dense(op, n, lanes, floats, scratch, spare)
    elif lanes == WIDE:
        _linear_entries(op, lanes, floats, table, columns, scratch)
    else:
        _linear_slices(op, lanes, floats, table, columns, scratch, spare)


@_once
def _affine(op, lanes, floats, scratch):  # type: ignore[no-untyped-def]
    for j in range(op[N_OUT]):
        scale, shift = floats[op[A] + j], floats[op[B] + j]
        x = scratch[(op[IN] + j) * lanes : (op[IN] + j + 1) * lanes]
        out = scratch[(op[OUT] + j) * lanes : (op[OUT] + j + 1) * lanes]
        for k in range(lanes):
            out[k] = x[k] * scale + shift


@_once
def _layer_norm(op, lanes, floats, scratch):  # type: ignore[no-untyped-def]
    """Normalise each row; sums are float64, in the order of the features."""
    n = op[N_IN]
    eps = np.float64(floats[op[PARAMS] + 2])
    for k in range(lanes):
        total = 0.0
        for j in range(n):
            total += np.float64(scratch[(op[IN] + j) * lanes + k])
        mean = total / n
        total = 0.0
        for j in range(n):
            d = np.float64(scratch[(op[IN] + j) * lanes + k]) - mean
            total += d * d
        factor = 1.0 / np.sqrt(total / n + eps)
        for j in range(n):
            x = np.float64(scratch[(op[IN] + j) * lanes + k])
            normal = _f((x - mean) * factor)
            out = normal * floats[op[A] + j] + floats[op[B] + j]
            scratch[(op[OUT] + j) * lanes + k] = out


@_inner
def _softmax(at, out_at, n, lanes, log, scratch):  # type: ignore[no-untyped-def]
    for k in range(lanes):
        highest = scratch[at * lanes + k]
        for j in range(1, n):
            x = scratch[(at + j) * lanes + k]
            highest = x if x > highest else highest
        total = 0.0
        for j in range(n):
            x = scratch[(at + j) * lanes + k] - highest
            power = exp(x)
            total += np.float64(power)
            scratch[(out_at + j) * lanes + k] = x if log else power
        if log:
            shift = _f(np.log(total))
            for j in range(n):
                scratch[(out_at + j) * lanes + k] -= shift
        else:
            for j in range(n):
                power = np.float64(scratch[(out_at + j) * lanes + k])
                scratch[(out_at + j) * lanes + k] = _f(power / total)


@_once
def _other(op, lanes, floats, scratch):  # type: ignore[no-untyped-def]
    """Do an operation without products."""
    n = op[N_OUT] * lanes
    x = scratch[op[IN] * lanes : op[IN] * lanes + op[N_IN] * lanes]
    out = scratch[op[OUT] * lanes : op[OUT] * lanes + n]
    kind = op[KIND]
    if kind == AFFINE:
        _affine(op, lanes, floats, scratch)
    elif kind == LAYER_NORM:
        _layer_norm(op, lanes, floats, scratch)
    elif kind == ADD:
        other = scratch[op[IN2] * lanes : op[IN2] * lanes + n]
        for k in range(n):
            out[k] = x[k] + other[k]
    elif kind == CONCAT:
        out[: x.shape[0]] = x
    else:
        _softmax(op[IN], op[OUT], op[N_OUT], lanes, kind == LOG_SOFTMAX, scratch)


@_once
def _compute(program, n, lanes, floats, table, columns, scratch, spare):  # type: ignore[no-untyped-def]
    """Run all operations on the `n` rows that have been loaded."""
    for i in range(1, program.shape[0]):
        op = program[i]
        if op[KIND] == LINEAR:
            _linear(op, n, lanes, floats, table, columns, scratch, spare)
        else:
            _other(op, lanes, floats, scratch)
        start = op[OUT] * lanes
        end = start + op[N_OUT] * lanes
        # Products of a tile are clipped at zero where they are stored.
        if op[KIND] != LINEAR or lanes == 1 or op[ACT] > 1:
            p0, p1 = floats[op[PARAMS]], floats[op[PARAMS] + 1]
            activate(op[ACT], p0, p1, scratch[start:end])
        scratch[end : end + lanes] = _ZERO  # padding points to here


@_inner
def _tile_lanes(n, head):  # type: ignore[no-untyped-def]
    """Choose how wide a tile is for the rows that are left."""
    if n <= head[SINGLE_LIMIT]:
        return 1
    if n > WIDE * 3 // 4 or head[WIDE_ONLY]:
        return WIDE
    return 2 * LANES if n > LANES else LANES if n > LANES // 2 else LANES // 2


@_once
def _store(out, first, n, at, lanes, scratch):  # type: ignore[no-untyped-def]
    """Lay `n` rows of the output back into rows, in blocks of 16 x 16."""
    n_outputs = out.shape[1]
    if lanes == 1:
        out[first] = scratch[at : at + n_outputs]
        return
    whole_rows = n // LANES * LANES
    whole_columns = n_outputs // LANES * LANES
    for i in range(0, whole_rows, LANES):
        target = out.ctypes.data + (first + i) * n_outputs * 4
        source = scratch.ctypes.data + (at * lanes + i) * 4
        for j in range(0, whole_columns, LANES):
            transpose(
                np.uintp(source + j * lanes * 4),
                lanes * 4,
                np.uintp(target + j * 4),
                n_outputs * 4,
            )
        for lane in range(i, i + LANES):
            for j in range(whole_columns, n_outputs):
                out[first + lane, j] = scratch[(at + j) * lanes + lane]
    for lane in range(whole_rows, n):
        for j in range(n_outputs):
            out[first + lane, j] = scratch[(at + j) * lanes + lane]


@_once
def _predict(  # type: ignore[no-untyped-def]
    X,
    out,
    program,
    floats,
    table,
    columns,
    scratch,
    first,
    last,
    proba,
    staged,
):
    """Predict rows `first` to `last` of X into the same rows of `out`.

    Gives False as soon as a row has NaN or infinite values.
    """
    head = program[0]
    n_outputs = head[N_OUT]
    while first < last:
        lanes = _tile_lanes(last - first, head)
        n = min(last - first, lanes)
        spare = scratch[head[SCRATCH_ROWS] * lanes :]
        if not _load(X, first, n, lanes, program, floats, table, scratch, staged):
            return False
        _compute(program, n, lanes, floats, table, columns, scratch, spare)
        at = head[OUT]
        if proba:
            _softmax(at, at, n_outputs, lanes, False, scratch)
        _store(out, first, n, at, lanes, scratch)
        first += n
    return True


_floats_2d = types.Array(types.float32, 2, "C")
_rows = types.Array(types.float32, 2, "C", readonly=True)
_signature = types.boolean(
    _rows,
    _floats_2d,
    types.Array(types.int64, 2, "C"),
    types.Array(types.float32, 1, "C"),
    types.Array(types.int32, 1, "C"),
    types.Array(types.uint16, 1, "C"),
    types.Array(types.float32, 1, "C"),
    types.int64,
    types.int64,
    types.boolean,
    types.boolean,
)


def _digest() -> int:
    """Make a number of the sources that the kernels are compiled from.

    numba keeps compiled code until the file of the outermost function changes, and
    does not look at the files of those that it calls.
    """
    folder = Path(__file__).parent
    names = ("kernels", "vectors", "elementwise", "layout")
    try:
        text = b"".join((folder / f"{name}.py").read_bytes() for name in names)
    except OSError:  # the package lies in an archive
        text = b""
    return int.from_bytes(sha256(text).digest()[:7], "big")


def _compiled(digest: int) -> Any:
    """Compile once, and keep the code on disk where a folder can be written."""

    def run(  # type: ignore[no-untyped-def]
        X, out, program, floats, table, columns, scratch, first, last, proba, staged
    ):
        digest  # noqa: B018, a closure's variables are part of the cache's key
        return _predict(
            X, out, program, floats, table, columns, scratch, first, last, proba, staged
        )

    compiler: Any = njit
    options = {"nogil": True, "error_model": "numpy"}
    try:
        return compiler([_signature], cache=True, **options)(run)
    except Exception:  # no folder for the cache, or what is in it is damaged
        return compiler([_signature], **options)(run)


run = _compiled(_digest())
