"""Optimal brain surgeon against searches and fits that know no inverse updates."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone

from sklearn_sparse_nn.core import obs as obs_file
from sklearn_sparse_nn.core.granularity import NM, Neuron, resolve_granularity
from sklearn_sparse_nn.core.masks import refit
from sklearn_sparse_nn.core.obs import OBS
from tests.core.decision import decide
from tests.core.oracles import group_of_each_weight, most_in_a_run
from tests.core.strategies import explore, seeds

DAMPING = 0.01
GROUPED = ("block:4x1", "block:1x4", "block:2x3", "input", "neuron")
few = settings(explore, max_examples=25)


def layer(n_rows, n_columns, *, n_samples=40, rank=None, seed=0):
    """Give correlated inputs of a layer and its weights."""
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=(n_samples, rank or n_columns))
    X = hidden @ rng.normal(size=(hidden.shape[1], n_columns))
    X += 0.3 * rng.normal(size=X.shape) * (rank is None)
    return X, rng.normal(size=(n_rows, n_columns))


def problem(X, damping=DAMPING):
    """Stack the inputs on what damping adds: ordinary least squares."""
    shift = damping * np.mean((X**2).sum(0))
    return np.vstack([X, np.sqrt(shift) * np.eye(X.shape[1])])


def fitted(stacked, row, keep):
    """Fit the weights of one neuron that are kept to the outputs of all."""
    new = np.zeros(len(row))
    if keep.any():
        wanted = stacked @ row
        new[keep] = np.linalg.lstsq(stacked[:, keep], wanted, rcond=None)[0]
    return new


def error(stacked, row, keep):
    """Give the squared error of that fit."""
    return ((stacked @ (row - fitted(stacked, row, keep))) ** 2).sum()


def allowed(granularity, keep):
    """Mark the columns that may go while N:M still has something to give."""
    if not granularity[0].isdigit():
        return keep
    n, m = map(int, granularity.split(":"))
    free = keep.copy()
    for start in range(0, len(keep), m):
        if keep[start : start + m].sum() <= n:
            free[start : start + m] = False
    return free if free.any() else keep


def searched(X, weight, granularity, damping=DAMPING):
    """Remove group after group of a band of rows, refitting exactly each time."""
    stacked = problem(X, damping)
    label = group_of_each_weight(granularity, weight.shape)
    tall = int(granularity[6:].split("x")[0]) if granularity.startswith("b") else 1
    tall = len(weight) if granularity == "input" else tall
    scores = np.zeros(weight.shape)
    for top in range(0, len(weight), tall):
        rows = range(top, min(top + tall, len(weight)))
        keep = np.ones((len(rows), weight.shape[1]), dtype=bool)
        label_here, highest, before = label[rows.start : rows.stop], 0.0, 0.0
        while keep.any():
            columns = allowed(granularity, keep[0]) if len(rows) == 1 else keep[0]
            rises = {}
            for group in np.unique(label_here[:, columns]):
                without = keep & (label_here != group)
                pairs = zip(rows, without, strict=True)
                rises[group] = sum(error(stacked, weight[r], k) for r, k in pairs)
            group = min(rises, key=rises.get)
            highest = max(highest, rises[group] - before)
            before = rises[group]
            scores[rows.start : rows.stop][label_here == group] = highest
            keep &= label_here != group
    return scores


def scored(X, weight, granularity, damping=DAMPING):
    return OBS(damping)(
        torch.as_tensor(weight),
        hessian=torch.as_tensor(X.T @ X),
        granularity=resolve_granularity(granularity),
    ).numpy()


def updated(X, weight, mask, damping=DAMPING):
    return (
        OBS(damping)
        .update(
            torch.as_tensor(weight),
            torch.as_tensor(mask),
            hessian=torch.as_tensor(X.T @ X),
        )
        .numpy()
    )


# scores -----------------------------------------------------------------------


@few
@given(seeds, st.integers(1, 3), st.integers(1, 9), st.integers(1, 30))
def test_scores_are_the_rises_of_a_greedy_search(seed, n_rows, n_columns, n_samples):
    X, weight = layer(n_rows, n_columns, n_samples=n_samples, seed=seed)
    expected = searched(X, weight, "unstructured")
    found = scored(X, weight, "unstructured")
    np.testing.assert_allclose(found, expected, rtol=1e-8)


@pytest.mark.parametrize("n_columns", [32, 33, 66])
def test_scores_stay_exact_over_many_removals(n_columns):
    X, weight = layer(1, n_columns, n_samples=100)
    expected = searched(X, weight, "unstructured")
    found = scored(X, weight, "unstructured")
    np.testing.assert_allclose(found, expected, rtol=1e-7)


@pytest.mark.parametrize("granularity", GROUPED)
@pytest.mark.parametrize("shape", [(8, 12), (5, 7), (3, 2), (1, 5), (6, 1), (9, 3)])
def test_a_group_scores_the_rise_of_all_its_rows(shape, granularity):
    X, weight = layer(*shape)
    expected = searched(X, weight, granularity)
    found = scored(X, weight, granularity)
    np.testing.assert_allclose(found, expected, rtol=1e-8)


def test_grouped_scores_stay_exact_over_many_removals():
    X, weight = layer(2, 80, n_samples=120)
    expected = searched(X, weight, "block:2x2")
    found = scored(X, weight, "block:2x2")
    np.testing.assert_allclose(found, expected, rtol=1e-7)


@few
@given(seeds, st.sampled_from(["1:2", "2:4", "1:3", "3:4"]), st.integers(1, 11))
def test_scores_under_a_pattern_are_those_of_a_search_under_quota(
    seed, pattern, n_columns
):
    X, weight = layer(2, n_columns, seed=seed)
    expected = searched(X, weight, pattern)
    np.testing.assert_allclose(scored(X, weight, pattern), expected, rtol=1e-8)


def test_scores_rise_along_the_order_of_removal_without_a_tie():
    X, weight = layer(4, 20)
    weight[:, 3:9] = 0.0
    for row in scored(X, weight, "unstructured"):
        assert len(set(row)) == 20


def test_the_survivors_of_every_row_are_those_of_the_search():
    X, weight = layer(6, 10)
    expected = searched(X, weight, "unstructured")
    masks = decide_by_obs(X, weight, 24)
    for mask, row in zip(masks, expected, strict=True):
        assert row[mask].min(initial=np.inf) >= row[~mask].max(initial=0)


def decide_by_obs(X, weight, n_kept, granularity="unstructured", before=None):
    masks = decide(
        {"layer": torch.as_tensor(weight)},
        n_kept,
        importance="obs",
        granularity=granularity,
        stats={"hessian": {"layer": torch.as_tensor(X.T @ X)}},
        masks=None if before is None else {"layer": torch.as_tensor(before)},
    )
    return masks["layer"].numpy()


def test_scores_do_not_depend_on_how_many_rows_are_taken_at_once(monkeypatch):
    X, weight = layer(7, 12)
    together = scored(X, weight, "unstructured")
    monkeypatch.setattr(obs_file, "_CHUNK_BYTES", 2 * 8 * 12**2)
    np.testing.assert_allclose(scored(X, weight, "unstructured"), together, rtol=1e-12)


@pytest.mark.parametrize("granularity", ["unstructured", "2:4", *GROUPED])
def test_the_same_scores_twice(granularity):
    X, weight = layer(6, 9)
    once, again = (scored(X, weight, granularity) for _ in range(2))
    assert np.array_equal(once, again)


@pytest.mark.parametrize("granularity", ["unstructured", "2:4", *GROUPED])
def test_nothing_given_is_changed(granularity):
    X, weight = layer(6, 9)
    gram = torch.as_tensor(X.T @ X)
    before, given = gram.clone(), torch.as_tensor(weight.copy())
    part = resolve_granularity(granularity)
    OBS()(given, hessian=gram, granularity=part)
    mask = torch.as_tensor(weight > 0)
    OBS().update(given, mask, hessian=gram)
    assert np.array_equal(given.numpy(), weight)
    assert torch.equal(gram, before)
    assert torch.equal(mask, torch.as_tensor(weight > 0))


def test_a_granularity_of_unknown_groups_is_refused():
    class Diagonals(Neuron):
        pass

    class Own:
        pass

    X, weight = layer(3, 3)
    gram, weight = torch.as_tensor(X.T @ X), torch.as_tensor(weight)
    assert OBS()(weight, hessian=gram, granularity=Diagonals()).shape == (3, 3)
    with pytest.raises(ValueError, match="importance='obs' and granularity"):
        OBS()(weight, hessian=gram, granularity=Own())


# update -----------------------------------------------------------------------


@explore
@given(seeds, st.floats(0.0, 1.0), st.integers(1, 30))
def test_update_is_the_least_squares_fit_of_the_survivors(seed, share, n_samples):
    X, weight = layer(5, 8, n_samples=n_samples, seed=seed)
    mask = np.random.default_rng(seed).random(weight.shape) < share
    pairs = zip(weight, mask, strict=True)
    expected = [fitted(problem(X), row, keep) for row, keep in pairs]
    found = updated(X, weight, mask)
    np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-10)
    assert (found[~mask] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_update_keeps_the_dtype(dtype):
    X, weight = layer(5, 8)
    weight = torch.as_tensor(weight, dtype=dtype)
    new = OBS().update(weight, weight > 0, hessian=torch.as_tensor(X.T @ X))
    assert new.dtype == dtype


def test_update_with_all_weights_alive_is_the_weight():
    X, weight = layer(5, 8)
    found = updated(X, weight, np.ones(weight.shape, dtype=bool))
    np.testing.assert_allclose(found, weight, rtol=1e-10)


@pytest.mark.parametrize("sparsity", [0.5, 0.8, 0.95])
@pytest.mark.parametrize("rank", [None, 6])
def test_the_layers_output_is_nearer_than_after_magnitude_pruning(sparsity, rank):
    X, weight = layer(12, 40, n_samples=200, rank=rank)
    n_kept = round((1 - sparsity) * weight.size)
    mask = decide_by_obs(X, weight, n_kept)
    by_size = decide({"layer": torch.as_tensor(weight)}, n_kept)["layer"].numpy()
    assert mask.sum() == by_size.sum() == n_kept
    wanted = X @ weight.T

    def off(new):
        return ((X @ new.T - wanted) ** 2).sum()

    ours = off(updated(X, weight, mask))
    assert ours < off(updated(X, weight, by_size)) < off(weight * by_size)
    assert ours < off(weight * mask)


def test_refit_hands_every_layer_its_own_hessian():
    first, second = layer(4, 6, seed=1), layer(4, 6, seed=2)
    weights = {"a": torch.as_tensor(first[1]), "b": torch.as_tensor(second[1])}
    stats = {
        "hessian": {
            "a": torch.as_tensor(first[0].T @ first[0]),
            "b": torch.as_tensor(second[0].T @ second[0]),
        }
    }
    masks = {name: weight > 0 for name, weight in weights.items()}
    found = refit(weights, stats, masks, importance=OBS())
    for name, (X, weight) in {"a": first, "b": second}.items():
        expected = updated(X, weight, weight > 0)
        assert np.array_equal(found[name].numpy(), expected)


# patterns, blocks, what is dead -----------------------------------------------


@pytest.mark.parametrize("pattern", ["2:4", "1:2", "1:3"])
@pytest.mark.parametrize("n_columns", [12, 13, 6])
def test_no_group_of_a_pattern_has_more_than_it_may(pattern, n_columns):
    n, m = map(int, pattern.split(":"))
    X, weight = layer(8, n_columns)
    n_kept = 8 * sum(min(n, n_columns - start) for start in range(0, n_columns, m))
    mask = decide_by_obs(X, weight, n_kept, pattern)
    assert mask.sum() == n_kept
    assert most_in_a_run(mask, m) == n
    assert (
        NM(n, m)
        .preferred(torch.as_tensor(scored(X, weight, pattern)))
        .equal(torch.as_tensor(mask))
    )


@pytest.mark.parametrize("granularity", ["unstructured", "2:4", "block:2x3", "input"])
def test_what_is_dead_costs_nothing_and_stays_dead(granularity):
    X, weight = layer(6, 12)
    dead = np.zeros(weight.shape, dtype=bool)
    dead[:, 3:6] = True
    weight[dead] = 0.0
    found = scored(X, weight, granularity)
    assert found[dead].max() < 1e-290
    assert found[~dead].min() > 1e-3
    mask = decide_by_obs(X, weight, 18, granularity, before=~dead)
    assert mask.sum() == 18
    assert not mask[dead].any()
    assert (updated(X, weight, mask)[dead] == 0).all()


@pytest.mark.parametrize("granularity", ["unstructured", "2:4", *GROUPED])
def test_inputs_that_are_always_zero_break_nothing(granularity):
    X, weight = layer(5, 9)
    X[:, [0, 4, 8]] = 0.0
    found = scored(X, weight, granularity)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, searched(X, weight, granularity), rtol=1e-8)
    assert np.isfinite(updated(X, weight, weight > 0)).all()


def test_a_layer_that_nothing_reaches_is_scored_by_size_alone():
    weight = np.random.default_rng(0).normal(size=(3, 5))
    found = scored(np.zeros((4, 5)), weight, "unstructured")
    np.testing.assert_allclose(found, weight**2, rtol=1e-12)


def test_weights_on_a_dead_input_go_first():
    X, weight = layer(4, 6)
    X[:, 2] = 0.0
    weight[:, 2] = 1.0
    assert (scored(X, weight, "unstructured", 1e-6).argmin(1) == 2).all()


@pytest.mark.parametrize("damping", [1e-4, 1e-7])
def test_little_damping_on_inputs_that_depend_on_each_other(damping):
    X, weight = layer(4, 40, n_samples=60, rank=5)
    found = scored(X, weight, "unstructured", damping)
    assert np.isfinite(found).all()
    mask = decide_by_obs(X, weight, 80)
    assert np.isfinite(updated(X, weight, mask, damping)).all()


@pytest.mark.parametrize("damping", [1e-4, 1e-7])
def test_little_damping_on_blocks_of_inputs_that_depend_on_each_other(damping):
    X, weight = layer(4, 40, n_samples=60, rank=5)
    assert np.isfinite(scored(X, weight, "block:2x4", damping)).all()


def test_too_little_damping_is_refused_with_advice():
    X, weight = layer(4, 40, n_samples=60, rank=5)
    with pytest.raises(ValueError, match=r"damping=1e-09.* Use more damping"):
        scored(X, weight, "block:2x4", 1e-9)


@pytest.mark.parametrize("damping", [0.0, -0.01, float("nan")])
def test_damping_that_is_not_positive_is_refused(damping):
    X, weight = layer(2, 3)
    with pytest.raises(ValueError, match="must be greater than 0"):
        scored(X, weight, "unstructured", damping)
    with pytest.raises(ValueError, match="must be greater than 0"):
        updated(X, weight, weight > 0, damping)


def test_options_survive_a_clone():
    assert clone(OBS(damping=0.5)).damping == 0.5
