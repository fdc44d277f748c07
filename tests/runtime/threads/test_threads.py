"""Threads, forks, interruptions, and memory over a million predictions."""

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from sklearn_sparse_nn.runtime import SparseModel
from sklearn_sparse_nn.runtime.graph import (
    Activation,
    Graph,
    InputStage,
    LayerNorm,
    Linear,
    Softmax,
)
from tests.runtime.graphs import (
    kernels_only,
    make_weight,
    rows_for,
    share_always,
)

ROOT = Path(__file__).parents[3]
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")


@pytest.fixture(autouse=True)
def shared():
    """Let threads share every prediction, in other processes as well.

    The smallest pieces there are: half a tile. `test_sharing` has all ways.
    """
    patch = share_always(32)
    patch.setenv("TEST_ROWS_AT_ONCE", "32")
    yield
    patch.undo()


if "TEST_ROWS_AT_ONCE" in os.environ and __name__ != "__main__":
    share_always(int(os.environ["TEST_ROWS_AT_ONCE"]))


def make_model(widths=(30, 64, 48, 5), n_threads=1, density=0.2):
    rng = np.random.default_rng(0)
    ops = []
    for n_in, n_out in pairwise(widths):
        weight = make_weight(rng, n_out, n_in, density)
        bias = rng.normal(size=n_out)
        ops.append(Linear(len(ops), weight, bias, Activation("silu")))
    ops.append(LayerNorm(len(ops), np.ones(n_out), np.zeros(n_out)))
    ops.append(Softmax(len(ops)))
    return SparseModel(Graph(InputStage(widths[0]), tuple(ops)), n_threads=n_threads)


def run_script(text, timeout=120, **env):
    """Run Python in a process of its own; a hang fails."""
    env = os.environ | {"PYTHONWARNINGS": "error"} | env
    done = subprocess.run(
        [sys.executable, "-c", text],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.split()


@pytest.mark.parametrize("n_threads", [1, 3])
def test_eight_threads_on_one_model_give_the_serial_bits(n_threads):
    model = make_model(n_threads=n_threads)
    X = rows_for(model.graph, 400)
    sizes = [1, 2, 5, 9, 64, 65, 130, 400]
    expected = {n: make_model().forward(X[:n]).tobytes() for n in sizes}
    ready, wrong = threading.Barrier(8), []

    def work(k):
        ready.wait()
        for i in range(300):
            n = sizes[(i + k) % len(sizes)]
            if model.forward(X[:n]).tobytes() != expected[n]:
                wrong.append((k, i, n))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert not wrong


def test_the_first_prediction_may_come_from_eight_threads_at_once():
    expected = make_model()
    X = rows_for(expected.graph, 70)
    expected = expected.forward(X).tobytes()
    for _ in range(20):
        model, ready = make_model(), threading.Barrier(8)

        def work(_, model=model, ready=ready):
            ready.wait()
            return model.forward(X).tobytes()

        with ThreadPoolExecutor(8) as pool:
            assert set(pool.map(work, range(8))) == {expected}


def test_models_of_many_sizes_share_a_threads_scratch():
    models = [make_model((30, n, 5)) for n in (3, 500, 40, 2000, 1)]
    X = rows_for(models[0].graph, 70)
    expected = [m.forward(X).tobytes() for m in models]

    def work(k):
        order = np.random.default_rng(k).integers(0, len(models), 60)
        return all(models[i].forward(X).tobytes() == expected[i] for i in order)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(8)))


FORK = """
import os, signal, sys
from tests.runtime.threads.test_threads import make_model, rows_for
model = make_model(n_threads=int(sys.argv[1]) if len(sys.argv) > 1 else 2)
X = rows_for(model.graph, 500)
expected = make_model().forward(X).tobytes()
def child(depth):
    pid = os.fork()
    if pid == 0:
        signal.alarm(60)
        good = model.forward(X).tobytes() == expected
        if depth:
            good = child(depth - 1) and good
        os._exit(0 if good else 3)
    return os.waitpid(pid, 0)[1] == 0
"""


