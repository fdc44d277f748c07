"""Swaps: as many live as before, the least important go, the most wanted grow."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sklearn_sparse_nn.core.granularity import resolve_granularity
from sklearn_sparse_nn.core.regrowth import REGROWTHS, Regrow, resolve_regrow, swap
from sklearn_sparse_nn.core.scores import gradient, magnitude, random
from sklearn_sparse_nn.exceptions import NonFiniteScoreError, UnknownNameError
from tests.core.oracles import group_of_each_weight, half_up, mean_of_group
from tests.core.strategies import (
    GROUPED,
    explore,
    fractions,
    layers,
    seeds,
    weight_tensors,
)

GRANULARITIES = ("unstructured", *GROUPED)


@st.composite
def sparse_layers(draw, granularity):
    """Layers some of whose groups are dead, and slopes to grow by."""
    weights = draw(layers())
    rng = np.random.default_rng(draw(seeds))
    chance = draw(st.floats(0, 1))
    masks, slopes = {}, {}
    for name, weight in weights.items():
        label = group_of_each_weight(granularity, weight.shape)
        alive = rng.random(label.max() + 1) < chance
        masks[name] = torch.as_tensor(alive[label])
        weights[name] = weight * masks[name]
        quarters = rng.integers(-4, 5, weight.shape) / 4
        slopes[name] = torch.as_tensor(quarters, dtype=torch.float32)
    return weights, masks, slopes


def swapped(weights, masks, slopes, share, granularity="unstructured", **parts):
    parts = {"importance": magnitude, "grow": gradient, **parts}
    return swap(
        weights,
        {"grad": slopes, "generator": torch.Generator().manual_seed(0)},
        masks,
        granularity=resolve_granularity(granularity),
        share=share,
        **parts,
    )


def expected_swap(weight, mask, slope, share, granularity):
    """Swap groups one after another, by exact scores; of equal ones the first win."""
    label = group_of_each_weight(granularity, weight.shape)
    groups = range(label.max() + 1)
    mask = mask.numpy()

    def by(scores):
        scores = np.abs(scores.numpy())
        means = [mean_of_group(scores, label == group) for group in groups]
        return lambda group: (-means[group], group)

    alive = sorted((g for g in groups if mask[label == g].any()), key=by(weight))
    n = min(half_up(share, len(alive)), len(groups) - len(alive))
    keep = alive[: len(alive) - n]
    room = sum((mask & (label == g)).sum() for g in alive[len(alive) - n :])
    new = np.isin(label, keep) & mask
    for group in sorted(set(groups) - set(keep), key=by(slope)):
        size = (label == group).sum()
        if size <= room:
            room -= size
            new |= label == group
    return new


@explore
@given(st.data(), fractions)
def test_a_layer_has_as_many_living_weights_as_before(data, share):
    weights, masks, slopes = data.draw(sparse_layers("unstructured"))
    new = swapped(weights, masks, slopes, share)
    for name, mask in masks.items():
        assert int(new[name].sum()) == int(mask.sum())


@explore
@given(st.data(), fractions, st.sampled_from(GRANULARITIES))
def test_the_worst_go_and_the_most_wanted_grow(data, share, granularity):
    weights, masks, slopes = data.draw(sparse_layers(granularity))
    new = swapped(weights, masks, slopes, share, granularity)
    for name, mask in masks.items():
        given_ = weights[name], mask, slopes[name], share, granularity
        np.testing.assert_array_equal(new[name].numpy(), expected_swap(*given_))


@explore
@given(st.data(), fractions, st.sampled_from(GROUPED))
def test_groups_of_different_sizes_cost_less_than_one_of_them(data, share, granularity):
    weights, masks, slopes = data.draw(sparse_layers(granularity))
    new = swapped(weights, masks, slopes, share, granularity)
    for name, mask in masks.items():
        label = group_of_each_weight(granularity, mask.shape)
        lost = int(mask.sum()) - int(new[name].sum())
        assert 0 <= lost < max(np.bincount(label.ravel()))


@pytest.mark.parametrize("granularity", ["block:4x1", "block:3x2"])
def test_many_swaps_together_lose_less_than_a_group(granularity):
    rng = np.random.default_rng(0)
    label = group_of_each_weight(granularity, (10, 21))  # ragged
    mask = torch.as_tensor((rng.random(label.max() + 1) < 0.5)[label])
    n_before = int(mask.sum())
    for _ in range(40):
        weight, slope = torch.as_tensor(rng.normal(size=(2, 10, 21)))
        parts = {"a": weight * mask}, {"a": mask}, {"a": slope}
        mask = swapped(*parts, 0.3, granularity, n_alive={"a": n_before})["a"]
        assert int(mask.sum()) <= n_before
    assert n_before - int(mask.sum()) < max(np.bincount(label.ravel()))


@explore
@given(st.data(), fractions, st.sampled_from(GRANULARITIES))
def test_groups_stay_whole(data, share, granularity):
    weights, masks, slopes = data.draw(sparse_layers(granularity))
    new = swapped(weights, masks, slopes, share, granularity)
    for mask in new.values():
        label = group_of_each_weight(granularity, mask.shape)
        assert all(len(set(mask.numpy()[label == g])) == 1 for g in np.unique(label))


@explore
@given(st.data(), st.sampled_from(GRANULARITIES))
def test_a_share_of_zero_changes_nothing(data, granularity):
    weights, masks, slopes = data.draw(sparse_layers(granularity))
    new = swapped(weights, masks, slopes, 0.0, granularity)
    assert all(torch.equal(new[name], mask) for name, mask in masks.items())


@explore
@given(weight_tensors())
def test_a_layer_without_dead_weights_keeps_them_all(weight):
    masks = {"layer": torch.ones(weight.shape, dtype=torch.bool)}
    new = swapped({"layer": weight}, masks, {"layer": weight}, 0.5)
    assert new["layer"].all()


@explore
@given(weight_tensors())
def test_a_layer_without_living_weights_grows_none(weight):
    masks = {"layer": torch.zeros(weight.shape, dtype=torch.bool)}
    new = swapped({"layer": weight * 0}, masks, {"layer": weight}, 0.5)
    assert not new["layer"].any()


def test_only_what_was_dead_or_just_dropped_grows():
    rng = np.random.default_rng(0)
    weight = torch.as_tensor(rng.normal(size=(6, 10)))
    mask = torch.as_tensor(rng.random((6, 10)) < 0.5)
    # Survivors have the largest slopes of all, and must not count as grown.
    slope = torch.as_tensor(rng.random((6, 10))) + 10 * mask
    parts = {"layer": weight}, {"layer": mask}, {"layer": slope}
    new = swapped(*parts, 0.3)["layer"]
    n = half_up(0.3, int(mask.sum()))
    lowest = weight.abs()[mask].sort().values[n - 1]
    stayed = mask & (weight.abs() > lowest)
    assert new[stayed].all()
    assert int((new & ~stayed).sum()) == n


def test_what_was_dropped_can_grow_again():
    weight = torch.tensor([[1.0, 2.0, 0.0]])
    mask, slope = torch.tensor([[True, True, False]]), torch.tensor([[9.0, 0.0, 1.0]])
    new = swapped({"a": weight}, {"a": mask}, {"a": slope}, 0.5)
    assert new["a"].tolist() == [[True, True, False]]


def test_random_growth_follows_the_generator():
    rng = np.random.default_rng(0)
    weight = torch.as_tensor(rng.normal(size=(10, 10)))
    mask = torch.as_tensor(rng.random((10, 10)) < 0.3)
    parts = {"a": weight}, {"a": mask}, {"a": weight}
    once, again = (swapped(*parts, 0.5, grow=random)["a"] for _ in range(2))
    assert torch.equal(once, again)
    assert int((once & ~mask).sum()) > 5
    # Uniform: all dead places are as likely, not the first ones.
    assert (once & ~mask)[5:].any()


def test_partly_dead_groups_never_make_a_layer_larger():
    rng = np.random.default_rng(0)
    for _ in range(50):
        weight = torch.as_tensor(rng.normal(size=(5, 7)))
        mask = torch.as_tensor(rng.random((5, 7)) < 0.4)
        parts = {"a": weight * mask}, {"a": mask}, {"a": weight}
        new = swapped(*parts, 0.5, "block:2x3")["a"]
        assert int(new.sum()) <= int(mask.sum())


def test_nothing_given_is_changed():
    weight = torch.as_tensor(np.random.default_rng(0).normal(size=(4, 5)))
    mask = weight > 0
    before = weight.clone(), mask.clone()
    swapped({"a": weight}, {"a": mask}, {"a": weight}, 0.5)
    assert torch.equal(weight, before[0])
    assert torch.equal(mask, before[1])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_slopes_that_cannot_be_ranked_are_refused(bad):
    weight = torch.ones(2, 2)
    mask = weight.bool()
    with pytest.raises(NonFiniteScoreError, match="'a'"):
        swapped({"a": weight}, {"a": mask}, {"a": weight * bad}, 0.5)


# Regrow -----------------------------------------------------------------------


@explore
@given(
    st.floats(0.01, 0.99), st.floats(0.01, 1.0), st.floats(0.0, 1.0, exclude_max=True)
)
def test_the_share_is_a_half_cosine_until_it_stops(fraction, stop, part):
    found = Regrow(fraction=fraction, stop=stop).share(part * stop)
    # RigL, equation 1: alpha / 2 * (1 + cos(t pi / T_end)).
    expected = fraction / 2 * (1 + np.cos(part * np.pi))
    assert found == pytest.approx(expected, abs=1e-12)


@explore
@given(st.floats(0.01, 1.0), st.floats(0.0, 1.0))
def test_nothing_is_swapped_from_stop_on(stop, part):
    assert Regrow(stop=stop).share(stop + part * (1 - stop)) == 0.0


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 1.5, math.nan])
def test_a_bad_fraction_is_refused(fraction):
    with pytest.raises(ValueError, match="fraction must be in"):
        Regrow(fraction=fraction).share(0.0)
    with pytest.raises(ValueError, match="fraction must be in"):
        resolve_regrow(Regrow(fraction=fraction))


@pytest.mark.parametrize("stop", [0.0, -0.1, 1.01, math.nan])
def test_a_bad_stop_is_refused(stop):
    with pytest.raises(ValueError, match=r"stop in \(0, 1\]"):
        resolve_regrow(Regrow(stop=stop))


@pytest.mark.parametrize(("name", "grow"), [("random", random), ("gradient", gradient)])
def test_a_name_resolves_to_its_growth(name, grow):
    assert resolve_regrow(name) == (REGROWTHS[name], grow)


def test_no_regrowth_resolves_to_none():
    assert resolve_regrow(None) is None


def test_growth_by_a_function_of_ones_own():
    def mine(weight):
        return weight

    own = Regrow(mine)
    assert resolve_regrow(own) == (own, mine)


def test_any_object_with_a_share_is_a_regrowth():
    own = SimpleNamespace(grow="snip", share=lambda progress: 0.1)
    assert resolve_regrow(own)[0] is own


def test_an_unknown_name_is_refused_listing_the_valid_ones():
    with pytest.raises(UnknownNameError, match="'random', 'gradient'"):
        resolve_regrow("rigl")
    with pytest.raises(UnknownNameError, match="Did you mean 'gradient'"):
        resolve_regrow(Regrow("gradiant"))
