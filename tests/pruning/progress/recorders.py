"""Callbacks that record the tasks of a fit, and pruners to fit under them."""

import importlib.util
from pathlib import Path

import pytest

from sklearn_sparse_nn import (
    PrunedClassifier,
)
from tests.pruning.nets import small

ROOT = Path(__file__).parents[3]
QUICK = {
    "sparsity": 0.6,
    "prune_epochs": 2,
    "finetune_epochs": 2,
    "n_steps": 2,
    "random_state": 0,
}
PHASES = ["dense", "prune", "finetune"]
STATE = ("_callback_fit_ctx", "_skl_callbacks_to_teardown", "_parent_callback_ctx")
told = pytest.mark.skipif(
    importlib.util.find_spec("sklearn.callback") is None,
    reason="scikit-learn has no callbacks before 1.9",
)


def pruner(net=None, **options):
    return PrunedClassifier(small() if net is None else net, **QUICK | options)


def path_of(context):
    path = [context.task_name]
    while context.parent is not None:
        context = context.parent
        path.insert(0, context.task_name)
    return tuple(path)


class Recorder:
    """Writes down what it is told; may ask for a stop at the end of a task."""

    def __init__(self, stop_at=None, fail_at=None):
        self.events, self.sizes, self.ids, self.stop_at = [], {}, {}, stop_at
        self.fail_at = fail_at

    def _hear(self, event, context):
        path = path_of(context)
        self.events.append((event, path))
        self.sizes[path] = context.max_subtasks
        self.ids.setdefault((event, path), []).append(context.task_id)
        if self.fail_at == (event, path):
            raise RuntimeError("a callback that fails")

    def setup(self, estimator, context):
        self._hear("setup", context)

    def on_fit_task_begin(self, estimator, context):
        self._hear("begin", context)

    def on_fit_task_end(self, estimator, context):
        self._hear("end", context)
        return path_of(context)[-2:] == self.stop_at

    def teardown(self, estimator, context):
        self._hear("teardown", context)

    def count(self, event, *path):
        return self.events.count((event, path))

    def epochs(self, phase):
        ids = self.ids.get(("end", ("fit", phase, "epoch")), [])
        assert ids == list(range(len(ids)))
        return len(ids)


def bits(fitted):
    """Give all that a fit decides, to the bit."""
    state = fitted.net_.module_.state_dict()
    history = [{k: v for k, v in row.items() if k != "dur"} for row in fitted.history_]
    masks = {k: v.tobytes() for k, v in fitted.masks_.items()}
    return {k: v.numpy().tobytes() for k, v in state.items()}, masks, repr(history)


def left_behind(estimator):
    return [name for name in (*STATE, "_given") if name in vars(estimator)]
