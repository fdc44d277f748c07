"""The path from dense to sparse, level by level."""

import threading
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, log_loss
from sklearn.pipeline import make_pipeline
from skorch.callbacks import Callback
from torch import nn

from sklearn_sparse_nn import (
    PrunedClassifier,
    PrunedRegressor,
    TabularNetRegressor,
    pruning_path,
)
from sklearn_sparse_nn._compat import InvalidParameterError
from sklearn_sparse_nn.core.budget import n_pruned
from sklearn_sparse_nn.parts import Rewind
from sklearn_sparse_nn.search.path import check_levels
from tests.memory.conftest import trained  # noqa: F401
from tests.memory.dense_phases import bits, outputs
from tests.pruning.nets import own_net, small, zeros_of

QUICK = {"n_steps": 2, "prune_epochs": 2, "finetune_epochs": 1, "random_state": 0}
LEVELS = [0.3, 0.5, 0.6]
SIZE = 8 * 16 + 16 * 12 + 12 * 3


@pytest.fixture(scope="module")
def path(classes):
    pruner = PrunedClassifier(small(), **QUICK)
    return pruning_path(
        pruner,
        *classes,
        sparsities=LEVELS,
        X_val=classes[0][:50],
        y_val=classes[1][:50],
    )


def test_every_level_has_the_exact_count(path):
    for level, model, n in zip(LEVELS, path.models, path.n_nonzero, strict=True):
        assert sum(zeros_of(model).values()) == n_pruned(level, SIZE) == SIZE - n
    assert path.sparsity.tolist() == [m.sparsity_ for m in path.models]
    assert path.sparsities == LEVELS


def test_what_was_zero_stays_zero(path):
    for before, after in zip(path.models, path.models[1:], strict=False):
        for name, mask in after.masks_.items():
            assert not (mask & ~before.masks_[name]).any()


def test_the_dense_net_is_the_dense_phase_alone(classes, path):
    alone = PrunedClassifier(
        small(), **QUICK | {"sparsity": 0.0, "prune_epochs": 0, "finetune_epochs": 0}
    ).fit(*classes)
    assert bits(alone) == bits(path.dense)
    assert path.dense.sparsity_ == 0


def test_a_level_is_a_fit_from_the_level_before(classes, path):
    before = path.dense
    for level, model in zip(LEVELS, path.models, strict=True):
        by_hand = PrunedClassifier(FrozenEstimator(before), sparsity=level, **QUICK)
        assert bits(by_hand.fit(*classes)) == bits(model)
        before = model


def test_models_have_the_parameters_that_were_asked_for(path):
    for level, model in zip(LEVELS, path.models, strict=True):
        expected = PrunedClassifier(small(), **QUICK).set_params(sparsity=level)
        assert repr(model) == repr(expected)
        assert model.dense_epochs is None


@pytest.mark.parametrize("make", [small, own_net])
@pytest.mark.parametrize(
    "options", [{}, {"rewind": "weights"}, {"importance": "movement"}]
)
def test_from_the_dense_net_every_level_is_a_fit_of_its_own(
    classes,
    trained,  # noqa: F811
    make,
    options,
):
    pruner = PrunedClassifier(make(), **QUICK | options)
    path = pruning_path(pruner, *classes, sparsities=LEVELS, start="dense")
    assert [n for n in trained if n] == [3]  # one dense phase for all
    for level, model in zip(LEVELS, path.models, strict=True):
        alone = clone(pruner).set_params(sparsity=level).fit(*classes)
        assert bits(model) == bits(alone)
        rows = zip(model.history_, alone.history_, strict=True)
        assert all(a["train_loss"] == b["train_loss"] for a, b in rows)
        assert repr(model) == repr(alone)
    assert path.dense.memory is None
    alone = clone(pruner).set_params(
        sparsity=0.0, rewind=None, prune_epochs=0, finetune_epochs=0
    )
    assert bits(path.dense) == bits(alone.fit(*classes))


def test_from_the_dense_net_with_a_store_of_ones_own(classes, tmp_path, trained):  # noqa: F811
    pruner = PrunedClassifier(small(), memory=str(tmp_path), **QUICK)
    pruner.fit(*classes)
    path = pruning_path(pruner, *classes, sparsities=LEVELS, start="dense")
    assert [n for n in trained if n] == [3]
    assert len(outputs(tmp_path)) == 1
    assert {model.memory for model in (path.dense, *path.models)} == {str(tmp_path)}


