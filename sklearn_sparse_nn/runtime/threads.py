"""Own threads that share the parts of a job, and stay awake a while for the next.

A sleeping thread may take longer to wake up than a prediction takes; so a thread that
is done looks out for more work for two milliseconds, without the interpreter's lock,
before it sleeps. OpenMP and ONNX Runtime wait in this way, and longer.
"""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter
from typing import Any

import numpy as np
from llvmlite import ir
from numba import extending as numba_extending
from numba import njit, types

__all__ = ["share"]

_SECONDS_AWAKE = 2e-3
_LOOKS = 2000  # between two glances at the clock: about 30 microseconds

intrinsic: Any = numba_extending.intrinsic  # its types do not know the context


@intrinsic
def _look(typingctx, address):  # type: ignore[no-untyped-def]
    """Read an int64 that another thread may write, and let the processor breathe."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pointer = builder.inttoptr(args[0], ir.IntType(64).as_pointer())
        if builder.module.triple.startswith(("x86", "i686", "amd64")):
            kind = ir.FunctionType(ir.VoidType(), [])
            name = "llvm.x86.sse2.pause"
            pause = builder.module.globals.get(name)
            builder.call(pause or ir.Function(builder.module, kind, name), [])
        return builder.load_atomic(pointer, "monotonic", 8)

    return types.int64(types.uintp), codegen


def _compiled() -> Any:
    def differs(number, seen, n_looks):  # type: ignore[no-untyped-def]
        address = np.uintp(number.ctypes.data)
        for _ in range(n_looks):  # noqa: SIM110, numba has no generators
            if _look(address) != seen:
                return True
        return False

    compiler: Any = njit
    signature = types.boolean(types.int64[::1], types.int64, types.int64)
    try:
        return compiler([signature], nogil=True, cache=True)(differs)
    except Exception:  # no folder for the cache, or what is in it is damaged
        return compiler([signature], nogil=True)(differs)


_differs = _compiled()


def _changes(number: Any, seen: int) -> bool:
    """Look out for another number than was seen, for a while."""
    end = perf_counter() + _SECONDS_AWAKE
    while not _differs(number, seen, _LOOKS):
        if perf_counter() > end:
            return False
    return True


class _Job:
    """Parts that several threads take, each when it is done with another."""

    def __init__(self, run: Callable[..., bool], parts: Iterable[Any]) -> None:
        self.run, self.waiting = run, deque(parts)
        self.lock, self.over = threading.Lock(), threading.Event()
        self.running = np.zeros(1, dtype=np.int64)
        self.fine = True
        self.error: BaseException | None = None

    def work(self) -> None:
        """Do parts until none is left."""
        while True:
            with self.lock:
                if not self.waiting:
                    return
                part = self.waiting.popleft()
                self.running[0] += 1
            try:
                self.fine = self.run(*part) and self.fine
            except BaseException as error:  # the caller raises it
                self.error = error
                self.waiting.clear()
            finally:
                with self.lock:
                    self.running[0] -= 1
                    if not self.waiting and not self.running[0]:
                        self.over.set()

    def result(self) -> bool:
        """Wait for the others' last parts; tell whether all went well."""
        while n := int(self.running[0]):
            if not _changes(self.running, n):
                self.over.wait()
        if self.error is not None:
            raise self.error
        return self.fine


class _Workers:
    """The threads of all models, as many as were ever asked for."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.jobs: deque[_Job] = deque()
        self.news = np.zeros(1, dtype=np.int64)  # grows with every job
        self.busy = 0  # threads that work, or look out for work
        self.awake = 0  # those of them that look out
        self.pool, self.size = ThreadPoolExecutor(1, "sparse-model"), 1

    def ask(self, n: int, job: _Job) -> None:
        """Let `n` threads join a job, those first that are awake."""
        with self.lock:
            if n > self.size:
                self.pool.shutdown(wait=False)  # what it was given, it still does
                self.pool, self.size = ThreadPoolExecutor(n, "sparse-model"), n
            self.jobs.extend([job] * n)
            self.news[0] += 1
            for _ in range(min(n - self.awake, self.size - self.busy)):
                try:
                    self.pool.submit(self.serve)
                except RuntimeError:  # the interpreter is on its way out
                    return
                self.busy += 1

    def serve(self) -> None:
        """Work on what there is, and on what comes soon after."""
        while True:
            with self.lock:
                job = self.jobs.popleft() if self.jobs else None
                seen = int(self.news[0])
                self.awake += job is None
            if job is not None:
                job.work()
                continue
            _changes(self.news, seen)
            with self.lock:
                self.awake -= 1
                if not self.jobs:
                    self.busy -= 1
                    return


_workers = _Workers()


def _forget_workers() -> None:
    """Drop the threads of the parent process, which are not here."""
    global _workers
    _workers = _Workers()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_workers)


def share(run: Callable[..., bool], parts: Iterable[Any], n_threads: int) -> bool:
    """Run the parts of a job in several threads, this one among them.

    Parameters
    ----------
    run : callable
        ``run(*part) -> bool``, without the interpreter's lock for the most part.
    parts : iterable of tuple
        Several for every thread: nobody waits for one that wakes up late.
    n_threads : int
        At least 2.

    Returns
    -------
    fine : bool
        Whether all parts were.
    """
    job = _Job(run, parts)
    _workers.ask(n_threads - 1, job)
    job.work()
    return job.result()
