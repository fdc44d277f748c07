"""The products of a linear layer and a tile of rows, or one row."""

import numpy as np
from numba import njit

from sklearn_sparse_nn.runtime.activations import Code
from sklearn_sparse_nn.runtime.kernels.elementwise import activate
from sklearn_sparse_nn.runtime.kernels.layout import (
    ACT,
    DENSE_BIAS,
    DENSE_LIMIT,
    DENSE_WEIGHTS,
    ENTRIES_AT,
    ENTRY_FIELDS,
    GROUP,
    GROUPED,
    IN,
    LANES,
    N_ENTRIES,
    N_IN,
    N_OUT,
    N_SLICES,
    ORDER_AT,
    OUT,
    RELU,
    SHARED,
    SIDE,
    SLICE_BIAS,
    SLICE_COLUMNS,
    SLICE_WEIGHTS,
    SLICES_AT,
    TILE_COLUMNS,
    TILE_WEIGHTS,
    WIDE,
    A,
)
from sklearn_sparse_nn.runtime.kernels.vectors import (
    dot_dense,
    dot_group,
    dot_row,
    dot_slice,
    dot_slice_tile,
)

__all__ = ["multiply"]

_ZERO = np.float32(0)

# Each is called in one place, so compiling it alone would only take time.
_once = njit(inline="always", nogil=True, error_model="numpy")


@_once
def _linear_entries(op, lanes, floats, table, columns, scratch):  # type: ignore[no-untyped-def]
    """Multiply a tile by entries of one or four rows, in the order of their columns."""
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
    """Multiply one row or a narrow tile by sixteen interleaved outputs at once."""
    row_bytes = lanes * 4
    x = np.uintp(scratch.ctypes.data + op[IN] * row_bytes)
    out = np.uintp(scratch.ctypes.data + op[OUT] * row_bytes)
    bias = floats.ctypes.data + op[SLICE_BIAS] * 4
    weights = floats.ctypes.data + op[SLICE_WEIGHTS] * 4
    ids = columns.ctypes.data + op[SLICE_COLUMNS] * 2
    order = table.ctypes.data + op[ORDER_AT] * 4
    flags = np.int64(RELU if op[ACT] == Code.relu else 0)
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
    """Multiply `n` rows by all weights, sixty-four outputs at once."""
    x = scratch.ctypes.data + op[IN] * lanes * 4
    out = spare.ctypes.data
    weights = floats.ctypes.data + op[DENSE_WEIGHTS] * 4
    bias = floats.ctypes.data + op[DENSE_BIAS] * 4
    for first in range(0, op[N_OUT], SIDE):
        row = 0
        while row < n:
            # Superfluous results go to lanes that nobody reads. One row alone in a
            # tile is computed as two: a single row's outputs would lie side by side.
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
    if lanes > 1 and op[ACT] == Code.relu:  # other kernels clip as they store
        activate(op[ACT], _ZERO, _ZERO, scratch[start : start + size])


@_once
def multiply(op, n, lanes, floats, table, columns, scratch, spare):  # type: ignore[no-untyped-def]
    """Multiply in the way that the plan chose for this number of rows."""
    if lanes < WIDE and n <= op[DENSE_LIMIT]:
        _linear_dense(op, n, lanes, floats, scratch, spare)
    elif lanes == WIDE:
        _linear_entries(op, lanes, floats, table, columns, scratch)
    else:
        _linear_slices(op, lanes, floats, table, columns, scratch, spare)
