"""Threads that share a prediction: the same bits in every way, where it pays."""

import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sklearn_sparse_nn.runtime import SparseModel, engine
from sklearn_sparse_nn.runtime.kernels.choice import choose
from sklearn_sparse_nn.runtime.threads import pool
from sklearn_sparse_nn.runtime.threads.sharing import Sharing
from tests.runtime.graphs import (
    BATCHES,
    kernels_only,
    make_graph,
    nets,
    picker,
    rows_for,
    run,
    share_always,
)
from tests.runtime.threads.test_threads import make_model

pytestmark = kernels_only
WAYS = (32, 64, 128)


@settings(max_examples=300, deadline=None)
@given(
    nets(),
    st.sampled_from(WAYS),
    st.sampled_from(BATCHES),
    st.integers(2, 4),
    st.booleans(),
)
def test_every_way_to_share_gives_the_serial_bits(graph, way, n, n_threads, proba):
    X = rows_for(graph, n)
    serial = run(graph, X, proba=proba)
    patch = share_always(way)
    try:
        shared = run(graph, X, proba=proba, n_threads=n_threads)
    finally:
        patch.undo()
    assert shared.tobytes() == serial.tobytes()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("seed", range(5))
def test_layers_of_many_parts_give_the_serial_bits(seed, way):
    rng = np.random.default_rng(seed)
    widths = (50, *rng.integers(100, 700, 3), 5)
    model = make_model(widths, density=rng.choice([0.02, 0.3, 0.9]))
    X = rows_for(model.graph, 200)
    patch = share_always(way)
    try:
        shared = model.with_threads(3)
        for n in (1, 3, 8, 30, 50, 64, 65, 200):
            assert shared.forward(X[:n]).tobytes() == model.forward(X[:n]).tobytes()
    finally:
        patch.undo()


@pytest.mark.parametrize("way", WAYS)
def test_a_bad_row_is_refused_in_every_way(way):
    patch = share_always(way)
    try:
        model = make_model((30, 300, 5), n_threads=2)
        X = rows_for(model.graph, 300)
        expected = model.with_threads(1).forward(X).tobytes()
        for row in (0, 31, 32, 64, 299):
            bad = X.copy()
            bad[row, 3] = np.nan
            with pytest.raises(ValueError, match="Input X contains NaN"):
                model.forward(bad)
            assert model.forward(X).tobytes() == expected
    finally:
        patch.undo()


def test_small_work_is_done_alone_and_large_work_is_shared():
    small, large = make_model((8, 16, 3)), make_model((100, 1000, 1000, 5))
    sharing = Sharing.of(small.graph, choose(small.graph))
    for n in (1, 10, 64, 640):
        assert sharing.rows_at_once(n, 2) is None
    sharing = Sharing.of(large.graph, choose(large.graph))  # 200,000 weights
    assert sharing.rows_at_once(1, 2) is None
    assert sharing.rows_at_once(65, 2) is None
    assert sharing.rows_at_once(64 * 8, 2) == 64
    assert sharing.rows_at_once(64 * 1000, 2) == 64 * 125
    assert sharing.rows_at_once(64 * 1000, 1) is None


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 100_000), st.integers(2, 64))
def test_the_choice_is_one_that_the_kernels_know(seed, n, n_threads):
    graph = make_graph(picker(seed))
    way = Sharing.of(graph, choose(graph)).rows_at_once(n, n_threads)
    assert way is None or way % 64 == 0 or (way == 32 and n <= 64)
    assert way is None or n > way


@pytest.fixture
def tiles():
    patch = share_always(64)
    yield
    patch.undo()


@pytest.mark.usefixtures("tiles")
@pytest.mark.parametrize(
    ("limit", "n_used"), [("1", 1), ("2", 2), ("8", 4), ("", 4), ("0", 4), ("x", 4)]
)
def test_numba_num_threads_limits_own_threads(monkeypatch, limit, n_used):
    monkeypatch.setenv("NUMBA_NUM_THREADS", limit)
    asked = []

    def share(*args, n_threads, **kwargs):
        asked.append(n_threads)
        return real(*args, n_threads=n_threads, **kwargs)

    real = engine.share
    monkeypatch.setattr(engine, "share", share)
    model = make_model(n_threads=4)
    model.forward(rows_for(model.graph, 64 * 40))
    assert asked == ([] if n_used == 1 else [n_used])


@pytest.mark.usefixtures("tiles")
def test_helpers_that_are_busy_are_not_waited_for():
    model = make_model(n_threads=2)
    X = rows_for(model.graph, 300)
    expected = model.with_threads(1).forward(X).tobytes()
    with pool._pool.lock:
        assert model.forward(X).tobytes() == expected


@pytest.mark.usefixtures("tiles")
def test_without_new_threads_the_caller_does_all(monkeypatch):
    def start(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(pool, "_pool", pool._Pool())
    monkeypatch.setattr(threading.Thread, "start", start)
    model = make_model(n_threads=3)
    X = rows_for(model.graph, 300)
    assert model.forward(X).tobytes() == make_model().forward(X).tobytes()


@pytest.mark.parametrize("on", [True, False])
def test_loading_the_kernels_leaves_the_garbage_collector_as_it_was(on):
    text = f"""
import gc
gc.enable() if {on} else gc.disable()
import numpy as np
from tests.runtime.threads.test_threads import make_model, rows_for
model = make_model(n_threads=2)
model.forward(rows_for(model.graph, 300))
print(gc.isenabled())
"""
    done = subprocess.run(
        [sys.executable, "-c", text], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [str(on)]


def test_another_plan_is_used_by_threads_as_well():
    model = SparseModel(make_model((30, 700, 5)).graph, n_threads=2)
    X = rows_for(model.graph, 40)
    patch = share_always(32)
    try:
        expected = model.forward(X).tobytes()
        kernel_engine = engine.KernelEngine(model.graph)
        kernel_engine.use(choose(model.graph).with_single_limit(8))
        out = np.empty((40, model.graph.n_outputs), dtype=np.float32)
        kernel_engine.run(X, out, proba=False, staged=False, n_threads=2)
        assert out.tobytes() == expected
        kernel_engine.use(choose(model.graph).with_single_limit(0))
        kernel_engine.run(X, out, proba=False, staged=False, n_threads=2)
        assert out.tobytes() == expected
    finally:
        patch.undo()


@pytest.mark.usefixtures("tiles")
def test_helpers_whose_memory_runs_out_are_no_silent_gap(monkeypatch):
    """A piece that a helper took and could not predict is an error for the caller."""
    caller, real = threading.get_ident(), engine._predict

    def predict(*args):
        if threading.get_ident() != caller:
            raise MemoryError
        time.sleep(0.01)  # until a helper has begun
        return real(*args)

    model = make_model(n_threads=2)
    X = rows_for(model.graph, 64 * 50)
    monkeypatch.setattr(engine, "_predict", predict)
    with pytest.raises(MemoryError):
        model.forward(X)
    monkeypatch.setattr(engine, "_predict", real)
    assert model.forward(X).tobytes() == make_model().forward(X).tobytes()
