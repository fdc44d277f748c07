"""A decision is a pure function of what it is given."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.core.decision import (
    as_lists,
    decide,
)
from tests.core.masks.requests import (
    ALL_KINDS,
    allocations,
    frozen,
    may_collapse,
    total,
)
from tests.core.strategies import (
    explore,
    fractions,
    layers,
    seeds,
)


@may_collapse
@explore
@given(layers(), st.sampled_from(ALL_KINDS), allocations, fractions, seeds)
def test_deciding_leaves_its_inputs_alone(
    weights, granularity, allocation, sparsity, seed
):
    masks = frozen(weights, 0.3, np.random.default_rng(seed))
    before = [x.clone() for x in (*weights.values(), *masks.values())]
    asked = {"granularity": granularity, "allocation": allocation, "masks": masks}
    decide(weights, sparsity, **asked)
    after = [*weights.values(), *masks.values()]
    assert all(map(torch.equal, before, after))


@may_collapse
@explore
@given(layers(), st.sampled_from(ALL_KINDS), allocations, fractions)
def test_deciding_twice_gives_the_same_masks(
    weights, granularity, allocation, sparsity
):
    asked = {"granularity": granularity, "allocation": allocation}
    one, other = (decide(weights, sparsity, **asked) for _ in range(2))
    assert as_lists(one) == as_lists(other)


def test_the_masks_share_no_memory_with_earlier_ones():
    before = {"layer": torch.ones(2, 3, dtype=torch.bool)}
    after = decide({"layer": torch.ones(2, 3)}, 0.0, masks=before)
    after["layer"].fill_(False)
    assert before["layer"].all()


def test_weights_in_training_are_pruned_as_they_are():
    weight = torch.nn.Parameter(torch.tensor([[1.0, -3.0, 2.0]]))
    assert decide({"layer": weight}, 1)["layer"].tolist() == [[False, True, False]]


@explore
@given(layers(anchored=True), st.sampled_from(ALL_KINDS))
def test_masks_are_boolean_and_of_the_weights_shapes(weights, granularity):
    masks = decide(weights, total(weights), granularity=granularity)
    found = {name: (mask.dtype, mask.shape) for name, mask in masks.items()}
    expected = {name: (torch.bool, weight.shape) for name, weight in weights.items()}
    assert found == expected


def test_random_masks_depend_on_the_generator_alone():
    rng = np.random.default_rng(0)
    masks = [
        decide(
            {"layer": torch.as_tensor(rng.normal(size=(4, 5)))},
            0.5,
            importance="random",
            stats={"generator": torch.Generator().manual_seed(3)},
        )["layer"]
        for _ in range(2)
    ]
    assert torch.equal(*masks)


def test_random_masks_leave_the_global_generator_alone():
    before = torch.get_rng_state()
    stats = {"generator": torch.Generator().manual_seed(3)}
    decide({"layer": torch.ones(4, 5)}, 0.5, importance="random", stats=stats)
    assert torch.equal(torch.get_rng_state(), before)
