"""Proximal steps against a numerical minimiser, gates against their distribution."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize
from torch.autograd import gradcheck

from sklearn_sparse_nn.core.granularity import resolve_granularity
from sklearn_sparse_nn.core.penalties import (
    chance_alive,
    mean_gate,
    sample_gate,
    shrink,
)
from tests.core.oracles import group_of_each_weight
from tests.core.strategies import GROUPED, explore, seeds, weight_tensors

thresholds = st.integers(0, 16).map(lambda n: n / 8)
LOCATIONS = (-4.0, -1.5, 0.0, 0.7, 2.5, 5.0)


def shrunk(weight, threshold, granularity):
    return shrink(weight, threshold, resolve_granularity(granularity))


# shrink -----------------------------------------------------------------------


@explore
@given(weight_tensors(), thresholds, st.sampled_from(["unstructured", "2:4"]))
def test_single_weights_are_thresholded_softly(weight, threshold, granularity):
    array = weight.double().numpy()
    expected = np.sign(array) * np.maximum(np.abs(array) - threshold, 0)
    found = shrunk(weight, threshold, granularity)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert np.array_equal(found.numpy() == 0, expected == 0)


@pytest.mark.parametrize("granularity", GROUPED)
@pytest.mark.parametrize("threshold", [0.1, 0.9, 1.2])
def test_groups_minimise_the_proximal_problem(granularity, threshold):
    weight = np.random.default_rng(0).normal(size=(5, 4))
    found = shrunk(torch.as_tensor(weight), threshold, granularity).numpy()
    label = group_of_each_weight(granularity, weight.shape)
    for group in np.unique(label):
        old = weight[label == group]

        def objective(new, old=old):
            norm = np.sqrt((new**2).sum())
            return ((new - old) ** 2).sum() / 2 + threshold * len(old) ** 0.5 * norm

        starts = [old, 0.1 * old, np.full(len(old), 1e-3)]
        best = min(
            (
                minimize(objective, s, method="Nelder-Mead" if len(old) < 3 else "BFGS")
                for s in starts
            ),
            key=lambda result: result.fun,
        )
        mine = found[label == group]
        assert objective(mine) <= min(best.fun, objective(0 * old)) + 1e-9
        np.testing.assert_allclose(mine, best.x, atol=2e-3)


@explore
@given(weight_tensors(), thresholds, st.sampled_from(GROUPED))
def test_groups_whose_root_mean_square_is_below_the_threshold_are_zero(
    weight, threshold, granularity
):
    found = shrunk(weight, threshold, granularity).numpy()
    label = group_of_each_weight(granularity, weight.shape)
    array = weight.double().numpy()
    for group in np.unique(label):
        members = label == group
        size = np.sqrt((array[members] ** 2).mean())
        if abs(size - threshold) > 1e-6:
            alive = (array[members] != 0) & (size > threshold)
            assert np.array_equal(found[members] != 0, alive)


@explore
@given(weight_tensors(), st.sampled_from(["unstructured", *GROUPED]))
def test_a_threshold_of_zero_changes_nothing(weight, granularity):
    assert torch.equal(shrunk(weight, 0.0, granularity), weight)


@explore
@given(weight_tensors(), thresholds, seeds)
def test_two_weights_never_come_farther_apart(weight, threshold, seed):
    other = torch.as_tensor(
        np.random.default_rng(seed).normal(size=weight.shape), dtype=torch.float32
    )
    for granularity in ("unstructured", "neuron"):
        near = shrunk(weight, threshold, granularity)
        far = shrunk(other, threshold, granularity)
        assert (near - far).norm() <= (weight - other).norm() + 1e-5


@pytest.mark.parametrize("granularity", ["unstructured", *GROUPED])
def test_shrinking_leaves_the_given_weight_alone(granularity):
    weight = torch.ones(3, 4)
    shrunk(weight, 0.5, granularity)
    assert torch.equal(weight, torch.ones(3, 4))


# gates ------------------------------------------------------------------------


def drawn(location, n=200_000):
    uniform = torch.rand(n, generator=torch.Generator().manual_seed(0)).double()
    uniform = uniform.clamp(1e-9, 1 - 1e-9)
    return sample_gate(torch.full((n,), location, dtype=torch.float64), uniform).numpy()


def within_chance(share, chance, n):
    return abs(share - chance) <= 5 * np.sqrt(chance * (1 - chance) / n) + 1 / n


@pytest.mark.parametrize("location", LOCATIONS)
def test_gates_are_open_as_often_as_their_chance_says(location):
    gates = drawn(location)
    chance = float(chance_alive(torch.tensor(location, dtype=torch.float64)))
    assert within_chance((gates > 0).mean(), chance, len(gates))


@pytest.mark.parametrize("location", LOCATIONS)
def test_gates_have_the_distribution_of_the_stretched_concrete(location):
    gates = drawn(location)
    assert gates.min() >= 0
    assert gates.max() <= 1
    for level in (0.2, 0.5, 0.8, 0.999999):
        # Equations 10 and 11 inverted: P(gate <= level).
        s = (level + 0.1) / 1.2
        logit = (2 / 3) * np.log(s / (1 - s)) - location
        expected = 1 / (1 + np.exp(-logit))
        assert within_chance((gates <= level).mean(), expected, len(gates))


def test_gates_at_both_ends_are_exact():
    gates = drawn(0.0)
    assert (gates == 0).any()
    assert (gates == 1).any()
    assert ((gates > 0) & (gates < 1)).any()


def test_the_mean_gate_is_the_papers():
    location = np.linspace(-6, 6, 49)
    expected = np.clip(1.2 / (1 + np.exp(-location)) - 0.1, 0, 1)
    found = mean_gate(torch.as_tensor(location))
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_the_chance_is_the_papers():
    location = np.linspace(-6, 6, 49)
    expected = 1 / (1 + np.exp(-(location - 2 / 3 * np.log(0.1 / 1.1))))
    found = chance_alive(torch.as_tensor(location))
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_gates_follow_their_location():
    uniform = torch.full((5,), 0.4)
    gates = sample_gate(torch.linspace(-2, 2, 5), uniform)
    assert gates.tolist() == sorted(gates.tolist())


@explore
@given(seeds)
def test_slopes_of_gates_are_their_finite_differences(seed):
    rng = np.random.default_rng(seed)
    location = torch.as_tensor(rng.uniform(-1.5, 1.5, 6)).requires_grad_()
    uniform = torch.as_tensor(rng.uniform(0.05, 0.95, 6))
    with torch.no_grad():
        gates = sample_gate(location, uniform)
    # Where the clamp bends there is no slope to compare.
    inside = ((gates == 0) | (gates == 1)) | ((gates > 0.01) & (gates < 0.99))
    uniform[~inside] = 0.5

    assert gradcheck(lambda at: sample_gate(at, uniform), (location,), atol=1e-6)
    assert gradcheck(chance_alive, (location,))
    assert gradcheck(mean_gate, (location,))


def test_noise_that_float32_rounds_to_an_end_gives_a_gate():
    ends = torch.tensor([1e-6, 1 - 1e-6])
    assert torch.isfinite(sample_gate(torch.zeros(2), ends)).all()
