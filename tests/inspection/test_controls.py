"""What pruning is compared with: the same data and seeds, and honest counts."""

from copy import deepcopy
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.datasets import make_regression
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import train_test_split
from sklearn.utils.validation import check_is_fitted

from sklearn_sparse_nn import (
    PrunedClassifier,
    PrunedRegressor,
    TabularNetClassifier,
    TabularNetRegressor,
)
from sklearn_sparse_nn.core.allocation import Bounded
from sklearn_sparse_nn.inspection import controls
from sklearn_sparse_nn.inspection.controlled_fits import (
    random_mask,
    scaled_widths,
    seeded,
    shuffled_mask,
)
from tests.pruning.nets import own_net, small

QUICK = {"n_steps": 2, "prune_epochs": 2, "finetune_epochs": 1}
ARMS = ["pruned", "random mask", "shuffled mask", "small dense", "dense, same epochs"]


@pytest.fixture(scope="module")
def pruner(classes):
    return PrunedClassifier(small(), sparsity=0.8, random_state=3, **QUICK).fit(
        *classes
    )


@pytest.fixture(scope="module")
def two(pruner, classes):
    return controls(pruner, *classes, n_repeats=2, random_state=5)


@pytest.fixture(scope="module")
def planted():
    """Two of twenty inputs matter."""
    X, y = make_regression(300, 20, n_informative=2, noise=0.1, random_state=0)
    net = TabularNetRegressor((12,), lr=0.02, max_epochs=8)
    pruner = PrunedRegressor(
        net, sparsity=0.9, n_steps=5, prune_epochs=5, finetune_epochs=5
    )
    return controls(pruner, X, y, n_repeats=4)


def seeds(n, random_state):
    return np.random.RandomState(random_state).randint(2**31 - 1, size=n).tolist()


def split(classes, seed):
    X, y = classes
    return train_test_split(X, y, test_size=0.25, stratify=y, random_state=seed)


def test_pruning_beats_random_masks_where_few_inputs_matter(planted):
    table = planted.table
    assert planted.sentence.startswith("At sparsity 0.901 pruning (0.")
    beaten = planted.sentence.split(" tied with")[0].split(" lost to")[0]
    assert " beat the random mask (" in beaten
    assert "the shuffled mask (" in beaten
    assert ", and tied with the " in planted.sentence
    assert planted.sentence.endswith(", over 4 repeats.")
    assert table.loc["random mask", "wins"] == 4
    margin = 2 * table.loc["random mask", "difference_std_error"]
    assert table.loc["random mask", "difference"] > margin


def test_the_table_is_made_of_the_paired_scores(planted):
    table, scores = planted.table, planted.scores
    assert table.index.tolist() == list(scores) == ARMS
    for arm in ARMS:
        row, differences = table.loc[arm], scores["pruned"] - scores[arm]
        assert row["score"] == pytest.approx(scores[arm].mean())
        assert row["std"] == pytest.approx(scores[arm].std(ddof=1))
        assert row["difference"] == pytest.approx(differences.mean())
        error = differences.std(ddof=1) / 2
        assert row["difference_std_error"] == pytest.approx(error)
        assert row["wins"] == (differences > 0).sum()


def test_every_score_can_be_had_by_hand(pruner, two, classes):
    for repeat, seed in enumerate(seeds(2, 5)):
        X, X_test, y, y_test = split(classes, seed)
        by_hand = {
            "pruned": PrunedClassifier(
                small(random_state=seed), sparsity=0.8, random_state=seed, **QUICK
            ),
            "random mask": PrunedClassifier(
                small(random_state=seed),
                sparsity=0.8,
                importance="random",
                random_state=seed,
                **QUICK,
            ),
            "dense, same epochs": small(max_epochs=3 + 2 + 1, random_state=seed),
        }
        for arm, estimator in by_hand.items():
            score = estimator.fit(X, y).score(X_test, y_test)
            assert two.scores[arm][repeat] == score


