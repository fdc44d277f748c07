import pytest
from hypothesis import given
from hypothesis import strategies as st

from sklearn_sparse_nn.core.compatibility import Parts, check_parts
from sklearn_sparse_nn.core.granularity import NM, resolve_granularity
from tests.core.strategies import explore

LAYERS = {"hidden": 600, "output": 400}
GRANULARITIES = ("unstructured", "neuron", "input", "block:4x1")
patterns = st.tuples(st.integers(1, 8), st.integers(1, 8)).map(
    lambda pair: NM(pair[0], sum(pair))
)


def check(granularity, sparsity=0.5, threshold=None):
    return check_parts(
        Parts(
            granularity=granularity,
            sparsity=sparsity,
            threshold=threshold,
            n_weights=LAYERS,
        )
    )


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
