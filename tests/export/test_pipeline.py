"""Pipelines of scalers and imputers around a net."""

from itertools import permutations

import numpy as np
import pandas
import pytest
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, RandomizedSearchCV
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import (
    MaxAbsScaler,
    MinMaxScaler,
    RobustScaler,
    StandardScaler,
)

from sklearn_sparse_nn import (
    PrunedClassifier,
    PrunedRegressor,
    TabularNetClassifier,
    export_pipeline,
)
from sklearn_sparse_nn.exceptions import UnsupportedLayerError
from sklearn_sparse_nn.export import pipeline

QUICK = {"prune_epochs": 1, "finetune_epochs": 1, "n_steps": 1, "random_state": 0}


def pruned(**options):
    net = TabularNetClassifier((12, 8), max_epochs=2, lr=0.01, random_state=0)
    return PrunedClassifier(net, sparsity=0.6, **{**QUICK, **options})


def assert_same(model, pipe, X, atol=2e-6):
    """Probabilities are at most 1, and these nets amplify rounding hardly."""
    np.testing.assert_allclose(
        model.predict_proba(X), pipe.predict_proba(X), rtol=0, atol=atol
    )


def with_gaps(X):
    X = X.astype(float)
    X[::7, 2] = np.nan
    X[3, :] = np.nan
    return X


SCALERS = {
    "standard": StandardScaler(),
    "no mean": StandardScaler(with_mean=False),
    "no std": StandardScaler(with_std=False),
    "neither": StandardScaler(with_mean=False, with_std=False),
    "min max": MinMaxScaler(feature_range=(-2, 5)),
    "clipped": MinMaxScaler(clip=True),
    "robust": RobustScaler(),
    "robust, no scale": RobustScaler(with_scaling=False),
    "robust, no centre": RobustScaler(with_centering=False),
    "max abs": MaxAbsScaler(),
    "unit variance": RobustScaler(unit_variance=True),
}
if "clip" in MaxAbsScaler().get_params():
    SCALERS["max abs, clipped"] = MaxAbsScaler(clip=True)


@pytest.mark.parametrize("name", SCALERS)
def test_every_scaler(classes, name):
    X, y = classes
    pipe = make_pipeline(SCALERS[name], pruned()).fit(X, y)
    model = export_pipeline(pipe)
    assert_same(model, pipe, X.astype(float))
    assert_same(model, pipe, X)
    assert_same(model, pipe, 3 * X)  # beyond what was seen, so that clipping shows


@pytest.mark.parametrize("strategy", ["mean", "median", "most_frequent", "constant"])
@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_imputers_and_scalers_in_any_order(classes, strategy, order):
    X, y = with_gaps(classes[0]), classes[1]
    steps = [
        SimpleImputer(strategy=strategy, fill_value=0.5),
        StandardScaler(),
        MinMaxScaler(),
    ]
    pipe = make_pipeline(*[steps[i] for i in order], pruned()).fit(X, y)
    assert_same(export_pipeline(pipe), pipe, X)


def test_the_second_imputer_finds_nothing_to_fill(classes):
    X, y = with_gaps(classes[0]), classes[1]
    first = SimpleImputer(strategy="constant", fill_value=1.0)
    second = SimpleImputer(strategy="constant", fill_value=9.0)
    pipe = make_pipeline(first, StandardScaler(), second, pruned()).fit(X, y)
    assert_same(export_pipeline(pipe), pipe, X)


@pytest.mark.filterwarnings("ignore:Skipping features")
@pytest.mark.parametrize("keep", [False, True])
def test_columns_without_any_value(classes, keep):
    X, y = with_gaps(classes[0]), classes[1]
    X[:, 4] = np.nan
    imputer = SimpleImputer(keep_empty_features=keep)
    pipe = make_pipeline(imputer, StandardScaler(), pruned()).fit(X, y)
    model = export_pipeline(pipe)
    assert model.n_features_in_ == 8
    assert_same(model, pipe, X)


@pytest.mark.filterwarnings("ignore:Skipping features")
@pytest.mark.filterwarnings("ignore:(All-NaN|Degrees of freedom|Mean of empty|invalid)")
def test_a_column_is_dropped_after_it_was_scaled(classes):
    X, y = with_gaps(classes[0]), classes[1]
    X[:, 0] = np.nan
    pipe = make_pipeline(MaxAbsScaler(), SimpleImputer(), pruned()).fit(X, y)
    assert_same(export_pipeline(pipe), pipe, X)


