"""Names of allocations."""

import math

import pytest

from sklearn_sparse_nn.core.allocation import (
    ALLOCATIONS,
    Bounded,
    below_threshold,
    global_,
    resolve_allocation,
    uniform,
)
from sklearn_sparse_nn.core.budget import Budget
from sklearn_sparse_nn.exceptions import UnknownNameError


@pytest.mark.parametrize("name", sorted(ALLOCATIONS))
def test_a_name_resolves_to_its_allocation(name):
    assert resolve_allocation(name, Budget({"a": 2}, 0.5)) is ALLOCATIONS[name]


def test_a_function_resolves_to_itself():
    def all_to_the_first(pooled, sizes, budget):
        return dict.fromkeys(pooled, 0)

    assert resolve_allocation(all_to_the_first, Budget({}, 0.5)) is all_to_the_first


def test_bounds_resolve_to_themselves():
    bounded = Bounded("erk", max_sparsity=0.9)
    assert resolve_allocation(bounded, Budget({"a": 2}, 0.5)) is bounded


@pytest.mark.parametrize("allocation", ["global", "erk", global_, Bounded()])
def test_a_sparsity_by_layer_leaves_nothing_to_split(allocation):
    assert resolve_allocation(allocation, Budget({"a": 2}, {"a": 0.5})) is uniform


@pytest.mark.parametrize("allocation", ["global", "lamp", global_, Bounded()])
def test_a_threshold_leaves_nothing_to_split(allocation):
    budget = Budget({"a": 2}, threshold=0.5)
    assert resolve_allocation(allocation, budget) is below_threshold


@pytest.mark.parametrize("sparsity", [0.5, {"a": 0.5}])
def test_an_unknown_name_is_refused_listing_the_valid_ones(sparsity):
    with pytest.raises(UnknownNameError) as caught:
        resolve_allocation("none such", Budget({"a": 2}, sparsity))
    listed = ", ".join(map(repr, ALLOCATIONS))
    assert str(caught.value).endswith(f"Valid: {listed}.")


@pytest.mark.parametrize(
    ("given_name", "meant"), [("globl", "global"), ("unifrom", "uniform")]
)
def test_a_misspelt_name_gets_a_suggestion(given_name, meant):
    with pytest.raises(UnknownNameError, match=f"Did you mean '{meant}'"):
        resolve_allocation(given_name, Budget({"a": 2}, math.pi / 4))


def test_the_table_of_names_is_constant():
    with pytest.raises(TypeError):
        ALLOCATIONS["mine"] = global_
