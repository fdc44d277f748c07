import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from sklearn_sparse_nn.core.granularity import (
    NM,
    Block,
    Granularity,
    Input,
    Neuron,
    Unstructured,
    best,
    resolve_granularity,
)
from sklearn_sparse_nn.core.schedules import SCHEDULES, event_shares
from sklearn_sparse_nn.exceptions import UnknownNameError
from tests.core.decision import decide, n_zeros, over_schedule
from tests.core.oracles import (
    group_of_each_weight,
    half_up,
    in_pattern,
    longest_run,
    mean_of_group,
    most_in_a_run,
    n_asked,
    ranked_groups,
)
from tests.core.strategies import (
    ANCHOR,
    GROUPED,
    PATTERNS,
    convolutions,
    explore,
    fractions,
    layers,
    matrices,
    schedules,
    seeds,
    shapes,
    sparsities,
    step_counts,
    weight_tensors,
)

grouped = st.sampled_from(GROUPED)
patterns = st.sampled_from(PATTERNS)


def parsed(pattern):
    return tuple(map(int, pattern.split(":")))


@st.composite
def scores_and_counts(draw):
    levels = st.sampled_from([-np.inf, -1.0, 0.0, 0.5, 2.0])
    shape = draw(npst.array_shapes(max_dims=3, max_side=5))
    scores = draw(npst.arrays(np.float64, shape, elements=levels))
    return scores, draw(st.integers(0, scores.size))


# best -------------------------------------------------------------------------


@explore
@given(scores_and_counts())
def test_best_keeps_exactly_the_number_asked(asked):
    scores, n = asked
    assert int(best(torch.as_tensor(scores), n).sum()) == n


@explore
@given(scores_and_counts())
def test_best_keeps_the_highest_and_of_equal_ones_the_first(asked):
    scores, n = asked
    flat = scores.reshape(-1).tolist()
    expected = sorted(range(len(flat)), key=lambda i: (-flat[i], i))[:n]
    kept = best(torch.as_tensor(scores), n).reshape(-1).nonzero().reshape(-1)
    assert kept.tolist() == sorted(expected)


@explore
@given(scores_and_counts())
def test_best_leaves_the_scores_alone(asked):
    scores, n = asked
    pooled = torch.as_tensor(scores.copy())
    best(pooled, n)
    np.testing.assert_array_equal(pooled.numpy(), scores)


# pool and expand --------------------------------------------------------------


@explore
@given(weight_tensors(), grouped)
def test_a_group_scores_the_mean_of_its_weights(weight, granularity):
    scores = weight.double()
    pooled = resolve_granularity(granularity).pool(scores).reshape(-1).tolist()
    label = group_of_each_weight(granularity, weight.shape)
    expected = [
        float(mean_of_group(scores.numpy(), label == group))
        for group in range(label.max() + 1)
    ]
    assert pooled == expected


@explore
@given(weight_tensors(), st.sampled_from(("unstructured", *PATTERNS)))
def test_single_weights_keep_their_own_scores(weight, granularity):
    pooled = resolve_granularity(granularity).pool(weight)
    assert pooled.reshape(-1).tolist() == weight.reshape(-1).tolist()


@explore
@given(shapes, st.sampled_from(("unstructured", *GROUPED, *PATTERNS)))
def test_expand_gives_every_weight_the_value_of_its_group(shape, granularity):
    part = resolve_granularity(granularity)
    pooled = part.pool(torch.zeros(shape))
    numbers = torch.arange(pooled.numel()).reshape(pooled.shape)
    np.testing.assert_array_equal(
        part.expand(numbers, torch.Size(shape)).numpy(),
        group_of_each_weight(granularity, shape),
    )


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float64])
@pytest.mark.parametrize("granularity", ["unstructured", *GROUPED, "2:4"])
def test_expand_keeps_the_dtype(granularity, dtype):
    part = resolve_granularity(granularity)
    values = torch.zeros_like(part.pool(torch.zeros(5, 7)), dtype=dtype)
    assert part.expand(values, torch.Size((5, 7))).dtype == dtype


@explore
@given(weight_tensors(matrices))
def test_blocks_as_wide_as_the_layer_are_neurons(weight):
    rows = Block(1, weight.shape[1]).pool(weight).reshape(-1)
    assert rows.tolist() == Neuron().pool(weight).tolist()


