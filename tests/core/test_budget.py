from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sklearn_sparse_nn.core.budget import Budget, in_proportion, n_pruned
from tests.core.oracles import half_up
from tests.core.strategies import explore, fractions

sizes = st.integers(0, 10**7)
written = st.decimals(0, 1, places=5)
sizes_by_layer = st.lists(st.integers(1, 300), min_size=1, max_size=6).map(
    lambda sizes: {f"layer{i}": size for i, size in enumerate(sizes)}
)


@st.composite
def costly_layers(draw):
    """Weights of a few layers and what one of them costs."""
    layers = draw(sizes_by_layer)
    return layers, {name: draw(st.integers(1, 50)) for name in layers}


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


# costs ------------------------------------------------------------------------


def test_a_weight_costs_one_unless_told():
    assert Budget({"a": 10}).cost("a") == 1


def test_a_cost_is_that_of_its_layer():
    assert Budget({"a": 10, "b": 5}, costs={"a": 3, "b": 7}).cost("b") == 7


@explore
@given(costly_layers())
def test_a_layer_is_as_large_as_its_weights_cost(layers_and_costs):
    layers, costs = layers_and_costs
    budget = Budget(layers, costs=costs)
    expected = {name: sum([costs[name]] * size) for name, size in layers.items()}
    assert {name: budget.size(name) for name in layers} == expected


@explore
@given(costly_layers())
def test_layers_add_up_to_the_size_of_the_whole(layers_and_costs):
    budget = Budget(layers_and_costs[0], costs=layers_and_costs[1])
    assert budget.size() == sum(budget.size(name) for name in budget.n_weights)


@explore
@given(costly_layers(), st.one_of(fractions, st.integers(1, 9000)), fractions)
def test_costs_count_as_that_many_weights_would(layers_and_costs, sparsity, share):
    layers, costs = layers_and_costs
    costly = Budget(layers, sparsity, share=share, costs=costs)
    swollen = Budget(
        {name: size * costs[name] for name, size in layers.items()},
        sparsity,
        share=share,
    )
    asked = [None, *layers]
    assert [costly.kept(x) for x in asked] == [swollen.kept(x) for x in asked]


@explore
@given(costly_layers(), st.data())
def test_costs_count_so_under_a_sparsity_by_layer_too(layers_and_costs, data):
    layers, costs = layers_and_costs
    by_layer = {name: float(data.draw(written)) for name in layers}
    budget = Budget(layers, by_layer, costs=costs)
    expected = sum(
        size * costs[name] - half_up(by_layer[name], size * costs[name])
        for name, size in layers.items()
    )
    assert budget.kept() == expected


# what is left -----------------------------------------------------------------


@explore
@given(costly_layers(), fractions, fractions, st.data())
def test_the_rest_keeps_what_is_left_whatever_is_due(
    layers_costs, sparsity, share, data
):
    layers, costs = layers_costs
    budget = Budget(layers, sparsity, share=share, costs=costs)
    some = data.draw(st.lists(st.sampled_from(sorted(layers)), min_size=1, unique=True))
    left = data.draw(st.integers(0, sum(budget.size(name) for name in some)))
    rest = budget.rest(some, left)
    assert rest.kept() == left
    assert sum(rest.kept(name) for name in some) == left


def test_the_rest_knows_all_else_of_its_budget():
    budget = Budget(
        {"a": 4, "b": 6}, 0.5, share=0.3, shapes={"b": (2, 3)}, costs={"a": 1, "b": 2}
    )
    rest = budget.rest(["b"], 3)
    assert (rest.share, rest.shapes, rest.size()) == (0.3, {"b": (2, 3)}, 12)


@explore
@given(sizes_by_layer, st.data())
def test_nothing_in_proportion_is_off_by_one_or_more(layers, data):
    size = sum(layers.values())
    total = data.draw(st.integers(0, size))
    split = in_proportion(total, layers)
    assert sum(split.values()) == total
    assert all(abs(split[x] - Fraction(total * layers[x], size)) < 1 for x in layers)
