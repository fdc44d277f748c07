"""The pruners that choose their sparsity by cross-validation."""

import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import config_context
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.exceptions import DataConversionWarning
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import check_scoring, make_scorer, mean_absolute_error
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    KFold,
    PredefinedSplit,
    StratifiedKFold,
    cross_val_score,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_sparse_nn import (
    PrunedClassifier,
    PrunedClassifierCV,
    PrunedRegressor,
    PrunedRegressorCV,
    TabularNetRegressor,
    pruning_path,
)
from sklearn_sparse_nn._compat import InvalidParameterError
from sklearn_sparse_nn.search.selection import choose_level, cv_results
from tests.memory.conftest import trained  # noqa: F401
from tests.memory.dense_phases import bits
from tests.pruning.nets import own_net, own_regressor, small

QUICK = {"n_steps": 2, "prune_epochs": 2, "finetune_epochs": 1, "random_state": 0}
LEVELS = [0.3, 0.5, 0.6]


def make_search(**kwargs):
    options = {"sparsities": LEVELS, "cv": 3} | kwargs
    return PrunedClassifierCV(PrunedClassifier(small(), **QUICK), **options)


@pytest.fixture(scope="module")
def search(classes):
    return make_search().fit(*classes)


def test_scores_are_those_of_a_path_in_every_fold(classes, search):
    X, y = classes
    dense = []
    for k, (train, test) in enumerate(StratifiedKFold(3).split(X, y)):
        path = pruning_path(
            PrunedClassifier(small(), **QUICK), X[train], y[train], sparsities=LEVELS,
            X_val=X[test], y_val=y[test],
        )  # fmt: skip
        found = search.cv_results_[f"split{k}_test_score"]
        assert found.tolist() == path.scores.tolist()
        dense.append(path.dense_score)
    assert search.dense_score_ == pytest.approx(np.mean(dense))


def test_the_final_net_is_the_path_on_all_rows(classes, search):
    levels = LEVELS[: search.best_index_ + 1]
    path = pruning_path(PrunedClassifier(small(), **QUICK), *classes, sparsities=levels)
    assert bits(search) == bits(path.models[-1])
    assert search.sparsity_ == path.sparsity[-1]
    assert search.path_.n_nonzero.tolist() == path.n_nonzero.tolist()
    assert search.path_.sparsities == levels
    assert np.array_equal(
        search.predict(classes[0]), path.models[-1].predict(classes[0])
    )


def test_results_have_the_form_of_grid_search(classes, search):
    grid = GridSearchCV(
        PrunedClassifier(small(), **QUICK), {"sparsity": LEVELS}, cv=3
    ).fit(*classes)
    assert set(search.cv_results_) == set(grid.cv_results_)
    for name, values in grid.cv_results_.items():
        ours = search.cv_results_[name]
        assert type(ours) is type(values), name
        if name == "params":
            assert ours == values
        else:
            assert ours.dtype == values.dtype, name
            assert ours.shape == values.shape, name
    assert pd.DataFrame(search.cv_results_).shape == (3, len(grid.cv_results_))
    ranks = search.cv_results_["rank_test_score"]
    assert ranks.min() == 1
    assert (
        search.best_score_ == search.cv_results_["mean_test_score"][search.best_index_]
    )
    assert search.best_params_ == {"sparsity": LEVELS[search.best_index_]}
    assert search.n_splits_ == 3


@st.composite
def scored(draw):
    """Scores of folds and levels, and of the dense net."""
    n_folds, n_levels = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    score = st.sampled_from([-2.0, -0.5, 0.0, 0.4, 0.49, 0.5, 0.505, 0.9, 1.0])
    scores = [[draw(score) for _ in range(n_levels)] for _ in range(n_folds)]
    return np.array(scores), np.array([draw(score) for _ in range(n_folds)])


