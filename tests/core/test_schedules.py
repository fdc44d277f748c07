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
    Between,
    Cyclic,
    Exponential,
    Polynomial,
    constant,
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
SUDDEN = {"oneshot", "constant", "cyclic"}
gradual = sorted(set(SCHEDULES) - SUDDEN)
# Where `begin` and `end` stand, in eighths, so that stretching adds no rounding.
stretches = st.lists(st.integers(0, 8), min_size=2, max_size=2, unique=True).map(sorted)
OBJECTS = [
    Polynomial(power=2.5),
    Exponential(rate=4),
    Cyclic(cycles=3),
    Between("linear", begin=0.25),
]
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
def test_constant_is_always_one(progress):
    assert constant(progress) == 1.0


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


@pytest.mark.parametrize("name", gradual)
def test_a_gradual_schedule_starts_at_zero(name):
    assert SCHEDULES[name](0.0) == 0.0


@explore
@given(names, progresses)
def test_a_named_schedule_stays_between_zero_and_one(name, progress):
    assert 0 <= SCHEDULES[name](progress) <= 1


@explore
@given(st.sampled_from(sorted(set(SCHEDULES) - {"cyclic"})), st.integers(1, 100))
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


def test_a_schedule_may_let_every_weight_live_again():
    values = iter([0.5, 0.0, 0.25, 0.75, 0.0, 1.0])
    shares = event_shares(lambda progress: next(values), 6)
    assert shares == (0.5, 0.0, 0.25, 0.75, 0.0, 1.0)


def test_a_schedule_that_falls_nearly_to_zero_is_refused():
    values = iter([0.5, 1e-12, 1.0])
    with pytest.raises(ValueError, match="except to 0, which lets every weight live"):
        event_shares(lambda progress: next(values), 3)


def test_a_schedule_may_not_end_with_every_weight_alive():
    with pytest.raises(ValueError, match="must end at 1"):
        event_shares(lambda progress: float(progress < 1), 3)


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


# alternating ------------------------------------------------------------------

# Of every phase, whether it is compressed, written out.
PHASES = {1: "C", 2: "CDC", 3: "CDCDC", 4: "CDCDCDC", 6: "CDCDCDCDCDC"}


def letters(shares):
    return "".join({1.0: "C", 0.0: "D"}[share] for share in shares)


@pytest.mark.parametrize("cycles", PHASES)
@pytest.mark.parametrize("per_phase", [1, 2, 3, 10, 49, 100])
def test_cyclic_alternates_between_compressed_and_decompressed(cycles, per_phase):
    shares = event_shares(Cyclic(cycles), per_phase * len(PHASES[cycles]))
    expected = "".join(phase * per_phase for phase in PHASES[cycles])
    assert letters(shares) == expected


def test_the_end_of_a_phase_belongs_to_it_whatever_its_binary_neighbour():
    assert Cyclic(13)(7 / 25) == 1.0


def test_a_bare_ceiling_would_take_that_end_for_the_next_phase():
    assert math.ceil(7 / 25 * 25) == 8


@explore
@given(st.integers(1, 20), st.integers(1, 300))
def test_cyclic_steps_fall_into_the_phase_that_exact_arithmetic_says(cycles, n_steps):
    n_phases = 2 * cycles - 1
    phases = [
        math.ceil(Fraction(step * n_phases, n_steps)) for step in range(1, n_steps + 1)
    ]
    expected = [float(phase % 2) for phase in phases]
    assert list(event_shares(Cyclic(cycles), n_steps)) == expected


@pytest.mark.parametrize("cycles", PHASES)
def test_cyclic_starts_compressed(cycles):
    assert Cyclic(cycles)(0.0) == 1.0


def test_one_cycle_is_constant():
    assert event_shares(Cyclic(1), 20) == event_shares(constant, 20)


@pytest.mark.parametrize("cycles", [0, -1, 2.0, "4", None])
def test_cyclic_refuses_what_is_no_number_of_phases(cycles):
    with pytest.raises(ValueError, match=r"cycles=.* must be an int of at least 1"):
        Cyclic(cycles)(0.5)


# stretching -------------------------------------------------------------------