@explore
@given(weight_tensors(matrices))
def test_blocks_as_tall_as_the_layer_are_inputs(weight):
    columns = Block(weight.shape[0], 1).pool(weight).reshape(-1)
    assert columns.tolist() == Input().pool(weight).tolist()


def test_a_ragged_block_is_not_diluted_by_what_it_lacks():
    pooled = Block(2, 2).pool(torch.full((3, 3), 5.0))
    assert pooled.tolist() == [[5.0, 5.0], [5.0, 5.0]]


def test_a_block_larger_than_the_layer_is_the_layer():
    assert Block(9, 9).pool(torch.tensor([[1.0, 3.0]])).tolist() == [[2.0]]


# N:M --------------------------------------------------------------------------


@explore
@given(weight_tensors(), patterns)
def test_preferred_are_the_best_of_every_run_and_of_equal_ones_the_first(
    weight, pattern
):
    n, m = parsed(pattern)
    pooled = NM(n, m).pool(weight)
    expected = in_pattern(weight.numpy(), n, m).reshape(len(weight), -1)
    np.testing.assert_array_equal(NM(n, m).preferred(pooled).numpy(), expected)


@explore
@given(weight_tensors(), patterns, st.data())
def test_at_the_final_share_no_run_has_more_than_n_survivors(weight, pattern, data):
    n, m = parsed(pattern)
    least = 1 - n / m
    sparsity = data.draw(sparsities(weight.numel(), least=least))
    masks = decide({"layer": weight}, sparsity, granularity=pattern)
    assert most_in_a_run(masks["layer"], m) <= n


@pytest.mark.parametrize("allocation", ["global", "uniform"])
def test_a_pattern_of_thirds_holds_where_its_rounded_sparsity_asks_for_less(
    allocation,
):
    weight = torch.arange(3000.0).reshape(500, 6)
    asked = {"granularity": "1:3", "allocation": allocation}
    masks = decide({"layer": weight}, 0.666, **asked)
    assert most_in_a_run(masks["layer"], 3) == 1


def test_a_pattern_holds_where_most_zeros_were_there_before():
    before = torch.tensor([[False] * 8, [True] * 8])
    weights = {"layer": torch.ones(2, 8)}
    masks = decide(weights, 0.5, granularity="2:4", masks={"layer": before})
    assert masks["layer"].tolist() == [[False] * 8, [True, True, False, False] * 2]


@pytest.mark.parametrize("allocation", ["global", "uniform"])
@pytest.mark.parametrize("kernel", [(), (3, 3)])
def test_no_run_of_several_layers_has_more_than_two_of_four(kernel, allocation):
    rng = np.random.default_rng(0)
    shapes = {"wide": (4, 10, *kernel), "ragged": (6, 7, *kernel)}
    weights = {k: torch.as_tensor(rng.normal(size=s)) for k, s in shapes.items()}
    masks = decide(weights, 0.5, granularity="2:4", allocation=allocation)
    assert [most_in_a_run(mask, 4) for mask in masks.values()] == [2, 2]


@explore
@given(weight_tensors(), patterns)
def test_the_bare_pattern_keeps_n_of_every_full_run(weight, pattern):
    n, m = parsed(pattern)
    n_kept = int(in_pattern(weight.numpy(), n, m).sum())
    masks = decide({"layer": weight}, n_kept, granularity=pattern)
    expected = in_pattern(weight.abs().numpy(), n, m)
    np.testing.assert_array_equal(masks["layer"].numpy(), expected)


@explore
@given(layers(anchored=True), patterns, st.data())
def test_zeros_under_a_pattern_equal_the_count_asked(weights, pattern, data):
    n, m = parsed(pattern)
    size = sum(weight.numel() for weight in weights.values())
    n_pattern = sum(in_pattern(w.numpy(), n, m).sum() for w in weights.values())
    n_kept = data.draw(st.integers(len(weights), int(n_pattern)))
    assert n_zeros(decide(weights, n_kept, granularity=pattern)) == size - n_kept