def results_of(scores):
    levels = list(np.linspace(0.1, 0.9, scores.shape[1]))
    return cv_results(
        levels,
        [
            [{"fit": 1.0, "score": 0.1, "scores": {"s": s}} for s in row]
            for row in scores
        ],
    )


@settings(max_examples=300, deadline=None)
@given(scored(), st.sampled_from([0.0, 0.01, 0.5]))
def test_the_rules_in_plain_numpy(drawn, tolerance):
    scores, dense = drawn
    results, k = results_of(scores), len(scores)

    def error(values):
        # In this order, so that ties are rounded alike.
        return 0.0 if k == 1 else values.std(ddof=1) / np.sqrt(k)

    means = scores.mean(axis=0)
    best = max(range(len(means)), key=lambda i: (means[i], i))
    fine = [i for i, m in enumerate(means) if m >= means[best] - error(scores[:, best])]
    kept = [
        i
        for i in range(len(means))
        if (scores[:, i] - dense).mean() - error(scores[:, i] - dense)
        >= -tolerance * abs(dense.mean())
    ]
    for select, expected in (
        ("best", best),
        ("one_se", max(fine)),
        ("tolerance", max(kept) if kept else best),
    ):
        found = choose_level(results, dense, "s", select=select, tolerance=tolerance)
        assert found == expected
    assert choose_level(results, dense, "s", select="one_se", tolerance=0) >= best


def test_levels_without_a_score_are_not_chosen():
    scores = np.array([[0.5, np.nan, 0.4], [0.5, 0.9, np.nan]])
    for select in ("best", "one_se", "tolerance"):
        assert choose_level(results_of(scores), [0.5, 0.5], "s", select=select,
                            tolerance=0.01) == 0  # fmt: skip
    assert results_of(scores)["rank_test_s"].tolist() == [1, 2, 2]
    with pytest.raises(ValueError, match="No level has a score"):
        choose_level(results_of(scores * np.nan), [0.5, 0.5], "s", select="best",
                     tolerance=0.01)  # fmt: skip


@pytest.mark.parametrize("select", ["best", "one_se", "tolerance"])
def test_every_rule_is_obeyed(classes, search, select):
    found = make_search(select=select, tolerance=0.05).fit(*classes)
    name = "mean_test_score"
    assert np.array_equal(found.cv_results_[name], search.cv_results_[name])
    dense = []
    X, y = classes
    for train, test in StratifiedKFold(3).split(X, y):
        net = pruning_path(
            PrunedClassifier(small(), **QUICK), X[train], y[train], sparsities=[0.3],
            X_val=X[test], y_val=y[test],
        )  # fmt: skip
        dense.append(net.dense_score)
    expected = choose_level(
        search.cv_results_, dense, "score", select=select, tolerance=0.05
    )
    assert found.best_index_ == expected


def test_a_rule_of_ones_own(classes):
    found = make_search(select=lambda results: 1).fit(*classes)
    assert found.best_params_ == {"sparsity": 0.5}
    for wrong in (9, -1, 0.5, None):
        with pytest.raises(ValueError, match="select must give an index of one of 3"):
            make_search(select=lambda results, wrong=wrong: wrong).fit(*classes)


def test_several_scores(classes):
    scoring = {"accuracy": "accuracy", "loss": "neg_log_loss"}
    found = make_search(scoring=scoring, select_by="loss").fit(*classes)
    best = np.argmax(found.cv_results_["mean_test_loss"])
    assert found.best_index_ == best
    assert set(found.dense_score_) == {"accuracy", "loss"}
    assert "rank_test_accuracy" in found.cv_results_
    with pytest.raises(ValueError, match="must name the one that decides: 'accuracy'"):
        make_search(scoring=scoring).fit(*classes)
    with pytest.raises(ValueError, match="'f1' is no score; there is 'score' only"):
        make_search(select_by="f1").fit(*classes)