def test_dense_for_the_same_epochs_is_the_dense_net_bit_for_bit(classes):
    X, y = classes
    seen = []

    def keep(estimator, X, y):
        # Weights: a pruner predicts by the sparse runtime, and a dense net by torch.
        seen.append(deepcopy(estimator.net_.module_.state_dict()))
        return 0.0

    pruner = PrunedClassifier(small(), allocation=Bounded(min_sparsity=0.2), **QUICK)
    controls(pruner, X, y, X_test=X, y_test=y, n_repeats=1, scoring=keep)
    net = small(max_epochs=6, random_state=seeds(1, 0)[0]).fit(X, y)
    found = seen[ARMS.index("dense, same epochs")]
    for name, tensor in net.net_.module_.state_dict().items():
        assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize(
    "how",
    [
        {"sparsity": 0.83},
        {"sparsity": {"hidden_0": 0.71, "hidden_1": 0.0}},
        {"sparsity": 47, "allocation": "lamp"},
        {"threshold": 0.2},
        {"budget": {"bytes": 1000}},
        {"sparsity": 0.6, "granularity": "2:4"},
        {"sparsity": 0.5, "granularity": "neuron", "importance": "apoz"},
        {"sparsity": 0.5, "granularity": "block:4x4"},
        {"sparsity": 0.8, "penalty": "l0"},
        {"sparsity": 0.8, "regrow": "gradient", "dense_epochs": 0},
        {"sparsity": 0.0},
    ],
    ids=str,
)
def test_shuffled_masks_have_the_same_counts_in_every_layer(classes, how):
    pruner = seeded(PrunedClassifier(small(), **QUICK, **how), 1)
    pruned = deepcopy(pruner).fit(*classes)
    shuffled = shuffled_mask(pruner, pruned).fit(*classes)
    rest = dict.fromkeys(pruned.masks_, 0.0)
    assert {**rest, **shuffled.layer_sparsity_} == pruned.layer_sparsity_
    assert (
        shuffled.report()["nonzeros"].tolist() == pruned.report()["nonzeros"].tolist()
    )
    if pruned.sparsity_:
        assert any(
            (mask != pruned.masks_[name]).any()
            for name, mask in shuffled.masks_.items()
        )


@pytest.mark.parametrize(
    "how",
    [
        {"sparsity": 0.7},
        {"threshold": 0.2},
        {"budget": {"bytes": 1000}},
        {"sparsity": 0.8, "penalty": "l1"},
        {"sparsity": 0.5, "granularity": "neuron", "importance": "fpgm"},
    ],
    ids=str,
)
def test_random_masks_are_as_sparse(classes, how):
    pruner = seeded(PrunedClassifier(small(), **QUICK, **how), 1)
    pruned = deepcopy(pruner).fit(*classes)
    random = random_mask(pruner, pruned).fit(*classes)
    assert random.importance == "random"
    assert random.n_nonzero_ == pruned.n_nonzero_
    assert (random.masks_["hidden_0"] != pruned.masks_["hidden_0"]).any()


def test_layers_with_strange_names_are_shuffled_too(classes):
    class Odd(torch.nn.Sequential):
        def __init__(self):
            super().__init__()
            self.add_module("a[0]", torch.nn.Linear(8, 10))
            self.add_module("relu", torch.nn.ReLU())
            self.add_module("a*", torch.nn.Linear(10, 3))

    pruner = PrunedClassifier(own_net(Odd), sparsity=0.7, random_state=0, **QUICK)
    pruned = deepcopy(pruner).fit(*classes)
    shuffled = shuffled_mask(pruner, pruned).fit(*classes)
    assert shuffled.layer_sparsity_ == pruned.layer_sparsity_


