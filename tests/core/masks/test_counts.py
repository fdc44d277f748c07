"""Counts of zeros: as asked, group by group, and down a schedule."""

import operator
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sklearn_sparse_nn.core.schedules import SCHEDULES, event_shares
from tests.core.decision import (
    as_lists,
    decide,
    n_zeros,
    n_zeros_by_layer,
    over_schedule,
)
from tests.core.masks.requests import (
    ALL_KINDS,
    allocations,
    frozen,
    may_collapse,
    size_of_best,
    total,
)
from tests.core.oracles import (
    half_up,
    longest_run,
    n_asked,
    n_to_reach_all,
    ranked_groups,
)
from tests.core.strategies import (
    GROUPED,
    explore,
    fractions,
    layers,
    schedules,
    seeds,
    sparsities,
    step_counts,
    weight_tensors,
)


def smallest(weights):
    return min(weight.numel() for weight in weights.values())


# exact counts -----------------------------------------------------------------


def assert_zeros(masks, expected):
    assert n_zeros(masks) == expected


@explore
@given(layers(anchored=True), st.data())
def test_zeros_of_all_layers_equal_the_count_asked(weights, data):
    size = total(weights)
    sparsity = data.draw(sparsities(size, n_kept=len(weights)))
    assert_zeros(decide(weights, sparsity), n_asked(sparsity, size))


@pytest.mark.parametrize("reaches", [operator.gt, operator.ge])
def test_a_quantile_of_tied_scores_would_miss_the_count(reaches):
    scores = torch.ones(2, 5)
    by_quantile = {"layer": reaches(scores, scores.quantile(0.5))}
    with pytest.raises(AssertionError):
        assert_zeros(by_quantile, n_asked(0.5, 10))


def test_tied_scores_are_pruned_to_the_count():
    assert_zeros(decide({"layer": torch.ones(2, 5)}, 0.5), n_asked(0.5, 10))


@explore
@given(layers(), st.data())
def test_zeros_of_every_layer_equal_its_count_under_uniform(weights, data):
    sparsity = data.draw(sparsities(smallest(weights)))
    masks = decide(weights, sparsity, allocation="uniform")
    assert n_zeros_by_layer(masks) == {
        name: n_asked(sparsity, weight.numel()) for name, weight in weights.items()
    }


@explore
@given(layers(), allocations, st.data())
def test_zeros_of_every_layer_equal_its_count_given_by_layer(weights, allocation, data):
    by_layer = {
        name: data.draw(sparsities(weight.numel())) for name, weight in weights.items()
    }
    masks = decide(weights, by_layer, allocation=allocation)
    assert n_zeros_by_layer(masks) == {
        name: n_asked(by_layer[name], weight.numel())
        for name, weight in weights.items()
    }


@explore
@given(layers(anchored=True), st.data())
def test_survivors_equal_the_number_asked(weights, data):
    k = data.draw(st.integers(len(weights), total(weights)))
    assert n_zeros(decide(weights, k)) == total(weights) - k


@explore
@given(layers(), fractions, st.data())
def test_zeros_equal_the_share_that_is_due(weights, share, data):
    sparsity = data.draw(sparsities(smallest(weights)))
    masks = decide(weights, sparsity, share=share, allocation="uniform")
    assert n_zeros_by_layer(masks) == {
        name: half_up(share, n_asked(sparsity, weight.numel()))
        for name, weight in weights.items()
    }


@explore
@given(layers(), st.sampled_from(("unstructured", *GROUPED)), st.data())
def test_global_keeps_the_longest_run_of_best_groups_that_fits(
    weights, granularity, data
):
    ranking = ranked_groups(weights, granularity)
    k = data.draw(st.integers(n_to_reach_all(weights, ranking), total(weights)))
    expected = longest_run(weights, ranking, k)
    assert as_lists(decide(weights, k, granularity=granularity)) == as_lists(expected)


