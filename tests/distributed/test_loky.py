"""Workers of this machine: killed in the middle of a search, and their threads."""

import os
import signal
import subprocess
import sys
import threading
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import joblib
import pytest
import torch
from joblib.externals.loky import get_reusable_executor
from skorch.callbacks import Callback

from sklearn_sparse_nn import PrunedClassifier
from tests.distributed.searches import (
    N_FOLDS,
    Kills,
    assert_equal,
    grid,
    trainings,
)
from tests.memory.dense_phases import QUICK, outputs
from tests.pruning.nets import small
from tests.runtime.graphs import rows_for, share_always
from tests.runtime.threads.test_threads import make_model

ROOT = Path(__file__).parents[2]
posix_only = pytest.mark.skipif(os.name != "posix", reason="sends a signal")


@pytest.fixture(scope="module", autouse=True)
def leave_no_worker():
    yield
    end_workers()


def end_workers():
    get_reusable_executor().shutdown(wait=True, kill_workers=True)


def fatal(folder, n_jobs):
    """Make a search that is killed once, if the file ``armed`` is there."""
    kills = Kills(str(folder / "armed"), str(folder / "store"))
    return grid(
        folder / "signs",
        memory=folder / "store",
        levels=[0.6],  # one candidate: no two tasks ask for the same dense phase
        callbacks=[("kills", kills)],
        n_jobs=n_jobs,
    )


def killed_in_a_worker(folder, X, y):
    (folder / "armed").touch()
    with pytest.raises(BrokenProcessPool, match="SIGKILL") as caught:
        fatal(folder, n_jobs=2).fit(X, y)
    assert isinstance(
        caught.value, joblib.externals.loky.process_executor.TerminatedWorkerError
    )
    end_workers()  # who is still alive may still store


def killed_in_a_process_of_its_own(folder, X, y):
    (folder / "armed").touch()
    joblib.dump((X, y), folder / "rows")
    script = (
        "import joblib, sys, torch; from pathlib import Path\n"
        "from tests.distributed.test_loky import fatal\n"
        "torch.set_num_threads(1); folder = Path(sys.argv[1])\n"
        "fatal(folder, n_jobs=None).fit(*joblib.load(folder / 'rows'))\n"
    )
    command = [sys.executable, "-c", script, str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr


@posix_only
@pytest.mark.parametrize(
    ("kill", "n_jobs"),
    [(killed_in_a_worker, 2), (killed_in_a_process_of_its_own, None)],
)
def test_after_a_kill_the_next_run_uses_what_was_stored(
    classes, tmp_path, kill, n_jobs
):
    expected = grid(tmp_path / "expected", levels=[0.6]).fit(*classes)
    kill(tmp_path, *classes)
    assert not (tmp_path / "armed").exists()
    n_stored = len(outputs(tmp_path / "store"))
    assert 2 <= n_stored <= N_FOLDS
    n_trained = len(trainings(tmp_path / "signs"))
    search = fatal(tmp_path, n_jobs).fit(*classes)
    assert_equal(search, expected)
    n_left = N_FOLDS + 1 - n_stored
    assert len(trainings(tmp_path / "signs")) == n_trained + n_left
    assert len(outputs(tmp_path / "store")) == N_FOLDS + 1


class CountsThreads(Callback):
    """Remembers how many threads torch uses while a net trains."""

    def on_epoch_end(self, net, **kwargs):
        self.found_ = torch.get_num_threads()


def threads_there(X, y):
    """Say how many threads training, the variables and a prediction come to."""
    net = small(callbacks=[("threads", CountsThreads())])
    pruner = PrunedClassifier(net, **QUICK).fit(X, y)
    training = dict(pruner.net_.callbacks_)["threads"].found_
    names = ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS")
    variables = [int(os.environ[name]) for name in names]
    patch = share_always(64)  # work that is small is else done alone
    before = threading.active_count()
    model = make_model(n_threads=4)
    model.forward(rows_for(model.graph, 64 * 40))
    predicting = 1 + threading.active_count() - before
    patch.undo()
    return [training, *variables, predicting]


def assert_within(found, limit):
    assert len(found) == 2
    for training, *variables, predicting in found:
        assert 1 <= training <= limit  # torch takes no more than there are processors
        assert variables == [limit, limit]
        assert predicting == min(4, limit)


@pytest.mark.parametrize("limit", [1, 3])
def test_a_worker_keeps_to_the_limit_of_joblib(classes, limit):
    with joblib.parallel_config("loky", n_jobs=2, inner_max_num_threads=limit):
        found = joblib.Parallel()(
            joblib.delayed(threads_there)(*classes) for _ in range(2)
        )
    assert_within(found, limit)


def test_unasked_two_workers_have_half_of_the_processors(classes, monkeypatch):
    for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    half = max(1, joblib.cpu_count() // 2)
    found = joblib.Parallel(n_jobs=2)(
        joblib.delayed(threads_there)(*classes) for _ in range(2)
    )
    assert_within(found, half)