@needs_fork
@pytest.mark.parametrize("before", ["model.forward(X)", "model.forward(X[:3])", ""])
def test_a_forked_child_predicts(before):
    found = run_script(
        f"{FORK}\n{before}\nassert child(1)\n"
        "assert model.forward(X).tobytes() == expected\nassert child(0)\nprint('good')"
    )
    assert found == ["good"]


@needs_fork
def test_a_child_forked_while_threads_predict_predicts():
    found = run_script(
        FORK
        + """
import threading, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # fork beside threads
stop = threading.Event()
def work():
    while not stop.is_set():
        model.forward(X)
threads = [threading.Thread(target=work) for _ in range(3)]
[t.start() for t in threads]
good = [child(0) for _ in range(20)]
stop.set()
[t.join() for t in threads]
assert all(good)
print("good")
"""
    )
    assert found == ["good"]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_of_multiprocessing_predict(method, tmp_path):
    if method == "fork" and not hasattr(os, "fork"):
        pytest.skip("needs os.fork")
    script = tmp_path / "script.py"
    script.write_text(
        """
import multiprocessing, sys
from tests.runtime.threads.test_threads import make_model, rows_for

def work(model):
    return model.forward(rows_for(model.graph, 300)).tobytes()

if __name__ == "__main__":
    model = make_model(n_threads=2)
    expected = work(model)
    context = multiprocessing.get_context(sys.argv[1])
    with context.Pool(2) as pool:
        found = pool.map_async(work, [model] * 6).get(timeout=100)
    assert set(found) == {expected}
    print("good")
"""
    )
    done = subprocess.run(
        [sys.executable, str(script), method],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert done.stdout.split() == ["good"], done.stderr[-3000:]


RESIDENT = """
import os
from concurrent.futures import ThreadPoolExecutor
import threading
from tests.runtime.threads.test_threads import make_model, rows_for
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
model = make_model((10, 16, 3))
X = rows_for(model.graph, 64)
rows = [X[i : i + 1] for i in range(64)]
def predict(n):
    for i in range(n // 64):
        for row in rows:
            model.forward(row)
"""
linux_only = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="reads /proc"
)


@kernels_only
@linux_only
def test_memory_stays_flat_over_a_million_predictions():
    (grown,) = run_script(
        RESIDENT
        + """
predict(100_000)
before = resident()
predict(900_000)
print(resident() - before)
"""
    )
    assert int(grown) < 2 * 2**20


@linux_only
@pytest.mark.parametrize("n_threads", [1, 2])
def test_memory_stays_flat_with_threads_that_come_and_go(n_threads):
    (grown,) = run_script(
        RESIDENT
        + f"""
model = model.with_threads({n_threads})
X = rows_for(model.graph, 200)
def some():
    for _ in range(5):
        model.forward(X)
def come_and_go(n):
    for _ in range(n):
        threads = [threading.Thread(target=some) for _ in range(4)]
        [t.start() for t in threads]
        [t.join() for t in threads]
come_and_go(100)
before = resident()
come_and_go(500)
print(resident() - before)
"""
    )
    assert int(grown) < 2 * 2**20


@linux_only
def test_memory_stays_flat_over_models_that_come_and_go():
    (grown,) = run_script(
        RESIDENT
        + """
def models(n):
    for _ in range(n):
        make_model((200, 100, 3)).forward(rows_for(make_model((200, 1)).graph, 5))
models(200)
before = resident()
models(500)
print(resident() - before)
"""
    )
    assert int(grown) < 4 * 2**20


@kernels_only
@pytest.mark.skipif(os.name != "posix", reason="sends a signal")
@pytest.mark.parametrize("n_threads", [1, 2])
def test_ctrl_c_reaches_the_caller_and_the_model_stays_usable(n_threads):
    found = run_script(
        f"""
import os, signal, threading, time
from tests.runtime.threads.test_threads import make_model, rows_for
model = make_model((100, 600, 600, 5), n_threads={n_threads}, density=0.5)
X = rows_for(model.graph, 20_000)
serial = model.with_threads(1)
expected = serial.forward(X[:300]).tobytes()
threading.Timer(0.15, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    while True:
        model.forward(X)
except KeyboardInterrupt:
    print("interrupted")
assert model.forward(X[:300]).tobytes() == expected
model.forward(X)
assert model.forward(X[:300]).tobytes() == expected
print("usable")
"""
    )
    assert found == ["interrupted", "usable"]


