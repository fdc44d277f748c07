"""Run a search on a dask cluster, and get the scores of a search in one process.

Two workers on this machine stand for a cluster: put the address of a scheduler into
``Client("tcp://...")`` and nothing else changes. The dense phases are stored in a
folder that all workers see, so each fold trains one.

Run with ``python examples/search_dask.py`` after ``pip install ".[distributed]"``. Half
a minute.
"""

import tempfile
import time
from pathlib import Path

import joblib
import numpy as np
from dask.distributed import Client, LocalCluster
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_sparse_nn import PrunedClassifier, TabularNetClassifier


def make_search(memory):
    """Search over how much is pruned; every candidate prunes the same dense nets."""
    net = TabularNetClassifier((64, 64), max_epochs=10)
    pruner = PrunedClassifier(net, memory=memory, random_state=0)
    grid = {"prunedclassifier__sparsity": [0.5, 0.8, 0.9, 0.95]}
    return GridSearchCV(make_pipeline(StandardScaler(), pruner), grid, cv=3)


def main():
    """Search on the cluster and here, print both."""
    X, y = load_digits(return_X_y=True)
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": ":0"}
    with (
        tempfile.TemporaryDirectory() as folder,
        LocalCluster(**options) as cluster,
        Client(cluster),
    ):
        start = time.perf_counter()
        with joblib.parallel_config("dask"):
            there = make_search(folder).fit(X, y)
        seconds = time.perf_counter() - start
        n_stored = len(list(Path(folder).rglob("output.pkl")))
    here = make_search(None).fit(X, y)
    scores = there.cv_results_["mean_test_score"]
    same = np.array_equal(scores, here.cv_results_["mean_test_score"])
    for row, score in zip(there.cv_results_["params"], scores, strict=True):
        print(f"sparsity {row['prunedclassifier__sparsity']:<4}  accuracy {score:.4f}")
    print(f"12 fits and a refit from {n_stored} dense phases, {seconds:.0f} s")
    print(f"The scores of one process are the same, bit for bit: {same}")


if __name__ == "__main__":
    main()
