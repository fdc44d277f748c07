"""How far a fit has come: what callbacks are told, what is printed, what is kept."""

import importlib.util
import os
import pickle
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skorch.callbacks import Callback

from sklearn_sparse_nn import (
    PrunedClassifier,
    PrunedClassifierCV,
    PrunedRegressor,
    TabularNetClassifier,
    TabularNetRegressor,
)
from sklearn_sparse_nn.exceptions import DivergedTrainingError
from sklearn_sparse_nn.pruning import base as pruning_base
from tests.pruning.nets import Tied, own_net, small

ROOT = Path(__file__).parents[2]
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
drawn = pytest.mark.skipif(
    importlib.util.find_spec("sklearn.callback") is None
    or importlib.util.find_spec("rich") is None,
    reason="needs scikit-learn 1.9 and rich",
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


class Passed(Recorder):
    """Is handed down to what is inside."""

    max_propagation_depth = None


class Looker(Recorder):
    """Predicts with the estimator as it stands, wherever it is given one."""

    def __init__(self, X, y):
        super().__init__()
        self.X, self.y, self.seen = X, y, []

    def on_fit_task_end(self, estimator, context, *, X, y, fitted_estimator):
        assert X is self.X and y is self.y
        proba = fitted_estimator.predict_proba(X)
        np.random.rand(3), torch.rand(3)  # noqa: NPY002
        score = fitted_estimator.score(X, y)
        self.seen.append((path_of(context)[1:], proba, score, fitted_estimator))


def balanced(events):
    """Tell whether every task ends before what it is part of does."""
    open_tasks = []
    for event, path in events:
        if event == "begin":
            open_tasks.append(path)
            assert [p[: len(path) - 1] for p in open_tasks[-2:-1]] in ([], [path[:-1]])
        elif event == "end" and open_tasks.pop() != path:
            return False
    return not open_tasks


def bits(fitted):
    """Give all that a fit decides, to the bit."""
    state = fitted.net_.module_.state_dict()
    history = [{k: v for k, v in row.items() if k != "dur"} for row in fitted.history_]
    masks = {k: v.tobytes() for k, v in fitted.masks_.items()}
    return {k: v.numpy().tobytes() for k, v in state.items()}, masks, repr(history)


def left_behind(estimator):
    return [name for name in (*STATE, "_given") if name in vars(estimator)]


# What callbacks are told


@told
def test_a_fit_is_a_tree_of_phases_and_epochs(classes):
    heard = Recorder()
    fitted = pruner().set_callbacks(heard).fit(*classes)
    epoch = [("begin", "epoch"), ("end", "epoch")]
    expected = [("setup", "fit"), ("begin", "fit")]
    for phase, n in zip(PHASES, (3, 2, 2), strict=True):
        expected += [("begin", phase), *n * epoch, ("end", phase)]
    expected += [("end", "fit"), ("teardown", "fit")]
    assert [(event, path[-1]) for event, path in heard.events] == expected
    assert balanced(heard.events)
    assert heard.sizes == {
        ("fit",): 3,
        ("fit", "dense"): 3,
        ("fit", "prune"): 2,
        ("fit", "finetune"): 2,
        **{("fit", phase, "epoch"): 0 for phase in PHASES},
    }
    assert [heard.ids["end", ("fit", phase)] for phase in PHASES] == [[0], [1], [2]]
    assert [heard.epochs(phase) for phase in PHASES] == [3, 2, 2]
    assert not left_behind(fitted)


FITS = {
    "sparsity 0": (lambda X, y: pruner(sparsity=0.0), (3, 2, 2), (3, 2, 2)),
    "no dense phase": (lambda X, y: pruner(dense_epochs=0), (0, 2, 2), (0, 2, 2)),
    "no fine-tuning": (lambda X, y: pruner(finetune_epochs=0), (3, 2, 0), (3, 2, 0)),
    "one shot": (lambda X, y: pruner(prune_epochs=0), (3, 0, 2), (3, 0, 2)),
    "frozen": (
        lambda X, y: pruner(FrozenEstimator(small().fit(X, y))),
        (0, 2, 2),
        (0, 2, 2),
    ),
    "early stopping": (
        # Nothing gets better: the first epoch, and as many as the patience.
        lambda X, y: pruner(
            small(early_stopping=True, patience=2, lr=1e-9, max_epochs=9),
            finetune_epochs=7,
        ),
        (9, 2, 7),
        (3, 2, 3),
    ),
    "early stopping, sparsity 0": (
        lambda X, y: pruner(
            small(early_stopping=True, patience=2, lr=1e-9, max_epochs=9),
            sparsity=0.0,
        ),
        (9, 0, 0),
        (3, 0, 0),
    ),
    "own net": (lambda X, y: pruner(own_net(max_epochs=3)), (3, 2, 2), (3, 2, 2)),
}


@told
@pytest.mark.parametrize(("make", "sizes", "epochs"), FITS.values(), ids=FITS)
def test_every_kind_of_fit_has_the_three_phases(classes, make, sizes, epochs):
    heard = Recorder()
    fitted = make(*classes).set_callbacks(heard).fit(*classes)
    assert balanced(heard.events)
    assert [heard.count("end", "fit", phase) for phase in PHASES] == [1, 1, 1]
    assert tuple(heard.sizes["fit", phase] for phase in PHASES) == sizes
    assert tuple(heard.epochs(phase) for phase in PHASES) == epochs
    assert len(fitted.history_) == sum(epochs)


@told
def test_a_recalled_dense_phase_is_a_task_without_epochs(classes, tmp_path):
    heard = Recorder()
    estimator = pruner(memory=str(tmp_path)).set_callbacks(heard)
    expected = bits(estimator.fit(*classes))
    assert heard.epochs("dense") == 3
    heard.__init__()
    assert bits(estimator.fit(*classes)) == expected
    assert [heard.epochs(phase) for phase in PHASES] == [0, 2, 2]
    assert heard.sizes["fit", "dense"] == 0
    assert balanced(heard.events)


@told
def test_inside_others_the_tasks_are_part_of_theirs(classes):
    heard = Passed()
    search = GridSearchCV(
        make_pipeline(StandardScaler(), pruner()),
        {"prunedclassifier__sparsity": [0.5, 0.8]},
        cv=2,
    )
    search.set_callbacks(heard).fit(*classes)
    phase_ends = [p for event, p in heard.events if event == "end" and p[-1] in PHASES]
    assert len(phase_ends) == 3 * (2 * 2 + 1)
    assert balanced(heard.events)
    assert {len(path) for path in phase_ends} == {4, 5}  # refit, and the candidates
    for estimator in (search, search.best_estimator_, search.best_estimator_[-1]):
        assert not left_behind(estimator)
    assert not hasattr(search.best_estimator_[-1], "_skl_callbacks")


@told
def test_a_path_has_a_task_for_every_fold_and_level(classes):
    heard, inside = Passed(), Recorder()
    inner = pruner().set_callbacks(inside)
    search = PrunedClassifierCV(inner, sparsities=[0.5, 0.8], cv=2, random_state=0)
    search.set_callbacks(heard).fit(*classes)
    n_levels = len(search.path_.sparsities)
    assert balanced(heard.events)
    assert heard.count("end", "fit", "folds", "fold") == 2
    assert heard.count("end", "fit", "refit") == 1
    for path, n in ((("folds", "fold"), 2), (("refit",), 1)):
        # A pruner's fit is the level's own task.
        assert heard.count("end", "fit", *path, "fit") == n * (
            1 + (2 if n == 2 else n_levels)
        )
    assert heard.count("setup", "fit") == heard.count("teardown", "fit") == 1
    # What was set on the pruner hears its fits, and does not become the search's own.
    n_fits = 2 * 3 + 1 + n_levels
    assert sum(event == "setup" for event, _ in inside.events) == n_fits
    assert search._skl_callbacks == [heard]
    assert not left_behind(search)
    assert not left_behind(inner)


# The estimator as it stands


def draws_globally(weight):
    """An importance as somebody might write it."""
    return weight.abs() + 1e-3 * torch.rand_like(weight)


LOOKED_AT = {
    "plain": lambda: pruner(),
    "dropout and norm": lambda: pruner(small(dropout=0.3, norm="batch")),
    "own": lambda: pruner(own_net(max_epochs=3)),
    "own, rows by torch": lambda: pruner(
        own_net(max_epochs=3, iterator_valid=torch.utils.data.DataLoader)
    ),
    "tied": lambda: pruner(own_net(Tied, max_epochs=3)),
    "early stopping": lambda: pruner(small(early_stopping=True, max_epochs=4)),
    "movement": lambda: pruner(importance="movement", rewind="weights"),
    "draws": lambda: pruner(importance=draws_globally),
    "distill": lambda: pruner(distill=0.5),
    "l0": lambda: pruner(penalty="l0"),
    "regrow": lambda: pruner(regrow="gradient", dense_epochs=0),
    "dense": lambda: pruner(sparsity=0.0),
}


@told
@pytest.mark.parametrize("make", LOOKED_AT.values(), ids=LOOKED_AT)
def test_looking_changes_no_bit(classes, make):
    expected = bits(make().fit(*classes))
    looker = Looker(*classes)
    fitted = make().set_callbacks(looker).fit(*classes)
    assert bits(fitted) == expected
    path, proba, score, last = looker.seen[-1]
    assert path == ()
    assert np.array_equal(proba, fitted.predict_proba(classes[0]))
    assert score == fitted.score(*classes)
    assert bits(last) == expected
    assert len(looker.seen) == len(fitted.history_) + 4


@told
def test_looking_is_as_if_training_stopped_there(classes):
    X, y = classes
    looker = Looker(X, y)
    pruner().set_callbacks(looker).fit(X, y)
    seen = {}
    for path, proba, _, fitted in looker.seen:
        seen.setdefault(path, []).append((proba, fitted))
    for n, (proba, fitted) in enumerate(seen["dense", "epoch"], start=1):
        dense = small(max_epochs=n, random_state=0).fit(X, y)
        np.testing.assert_allclose(proba, dense.predict_proba(X), rtol=1e-5, atol=1e-6)
        assert fitted.sparsity_ == 0.0
        assert len(fitted.history_) == n
    for n, (proba, _) in enumerate(seen["finetune", "epoch"], start=1):
        stopped = pruner(finetune_epochs=n).fit(X, y)
        assert np.array_equal(proba, stopped.predict_proba(X))
    ((_, pruned),) = seen[("prune",)]
    whole = pruner(finetune_epochs=0).fit(X, y)
    assert bits(pruned) == bits(whole)
    assert pruned.report().equals(whole.report())
    # What was seen stays as it was seen.
    for _, proba, _, fitted in looker.seen:
        assert np.array_equal(fitted.predict_proba(X), proba)


@told
def test_looking_in_a_second_fit_shows_nothing_of_the_first(classes):
    X, y = classes
    looker = Looker(X, y)
    estimator = pruner(sparsity=0.9).fit(X, y).set_params(sparsity=0.0)
    estimator.set_callbacks(looker).fit(X, y)
    assert {fitted.sparsity_ for *_, fitted in looker.seen} == {0.0}


@told
def test_names_of_columns_and_labels_reach_callbacks_as_given(classes):
    pandas = pytest.importorskip("pandas")
    X = pandas.DataFrame(classes[0]).add_prefix("column ")
    y = np.array(["a", "b", "c"])[classes[1]]
    looker = Looker(X, y)
    fitted = pruner().set_callbacks(looker).fit(X, y)
    assert looker.seen[-1][2] == fitted.score(X, y)


@told
@pytest.mark.parametrize("kind", ["classifier", "regressor"])
def test_scoring_monitor_has_a_score_for_every_task(classes, values, kind):
    from sklearn.callback import ScoringMonitor
    from sklearn.metrics import accuracy_score, r2_score

    if kind == "classifier":
        estimator, (X, y), name, score = pruner(), classes, "accuracy", accuracy_score
    else:
        estimator = PrunedRegressor(TabularNetRegressor((16,), max_epochs=3), **QUICK)
        (X, y), name, score = values, "r2", r2_score
    monitor = ScoringMonitor(scoring=name)
    estimator.set_callbacks(monitor).fit(X, y)
    rows = {row["task_id_path"]: row for row in monitor.get_logs().data}
    assert len(rows) == 1 + 3 + 7
    assert [rows[0, k]["task_name"] for k in range(3)] == PHASES
    assert rows[(0,)][name] == rows[0, 2][name] == rows[0, 2, 1][name]
    assert rows[(0,)][name] == score(y, estimator.predict(X))
    stopped = clone(estimator).set_callbacks().set_params(finetune_epochs=1).fit(X, y)
    assert rows[0, 2, 0][name] == score(y, stopped.predict(X))
    assert all(np.isfinite(row[name]) for row in rows.values())


@told
def test_scoring_monitor_hears_of_a_search(classes):
    from sklearn.callback import ScoringMonitor

    monitor = ScoringMonitor(scoring="accuracy")
    inner = pruner().set_callbacks(monitor)
    search = GridSearchCV(inner, {"sparsity": [0.5]}, cv=2, n_jobs=2).fit(*classes)
    (row,) = [r for r in monitor.get_logs().data if r["task_id_path"] == (0, 1)]
    assert row["accuracy"] == search.score(*classes)
    monitor = ScoringMonitor(scoring="accuracy")
    chosen = PrunedClassifierCV(pruner(), sparsities=[0.5], cv=2)
    chosen.set_callbacks(monitor).fit(*classes)
    (row,) = monitor.get_logs().data
    assert row["accuracy"] == chosen.score(*classes)


@told
def test_nobody_copies_a_net_unasked(classes, monkeypatch):
    def refuse(*args):
        raise AssertionError("a net was copied, and nobody asked")

    monkeypatch.setattr(pruning_base, "_so_far", refuse)
    pruner().fit(*classes)
    heard = Recorder()
    pruner().set_callbacks(heard).fit(*classes)
    assert heard.epochs("finetune") == 2
    with pytest.raises(AssertionError, match="nobody asked"):
        pruner().set_callbacks(Looker(*classes)).fit(*classes)


@told
def test_without_callbacks_no_task_is_made(classes, monkeypatch):
    from sklearn.callback import CallbackContext

    def refuse(*args, **kwargs):
        raise AssertionError("a task for nobody")

    monkeypatch.setattr(CallbackContext, "subcontext", refuse)
    pruner().fit(*classes)
    with pytest.raises(AssertionError, match="a task for nobody"):
        pruner().set_callbacks(Recorder()).fit(*classes)


# Stopping


@told
@pytest.mark.parametrize("phase", PHASES)
def test_a_callback_stops_a_phase_but_not_the_pruning(classes, phase):
    heard = Recorder(stop_at=(phase, "epoch"))
    fitted = pruner().set_callbacks(heard).fit(*classes)
    expected = {"dense": [1, 2, 2], "prune": [3, 2, 2], "finetune": [3, 2, 1]}
    assert [heard.epochs(name) for name in PHASES] == expected[phase]
    assert balanced(heard.events)
    assert fitted.sparsity_ == pruner().fit(*classes).sparsity_ != 0.0
    assert len(fitted.history_) == sum(expected[phase])


@told
def test_a_callback_stops_a_fit_that_prunes_nothing(classes):
    heard = Recorder(stop_at=("dense", "epoch"))
    pruner(sparsity=0.0).set_callbacks(heard).fit(*classes)
    assert [heard.epochs(name) for name in PHASES] == [1, 0, 0]
    assert balanced(heard.events)


@told
def test_a_dense_phase_that_was_cut_short_is_not_shared(classes, tmp_path):
    plain = bits(pruner().fit(*classes))
    estimator = pruner(memory=str(tmp_path))
    estimator.set_callbacks(Recorder(stop_at=("dense", "epoch"))).fit(*classes)
    assert bits(estimator) != plain
    assert bits(estimator.set_callbacks().fit(*classes)) == plain
    assert len(list(tmp_path.rglob("output.pkl"))) == 1


# What is left behind


@told
def test_callbacks_outlive_clones(classes):
    heard = Recorder()
    copy = clone(pruner().set_callbacks(heard))
    copy.fit(*classes)
    assert heard.count("end", "fit") == 1
    assert copy._skl_callbacks == [heard]


@told
def test_a_fitted_pruner_is_pickled_with_its_callbacks(classes):
    estimator = pruner().set_callbacks(Recorder()).fit(*classes)
    again = pickle.loads(pickle.dumps(estimator))
    assert bits(again) == bits(estimator)
    assert again._skl_callbacks[0].events == estimator._skl_callbacks[0].events
    again.fit(*classes)
    assert again._skl_callbacks[0].count("teardown", "fit") == 2


class Interrupts(Callback):
    def on_epoch_end(self, net, **kwargs):
        os.kill(os.getpid(), signal.SIGINT)


FAILURES = {
    "bad parameter": (ValueError, {"sparsity": 3.0}, None),
    "diverged": (DivergedTrainingError, {"estimator": small(lr=1e30)}, None),
    "setup": (RuntimeError, {}, ("setup", ("fit",))),
    "begin": (RuntimeError, {}, ("begin", ("fit",))),
    "epoch": (RuntimeError, {}, ("end", ("fit", "dense", "epoch"))),
    "phase": (RuntimeError, {}, ("begin", ("fit", "prune"))),
    "last phase": (RuntimeError, {}, ("end", ("fit", "finetune"))),
    "last of all": (RuntimeError, {}, ("end", ("fit",))),
}
if os.name == "posix":
    net = small(callbacks=[("interrupts", Interrupts())])
    FAILURES["Ctrl-C"] = (KeyboardInterrupt, {"estimator": net}, None)


@told
@pytest.mark.parametrize(
    ("error", "changes", "fail_at"), FAILURES.values(), ids=FAILURES
)
def test_a_failed_fit_is_torn_down_and_leaves_the_one_before(
    classes, error, changes, fail_at
):
    estimator = pruner(sparsity=0.3).fit(*classes)
    before, names = bits(estimator), set(vars(estimator))
    heard = Recorder(fail_at=fail_at)
    estimator.set_params(**{"sparsity": 0.6} | changes).set_callbacks(heard)
    with pytest.raises(error):
        estimator.fit(*classes)
    assert bits(estimator) == before
    assert not left_behind(estimator)
    assert set(vars(estimator)) == names | {"_skl_callbacks"}
    assert estimator.predict(classes[0]).shape == (120,)
    started = "setup", "teardown"
    assert [heard.count(event, "fit") for event in started] == [1, 1]
    assert heard.events[-1] == ("teardown", ("fit",))


@told
def test_a_failed_search_is_torn_down(classes):
    search = PrunedClassifierCV(pruner(), sparsities=[0.5], cv=2).fit(*classes)
    before = bits(search)
    for error, changes, fail_at in (
        (DivergedTrainingError, {"estimator": small(lr=1e30)}, None),
        (RuntimeError, {}, ("end", ("fit", "refit"))),
        (RuntimeError, {}, ("end", ("fit",))),
    ):
        heard = Passed(fail_at=fail_at)
        search.set_params(**{"sparsities": [0.3]} | changes).set_callbacks(heard)
        with pytest.raises(error):
            search.fit(*classes)
        assert heard.count("teardown", "fit") == 1
        assert bits(search) == before
        assert not left_behind(search)
        search.set_params(estimator=pruner())


# scikit-learn's progress bar


def bars(text):
    """Give the names of the bars, their depth, and what they show."""
    found = []
    for line in text.splitlines():
        if match := re.match(r"( *)(\S.*?) +━+ *(\d+)%", line):
            found.append((len(match[1]) // 2, match[2], match[3]))
    return found


def phases(depth):
    return [(depth, f"PrunedClassifier - {p} #{i}") for i, p in enumerate(PHASES)]


@pytest.fixture
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")


@drawn
def test_a_bar_for_every_phase(classes, capsys, wide):
    from sklearn.callback import ProgressBar

    pruner().set_callbacks(ProgressBar()).fit(*classes)
    found = bars(capsys.readouterr().out)
    assert [bar[:2] for bar in found] == [(0, "PrunedClassifier - fit"), *phases(1)]
    assert {bar[2] for bar in found} == {"100"}


@drawn
def test_a_phase_without_epochs_has_no_bar(classes, capsys, wide):
    from sklearn.callback import ProgressBar

    pruner(dense_epochs=0).set_callbacks(ProgressBar()).fit(*classes)
    found = bars(capsys.readouterr().out)
    expected = [(0, "PrunedClassifier - fit"), *phases(1)[1:]]
    assert found == [(*bar, "100") for bar in expected]


@drawn
def test_bars_in_a_pipeline(classes, capsys, wide):
    from sklearn.callback import ProgressBar

    pipe = make_pipeline(StandardScaler(), pruner())
    pipe.set_callbacks(ProgressBar()).fit(*classes)
    found = bars(capsys.readouterr().out)
    assert [bar[:2] for bar in found] == [
        (0, "Pipeline - fit"),
        (1, "Pipeline - fit-transform-standardscaler | StandardScaler - fit #0"),
        (1, "Pipeline - fit-final-estimator | PrunedClassifier - fit #1"),
        *phases(2),
    ]
    assert {bar[2] for bar in found} == {"100"}


@drawn
@pytest.mark.parametrize("n_jobs", [1, 2])
def test_bars_in_a_grid_search(classes, capsys, wide, n_jobs, tmp_path):
    from sklearn.callback import ProgressBar

    search = GridSearchCV(
        make_pipeline(pruner(memory=str(tmp_path))),
        {"prunedclassifier__sparsity": [0.5, 0.8]},
        cv=2,
        n_jobs=n_jobs,
    )
    plain = clone(search).fit(*classes)
    capsys.readouterr()
    for path in tmp_path.rglob("output.pkl"):
        path.unlink()
    search.set_callbacks(ProgressBar(max_propagation_depth=None)).fit(*classes)
    found = bars(capsys.readouterr().out)
    names = [name for _, name, _ in found]
    assert names[0] == "GridSearchCV - fit"
    # In every fit of a search that takes turns; the dense phase in one of a fold's two.
    assert names.count("PrunedClassifier - prune #1") == 5
    assert names.count("PrunedClassifier - finetune #2") == 5
    if n_jobs == 1:
        assert names.count("PrunedClassifier - dense #0") == 3
    assert {bar[2] for bar in found} == {"100"}
    keys = "mean_test_score", "std_test_score"
    for key in keys:
        assert np.array_equal(plain.cv_results_[key], search.cv_results_[key])


@drawn
@pytest.mark.parametrize("n_jobs", [1, 2])
def test_bars_down_a_path(classes, capsys, wide, n_jobs):
    from sklearn.callback import ProgressBar

    search = PrunedClassifierCV(
        pruner(), sparsities=[0.5, 0.8], cv=2, n_jobs=n_jobs, random_state=0
    )
    plain = clone(search).fit(*classes)
    capsys.readouterr()
    search.set_callbacks(ProgressBar()).fit(*classes)
    found = bars(capsys.readouterr().out)
    name = "PrunedClassifierCV"
    n_levels = len(search.path_.sparsities)
    assert [bar[:2] for bar in found if bar[0] < 2] == [
        (0, f"{name} - fit"),
        (1, f"{name} - folds #0"),
        (1, f"{name} - refit #1"),
    ]
    levels = ["dense", "sparsity 0.5", "sparsity 0.8"]
    fits = [
        f"{name} - {level} | PrunedClassifier - fit #{i}"
        for i, level in enumerate(levels)
    ]
    by_name = [bar[1] for bar in found]
    assert sorted(n for d, n, _ in found if d == 2 and "fold" in n) == [
        f"{name} - fold #0",
        f"{name} - fold #1",
    ]
    for i, fit in enumerate(fits):
        assert by_name.count(fit) == 2 + (i <= n_levels)
    assert {bar[2] for bar in found} == {"100"}
    assert bits(search) == bits(plain)


@drawn
def test_bars_through_a_search_in_a_search(classes, capsys, wide):
    from sklearn.callback import ProgressBar

    inner = PrunedClassifierCV(pruner(), sparsities=[0.5], cv=2)
    search = GridSearchCV(
        make_pipeline(inner), {"prunedclassifiercv__select": ["best"]}, cv=2
    )
    search.set_callbacks(ProgressBar(max_propagation_depth=None)).fit(*classes)
    found = bars(capsys.readouterr().out)
    names = [bar[1] for bar in found]
    assert names.count("PrunedClassifier - prune #1") == 3 * (2 * 1 + 1)
    assert {bar[2] for bar in found} == {"100"}


@drawn
def test_a_bar_belongs_to_the_outermost(classes):
    from sklearn.callback import ProgressBar

    inner = pruner().set_callbacks(ProgressBar())
    search = PrunedClassifierCV(inner, sparsities=[0.5], cv=2)
    with pytest.raises(TypeError, match="Register them directly on the meta-estim"):
        search.fit(*classes)
    assert not left_behind(search)


@drawn
def test_the_examples_of_the_page_run(capsys, wide):
    page = (ROOT / "docs" / "progress.md").read_text()
    names = {}
    for code in re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL):
        exec(code, names)
    drawn = bars(capsys.readouterr().out)
    shown = re.search(r"```\n(GridSearchCV.*?)    \.\.\.\n```", page, re.DOTALL)[1]
    assert len(drawn) > 8 == len(bars(shown))
    assert drawn[:8] == bars(shown)
    phases = [row["phase"] for row in names["pruner"].history_]
    assert phases.count("prune") == 3
    assert 0 < phases.count("dense") < 50
    assert 0 < phases.count("finetune") < 50
    assert names["pruner"].score(names["X_val"], names["y_val"]) >= 0.95


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
        from tests.pruning.test_progress import *
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
