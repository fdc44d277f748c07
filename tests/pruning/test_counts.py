"""Masks and counts, end to end: invariants 1 to 8."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from sklearn.frozen import FrozenEstimator

from sklearn_sparse_nn import PrunedClassifier, TabularNetClassifier
from sklearn_sparse_nn.core.allocation import n_pruned
from sklearn_sparse_nn.core.schedules import resolve_schedule
from sklearn_sparse_nn.exceptions import (
    LayerCollapseWarning,
    NonFiniteScoreError,
    UnknownNameError,
)
from tests.pruning.nets import small, zeros_of

SIZE = 8 * 16 + 16 * 12 + 12 * 3
QUICK = {"n_steps": 2, "prune_epochs": 2, "finetune_epochs": 1, "random_state": 0}


@pytest.mark.parametrize("sparsity", [0.1, 0.29, 0.5, 0.777, 0.9])
def test_zeros_in_the_weights_equal_the_count_asked(classes, sparsity):
    pruner = PrunedClassifier(small(), sparsity=sparsity, **QUICK).fit(*classes)
    assert sum(zeros_of(pruner).values()) == n_pruned(sparsity, SIZE)
    assert pruner.n_nonzero_ == SIZE - n_pruned(sparsity, SIZE)
    assert pruner.sparsity_ == n_pruned(sparsity, SIZE) / SIZE


@pytest.mark.parametrize("k", [30, np.int64(100), SIZE - 1])
def test_an_int_is_the_number_of_nonzeros_kept(classes, k):
    pruner = PrunedClassifier(small(), sparsity=k, **QUICK).fit(*classes)
    assert sum(zeros_of(pruner).values()) == SIZE - k


def test_a_dict_gives_fractions_by_layer_and_spares_the_rest(classes):
    sparsity = {"hidden_1": 0.25, "hidden_*": 0.5}
    pruner = PrunedClassifier(small(), sparsity=sparsity, **QUICK).fit(*classes)
    assert zeros_of(pruner) == {"hidden_0": 64, "hidden_1": 48}
    assert not (pruner.net_.module_.output.weight == 0).any()


def test_uniform_gives_every_layer_its_own_count(classes):
    pruner = PrunedClassifier(small(), sparsity=0.7, allocation="uniform", **QUICK)
    zeros = zeros_of(pruner.fit(*classes))
    assert zeros == {
        "hidden_0": n_pruned(0.7, 128),
        "hidden_1": n_pruned(0.7, 192),
        "output": n_pruned(0.7, 36),
    }


def test_a_threshold_leaves_no_lower_score(classes):
    dense = small(random_state=0).fit(*classes)
    pruner = PrunedClassifier(
        FrozenEstimator(dense),
        threshold=0.2,
        schedule="oneshot",
        prune_epochs=0,
        finetune_epochs=0,
    ).fit(*classes)
    before = dict(dense.net_.module_.named_parameters())
    for name, mask in pruner.masks_.items():
        expected = before[f"{name}.weight"].detach().abs().numpy() >= 0.2
        assert np.array_equal(mask, expected)


@pytest.mark.parametrize(
    "schedule", ["oneshot", "linear", "cubic", "exponential", "cosine"]
)
def test_the_sparsity_after_each_event_is_the_schedules(classes, schedule):
    pruner = PrunedClassifier(
        small(), schedule=schedule, n_steps=5, prune_epochs=5, finetune_epochs=1
    ).fit(*classes)
    rows = [row for row in pruner.history_ if row["phase"] == "prune"]
    final = n_pruned(0.9, SIZE)
    share = resolve_schedule(schedule)
    expected = [n_pruned(share((i + 1) / 5), final) / SIZE for i in range(5)]
    assert [row["sparsity"] for row in rows] == pytest.approx(expected, abs=1e-12)
    assert pruner.sparsity_ == final / SIZE


def test_later_masks_are_subsets_of_earlier_ones(classes):
    seen = []

    def watching(weight):
        seen.append((weight != 0).clone())
        return weight.abs()

    pruner = PrunedClassifier(
        small(hidden_layer_sizes=()),
        importance=watching,
        n_steps=4,
        prune_epochs=8,
        finetune_epochs=1,
        sparsity=0.8,
    ).fit(*classes)
    seen.append(torch.from_numpy(pruner.masks_["output"]))
    assert len(seen) == 5
    for earlier, later in pairwise(seen):
        assert not (later & ~earlier).any()
    assert seen[0].all()
    assert not seen[1].all()


def test_a_second_request_is_a_total_not_a_product(classes):
    once = PrunedClassifier(small(), sparsity=0.5, **QUICK).fit(*classes)
    again = PrunedClassifier(FrozenEstimator(once), sparsity=0.5, **QUICK).fit(*classes)
    assert again.sparsity_ == 0.5
    for name, mask in again.masks_.items():
        assert np.array_equal(mask, once.masks_[name])


def test_a_sparser_request_on_a_sparse_net_keeps_its_zeros(classes):
    once = PrunedClassifier(small(), sparsity=0.5, **QUICK).fit(*classes)
    more = PrunedClassifier(FrozenEstimator(once), sparsity=0.8, **QUICK).fit(*classes)
    assert sum(zeros_of(more).values()) == n_pruned(0.8, SIZE)
    for name, mask in more.masks_.items():
        assert not (mask & ~once.masks_[name]).any()


def test_a_denser_request_on_a_sparse_net_revives_nothing(classes):
    once = PrunedClassifier(small(), sparsity=0.5, **QUICK).fit(*classes)
    less = PrunedClassifier(FrozenEstimator(once), sparsity=0.2, **QUICK)
    with pytest.warns(UserWarning, match="What is zero stays zero"):
        less.fit(*classes)
    assert less.sparsity_ == 0.5
    none = PrunedClassifier(FrozenEstimator(once), sparsity=0, **QUICK).fit(*classes)
    assert none.sparsity_ == 0.5
    assert sum(zeros_of(none).values()) == SIZE // 2


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_scores_without_order_are_an_error_that_names_the_layer(classes, bad):
    def spoiled(weight):
        scores = weight.abs()
        if weight.shape[0] == 12:
            scores[0, 0] = bad
        return scores

    with pytest.raises(NonFiniteScoreError, match="'hidden_1'"):
        PrunedClassifier(small(), importance=spoiled, **QUICK).fit(*classes)


def test_no_layer_ends_empty(classes):
    pruner = PrunedClassifier(small(), sparsity=0.99, **QUICK)
    pruner.set_params(importance=lambda weight: weight.abs() / weight.shape[0] ** 3)
    with pytest.warns(LayerCollapseWarning, match="hidden_0"):
        pruner.fit(*classes)
    assert all(mask.any() for mask in pruner.masks_.values())
    assert sum(zeros_of(pruner).values()) == n_pruned(0.99, SIZE)


def test_a_layer_may_be_emptied_on_request(classes):
    pruner = PrunedClassifier(small(), sparsity={"hidden_0": 1.0}, **QUICK).fit(
        *classes
    )
    assert not pruner.masks_["hidden_0"].any()
    assert np.ptp(pruner.predict_proba(classes[0]), axis=0).max() < 1e-6


@pytest.mark.parametrize(
    ("parameter", "value", "hint"),
    [
        ("importance", "magnitud", "Did you mean 'magnitude'"),
        ("granularity", "neurons", "Did you mean 'neuron'"),
        ("allocation", "globl", "Did you mean 'global'"),
        ("schedule", "cubik", "Did you mean 'cubic'"),
        ("layers", "hiden_0", "Did you mean 'hidden_0'"),
        ("sparsity", {"ouput": 0.5}, "Did you mean 'output'"),
    ],
)
def test_unknown_names_get_a_hint_before_training(classes, parameter, value, hint):
    with pytest.raises(UnknownNameError, match=hint):
        PrunedClassifier(small(), **{parameter: value}).fit(*classes)


@pytest.mark.parametrize("width", [8, 7])
def test_n_of_m_holds_in_every_group_along_the_inputs(classes, width):
    X, y = classes
    pruner = PrunedClassifier(small(), sparsity=0.5, granularity="2:4", **QUICK)
    pruner.fit(X[:, :width], y)
    for mask in pruner.masks_.values():
        for start in range(0, mask.shape[1], 4):
            assert mask[:, start : start + 4].sum(1).max() <= 2


@pytest.mark.parametrize(
    ("granularity", "groups"),
    [
        ("neuron", lambda mask: mask),
        ("input", lambda mask: mask.T),
        ("block:4x4", lambda mask: _blocks(mask, 4, 4)),
        ("block:5x3", lambda mask: _blocks(mask, 5, 3)),
    ],
)
def test_groups_live_or_die_whole(classes, granularity, groups):
    pruner = PrunedClassifier(
        small(), sparsity=0.6, granularity=granularity, allocation="uniform", **QUICK
    ).fit(*classes)
    assert 0.6 <= pruner.sparsity_ < 1
    for mask in pruner.masks_.values():
        for group in groups(mask):
            assert group.all() or not group.any()


def _blocks(mask, rows, columns):
    for r in range(0, mask.shape[0], rows):
        for c in range(0, mask.shape[1], columns):
            yield mask[r : r + rows, c : c + columns]


def test_neuron_pruning_leaves_the_outputs_alone_unless_named(classes):
    options = {"sparsity": 0.5, "granularity": "neuron", "allocation": "uniform"}
    spared = PrunedClassifier(small(), **options, **QUICK).fit(*classes)
    assert list(spared.masks_) == ["hidden_0", "hidden_1"]
    named = PrunedClassifier(small(), **options, **QUICK, layers="output")
    assert list(named.fit(*classes).masks_) == ["output"]


def test_random_importance_is_a_control_of_its_own_seed(classes):
    def masks(seed):
        options = {**QUICK, "random_state": seed}
        pruner = PrunedClassifier(
            small(random_state=0), importance="random", **options
        ).fit(*classes)
        return np.concatenate([mask.ravel() for mask in pruner.masks_.values()])

    assert np.array_equal(masks(0), masks(0))
    assert not np.array_equal(masks(0), masks(1))


def test_sparsity_is_monotone_in_what_is_asked(classes):
    counts = [
        PrunedClassifier(small(), sparsity=s, **QUICK).fit(*classes).n_nonzero_
        for s in (0, 0.1, 0.11, 0.5, 0.501, 0.9)
    ]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] == SIZE


def test_default_estimator_is_the_tabular_net(classes):
    pruner = PrunedClassifier(dense_epochs=1, **QUICK).fit(*classes)
    plain = TabularNetClassifier(max_epochs=1).fit(*classes)
    assert list(pruner.net_.module_.state_dict()) == list(
        plain.net_.module_.state_dict()
    )
