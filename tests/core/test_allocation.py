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
    below_threshold,
    erk,
    global_,
    lamp,
    resolve_allocation,
    uniform,
)
from sklearn_sparse_nn.core.budget import Budget
from sklearn_sparse_nn.exceptions import UnknownNameError
from tests.core.oracles import half_up
from tests.core.strategies import LAYERS, explore, fractions, seeds


@st.composite
def pools(draw):
    """Scores and sizes of a few groups by layer; without living weights: -inf."""
    scores, alive = {}, {}
    group = st.tuples(st.integers(-2, 3).map(float), st.integers(0, 4))
    for name in LAYERS[: draw(st.integers(1, 3))]:
        groups = draw(st.lists(group, min_size=1, max_size=8))
        alive[name] = torch.tensor([size for _, size in groups])
        scores[name] = torch.tensor(
            [score if size else -torch.inf for score, size in groups],
            dtype=torch.float64,
        )
    return scores, alive


def living(scores, alive):
    """List (layer, score, size) of the living groups, layer by layer."""
    return [
        (name, score, size)
        for name in scores
        for score, size in zip(scores[name].tolist(), alive[name].tolist(), strict=True)
        if size
    ]


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

layer_shapes = st.lists(
    st.lists(st.integers(1, 6), min_size=2, max_size=4).map(tuple),
    min_size=1,
    max_size=5,
).map(lambda shapes: {f"layer{i}": shape for i, shape in enumerate(shapes)})


@st.composite
def nets(draw):
    """Scores, many of them tied, of weights of which some died before; and shapes."""
    shapes = draw(layer_shapes)
    rng = np.random.default_rng(draw(seeds))
    share_alive = draw(st.sampled_from([1.0, 1.0, 0.7, 0.2, 0.0]))
    scores, alive = {}, {}
    for name, shape in shapes.items():
        alive[name] = torch.as_tensor((rng.random(shape) < share_alive).astype(int))
        scores[name] = torch.as_tensor(rng.integers(0, 4, shape) / 4)
        scores[name][alive[name] == 0] = -torch.inf
    return scores, alive, shapes


def n_weights(shapes):
    return {name: math.prod(shape) for name, shape in shapes.items()}


def n_alive(alive):
    return {name: int(size.sum()) for name, size in alive.items()}


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


# bounds -----------------------------------------------------------------------

bounds = st.tuples(fractions, fractions).map(sorted)
splits = st.sampled_from(["global", "erk", "lamp"])


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


def agree(allocation, budget):
    """Tell whether the bounds can be kept at all."""
    try:
        allocation.check(budget)
    except ValueError:
        return False
    return True


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


# from event to event ----------------------------------------------------------


def events(allocation, shapes, shares, sparsity, rng):
    """Yield (kept, budget) over the shares; survivors get new scores in between."""
    alive = {name: np.ones(math.prod(shape), bool) for name, shape in shapes.items()}
    for share in sorted(shares):
        budget = Budget(n_weights(shapes), sparsity, share=share, shapes=shapes)
        scores, sizes = {}, {}
        for name, mask in alive.items():
            drawn = np.where(mask, rng.integers(0, 9, mask.size) / 4, -np.inf)
            scores[name], sizes[name] = torch.tensor(drawn), torch.tensor(mask).long()
        kept = allocation(scores, sizes, budget)
        for name, n in kept.items():
            order = np.argsort(-scores[name].numpy(), kind="stable")
            alive[name][order[n:]] = False
        yield kept, budget


@explore
@given(
    layer_shapes,
    st.lists(fractions, min_size=2, max_size=5),
    fractions,
    st.sampled_from([global_, erk, lamp]),
    seeds,
)
def test_the_budget_is_met_at_every_event(shapes, shares, sparsity, allocation, seed):
    rng = np.random.default_rng(seed)
    for kept, budget in events(allocation, shapes, shares, sparsity, rng):
        assert sum(kept.values()) == budget.kept()


@explore
@given(
    layer_shapes,
    st.lists(fractions, min_size=2, max_size=5),
    fractions,
    bounds,
    splits,
    seeds,
)
def test_the_budget_is_met_at_every_event_under_bounds(
    shapes, shares, sparsity, least_most, inner, seed
):
    allocation = Bounded(inner, *least_most)
    assume(agree(allocation, Budget(n_weights(shapes), sparsity)))
    rng = np.random.default_rng(seed)
    for kept, budget in events(allocation, shapes, shares, sparsity, rng):
        assert sum(kept.values()) == budget.kept()


# names ------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(ALLOCATIONS))
def test_a_name_resolves_to_its_allocation(name):
    assert resolve_allocation(name, Budget({"a": 2}, 0.5)) is ALLOCATIONS[name]


def test_a_function_resolves_to_itself():
    def all_to_the_first(pooled, sizes, budget):
        return dict.fromkeys(pooled, 0)

    assert resolve_allocation(all_to_the_first, Budget({}, 0.5)) is all_to_the_first


def test_bounds_resolve_to_themselves():
    bounded = Bounded("erk", max_sparsity=0.9)
    assert resolve_allocation(bounded, Budget({"a": 2}, 0.5)) is bounded


@pytest.mark.parametrize("allocation", ["global", "erk", global_, Bounded()])
def test_a_sparsity_by_layer_leaves_nothing_to_split(allocation):
    assert resolve_allocation(allocation, Budget({"a": 2}, {"a": 0.5})) is uniform


@pytest.mark.parametrize("allocation", ["global", "lamp", global_, Bounded()])
def test_a_threshold_leaves_nothing_to_split(allocation):
    budget = Budget({"a": 2}, threshold=0.5)
    assert resolve_allocation(allocation, budget) is below_threshold


@pytest.mark.parametrize("sparsity", [0.5, {"a": 0.5}])
def test_an_unknown_name_is_refused_listing_the_valid_ones(sparsity):
    with pytest.raises(UnknownNameError) as caught:
        resolve_allocation("none such", Budget({"a": 2}, sparsity))
    listed = ", ".join(map(repr, ALLOCATIONS))
    assert str(caught.value).endswith(f"Valid: {listed}.")


@pytest.mark.parametrize(
    ("given_name", "meant"), [("globl", "global"), ("unifrom", "uniform")]
)
def test_a_misspelt_name_gets_a_suggestion(given_name, meant):
    with pytest.raises(UnknownNameError, match=f"Did you mean '{meant}'"):
        resolve_allocation(given_name, Budget({"a": 2}, math.pi / 4))


def test_the_table_of_names_is_constant():
    with pytest.raises(TypeError):
        ALLOCATIONS["mine"] = global_
