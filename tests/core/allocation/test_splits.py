"""The named allocations: global, uniform, a threshold, ERK and LAMP."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sklearn_sparse_nn.core.allocation import (
    Bounded,
    below_threshold,
    erk,
    global_,
    lamp,
    uniform,
)
from sklearn_sparse_nn.core.budget import Budget
from tests.core.allocation.draws import (
    layer_shapes,
    living,
    n_alive,
    n_weights,
    nets,
    pools,
)
from tests.core.oracles import half_up
from tests.core.strategies import explore, fractions


def n_that_fit(groups, n_kept):
    """Count the groups by layer in the longest run of best ones which fits."""
    counts = {}
    for name, _, size in sorted(groups, key=lambda group: -group[1]):
        n_kept -= size
        if n_kept < 0:
            break
        counts[name] = counts.get(name, 0) + 1
    return counts


# the allocations --------------------------------------------------------------


@explore
@given(pools(), st.integers(0, 100))
def test_global_keeps_the_longest_run_of_best_groups_that_fits(pool, n_kept):
    scores, alive = pool
    kept = n_that_fit(living(scores, alive), n_kept)
    budget = Budget({"all": 100}, (100 - n_kept) / 100)
    assert global_(scores, alive, budget) == {
        name: kept.get(name, 0) for name in scores
    }


@explore
@given(pools(), st.data())
def test_uniform_keeps_the_longest_run_that_fits_in_every_layer(pool, data):
    scores, alive = pool
    n_kept = {name: data.draw(st.integers(0, 40)) for name in scores}
    budget = Budget(
        dict.fromkeys(scores, 40),
        {name: (40 - n) / 40 for name, n in n_kept.items()},
    )
    groups = living(scores, alive)
    expected = {
        name: n_that_fit([g for g in groups if g[0] == name], n).get(name, 0)
        for name, n in n_kept.items()
    }
    assert uniform(scores, alive, budget) == expected


@explore
@given(pools(), st.sampled_from([-1.5, 0.0, 0.5, 2.0, 9.0]))
def test_a_threshold_keeps_the_groups_that_reach_it(pool, threshold):
    scores, alive = pool
    budget = Budget(dict.fromkeys(scores, 40), threshold=threshold)
    groups = living(scores, alive)
    expected = {
        name: sum(layer == name and score >= threshold for layer, score, _ in groups)
        for name in scores
    }
    assert below_threshold(scores, alive, budget) == expected


@explore
@given(pools(), fractions)
def test_a_share_of_the_groups_below_the_threshold_goes(pool, share):
    scores, alive = pool
    budget = Budget(dict.fromkeys(scores, 40), threshold=0.5, share=share)
    kept = below_threshold(scores, alive, budget)
    for name in scores:
        own = [score for layer, score, _ in living(scores, alive) if layer == name]
        n_groups = scores[name].numel()
        n_below = n_groups - len(own) + sum(score < 0.5 for score in own)
        assert kept[name] == min(len(own), n_groups - half_up(share, n_below))


def test_a_threshold_is_needed_to_prune_below_it():
    with pytest.raises(ValueError, match="needs a budget with a threshold"):
        below_threshold({}, {}, Budget({}, 0.5))


def test_of_equal_scores_the_first_layer_lives():
    scores = {"z": torch.ones(2, 2), "a": torch.ones(3, 1)}
    alive = {name: torch.ones_like(x, dtype=torch.int64) for name, x in scores.items()}
    assert global_(scores, alive, Budget({"z": 4, "a": 3}, 5)) == {"z": 4, "a": 1}


def test_a_worse_group_does_not_slip_into_room_that_a_better_one_cannot_use():
    scores = {"layer": torch.tensor([3.0, 2.0, 1.0])}
    alive = {"layer": torch.tensor([2, 4, 1])}
    assert global_(scores, alive, Budget({"layer": 7}, 4)) == {"layer": 1}


@pytest.mark.parametrize(
    "allocation",
    [global_, uniform, below_threshold, erk, lamp, Bounded(max_sparsity=0.6)],
)
def test_allocating_leaves_scores_and_sizes_alone(allocation):
    scores = {"a": torch.tensor([1.0, -torch.inf, 3.0]), "b": torch.tensor([[2.0]])}
    alive = {"a": torch.tensor([2, 0, 1]), "b": torch.tensor([[4]])}
    before = [x.clone() for x in (*scores.values(), *alive.values())]
    shapes = {"a": (4, 1), "b": (2, 2)}
    budget = Budget({"a": 4, "b": 4}, 0.5, threshold=2.0, shapes=shapes)
    allocation(scores, alive, budget)
    after = [*scores.values(), *alive.values()]
    assert all(map(torch.equal, before, after))


# Erdos-Renyi-Kernel -----------------------------------------------------------


def poured(total, shapes, caps):
    """Find by bisection the epsilon at which capped layers add up to the total."""

    def parts(epsilon):
        return {
            name: min(Fraction(caps[name]), epsilon * sum(shape))
            for name, shape in shapes.items()
        }

    low, high = Fraction(0), Fraction(6**4)
    for _ in range(60):
        middle = (low + high) / 2
        if sum(parts(middle).values()) < total:
            low = middle
        else:
            high = middle
    return parts(high)


@explore
@given(nets(), fractions)
def test_erk_keeps_the_budget_or_all_that_lives(net, sparsity):
    scores, alive, shapes = net
    budget = Budget(n_weights(shapes), sparsity, shapes=shapes)
    kept = erk(scores, alive, budget)
    assert sum(kept.values()) == min(budget.kept(), sum(n_alive(alive).values()))


@explore
@given(nets(), fractions)
def test_erk_pours_the_budget_over_the_layers_until_they_are_full(net, sparsity):
    scores, alive, shapes = net
    budget = Budget(n_weights(shapes), sparsity, shapes=shapes)
    kept = erk(scores, alive, budget)
    exact = poured(budget.kept(), shapes, n_alive(alive))
    off = [abs(kept[name] - exact[name]) for name in shapes]
    assert max(off) < 1 + 1e-9


@explore
@given(nets(), fractions)
def test_erk_rounds_the_largest_remainders_up(net, sparsity):
    scores, alive, shapes = net
    budget = Budget(n_weights(shapes), sparsity, shapes=shapes)
    kept = erk(scores, alive, budget)
    exact = poured(budget.kept(), shapes, n_alive(alive))
    up = [exact[x] % 1 for x in shapes if kept[x] - exact[x] > 1e-9]
    down = [exact[x] % 1 for x in shapes if exact[x] - kept[x] > 1e-9]
    assert min(up, default=1) >= max(down, default=0) - 1e-9


@explore
@given(nets(), fractions)
def test_erk_keeps_no_more_of_a_layer_than_lives(net, sparsity):
    scores, alive, shapes = net
    kept = erk(scores, alive, Budget(n_weights(shapes), sparsity, shapes=shapes))
    caps = n_alive(alive)
    assert all(0 <= kept[name] <= caps[name] for name in shapes)


def test_erk_is_the_formula_where_no_layer_is_full():
    # epsilon = 30 / (20 + 10 + 30) = 1 / 2
    shapes = {"square": (10, 10), "kernel": (3, 3, 2, 2), "tall": (25, 5)}
    alive = {name: torch.ones(shape).long() for name, shape in shapes.items()}
    scores = {name: torch.ones(shape) for name, shape in shapes.items()}
    kept = erk(scores, alive, Budget(n_weights(shapes), 30, shapes=shapes))
    assert kept == {"square": 10, "kernel": 5, "tall": 15}


def test_erk_gives_what_a_full_layer_cannot_take_to_the_others():
    shapes = {"small": (1, 5), "left": (10, 10), "right": (20, 20)}
    alive = {name: torch.ones(shape).long() for name, shape in shapes.items()}
    scores = {name: torch.ones(shape) for name, shape in shapes.items()}
    kept = erk(scores, alive, Budget(n_weights(shapes), 65, shapes=shapes))
    assert kept == {"small": 5, "left": 20, "right": 40}


@explore
@given(pools(), st.integers(0, 60))
def test_erk_keeps_whole_groups_that_fit(pool, n_kept):
    scores, alive = pool
    shapes = dict.fromkeys(scores, (8, 5))
    budget = Budget(n_weights(shapes), n_kept or 1.0, shapes=shapes)
    kept = erk(scores, alive, budget)
    exact = poured(budget.kept(), shapes, n_alive(alive))
    groups = living(scores, alive)
    for name in scores:
        own = [group for group in groups if group[0] == name]
        allowed = {
            n_that_fit(own, limit).get(name, 0)
            for limit in (math.floor(exact[name] + 1e-9), math.ceil(exact[name]))
        }
        assert kept[name] in allowed


@explore
@given(layer_shapes, st.integers(1, 400), st.integers(2, 9))
def test_erk_under_costs_splits_what_weights_cost(shapes, k, cost):
    alive = {name: torch.full(shape, cost) for name, shape in shapes.items()}
    scores = {name: torch.ones(shape) for name, shape in shapes.items()}
    costs = dict.fromkeys(shapes, cost)
    budget = Budget(n_weights(shapes), k, shapes=shapes, costs=costs)
    kept = erk(scores, alive, budget)
    spent = cost * sum(kept.values())
    assert budget.kept() - cost * len(shapes) < spent <= budget.kept()


def test_erk_names_what_it_lacks():
    with pytest.raises(ValueError, match=r"'erk' needs the shapes .* shapes=\{layer"):
        erk({}, {}, Budget({}, 0.5))


# layer-adaptive magnitudes ----------------------------------------------------


def lamp_scores(layer, scores):
    """Follow the paper: sort the weights, then equation 1 for every index."""
    ascending = sorted(
        [(Fraction(score), -place) for place, score in enumerate(scores)]
    )
    squares = [max(score, 0) ** 2 for score, _ in ascending]
    relative = [
        square / sum(squares[u:]) if square else Fraction(0)
        for u, square in enumerate(squares)
    ]
    return [(layer, relative[u], -place) for u, (_, place) in enumerate(ascending)][
        ::-1
    ]


@explore
@given(nets(), fractions)
def test_lamp_keeps_the_highest_of_the_papers_scores(net, sparsity):
    scores, alive, shapes = net
    budget = Budget(n_weights(shapes), sparsity)
    ranking = [
        entry
        for name in scores
        for entry in lamp_scores(
            name, scores[name][alive[name] > 0].reshape(-1).tolist()
        )
    ]
    best = sorted(ranking, key=lambda entry: -entry[1])[: budget.kept()]
    expected = {name: sum(layer == name for layer, *_ in best) for name in scores}
    assert lamp(scores, alive, budget) == expected


@explore
@given(pools(), st.integers(0, 60))
def test_lamp_keeps_the_longest_run_of_groups_that_fits(pool, n_kept):
    scores, alive = pool
    groups = []
    for name in scores:
        own = [
            (score, size)
            for layer, score, size in living(scores, alive)
            if layer == name
        ]
        ranked = lamp_scores(name, [score for score, _ in own])
        groups += [(name, relative, own[place][1]) for _, relative, place in ranked]
    budget = Budget({"all": 60}, n_kept or 1.0)
    kept = n_that_fit(groups, n_kept)
    assert lamp(scores, alive, budget) == {name: kept.get(name, 0) for name in scores}


@explore
@given(nets(), fractions)
def test_lamp_keeps_the_budget_or_all_that_lives(net, sparsity):
    scores, alive, shapes = net
    budget = Budget(n_weights(shapes), sparsity)
    kept = lamp(scores, alive, budget)
    assert sum(kept.values()) == min(budget.kept(), sum(n_alive(alive).values()))


@explore
@given(st.integers(-1070, 1000), fractions)
def test_lamp_knows_no_scale(exponent, sparsity):
    scores = {"a": torch.tensor([3.0, 2.0, 1.0, 5.0]), "b": torch.tensor([1.0, 4.0])}
    scores = {name: layer.double() for name, layer in scores.items()}
    alive = {name: torch.ones(layer.shape).long() for name, layer in scores.items()}
    budget = Budget({"a": 4, "b": 2}, sparsity)
    scaled = {"a": scores["a"] * 2.0**exponent, "b": scores["b"]}
    assert lamp(scaled, alive, budget) == lamp(scores, alive, budget)


def test_a_plain_square_would_know_the_scale():
    assert torch.tensor(1e200, dtype=torch.float64).square().isinf()


def test_lamp_empties_no_layer_before_the_others_are_down_to_one():
    scores = {"tiny": torch.full((4,), 1e-9), "large": torch.full((4,), 1e9)}
    alive = {name: torch.ones(4, dtype=torch.int64) for name in scores}
    budget = Budget({"tiny": 4, "large": 4}, 2)
    assert lamp(scores, alive, budget) == {"tiny": 1, "large": 1}


@pytest.mark.parametrize("worthless", [0.0, -2.0])
def test_lamp_prunes_a_layer_without_worth_first(worthless):
    scores = {"none": torch.full((3,), worthless), "some": torch.tensor([1.0, 1e-3])}
    alive = {name: torch.ones(x.shape).long() for name, x in scores.items()}
    budget = Budget({"none": 3, "some": 2}, 2)
    assert lamp(scores, alive, budget) == {"none": 0, "some": 2}


def test_a_group_that_must_live_does_not_count_against_the_others():
    scores = {"a": torch.tensor([1.0, torch.inf, 3.0]), "b": torch.tensor([5.0, 1.0])}
    alive = {name: torch.ones(x.shape).long() for name, x in scores.items()}
    kept = [lamp(scores, alive, Budget({"a": 3, "b": 2}, k)) for k in (1, 2, 3, 4)]
    # After the infinite one: both best with 1, then 1 / 10 of a, then 1 / 26 of b.
    assert kept == [
        {"a": 1, "b": 0},
        {"a": 2, "b": 0},
        {"a": 2, "b": 1},
        {"a": 3, "b": 1},
    ]
