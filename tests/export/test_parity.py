"""Exported nets give what torch gives, within the rounding of their own sums.

`make test-many` tries 10,000 random nets, `make test` fewer.
"""

import os

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, seed, settings

from sklearn_sparse_nn import export_module
from sklearn_sparse_nn.runtime.inputs import apply_narrow
from sklearn_sparse_nn.runtime.reference import evaluate
from tests.export.nets import build, exact, specs

N_NETS = int(os.environ.get("PARITY_NETS", 2_000))
CHUNKS = 20  # for pytest-xdist to share out


def torch_outputs(module, X):
    module.eval()
    with torch.no_grad():
        return module(torch.from_numpy(X)).numpy()


def excess(found, wanted, bound):
    """Tell by how much the worst value misses its bound, as a multiple of it.

    Denormal numbers, which kernels may flush to zero, are nobody's error.
    """
    return (abs(found - wanted) / (bound + 1e-37)).max(initial=0)


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_random_nets_in_parity_with_torch_and_scipy(chunk):
    @seed(chunk)
    @settings(
        max_examples=N_NETS // CHUNKS,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(specs)
    def check(spec):
        module, X = build(spec)
        wanted, bound = exact(module, X)
        assume(np.isfinite(bound).all())
        model = export_module(module, n_features=X.shape[1])
        scipy = evaluate(model.graph, apply_narrow(X, model.graph.stage))
        assert excess(torch_outputs(module, X), wanted, bound) <= 1, "the bound itself"
        assert excess(scipy, wanted, bound) <= 1
        assert excess(model.forward(X), wanted, bound) <= 1

    check()


def test_the_bound_sees_a_weight_that_is_off_by_a_thousandth():
    seen = tried = 0
    for i in range(60):
        block = ("plain", 12, "silu", "batch", 0.3, False)
        module, X = build((9, [block, block], 4, 0.5, "standardize", None, i))
        wanted, bound = exact(module, X)
        weight = module[1][0].weight
        with torch.no_grad():
            weight[weight != 0] *= 1.001
        tried += 1
        found = export_module(module).forward(X)
        seen += excess(found, wanted, bound) > 1
    assert seen > 0.9 * tried
