import operator
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sklearn_sparse_nn.core.allocation import uniform
from sklearn_sparse_nn.core.granularity import Granularity, best
from sklearn_sparse_nn.core.schedules import SCHEDULES, event_shares
from sklearn_sparse_nn.exceptions import LayerCollapseWarning, NonFiniteScoreError
from tests.core.decision import (
    as_lists,
    decide,
    n_alive_by_layer,
    n_zeros,
    n_zeros_by_layer,
    over_schedule,
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

ALL_KINDS = ("unstructured", *GROUPED, "2:4")
grouped = st.sampled_from(GROUPED)
allocations = st.sampled_from(["global", "uniform"])
may_collapse = pytest.mark.filterwarnings(
    "ignore::sklearn_sparse_nn.exceptions.LayerCollapseWarning"
)


def total(weights):
    return sum(weight.numel() for weight in weights.values())


def smallest(weights):
    return min(weight.numel() for weight in weights.values())


def size_of_best(ranking):
    """Count the weights of a layer's best group."""
    return int(ranking[0][1].sum())


def frozen(weights, share, rng):
    """Give masks that kill about a share of the weights, never the first of a layer."""
    masks = {}
    for name, weight in weights.items():
        masks[name] = torch.as_tensor(rng.random(weight.shape) >= share)
        masks[name].view(-1)[0] = True
    return masks


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


# a pure function --------------------------------------------------------------


@may_collapse
@explore
@given(layers(), st.sampled_from(ALL_KINDS), allocations, fractions, seeds)
def test_deciding_leaves_its_inputs_alone(
    weights, granularity, allocation, sparsity, seed
):
    masks = frozen(weights, 0.3, np.random.default_rng(seed))
    before = [x.clone() for x in (*weights.values(), *masks.values())]
    asked = {"granularity": granularity, "allocation": allocation, "masks": masks}
    decide(weights, sparsity, **asked)
    after = [*weights.values(), *masks.values()]
    assert all(map(torch.equal, before, after))


@may_collapse
@explore
@given(layers(), st.sampled_from(ALL_KINDS), allocations, fractions)
def test_deciding_twice_gives_the_same_masks(
    weights, granularity, allocation, sparsity
):
    asked = {"granularity": granularity, "allocation": allocation}
    one, other = (decide(weights, sparsity, **asked) for _ in range(2))
    assert as_lists(one) == as_lists(other)


def test_the_masks_share_no_memory_with_earlier_ones():
    before = {"layer": torch.ones(2, 3, dtype=torch.bool)}
    after = decide({"layer": torch.ones(2, 3)}, 0.0, masks=before)
    after["layer"].fill_(False)
    assert before["layer"].all()


def test_weights_in_training_are_pruned_as_they_are():
    weight = torch.nn.Parameter(torch.tensor([[1.0, -3.0, 2.0]]))
    assert decide({"layer": weight}, 1)["layer"].tolist() == [[False, True, False]]


@explore
@given(layers(anchored=True), st.sampled_from(ALL_KINDS))
def test_masks_are_boolean_and_of_the_weights_shapes(weights, granularity):
    masks = decide(weights, total(weights), granularity=granularity)
    found = {name: (mask.dtype, mask.shape) for name, mask in masks.items()}
    expected = {name: (torch.bool, weight.shape) for name, weight in weights.items()}
    assert found == expected


def test_random_masks_depend_on_the_generator_alone():
    rng = np.random.default_rng(0)
    masks = [
        decide(
            {"layer": torch.as_tensor(rng.normal(size=(4, 5)))},
            0.5,
            importance="random",
            stats={"generator": torch.Generator().manual_seed(3)},
        )["layer"]
        for _ in range(2)
    ]
    assert torch.equal(*masks)


def test_random_masks_leave_the_global_generator_alone():
    before = torch.get_rng_state()
    stats = {"generator": torch.Generator().manual_seed(3)}
    decide({"layer": torch.ones(4, 5)}, 0.5, importance="random", stats=stats)
    assert torch.equal(torch.get_rng_state(), before)


# a user's own parts -----------------------------------------------------------


def test_a_users_importance_decides():
    masks = decide(
        {"layer": torch.tensor([[-5.0, 1.0, 3.0]])}, 1, importance=lambda weight: weight
    )
    assert masks["layer"].tolist() == [[False, False, True]]


def test_a_users_importance_may_answer_with_numpy():
    def by_numpy(weight):
        return np.abs(weight.numpy())

    weight = torch.nn.Parameter(torch.tensor([[-5.0, 1.0]]))
    masks = decide({"layer": weight}, 1, importance=by_numpy)
    assert masks["layer"].tolist() == [[True, False]]


def test_a_users_importance_is_given_only_what_it_asks_for():
    asked = []

    def noisy(weight, *, generator, amount=0.0):
        asked.append((generator, amount))
        return weight

    stats = {"generator": torch.Generator(), "unasked": object()}
    decide({"layer": torch.ones(1, 2)}, 1, importance=noisy, stats=stats)
    assert asked == [(stats["generator"], 0.0)]


def test_a_statistic_by_layer_is_given_layer_by_layer():
    scores = {"a": torch.tensor([[1.0, 2.0]]), "b": torch.tensor([[4.0, 3.0]])}

    def looked_up(weight, *, generator):
        return generator

    weights = {name: torch.ones(1, 2) for name in scores}
    masks = decide(
        weights,
        2,
        importance=looked_up,
        allocation="uniform",
        stats={"generator": scores},
    )
    assert as_lists(masks) == {"a": [[False, True]], "b": [[True, False]]}


@pytest.mark.parametrize(
    "shape", [(), (3,), (3, 2), (2, 3, 1)], ids=lambda shape: f"{len(shape)}d-{shape}"
)
def test_scores_of_another_shape_are_refused_naming_the_layer(shape):
    with pytest.raises(ValueError, match=r"layer 'hidden'.*shape \(2, 3\)"):
        decide(
            {"hidden": torch.ones(2, 3)}, 0.5, importance=lambda w: torch.ones(shape)
        )


def test_a_users_allocation_decides():
    def one_each(pooled, sizes, budget):
        return dict.fromkeys(pooled, 1)

    weights = {"a": torch.ones(2, 3), "b": torch.ones(4, 4)}
    masks = decide(weights, 0.5, allocation=one_each)
    assert n_alive_by_layer(masks) == {"a": 1, "b": 1}


def test_a_users_allocation_sees_living_groups_and_their_sizes():
    seen = {}

    def spy(pooled, sizes, budget):
        seen.update(sizes=as_lists(sizes), scores=as_lists(pooled))
        return uniform(pooled, sizes, budget)

    before = {"a": torch.tensor([[True, False], [True, True], [False, False]])}
    weights = {"a": torch.tensor([[2.0, 9.0], [1.0, 3.0], [9.0, 9.0]])}
    decide(weights, 0.0, granularity="neuron", allocation=spy, masks=before)
    assert seen == {"sizes": {"a": [1, 2, 0]}, "scores": {"a": [1.0, 2.0, -np.inf]}}


@pytest.mark.parametrize("n", [-1, 4, 7])
def test_an_allocation_of_groups_that_do_not_live_is_refused(n):
    before = {"hidden": torch.tensor([[True, True, True, False, False, False]])}
    with pytest.raises(ValueError, match=f"keeps {n} groups of layer 'hidden'.* 3 liv"):
        decide(
            {"hidden": torch.ones(1, 6)},
            0.5,
            allocation=lambda pooled, sizes, budget: {"hidden": n},
            masks=before,
        )


@pytest.mark.parametrize("answer", [{}, {"a": 1}, {"a": 1, "b": 1, "c": 1}])
def test_an_allocation_for_other_layers_is_refused(answer):
    with pytest.raises(ValueError, match=r"for each of \['a', 'b'\]"):
        decide(
            {"a": torch.ones(2, 2), "b": torch.ones(2, 2)},
            0.5,
            allocation=lambda pooled, sizes, budget: answer,
        )


class Halves:
    """The left and the right half of a layer live or die together."""

    def pool(self, scores):
        return torch.stack([half.mean() for half in scores.tensor_split(2, 1)])

    def choose(self, pooled, n):
        return best(pooled, n)

    def expand(self, values, shape):
        left, right = torch.empty(shape).tensor_split(2, 1)
        return torch.cat(
            [values[0].expand(left.shape), values[1].expand(right.shape)], 1
        )


def test_a_users_granularity_follows_the_protocol():
    assert isinstance(Halves(), Granularity)


def test_a_users_granularity_decides():
    masks = decide(
        {"layer": torch.tensor([[9.0, 1.0, 4.0, 4.0], [1.0, 1.0, 4.0, 4.0]])},
        0.5,
        granularity=Halves(),
    )
    assert masks["layer"].tolist() == [[False, False, True, True]] * 2


def test_a_users_schedule_is_followed():
    shares = event_shares(lambda progress: progress**2, 4)
    weights = {"layer": torch.arange(1.0, 161.0).reshape(16, 10)}
    rng = np.random.default_rng(0)
    zeros = [n_zeros(m) for m in over_schedule(weights, shares, rng, sparsity=0.5)]
    assert zeros == [5, 20, 45, 80]
