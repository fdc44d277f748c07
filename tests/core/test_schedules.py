import math
import pickle
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.base import clone

from sklearn_sparse_nn.core.schedules import (
    SCHEDULES,
    Exponential,
    Polynomial,
    cosine,
    event_shares,
    linear,
    oneshot,
    resolve_schedule,
)
from sklearn_sparse_nn.exceptions import UnknownNameError
from tests.core.strategies import explore

progresses = st.floats(0, 1)
names = st.sampled_from(sorted(SCHEDULES))
powers = st.floats(0.25, 8)
rates = st.floats(0.01, 20)
# Formulas are compared within a few roundings of numbers of at most 1.
ROUNDINGS = 1e-14


def close(value):
    return pytest.approx(value, rel=0, abs=ROUNDINGS)


@explore
@given(progresses)
def test_oneshot_is_always_one(progress):
    assert oneshot(progress) == 1.0


@explore
@given(progresses)
def test_linear_is_the_progress(progress):
    assert linear(progress) == progress


@explore
@given(progresses)
def test_cosine_is_a_squared_sine(progress):
    assert cosine(progress) == close(np.sin(np.pi * progress / 2) ** 2)


@explore
@given(progresses, st.integers(1, 6))
def test_polynomial_of_a_whole_power_follows_exact_arithmetic(progress, power):
    expected = 1 - (1 - Fraction(progress)) ** power
    assert Polynomial(power)(progress) == close(float(expected))


@explore
@given(st.floats(0, 0.999), powers)
def test_polynomial_leaves_a_power_of_what_is_left(progress, power):
    left = math.exp(power * math.log1p(-progress))
    assert 1 - Polynomial(power)(progress) == close(left)


@explore
@given(st.integers(1, 12), st.integers(500, 999).map(lambda n: n / 1000))
def test_exponential_loses_the_same_share_of_the_survivors_at_every_event(n, sparsity):
    shares = event_shares(Exponential(-math.log(1 - sparsity)), n)
    survivors = [1 - sparsity * share for share in shares]
    assert survivors == close([(1 - sparsity) ** (i / n) for i in range(1, n + 1)])


@explore
@given(progresses, st.floats(0.5, 20))
def test_exponential_is_its_formula(progress, rate):
    expected = (1 - math.e ** (-rate * progress)) / (1 - math.e**-rate)
    assert Exponential(rate)(progress) == close(expected)


@explore
@given(progresses)
def test_exponential_of_a_tiny_rate_is_linear(progress):
    assert Exponential(1e-15)(progress) == close(progress)


def test_the_name_cubic_means_the_third_power():
    assert SCHEDULES["cubic"].get_params() == {"power": 3}


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_a_named_schedule_ends_at_exactly_one(name):
    assert SCHEDULES[name](1.0) == 1.0


@explore
@given(powers)
def test_polynomial_ends_at_exactly_one(power):
    assert Polynomial(power)(1.0) == 1.0


@explore
@given(rates)
def test_exponential_ends_at_exactly_one(rate):
    assert Exponential(rate)(1.0) == 1.0


@pytest.mark.parametrize("name", sorted(set(SCHEDULES) - {"oneshot"}))
def test_a_gradual_schedule_starts_at_zero(name):
    assert SCHEDULES[name](0.0) == 0.0


@explore
@given(names, progresses)
def test_a_named_schedule_stays_between_zero_and_one(name, progress):
    assert 0 <= SCHEDULES[name](progress) <= 1


@explore
@given(names, st.integers(1, 100))
def test_event_shares_of_named_schedules_never_decrease(name, n_steps):
    shares = event_shares(SCHEDULES[name], n_steps)
    assert all(before <= after for before, after in pairwise(shares))


@explore
@given(powers, st.integers(1, 50))
def test_event_shares_of_a_polynomial_never_decrease(power, n_steps):
    shares = event_shares(Polynomial(power), n_steps)
    assert all(before <= after for before, after in pairwise(shares))


@explore
@given(names, st.integers(1, 100))
def test_event_shares_are_the_schedule_at_equal_steps(name, n_steps):
    at_steps = [SCHEDULES[name](i / n_steps) for i in range(1, n_steps + 1)]
    assert list(event_shares(SCHEDULES[name], n_steps)) == at_steps


@explore
@given(names, st.integers(1, 100))
def test_the_last_event_share_is_exactly_one(name, n_steps):
    assert event_shares(SCHEDULES[name], n_steps)[-1] == 1.0


def test_event_shares_of_numpy_numbers_are_plain_floats():
    shares = event_shares(lambda progress: np.float32(progress), 4)
    assert {type(share) for share in shares} == {float}


