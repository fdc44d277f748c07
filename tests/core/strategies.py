"""Small layers, tied and distinct, of every shape, and what may be asked of them."""

import numpy as np
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from sklearn_sparse_nn.core.schedules import SCHEDULES

# How long one example takes says nothing about behaviour, so time is no criterion.
explore = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)

LAYERS = ("first", "middle", "last")
GROUPED = ("neuron", "input", "block:2x1", "block:2x3", "block:3x2", "block:4x4")
PATTERNS = ("1:2", "1:3", "2:3", "2:4", "3:4")
# Larger than every other weight of a layer: no ranking can take it away.
ANCHOR = 2.0**20

seeds = st.integers(0, 2**32 - 1)
# Written with a few decimals, as people do.
fractions = st.integers(0, 1000).map(lambda n: n / 1000)

matrices = st.tuples(st.integers(1, 5), st.integers(1, 9))
convolutions = st.tuples(
    st.integers(1, 3), st.integers(1, 3), st.integers(1, 2), st.integers(1, 3)
)
shapes = st.one_of(matrices, convolutions)


@st.composite
def weight_tensors(draw, shape=shapes):
    """Quarters, so that all sums are exact; half of the time nearly all tied."""
    if not isinstance(shape, tuple):
        shape = draw(shape)
    if draw(st.booleans()):
        quarters = draw(npst.arrays(np.int64, shape, elements=st.integers(-3, 3)))
    else:
        rng = np.random.default_rng(draw(seeds))
        quarters = rng.permutation(np.prod(shape)).reshape(shape) + 1
        quarters *= rng.choice([-1, 1], shape)
    return torch.as_tensor(quarters / 4, dtype=torch.float32)


@st.composite
def layers(draw, min_layers=1, anchored=False):
    """One to three named weights; `anchored`: the first of each is its best."""
    n_layers = draw(st.integers(min_layers, len(LAYERS)))
    weights = {name: draw(weight_tensors()) for name in LAYERS[:n_layers]}
    if anchored:
        for weight in weights.values():
            weight.view(-1)[0] = ANCHOR
    return weights


@st.composite
def sparsities(draw, size, *, least=0.0, n_kept=1):
    """A sparsity, at least `least`, that leaves `n_kept` of `size` weights alive."""
    most = 1000 * (size - n_kept) // size
    return draw(st.integers(min(int(np.ceil(1000 * least)), most), most)) / 1000


schedules = st.sampled_from(sorted(set(SCHEDULES) - {"cyclic"}))
step_counts = st.integers(1, 6)
