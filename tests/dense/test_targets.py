"""Targets as users have them: text, objects, columns, and the numbers that they are."""

from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from sklearn_sparse_nn import (
    PrunedClassifier,
    PrunedRegressor,
    PrunedRegressorCV,
    TabularNetClassifier,
    TabularNetRegressor,
    pruning_path,
)

generator = np.random.default_rng(0)
X = generator.normal(size=(60, 3))
y = np.round(10 * X[:, 0] + 40, 2)
NET = TabularNetRegressor((4,), max_epochs=1, random_state=0)


def pruner():
    return PrunedRegressor(
        NET, sparsity=0.25, n_steps=1, prune_epochs=1, finetune_epochs=1, random_state=0
    )


TEXT = {
    "array": y.astype(str),
    "list": list(y.astype(str)),
    "bytes": y.astype("S"),
    "words": np.array(["a", "b", "c"] * 20),
    "word among numbers": np.array([*y[:-1], "?"], dtype=object),
    "dates": y.astype("int64").astype("M8[D]"),
    "durations": pd.Series(y.astype("int64").astype("m8[s]")),
}


@pytest.mark.parametrize("targets", TEXT.values(), ids=TEXT)
def test_what_is_no_number_is_named(targets):
    given = [
        lambda: NET.fit(X, targets),
        lambda: pruner().fit(X, targets),
        lambda: pruner().partial_fit(X, targets),
        lambda: PrunedRegressorCV(pruner(), sparsities=[0.5], cv=2).fit(X, targets),
        lambda: pruning_path(pruner(), X, targets, sparsities=[0.5]),
    ]
    for fit in given:
        with pytest.raises(ValueError, match=r"y has targets such as .*, of type "):
            fit()


NUMBERS = {
    "objects": y.astype(object),
    "decimals": [Decimal(str(value)) for value in y],
    "nullable": pd.Series(y, dtype="Float64"),
    "big-endian": y.astype(">f8"),
    "backwards": y[::-1].copy()[::-1],
}


@pytest.mark.parametrize("targets", NUMBERS.values(), ids=NUMBERS)
def test_numbers_of_any_type_are_the_same_numbers(targets):
    expected = pruner().fit(X, y).predict(X)
    np.testing.assert_array_equal(pruner().fit(X, targets).predict(X), expected)


def test_half_precision_targets_do_not_overflow():
    many = np.full(3000, 100.0, dtype=np.float16)  # their sum is too large for float16
    many[::2] = 200
    rows = generator.normal(size=(3000, 2))
    assert np.isfinite(NET.fit(rows, many).predict(rows)).all()


def test_targets_that_cannot_be_squared_are_refused():
    with pytest.raises(ValueError, match="too large for float64"):
        NET.fit(X, y * 1e200)


def test_missing_targets_keep_scikit_learns_words():
    targets = pd.Series(y, dtype="Float64")
    targets[3] = pd.NA
    with pytest.raises(ValueError, match="Input y contains NaN"):
        pruner().fit(X, targets)


def test_log_probabilities():
    labels = np.where(y > 40, "high", "low")
    net = TabularNetClassifier((4,), max_epochs=1, random_state=0)
    for model in (net, PrunedClassifier(net, prune_epochs=1, sparsity=0.5)):
        model.fit(X, labels)
        expected = np.log(model.predict_proba(X))
        np.testing.assert_array_equal(model.predict_log_proba(X), expected)


@pytest.mark.parametrize("kind", [sparse.dok_array, sparse.dok_matrix])
def test_a_sparse_format_that_is_a_dict_is_no_dict(kind):
    expected = NET.fit(X, y).predict(X)
    np.testing.assert_allclose(NET.fit(kind(X), y).predict(kind(X)), expected)


@pytest.mark.parametrize(
    "rows", [{"a": X[:, 0], "b": X[:, 1]}, [{"a": 1.0, "b": 2.0}] * 60]
)
def test_dicts_are_named_with_their_keys(rows):
    fitted = pruner().fit(X, y)
    for method in (
        lambda: NET.fit(rows, y),
        lambda: pruner().fit(rows, y),
        lambda: PrunedRegressorCV(pruner(), sparsities=[0.5], cv=2).fit(rows, y),
        lambda: fitted.predict(rows),
    ):
        with pytest.raises(TypeError, match=r"dict.* keys 'a', 'b'.*DataFrame"):
            method()