@explore
@given(layers(anchored=True), patterns, fractions, st.data())
def test_zeros_under_a_partly_done_pattern_equal_the_share(
    weights, pattern, share, data
):
    size = sum(weight.numel() for weight in weights.values())
    n, m = parsed(pattern)
    sparsity = data.draw(sparsities(size, least=1 - n / m, n_kept=len(weights)))
    masks = decide(weights, sparsity, share=share, granularity=pattern)
    assert n_zeros(masks) == half_up(share, n_asked(sparsity, size))


@explore
@given(layers(anchored=True), patterns, fractions, st.data())
def test_a_partly_done_pattern_prunes_what_the_pattern_does_not_want_first(
    weights, pattern, share, data
):
    size = sum(weight.numel() for weight in weights.values())
    n_kept = data.draw(st.integers(len(weights), size))
    masks = decide(weights, n_kept, share=share * 0.999, granularity=pattern)
    n_alive = size - half_up(share * 0.999, size - n_kept)
    ranking = ranked_groups(weights, pattern)
    expected = longest_run(weights, ranking, n_alive)
    for name, mask in masks.items():
        np.testing.assert_array_equal(mask.numpy(), expected[name])


@explore
@given(layers(anchored=True), patterns, schedules, step_counts, seeds, st.data())
def test_zeros_under_a_pattern_follow_the_schedule(
    weights, pattern, schedule, n_steps, seed, data
):
    size = sum(weight.numel() for weight in weights.values())
    n, m = parsed(pattern)
    n_pattern = sum(in_pattern(w.numpy(), n, m).sum() for w in weights.values())
    n_kept = data.draw(st.integers(len(weights), int(n_pattern)))
    shares = event_shares(SCHEDULES[schedule], n_steps)
    rng = np.random.default_rng(seed)
    events = over_schedule(weights, shares, rng, sparsity=n_kept, granularity=pattern)
    expected = [half_up(share, size - n_kept) for share in shares]
    assert [n_zeros(masks) for masks in events] == expected


@explore
@given(weight_tensors(), patterns, schedules, step_counts, seeds)
def test_a_pattern_reached_over_a_schedule_holds(
    weight, pattern, schedule, n_steps, seed
):
    n, m = parsed(pattern)
    weight.view(-1)[0] = ANCHOR
    n_kept = int(in_pattern(weight.numpy(), n, m).sum())
    shares = event_shares(SCHEDULES[schedule], n_steps)
    rng = np.random.default_rng(seed)
    asked = {"sparsity": n_kept, "granularity": pattern}
    *_, masks = over_schedule({"layer": weight}, shares, rng, **asked)
    assert most_in_a_run(masks["layer"], m) <= n


@pytest.mark.parametrize("exponent", [-70, -40, 0, 40, 60])
def test_the_scale_of_the_weights_does_not_break_the_pattern(exponent):
    weights = {"layer": torch.ones(2, 8) * 2.0**exponent}
    masks = decide(weights, 0.5, granularity="2:4")
    assert most_in_a_run(masks["layer"], 4) == 2


@pytest.mark.parametrize("exponent", [-70, -40, 0, 40, 60])
def test_the_scale_of_the_weights_does_not_change_a_partly_done_pattern(exponent):
    weight = torch.tensor([[4.0, 3.0, 1.0, 2.0, 4.0, 3.0, 2.0, 1.0]])
    scaled = {"layer": weight * 2.0**exponent}
    masks = decide(scaled, 0.5, share=0.5, granularity="2:4")
    assert masks["layer"].logical_not().nonzero()[:, 1].tolist() == [2, 7]


def test_a_layer_emptied_on_request_stays_empty_under_a_pattern():
    weights = {"layer": torch.ones(2, 4)}
    masks = {"layer": torch.zeros(2, 4, dtype=torch.bool)}
    again = decide(weights, {"layer": 1.0}, granularity="2:4", masks=masks)
    assert not again["layer"].any()


# whole groups -----------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::sklearn_sparse_nn.exceptions.LayerCollapseWarning")
@explore
@given(layers(), grouped, fractions, fractions, st.sampled_from(["global", "uniform"]))
def test_groups_live_or_die_whole(weights, granularity, sparsity, share, allocation):
    masks = decide(
        weights,
        sparsity,
        share=share,
        granularity=granularity,
        allocation=allocation,
    )
    for mask in masks.values():
        label = group_of_each_weight(granularity, mask.shape)
        living = mask.numpy()
        groups = [living[label == group] for group in range(label.max() + 1)]
        assert all(group.all() or not group.any() for group in groups)