def test_a_users_function_is_a_schedule():
    assert event_shares(lambda progress: progress**2, 2) == (0.25, 1.0)


@pytest.mark.parametrize("off", [1e-10, -1e-10])
def test_rounding_in_the_last_share_is_forgiven(off):
    assert event_shares(lambda progress: progress * (1 + off), 1) == (1.0,)


@explore
@given(st.floats(0, 0.999999), st.integers(1, 20))
def test_a_schedule_that_does_not_end_at_one_is_refused(end, n_steps):
    with pytest.raises(ValueError, match="must end at 1"):
        event_shares(lambda progress: end * progress, n_steps)


@explore
@given(st.integers(3, 20), st.data())
def test_a_schedule_that_decreases_is_refused(n_steps, data):
    fall = data.draw(st.integers(2, n_steps - 1))
    values = [0.5 + 0.01 * i for i in range(n_steps)]
    values[fall - 1] = 0.4
    values[-1] = 1.0
    given_in_turn = iter(values)
    with pytest.raises(ValueError, match=r"falls from .* to 0\.4; .* not decrease"):
        event_shares(lambda progress: next(given_in_turn), n_steps)


@pytest.mark.parametrize(
    "share", [-0.01, 1.01, float("nan"), float("inf"), float("-inf")]
)
def test_a_share_that_is_no_fraction_is_refused(share):
    with pytest.raises(ValueError, match=r"must be in \[0, 1\]"):
        event_shares(lambda progress: share if progress < 1 else 1.0, 4)


def test_a_refused_share_is_located_by_its_progress():
    with pytest.raises(ValueError, match=r"gave 2\.0 at progress 0\.75"):
        event_shares(lambda progress: 2.0 if progress == 0.75 else progress, 4)


def test_a_last_share_above_one_is_refused():
    with pytest.raises(ValueError, match=r"must be in \[0, 1\]"):
        event_shares(lambda progress: progress * 1.001, 4)


@pytest.mark.parametrize("rate", [0, -1.0, float("nan")])
def test_exponential_refuses_a_rate_that_is_not_positive(rate):
    with pytest.raises(ValueError, match=r"rate=.* must be greater than 0"):
        event_shares(Exponential(rate), 2)


@pytest.mark.parametrize("power", [0, -1, float("nan")])
def test_polynomial_of_a_power_that_is_not_positive_is_refused(power):
    with pytest.raises(ValueError):
        event_shares(Polynomial(power), 2)


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_a_name_resolves_to_its_schedule(name):
    assert resolve_schedule(name)(0.3) == SCHEDULES[name](0.3)


@pytest.mark.parametrize("schedule", [Polynomial(2), Exponential(1.0), math.sqrt])
def test_an_object_or_function_resolves_to_itself(schedule):
    assert resolve_schedule(schedule) is schedule


@explore
@given(st.text().filter(lambda name: name not in SCHEDULES))
def test_an_unknown_name_is_refused_listing_the_valid_ones(name):
    with pytest.raises(UnknownNameError) as caught:
        resolve_schedule(name)
    listed = ", ".join(map(repr, SCHEDULES))
    assert str(caught.value).endswith(f"Valid: {listed}.")


@pytest.mark.parametrize(
    ("given_name", "meant"),
    [("one-shot", "oneshot"), ("cubik", "cubic"), ("exp0nential", "exponential")],
)
def test_a_misspelt_name_gets_a_suggestion(given_name, meant):
    with pytest.raises(UnknownNameError, match=f"Did you mean '{meant}'"):
        resolve_schedule(given_name)


def test_the_table_of_names_is_constant():
    with pytest.raises(TypeError):
        SCHEDULES["mine"] = linear


@explore
@given(names, progresses)
def test_a_pickled_schedule_gives_the_same_shares(name, progress):
    copy = pickle.loads(pickle.dumps(SCHEDULES[name]))
    assert copy(progress) == SCHEDULES[name](progress)


@pytest.mark.parametrize(
    ("schedule", "params"),
    [(Polynomial(power=2.5), {"power": 2.5}), (Exponential(rate=4), {"rate": 4})],
)
def test_parameters_of_a_schedule_can_be_read(schedule, params):
    assert schedule.get_params() == params


@pytest.mark.parametrize("schedule", [Polynomial(power=2.5), Exponential(rate=4)])
def test_a_cloned_schedule_has_the_same_parameters(schedule):
    assert clone(schedule).get_params() == schedule.get_params()


@pytest.mark.parametrize("schedule", [Polynomial(power=2.5), Exponential(rate=4)])
def test_a_cloned_schedule_is_another_object(schedule):
    assert clone(schedule) is not schedule


def test_a_parameter_set_later_takes_effect():
    assert Polynomial().set_params(power=1)(0.25) == 0.25
