"""The kernel that predicts a tile of rows, or one row, through the whole net.

A tile holds 8, 16, 32 or 64 rows of X, feature-major, so that activations never leave
the cache: operation by operation, products, bias and activation are computed for the
tile in scratch memory. A single row is a tile of width one, with products of its own.

A program has one line for every operation, and one before them for input and output.
It points into `floats` (vectors and weights), `table` (the places of products) and
`columns`. `program` and `packing` write these arrays from a checked graph.
"""

from collections.abc import Callable

import numpy as np
from numba import njit, types

from sklearn_sparse_nn.runtime.activations import Code
from sklearn_sparse_nn.runtime.kernels.compiling import compiled
from sklearn_sparse_nn.runtime.kernels.elementwise import activate, exp
from sklearn_sparse_nn.runtime.kernels.layout import (
    ACT,
    ADD,
    AFFINE,
    COLUMNS_AT,
    CONCAT,
    FILL_AT,
    IN,
    IN2,
    KIND,
    LANES,
    LAST,
    LAYER_NORM,
    LINEAR,
    LOG_SOFTMAX,
    MULTIPLY,
    N_IN,
    N_OUT,
    OUT,
    PARAMS,
    SCALE_AT,
    SCRATCH_ROWS,
    SHIFT_AT,
    SINGLE_LIMIT,
    WIDE,
    WIDE_ONLY,
    WIDTH,
    A,
    B,
)
from sklearn_sparse_nn.runtime.kernels.products import multiply
from sklearn_sparse_nn.runtime.kernels.vectors import transpose

__all__ = ["run"]

_f = np.float32
_ZERO = _f(0)
_EXPONENT, _SIZE = np.int32(0x7F800000), np.int32(0x7FFFFFFF)

_inner = njit(nogil=True, error_model="numpy")
# Each is called in one place, so compiling it alone would only take time.
_once = njit(inline="always", nogil=True, error_model="numpy")


@_inner
def _is_bad(bits, allow_nan):  # type: ignore[no-untyped-def]
    """Return whether a row, read as int32, has infinite values or NaN."""
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
    """Transpose `n` rows of X into a feature-major tile, in blocks of 16 x 16."""
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
def load(  # type: ignore[no-untyped-def]
    X, first, n, lanes, program, floats, table, scratch, staged
):
    """Check `n` rows, copy them into the tile, and apply the input stage."""
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
def softmax(at, out_at, n, lanes, log, scratch):  # type: ignore[no-untyped-def]
    """Compute the softmax of every row, or its logarithm."""
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
    """Run an operation without products."""
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
    elif kind == MULTIPLY:
        other = scratch[op[IN2] * lanes : op[IN2] * lanes + n]
        for k in range(n):
            out[k] = x[k] * other[k]
    elif kind == CONCAT:
        out[: x.shape[0]] = x
    else:
        softmax(op[IN], op[OUT], op[N_OUT], lanes, kind == LOG_SOFTMAX, scratch)


@_inner
def run_line(op, n, lanes, floats, table, columns, scratch, spare):  # type: ignore[no-untyped-def]
    """Run one line of a program for `n` rows that have been loaded."""
    if op[KIND] == LINEAR:
        multiply(op, n, lanes, floats, table, columns, scratch, spare)
    else:
        _other(op, lanes, floats, scratch)
    start = op[OUT] * lanes
    end = start + op[N_OUT] * lanes
    # Products of a tile are clipped at zero where they are stored.
    done = op[ACT] == Code.identity or op[ACT] == Code.relu
    if op[KIND] != LINEAR or lanes == 1 or not done:
        p0, p1 = floats[op[PARAMS]], floats[op[PARAMS] + 1]
        activate(op[ACT], p0, p1, scratch[start:end])
    if op[LAST]:
        scratch[end : end + lanes] = _ZERO  # padding points to here


@_inner
def tile_lanes(n, head):  # type: ignore[no-untyped-def]
    """Choose the width of the tile for the rows that are left."""
    if n <= head[SINGLE_LIMIT]:
        return 1
    if n > WIDE * 3 // 4 or head[WIDE_ONLY]:
        return WIDE
    return 2 * LANES if n > LANES else LANES if n > LANES // 2 else LANES // 2


@_once
def store(out, first, n, at, lanes, scratch):  # type: ignore[no-untyped-def]
    """Transpose `n` rows of the output into `out`, in blocks of 16 x 16."""
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

    Returns False as soon as a row has NaN or infinite values.
    """
    head = program[0]
    n_outputs = head[N_OUT]
    while first < last:
        lanes = tile_lanes(last - first, head)
        n = min(last - first, lanes)
        spare = scratch[head[SCRATCH_ROWS] * lanes :]
        if not load(X, first, n, lanes, program, floats, table, scratch, staged):
            return False
        for i in range(1, program.shape[0]):
            run_line(program[i], n, lanes, floats, table, columns, scratch, spare)
        at = head[OUT]
        if proba:
            softmax(at, at, n_outputs, lanes, False, scratch)
        store(out, first, n, at, lanes, scratch)
        first += n
    return True


ROWS_OF_X = types.Array(types.float32, 2, "C", readonly=True)
ROWS_OF_OUT = types.Array(types.float32, 2, "C")
FLOATS_1D = types.Array(types.float32, 1, "C")
_signature = types.boolean(
    ROWS_OF_X,
    ROWS_OF_OUT,
    types.Array(types.int64, 2, "C"),
    FLOATS_1D,
    types.Array(types.int32, 1, "C"),
    types.Array(types.uint16, 1, "C"),
    FLOATS_1D,
    types.int64,
    types.int64,
    types.boolean,
    types.boolean,
)


def _make_run(digest: int) -> Callable[..., bool]:
    def run(  # type: ignore[no-untyped-def]
        X, out, program, floats, table, columns, scratch, first, last, proba, staged
    ):
        digest  # noqa: B018, see compiled
        return _predict(
            X, out, program, floats, table, columns, scratch, first, last, proba, staged
        )

    return run


run = compiled(_make_run, _signature)
