import math
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from sklearn_sparse_nn.core.allocation import (
    ALLOCATIONS,
    Budget,
    below_threshold,
    global_,
    n_pruned,
    resolve_allocation,
    uniform,
)
from sklearn_sparse_nn.exceptions import UnknownNameError
from tests.core.oracles import half_up
from tests.core.strategies import LAYERS, explore, fractions

sizes = st.integers(0, 10**7)
written = st.decimals(0, 1, places=5)
sizes_by_layer = st.lists(st.integers(1, 300), min_size=1, max_size=6).map(
    lambda sizes: {f"layer{i}": size for i, size in enumerate(sizes)}
)


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


# the count rule ---------------------------------------------------------------


def test_the_count_rule_is_about_the_decimal_not_its_binary_neighbour():
    assert n_pruned(0.29, 100) == 29


def test_binary_arithmetic_would_miss_that_count():
    assert int(0.29 * 100) == 28


@explore
@given(written, sizes)
def test_a_count_is_the_written_decimal_times_the_size_half_up(sparsity, size):
    assert n_pruned(float(sparsity), size) == half_up(sparsity, size)


@pytest.mark.parametrize("kind", [np.float64, np.float32])
@explore
@given(written, sizes)
def test_a_numpy_scalar_counts_as_it_is_written(kind, sparsity, size):
    assert n_pruned(kind(sparsity), size) == half_up(sparsity, size)


@pytest.mark.parametrize("kind", [float, np.float64, np.float32])
@explore
@given(st.integers(1, 5), st.data())
def test_a_written_half_rounds_up_whatever_its_binary_neighbour(kind, digits, data):
    size = 10**digits
    whole = data.draw(st.integers(0, size - 1))
    sparsity = Decimal(10 * whole + 5) / (10 * size)
    assert n_pruned(kind(sparsity), size) == whole + 1


def test_binary_arithmetic_would_round_a_written_half_down():
    assert round(0.145 * 100) == 14


@explore
@given(st.floats(0, 1), st.floats(0, 1), sizes)
def test_a_count_never_decreases_when_the_sparsity_grows(one, other, size):
    lower, higher = sorted([one, other])
    assert n_pruned(lower, size) <= n_pruned(higher, size)


@explore
@given(st.floats(0, 1), sizes)
def test_a_count_is_a_nearest_integer(sparsity, size):
    exact = Fraction(Decimal(repr(sparsity))) * size
    assert abs(n_pruned(sparsity, size) - exact) <= Fraction(1, 2)


@pytest.mark.parametrize(
    ("sparsity", "size", "count"), [(0.5, 1, 1), (0.5, 5, 3), (0.25, 2, 1), (0.1, 5, 1)]
)
def test_halves_round_up(sparsity, size, count):
    assert n_pruned(sparsity, size) == count


@pytest.mark.parametrize("nothing", [0, 0.0, -0.0])
def test_sparsity_zero_prunes_nothing(nothing):
    assert n_pruned(nothing, 7) == 0


@pytest.mark.parametrize("everything", [1, 1.0, np.float32(1)])
def test_sparsity_one_prunes_everything(everything):
    assert n_pruned(everything, 7) == 7


# the budget -------------------------------------------------------------------


@explore
@given(sizes_by_layer, written, fractions)
def test_a_fraction_is_of_all_weights_together(layers, sparsity, share):
    total = sum(layers.values())
    budget = Budget(layers, float(sparsity), share=share)
    assert budget.kept() == total - half_up(share, half_up(sparsity, total))


@explore
@given(sizes_by_layer, written, fractions)
def test_a_fraction_of_one_layer_is_of_its_own_weights(layers, sparsity, share):
    budget = Budget(layers, float(sparsity), share=share)
    expected = {
        name: size - half_up(share, half_up(sparsity, size))
        for name, size in layers.items()
    }
    assert {name: budget.kept(name) for name in layers} == expected


@explore
@given(sizes_by_layer, fractions, st.data())
def test_a_mapping_gives_every_layer_its_own_sparsity(layers, share, data):
    by_layer = {name: data.draw(written) for name in layers}
    as_floats = {name: float(value) for name, value in by_layer.items()}
    budget = Budget(layers, as_floats, share=share)
    expected = {
        name: size - half_up(share, half_up(by_layer[name], size))
        for name, size in layers.items()
    }
    assert {name: budget.kept(name) for name in layers} == expected


@explore
@given(sizes_by_layer, fractions, st.data())
def test_layers_of_a_mapping_add_up_to_the_whole(layers, share, data):
    by_layer = {name: float(data.draw(written)) for name in layers}
    budget = Budget(layers, by_layer, share=share)
    assert budget.kept() == sum(budget.kept(name) for name in layers)