@explore
@given(names, stretches, progresses)
def test_a_stretched_schedule_is_itself_over_its_part(name, stretch, inside):
    begin, end = (eighths / 8 for eighths in stretch)
    progress = begin + inside * (end - begin)
    shares = Between(name, begin, end)(progress)
    if begin < progress:
        expected = SCHEDULES[name]((progress - begin) / (end - begin))
        assert shares == close(expected)


@explore
@given(names, stretches, progresses)
def test_nothing_is_pruned_until_a_stretched_schedule_begins(name, stretch, where):
    begin, end = (eighths / 8 for eighths in stretch)
    if begin > 0:
        assert Between(name, begin, end)(where * begin) == 0.0


@explore
@given(names, stretches, progresses)
def test_all_is_pruned_from_the_end_of_a_stretched_schedule_on(name, stretch, where):
    begin, end = (eighths / 8 for eighths in stretch)
    assert Between(name, begin, end)(end + where * (1 - end)) == 1.0


@explore
@given(names, progresses)
def test_stretching_over_everything_changes_nothing(name, progress):
    assert Between(name)(progress) == SCHEDULES[name](progress)


@explore
@given(names, stretches, st.integers(1, 60))
def test_a_stretched_schedule_is_a_schedule(name, stretch, n_steps):
    begin, end = (eighths / 8 for eighths in stretch)
    assert event_shares(Between(name, begin, end), n_steps)[-1] == 1.0


def test_a_users_function_can_be_stretched():
    assert Between(math.sqrt, begin=0.5)(0.625) == 0.5


def test_a_stretched_schedule_can_be_stretched():
    assert Between(Between("linear", begin=0.5), begin=0.5)(0.875) == 0.5


def test_stretching_does_not_hide_a_schedule_that_does_not_end_at_one():
    with pytest.raises(ValueError, match="must end at 1"):
        event_shares(Between(lambda progress: progress / 2, end=0.5), 4)


@pytest.mark.parametrize(
    ("begin", "end"), [(0.5, 0.5), (0.6, 0.4), (-0.1, 1), (0, 1.1), (float("nan"), 1)]
)
def test_a_part_that_is_none_is_refused(begin, end):
    with pytest.raises(ValueError, match="must satisfy 0 <= begin < end <= 1"):
        Between("linear", begin, end)(0.5)


def test_an_unknown_schedule_cannot_be_stretched():
    with pytest.raises(UnknownNameError):
        Between("cubik")(0.5)


def test_parameters_of_what_is_stretched_can_be_set():
    outer = Between(Between(Polynomial(power=3)))
    outer.set_params(schedule__schedule__power=1)
    assert outer(0.25) == 0.25


# names and parameters ---------------------------------------------------------


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_a_name_resolves_to_its_schedule(name):
    assert resolve_schedule(name)(0.3) == SCHEDULES[name](0.3)


@pytest.mark.parametrize("schedule", [*OBJECTS, math.sqrt])
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


def test_a_schedule_object_is_shown_by_the_parameters_that_were_changed():
    assert repr(Between(Cyclic(3), end=0.5)) == (
        "Between(end=0.5, schedule=Cyclic(cycles=3))"
    )


@pytest.mark.parametrize(
    ("schedule", "params"),
    [
        (Polynomial(power=2.5), {"power": 2.5}),
        (Exponential(rate=4), {"rate": 4}),
        (Cyclic(cycles=3), {"cycles": 3}),
        (
            Between("linear", begin=0.25),
            {"schedule": "linear", "begin": 0.25, "end": 1.0},
        ),
    ],
)
def test_parameters_of_a_schedule_can_be_read(schedule, params):
    assert schedule.get_params() == params


@pytest.mark.parametrize("schedule", OBJECTS)
def test_a_cloned_schedule_has_the_same_parameters(schedule):
    assert clone(schedule).get_params() == schedule.get_params()


@pytest.mark.parametrize("schedule", OBJECTS)
def test_a_cloned_schedule_is_another_object(schedule):
    assert clone(schedule) is not schedule


def test_a_parameter_set_later_takes_effect():
    assert Polynomial().set_params(power=1)(0.25) == 0.25
