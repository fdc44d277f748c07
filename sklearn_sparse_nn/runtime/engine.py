"""The engines that run a graph: the kernels, or scipy where there is no numba."""

import gc
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Protocol, TypeAlias

import numpy as np
from scipy import special

from sklearn_sparse_nn.runtime.graph import Floats, Graph
from sklearn_sparse_nn.runtime.inputs import apply_narrow, refuse_nonfinite
from sklearn_sparse_nn.runtime.kernels.choice import Plan, choose
from sklearn_sparse_nn.runtime.kernels.program import (
    Program,
    aligned,
    make_program,
    place_values,
)
from sklearn_sparse_nn.runtime.reference import evaluate
from sklearn_sparse_nn.runtime.threads.pool import share
from sklearn_sparse_nn.runtime.threads.sharing import NEVER_SHARED, Sharing

__all__ = ["Engine", "KernelEngine", "ReferenceEngine", "make_engine"]

_MOST_ROWS = 2**19  # of scratch: 128 MiB for a tile of 64; few nets have as many units
_REFERENCE_NUMBERS = 2**24  # activations of a value that are held at once


Kernel: TypeAlias = Callable[..., bool]  # `kernels.predict.run`


class Engine(Protocol):
    """Runs one graph; its name is what a model says of it."""

    name: str

    def run(
        self, X: Floats, out: Floats, *, proba: bool, staged: bool, n_threads: int
    ) -> None:
        """Write raw outputs, or their softmax.

        Parameters
        ----------
        X : ndarray of shape (n_rows, n_features), float32, C-contiguous
            Raw rows; with `staged`, of shape (n_rows, width): value 0.
        out : ndarray of shape (n_rows, n_outputs), float32, C-contiguous
            The array for the outputs.
        proba : bool
            Whether to take the softmax of every row.
        staged : bool
            Whether X has passed the input stage already.
        n_threads : int
            The largest number of threads.

        Raises
        ------
        ValueError
            X has NaN or infinite values.
        """


class ReferenceEngine:
    """Runs a graph with scipy and numpy.

    Parameters
    ----------
    graph : Graph
        The net.
    """

    name = "scipy"

    def __init__(self, graph: Graph) -> None:
        self.graph = graph

    def run(
        self, X: Floats, out: Floats, *, proba: bool, staged: bool, n_threads: int
    ) -> None:
        """Write raw outputs, or their softmax."""
        size = max(1, _REFERENCE_NUMBERS // max(self.graph.widths))
        for first in range(0, len(X), size):
            rows, part = X[first : first + size], out[first : first + size]
            values = rows if staged else apply_narrow(rows, self.graph.stage)
            part[...] = evaluate(self.graph, values)
            if proba:
                part[...] = special.softmax(part, axis=1)


class _Scratch(threading.local):
    """The scratch memory of every thread, shared by all models."""

    def __init__(self) -> None:
        self.floats: Floats = aligned(0, np.float32)

    def grow(self, n: int) -> Floats:
        """Return scratch memory of at least `n` floats."""
        if len(self.floats) < n:
            self.floats = aligned(n, np.float32)
        return self.floats


_scratch = _Scratch()


def _allowed_threads(n_threads: int) -> int:
    """Return the number of threads within the limit that joblib sets in its workers."""
    limit = os.environ.get("NUMBA_NUM_THREADS", "")
    return min(n_threads, int(limit)) if limit.isdigit() and int(limit) else n_threads


class KernelEngine:
    """Runs a graph with the compiled kernels.

    Parameters
    ----------
    graph : Graph
        The net.
    plan : Plan or None, default=None
        The way to run it; None to choose by counting.
    """

    name = "kernel"

    def __init__(self, graph: Graph, plan: Plan | None = None) -> None:
        self.graph = graph
        self._plan = plan
        self._ready: tuple[Kernel, Program] | None = None
        self._sharing: Sharing | None = None

    @property
    def plan(self) -> Plan:
        """The way in which the graph is run."""
        if self._plan is None:
            self._plan = choose(self.graph)
        return self._plan

    def use(self, plan: Plan) -> None:
        """Run the graph in another way from now on; outputs stay the same."""
        self._plan, self._ready, self._sharing = plan, None, None

    def _prepare(self) -> tuple[Kernel, Program]:
        """Load the kernels and write the program, once.

        Two threads may both do so, with the same result.
        """
        with _collector_off():
            from sklearn_sparse_nn.runtime.kernels import predict  # numba takes a while

        self._ready = predict.run, make_program(self.graph, self.plan)
        return self._ready

    def run(
        self, X: Floats, out: Floats, *, proba: bool, staged: bool, n_threads: int
    ) -> None:
        """Write raw outputs, or their softmax."""
        kernel, program = self._ready or self._prepare()
        args = kernel, program, X, out, proba, staged
        finite = None
        if n_threads > 1 and len(X) > NEVER_SHARED:
            finite = self._share(partial(_predict, *args), len(X), n_threads)
        if finite is None:
            finite = _predict(*args, 0, len(X))
        if not finite:
            allow_nan = self.graph.stage.fill is not None and not staged
            refuse_nonfinite(X, allow_nan=allow_nan)

    def _share(
        self, predict: Callable[[int, int], bool], n_rows: int, n_threads: int
    ) -> bool | None:
        """Predict with several threads, if it pays and their helpers are free."""
        sharing = self._sharing = self._sharing or Sharing.of(self.graph, self.plan)
        n_threads = _allowed_threads(n_threads)
        n = sharing.rows_at_once(n_rows, n_threads)
        if n is None or n_threads == 1:
            return None
        return share(predict, n_rows, rows_at_once=n, n_threads=n_threads)


def _predict(
    kernel: Kernel,
    p: Program,
    X: Floats,
    out: Floats,
    proba: bool,
    staged: bool,
    first: int,
    last: int,
) -> bool:
    """Predict some rows in this thread's scratch memory; return if X is finite."""
    floats = _scratch.floats
    if len(floats) < p.scratch_size:
        floats = _scratch.grow(p.scratch_size)
    return kernel(
        X, out, p.lines, p.floats, p.table, p.columns, floats, first, last, proba,
        staged,
    )  # fmt: skip


def make_engine(graph: Graph) -> Engine:
    """Choose the engine of a graph: the kernels, if there is numba and a tile fits."""
    _, rows = place_values(graph)
    if rows > _MOST_ROWS or not _numba_works():
        return ReferenceEngine(graph)
    return KernelEngine(graph)


@contextmanager
def _collector_off() -> Iterator[None]:
    """Stop the garbage collector while numba is loaded: a sixth of its time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            if not gc.get_freeze_count():  # to the old objects, without a look at each
                gc.freeze()
                gc.unfreeze()
            gc.enable()


@cache
def _numba_works() -> bool:
    """Return whether numba can compile the kernels."""
    if os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0"):
        return False
    try:
        with _collector_off():
            import numba  # noqa: F401, late: it takes a tenth of a second
    except ImportError:  # missing, or not made for this numpy
        return False
    return True