@explore
@given(sizes_by_layer, fractions, st.integers(1, 2000))
def test_a_number_of_survivors_is_reached_by_shares_of_the_rest(layers, share, k):
    total = sum(layers.values())
    expected = total - half_up(share, max(total - k, 0))
    assert Budget(layers, k, share=share).kept() == expected


@explore
@given(sizes_by_layer, st.integers(1, 2000))
def test_layers_add_up_to_the_number_of_survivors(layers, k):
    budget = Budget(layers, k)
    assert sum(budget.kept(name) for name in layers) == budget.kept()


@explore
@given(sizes_by_layer, st.integers(1, 2000))
def test_a_number_of_survivors_is_split_in_proportion(layers, k):
    budget = Budget(layers, k)
    ratio = Fraction(budget.kept(), sum(layers.values()))
    off = [abs(budget.kept(name) - size * ratio) for name, size in layers.items()]
    assert max(off) < 1


@explore
@given(sizes_by_layer, st.integers(1, 2000))
def test_the_largest_remainders_of_a_split_round_up(layers, k):
    budget = Budget(layers, k)
    ratio = Fraction(budget.kept(), sum(layers.values()))
    rounded_up, rounded_down = [1], [0]
    for name, size in layers.items():
        up = budget.kept(name) > size * ratio
        (rounded_up if up else rounded_down).append(size * ratio % 1)
    assert min(rounded_up) >= max(rounded_down)


@explore
@given(sizes_by_layer, st.integers(1, 2000))
def test_no_layer_keeps_more_survivors_than_it_has_weights(layers, k):
    budget = Budget(layers, k)
    assert all(0 <= budget.kept(name) <= size for name, size in layers.items())


@explore
@given(sizes_by_layer, written, fractions, fractions)
def test_the_whole_never_grows_as_the_share_grows(layers, sparsity, one, other):
    early, late = sorted([one, other])
    kept = [
        Budget(layers, float(sparsity), share=share).kept() for share in (early, late)
    ]
    assert kept[0] >= kept[1]


@explore
@given(sizes_by_layer, st.integers(1, 2000), fractions, fractions)
# In proportion, eleven survivors are split 5, 5, 1, but ten of them 4, 4, 2.
@example({"a": 6, "b": 6, "c": 2}, 10, 0.75, 1.0)
def test_no_layer_of_a_number_of_survivors_grows_as_the_share_grows(
    layers, k, one, other
):
    early, late = (Budget(layers, k, share=share) for share in sorted([one, other]))
    assert all(early.kept(name) >= late.kept(name) for name in layers)


@pytest.mark.parametrize("kind", [np.int64, np.int32])
def test_a_numpy_integer_is_a_number_of_survivors(kind):
    assert Budget({"layer": 10}, kind(4)).kept() == 4


@pytest.mark.parametrize("everything", [1.0, 1])
def test_a_layer_asked_to_empty_keeps_nothing(everything):
    assert Budget({"layer": 10}, {"layer": everything}).kept("layer") == 0


@pytest.mark.parametrize(
    ("sparsity", "expected"),
    [({"a": 1.0, "b": 0.5}, True), ({"a": 0.99, "b": 1.0}, False), (0.9, False)],
)
def test_only_a_mapping_asks_a_layer_to_empty(sparsity, expected):
    assert Budget({"a": 10, "b": 10}, sparsity).asks_to_empty("a") is expected


@explore
@given(fractions, st.integers(0, 10**6))
def test_what_is_due_is_the_share_half_up(share, n_final):
    assert Budget({}, share=share).due(n_final) == half_up(share, n_final)


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


@pytest.mark.parametrize("allocation", [global_, uniform, below_threshold])
def test_allocating_leaves_scores_and_sizes_alone(allocation):
    scores = {"a": torch.tensor([1.0, -torch.inf, 3.0]), "b": torch.tensor([[2.0]])}
    alive = {"a": torch.tensor([2, 0, 1]), "b": torch.tensor([[4]])}
    before = [x.clone() for x in (*scores.values(), *alive.values())]
    allocation(scores, alive, Budget({"a": 4, "b": 4}, 0.5, threshold=2.0))
    after = [*scores.values(), *alive.values()]
    assert all(map(torch.equal, before, after))


# names ------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(ALLOCATIONS))
def test_a_name_resolves_to_its_allocation(name):
    assert resolve_allocation(name, Budget({"a": 2}, 0.5)) is ALLOCATIONS[name]


def test_a_function_resolves_to_itself():
    def all_to_the_first(pooled, sizes, budget):
        return dict.fromkeys(pooled, 0)

    assert resolve_allocation(all_to_the_first, Budget({}, 0.5)) is all_to_the_first


@pytest.mark.parametrize("allocation", ["global", "uniform", global_])
def test_a_sparsity_by_layer_leaves_nothing_to_split(allocation):
    assert resolve_allocation(allocation, Budget({"a": 2}, {"a": 0.5})) is uniform


@pytest.mark.parametrize("allocation", ["global", "uniform", global_])
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
