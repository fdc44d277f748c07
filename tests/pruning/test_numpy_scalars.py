"""Numbers of numpy as parameters: they count as the numbers that they show."""

import numpy as np
import pytest

from sklearn_sparse_nn import (
    PrunedClassifier,
    PrunedClassifierCV,
    TabularNetClassifier,
    pruning_path,
)
from sklearn_sparse_nn._compat import InvalidParameterError
from sklearn_sparse_nn.inspection import layer_sensitivity

pytestmark = pytest.mark.filterwarnings("ignore:At this sparsity the layers")

generator = np.random.default_rng(0)
X = generator.normal(size=(40, 5))
y = (X[:, 0] > 0).astype(int)

PRUNER = {
    "threshold": 0.1,
    "n_steps": 2,
    "dense_epochs": 1,
    "prune_epochs": 2,
    "finetune_epochs": 1,
    "finetune_lr": 0.5,
    "distill": 0.25,
    "subsample": 20,
    "random_state": 3,
    "verbose": 0,
}
NET = {
    "hidden_layer_sizes": 7,
    "dropout": 0.1,
    "lr": 0.01,
    "weight_decay": 0.1,
    "batch_size": 30,
    "max_epochs": 2,
    "validation_fraction": 0.3,
    "patience": 2,
    "random_state": 1,
    "verbose": 0,
    "early_stopping": True,
}


def pruner(net=None, **kwargs):
    net = {"hidden_layer_sizes": (8,), "max_epochs": 1, "random_state": 0} | (net or {})
    options = {"prune_epochs": 2, "n_steps": 2, "finetune_epochs": 1, "random_state": 0}
    return PrunedClassifier(TabularNetClassifier(**net), **{**options, **kwargs})


def scalars(value):
    kinds = {bool: [np.bool_], int: [np.int64, np.uint8], float: [np.float32]}
    return [kind(value) for kind in kinds[type(value)]]


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64, np.longdouble])
def test_a_sparsity_is_the_decimal_that_it_shows(kind):
    expected = pruner(sparsity=0.9).fit(X, y)
    for sparsity in (kind("0.9"), {"*": kind("0.9")}):
        fitted = pruner(sparsity=sparsity).fit(X, y)
        assert fitted.n_nonzero_ == expected.n_nonzero_
    assert fitted.sparsity_ == expected.sparsity_


def test_an_integer_is_a_number_of_weights():
    assert pruner(sparsity=np.uint8(9)).fit(X, y).n_nonzero_ == 9


@pytest.mark.parametrize("name", PRUNER)
def test_parameters_of_a_pruner(name):
    expected = pruner(**{name: PRUNER[name]}).fit(X, y).predict_proba(X)
    for value in scalars(PRUNER[name]):
        fitted = pruner(**{name: value}).fit(X, y)
        np.testing.assert_array_equal(fitted.predict_proba(X), expected)
        assert getattr(fitted, name) is value


@pytest.mark.parametrize("name", NET)
def test_parameters_of_a_net(name):
    given = {"early_stopping": True, name: NET[name]}
    expected = pruner(given).fit(X, y).predict_proba(X)
    for value in scalars(NET[name]):
        fitted = pruner({**given, name: value}).fit(X, y)
        np.testing.assert_array_equal(fitted.predict_proba(X), expected)


def test_small_integers_do_not_overflow():
    counts = {"n_steps": 20, "prune_epochs": 20, "dense_epochs": 1}
    small = {name: np.int8(value) for name, value in counts.items()}
    one, other = (pruner(**given).fit(X, y) for given in (counts, small))
    assert [row["sparsity"] for row in one.history_] == [
        row["sparsity"] for row in other.history_
    ]


@pytest.mark.parametrize(
    "levels",
    [
        [np.float32(0.5), np.float32(0.9)],
        np.array([0.5, 0.9], dtype=np.float32),
        (0.5, np.float16(0.9)),
    ],
)
def test_levels_of_a_path(levels):
    assert pruning_path(pruner(), X, y, sparsities=levels).sparsities == [0.5, 0.9]
    search = PrunedClassifierCV(
        pruner(),
        sparsities=levels,
        cv=np.int64(2),
        tolerance=np.float32(0.01),
        n_jobs=np.int64(1),
        random_state=np.int64(0),
        verbose=np.int64(0),
    )
    assert search.fit(X, y).best_params_["sparsity"] in (0.5, 0.9)
    table = layer_sensitivity(search, X, y, sparsities=levels)
    assert sorted(set(table["sparsity"])) == [0.0, 0.5, 0.9]


@pytest.mark.parametrize(
    "wrong",
    [
        {"sparsity": np.bool_(True)},
        {"sparsity": np.float32(1)},
        {"n_steps": np.bool_(True)},
        {"n_steps": np.float32(2)},
        {"finetune_lr": np.float64(0)},
        {"sparsity": np.float32("nan")},
    ],
)
def test_what_is_out_of_range_is_still_refused(wrong):
    with pytest.raises(InvalidParameterError, match=next(iter(wrong))):
        pruner(**wrong).fit(X, y)
