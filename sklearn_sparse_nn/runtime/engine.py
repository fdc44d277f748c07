"""What runs a graph: the kernels, or scipy where there is no numba."""

import gc
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, Protocol

import numpy as np
from scipy import special

from sklearn_sparse_nn.runtime.graph import Floats, Graph
from sklearn_sparse_nn.runtime.inputs import apply_narrow, refuse_nonfinite
from sklearn_sparse_nn.runtime.kernels.plan import Plan, choose
from sklearn_sparse_nn.runtime.kernels.program import (
    Program,
    aligned,
    make_program,
    place_values,
)
from sklearn_sparse_nn.runtime.reference import evaluate
from sklearn_sparse_nn.runtime.threads.choice import ALONE, LINES, Sharing

__all__ = ["Engine", "KernelEngine", "ReferenceEngine", "make_engine"]

_PARTS = 2  # of a layer that threads share, for every thread
_MOST_ROWS = 2**19  # of scratch: 128 MiB for a tile of 64; few nets have as many units
_REFERENCE_NUMBERS = 2**24  # activations of a value that are held at once


class Engine(Protocol):
    """Runs one graph."""

    def run(
        self, X: Floats, out: Floats, *, proba: bool, staged: bool, n_threads: int
    ) -> None:
        """Write raw outputs, or their softmax.

        Parameters
        ----------
        X : ndarray of shape (n_rows, n_features), float32, C-contiguous
            Raw rows; with `staged`, of shape (n_rows, width): value 0.
        out : ndarray of shape (n_rows, n_outputs), float32, C-contiguous
            Where to write.
        proba : bool
            Whether to take the softmax of every row.
        staged : bool
            Whether X has passed the input stage already.
        n_threads : int
            At most so many own threads.

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
    """Every thread's own scratch memory, shared by all models."""

    def __init__(self) -> None:
        self.floats = aligned(0, np.float32)

    def grow(self, n: int) -> Any:
        """Give scratch memory of at least `n` floats."""
        if len(self.floats) < n:
            self.floats = aligned(n, np.float32)
        return self.floats


_scratch = _Scratch()


def _allowed_threads(n_threads: int) -> int:
    """Keep to the limit that joblib sets in its workers."""
    limit = os.environ.get("NUMBA_NUM_THREADS", "")
    return min(n_threads, int(limit)) if limit.isdigit() and int(limit) else n_threads


class KernelEngine:
    """Runs a graph with the compiled kernels.

    Parameters
    ----------
    graph : Graph
        The net.
    plan : Plan or None, default=None
        How to run it; None to choose by counting.
    """

    def __init__(self, graph: Graph, plan: Plan | None = None) -> None:
        self.graph = graph
        self._plan = plan
        self._ready: tuple[Any, Program] | None = None
        self._cut: tuple[int, Program] | None = None
        self._sharing: Sharing | None = None

    @property
    def plan(self) -> Plan:
        """How the graph is run."""
        if self._plan is None:
            self._plan = choose(self.graph)
        return self._plan

    def use(self, plan: Plan) -> None:
        """Run the graph in another way from now on; outputs stay the same."""
        self._plan, self._ready, self._cut = plan, None, None
        self._sharing = None

    def _prepare(self) -> tuple[Any, Program]:
        """Load the kernels and write the program, once.

        Two threads may both do so; they come to the same.
        """
        with _collector_off():
            from sklearn_sparse_nn.runtime.kernels import predict  # numba takes a while

        self._ready = predict.run, make_program(self.graph, self.plan)
        return self._ready

    def run(
        self, X: Floats, out: Floats, *, proba: bool, staged: bool, n_threads: int
    ) -> None:
        """Write raw outputs, or their softmax."""
        kernel, p = self._ready or self._prepare()
        fine = None
        if n_threads > 1:
            fine = self._share(p, X, out, proba, staged, n_threads)
        if fine is None:
            floats = _scratch.floats
            if len(floats) < p.scratch_size:
                floats = _scratch.grow(p.scratch_size)
            fine = kernel(
                X, out, p.lines, p.floats, p.table, p.columns, floats, 0, len(X), proba,
                staged,
            )  # fmt: skip
        if not fine:
            allow_nan = self.graph.stage.fill is not None and not staged
            refuse_nonfinite(X, allow_nan=allow_nan)

    def _share(
        self, p: Program, X: Floats, out: Floats, proba: bool, staged: bool, n: int
    ) -> bool | None:
        """Predict with `n` threads, if that is worth it and their helpers are free."""
        if self._sharing is None:
            self._sharing = Sharing(self.graph, self.plan)
        if self._sharing.rows_at_once(len(X), n) == ALONE:
            return None
        n = _allowed_threads(n)
        if n == 1:
            return None
        rows_at_once = self._sharing.rows_at_once(len(X), n)
        from sklearn_sparse_nn.runtime.threads.pool import share

        if rows_at_once == LINES:
            p = self._cut_program(_PARTS * n)
        return share(
            p, X, out, rows_at_once=rows_at_once, proba=proba, staged=staged,
            n_threads=n,
        )  # fmt: skip

    def _cut_program(self, n_parts: int) -> Program:
        """Write the program whose layers are cut into parts; keep the last."""
        kept = self._cut
        if kept is None or kept[0] != n_parts:
            kept = n_parts, make_program(self.graph, self.plan, n_parts)
            self._cut = kept
        return kept[1]


def make_engine(graph: Graph) -> Engine:
    """Choose what runs a graph: the kernels, if there is numba and a tile fits."""
    _, rows = place_values(graph)
    if rows > _MOST_ROWS or not _numba_works():
        return ReferenceEngine(graph)
    return KernelEngine(graph)


@contextmanager
def _collector_off() -> Iterator[None]:
    """Let nothing look for garbage while numba is loaded: a sixth of its time."""
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


def load_threads() -> None:
    """Load what several threads need, before they are there.

    An import that is under way in one thread while another forks the process never ends
    in the child.
    """
    if _numba_works():
        with _collector_off():
            from sklearn_sparse_nn.runtime.threads import pool  # noqa: F401


@cache
def _numba_works() -> bool:
    if os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0"):
        return False
    try:
        with _collector_off():
            import numba  # noqa: F401, late: it takes a tenth of a second
    except ImportError:  # missing, or not made for this numpy
        return False
    return True
