"""The search for the fastest plan, by measurement."""

from collections.abc import Callable, Iterator
from operator import methodcaller
from time import perf_counter
from typing import TypeAlias

import numpy as np

from sklearn_sparse_nn.runtime.engine import KernelEngine
from sklearn_sparse_nn.runtime.graph import Floats
from sklearn_sparse_nn.runtime.kernels.choice import Plan
from sklearn_sparse_nn.runtime.kernels.layout import GROUP, NARROWEST, WIDE

__all__ = ["tuned"]

#: The change of a plan: one that differs in one choice.
Step: TypeAlias = Callable[[Plan], Plan]

_PANELS = (96, 128, 160, 192, 256, 384, 512, 1024)
_LIMITS = (0, 1, 2, 4, 8, 16, 32)
_GAIN = 0.98  # a gain of less than two per cent is noise
_ROUNDS, _SECONDS = 7, 2e-3


def tuned(engine: KernelEngine, X: Floats) -> Plan:
    """Find the fastest plan for rows like these.

    The panels, groups and limits of the plan are varied layer by layer; the faster one
    on this machine is kept. No plan changes the order of a sum, so outputs stay.

    Parameters
    ----------
    engine : KernelEngine
        The engine; the search starts from its plan.
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


def _steps(engine: KernelEngine, n_rows: int) -> Iterator[Step]:
    """Yield changes of a plan that matter for this number of rows."""
    rest = n_rows % WIDE
    for i, layer in enumerate(engine.graph.layers):
        n_out, n_in = layer.weight.shape
        if n_rows >= WIDE * 3 // 4:
            for panel in [p for p in _PANELS if p < n_in] + [max(n_in, 1)]:
                yield methodcaller("with_choice", i, panel=panel)
            for together in (False, True):
                grouped = np.full(n_out // GROUP, together)
                yield methodcaller("with_choice", i, grouped=grouped)
        if 0 < rest <= WIDE * 3 // 4:
            for limit in _LIMITS:
                yield methodcaller("with_choice", i, dense_limit=limit)
    if 0 < rest <= NARROWEST:
        for limit in range(NARROWEST + 1):
            yield methodcaller("with_single_limit", limit)


def _faster(engine: KernelEngine, X: Floats, best: Plan, trial: Step) -> Plan:
    """Return the faster of a plan and its change, timed in turns."""
    plans = [best, trial(best)]
    runs = [_timer(KernelEngine(engine.graph, plan), X) for plan in plans]
    times = np.array([[run() for run in runs] for _ in range(_ROUNDS)])
    old, new = times.min(axis=0)
    return plans[1] if new < _GAIN * old else best


def _timer(engine: KernelEngine, X: Floats) -> Callable[[], float]:
    """Build a function that times one call, as the mean of many."""
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