def test_any_splitter_and_groups(classes):
    X, y = classes
    groups = np.arange(len(y)) % 6
    found = make_search(cv=GroupKFold(3)).fit(X, y, groups=groups)
    assert found.n_splits_ == 3
    with pytest.raises(ValueError, match="'groups' parameter should not be None"):
        make_search(cv=GroupKFold(3)).fit(X, y)
    fold = np.where(np.arange(len(y)) < 80, -1, 0)
    assert make_search(cv=PredefinedSplit(fold)).fit(X, y).n_splits_ == 1
    splits = list(KFold(2).split(X))
    assert make_search(cv=splits).fit(X, y).n_splits_ == 2


def test_two_workers_give_the_same(classes, search):
    two = make_search(n_jobs=2).fit(*classes)
    for k in range(3):
        name = f"split{k}_test_score"
        assert np.array_equal(two.cv_results_[name], search.cv_results_[name])
    assert bits(two) == bits(search)


def test_a_regressor(values):
    X, y = values
    net = TabularNetRegressor((16,), lr=0.02, max_epochs=10)
    scoring = make_scorer(mean_absolute_error, greater_is_better=False)
    found = PrunedRegressorCV(
        PrunedRegressor(net, **QUICK), sparsities=LEVELS, cv=3, scoring=scoring,
        select="tolerance", tolerance=0.2,
    ).fit(X, y)  # fmt: skip
    assert found.dense_score_ < 0
    assert found.predict(X).dtype == np.float64
    assert is_regressor(found)
    assert not is_classifier(found)


def test_what_a_pruner_can_do_it_can(classes, search, tmp_path):
    X, y = classes
    assert is_classifier(search)
    assert search.classes_.tolist() == [0, 1, 2]
    assert search.transform()["output"].shape == (3, 12)
    assert search.transform(X).shape == (len(X), 12)
    model = search.export()
    assert np.array_equal(model.predict(X), search.predict(X))
    assert search.report()["nonzeros"].sum() == search.n_nonzero_
    assert search.feature_importances_.sum() == pytest.approx(1)
    copy = pickle.loads(pickle.dumps(search))
    assert np.array_equal(copy.predict_proba(X), search.predict_proba(X))
    frozen = PrunedClassifier(FrozenEstimator(search), **QUICK | {"sparsity": 0.7})
    assert frozen.fit(X, y).sparsity_ > search.sparsity_


