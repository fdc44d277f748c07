"""Measure how a net is run best, instead of counting."""

from collections.abc import Iterator
from time import perf_counter
from typing import Any

import numpy as np

from sklearn_sparse_nn.runtime.engine import KernelEngine
from sklearn_sparse_nn.runtime.graph import Floats
from sklearn_sparse_nn.runtime.kernels.layout import GROUP, NARROWEST, WIDE
from sklearn_sparse_nn.runtime.kernels.plan import Plan

__all__ = ["tuned"]

_PANELS = (96, 128, 160, 192, 256, 384, 512, 1024)
_LIMITS = (0, 1, 2, 4, 8, 16, 32)
_GAIN = 0.98  # what is not two per cent faster is noise
_ROUNDS, _SECONDS = 7, 2e-3


def tuned(engine: KernelEngine, X: Floats) -> Plan:
    """Find the fastest plan for rows like these.

    Layer by layer, the panels, groups and limits of the plan are varied, and what is
    faster on this machine is kept. No plan changes a sum's order, and so no output.

    Parameters
    ----------
    engine : KernelEngine
        Its plan is where the search starts.
    X : ndarray of shape (n_rows, n_features), float32, C-contiguous
        As many rows as are predicted at once.

    Returns
    -------
    plan : Plan
    """
    best = engine.plan
    for trial in _steps(engine, len(X)):
        best = _faster(engine, X, best, trial)
    return best


def _steps(engine: KernelEngine, n_rows: int) -> Iterator[Any]:
    """Give functions that make other plans of one, those that matter for the rows."""
    rest = n_rows % WIDE
    for i, layer in enumerate(engine.graph.layers):
        n_out, n_in = layer.weight.shape
        if n_rows >= WIDE * 3 // 4:
            for panel in [p for p in _PANELS if p < n_in] + [max(n_in, 1)]:
                yield lambda plan, i=i, panel=panel: plan.with_choice(i, panel=panel)
            for together in (False, True):
                grouped = np.full(n_out // GROUP, together)
                yield lambda plan, i=i, g=grouped: plan.with_choice(i, grouped=g)
        if 0 < rest <= WIDE * 3 // 4:
            for limit in _LIMITS:
                yield lambda plan, i=i, n=limit: plan.with_choice(i, dense_limit=n)
    if 0 < rest <= NARROWEST:
        for limit in range(NARROWEST + 1):
            yield lambda plan, n=limit: plan.with_single_limit(n)


def _faster(engine: KernelEngine, X: Floats, best: Plan, trial: Any) -> Plan:
    """Give the faster of a plan and what a step makes of it, timed in turns."""
    plans = [best, trial(best)]
    runs = [_timer(KernelEngine(engine.graph, plan), X) for plan in plans]
    times = np.array([[run() for run in runs] for _ in range(_ROUNDS)])
    old, new = times.min(axis=0)
    return plans[1] if new < _GAIN * old else best


def _timer(engine: KernelEngine, X: Floats) -> Any:
    """Give a function that times one call, from enough of them."""
    out = np.empty((len(X), engine.graph.n_outputs), dtype=np.float32)

    def call() -> None:
        engine.run(X, out, proba=False, staged=False, n_threads=1)

    call()
    start = perf_counter()
    call()
    n_calls = max(1, int(_SECONDS / max(perf_counter() - start, 1e-7)))

    def run() -> float:
        start = perf_counter()
        for _ in range(n_calls):
            call()
        return (perf_counter() - start) / n_calls

    return run
