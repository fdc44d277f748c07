"""The estimator as it stands, as callbacks get it after an epoch."""

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

from sklearn_sparse_nn import (
    PrunedClassifierCV,
    PrunedRegressor,
    TabularNetRegressor,
)
from sklearn_sparse_nn.pruning.run import PruningRun
from tests.pruning.nets import Tied, own_net, small
from tests.pruning.progress.recorders import (
    PHASES,
    QUICK,
    Recorder,
    bits,
    path_of,
    pruner,
    told,
)


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

    monkeypatch.setattr(PruningRun, "fitted_so_far", refuse)
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
