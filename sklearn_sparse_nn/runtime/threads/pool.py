"""A pool of threads that help with a prediction.

The kernels release the interpreter's lock, so plain Python threads run side by side.
"""

import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, wait
from queue import SimpleQueue

__all__ = ["share"]

_Work = Callable[[], bool]
_Tasks = SimpleQueue[tuple[Future[bool], _Work]]


class _Pool:
    """The helpers of all models: as many as the largest number of threads needs.

    A queue and nothing else wakes a helper. ThreadPoolExecutor asks three locks more
    for a task, 80 us of the 150 that a shared prediction costs.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()  # held by the thread that the helpers work for
        self.tasks: _Tasks = SimpleQueue()
        self.size = 0

    def start(self, work: _Work, n: int, started: list[Future[bool]]) -> None:
        """Add `n` helpers at work to those started, or as many as there can be."""
        while self.size < n:
            try:
                threading.Thread(
                    target=_help, args=(self.tasks,), name="sparse-model", daemon=True
                ).start()
            except RuntimeError:  # no new threads, or the interpreter is shutting down
                break
            self.size += 1
        for _ in range(min(n, self.size)):
            started.append(Future())
            self.tasks.put((started[-1], work))


def _help(tasks: _Tasks) -> None:
    """Run one task after the other, in a thread that ends with the process."""
    while True:
        future, work = tasks.get()
        if future.set_running_or_notify_cancel():
            try:
                finite = work()
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(finite)
        del future, work  # and so the caller's arrays, before the next task comes


_pool = _Pool()


def _renew() -> None:
    """Replace the pool of the parent process: a fork does not copy its threads."""
    global _pool
    _pool = _Pool()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)


def share(
    predict: Callable[[int, int], bool],
    n_rows: int,
    *,
    rows_at_once: int,
    n_threads: int,
) -> bool | None:
    """Predict with several threads, the calling thread among them.

    Rows are cut into pieces. Every thread takes a piece, predicts it, and takes the
    next. Helpers that have not begun when all pieces are taken are not waited for.

    Parameters
    ----------
    predict : callable
        The function that predicts rows `first` to `last` and returns whether they are
        finite.
    n_rows : int
        The number of rows.
    rows_at_once : int
        The number of rows of a piece.
    n_threads : int
        The number of threads, at least 2.

    Returns
    -------
    finite : bool or None
        Whether all rows are finite; None if the helpers are busy with the rows of
        another thread, and nothing was done.
    """
    pool, pieces = _pool, deque(range(0, n_rows, rows_at_once))

    def work() -> bool:
        """Predict pieces until all are taken, or rows are not finite."""
        while True:
            try:
                first = pieces.popleft()
            except IndexError:  # all are taken
                return True
            if not predict(first, min(n_rows, first + rows_at_once)):
                pieces.clear()
                return False

    helpers: list[Future[bool]] = []
    if not pool.lock.acquire(blocking=False):
        return None
    try:
        if len(pieces) > 1:
            pool.start(work, min(n_threads, len(pieces)) - 1, helpers)
        finite = work()
    finally:
        pieces.clear()  # after Ctrl-C there may be some left
        try:
            helpers = _end(helpers)
        finally:
            pool.lock.release()
    return finite and all(helper.result() for helper in helpers)


def _end(helpers: list[Future[bool]]) -> list[Future[bool]]:
    """Cancel the helpers that have not begun; wait for the others and return them."""
    begun = [helper for helper in helpers if not helper.cancel()]
    try:
        wait(begun)
    except KeyboardInterrupt:  # they still write into the caller's arrays
        wait(begun)
        raise
    return begun
