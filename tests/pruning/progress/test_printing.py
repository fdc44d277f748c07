"""What is printed without callbacks, and what Ctrl-C leaves."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
from sklearn.model_selection import GridSearchCV
from skorch.callbacks import Callback

from sklearn_sparse_nn import (
    PrunedClassifier,
    TabularNetClassifier,
)
from tests.pruning.nets import own_net, small
from tests.pruning.progress.recorders import QUICK, ROOT, pruner

# Without callbacks


def test_before_scikit_learn_1_9_a_fit_is_quiet():
    script = """
        import sys, warnings
        warnings.simplefilter("error")
        import sklearn.model_selection, sklearn.pipeline, sklearn.linear_model
        sys.modules["sklearn.callback"] = None  # importing it is now an ImportError
        import torch
        torch.set_num_threads(1)
        from sklearn.datasets import load_iris
        from sklearn_sparse_nn import (
            PrunedClassifier, PrunedClassifierCV, TabularNetClassifier
        )
        X, y = load_iris(return_X_y=True)
        net = TabularNetClassifier((8,), max_epochs=2, random_state=0)
        pruner = PrunedClassifier(
            net, sparsity=0.5, prune_epochs=2, finetune_epochs=1, n_steps=2
        )
        assert not hasattr(pruner, "set_callbacks")
        assert pruner.fit(X, y).sparsity_ == 0.5
        assert "_given" not in vars(pruner)
        pipe = sklearn.pipeline.make_pipeline(pruner).fit(X, y)
        assert pipe[-1].sparsity_ == 0.5
        search = PrunedClassifierCV(pruner, sparsities=[0.5], cv=2)
        assert not hasattr(search, "set_callbacks")
        assert search.fit(X, y).best_params_ == {"sparsity": 0.5}
        from sklearn_sparse_nn import _compat
        assert _compat.CallbackSupportMixin.__module__ == _compat.__name__
    """
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


# What is printed


@pytest.mark.parametrize("make", [small, own_net])
@pytest.mark.parametrize("sparsity", [0.0, 0.6])
def test_verbose_prints_a_line_an_epoch(classes, capfd, tmp_path, make, sparsity):
    options = {"sparsity": sparsity, "memory": str(tmp_path)}
    fitted = pruner(make(max_epochs=3), verbose=1, **options).fit(*classes)
    out, err = capfd.readouterr()
    lines = out.splitlines()
    assert [line.split()[:2] for line in lines] == [
        [row["phase"], str(row["epoch"])] for row in fitted.history_
    ]
    assert len(lines) == 7
    assert all("train_loss" in line and "sparsity" in line for line in lines)
    assert err == ""
    fitted.fit(*classes)
    again = capfd.readouterr().out.splitlines()
    assert again[0] == "   dense    3  epochs, from memory"
    assert [line.split()[:2] for line in again[1:]] == [
        line.split()[:2] for line in lines[3:]
    ]
    fitted.set_params(verbose=0).fit(*classes)
    pruner(make(max_epochs=3), sparsity=sparsity).fit(*classes)
    assert capfd.readouterr() == ("", "")


# Ctrl-C


class Slow(Callback):
    """Takes its time where it is told to, and notes every dense phase that begins."""

    def __init__(self, log):
        self.log = log

    def on_epoch_end(self, net, **kwargs):
        time.sleep(float(os.environ.get("SLOW_EPOCHS", "0")))
        if len(net.history) == 1:
            with open(self.log, "a") as file:
                file.write("dense\n")


def slow_search(folder, n_jobs):
    net = TabularNetClassifier(
        (8,),
        max_epochs=2,
        callbacks=[("slow", Slow(str(folder / "log")))],
        random_state=0,
    )
    inner = PrunedClassifier(net, memory=str(folder / "store"), **QUICK)
    grid = {"sparsity": [0.5, 0.8]}
    return GridSearchCV(inner, grid, cv=3, n_jobs=n_jobs, error_score="raise")


@pytest.mark.skipif(os.name != "posix", reason="sends a signal to a group")
@pytest.mark.parametrize("n_jobs", [1, 2])
def test_an_interrupted_search_keeps_what_is_finished(classes, tmp_path, n_jobs):
    np.savez(tmp_path / "rows.npz", X=classes[0], y=classes[1])
    script = f"""
        from pathlib import Path
        import torch
        from tests.pruning.progress.test_printing import *
        torch.set_num_threads(1)
        folder = Path({str(tmp_path)!r})
        rows = np.load(folder / "rows.npz")
        slow_search(folder, {n_jobs}).fit(rows["X"], rows["y"])
        print("not interrupted")
    """
    running = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=ROOT,
        env={**os.environ, "SLOW_EPOCHS": "0.3"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    store, log = tmp_path / "store", tmp_path / "log"
    deadline = time.monotonic() + 200
    while not list(store.rglob("output.pkl")) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(running.pid, signal.SIGINT)  # as a terminal does: to workers, too
    out, err = running.communicate(timeout=200)
    assert running.returncode != 0
    assert "KeyboardInterrupt" in err
    assert out == ""
    kept = list(store.rglob("output.pkl"))
    assert kept
    before = len(log.read_text().splitlines())
    assert slow_search(tmp_path, 1).fit(*classes).best_score_ > 0
    trained = len(log.read_text().splitlines()) - before
    n_phases = 3 + 1  # of the folds, and of all rows
    assert 0 < trained <= n_phases - len(kept)
    assert len(list(store.rglob("output.pkl"))) == n_phases
    assert slow_search(tmp_path, 1).fit(*classes).best_score_ > 0
    assert len(log.read_text().splitlines()) == before + trained
