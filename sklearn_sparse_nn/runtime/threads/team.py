"""Several threads at one prediction, without the interpreter's lock.

All that they share is a board of int64: where the arrays are, which job is open, and
tickets. A member draws a ticket, does what it stands for, and draws the next. Rows are
shared by tickets for a few tiles each; where there is one tile only, by tickets for the
lines of the program, and whoever draws a line waits until those before it are done.

A ticket is drawn by a thread that is running, so nobody waits for one that sleeps: a
leader whose helpers never wake up does all by itself.
"""

from typing import Any

import numpy as np
from numba import carray, njit, types

from sklearn_sparse_nn.runtime.kernels.compiling import compiled
from sklearn_sparse_nn.runtime.kernels.layout import (
    BEFORE,
    N_OUT,
    OUT,
    SCRATCH_ROWS,
)
from sklearn_sparse_nn.runtime.kernels.predict import (
    FLOATS_1D,
    ROWS_OF_OUT,
    ROWS_OF_X,
    load,
    run,
    run_line,
    softmax,
    store,
    tile_lanes,
)
from sklearn_sparse_nn.runtime.threads.atomics import add, get, pointer_to, put, rest

__all__ = ["BOARD_SIZE", "lead", "serve"]

# Places on the board; those that threads fight for lie 64 bytes apart.
JOB, USERS, JOINED, NEXT, DONE, FINE, AWAKE = range(0, 56, 8)
SEATS = 56  # how many helpers may join
SCRATCH = 57  # floats of every member's
STEP, PROBA, STAGED = 58, 59, 60  # STEP: rows of a ticket, or 0 to share lines
LINES_AT, LINES, FIELDS, FLOATS_AT, FLOATS, TABLE_AT, TABLE, NARROW_AT, NARROW = range(
    61, 70
)
X_AT = 70  # what the leader adds, from here on
ROWS, COLUMNS, OUT_AT, OUTPUTS, SCRATCH_AT, TICKETS = range(71, 77)
BOARD_SIZE = 80

_inner = njit(nogil=True, error_model="numpy")


@_inner
def _share_rows(board, at, X, out, program, floats, table, columns, scratch):  # type: ignore[no-untyped-def]
    """Draw tickets for rows, each in scratch memory of one's own."""
    n_rows, step, total = board[ROWS], board[STEP], board[TICKETS]
    while True:
        ticket = add(at + NEXT * 8, 1)
        if ticket >= total:
            return
        first = ticket * step
        if get(at + FINE * 8) and not run(
            X, out, program, floats, table, columns, scratch,
            first, min(n_rows, first + step), board[PROBA] != 0, board[STAGED] != 0,
        ):  # fmt: skip
            put(at + FINE * 8, 0)
        add(at + DONE * 8, 1)


@_inner
def _share_lines(  # type: ignore[no-untyped-def]
    board, at, X, out, program, floats, table, columns, scratch, own
):
    """Draw tickets for input, lines of the program, and output, tile by tile."""
    head, n_rows, total = program[0], board[ROWS], board[TICKETS]
    n_steps = program.shape[0] + 1
    staged = board[STAGED] != 0
    tile, first = 0, 0
    lanes = tile_lanes(n_rows, head)
    n = min(n_rows, lanes)
    while True:
        ticket = add(at + NEXT * 8, 1)
        if ticket >= total:
            return
        while tile < ticket // n_steps:
            tile, first = tile + 1, first + n
            lanes = tile_lanes(n_rows - first, head)
            n = min(n_rows - first, lanes)
        step = ticket % n_steps
        before = program[step, BEFORE] if 0 < step < n_steps - 1 else step
        while get(at + DONE * 8) < tile * n_steps + before:
            rest()
        spare = own[head[SCRATCH_ROWS] * lanes :]
        if get(at + FINE * 8):
            if step == 0:
                if not load(
                    X, first, n, lanes, program, floats, table, scratch, staged
                ):
                    put(at + FINE * 8, 0)
            elif step < n_steps - 1:
                op = program[step]
                run_line(op, n, lanes, floats, table, columns, scratch, spare)
            else:
                if board[PROBA]:
                    softmax(head[OUT], head[OUT], head[N_OUT], lanes, False, scratch)
                store(out, first, n, head[OUT], lanes, scratch)
        add(at + DONE * 8, 1)