@explore
@given(layers(), st.sampled_from(("unstructured", *GROUPED)), st.data())
def test_uniform_keeps_the_longest_run_of_every_layer_that_fits(
    weights, granularity, data
):
    rankings = {
        name: ranked_groups({name: weight}, granularity)
        for name, weight in weights.items()
    }
    sparsity = min(
        data.draw(sparsities(weight.numel(), n_kept=size_of_best(rankings[name])))
        for name, weight in weights.items()
    )
    asked = {"granularity": granularity, "allocation": "uniform"}
    expected = {}
    for name, weight in weights.items():
        n_kept = weight.numel() - n_asked(sparsity, weight.numel())
        expected |= longest_run({name: weight}, rankings[name], n_kept)
    assert as_lists(decide(weights, sparsity, **asked)) == as_lists(expected)


@explore
@given(layers(), st.data())
def test_of_equal_weights_the_first_in_memory_order_live(weights, data):
    weights = {name: torch.ones_like(weight) for name, weight in weights.items()}
    sparsity = data.draw(sparsities(smallest(weights)))
    masks = decide(weights, sparsity, allocation="uniform")
    for mask in masks.values():
        flat = mask.reshape(-1).tolist()
        assert flat == sorted(flat, reverse=True)


@pytest.mark.parametrize("granularity", ALL_KINDS)
def test_sparsity_zero_keeps_every_weight(granularity):
    weights = {"first": torch.ones(3, 5), "last": torch.ones(2, 3, 2, 2)}
    assert n_zeros(decide(weights, 0.0, granularity=granularity)) == 0