def test_labels_and_data_frames(classes):
    X = pd.DataFrame(classes[0], columns=list("abcdefgh"))
    y = np.array(["one", "two", "three"])[classes[1]]
    found = make_search().fit(X, y)
    assert found.feature_names_in_.tolist() == list("abcdefgh")
    assert set(found.predict(X)) <= set(y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found.predict(X)
    with pytest.raises(ValueError, match="feature names should match"):
        found.predict(X[X.columns[::-1]])


def test_fit_twice_is_fit_once(classes):
    found = make_search().fit(classes[0][:, :5], classes[1])
    again = bits(found.fit(*classes))
    assert again == bits(make_search().fit(*classes))
    assert found.n_features_in_ == 8


def test_it_drops_into_other_estimators(classes):
    X, y = classes
    pipe = make_pipeline(StandardScaler(), make_search())
    assert cross_val_score(pipe, X, y, cv=2).shape == (2,)
    grid = GridSearchCV(
        make_search(),
        {"select": ["best", "one_se"], "estimator__n_steps": [1, 2]},
        cv=2,
    ).fit(X, y)
    assert len(grid.cv_results_["params"]) == 4


def test_the_pruner_takes_the_searchs_seed_if_it_has_none(classes):
    pruner = PrunedClassifier(small(), **QUICK | {"random_state": None})
    one, two, other = (
        PrunedClassifierCV(pruner, sparsities=[0.5], cv=2, random_state=seed)
        for seed in (0, 0, 1)
    )
    for found in (one, two, other):
        found.fit(*classes)
    assert bits(one) == bits(two) != bits(other)


def test_nothing_given_is_changed(classes):
    pruner = PrunedClassifier(small(), **QUICK)
    before = repr(pruner)
    search = PrunedClassifierCV(pruner, sparsities=LEVELS, cv=2)
    params = search.get_params()
    search.fit(*classes)
    assert repr(pruner) == before
    assert not hasattr(pruner, "net_")
    assert search.get_params() == params
    assert not hasattr(clone(search), "net_")


@pytest.mark.parametrize("make", [small, own_net])
def test_from_the_dense_net_it_is_a_grid_search_bit_for_bit(classes, make):
    pruner = PrunedClassifier(make(), **QUICK)
    options = {"cv": 3, "scoring": ["neg_log_loss", "accuracy"]}
    grid = GridSearchCV(
        pruner, {"sparsity": LEVELS}, refit="neg_log_loss", **options
    ).fit(*classes)
    path = PrunedClassifierCV(
        pruner, sparsities=LEVELS, start="dense", select_by="neg_log_loss", **options
    ).fit(*classes)
    for name, values in grid.cv_results_.items():
        if "test" in name:
            assert np.array_equal(values, path.cv_results_[name]), name
    assert path.best_params_ == grid.best_params_
    assert bits(path) == bits(grid.best_estimator_)
    assert path.path_.sparsities == [grid.best_params_["sparsity"]]


@pytest.mark.parametrize("weights", [None, np.arange(120.0)])
def test_its_score_is_that_of_a_grid_search(classes, weights):
    X, y = classes
    given = {} if weights is None else {"sample_weight": weights}
    pruner = PrunedClassifier(small(), **QUICK)
    for scoring, by in (
        (None, None),
        ("neg_log_loss", None),
        (["neg_log_loss", "accuracy"], "neg_log_loss"),
        ({"a": "accuracy", "b": make_scorer(mean_absolute_error)}, "b"),
    ):
        options = {"cv": 2, "scoring": scoring}
        found = PrunedClassifierCV(
            pruner, sparsities=[0.5], start="dense", select_by=by, **options
        ).fit(X, y)
        grid = GridSearchCV(
            pruner, {"sparsity": [0.5]}, refit=by or True, **options
        ).fit(X, y)
        if weights is None:
            assert found.score(X, y) == grid.score(X, y)
        found.set_params(scoring="accuracy", select_by=None)  # changes no fitted one
        best = grid.best_estimator_
        scorer = grid.scorer_[by] if by else check_scoring(best, scoring)
        assert found.score(X, y, **given) == scorer(best, X, y, **given)


SCORES = {
    "score": lambda pruner, X, y: pruner.score(X, y),
    "dict": lambda pruner, X, y: {"a": pruner.score(X, y), "b": pruner.sparsity},
    "array": lambda pruner, X, y: np.array(pruner.score(X, y)),
    "tensor": lambda pruner, X, y: torch.tensor(pruner.score(X, y)).double(),
}


@pytest.mark.parametrize("name", SCORES)
def test_scores_that_ask_the_pruner(classes, name):
    X, y = classes
    by = "a" if name == "dict" else None
    found = make_search(scoring=SCORES[name], select_by=by).fit(X, y)
    best = found.best_estimator_
    assert isinstance(best, PrunedClassifier)
    assert best.sparsity == found.best_params_["sparsity"]
    assert best.score(X, y) == np.mean(found.predict(X) == y)
    assert found.score(X, y) == pytest.approx(best.score(X, y), rel=1e-6)


def test_a_score_that_decides_is_looked_for_first(classes, trained):  # noqa: F811
    for scoring, by in (
        (["accuracy", "f1_macro"], None),
        ({"a": "accuracy", "b": "f1_macro"}, "c"),
        ("accuracy", "f1_macro"),
        (None, "accuracy"),
    ):
        with pytest.raises(ValueError, match="select_by="):
            make_search(scoring=scoring, select_by=by).fit(*classes)
    assert trained == []


def test_what_was_set_on_it_stays(classes):
    pruner = PrunedClassifier(small(), **QUICK).set_output(transform="pandas")
    with config_context(enable_metadata_routing=True):
        pruner.set_score_request(sample_weight=False)
        found = PrunedClassifierCV(pruner, sparsities=[0.5], cv=2)
        found.set_fit_request(groups=True).set_output(transform="default")
        before = repr(found.get_metadata_routing())
        found.fit(*classes)
        assert repr(found.get_metadata_routing()) == before
    assert found.transform(classes[0]).shape == (120, 12)


def test_splitters_and_scores_are_given_what_fit_was_given(classes):
    X, y = classes
    frame = pd.DataFrame(X, columns=list("abcdefgh"))
    labels = pd.Series(np.array(["u", "v", "w"])[y], index=frame.index + 7)
    seen = []

    class ByColumn(KFold):
        def split(self, X, y, groups=None):
            seen.append((X["a"].shape, type(y)))
            return super().split(X, y, groups)

    def score(pruner, X, y):
        seen.append((type(X["a"]), type(y)))
        return np.mean(pruner.predict(X) == y.to_numpy())

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = make_search(scoring=score, cv=ByColumn(2)).fit(frame, labels)
        assert found.score(frame, labels) == score(found, frame, labels)
    assert set(seen) == {((120,), pd.Series), (pd.Series, pd.Series)}
    assert found.feature_names_in_.tolist() == list("abcdefgh")


def test_a_users_net_is_what_the_search_needs(values):
    X, y = values[0], (values[1] / values[1].std()).astype(np.float32)
    net = own_regressor()
    found = PrunedRegressorCV(net, sparsities=[0.3], cv=2, random_state=0)
    with pytest.warns(DataConversionWarning) as caught:
        found.fit(X, y.reshape(-1, 1))
    assert len(caught) == 1
    assert isinstance(found.best_estimator_, PrunedRegressor)


def test_nets_of_ones_own(classes):
    X, y = classes
    found = PrunedClassifierCV(
        PrunedClassifier(own_net(), **QUICK), sparsities=[0.3, 0.5], cv=2
    ).fit(X, y)
    assert found.predict(X.astype(np.float64)).shape == y.shape
    path = pruning_path(
        PrunedClassifier(own_net(), **QUICK), X, y, sparsities=found.path_.sparsities
    )
    assert bits(path.models[-1]) == bits(found)


def test_a_failed_fit_leaves_an_earlier_one(classes):
    found = make_search().fit(*classes)
    before = bits(found)
    with pytest.raises(ValueError, match="NaN"):
        found.fit(np.full_like(classes[0], np.nan), classes[1])
    assert bits(found) == before


def test_bad_parameters(classes):
    for kwargs, match in (
        ({"select": "worst"}, "'select' parameter"),
        ({"start": "warm"}, "'start' parameter"),
        ({"tolerance": -1}, "'tolerance' parameter"),
        ({"sparsities": [2.0]}, "'sparsities' parameter"),
        ({"estimator": LogisticRegression()}, "'estimator' parameter"),
    ):
        with pytest.raises(InvalidParameterError, match=match):
            PrunedClassifierCV(**{"cv": 2} | kwargs).fit(*classes)
    with pytest.raises(TypeError, match="was given a PrunedRegressor"):
        PrunedClassifierCV(PrunedRegressor()).fit(*classes)
    with pytest.raises(TypeError, match="does not support sample_weight"):
        make_search().fit(*classes, sample_weight=np.ones(120))


def test_verbose_prints_a_line_for_every_fold_and_level(classes, capsys):
    make_search(verbose=1).fit(*classes)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 * 4
    assert lines[0].startswith("fold 0  sparsity 0.0  score ")
