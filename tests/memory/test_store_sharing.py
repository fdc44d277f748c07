"""Stores that searches, threads, processes and scripts share."""

import os
import pickle
import subprocess
import sys
import warnings

import joblib
import numpy as np
import pytest
import torch
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.model_selection import (
    GridSearchCV,
    HalvingGridSearchCV,
    RandomizedSearchCV,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_sparse_nn import (
    PrunedClassifier,
    TabularNetClassifier,
)
from tests.memory.dense_phases import QUICK, ROOT, bits, outputs
from tests.pruning.nets import small


class Dictionary:
    """Somebody's own store: an object with a method ``cache``, and no more."""

    def __init__(self):
        self.values = {}

    def cache(self, function):
        def cached(key, job):
            if key not in self.values:
                self.values[key] = pickle.dumps(function(key, job))
            return pickle.loads(self.values[key])

        return cached


def test_a_store_of_ones_own(classes, trained):
    pruner = PrunedClassifier(small(), **QUICK)
    expected = bits(pruner.fit(*classes))
    memory = Dictionary()
    recalled = pruner.get_params() | {"memory": memory}
    for _ in range(2):
        assert bits(PrunedClassifier(**_shallow(recalled)).fit(*classes)) == expected
    assert len(memory.values) == 1
    assert len(trained) == 2


def _shallow(params):
    return {name: value for name, value in params.items() if "__" not in name}


def test_two_processes_that_ask_at_once(classes, tmp_path):
    pruner = PrunedClassifier(small(), **QUICK)
    expected = bits(pruner.fit(*classes))
    pruner.set_params(memory=str(tmp_path))
    found = joblib.Parallel(n_jobs=2)(
        joblib.delayed(_bits_there)(pruner, *classes) for _ in range(8)
    )
    assert all(each == expected for each in found)


def _bits_there(pruner, X, y):
    torch.set_num_threads(1)
    return bits(pruner.fit(X, y))


def test_threads_that_ask_at_once(classes, tmp_path):
    pruner = PrunedClassifier(small(), **QUICK)
    expected = bits(pruner.fit(*classes))
    pruner.set_params(memory=str(tmp_path))
    filters = list(warnings.filters)
    found = joblib.Parallel(n_jobs=4, backend="threading")(
        joblib.delayed(_bits_there)(_clone(pruner), *classes) for _ in range(8)
    )
    assert all(each == expected for each in found)
    assert warnings.filters == filters


def _clone(pruner):
    return type(pruner)(**pruner.get_params(deep=False))


GRID = {
    "prunedclassifier__sparsity": [0.3, 0.5, 0.6],
    "prunedclassifier__n_steps": [1, 2],
}


SEARCHES = {
    "grid": lambda pipe, **kw: GridSearchCV(pipe, GRID, cv=3, **kw),
    "randomized": lambda pipe, **kw: RandomizedSearchCV(
        pipe, GRID, cv=3, n_iter=4, random_state=0, **kw
    ),
    "halving": lambda pipe, **kw: HalvingGridSearchCV(
        pipe, GRID, cv=2, factor=3, min_resources=40, random_state=0, **kw
    ),
}


@pytest.mark.parametrize("search", SEARCHES.values(), ids=SEARCHES)
def test_a_search_trains_once_for_every_set_of_rows(classes, tmp_path, trained, search):
    pruner = PrunedClassifier(small(), **QUICK)
    plain = search(make_pipeline(StandardScaler(), pruner)).fit(*classes)
    n_plain = len(trained)
    pruner.set_params(memory=str(tmp_path))
    shared = search(make_pipeline(StandardScaler(), pruner)).fit(*classes)
    n_shared = len(trained) - n_plain
    assert n_shared == len(outputs(tmp_path)) < n_plain
    if not isinstance(shared, HalvingGridSearchCV):
        assert n_shared == 3 + 1  # folds, and the refit
    assert shared.best_params_ == plain.best_params_
    for name, values in plain.cv_results_.items():
        if "score" in name and "time" not in name:
            assert np.array_equal(values, shared.cv_results_[name])
    assert bits(shared.best_estimator_[-1]) == bits(plain.best_estimator_[-1])


def test_a_search_in_two_workers_shares_and_gives_the_same(classes, tmp_path):
    pruner = PrunedClassifier(TabularNetClassifier((16,), max_epochs=3), **QUICK)
    plain = GridSearchCV(pruner, {"sparsity": [0.3, 0.5, 0.6]}, cv=3).fit(*classes)
    pruner.set_params(memory=str(tmp_path))
    shared = GridSearchCV(pruner, {"sparsity": [0.3, 0.5, 0.6]}, cv=3, n_jobs=2)
    shared.fit(*classes)
    for k in range(3):
        name = f"split{k}_test_score"
        assert np.array_equal(plain.cv_results_[name], shared.cv_results_[name])
    assert bits(shared.best_estimator_) == bits(plain.best_estimator_)
    assert len(outputs(tmp_path)) == 4


SCRIPT = """
import pickle, sys, warnings
import torch
from pathlib import Path
from sklearn.datasets import load_iris
from sklearn.model_selection import GridSearchCV
from skorch import NeuralNetClassifier
from torch import nn
from sklearn_sparse_nn import PrunedClassifier

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(4, 8), nn.Linear(8, 3)
    def forward(self, X):
        return self.two(torch.relu(self.one(X)))

if __name__ == "__main__":
    warnings.simplefilter("error", UserWarning)
    X, y = load_iris(return_X_y=True)
    net = NeuralNetClassifier(
        Net, criterion=nn.CrossEntropyLoss, max_epochs=2, verbose=0
    )
    pruner = PrunedClassifier(
        net, prune_epochs=1, finetune_epochs=1, n_steps=1, random_state=0,
        memory=sys.argv[1],
    )
    grid, n_jobs = {"sparsity": [0.3, 0.6]}, int(sys.argv[2])
    search = GridSearchCV(pruner, grid, cv=2, n_jobs=n_jobs)
    search.fit(X.astype("float32"), y)
    assert type(search.best_estimator_.net_.module_) is Net
    pickle.dumps(search)
    print(len([*Path(sys.argv[1]).rglob("output.pkl")]))
"""


def test_a_class_of_a_script_is_shared_by_workers_and_with_the_next_run(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    store = tmp_path / "store"
    for n_jobs in ("2", "1"):
        command = [sys.executable, "-W", "error::UserWarning", str(script)]
        found = subprocess.run(
            [*command, str(store), n_jobs],
            capture_output=True,
            check=False,
            cwd=ROOT,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert found.returncode == 0, found.stderr
        assert found.stdout.split() == ["3"]