@pytest.mark.parametrize("widths", [(16, 12), (7,), (30, 3, 11)])
def test_the_small_net_is_the_largest_that_fits(widths):
    def size(widths):
        return sum(a * b for a, b in pairwise([8, *widths, 3]))

    for n in range(size([1] * len(widths)), size(widths) + 1, 7):
        found = scaled_widths(list(widths), n, n_inputs=8, n_outputs=3)
        assert size(found) <= n
        # Every net of the family, by brute force over fine steps of the factor.
        family = {
            tuple(max(1, width * step // 9240) for width in widths)
            for step in range(0, 9241, 3)
        }
        assert size(found) == max(size(w) for w in family if size(w) <= n)
    assert scaled_widths(list(widths), size(widths), n_inputs=8, n_outputs=3) == widths


def test_weights_and_sparsities(two):
    table = two.table
    assert table.loc[["pruned", "random mask", "shuffled mask"], "weights"].eq(71).all()
    assert table.loc["dense, same epochs", "weights"] == 356
    assert 71 * 0.7 < table.loc["small dense", "weights"] <= 71
    assert table.loc["pruned", "sparsity"] == pytest.approx(1 - 71 / 356)
    assert table.loc["small dense", "sparsity"] == 0
    assert (table["effective_sparsity"] >= table["sparsity"]).all()
    assert table.loc["random mask", "effective_sparsity"] > 0.81


def test_two_workers_give_the_same_bits(pruner, two, classes):
    parallel = controls(pruner, *classes, n_repeats=2, random_state=5, n_jobs=2)
    pd.testing.assert_frame_equal(parallel.table, two.table, check_exact=True)
    assert parallel.sentence == two.sentence
    for arm in ARMS:
        assert np.array_equal(parallel.scores[arm], two.scores[arm])


def test_nothing_passed_in_changes(classes):
    X, y = (array.copy() for array in classes)
    pruner = PrunedClassifier(small(), sparsity=0.8, random_state=3, **QUICK).fit(X, y)
    proba, params = pruner.predict_proba(X), repr(pruner.get_params())
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    controls(pruner, X, y, n_repeats=1)
    assert np.array_equal(pruner.predict_proba(X), proba)
    assert repr(pruner.get_params()) == params
    assert all(np.array_equal(a, b) for a, b in zip((X, y), classes, strict=True))
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002


def test_an_unfitted_pruner_gives_the_same_and_stays_unfitted(pruner, two, classes):
    unfitted = PrunedClassifier(small(), sparsity=0.8, **QUICK)
    found = controls(unfitted, *classes, n_repeats=2, random_state=5)
    pd.testing.assert_frame_equal(found.table, two.table)
    with pytest.raises(NotFittedError):
        check_is_fitted(unfitted)


def test_a_net_of_ones_own_has_no_small_version(classes):
    pruner = PrunedClassifier(own_net(), sparsity=0.5, **QUICK)
    found = controls(pruner, *classes, n_repeats=2)
    assert found.table.loc["small dense"].isna().all()
    assert found.table.drop("small dense")["score"].notna().all()
    assert found.table["effective_sparsity"].isna().all()
    assert "no small dense net" in found.sentence
    assert "of your own cannot be scaled" in found.sentence
    assert "the small dense net (" not in found.sentence


def test_frozen_nets_are_where_masks_start_and_dense_nets_start_anew(classes):
    X, y = classes
    net = small(random_state=7).fit(X, y)
    pruner = PrunedClassifier(FrozenEstimator(net), sparsity=0.8, **QUICK)
    options = {"X_test": X, "y_test": y, "scoring": "neg_log_loss"}
    found = controls(pruner, X, y, n_repeats=2, **options)
    dense = found.scores["dense, same epochs"]
    assert dense[0] != dense[1]
    for value, seed in zip(dense, seeds(2, 0), strict=True):
        scratch = small(max_epochs=3 + 2 + 1, random_state=seed).fit(X, y)
        log_proba = np.log(scratch.predict_proba(X)[np.arange(len(y)), y])
        assert value == pytest.approx(log_proba.mean(), rel=1e-5)
    # A magnitude mask of one frozen net is one mask, and trained in one way.
    assert found.scores["pruned"][0] == found.scores["pruned"][1]
    assert found.table.notna().all(axis=None)


def test_a_frozen_pruner_has_no_dense_nets(pruner, classes):
    outer = PrunedClassifier(FrozenEstimator(pruner), sparsity=0.9, **QUICK)
    found = controls(outer, *classes, n_repeats=1)
    assert found.table.loc[["small dense", "dense, same epochs"], "score"].isna().all()
    assert "no dense nets" in found.sentence


def test_one_repeat_decides_nothing(pruner, classes):
    found = controls(pruner, *classes, n_repeats=1)
    assert "one repeat decides nothing" in found.sentence
    assert "beat" not in found.sentence
    assert found.table[["std", "difference_std_error"]].isna().all(axis=None)
    assert found.table["score"].notna().all()


def test_a_small_net_that_is_too_large_all_the_same_is_mentioned(classes):
    pruner = PrunedClassifier(small(), sparsity=9, allocation="erk", **QUICK)
    found = controls(pruner, *classes, n_repeats=1)
    assert found.table.loc["small dense", "weights"] == 8 + 1 + 3
    assert found.sentence.endswith(
        "The small dense net has 12 weights and the sparse one 9: it gets no smaller."
    )


def test_the_default_net_and_dataframes(values):
    X, y = pd.DataFrame(values[0]).add_prefix("x"), pd.Series(values[1])
    pruner = PrunedRegressor(
        dense_epochs=1, n_steps=1, prune_epochs=1, finetune_epochs=0
    )
    found = controls(
        pruner, X, y, n_repeats=1, scoring="neg_mean_absolute_error", test_size=20
    )
    assert (found.table["score"] < 0).all()


def test_bad_input_is_refused(pruner, classes):
    X, y = classes
    with pytest.raises(TypeError, match=r"PrunedClassifier.*TabularNetClassifier"):
        controls(TabularNetClassifier(), X, y)
    with pytest.raises(ValueError, match="X_test was given without y_test"):
        controls(pruner, X, y, X_test=X)
    with pytest.raises(ValueError, match=r"n_repeats must be.*got 0"):
        controls(pruner, X, y, n_repeats=0)
    with pytest.raises(ValueError, match=r"one score.*'recall'"):
        controls(pruner, X, y, scoring=["accuracy", "recall"])
    with pytest.raises(ValueError, match="one number"):
        controls(pruner, X, y, n_repeats=1, scoring=lambda *_: np.zeros(2))


def test_without_pandas_it_says_what_to_install(pruner, classes, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r"sklearn-sparse-nn\[pandas\]"):
        controls(pruner, *classes)
