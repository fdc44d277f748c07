"""The budget from event to event."""

import math

import numpy as np
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from sklearn_sparse_nn.core.allocation import (
    Bounded,
    erk,
    global_,
    lamp,
)
from sklearn_sparse_nn.core.budget import Budget
from tests.core.allocation.draws import agree, bounds, layer_shapes, n_weights, splits
from tests.core.strategies import explore, fractions, seeds


def events(allocation, shapes, shares, sparsity, rng):
    """Yield (kept, budget) over the shares; survivors get new scores in between."""
    alive = {name: np.ones(math.prod(shape), bool) for name, shape in shapes.items()}
    for share in sorted(shares):
        budget = Budget(n_weights(shapes), sparsity, share=share, shapes=shapes)
        scores, sizes = {}, {}
        for name, mask in alive.items():
            drawn = np.where(mask, rng.integers(0, 9, mask.size) / 4, -np.inf)
            scores[name], sizes[name] = torch.tensor(drawn), torch.tensor(mask).long()
        kept = allocation(scores, sizes, budget)
        for name, n in kept.items():
            order = np.argsort(-scores[name].numpy(), kind="stable")
            alive[name][order[n:]] = False
        yield kept, budget


@explore
@given(
    layer_shapes,
    st.lists(fractions, min_size=2, max_size=5),
    fractions,
    st.sampled_from([global_, erk, lamp]),
    seeds,
)
def test_the_budget_is_met_at_every_event(shapes, shares, sparsity, allocation, seed):
    rng = np.random.default_rng(seed)
    for kept, budget in events(allocation, shapes, shares, sparsity, rng):
        assert sum(kept.values()) == budget.kept()


@explore
@given(
    layer_shapes,
    st.lists(fractions, min_size=2, max_size=5),
    fractions,
    bounds,
    splits,
    seeds,
)
def test_the_budget_is_met_at_every_event_under_bounds(
    shapes, shares, sparsity, least_most, inner, seed
):
    allocation = Bounded(inner, *least_most)
    assume(agree(allocation, Budget(n_weights(shapes), sparsity)))
    rng = np.random.default_rng(seed)
    for kept, budget in events(allocation, shapes, shares, sparsity, rng):
        assert sum(kept.values()) == budget.kept()
