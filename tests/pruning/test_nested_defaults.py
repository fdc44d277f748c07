"""Nested parameters of the estimator that None stands for."""

import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_sparse_nn import (
    PrunedClassifier,
    PrunedClassifierCV,
    PrunedRegressor,
    PrunedRegressorCV,
    TabularNetClassifier,
    TabularNetRegressor,
)

generator = np.random.default_rng(0)
X = generator.normal(size=(40, 4))
y = (X[:, 0] > 0).astype(int)
EPOCHS = {"dense_epochs": 1, "prune_epochs": 1, "finetune_epochs": 0, "random_state": 0}
PAIRS = [
    (PrunedClassifier, TabularNetClassifier),
    (PrunedRegressor, TabularNetRegressor),
    (PrunedClassifierCV, PrunedClassifier),
    (PrunedRegressorCV, PrunedRegressor),
]


@pytest.mark.parametrize(("outer", "inner"), PAIRS)
def test_they_are_listed_and_set(outer, inner):
    model = outer()
    nested = {
        name.removeprefix("estimator__"): value
        for name, value in model.get_params().items()
        if name.startswith("estimator__")
    }
    assert nested.keys() == inner().get_params().keys()
    assert "estimator__verbose" not in model.get_params(deep=False)
    assert model.estimator is None  # nothing is written by looking
    assert model.set_params(estimator__verbose=1) is model
    assert type(model.estimator) is inner
    assert model.estimator.verbose == 1
    assert clone(model).get_params()["estimator__verbose"] == 1
    assert pickle.loads(pickle.dumps(outer())).estimator is None


@pytest.mark.parametrize(("outer", "inner"), PAIRS)
def test_an_unknown_one_is_refused(outer, inner):
    with pytest.raises(ValueError, match=f"'nothing' for estimator {inner.__name__}"):
        outer().set_params(estimator__nothing=1)


def test_a_search_within_a_search_takes_a_net_too():
    search = PrunedClassifierCV().set_params(estimator__lr=0.1)
    assert search.estimator.lr == 0.1
    search = PrunedClassifierCV().set_params(estimator__estimator__lr=0.1)
    assert search.estimator.estimator.lr == 0.1


def test_a_none_that_is_set_goes_first():
    net = TabularNetClassifier((3,))
    model = PrunedClassifier(net).set_params(estimator=None, estimator__lr=0.5)
    assert model.estimator.lr == 0.5
    assert model.estimator.hidden_layer_sizes == (256, 256, 256)
    assert net.lr == 0.001
    model = PrunedClassifier().set_params(estimator=net, estimator__lr=0.5)
    assert model.estimator is net


def test_grids_find_what_they_find_with_the_net_itself():
    grid = {"estimator__lr": [0.001, 0.1], "estimator__hidden_layer_sizes": [(4,)]}
    results = []
    for net in (None, TabularNetClassifier()):
        pruner = PrunedClassifier(net, sparsity=0.5, **EPOCHS)
        search = GridSearchCV(pruner, grid, cv=2, error_score="raise").fit(X, y)
        results.append(search.cv_results_["mean_test_score"])
        assert pruner.estimator is net
    np.testing.assert_array_equal(*results)
    pipe = make_pipeline(StandardScaler(), PrunedClassifier(sparsity=0.5, **EPOCHS))
    inside = {f"prunedclassifier__{name}": values for name, values in grid.items()}
    GridSearchCV(pipe, inside, cv=2, error_score="raise").fit(X, y)
