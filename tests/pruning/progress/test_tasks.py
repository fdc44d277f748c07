"""The tasks of a fit that callbacks are told of, and what they leave behind."""

import os
import pickle
import signal

import pytest
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skorch.callbacks import Callback

from sklearn_sparse_nn import (
    PrunedClassifierCV,
)
from sklearn_sparse_nn.exceptions import DivergedTrainingError
from tests.pruning.nets import own_net, small
from tests.pruning.progress.recorders import (
    PHASES,
    Recorder,
    bits,
    left_behind,
    pruner,
    told,
)


class Passed(Recorder):
    """Is handed down to what is inside."""

    max_propagation_depth = None


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