@explore
@given(weight_tensors(convolutions))
def test_a_channel_of_a_convolution_dies_with_its_kernels(weight):
    weight[:, 0] = 0.0
    weight[:, 1:] += 2.0
    size = weight.numel()
    channel = weight[:, :1].numel()
    if channel == size:
        weight = torch.cat([weight, weight + 2.0], dim=1)
        size *= 2
    masks = decide({"layer": weight}, size - channel, granularity="input")
    assert masks["layer"].any((0, 2, 3)).tolist() == [False] + [True] * (
        weight.shape[1] - 1
    )


def test_a_filter_of_a_convolution_dies_whole():
    weight = torch.arange(1.0, 1 + 3 * 2 * 2 * 2).reshape(3, 2, 2, 2)
    masks = decide({"layer": weight}, 16, granularity="neuron")
    assert masks["layer"].flatten(1).sum(1).tolist() == [0, 8, 8]


def test_one_large_weight_saves_its_neuron_under_l2_only():
    weights = {"layer": torch.tensor([[2.0, 2.0, 2.0], [5.0, 0.0, 0.0]])}
    kept = [
        decide(weights, 3, granularity="neuron", importance=importance)["layer"][:, 0]
        for importance in ("magnitude", "magnitude_l2")
    ]
    assert [rows.tolist() for rows in kept] == [[True, False], [False, True]]


# names ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind"),
    [("unstructured", Unstructured), ("neuron", Neuron), ("input", Input)],
)
def test_a_plain_name_resolves_to_its_granularity(name, kind):
    assert type(resolve_granularity(name)) is kind


@explore
@given(st.integers(1, 64), st.integers(1, 64))
def test_a_block_is_read_as_rows_by_columns(rows, columns):
    block = resolve_granularity(f"block:{rows}x{columns}")
    assert (block.rows, block.columns) == (rows, columns)


@explore
@given(st.integers(1, 64), st.integers(1, 64))
def test_a_pattern_is_read_as_n_of_m(n, more):
    pattern = resolve_granularity(f"{n}:{n + more}")
    assert (pattern.n, pattern.m) == (n, n + more)


@pytest.mark.parametrize("name", ["block:0x1", "block:1x0", "block:0x0"])
def test_a_block_without_weights_is_refused(name):
    with pytest.raises(ValueError, match="at least 1x1"):
        resolve_granularity(name)


@pytest.mark.parametrize("name", ["0:4", "4:4", "5:4", "0:0"])
def test_a_pattern_that_keeps_none_or_all_is_refused(name):
    with pytest.raises(ValueError, match="0 < N < M"):
        resolve_granularity(name)


@pytest.mark.parametrize(
    "name", ["", "rows", "block:4", "block:4x", "block:-1x2", "2:", "2:4:8", "2.0:4"]
)
def test_an_unknown_name_is_refused_listing_the_valid_ones(name):
    with pytest.raises(UnknownNameError) as caught:
        resolve_granularity(name)
    listed = "'unstructured', 'neuron', 'input', 'block:4x1', '2:4'"
    assert str(caught.value).endswith(f"Valid: {listed}.")


@pytest.mark.parametrize(
    ("given_name", "meant"),
    [("nueron", "neuron"), ("inputs", "input"), ("block", "block:4x1")],
)
def test_a_misspelt_name_gets_a_suggestion(given_name, meant):
    with pytest.raises(UnknownNameError, match=f"Did you mean '{meant}'"):
        resolve_granularity(given_name)


@pytest.mark.parametrize(
    "name", ["unstructured", "neuron", "input", "block:2x3", "2:4"]
)
def test_a_resolved_granularity_follows_the_protocol(name):
    assert isinstance(resolve_granularity(name), Granularity)


def test_an_object_resolves_to_itself():
    mine = Block(2, 2)
    assert resolve_granularity(mine) is mine


@pytest.mark.parametrize("name", ["unstructured", *GROUPED, "2:4"])
def test_a_pickled_granularity_pools_alike(name):
    part = resolve_granularity(name)
    scores = torch.arange(35.0).reshape(5, 7)
    copy = pickle.loads(pickle.dumps(part))
    assert torch.equal(copy.pool(scores), part.pool(scores))