@pytest.mark.parametrize("granularity", ALL_KINDS)
def test_weights_in_another_memory_layout_are_pruned_alike(granularity):
    rng = np.random.default_rng(0)
    weight = torch.as_tensor(rng.integers(1, 4, (4, 8, 3, 3)) / 4)
    moved = weight.contiguous(memory_format=torch.channels_last)
    masks = [
        decide({"layer": x}, 0.6, granularity=granularity) for x in (weight, moved)
    ]
    assert torch.equal(masks[0]["layer"], masks[1]["layer"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_zeros_equal_the_count_in_every_precision(dtype):
    weights = {"layer": torch.arange(100).reshape(10, 10).to(dtype)}
    assert n_zeros(decide(weights, 0.29)) == 29


# over a schedule --------------------------------------------------------------


def events(weights, schedule, n_steps, seed, **asked):
    shares = event_shares(SCHEDULES[schedule], n_steps)
    rng = np.random.default_rng(seed)
    return shares, list(over_schedule(weights, shares, rng, **asked))


@may_collapse
@explore
@given(
    layers(),
    st.sampled_from(ALL_KINDS),
    allocations,
    st.one_of(fractions, st.integers(1, 60)),
    schedules,
    step_counts,
    seeds,
)
def test_a_later_mask_is_a_subset_of_an_earlier_one(
    weights, granularity, allocation, sparsity, schedule, n_steps, seed
):
    asked = {
        "sparsity": sparsity,
        "granularity": granularity,
        "allocation": allocation,
    }
    _, masks = events(weights, schedule, n_steps, seed, **asked)
    grown = [
        bool((later[name] & ~earlier[name]).any())
        for earlier, later in pairwise(masks)
        for name in weights
    ]
    assert not any(grown)


@explore
@given(layers(anchored=True), schedules, step_counts, seeds, st.data())
def test_zeros_after_every_event_equal_the_schedule(
    weights, schedule, n_steps, seed, data
):
    size = total(weights)
    sparsity = data.draw(sparsities(size, n_kept=len(weights)))
    shares, masks = events(weights, schedule, n_steps, seed, sparsity=sparsity)
    expected = [half_up(share, n_asked(sparsity, size)) for share in shares]
    assert [n_zeros(mask) for mask in masks] == expected


@explore
@given(layers(anchored=True), schedules, step_counts, seeds, st.data())
def test_zeros_of_a_layer_after_every_event_equal_the_schedule(
    weights, schedule, n_steps, seed, data
):
    sparsity = data.draw(sparsities(smallest(weights)))
    asked = {"sparsity": sparsity, "allocation": "uniform"}
    shares, masks = events(weights, schedule, n_steps, seed, **asked)
    assert [n_zeros_by_layer(mask) for mask in masks] == [
        {
            name: half_up(share, n_asked(sparsity, weight.numel()))
            for name, weight in weights.items()
        }
        for share in shares
    ]


@explore
@given(layers(anchored=True), schedules, step_counts, seeds, st.data())
def test_zeros_after_the_last_event_equal_the_target(
    weights, schedule, n_steps, seed, data
):
    k = data.draw(st.integers(len(weights), total(weights)))
    _, masks = events(weights, schedule, n_steps, seed, sparsity=k)
    assert n_zeros(masks[-1]) == total(weights) - k


def test_a_number_of_survivors_split_over_layers_is_reached_layer_by_layer():
    # In proportion, eleven survivors are split 5, 5, 1, but ten of them 4, 4, 2: the
    # shares that are due are shares of each layer's own last split, here 2, 2 and 0.
    weights = {"a": torch.ones(1, 6), "b": torch.ones(1, 6), "c": torch.ones(1, 2)}
    rng = np.random.default_rng(0)
    asked = {"sparsity": 10, "allocation": "uniform"}
    zeros = [n_zeros(m) for m in over_schedule(weights, (0.75, 1.0), rng, **asked)]
    assert zeros == [4, 4]


@explore
@given(weight_tensors(), schedules, step_counts, st.sampled_from([0.3, 0.5, 1.1]))
def test_zeros_below_a_threshold_follow_the_schedule(
    weight, schedule, n_steps, threshold
):
    weight.view(-1)[0] = 2.0
    n_below = int((weight.abs() < threshold).sum())
    masks = None
    zeros = []
    shares = event_shares(SCHEDULES[schedule], n_steps)
    for share in shares:
        masks = decide({"layer": weight}, threshold=threshold, share=share, masks=masks)
        zeros.append(n_zeros(masks))
    assert zeros == [half_up(share, n_below) for share in shares]


@explore
@given(layers(), st.sampled_from([0.3, 0.5, 1.1]))
def test_a_threshold_prunes_every_weight_below_it(weights, threshold):
    for weight in weights.values():
        weight.view(-1)[0] = 2.0
    masks = decide(weights, threshold=threshold)
    assert as_lists(masks) == {
        name: (np.abs(weight.numpy()) >= threshold).tolist()
        for name, weight in weights.items()
    }


@explore
@given(layers(anchored=True), seeds, st.data())
def test_a_second_request_for_the_same_sparsity_prunes_nothing_more(
    weights, seed, data
):
    sparsity = data.draw(sparsities(total(weights), n_kept=len(weights)))
    once, twice = over_schedule(
        weights, (1.0, 1.0), np.random.default_rng(seed), sparsity=sparsity
    )
    assert as_lists(once) == as_lists(twice)


@explore
@given(layers(anchored=True), fractions, seeds, st.data())
def test_zeros_that_were_there_before_count(weights, share, seed, data):
    before = frozen(weights, share, np.random.default_rng(seed))
    sparsity = data.draw(sparsities(total(weights), n_kept=len(weights)))
    expected = max(n_asked(sparsity, total(weights)), n_zeros(before))
    assert n_zeros(decide(weights, sparsity, masks=before)) == expected


@may_collapse
@explore
@given(layers(), st.sampled_from(ALL_KINDS), fractions, fractions, seeds)
def test_zeros_that_were_there_before_stay(weights, granularity, share, sparsity, seed):
    before = frozen(weights, share, np.random.default_rng(seed))
    masks = decide(weights, sparsity, granularity=granularity, masks=before)
    assert all(not masks[name][~before[name]].any() for name in weights)