def test_rows_of_float64_keep_their_digits(classes):
    """A column of 1.7e9, as of time stamps, has no digits left in float32."""
    X, y = classes[0].astype(float), classes[1]
    far = X + 1.7e9
    pipe = make_pipeline(StandardScaler(), pruned()).fit(far, y)
    model = export_pipeline(pipe)
    assert model.graph.stage.wide
    assert_same(model, pipe, far)


def test_passthrough_nested_pipelines_and_names(classes):
    names = [f"c{i}" for i in range(8)]
    X, y = pandas.DataFrame(classes[0], columns=names), classes[1]
    inner = Pipeline([("a", "passthrough"), ("b", RobustScaler())])
    pipe = Pipeline([("none", None), ("inner", inner), ("net", pruned())]).fit(X, y)
    model = export_pipeline(pipe)
    assert model.feature_names_in_.tolist() == names
    assert_same(model, pipe, X)
    with pytest.raises(ValueError, match="feature names should match"):
        model.predict(X.rename(columns={"c0": "other"}))


def test_labels_and_units_come_through(classes, values):
    X, y = classes
    labels = np.array(["a", "b", "c"])[y]
    pipe = make_pipeline(StandardScaler(), pruned()).fit(X, labels)
    assert np.array_equal(export_pipeline(pipe).predict(X), pipe.predict(X))
    regressor = PrunedRegressor(sparsity=0.5, **QUICK, dense_epochs=1)
    pipe = make_pipeline(RobustScaler(), regressor).fit(*values)
    found = export_pipeline(pipe).predict(values[0])
    # The net's outputs are multiplied by the spread of the targets.
    atol = 2e-6 * np.std(values[1])
    np.testing.assert_allclose(found, pipe.predict(values[0]), rtol=0, atol=atol)


def test_a_tabular_net_alone_in_a_pipeline(classes):
    X, y = classes
    pipe = Pipeline([("net", TabularNetClassifier((8,), max_epochs=1))]).fit(X, y)
    assert_same(export_pipeline(pipe), pipe, X)


def test_the_pipeline_is_not_changed(classes):
    X, y = with_gaps(classes[0]), classes[1]
    pipe = make_pipeline(StandardScaler(), SimpleImputer(), pruned()).fit(X, y)
    before = [dict(vars(step)) for _, step in pipe.steps]
    mean = pipe[0].mean_.copy()
    export_pipeline(pipe)
    for (_, step), held in zip(pipe.steps, before, strict=True):
        assert vars(step).keys() == held.keys()
        assert all(vars(step)[name] is value for name, value in held.items())
    assert np.array_equal(pipe[0].mean_, mean)


class OddScaler(StandardScaler):
    def transform(self, X, copy=None):
        return super().transform(X, copy) ** 2


@pytest.mark.parametrize(
    ("step", "said"),
    [
        (PCA(4), r"'odd' of the pipeline is a PCA\. Allowed before .* StandardScaler"),
        (OddScaler(), "'odd' of the pipeline is a OddScaler"),
        (SimpleImputer(add_indicator=True), "add_indicator=True"),
        (SimpleImputer(missing_values=-1.0), r"missing_values=-1\.0"),
    ],
)
def test_what_cannot_be_folded_is_named(classes, step, said):
    pipe = Pipeline([("scale", StandardScaler()), ("odd", step), ("net", pruned())])
    with pytest.raises(UnsupportedLayerError, match=said):
        export_pipeline(pipe.fit(*classes))


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64, float])
def test_every_kind_of_nan(classes, kind):
    X, y = with_gaps(classes[0]), classes[1]
    imputer = SimpleImputer(missing_values=kind("nan"))
    pipe = make_pipeline(imputer, pruned()).fit(X, y)
    assert_same(export_pipeline(pipe), pipe, X)


class Bare(TransformerMixin, BaseEstimator):
    """A first step of one's own, which learns nothing about columns."""

    def fit(self, X, y=None):
        self.fitted_ = True
        return self

    def transform(self, X):
        return X


class Optional(StandardScaler):
    def __init__(self, *, copy=True, with_mean=True, with_std=True, twice=False):
        super().__init__(copy=copy, with_mean=with_mean, with_std=with_std)
        self.twice = twice


