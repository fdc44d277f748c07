from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sklearn_sparse_nn.core.allocation import Bounded, erk, global_, lamp, uniform
from sklearn_sparse_nn.core.compatibility import NetFacts, check_parts
from sklearn_sparse_nn.core.granularity import NM, resolve_granularity
from sklearn_sparse_nn.core.method import PruningMethod, resolve_method
from sklearn_sparse_nn.core.scores import apoz, fpgm, grasp
from tests.core.strategies import explore

LAYERS = {"hidden": 600, "output": 400}
GRANULARITIES = ("unstructured", "neuron", "input", "block:4x1")
patterns = st.tuples(st.integers(1, 8), st.integers(1, 8)).map(
    lambda pair: NM(pair[0], sum(pair))
)


def check(granularity, sparsity=0.5, threshold=None):
    method = PruningMethod(
        granularity=granularity, sparsity=sparsity, threshold=threshold
    )
    return check_parts(method, NetFacts(n_weights=LAYERS))


@pytest.mark.parametrize("name", GRANULARITIES)
@pytest.mark.parametrize("sparsity", [0, 0.0, 0.1, 1, 999, {"hidden": 0.1}])
@pytest.mark.parametrize("threshold", [None, 0.3])
def test_other_granularities_go_with_everything(name, sparsity, threshold):
    assert check(resolve_granularity(name), sparsity, threshold) is None


def test_a_users_granularity_goes_with_everything():
    class Mine:
        pass

    assert check(Mine(), 0.01, 0.3) is None


def test_a_pattern_and_a_threshold_are_refused_naming_both():
    with pytest.raises(ValueError, match=r"granularity='2:4' and threshold=0\.3"):
        check(NM(2, 4), threshold=0.3)


@explore
@given(patterns, st.floats(0, 0.99))
def test_a_pattern_goes_with_a_sparsity_at_least_its_own(pattern, more):
    own = 1 - pattern.n / pattern.m
    assert check(pattern, own + more * (1 - own)) is None


@explore
@given(patterns, st.floats(0.01, 0.99))
def test_a_pattern_is_refused_with_less_than_its_own_sparsity(pattern, part):
    sparsity = part * (1 - pattern.n / pattern.m - 0.002)
    with pytest.raises(ValueError) as caught:
        check(pattern, sparsity)
    named = f"granularity='{pattern.n}:{pattern.m}' and sparsity={sparsity!r}"
    assert str(caught.value).startswith(named)


@pytest.mark.parametrize(
    ("pattern", "sparsity"), [(NM(1, 3), 0.666), (NM(2, 3), 0.333), (NM(1, 3), 0.6667)]
)
def test_thirds_may_be_written_with_three_digits(pattern, sparsity):
    assert check(pattern, sparsity) is None


@pytest.mark.parametrize("k", [1, 499, 500])
def test_a_pattern_goes_with_no_more_survivors_than_it_keeps(k):
    assert check(NM(2, 4), k) is None


@pytest.mark.parametrize("k", [510, 999])
def test_a_pattern_is_refused_with_more_survivors_than_it_keeps(k):
    with pytest.raises(ValueError, match=f"granularity='2:4' and sparsity={k} "):
        check(NM(2, 4), k)


def test_a_pattern_goes_with_enough_sparsity_in_every_layer():
    assert check(NM(2, 4), {"hidden": 0.5, "output": 0.9}) is None


@pytest.mark.parametrize("other", [0.0, 0.3, 0.5, 0.9])
def test_a_pattern_is_refused_with_one_layer_that_asks_for_less(other):
    with pytest.raises(ValueError, match="granularity='2:4' and sparsity="):
        check(NM(2, 4), {"hidden": other, "output": 0.1})


def test_the_refusal_says_how_much_the_pattern_needs():
    with pytest.raises(ValueError, match=r"at least 0\.75"):
        check(NM(1, 4), 0.5)


def neurons(weight):
    """Score neurons, as a user may."""
    return weight.abs().mean(1, keepdim=True).expand_as(weight)


neurons.scores_neurons = True


def slopes(weight, *, grad):
    """Give scores with a sign, as a user may."""
    return weight * grad


slopes.signed = True


def refuse(match, **given):
    with pytest.raises(ValueError, match=match):
        check_parts(resolve_method(given), NetFacts(n_weights=LAYERS))


def allow(**given):
    check_parts(resolve_method(given), NetFacts(n_weights=LAYERS))


@pytest.mark.parametrize("importance", [neurons, partial(neurons), apoz, "fpgm"])
def test_an_importance_that_scores_neurons_goes_with_neurons_only(importance):
    allow(importance=importance, granularity="neuron")
    refuse(
        "importance=.* and granularity='input'",
        importance=importance,
        granularity="input",
    )


def test_an_importance_is_named_where_it_is_one_of_the_packages():
    refuse("importance='apoz' and", importance=apoz)
    refuse("importance=<function neurons at .*> and", importance=neurons)


@pytest.mark.parametrize(
    "allocation", ["lamp", lamp, Bounded("lamp"), Bounded(Bounded(lamp))]
)
@pytest.mark.parametrize("importance", [slopes, grasp, "grasp"])
def test_an_importance_with_a_sign_does_not_go_with_lamp(importance, allocation):
    allow(importance=importance, allocation=Bounded("erk"))
    refuse(
        "importance=.* and allocation=", importance=importance, allocation=allocation
    )


def test_a_users_allocation_may_refuse_signs():
    def mine(pooled, sizes, budget):
        return lamp(pooled, sizes, budget)

    allow(importance=slopes, allocation=mine)
    mine.unsigned_only = True
    refuse("and allocation=<function", importance=slopes, allocation=mine)


@pytest.mark.parametrize("bad", ["lmap", 3])
def test_bounds_around_something_unknown_declare_nothing(bad):
    assert not Bounded(bad).unsigned_only


def test_a_users_granularity_with_a_group_shape_goes_with_refitting():
    class Rows:
        def group_shape(self, shape):
            return 2, shape[1]

    allow(importance="obs", granularity=Rows())
    del Rows.group_shape
    refuse(
        "importance='obs' and granularity='rows'", importance="obs", granularity=Rows()
    )


@pytest.mark.parametrize(
    ("importance", "allocation"),
    [
        ("magnitude", global_),
        (neurons, uniform),
        (partial(fpgm), uniform),
        (slopes, global_),
    ],
)
def test_auto_is_uniform_for_scores_of_neurons_and_else_global(importance, allocation):
    method = resolve_method({"importance": importance, "allocation": "auto"})
    assert method.allocation_for(trained=True) is allocation
    assert method.allocation_for(trained=False) is allocation


def test_auto_is_erk_where_a_sparse_net_is_trained_from_scratch():
    method = resolve_method({"regrow": "random", "importance": neurons})
    assert method.allocation_for(trained=False) is erk
    assert method.allocation_for(trained=True) is uniform


def test_a_parameter_without_a_field_is_read_as_given():
    method = resolve_method({"sparsity": 0.5, "brand_new": 7})
    assert method.given["brand_new"] == 7
    assert method.sparsity == 0.5
