"""Own threads that help with a prediction, and stay awake a while for the next.

A sleeping thread may take longer to wake up than a prediction takes, and so may one
that needs the interpreter's lock. So a helper that is done looks out for more work for
two milliseconds, without that lock, before it sleeps. OpenMP and ONNX Runtime wait in
this way, and longer.
"""

import ctypes
import os
import threading
from contextlib import suppress
from functools import cache
from time import perf_counter

import numpy as np

from sklearn_sparse_nn.runtime.graph import Floats
from sklearn_sparse_nn.runtime.kernels.program import Program, aligned
from sklearn_sparse_nn.runtime.threads import team

__all__ = ["share"]

_SECONDS_AWAKE = 2e-3


@cache
def _looks() -> int:
    """Measure how many looks a helper takes before it sleeps."""
    n = 2000
    begin = perf_counter()
    team.serve(aligned(team.BOARD_SIZE, np.int64), n)
    return max(n, int(n * _SECONDS_AWAKE / (perf_counter() - begin)))


def _places_left() -> set[int]:
    """Give the processors that this thread may run on, but for the one it is on.

    Who is woken up is put where the waker runs; two threads that spin on one processor
    wait for each other's turns, for milliseconds, though others are idle.
    """
    try:
        allowed = os.sched_getaffinity(0)
        here = ctypes.CDLL(None).sched_getcpu()
    except (AttributeError, OSError):  # not Linux
        return set()
    return allowed - {here}


def _move(places: set[int]) -> None:
    """Let this thread run on these processors, if there are any."""
    if places:
        with suppress(OSError):  # one of them is gone
            os.sched_setaffinity(0, places)


class _Team:
    """The helpers of all models, as many as were ever asked for."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.board = aligned(team.BOARD_SIZE, np.int64)
        self.scratch = aligned(0, np.float32)
        self.alarms: list[threading.Event] = []
        self.places: set[int] = set()

    def help(self, alarm: threading.Event) -> None:
        """Help, sleep, wake up, and so on."""
        n_looks = _looks()
        while True:
            alarm.clear()
            _move(self.places)
            team.serve(self.board, n_looks)
            alarm.wait()

    def wake(self, n: int) -> None:
        """See that `n` helpers are awake, soon, and somewhere else."""
        self.places = _places_left()
        for alarm in self.alarms[:n]:
            alarm.set()
        while len(self.alarms) < n:
            alarm = threading.Event()
            args = {"target": self.help, "args": (alarm,), "name": "sparse-model"}
            try:
                threading.Thread(**args, daemon=True).start()  # type: ignore[arg-type]
            except RuntimeError:  # the interpreter is on its way out
                return
            self.alarms.append(alarm)

    def lead(
        self, program: Program, X: Floats, out: Floats, settings: list[int], n: int
    ) -> bool:
        """Write a job on the board, and work at it with up to `n` helpers."""
        size = -(-program.scratch_size // 16) * 16
        if len(self.scratch) < size * (n + 1):
            self.scratch = aligned(size * (n + 1), np.float32)
        self.board[team.SEATS : team.X_AT] = [n, size, *settings, *program.places]
        if self.board[team.AWAKE] < n:
            self.wake(n)
        return bool(team.lead(self.board, X, out, self.scratch))


_team = _Team()


def _start_anew() -> None:
    """Forget the helpers of the parent process, which are not here."""
    global _team
    _team = _Team()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_anew)


def share(
    program: Program,
    X: Floats,
    out: Floats,
    *,
    rows_at_once: int,
    proba: bool,
    staged: bool,
    n_threads: int,
) -> bool | None:
    """Predict with several threads, this one among them.

    Parameters
    ----------
    program : Program
        What the kernels read.
    X, out : ndarray, float32, C-contiguous
        Rows, and where outputs go.
    rows_at_once : int
        Rows of a piece of work, whole tiles; 0 to share the lines of the program.
    proba, staged : bool
        As `Engine.run` takes them.
    n_threads : int
        At least 2.

    Returns
    -------
    fine : bool or None
        Whether X has finite values only; None if the helpers are busy with another
        thread's rows, and nothing was done.
    """
    if not _team.lock.acquire(blocking=False):
        return None
    try:
        settings = [rows_at_once, int(proba), int(staged)]
        return _team.lead(program, X, out, settings, n_threads - 1)
    finally:
        _team.lock.release()
