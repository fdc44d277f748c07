import inspect
import pickle
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sklearn_sparse_nn.core.importance import (
    FACTS,
    IMPORTANCES,
    STATISTICS,
    declares,
    needs,
    resolve_importance,
    statistics_of,
)
from sklearn_sparse_nn.core.obs import OBS
from sklearn_sparse_nn.core.scores import magnitude
from sklearn_sparse_nn.exceptions import UnknownNameError
from tests.core.strategies import explore

NEEDS = {
    "magnitude": (),
    "magnitude_l2": (),
    "random": ("generator",),
    "gradient": ("grad",),
    "snip": ("grad",),
    "taylor": ("grad",),
    "grasp": ("hessian_grad",),
    "synflow": ("path_grad",),
    "movement": ("movement",),
    "fisher": ("grad_sq",),
    "wanda": ("input_norm",),
    "apoz": ("activation_zeros",),
    "obs": ("hessian", "granularity"),
    "fpgm": (),
}


def test_needs_of_the_named_importances():
    assert {name: needs(part) for name, part in IMPORTANCES.items()} == NEEDS


def test_an_update_names_its_own_needs():
    assert needs(OBS().update) == ("hessian",)


def test_a_statistic_with_a_default_is_still_a_need():
    def either(weight, *, grad=None):
        return weight.abs()

    assert needs(either) == ("grad",)


def test_a_statistic_bound_beforehand_is_no_need():
    assert needs(partial(IMPORTANCES["snip"], grad=torch.ones(1, 1))) == ()


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


def test_statistics_are_those_of_importances_and_their_updates():
    assert statistics_of(None) == ()
    assert statistics_of(OBS(), IMPORTANCES["snip"], IMPORTANCES["taylor"]) == (
        "hessian",
        "granularity",
        "grad",
    )


@pytest.mark.parametrize(
    ("fact", "names"),
    [("signed", ["grasp", "movement"]), ("scores_neurons", ["apoz", "fpgm"])],
)
def test_the_facts_that_the_named_importances_declare(fact, names):
    assert fact in FACTS
    assert [name for name in IMPORTANCES if declares(IMPORTANCES[name], fact)] == names


def test_a_users_function_declares_facts_and_a_partial_keeps_them():
    def mine(weight, *, power=1):
        return weight.abs().mean(1, keepdim=True).expand_as(weight) ** power

    assert not declares(mine, "scores_neurons")
    mine.scores_neurons = True
    assert declares(mine, "scores_neurons")
    assert declares(partial(mine, power=2), "scores_neurons")
    assert not declares(partial(mine, power=2), "signed")


def test_a_users_object_declares_facts_in_its_class():
    class Mine:
        signed = True

        def __call__(self, weight):
            return weight

    assert declares(Mine(), "signed")
    assert not declares(None, "signed")


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


@pytest.mark.parametrize("name", sorted(set(IMPORTANCES) - {"obs"}))
def test_a_name_resolves_to_its_function(name):
    assert resolve_importance(name) is IMPORTANCES[name]


def test_options_of_a_resolved_object_are_its_own():
    resolve_importance("obs").set_params(damping=7.0)
    assert IMPORTANCES["obs"].damping == 0.01


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
