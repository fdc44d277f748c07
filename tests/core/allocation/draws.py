"""Layers, groups, bounds and allocations, drawn at random."""

import math

import numpy as np
import torch
from hypothesis import strategies as st

from tests.core.strategies import LAYERS, fractions, seeds


@st.composite
def pools(draw):
    """Scores and sizes of a few groups by layer; without living weights: -inf."""
    scores, alive = {}, {}
    group = st.tuples(st.integers(-2, 3).map(float), st.integers(0, 4))
    for name in LAYERS[: draw(st.integers(1, 3))]:
        groups = draw(st.lists(group, min_size=1, max_size=8))
        alive[name] = torch.tensor([size for _, size in groups])
        scores[name] = torch.tensor(
            [score if size else -torch.inf for score, size in groups],
            dtype=torch.float64,
        )
    return scores, alive


def living(scores, alive):
    """List (layer, score, size) of the living groups, layer by layer."""
    return [
        (name, score, size)
        for name in scores
        for score, size in zip(scores[name].tolist(), alive[name].tolist(), strict=True)
        if size
    ]


layer_shapes = st.lists(
    st.lists(st.integers(1, 6), min_size=2, max_size=4).map(tuple),
    min_size=1,
    max_size=5,
).map(lambda shapes: {f"layer{i}": shape for i, shape in enumerate(shapes)})


@st.composite
def nets(draw):
    """Scores, many of them tied, of weights of which some died before; and shapes."""
    shapes = draw(layer_shapes)
    rng = np.random.default_rng(draw(seeds))
    share_alive = draw(st.sampled_from([1.0, 1.0, 0.7, 0.2, 0.0]))
    scores, alive = {}, {}
    for name, shape in shapes.items():
        alive[name] = torch.as_tensor((rng.random(shape) < share_alive).astype(int))
        scores[name] = torch.as_tensor(rng.integers(0, 4, shape) / 4)
        scores[name][alive[name] == 0] = -torch.inf
    return scores, alive, shapes


def n_weights(shapes):
    return {name: math.prod(shape) for name, shape in shapes.items()}


def n_alive(alive):
    return {name: int(size.sum()) for name, size in alive.items()}


bounds = st.tuples(fractions, fractions).map(sorted)
splits = st.sampled_from(["global", "erk", "lamp"])


def agree(allocation, budget):
    """Tell whether the bounds can be kept at all."""
    try:
        allocation.check(budget)
    except ValueError:
        return False
    return True
