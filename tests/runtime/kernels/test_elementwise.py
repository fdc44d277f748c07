"""Activations of the kernels against float64, over all of float32, in ulp."""

import numpy as np
import pytest

from sklearn_sparse_nn.runtime import reference
from sklearn_sparse_nn.runtime.activations import ACTIVATIONS, CODES
from sklearn_sparse_nn.runtime.graph import Activation
from sklearn_sparse_nn.runtime.kernels import elementwise
from tests.runtime.graphs import kernels_only

pytestmark = kernels_only

LEAST, MOST = np.finfo(np.float32).tiny, np.finfo(np.float32).max
#: Powers below float32's normal numbers are cut off, and multiplied by up to 100.
NOTHING = 128 * float(LEAST)
SPECIAL = np.array(
    [0, 1e-45, 1e-40, LEAST, 1e-30, 1e-8, 0.5, 1, 2, 20, 88, 89, 104, 1e10, 1e38, MOST],
    dtype=np.float32,
)

#: The most ulp; below zero, the last two lose more (see `allowed`).
ULPS = {
    "identity": 0,
    "relu": 0,
    "leaky_relu": 0.5,
    "hardtanh": 0,
    "elu": 4,
    "selu": 4,
    "silu": 3,
    "mish": 5,
    "tanh": 2,
    "sigmoid": 3,
    "softplus": 5,
    "gelu": 4,
    "gelu_tanh": 4,
    "softsign": 1.5,
    "threshold": 0,
}
PARAMS = {
    "leaky_relu": [(0.125,), (-2.0,), (0.0,)],
    "hardtanh": [(-1.0, 1.0), (0.0, 6.0), (-0.5, -0.25)],
    "elu": [(1.0,), (0.125,), (-2.0,)],
    "softplus": [(1.0, 20.0), (4.0, 20.0), (0.25, 8.0)],
    "threshold": [(0.0, 0.0), (0.5, -2.0), (-1.0, 20.0)],
}
CASES = [(name, p) for name in ACTIVATIONS for p in PARAMS.get(name, [()])]


def numbers():
    """Give finite float32 of all sizes, more of them where activations bend."""
    bits = np.arange(0, 2**32, 5003, dtype=np.uint64).astype(np.uint32)
    everywhere = bits.view(np.float32)
    everywhere = everywhere[np.isfinite(everywhere)]
    bends = np.linspace(-110, 110, 200_001, dtype=np.float32)
    return np.concatenate([everywhere, bends, bends / 50, SPECIAL, -SPECIAL])


X = numbers()


def activated(name, params, x):
    values = np.array(x, dtype=np.float32)
    p0, p1 = (np.float32(p) for p in [*params, 0, 0][:2])
    elementwise.activate(CODES[name], p0, p1, values)
    return values


def ulp(values):
    """Give the distance of float32 around each."""
    size = np.clip(abs(values), LEAST, 2.0**127).astype(np.float32)
    return np.spacing(size).astype(np.float64)


def allowed(name, x, exact):
    """Give the bound: powers far down lose what their argument has lost."""
    ulps = np.full(x.shape, float(ULPS[name]))
    negative = np.minimum(x, 0)
    if name == "gelu":
        ulps += np.where(x < 0, 8 + 2 * np.minimum(negative**2, 300), 0)
    elif name == "gelu_tanh":
        cubed = np.maximum(negative, -20) ** 3
        ulps += 3 * abs(1.6 * (np.maximum(negative, -20) + 0.0447 * cubed))
    return ulps * ulp(exact)


@pytest.mark.parametrize(("name", "params"), CASES)
def test_every_number_is_within_its_ulps(name, params):
    wide = X.astype(np.float64)
    exact = reference.activate(wide, Activation(name, params))
    found = activated(name, params, X)
    error = abs(found - exact)
    error[abs(exact) > MOST] = 0  # infinity is right
    assert np.isinf(found[abs(exact) > 1.001 * float(MOST)]).all()
    limit = np.maximum(allowed(name, wide, exact), NOTHING * (ULPS[name] > 1))
    off = ~(error <= limit)
    assert not off.any(), (
        f"{off.sum()}: {X[off][:5]} give {found[off][:5]} for {exact[off][:5]}"
    )


