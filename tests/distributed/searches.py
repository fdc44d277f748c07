"""Searches that are run here and elsewhere, and what they must have in common."""

import os
import signal
import uuid
from pathlib import Path

import numpy as np
import torch
from sklearn.model_selection import GridSearchCV
from skorch.callbacks import Callback

from sklearn_sparse_nn import PrunedClassifier, PrunedClassifierCV
from tests.memory.dense_phases import QUICK, bits
from tests.pruning.nets import own_net, small

LEVELS = [0.3, 0.6]
N_FOLDS = 3
NETS = {"tabular": small, "own": own_net}


class Signs(Callback):
    """Leaves a file for every training: its process, and the threads of that."""

    def __init__(self, folder):
        self.folder = folder

    def on_epoch_begin(self, net, **kwargs):
        if len(net.history) == 1:  # what was recalled begins with a later epoch
            name = f"{os.getpid()} {torch.get_num_threads()} {uuid.uuid4()}"
            Path(self.folder, name).touch()


class Kills(Callback):
    """Ends its process, once, in a pruning phase, when two dense phases are stored.

    That a file is there says that it is still to come.
    """

    def __init__(self, armed, store):
        self.armed, self.store = armed, store

    def on_epoch_begin(self, net, **kwargs):
        pruning = len(net.history) > net.max_epochs
        if pruning and len(list(Path(self.store).rglob("output.pkl"))) >= 2:
            try:
                os.unlink(self.armed)
            except FileNotFoundError:
                return
            os.kill(os.getpid(), signal.SIGKILL)


def trainings(folder):
    """Give process and threads of every training."""
    names = [path.name.split() for path in Path(folder).iterdir()]
    return [(int(process), int(n_threads)) for process, n_threads, _ in names]


def grid(signs, net=small, *, memory=None, levels=LEVELS, callbacks=(), **kwargs):
    """Make a search whose nets sign; not fitted."""
    Path(signs).mkdir(exist_ok=True)
    callbacks = [("signs", Signs(str(signs))), *callbacks]
    pruner = PrunedClassifier(net(callbacks=callbacks), **QUICK)
    pruner.set_params(memory=None if memory is None else str(memory))
    return GridSearchCV(pruner, {"sparsity": levels}, cv=N_FOLDS, **kwargs)


def by_path(signs, **kwargs):
    """Make a search along one path in every fold; not fitted."""
    pruner = grid(signs).estimator
    return PrunedClassifierCV(pruner, sparsities=LEVELS, cv=N_FOLDS, **kwargs)


def assert_equal(found, expected):
    """Hold scores, choice, and the net that is refitted, to the bit."""
    names = [name for name in expected.cv_results_ if "test_score" in name]
    assert len(names) == N_FOLDS + 3  # mean, standard deviation, rank
    for name in names:
        assert np.array_equal(found.cv_results_[name], expected.cv_results_[name])
    assert found.best_params_ == expected.best_params_
    best, expected_best = (getattr(s, "best_estimator_", s) for s in (found, expected))
    assert bits(best) == bits(expected_best)


def assert_trained_there(folder, *, n_there, n_here):
    """Hold where nets were trained; give the processes of two workers of one thread."""
    here = [process for process, _ in trainings(folder) if process == os.getpid()]
    there = [found for found in trainings(folder) if found[0] != os.getpid()]
    assert (len(there), len(here)) == (n_there, n_here)
    assert {n_threads for _, n_threads in there} == {1}
    workers = {process for process, _ in there}
    assert 1 <= len(workers) <= 2
    return workers