@pytest.mark.parametrize("start", ["previous", "dense"])
@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"regrow": "set"}, "Unknown regrow 'set'"),
        ({"allocation": "erkk"}, "Unknown allocation 'erkk'"),
        ({"allocation": 3}, "'allocation' parameter"),
        ({"penalty": "l1", "schedule": "constant"}, "do not go together"),
        ({"regrow": "random", "prune_epochs": 0}, "do not go together"),
        ({"n_steps": 1000}, "pruning events do not fit in"),
        ({"rewind": Rewind(epoch=9)}, "do not go together"),
        ({"prune_epochs": True}, "'prune_epochs' parameter"),
    ],
)
def test_what_levels_cannot_do_is_refused_before_the_dense_net_is_trained(
    classes,
    trained,  # noqa: F811
    options,
    match,
    start,
):
    pruner = PrunedClassifier(small(), **QUICK | options)
    with pytest.raises(ValueError, match=match):
        pruning_path(pruner, *classes, sparsities=LEVELS, start=start)
    assert trained == []


def local_net():
    class Local(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(8, 16), nn.Linear(16, 3)

        def forward(self, X):
            return self.two(torch.relu(self.one(X)))

    return own_net(Local)


@pytest.mark.parametrize("memory", [None, "/proc/no/such/folder"])
def test_from_the_dense_net_it_is_trained_once_without_a_store_of_ones_own(
    classes,
    trained,  # noqa: F811
    memory,
    capsys,
):
    pruner = PrunedClassifier(local_net(), memory=memory, verbose=1, **QUICK)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pruning_path(pruner, *classes, sparsities=LEVELS, start="dense")
    assert len(caught) == (memory is not None)
    assert len([n for n in trained if n]) == 1
    printed = capsys.readouterr().out
    assert printed.count("from the path") == len(LEVELS)
    assert "memory" not in printed


def test_a_net_that_cannot_be_copied_is_warned_of_once(classes, trained):  # noqa: F811
    class Locks(Callback):
        def on_train_begin(self, net, **kwargs):
            self.lock = threading.Lock()

    pruner = PrunedClassifier(small(callbacks=[Locks()]), **QUICK)
    with pytest.warns(UserWarning, match="dense net cannot be copied") as caught:
        path = pruning_path(pruner, *classes, sparsities=LEVELS, start="dense")
    assert len(caught) == 1
    assert len([n for n in trained if n]) == 1 + len(LEVELS)
    alone = clone(pruner).set_params(sparsity=LEVELS[1]).fit(*classes)
    assert bits(path.models[1]) == bits(alone)


def test_validation_rows_and_hooks_are_looked_at_first(classes, trained):  # noqa: F811
    X, y = classes
    for given, match in (
        ({"X_val": X[:, :5], "y_val": y}, "X_val has 5 features, but X has 8"),
        ({"X_val": X, "y_val": y[:9]}, "inconsistent numbers of samples"),
        ({"on_level": "print"}, "on_level must be a function or None. Got 'print'"),
        ({"scoring": "nonsense"}, "nonsense"),
    ):
        with pytest.raises((TypeError, ValueError), match=match):
            pruning_path(small(), X, y, **given)
    assert trained == []


def test_a_rewind_to_an_epoch_needs_the_dense_net(classes, trained):  # noqa: F811
    pruner = PrunedClassifier(small(), **QUICK | {"rewind": Rewind(epoch=1)})
    with pytest.raises(ValueError, match="Use start='dense', or rewind='weights'"):
        pruning_path(pruner, *classes, sparsities=LEVELS)
    assert trained == []
    path = pruning_path(pruner, *classes, sparsities=LEVELS, start="dense")
    assert path.sparsities == LEVELS


def test_an_unknown_start(classes):
    with pytest.raises(InvalidParameterError, match=r"'start' parameter .* Got 'warm'"):
        pruning_path(small(), *classes, start="warm")


def test_scores_are_those_of_the_models(classes, path):
    X, y = classes[0][:50], classes[1][:50]
    found = [accuracy_score(y, model.predict(X)) for model in path.models]
    assert path.scores.tolist() == found
    assert path.dense_score == accuracy_score(y, path.dense.predict(X))
    assert path.fit_time.shape == (3,)
    assert (path.fit_time > 0).all()


def test_several_scores(classes):
    X, y = classes
    path = pruning_path(
        PrunedClassifier(small(), **QUICK), X, y, sparsities=LEVELS[:2], X_val=X,
        y_val=y, scoring=["accuracy", "neg_log_loss"],
    )  # fmt: skip
    for model, score in zip(path.models, path.scores["neg_log_loss"], strict=True):
        proba = model.predict_proba(X).astype(np.float64)
        proba /= proba.sum(axis=1, keepdims=True)
        assert score == pytest.approx(-log_loss(y, proba), rel=1e-5)
    assert set(path.dense_score) == {"accuracy", "neg_log_loss"}


def test_without_validation_rows_there_are_no_scores(classes):
    path = pruning_path(PrunedClassifier(small(), **QUICK), *classes, sparsities=[0.5])
    assert path.scores is None
    assert path.dense_score is None


def test_the_default_levels():
    levels = check_levels(None)
    assert len(levels) == 10
    assert levels[0] == 0.5
    assert levels[-1] == 0.995
    ratios = np.diff(np.log(1 - np.array(levels)))
    assert np.allclose(ratios, ratios[0], atol=2e-2)


def test_levels_are_sorted_from_dense_to_sparse_and_taken_once(classes):
    seen = []
    path = pruning_path(
        PrunedClassifier(small(), **QUICK),
        *classes,
        sparsities=np.array([0.6, 0.3, 0.6]),
        on_level=lambda level, model, score: seen.append((level, score)),
    )
    assert path.sparsities == [0.3, 0.6]
    assert seen == [(0.0, None), (0.3, None), (0.6, None)]


def test_levels_as_numbers_of_non_zeros(classes):
    pruner = PrunedClassifier(small(), **QUICK)
    path = pruning_path(pruner, *classes, sparsities=[100, 300, 200])
    assert path.sparsities == [300, 200, 100]
    assert path.n_nonzero.tolist() == [300, 200, 100]


@pytest.mark.parametrize(
    "levels",
    [
        [],
        [1.0],
        [[0.5, 0.6]],
        [-0.1],
        [0.5, 3],
        [True],
        ["0.5"],
        [np.nan],
        0.0 + 1,
        [0],
    ],
)
def test_levels_out_of_range(classes, levels):
    with pytest.raises(InvalidParameterError, match="'sparsities' parameter must be"):
        pruning_path(small(), *classes, sparsities=levels)


def test_a_callback_may_end_the_path(classes):
    class Enough(Exception):
        pass

    def stop(level, model, score):
        if level == 0.3:
            raise Enough(score)

    with pytest.raises(Enough):
        pruning_path(
            PrunedClassifier(small(), **QUICK), *classes, sparsities=LEVELS,
            on_level=stop,
        )  # fmt: skip


def test_a_net_stands_for_its_pruner(classes, values):
    for net, data, kind in (
        (small(), classes, PrunedClassifier),
        (own_net(), classes, PrunedClassifier),
        (TabularNetRegressor((8,), max_epochs=2), values, PrunedRegressor),
    ):
        path = pruning_path(net, *data, sparsities=[0.5])
        assert type(path.models[0]) is kind
        assert path.models[0].predict(data[0]).shape == data[1].shape


def test_a_frozen_net_is_where_the_path_begins(classes):
    X, y = classes
    fitted = small(random_state=0).fit(X, y)
    path = pruning_path(
        PrunedClassifier(FrozenEstimator(fitted), **QUICK), X, y, sparsities=LEVELS
    )
    assert np.array_equal(path.dense.predict_proba(X), fitted.predict_proba(X)) or (
        np.allclose(path.dense.predict_proba(X), fitted.predict_proba(X), atol=1e-6)
    )
    assert path.dense.history_ == []
    assert path.n_nonzero.tolist() == [SIZE - n_pruned(level, SIZE) for level in LEVELS]


def test_the_dense_phase_is_shared_with_other_fits(classes, tmp_path, trained):  # noqa: F811
    pruner = PrunedClassifier(small(), memory=str(tmp_path), **QUICK)
    pruner.fit(*classes)
    path = pruning_path(pruner, *classes, sparsities=LEVELS)
    assert [n for n in trained if n] == [3]  # levels have no dense epochs
    assert len(outputs(tmp_path)) == 1
    plain = pruning_path(pruner.set_params(memory=None), *classes, sparsities=LEVELS)
    assert [bits(m) for m in path.models] == [bits(m) for m in plain.models]


def test_data_frames_and_names(classes):
    X, y = pd.DataFrame(classes[0], columns=list("abcdefgh")), classes[1]
    path = pruning_path(
        PrunedClassifier(small(), **QUICK), X, y, sparsities=[0.5], X_val=X, y_val=y
    )
    assert path.models[0].feature_names_in_.tolist() == list("abcdefgh")


def test_nothing_given_is_changed(classes):
    pruner = PrunedClassifier(small(), **QUICK)
    before = repr(pruner), vars(clone(pruner)).keys()
    pruning_path(pruner, *classes, sparsities=LEVELS)
    assert (repr(pruner), vars(pruner).keys()) == before


@pytest.mark.parametrize("name", ["threshold", "budget"])
def test_other_ways_to_say_how_much_are_refused(classes, name):
    value = {"threshold": 0.1, "budget": {"nonzeros": 9}}[name]
    with pytest.raises(ValueError, match=f"{name}=.* and a path do not go together"):
        pruning_path(PrunedClassifier(small(), **{name: value}), *classes)


def test_other_estimators_are_refused(classes):
    with pytest.raises(TypeError, match="got a Pipeline"):
        pruning_path(make_pipeline(LogisticRegression()), *classes)


@pytest.mark.parametrize("given", ["X_val", "y_val"])
def test_validation_rows_need_both(classes, given):
    with pytest.raises(ValueError, match=f"{given} was given without"):
        pruning_path(small(), *classes, **{given: classes[given == "y_val"]})