@pytest.mark.parametrize(("name", "params"), CASES)
def test_the_bound_sees_a_float32_that_is_eight_ulp_off(name, params):
    x = np.linspace(0.25, 6, 101, dtype=np.float32).astype(np.float64)
    exact = reference.activate(x, Activation(name, params))
    off = exact + 8 * ulp(exact)
    assert (abs(off - exact) > allowed(name, x, exact)).all()


@pytest.mark.parametrize(("name", "params"), CASES)
def test_nan_stays_nan(name, params):
    for n in (1, 3, 16, 64, 67):
        x = np.full(n, np.nan)
        assert np.isnan(activated(name, params, x)).all()
        x[:] = 1
        x[n // 2] = np.nan
        assert np.isnan(activated(name, params, x)).sum() == 1


@pytest.mark.parametrize(("name", "params"), CASES)
def test_ends_are_those_of_float64(name, params):
    """At minus infinity some are 0 times it, so NaN, as in torch."""
    if name == "softsign":  # infinity divided by itself
        assert np.isnan(activated(name, params, [np.inf, -np.inf])).all()
        assert activated(name, params, [MOST, -MOST]).tolist() == [1, -1]
        return
    up = activated(name, params, [np.inf])[0]
    wide = reference.activate(np.array([1e30]), Activation(name, params))[0]
    assert up == (wide if wide < 1e20 else np.inf)
    down = activated(name, params, [-np.inf])[0]
    if name not in ("gelu", "gelu_tanh", "silu", "mish"):
        with np.errstate(invalid="ignore"):
            wide = reference.activate(np.array([-np.inf]), Activation(name, params))[0]
        np.testing.assert_equal(down, np.float32(wide))


@pytest.mark.parametrize(("name", "params"), CASES)
def test_a_number_gets_the_same_bits_wherever_it_stands(name, params):
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.choice(X, 500), SPECIAL, -SPECIAL])
    alone = np.concatenate([activated(name, params, [v]) for v in x]).view(np.int32)
    for start in range(0, 40, 3):
        for n in (1, 2, 7, 8, 15, 16, 17, 33, 64, 100, 400):
            found = activated(name, params, x[start : start + n]).view(np.int32)
            assert (found == alone[start : start + n]).all()
    order = rng.permutation(len(x))
    assert (activated(name, params, x[order]).view(np.int32) == alone[order]).all()


@pytest.mark.parametrize(
    "name", ["tanh", "identity", "relu", "hardtanh", "mish", "softsign"]
)
def test_zero_stays_zero(name):
    params = (-1, 1) if name == "hardtanh" else ()
    assert not activated(name, params, [0.0, -0.0]).any()


def test_softplus_is_the_identity_past_its_threshold():
    x = np.array([5.0, 5.0000005, 6, 80], dtype=np.float32)
    found = activated("softplus", (2.0, 10.0), x)
    assert found[0] > x[0]  # at the threshold it still bends
    assert (found[1:] == x[1:]).all()


def test_values_stay_in_their_range():
    assert (abs(activated("tanh", (), X)) <= 1).all()
    assert (abs(activated("softsign", (), X)) <= 1).all()
    sigmoid = activated("sigmoid", (), X)
    assert ((sigmoid >= 0) & (sigmoid <= 1)).all()
    assert (activated("softplus", (1.0, 20.0), X) >= 0).all()
    assert (activated("elu", (1.0,), X) >= -1).all()
    for name, least in (("silu", -0.2785), ("mish", -0.3089), ("gelu", -0.17)):
        assert (activated(name, (), X) >= least).all()


def test_sigmoid_tanh_and_elu_rise():
    x = np.sort(X)
    for name, params, slack in (
        ("sigmoid", (), 4),
        ("tanh", (), 4),
        ("softsign", (), 3),
        ("elu", (1,), 8),
    ):
        y = activated(name, params, x).astype(np.float64)
        fall = np.maximum.accumulate(y) - y
        assert (fall <= slack * ulp(y) + NOTHING).all()
