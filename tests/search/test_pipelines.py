"""Pipelines that end with a pruner, in all that takes a pruner."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.compose import make_column_transformer
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import KFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import MinMaxScaler, OneHotEncoder, StandardScaler
from sklearn.utils.validation import check_is_fitted
from skorch import NeuralNetClassifier
from torch import nn

from sklearn_sparse_nn import (
    PrunedClassifier,
    PrunedClassifierCV,
    PrunedRegressor,
    PrunedRegressorCV,
    TabularNetClassifier,
    TabularNetRegressor,
    export_pipeline,
    pruning_path,
)
from sklearn_sparse_nn.inspection import controls, layer_sensitivity

pytestmark = pytest.mark.filterwarnings("ignore:At this sparsity the layers")

generator = np.random.default_rng(0)
# Columns that a net of one's own cannot learn from until they are scaled.
X = generator.normal(size=(60, 4)) * [1e4, 1e-4, 1, 1] + [1e5, 0, 0, 0]
y = np.where((X[:, 0] > 1e5), "up", "down")
EPOCHS = {"prune_epochs": 1, "finetune_epochs": 1, "n_steps": 1, "random_state": 0}
FOLDS = KFold(2, shuffle=True, random_state=0)


class Seeded(nn.Linear):
    def __init__(self):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            super().__init__(4, 2)


def own_pruner(**kwargs):
    net = NeuralNetClassifier(
        Seeded, criterion=nn.CrossEntropyLoss, lr=0.5, max_epochs=20, verbose=0
    )
    net.set_params(train_split=None)
    return PrunedClassifier(net, sparsity=0.5, **EPOCHS, **kwargs)


def pipeline():
    return make_pipeline(StandardScaler(), MinMaxScaler((-1, 1)), own_pruner())


def by_hand(fitted_on, rows):
    scalers = make_pipeline(StandardScaler(), MinMaxScaler((-1, 1))).fit(X[fitted_on])
    return scalers.transform(X[rows])


@pytest.fixture(autouse=True)
def check_that_nothing_was_fitted_or_changed():
    yield
    assert not hasattr(pipeline()[0], "mean_")


def test_a_path_is_that_of_the_rows_that_reach_the_pruner():
    pipe = pipeline()
    train, test = np.arange(60) < 40, np.arange(60) >= 40
    given = {"sparsities": [0.25, 0.5]}
    path = pruning_path(pipe, X[train], y[train], X_val=X[test], y_val=y[test], **given)
    hand = pruning_path(
        own_pruner(),
        by_hand(train, train),
        y[train],
        X_val=by_hand(train, test),
        y_val=y[test],
        **given,
    )
    np.testing.assert_array_equal(path.scores, hand.scores)
    assert path.dense_score == hand.dense_score > 0.9
    np.testing.assert_array_equal(path.n_nonzero, hand.n_nonzero)
    for model in (path.dense, *path.models):
        assert isinstance(model, Pipeline)
        assert model.score(X[test], y[test]) in {*path.scores, path.dense_score}
    assert not hasattr(pipe[0], "mean_")


def test_a_search_fits_the_steps_in_each_fold():
    pipe = pipeline()
    search = PrunedClassifierCV(pipe, sparsities=[0.25, 0.5], cv=FOLDS).fit(X, y)
    for k, (train, test) in enumerate(FOLDS.split(X)):
        model = own_pruner().set_params(sparsity=0.25)
        path = pruning_path(
            model,
            by_hand(train, train),
            y[train],
            sparsities=[0.25, 0.5],
            X_val=by_hand(train, test),
            y_val=y[test],
        )
        found = [search.cv_results_[f"split{k}_test_score"][i] for i in (0, 1)]
        np.testing.assert_array_equal(found, path.scores)
    assert not hasattr(pipe[0], "mean_")
    best = search.best_estimator_
    assert isinstance(best, Pipeline)
    np.testing.assert_array_equal(search.predict_proba(X), best.predict_proba(X))
    np.testing.assert_array_equal(search.predict(X), best.predict(X))
    assert search.score(X, y) == best.score(X, y) > 0.9
    activations = search.transform(X)
    np.testing.assert_array_equal(
        activations.toarray(), best[-1].transform(best[:-1].transform(X)).toarray()
    )
    assert search.n_features_in_ == 4
    np.testing.assert_array_equal(
        search.feature_importances_, best[-1].feature_importances_
    )
    for model in (
        search.export(),
        export_pipeline(best),
        export_pipeline(make_pipeline(search)),
    ):
        np.testing.assert_allclose(
            model.predict_proba(X), search.predict_proba(X), atol=1e-5
        )
    clone(search).fit(X, y)


def test_a_search_takes_a_raw_table():
    frame = pd.DataFrame(X, columns=list("abcd"))
    frame["kind"] = np.where(generator.random(60) > 0.5, "u", "v")
    target = X[:, 0] / 1e4
    columns = make_column_transformer(
        (OneHotEncoder(), ["kind"]), (StandardScaler(), list("abcd"))
    )
    net = TabularNetRegressor((8,), max_epochs=3, lr=0.05, random_state=0)
    pipe = make_pipeline(columns, PrunedRegressor(net, **EPOCHS))
    search = PrunedRegressorCV(pipe, sparsities=[0.5], cv=2).fit(frame, target)
    assert list(search.feature_names_in_) == ["a", "b", "c", "d", "kind"]
    assert search.predict(frame).shape == (60,)
    assert len(search.feature_importances_) == 6
    with pytest.raises(ValueError, match="same order"):
        search.predict(frame[["kind", "a", "b", "c", "d"]])
    table = layer_sensitivity(search, frame, target, sparsities=[0.5])
    assert table["score"][0] == search.score(frame, target)


def test_controls_scale_the_rows_of_each_repeat():
    pipe = pipeline()
    bunch = controls(pipe, X, y, n_repeats=2)
    assert bunch.scores["pruned"].mean() > 0.9
    assert bunch.scores["dense, same epochs"].mean() > 0.9
    assert not hasattr(pipe[0], "mean_")
    test = np.arange(60) >= 40
    one = controls(
        pipe, X[~test], y[~test], X_test=X[test], y_test=y[test], n_repeats=1
    )
    hand = controls(
        own_pruner(),
        by_hand(~test, ~test),
        y[~test],
        X_test=by_hand(~test, test),
        y_test=y[test],
        n_repeats=1,
    )
    pd.testing.assert_frame_equal(one.table, hand.table)


def test_controls_of_a_fitted_pipeline_are_those_of_an_unfitted_one():
    unfitted = controls(pipeline(), X, y, n_repeats=1).table
    fitted = controls(pipeline().fit(X, y), X, y, n_repeats=1).table
    pd.testing.assert_frame_equal(unfitted, fitted)


def test_sensitivity_of_a_fitted_pipeline():
    pipe = pipeline().fit(X, y)
    before = pipe[-1].net_.module_.weight.detach().clone()
    given = {"sparsities": [0.5, 0.9], "importance": "wanda"}
    table = layer_sensitivity(pipe, X, y, **given)
    hand = layer_sensitivity(pipe[-1], pipe[:-1].transform(X), y, **given)
    pd.testing.assert_frame_equal(table, hand)
    assert table["score"][0] == pipe.score(X, y)
    assert torch.equal(pipe[-1].net_.module_.weight, before)
    seen = []

    def score(model, rows, targets):
        seen.append(type(model))
        return float(np.mean(model.predict(rows) == targets))

    layer_sensitivity(pipe, X, y, sparsities=[0.5], scoring=score)
    assert set(seen) == {Pipeline}


def test_a_pipeline_may_end_with_a_net_or_have_one_step():
    net = TabularNetClassifier((8,), max_epochs=1)
    models = pruning_path(
        make_pipeline(StandardScaler(), net), X, y, sparsities=[0.5]
    ).models
    assert isinstance(models[0][-1], PrunedClassifier)
    alone = make_pipeline(PrunedClassifier(net, **EPOCHS))
    search = PrunedClassifierCV(alone, sparsities=[0.5], cv=2).fit(X, y)
    np.testing.assert_array_equal(
        search.predict_proba(X), search.best_estimator_.predict_proba(X)
    )
    table = layer_sensitivity(search.best_estimator_, X, y, sparsities=[0.5])
    assert table["score"][0] == search.score(X, y)


def test_what_ends_with_something_else_is_refused():
    scaler = make_pipeline(StandardScaler(), MinMaxScaler())
    with pytest.raises(TypeError, match="ends with one"):
        pruning_path(scaler, X, y)
    with pytest.raises(TypeError, match="ends with one"):
        controls(scaler, X, y)
    with pytest.raises(TypeError, match="ends with one"):
        layer_sensitivity(scaler.fit(X), X, y)
    with pytest.raises(TypeError, match="ends with one"):
        PrunedClassifierCV(scaler).fit(X, y)


def test_a_frozen_search_for_a_pipeline_is_refused():
    search = PrunedClassifierCV(pipeline(), sparsities=[0.5], cv=2).fit(X, y)
    check_is_fitted(search)
    with pytest.raises(TypeError, match="best_estimator_"):
        PrunedClassifier(FrozenEstimator(search), **EPOCHS).fit(X, y)
