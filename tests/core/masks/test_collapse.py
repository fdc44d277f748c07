"""Layers that would collapse, and scores that cannot be ranked."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sklearn_sparse_nn.exceptions import LayerCollapseWarning, NonFiniteScoreError
from tests.core.decision import (
    decide,
    n_alive_by_layer,
    n_zeros,
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
    n_asked,
    n_to_reach_all,
    ranked_groups,
)
from tests.core.strategies import (
    GROUPED,
    explore,
    fractions,
    layers,
    weight_tensors,
)

grouped = st.sampled_from(GROUPED)


# layers that would collapse ---------------------------------------------------


@may_collapse
@explore
@given(
    layers(min_layers=2),
    st.sampled_from(ALL_KINDS),
    allocations,
    st.one_of(fractions, st.integers(1, 20)),
)
def test_every_layer_keeps_a_weight(weights, granularity, allocation, sparsity):
    masks = decide(weights, sparsity, granularity=granularity, allocation=allocation)
    assert min(n_alive_by_layer(masks).values()) >= 1


def test_a_saved_layer_does_not_cost_another_its_last_weight():
    weights = {
        "weakest": torch.full((1, 3), 0.1),
        "strongest": torch.full((1, 3), 4.0),
        "weak": torch.tensor([[2.0, 0.1, 0.1]]),
    }
    with pytest.warns(LayerCollapseWarning):
        masks = decide(weights, 4)
    assert n_alive_by_layer(masks) == {"weakest": 1, "strongest": 2, "weak": 1}


@may_collapse
@explore
@given(layers(min_layers=2), st.data())
def test_a_saved_layer_is_paid_for_elsewhere(weights, data):
    k = data.draw(st.integers(len(weights), total(weights)))
    assert n_zeros(decide(weights, k)) == total(weights) - k


@may_collapse
@explore
@given(layers(min_layers=2), grouped, st.data())
def test_saved_groups_stay_within_a_budget_that_holds_the_best_of_every_layer(
    weights, granularity, data
):
    least = sum(
        size_of_best(ranked_groups({name: weight}, granularity))
        for name, weight in weights.items()
    )
    k = data.draw(st.integers(least, total(weights)))
    masks = decide(weights, k, granularity=granularity)
    assert sum(n_alive_by_layer(masks).values()) <= k


def test_a_saved_layer_keeps_its_best_weight():
    weights = {"weak": torch.tensor([[0.1, 0.3, 0.2]]), "strong": torch.ones(2, 2)}
    with pytest.warns(LayerCollapseWarning):
        masks = decide(weights, 3)
    assert masks["weak"].tolist() == [[False, True, False]]


def test_a_saved_layer_keeps_its_best_group():
    weights = {
        "weak": torch.tensor([[0.1, 0.1], [0.2, 0.3]]),
        "strong": torch.ones(2, 2),
    }
    with pytest.warns(LayerCollapseWarning):
        masks = decide(weights, 4, granularity="neuron")
    assert masks["weak"].tolist() == [[False, False], [True, True]]


def test_the_warning_names_every_saved_layer():
    weights = {
        "weak": torch.full((1, 3), 0.1),
        "strong": torch.ones(2, 3),
        "dull": torch.full((1, 3), 0.2),
    }
    with pytest.warns(LayerCollapseWarning, match=r"\['weak', 'dull'\]"):
        decide(weights, 4)


@explore
@given(layers(min_layers=2), st.data())
def test_a_layer_is_saved_with_a_warning(weights, data):
    ranking = ranked_groups(weights, "unstructured")
    k = data.draw(st.integers(1, n_to_reach_all(weights, ranking) - 1))
    with pytest.warns(LayerCollapseWarning, match="would lose every weight"):
        decide(weights, k)


@explore
@given(weight_tensors(), st.integers(951, 999).map(lambda n: n / 1000))
def test_uniform_saves_a_tiny_layer_with_a_warning(weight, sparsity):
    weights = {"tiny": weight.reshape(-1)[:10].reshape(1, -1), "wide": torch.eye(40)}
    with pytest.warns(LayerCollapseWarning, match="'tiny'"):
        masks = decide(weights, sparsity, allocation="uniform")
    assert n_alive_by_layer(masks)["tiny"] == 1


def test_a_threshold_above_all_scores_saves_a_layer_with_a_warning():
    with pytest.warns(LayerCollapseWarning, match="'layer'"):
        masks = decide({"layer": torch.tensor([[0.1, 0.3, 0.2]])}, threshold=1.0)
    assert masks["layer"].tolist() == [[False, True, False]]


@pytest.mark.parametrize("granularity", ALL_KINDS)
def test_a_layer_asked_to_empty_empties_without_warning(granularity):
    weights = {"gone": torch.ones(3, 5), "stays": torch.ones(3, 8)}
    asked = {"gone": 1.0, "stays": 0.5}
    masks = decide(weights, asked, granularity=granularity)
    assert [mask.any().item() for mask in masks.values()] == [False, True]


def test_a_layer_that_was_empty_before_stays_empty_without_warning():
    weights = {"gone": torch.ones(3, 5), "stays": torch.ones(3, 8)}
    before = {
        "gone": torch.zeros(3, 5, dtype=torch.bool),
        "stays": torch.ones(3, 8, dtype=torch.bool),
    }
    masks = decide(weights, 0.5, masks=before)
    assert n_alive_by_layer(masks) == {"gone": 0, "stays": 39 - n_asked(0.5, 39)}


# scores that cannot be ranked -------------------------------------------------


@st.composite
def spoilt(draw):
    """Layers, one of which has a NaN or an infinity somewhere, and its name."""
    weights = draw(layers())
    name = draw(st.sampled_from(sorted(weights)))
    flat = weights[name].view(-1)
    bad = draw(st.sampled_from([np.nan, np.inf, -np.inf]))
    flat[draw(st.integers(0, len(flat) - 1))] = bad
    return weights, name


@explore
@given(spoilt(), st.sampled_from(ALL_KINDS))
def test_scores_that_are_not_finite_are_refused_naming_the_layer(spoilt, granularity):
    weights, name = spoilt
    with pytest.raises(NonFiniteScoreError, match=f"layer '{name}' contain NaN or inf"):
        decide(weights, 0.5, granularity=granularity)


@explore
@given(spoilt())
def test_scores_that_are_not_finite_leave_everything_unchanged(spoilt):
    weights, _ = spoilt
    masks = frozen(weights, 0.0, np.random.default_rng(0))
    before = [x.clone() for x in (*weights.values(), *masks.values())]
    with pytest.raises(NonFiniteScoreError):
        decide(weights, 0.5, masks=masks)
    after = [*weights.values(), *masks.values()]
    assert all(
        torch.equal(x.nan_to_num(7.5), y.nan_to_num(7.5))
        for x, y in zip(before, after, strict=True)
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_an_importance_that_gives_no_finite_score_is_refused(bad):
    def broken(weight):
        return torch.full_like(weight, bad)

    with pytest.raises(NonFiniteScoreError, match="layer 'hidden'"):
        decide({"hidden": torch.ones(2, 2)}, 0.5, importance=broken)


def test_a_non_finite_score_error_is_a_value_error():
    assert issubclass(NonFiniteScoreError, ValueError)