@kernels_only
def test_a_bad_row_in_any_part_is_refused_and_the_threads_go_on():
    model = make_model(n_threads=3)
    X = rows_for(model.graph, 64 * 9)
    expected = model.forward(X).tobytes()
    for row in (0, 63, 64, 200, 64 * 9 - 1):
        bad = X.copy()
        bad[row, 7] = np.inf
        with pytest.raises(ValueError, match="Input X contains infinity"):
            model.forward(bad)
        assert model.forward(X).tobytes() == expected


@kernels_only
def test_other_threads_run_while_a_kernel_does():
    """The kernels hold no lock: a thread counts on beside them."""
    model = make_model((300, 1000, 1000, 5), density=0.5)
    X = rows_for(model.graph, 3000)
    model.forward(X[:70])
    done, ticks = threading.Event(), []

    def tick():
        while not done.is_set():
            ticks.append(time.perf_counter())
            time.sleep(0.001)

    thread = threading.Thread(target=tick)
    thread.start()
    start = time.perf_counter()
    model.forward(X)
    end = time.perf_counter()
    done.set()
    thread.join()
    assert sum(start < t < end for t in ticks) >= 5


def test_signals_are_left_as_they_were():
    before = signal.getsignal(signal.SIGINT)
    make_model(n_threads=2).forward(rows_for(make_model().graph, 300))
    assert signal.getsignal(signal.SIGINT) is before


@kernels_only
def test_one_pool_serves_all_numbers_of_threads():
    model = make_model((4, 3, 2), n_threads=8)
    before = threading.active_count()
    for n_tiles in range(2, 40):
        model.forward(rows_for(model.graph, 64 * n_tiles))
    assert threading.active_count() - before <= 7


@kernels_only
def test_predictions_at_the_exit_of_the_interpreter():
    found = run_script(
        """
import atexit
from tests.runtime.threads.test_threads import make_model, rows_for
model = make_model((4, 3, 2), n_threads=2)
X = rows_for(model.graph, 300)
expected = model.forward(X).tobytes()
atexit.register(lambda: print(model.forward(X).tobytes() == expected))
"""
    )
    assert found == ["True"]


@kernels_only
@pytest.mark.parametrize("thread", ["main", "daemon"])
def test_helpers_do_not_keep_the_interpreter_alive(thread):
    start = "run()" if thread == "main" else "t.start(); ready.wait()"
    found = run_script(
        f"""
import threading, time
from tests.runtime.threads.test_threads import make_model, rows_for
model = make_model(n_threads=3)
X = rows_for(model.graph, 300)
ready = threading.Event()
def run():
    model.forward(X)
    ready.set()
    while threading.current_thread() is not threading.main_thread():
        model.forward(X)
t = threading.Thread(target=run, daemon=True)
{start}
print("end")
""",
        timeout=60,
    )
    assert found == ["end"]


@kernels_only
@pytest.mark.skipif(os.name != "posix", reason="sends a signal")
def test_nothing_is_written_after_an_interruption():
    found = run_script(
        """
import os, signal, threading
import numpy as np
from tests.runtime.threads.test_threads import make_model, rows_for
model = make_model((100, 600, 600, 5), n_threads=3, density=0.5)
X = rows_for(model.graph, 20_000)
out = np.empty((len(X), 5), dtype=np.float32)
model.forward(X[:200])
for seconds in (0.02, 0.05, 0.1, 0.2, 0.3):
    threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGINT)).start()
    try:
        while True:
            model.forward(X, out=out)
    except KeyboardInterrupt:
        out[:] = 7
    threading.Event().wait(0.2)
    assert (out == 7).all()
print("good")
"""
    )
    assert found == ["good"]