@_inner
def _work(board, at, member):  # type: ignore[no-untyped-def]
    """Draw tickets until there are no more."""
    b = board
    X = carray(pointer_to(b[X_AT], np.float32), (b[ROWS], b[COLUMNS]))
    out = carray(pointer_to(b[OUT_AT], np.float32), (b[ROWS], b[OUTPUTS]))
    program = carray(pointer_to(b[LINES_AT], np.int64), (b[LINES], b[FIELDS]))
    floats = carray(pointer_to(b[FLOATS_AT], np.float32), (b[FLOATS],))
    table = carray(pointer_to(b[TABLE_AT], np.int32), (b[TABLE],))
    columns = carray(pointer_to(b[NARROW_AT], np.uint16), (b[NARROW],))
    size = b[SCRATCH]
    first = carray(pointer_to(b[SCRATCH_AT], np.float32), (size,))
    own_at = b[SCRATCH_AT] + member * size * 4
    own = carray(pointer_to(own_at, np.float32), (size,))
    if b[STEP]:
        _share_rows(b, at, X, out, program, floats, table, columns, own)
    else:
        _share_lines(b, at, X, out, program, floats, table, columns, first, own)


@_inner
def _count(board):  # type: ignore[no-untyped-def]
    """Count the tickets of a job."""
    n_rows = board[ROWS]
    if board[STEP]:
        return (n_rows + board[STEP] - 1) // board[STEP]
    lines = carray(pointer_to(board[LINES_AT], np.int64), (1, board[FIELDS]))
    n_tiles = 0
    while n_rows > 0:
        n_rows -= tile_lanes(n_rows, lines[0])
        n_tiles += 1
    return n_tiles * (board[LINES] + 1)


def _make_lead(digest: int) -> Any:
    def lead(board, X, out, scratch):  # type: ignore[no-untyped-def]
        """Open the job that is on the board, work at it, and close it."""
        digest  # noqa: B018, see compiled
        at = board.ctypes.data
        board[X_AT] = X.ctypes.data
        board[ROWS], board[COLUMNS] = X.shape
        board[OUT_AT], board[OUTPUTS] = out.ctypes.data, out.shape[1]
        board[SCRATCH_AT] = scratch.ctypes.data
        board[TICKETS] = _count(board)
        put(at + JOINED * 8, 0)
        put(at + NEXT * 8, 0)
        put(at + DONE * 8, 0)
        put(at + FINE * 8, 1)
        add(at + JOB * 8, 1)  # odd: open
        _work(board, at, 0)
        while get(at + DONE * 8) < board[TICKETS]:
            rest()
        add(at + JOB * 8, 1)  # even: closed
        while get(at + USERS * 8):  # who may still look at the board
            rest()
        return get(at + FINE * 8) != 0

    return lead


def _make_serve(digest: int) -> Any:
    def serve(board, n_looks):  # type: ignore[no-untyped-def]
        """Join jobs; leave when there was none for so many looks."""
        digest  # noqa: B018, see compiled
        at = board.ctypes.data
        add(at + AWAKE * 8, 1)
        looks, last = 0, np.int64(0)
        while looks < n_looks:
            job = get(at + JOB * 8)
            if job & 1 and job != last:
                add(at + USERS * 8, 1)
                if get(at + JOB * 8) == job:  # it stays open until this one leaves
                    seat = add(at + JOINED * 8, 1) + 1
                    if seat <= get(at + SEATS * 8):
                        _work(board, at, seat)
                add(at + USERS * 8, -1)
                looks, last = 0, job
            else:
                looks += 1
                rest()
        add(at + AWAKE * 8, -1)

    return serve


_board = types.Array(types.int64, 1, "C")
lead = compiled(_make_lead, types.boolean(_board, ROWS_OF_X, ROWS_OF_OUT, FLOATS_1D))
serve = compiled(_make_serve, types.void(_board, types.int64))