def test_a_first_step_without_columns_and_an_option_not_known(classes, monkeypatch):
    pipe = make_pipeline(Bare(), pruned()).fit(*classes)
    with pytest.raises(UnsupportedLayerError, match="'bare' of the pipeline is a Bare"):
        export_pipeline(pipe)
    # As a later version of scikit-learn may have it.
    monkeypatch.setitem(pipeline._SCALERS, Optional, pipeline._standard)
    pipe = make_pipeline(Optional(), pruned()).fit(*classes)
    assert_same(export_pipeline(pipe), pipe, classes[0])
    pipe[0].twice = True
    with pytest.raises(UnsupportedLayerError, match=r"'optional' .* with twice=True"):
        export_pipeline(pipe)


@pytest.mark.filterwarnings("ignore:(All-NaN|Degrees of freedom|Mean of empty|invalid)")
@pytest.mark.parametrize("scaler", [StandardScaler, MinMaxScaler, RobustScaler])
def test_a_column_without_any_value_that_is_kept_is_named(classes, scaler):
    X, y = with_gaps(classes[0]), classes[1]
    X[:, 4] = np.nan
    imputer = SimpleImputer(keep_empty_features=True)
    pipe = make_pipeline(scaler(), imputer, pruned()).fit(X, y)
    with pytest.raises(UnsupportedLayerError, match=r"'simpleimputer' .* column 4"):
        export_pipeline(pipe)


@pytest.mark.parametrize("name", ["strings", "numbers", "mixed"])
def test_names_of_columns_that_are_no_strings(classes, name):
    X, y = classes
    frame = pandas.DataFrame(X, columns=[f"c{i}" for i in range(8)])
    pipe = make_pipeline(StandardScaler(), pruned()).fit(frame, y)
    model = export_pipeline(pipe)
    other = pandas.DataFrame(
        X, columns=range(8) if name == "numbers" else frame.columns
    )
    if name == "mixed":
        other = other.rename(columns={"c3": 3})
    for predict in (pipe.predict_proba, model.predict_proba):
        if name == "mixed":
            with pytest.raises(TypeError, match="Feature names are only supported if"):
                predict(other)
        elif name == "numbers":
            with pytest.warns(UserWarning, match="X does not have valid feature names"):
                predict(other)
        else:
            predict(other)


def test_an_imputer_beyond_a_clipped_range_is_named(classes):
    X, y = with_gaps(classes[0]), classes[1]
    imputer = SimpleImputer(strategy="constant", fill_value=7.0)
    pipe = make_pipeline(MinMaxScaler(clip=True), imputer, pruned()).fit(X, y)
    with pytest.raises(UnsupportedLayerError, match=r"'simpleimputer' .* fills with 7"):
        export_pipeline(pipe)


def test_other_estimators_and_unfitted_pipelines(classes):
    with pytest.raises(TypeError, match=r"takes a Pipeline; got a PrunedClassifier\."):
        export_pipeline(pruned())
    with pytest.raises(TypeError, match=r"last step must be .* LogisticRegression"):
        export_pipeline(make_pipeline(LogisticRegression()))
    with pytest.raises(NotFittedError):
        export_pipeline(make_pipeline(StandardScaler(), pruned()))


@pytest.mark.parametrize("inside", [False, True])
def test_of_a_search_the_best_pipeline_is_taken(classes, inside):
    X, y = classes
    grid = {"sparsity": [0.5]} if inside else {"prunedclassifier__sparsity": [0.5]}
    net = GridSearchCV(pruned(), grid, cv=2) if inside else pruned()
    pipe = make_pipeline(StandardScaler(), net)
    search = pipe if inside else RandomizedSearchCV(pipe, grid, n_iter=1, cv=2)
    with pytest.raises(NotFittedError):
        export_pipeline(search)
    assert_same(export_pipeline(search.fit(X, y)), search, X)


def test_a_search_that_keeps_no_estimator_is_refused(classes):
    pipe = make_pipeline(StandardScaler(), TabularNetClassifier((4,), max_epochs=1))
    grid = {"tabularnetclassifier__lr": [0.01]}
    search = GridSearchCV(pipe, grid, cv=2, refit=False).fit(*classes)
    with pytest.raises(TypeError, match=r"no best_estimator_ to export: .* refit=True"):
        export_pipeline(search)
