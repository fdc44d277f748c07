"""Run a search on a Ray cluster, and get the scores of a search in one process.

Ray is started on this machine with two processors: ``ray.init("auto")`` finds a cluster
that is there, and nothing else changes. The dense phases are stored in a folder that
all workers see, so each fold trains one.

Run with ``python examples/search_ray.py`` after ``pip install ".[distributed]"``. Half
a minute.
"""

import os
import tempfile
import time
from pathlib import Path

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import joblib
import numpy as np
import ray
from ray.util.joblib import register_ray
from sklearn.datasets import load_breast_cancer
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
    X, y = load_breast_cancer(return_X_y=True)
    # With the workers' output on the driver, Ray puts another print in place of
    # Python's, and a skorch net that holds Python's print cannot be stored.
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    register_ray()
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        with joblib.parallel_config("ray", n_jobs=2):
            there = make_search(folder).fit(X, y)
        seconds = time.perf_counter() - start
        n_stored = len(list(Path(folder).rglob("output.pkl")))
    ray.shutdown()
    here = make_search(None).fit(X, y)
    scores = there.cv_results_["mean_test_score"]
    same = np.array_equal(scores, here.cv_results_["mean_test_score"])
    for row, score in zip(there.cv_results_["params"], scores, strict=True):
        print(f"sparsity {row['prunedclassifier__sparsity']:<4}  accuracy {score:.4f}")
    print(f"12 fits and a refit from {n_stored} dense phases, {seconds:.0f} s")
    print(f"The scores of one process are the same, bit for bit: {same}")


if __name__ == "__main__":
    main()
