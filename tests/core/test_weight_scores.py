"""Scores of the weights alone: shapes, purity, magnitudes and random numbers."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from sklearn_sparse_nn.core import scores
from sklearn_sparse_nn.core.importance import IMPORTANCES, needs
from tests.core.generators import seeded
from tests.core.strategies import explore, seeds, weight_tensors


def stand_ins(importance, weight):
    """Give statistics of the right shapes."""
    narrow = {
        "input_norm": weight[:1].abs(),
        "activation_zeros": torch.full((len(weight), *[1] * (weight.ndim - 1)), 0.5),
        "generator": seeded(0),
    }
    names = needs(importance)
    return {name: narrow.get(name, weight.abs() + 1) for name in names}


@explore
@given(weight_tensors(), st.sampled_from(sorted(set(IMPORTANCES) - {"obs"})))
def test_scores_have_the_shape_of_the_weight(weight, name):
    importance = IMPORTANCES[name]
    assert importance(weight, **stand_ins(importance, weight)).shape == weight.shape


@explore
@given(weight_tensors(), st.sampled_from(sorted(set(IMPORTANCES) - {"obs"})))
def test_scoring_leaves_weight_and_statistics_alone(weight, name):
    importance = IMPORTANCES[name]
    stats = stand_ins(importance, weight)
    before = (
        weight.clone(),
        {key: value.clone() for key, value in stats.items() if torch.is_tensor(value)},
    )
    importance(weight, **stats)
    assert torch.equal(weight, before[0])
    assert all(torch.equal(stats[key], value) for key, value in before[1].items())


@explore
@given(weight_tensors())
def test_magnitude_is_the_absolute_value(weight):
    expected = np.abs(weight.numpy())
    np.testing.assert_array_equal(scores.magnitude(weight).numpy(), expected)


@explore
@given(weight_tensors())
def test_magnitude_l2_is_the_square(weight):
    expected = weight.numpy() ** 2
    np.testing.assert_array_equal(scores.magnitude_l2(weight).numpy(), expected)


@explore
@given(weight_tensors())
def test_magnitude_l2_ranks_single_weights_as_magnitude_does(weight):
    by_l1 = scores.magnitude(weight).reshape(-1).argsort(stable=True)
    by_l2 = scores.magnitude_l2(weight).reshape(-1).argsort(stable=True)
    assert by_l1.tolist() == by_l2.tolist()


@explore
@given(weight_tensors(), seeds)
def test_random_scores_depend_on_the_generator_alone(weight, seed):
    found = scores.random(weight, generator=seeded(seed))
    others = scores.random(torch.full_like(weight, 7.0), generator=seeded(seed))
    assert torch.equal(found, others)


def test_random_scores_differ_between_seeds():
    weight = torch.ones(3, 4)
    found = scores.random(weight, generator=seeded(0))
    assert not torch.equal(found, scores.random(weight, generator=seeded(1)))


def test_random_scores_advance_the_generator():
    weight, generator = torch.ones(3, 4), seeded(0)
    first = scores.random(weight, generator=generator)
    assert not torch.equal(first, scores.random(weight, generator=generator))


def test_random_scores_leave_the_global_generator_alone():
    before = torch.get_rng_state()
    scores.random(torch.ones(3, 4), generator=seeded(0))
    assert torch.equal(torch.get_rng_state(), before)


@explore
@given(weight_tensors(), seeds)
def test_random_scores_lie_between_zero_and_one(weight, seed):
    found = scores.random(weight, generator=seeded(seed)).numpy()
    assert ((found >= 0) & (found < 1)).all()
