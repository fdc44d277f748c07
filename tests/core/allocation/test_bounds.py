"""Allocations within bounds."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn.base import clone

from sklearn_sparse_nn.core.allocation import (
    ALLOCATIONS,
    Bounded,
    resolve_allocation,
)
from sklearn_sparse_nn.core.budget import Budget
from sklearn_sparse_nn.exceptions import UnknownNameError
from tests.core.allocation.draws import (
    agree,
    bounds,
    layer_shapes,
    living,
    n_alive,
    n_weights,
    nets,
    pools,
    splits,
)
from tests.core.strategies import explore, fractions, seeds


def limits(shapes, bounds, budget):
    """Give the fewest and most weights of every layer, exactly as written."""
    least, most = (Fraction(str(bound)) for bound in bounds)
    by_now = least * Fraction(str(budget.share))
    low = {name: (1 - most) * n for name, n in n_weights(shapes).items()}
    high = {name: (1 - by_now) * n for name, n in n_weights(shapes).items()}
    return low, high


def all_alive(shapes, seed):
    """Draw distinct scores for layers of which nothing died."""
    rng = np.random.default_rng(seed)
    ranks = iter(rng.permutation(sum(n_weights(shapes).values())).tolist())
    scores = {
        name: torch.tensor([next(ranks) + 1.0 for _ in range(n)]).double()
        for name, n in n_weights(shapes).items()
    }
    return scores, {name: torch.ones(len(x)).long() for name, x in scores.items()}


@explore
@given(layer_shapes, bounds, fractions, fractions, splits, seeds)
def test_every_layer_is_within_bounds_and_all_within_budget(
    shapes, least_most, sparsity, share, inner, seed
):
    scores, alive = all_alive(shapes, seed)
    budget = Budget(n_weights(shapes), sparsity, share=share, shapes=shapes)
    allocation = Bounded(inner, *least_most)
    assume(agree(allocation, budget))
    low, high = limits(shapes, least_most, budget)
    kept = allocation(scores, alive, budget)
    assert sum(kept.values()) == budget.kept()
    # A weight cannot be split: sometimes only the next count makes the budget, or
    # there is no count between the bounds of a tiny layer.
    slack_low = sum(map(math.ceil, low.values())) > budget.kept()
    slack_high = sum(map(math.floor, high.values())) < budget.kept()
    for name, n in kept.items():
        slack = math.ceil(low[name]) > math.floor(high[name])
        assert n >= (math.floor(low[name]) if slack_low else low[name])
        assert n <= (math.ceil(high[name]) if slack_high or slack else high[name])


@explore
@given(layer_shapes, bounds, fractions, seeds)
def test_bounded_global_is_one_ranking_of_what_is_free_to_go(
    shapes, least_most, sparsity, seed
):
    scores, alive = all_alive(shapes, seed)
    budget = Budget(n_weights(shapes), sparsity)
    allocation = Bounded("global", *least_most)
    assume(agree(allocation, budget))
    low, high = limits(shapes, least_most, budget)
    low = {name: math.ceil(x) for name, x in low.items()}
    high = {name: max(math.floor(x), low[name]) for name, x in high.items()}
    assume(sum(low.values()) <= budget.kept() <= sum(high.values()))
    # Some cut-off, each layer clamped by itself, makes the budget.
    for cut in range(sum(budget.n_weights.values()) + 1):
        expected = {
            name: min(max(int((x > cut).sum()), low[name]), high[name])
            for name, x in scores.items()
        }
        if sum(expected.values()) == budget.kept():
            break
    assert allocation(scores, alive, budget) == expected


@explore
@given(nets(), fractions, fractions, st.sampled_from(sorted(ALLOCATIONS)))
def test_bounds_that_bind_nothing_change_nothing(net, sparsity, share, inner):
    scores, alive, shapes = net
    budget = Budget(n_weights(shapes), sparsity, share=share, shapes=shapes)
    expected = ALLOCATIONS[inner](scores, alive, budget)
    assert Bounded(inner)(scores, alive, budget) == expected


@explore
@given(pools(), bounds, fractions, st.sampled_from(["global", "lamp", "uniform"]))
def test_whole_groups_stay_under_the_budget_and_a_group_from_the_bounds(
    pool, least_most, sparsity, inner
):
    scores, alive = pool
    shapes = {name: (int(size.sum()), 1) for name, size in alive.items()}
    assume(all(shape[0] for shape in shapes.values()))
    budget = Budget(n_weights(shapes), sparsity)
    allocation = Bounded(inner, *least_most)
    assume(agree(allocation, budget))
    low, high = limits(shapes, least_most, budget)
    n_groups = allocation(scores, alive, budget)
    kept, largest = {}, int(max(size.max() for size in alive.values()))
    for name, n in n_groups.items():
        own = [group for group in living(scores, alive) if group[0] == name]
        kept[name] = sum(g[2] for g in sorted(own, key=lambda group: -group[1])[:n])
    # Uniform rounds by layer.
    room = sum(budget.kept(x) for x in shapes) if inner == "uniform" else 0
    assert sum(kept.values()) <= max(budget.kept(), room)
    assert all(low[x] - largest < kept[x] < high[x] + largest for x in shapes)


def test_groups_reach_the_lower_bound_where_the_budget_allows():
    scores = {"good": torch.arange(4.0) + 9, "poor": torch.arange(4.0)}
    alive = {name: torch.full((4,), 5) for name in scores}
    budget = Budget({"good": 20, "poor": 20}, 0.5)
    # 0.7 leaves 6 of 20 weights: one group of five is too few.
    assert Bounded("global", max_sparsity=0.7)(scores, alive, budget) == {
        "good": 2,
        "poor": 2,
    }


@explore
@given(nets(), bounds, fractions, splits)
def test_bounds_that_dead_weights_make_impossible_are_kept_as_far_as_can_be(
    net, least_most, sparsity, inner
):
    scores, alive, shapes = net
    budget = Budget(n_weights(shapes), sparsity, shapes=shapes)
    allocation = Bounded(inner, *least_most)
    assume(agree(allocation, budget))
    kept = allocation(scores, alive, budget)
    low, high = limits(shapes, least_most, budget)
    caps = n_alive(alive)
    assert sum(kept.values()) <= budget.kept()
    for name in shapes:
        assert min(math.floor(low[name]), caps[name]) <= kept[name]
        assert kept[name] <= min(math.ceil(high[name]), caps[name])


def test_a_tiny_layer_between_bounds_lives():
    scores = {"tiny": torch.tensor([0.0]), "large": torch.arange(20.0)}
    alive = {name: torch.ones(x.shape).long() for name, x in scores.items()}
    budget = Budget({"tiny": 1, "large": 20}, 0.5)
    assert Bounded("global", 0.1, 0.9)(scores, alive, budget)["tiny"] == 1


def test_the_lower_end_grows_with_the_share_that_is_due():
    scores = {"good": torch.arange(10.0) + 90, "poor": torch.arange(10.0)}
    alive = {name: torch.ones(10, dtype=torch.int64) for name in scores}
    kept = [
        Bounded("global", min_sparsity=0.4)(
            scores, alive, Budget({"good": 10, "poor": 10}, 0.5, share=share)
        )
        for share in (0.0, 0.5, 1.0)
    ]
    assert kept == [
        {"good": 10, "poor": 10},
        {"good": 8, "poor": 7},
        {"good": 6, "poor": 4},
    ]


def test_bounds_nest():
    scores = {"good": torch.arange(10.0) + 90, "poor": torch.arange(10.0)}
    alive = {name: torch.ones(10, dtype=torch.int64) for name in scores}
    nested = Bounded(Bounded("global", max_sparsity=0.9), min_sparsity=0.2)
    budget = Budget({"good": 10, "poor": 10}, 0.5)
    assert nested(scores, alive, budget) == {"good": 8, "poor": 2}


@explore
@given(layer_shapes, bounds, bounds, fractions, fractions, splits, seeds)
def test_nested_bounds_meet_the_budget_up_to_a_weight_by_layer(
    shapes, inside, outside, sparsity, share, inner, seed
):
    budget = Budget(n_weights(shapes), sparsity, share=share, shapes=shapes)
    both = [max(inside[0], outside[0]), min(inside[1], outside[1])]
    assume(both[0] <= both[1] and agree(Bounded(inner, *both), budget))
    nested = Bounded(Bounded(inner, *inside), *outside)
    kept = nested(*all_alive(shapes, seed), budget)
    low, high = limits(shapes, both, budget)
    # Each rounds its own bounds, so that together a weight may find no place.
    assert abs(sum(kept.values()) - budget.kept()) <= len(shapes)
    assert all(low[x] - 1 <= kept[x] <= high[x] + 1 for x in shapes)


def test_bounds_reach_a_function_that_knows_only_its_own_rule():
    def all_to_the_first(pooled, sizes, budget):
        left, counts = budget.kept(), {}
        for name, size in sizes.items():
            counts[name] = min(left, len(size))
            left -= counts[name]
        return counts

    scores, alive = all_alive({"a": (10, 1), "b": (10, 1), "c": (10, 1)}, 0)
    budget = Budget(dict.fromkeys("abc", 10), 0.5)
    kept = Bounded(all_to_the_first, 0.2, 0.7)(scores, alive, budget)
    assert kept == {"a": 8, "b": 4, "c": 3}


def test_a_cost_counts_in_bounds_as_in_budgets():
    scores = {"dear": torch.arange(10.0), "cheap": torch.arange(10.0) + 90}
    alive = {"dear": torch.full((10,), 5), "cheap": torch.ones(10).long()}
    costs = {"dear": 5, "cheap": 1}
    budget = Budget({"dear": 10, "cheap": 10}, 0.5, costs=costs)
    kept = Bounded("global", min_sparsity=0.4)(scores, alive, budget)
    assert kept == {"dear": 4, "cheap": 6}


@pytest.mark.parametrize(
    ("least", "most"),
    [(0.6, 0.5), (-0.1, 1.0), (0.0, 1.1), (float("nan"), 1.0), (0.0, float("nan"))],
)
def test_bounds_that_are_none_are_refused(least, most):
    with pytest.raises(ValueError, match="0 <= min_sparsity <= max_sparsity <= 1"):
        Bounded("global", least, most)({}, {}, Budget({"a": 10}, 0.5))


@pytest.mark.parametrize(
    ("bounded", "sparsity", "message"),
    [
        (Bounded(min_sparsity=0.9), 0.5, r"min_sparsity=0\.9\) and sparsity=0\.5 "),
        (Bounded(max_sparsity=0.3), 0.5, r"max_sparsity=0\.3\) and sparsity=0\.5 "),
        (Bounded(max_sparsity=0.3), 2, r"max_sparsity=0\.3\) and sparsity=2 "),
        (Bounded(Bounded(min_sparsity=0.9)), 0.5, r"min_sparsity=0\.9"),
    ],
)
def test_bounds_that_contradict_the_budget_are_refused(bounded, sparsity, message):
    budget = Budget({"a": 10, "b": 10}, sparsity)
    with pytest.raises(ValueError, match=message):
        bounded(*all_alive({"a": (10, 1), "b": (10, 1)}, 0), budget)
    with pytest.raises(ValueError, match=message):
        resolve_allocation(bounded, budget)


@explore
@given(layer_shapes, fractions, fractions, seeds)
def test_bounds_equal_to_the_sparsity_never_contradict_it(
    shapes, sparsity, share, seed
):
    budget = Budget(n_weights(shapes), sparsity, share=share)
    kept = Bounded("global", sparsity, sparsity if share == 1 else 1.0)(
        *all_alive(shapes, seed), budget
    )
    assert sum(kept.values()) == budget.kept()


def test_an_unknown_name_cannot_be_bounded():
    with pytest.raises(UnknownNameError):
        Bounded("globl")({"a": torch.ones(2)}, {"a": torch.ones(2)}, Budget({"a": 2}))


def test_parameters_of_bounds_can_be_read_and_cloned():
    bounded = Bounded(Bounded("lamp", max_sparsity=0.9), min_sparsity=0.1)
    assert clone(bounded).get_params()["allocation__max_sparsity"] == 0.9
    assert clone(bounded).allocation is not bounded.allocation


def test_a_bound_set_later_takes_effect():
    bounded = Bounded(Bounded()).set_params(allocation__min_sparsity=0.9)
    with pytest.raises(ValueError, match=r"min_sparsity=0\.9"):
        bounded.check(Budget({"a": 10}, 0.5))
