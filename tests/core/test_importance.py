import inspect
import pickle
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sklearn_sparse_nn.core.importance import (
    IMPORTANCES,
    STATISTICS,
    magnitude,
    magnitude_l2,
    needs,
    random,
    resolve_importance,
)
from sklearn_sparse_nn.exceptions import UnknownNameError
from tests.core.strategies import explore, seeds, weight_tensors


def seeded(seed):
    return torch.Generator().manual_seed(seed)


@explore
@given(weight_tensors())
def test_magnitude_is_the_absolute_value(weight):
    expected = np.abs(weight.numpy())
    np.testing.assert_array_equal(magnitude(weight).numpy(), expected)


@explore
@given(weight_tensors())
def test_magnitude_l2_is_the_square(weight):
    expected = weight.numpy() ** 2
    np.testing.assert_array_equal(magnitude_l2(weight).numpy(), expected)


@explore
@given(weight_tensors())
def test_magnitude_l2_ranks_single_weights_as_magnitude_does(weight):
    by_l1 = magnitude(weight).reshape(-1).argsort(stable=True)
    by_l2 = magnitude_l2(weight).reshape(-1).argsort(stable=True)
    assert by_l1.tolist() == by_l2.tolist()


@explore
@given(weight_tensors(), st.sampled_from(sorted(IMPORTANCES)))
def test_scores_have_the_shape_of_the_weight(weight, name):
    stats = {need: seeded(0) for need in needs(IMPORTANCES[name])}
    assert IMPORTANCES[name](weight, **stats).shape == weight.shape


@explore
@given(weight_tensors(), st.sampled_from(sorted(IMPORTANCES)))
def test_scoring_leaves_the_weight_alone(weight, name):
    before = weight.clone()
    stats = {need: seeded(0) for need in needs(IMPORTANCES[name])}
    IMPORTANCES[name](weight, **stats)
    assert torch.equal(weight, before)


@explore
@given(weight_tensors(), seeds)
def test_random_scores_depend_on_the_generator_alone(weight, seed):
    scores = random(weight, generator=seeded(seed))
    others = random(torch.full_like(weight, 7.0), generator=seeded(seed))
    assert torch.equal(scores, others)


def test_random_scores_differ_between_seeds():
    weight = torch.ones(3, 4)
    scores = random(weight, generator=seeded(0))
    assert not torch.equal(scores, random(weight, generator=seeded(1)))


def test_random_scores_advance_the_generator():
    weight, generator = torch.ones(3, 4), seeded(0)
    first = random(weight, generator=generator)
    assert not torch.equal(first, random(weight, generator=generator))


def test_random_scores_leave_the_global_generator_alone():
    before = torch.get_rng_state()
    random(torch.ones(3, 4), generator=seeded(0))
    assert torch.equal(torch.get_rng_state(), before)


@explore
@given(weight_tensors(), seeds)
def test_random_scores_lie_between_zero_and_one(weight, seed):
    scores = random(weight, generator=seeded(seed)).numpy()
    assert ((scores >= 0) & (scores < 1)).all()


@pytest.mark.parametrize(
    ("name", "expected"),
    [("magnitude", ()), ("magnitude_l2", ()), ("random", ("generator",))],
)
def test_needs_of_the_named_importances(name, expected):
    assert needs(IMPORTANCES[name]) == expected


def test_an_option_with_a_default_is_no_need():
    def powered(weight, *, power=2.0):
        return weight.abs() ** power

    assert needs(powered) == ()


def test_a_positional_parameter_is_no_need():
    def shifted(weight, generator=None):
        return weight.abs()

    assert needs(shifted) == ()


def test_needs_are_found_beside_options():
    def noisy(weight, *, amount=0.1, generator):
        return weight.abs() + amount * torch.rand(weight.shape, generator=generator)

    assert needs(noisy) == ("generator",)


def test_needs_of_an_object_are_those_of_its_call():
    class Noisy:
        def __call__(self, weight, *, generator):
            return torch.rand(weight.shape, generator=generator)

    assert needs(Noisy()) == ("generator",)


def test_an_option_bound_beforehand_is_no_need():
    def powered(weight, *, power):
        return weight.abs() ** power

    assert needs(partial(powered, power=3)) == ()


def test_an_unknown_need_is_refused_naming_the_known_ones():
    def by_luck(weight, *, horoscope):
        return weight

    with pytest.raises(UnknownNameError) as caught:
        needs(by_luck)
    message = str(caught.value)
    assert all(repr(name) in message for name in ("horoscope", *STATISTICS))


def test_a_misspelt_need_gets_a_suggestion():
    def noisy(weight, *, genrator):
        return weight

    with pytest.raises(UnknownNameError, match="Did you mean 'generator'"):
        resolve_importance(noisy)


@pytest.mark.parametrize("name", sorted(IMPORTANCES))
def test_a_name_resolves_to_its_function(name):
    assert resolve_importance(name) is IMPORTANCES[name]


def test_a_function_resolves_to_itself():
    def inverse(weight):
        return -weight.abs()

    assert resolve_importance(inverse) is inverse


def test_a_function_that_shows_no_signature_has_no_needs():
    # torch's own functions are built in: their parameters cannot be inspected.
    with pytest.raises(ValueError, match="no signature"):
        inspect.signature(torch.abs)
    assert resolve_importance(torch.abs) is torch.abs


@explore
@given(st.text().filter(lambda name: name not in IMPORTANCES))
def test_an_unknown_name_is_refused_listing_the_valid_ones(name):
    with pytest.raises(UnknownNameError) as caught:
        resolve_importance(name)
    listed = ", ".join(map(repr, IMPORTANCES))
    assert str(caught.value).endswith(f"Valid: {listed}.")


@pytest.mark.parametrize(
    ("given_name", "meant"),
    [("magnitud", "magnitude"), ("magnitude-l2", "magnitude_l2"), ("rnd", "random")],
)
def test_a_misspelt_name_gets_a_suggestion(given_name, meant):
    with pytest.raises(UnknownNameError, match=f"Did you mean '{meant}'"):
        resolve_importance(given_name)


def test_a_name_like_no_other_gets_no_suggestion():
    with pytest.raises(UnknownNameError) as caught:
        resolve_importance("xyz")
    assert "Did you mean" not in str(caught.value)


def test_the_table_of_names_is_constant():
    with pytest.raises(TypeError):
        IMPORTANCES["mine"] = magnitude


def test_an_unknown_name_error_is_a_value_error():
    assert issubclass(UnknownNameError, ValueError)


@explore
@given(st.text(), st.text(), st.lists(st.text()))
def test_an_unknown_name_error_survives_pickling(kind, name, valid):
    error = UnknownNameError(kind, name, valid)
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), vars(copy)) == (type(error), str(error), vars(error))


def test_an_unknown_name_error_reads_its_valid_names_once():
    error = UnknownNameError("layer", "hiden", iter(["hidden", "output"]))
    assert error.valid == ["hidden", "output"]
