"""Pipelines on columns far from 0, where float32 has few digits left."""

import pickle

import numpy as np
import pytest
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    MaxAbsScaler,
    MinMaxScaler,
    RobustScaler,
    StandardScaler,
)

from sklearn_sparse_nn import TabularNetClassifier, export_pipeline
from sklearn_sparse_nn.runtime import SparseModel
from sklearn_sparse_nn.runtime.graph import InputStage

NOTHING = StandardScaler(with_mean=False, with_std=False)
PIPELINES = {
    "standard": [StandardScaler()],
    "standard, mean alone": [StandardScaler(with_std=False)],
    "standard, deviation alone": [StandardScaler(with_mean=False)],
    "nothing": [NOTHING],
    "robust": [RobustScaler()],
    "robust, centre alone": [RobustScaler(with_scaling=False)],
    "min max": [MinMaxScaler()],
    "min max, clipped": [MinMaxScaler((-1, 2), clip=True)],
    "max abs": [MaxAbsScaler()],
    "imputer": [SimpleImputer()],
    "imputer, robust": [SimpleImputer(strategy="median"), RobustScaler()],
    "min max, imputer": [MinMaxScaler(), SimpleImputer()],
    "robust, imputer, standard": [RobustScaler(), SimpleImputer(), StandardScaler()],
    "max abs, standard": [MaxAbsScaler(), StandardScaler()],
    "net alone": [],
}


def fitted(name, kind, far, gaps=False):
    X = np.random.default_rng(0).normal(size=(200, 4)) + far
    y = X[:, 0] > np.median(X[:, 0])
    X = X.astype(kind)
    if gaps:
        X[::7, 1] = np.nan
    net = TabularNetClassifier((12,), max_epochs=12, random_state=0)
    return make_pipeline(*PIPELINES[name], net).fit(X, y), X


@pytest.mark.parametrize("kind", ["f4", "f8"])
@pytest.mark.parametrize("far", [1e3, -3e6, np.array([0.0, 1e5, -1e6, 50.0])])
@pytest.mark.parametrize("name", PIPELINES)
def test_the_model_gives_what_the_pipeline_gives(name, far, kind):
    pipe, X = fitted(name, kind, far, gaps="imputer" in name)
    model = export_pipeline(pipe)
    for rows in (X.astype("f4"), X.astype("f8"), np.asfortranarray(X)):
        before = rows.copy()
        found, wanted = model.predict_proba(rows), pipe.predict_proba(rows)
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)
        assert np.array_equal(found[3:4], model.predict_proba(rows[3:4]))
        assert np.array_equal(rows, before, equal_nan=True)


def test_columns_near_zero_are_scaled_by_the_kernels():
    pipe, _ = fitted("robust", "f4", 3.0)
    assert not export_pipeline(pipe).graph.stage.steps


@pytest.mark.parametrize("name", ["min max, imputer", "robust, imputer, standard"])
def test_steps_are_saved_and_pickled(name, tmp_path):
    pipe, X = fitted(name, "f4", 1e6, gaps=True)
    model = export_pipeline(pipe)
    assert model.graph.stage.steps
    model.save(tmp_path / "model")
    for other in (
        SparseModel.load(tmp_path / "model"),
        pickle.loads(pickle.dumps(model)),
    ):
        assert other.predict_proba(X).tobytes() == model.predict_proba(X).tobytes()
        assert not other.graph.stage.steps[0][1].flags.writeable
    assert model.transform(X).shape[0] == len(X)
    assert model.tune(X) is model
    X[0, 0] = np.inf
    with pytest.raises(ValueError, match="Input X contains infinity"):
        model.predict(X)


def test_steps_without_a_fill_refuse_nan():
    pipe, X = fitted("robust", "f4", 1e6)
    X[0, 0] = np.nan
    with pytest.raises(ValueError, match="Input X contains NaN"):
        export_pipeline(pipe).predict(X)


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ((("cube", np.ones(2)),), "Unknown step 'cube'"),
        ((("add", np.ones(3)),), "2 finite numbers"),
        ((("add", np.array([np.nan, 1])),), "2 finite numbers"),
        ((("multiply", np.full(2, 1e300)),), "in float32 too"),
        ((("divide", np.array([1.0, 0.0])),), "divided by 0"),
        ((("divide_rounded", np.full(2, 1e-60)),), "divided by 0"),
        ((("add", np.ones(2)),) * 257, "at most 256 steps"),
    ],
)
def test_steps_that_are_wrong_are_refused(steps, said):
    with pytest.raises(ValueError, match=said):
        InputStage(2, wide=True, steps=steps)


def test_steps_stand_alone():
    steps = (("add", np.ones(2)),)
    with pytest.raises(ValueError, match="steps, or a fill and a scale"):
        InputStage(2, fill=np.zeros(2), steps=steps)
