"""What masks are asked for: kinds of groups, allocations, and simple importances."""

import pytest
import torch
from hypothesis import strategies as st

from tests.core.strategies import (
    GROUPED,
)

ALL_KINDS = ("unstructured", *GROUPED, "2:4")
allocations = st.sampled_from(["global", "uniform"])
may_collapse = pytest.mark.filterwarnings(
    "ignore::sklearn_sparse_nn.exceptions.LayerCollapseWarning"
)


def total(weights):
    return sum(weight.numel() for weight in weights.values())


def size_of_best(ranking):
    """Count the weights of a layer's best group."""
    return int(ranking[0][1].sum())


def frozen(weights, share, rng):
    """Give masks that kill about a share of the weights, never the first of a layer."""
    masks = {}
    for name, weight in weights.items():
        masks[name] = torch.as_tensor(rng.random(weight.shape) >= share)
        masks[name].view(-1)[0] = True
    return masks
