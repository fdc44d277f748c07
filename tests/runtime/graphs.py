"""Random nets, and how far rounding may carry their float32 outputs from the exact."""

import os
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import strategies as st
from scipy import sparse

from sklearn_sparse_nn.runtime import reference
from sklearn_sparse_nn.runtime.activations import ACTIVATIONS
from sklearn_sparse_nn.runtime.engine import KernelEngine
from sklearn_sparse_nn.runtime.graph import (
    Activation,
    Add,
    Affine,
    Concat,
    Graph,
    InputStage,
    LayerNorm,
    Linear,
    Multiply,
    Softmax,
    inputs_of,
)
from sklearn_sparse_nn.runtime.inputs import apply_narrow
from sklearn_sparse_nn.runtime.threads.sharing import Sharing

BATCHES = (0, 1, 2, 3, 5, 8, 9, 16, 17, 33, 47, 48, 49, 63, 64, 65, 130)
#: Half the distance of one and the next float32; what results below it lose.
UNIT, TINY = 2.0**-24, 1e-37
#: Whether the compiled kernels run, not scipy.
COMPILED = os.environ.get("NUMBA_DISABLE_JIT", "0") in ("", "0")
kernels_only = pytest.mark.skipif(
    not COMPILED, reason="is about the compiled kernels, and numba's compiler is off"
)
KINDS = ("linear", "linear", "linear", "affine", "layer_norm", "add", "concat")
PATTERNS = ("plain", "plain", "empty rows", "blocks", "dense", "empty", "one row")


def picker(seed):
    """Give a chooser of ints, both ends included, as `pick` below."""
    rng = np.random.default_rng(seed)
    return lambda low, high: int(rng.integers(low, high + 1))


def one_of(pick, options):
    return options[pick(0, len(options) - 1)]


def make_weight(rng, n_out, n_in, density, pattern="plain"):
    """Make a weight whose sums stay about as large as what they add."""
    n_fours = -(-n_out // 4)
    if pattern == "blocks":
        keep = np.repeat(rng.random((n_fours, n_in)) < density, 4, axis=0)[:n_out]
    elif pattern == "dense":
        keep = np.ones((n_out, n_in), dtype=bool)
    elif pattern == "empty":
        keep = np.zeros((n_out, n_in), dtype=bool)
    else:
        keep = rng.random((n_out, n_in)) < density
        if pattern == "empty rows":
            keep[rng.random(n_out) < 0.4] = False
        elif pattern == "one row":
            keep[rng.integers(n_out)] = True
    scale = 1.5 / np.sqrt(max(1.0, keep.sum() / n_out))
    values = np.where(keep, rng.normal(size=keep.shape) * scale, 0)
    return sparse.csr_array(values.astype(np.float32))


def wide_weight(rng, n_out, n_in, per_row):
    """Make a weight of very many columns, the first and the last among them."""
    indptr = [0]
    columns = []
    for _ in range(n_out):
        some = np.unique(np.r_[rng.integers(0, n_in, per_row), 0, n_in - 1])
        columns.append(some)
        indptr.append(indptr[-1] + len(some))
    data = rng.normal(size=indptr[-1]).astype(np.float32) / np.float32(per_row)
    return sparse.csr_array((data, np.concatenate(columns), indptr), (n_out, n_in))


def make_activation(pick, rng, name=None):
    name = name or one_of(pick, list(ACTIVATIONS))
    params = rng.choice(
        [0.125, 0.5, 1.0, 1.75, 3.0], size=len(ACTIVATIONS[name].parameters)
    )
    if name == "leaky_relu" and pick(0, 3) == 0:
        params = [-0.5]
    if name == "hardtanh":
        params = np.sort(params) - 1.5
    if name == "softplus" and pick(0, 1):
        params = [one_of(pick, [0.5, 1.0, 2.0]), 20.0]
    return Activation(name, tuple(float(p) for p in params))


def make_stage(pick, rng, n):
    columns, kept = None, n
    if pick(0, 3) == 0:
        columns = np.flatnonzero(rng.random(n) < 0.7)
        columns = columns if len(columns) else np.array([n - 1])
        kept = len(columns)
    fill = rng.normal(size=kept) if pick(0, 3) == 0 else None
    shift = scale = None
    if pick(0, 3) == 0:
        shift, scale = rng.normal(size=kept), rng.uniform(0.5, 2, size=kept)
    return InputStage(n, columns, fill, shift, scale, bool(pick(0, 1)))


def make_width(pick, usual=80):
    return pick(129, 400) if pick(0, 9) == 9 else pick(1, usual)


def make_op(pick, rng, widths):
    """Make one operation, most often on what was made last."""
    source = len(widths) - 1 if pick(0, 3) else pick(0, len(widths) - 1)
    width, kind = widths[source], one_of(pick, KINDS)
    activation = make_activation(pick, rng)
    if kind == "linear" or width > 1000:
        n_out, density = make_width(pick), one_of(pick, (0, 0.02, 0.1, 0.3, 0.6, 1))
        if width > 1000:
            weight = wide_weight(rng, min(n_out, 20), width, 40)
        else:
            pattern = one_of(pick, PATTERNS)
            weight = make_weight(rng, n_out, width, density, pattern)
        return Linear(source, weight, rng.normal(size=weight.shape[0]), activation)
    if kind == "affine":
        return Affine(source, *rng.normal(size=(2, width)), activation)
    if kind == "layer_norm":
        weight, bias = rng.normal(size=(2, width))
        eps = one_of(pick, (1e-5, 0.125, 1.0))
        return LayerNorm(source, weight, bias, eps, activation)
    if kind == "add":
        same = [v for v, n in enumerate(widths) if n == width]
        return Add((source, one_of(pick, same)), activation)
    narrow = [v for v, n in enumerate(widths) if n <= 400]
    return Concat((source, *(one_of(pick, narrow) for _ in range(pick(0, 2)))))


def make_graph(pick, n_ops=None, wide=False):
    """Make a net; `pick(low, high)` chooses an int, both ends included."""
    rng = np.random.default_rng(pick(0, 2**32 - 1))
    n = pick(65_530, 66_000) if wide else make_width(pick)
    stage = make_stage(pick, rng, n)
    widths, ops = [stage.width], []
    for _ in range(n_ops or pick(1, 6)):
        op = make_op(pick, rng, widths)
        ops.append(op)
        widths.append(width_after(op, widths))
    if pick(0, 4) == 0 and widths[-1] <= 1000:
        ops.append(Softmax(len(ops), bool(pick(0, 1))))
    return Graph(stage, tuple(ops))


def width_after(op, widths):
    if isinstance(op, Linear):
        return op.weight.shape[0]
    return sum(widths[v] for v in inputs_of(op)[: None if op.kind == "concat" else 1])


@st.composite
def nets(draw, **kwargs):
    return make_graph(lambda low, high: draw(st.integers(low, high)), **kwargs)


def rows_for(graph, n, seed=0):
    """Make rows of X, with NaN where the net fills them."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, graph.stage.n_features)).astype(np.float32)
    X[rng.random(X.shape) < 0.1] = 0
    if graph.stage.fill is not None:
        X[rng.random(X.shape) < 0.1] = np.nan
    return X


#: How much a difference in an activation's input may grow.
_STEEPEST = {"selu": 1.76, "gelu": 1.13, "gelu_tanh": 1.13, "silu": 1.1, "mish": 1.09}


def activation_bound(activation, x, error):
    """Bound the error of ``activation(x)``, where x has an error itself."""
    name, params = activation.name, activation.params
    exact = reference.activate(x, activation)
    if name in ("leaky_relu", "elu"):
        grown = error * max(1.0, abs(params[0]))
    else:
        grown = error * _STEEPEST.get(name, 1.0)
    if name == "softplus":  # it may fall on the other side of the threshold
        beta, threshold = params
        near = abs(x * beta - threshold) <= error * abs(beta) + 4 * UNIT * abs(x * beta)
        grown = grown + near * abs(np.logaddexp(0, x * beta) / beta - x)
    if name == "threshold":  # it may be on the other side
        limit, value = params
        grown = grown + (abs(x - limit) <= error) * abs(x - value)
    own = 0 if name in ("identity", "relu", "hardtanh", "threshold") else 16
    if name in ("gelu", "gelu_tanh"):  # tails: an error of a power's argument
        own = own + 8 * np.minimum(x**2, 200)
    return exact, grown + UNIT * own * abs(exact) + TINY


def op_bound(op, values, errors):
    """Give exact values of an operation, and a bound of the float32 ones' error."""
    x, e = values[0], errors[0]
    if isinstance(op, Concat):
        return np.concatenate(values), np.concatenate(errors)
    if isinstance(op, Softmax):
        exact = reference.apply(op, [x])
        spread = 2 * e.max(axis=0) + UNIT * (8 + np.ptp(x, axis=0)) + sum_loss(x)
        if op.log:
            return exact, spread + 8 * UNIT * abs(exact) + TINY
        return exact, exact * np.expm1(np.minimum(spread, 50)) + 8 * UNIT * exact + TINY
    bare = replace(op, activation=Activation())
    exact = reference.apply(bare, values)
    if isinstance(op, Linear):
        size = abs(op.weight).astype(np.float64)
        terms = np.diff(op.weight.indptr)[:, None] + 2.0
        total = size @ (abs(x) + e) + abs(op.bias.astype(np.float64))[:, None]
        error = size @ e + terms * UNIT * total
    elif isinstance(op, Affine):
        scaled = abs(op.scale.astype(np.float64))[:, None]
        shift = abs(op.shift.astype(np.float64))[:, None]
        error = scaled * e + 2 * UNIT * (scaled * (abs(x) + e) + shift)
    elif isinstance(op, LayerNorm):
        error = norm_bound(op, x, e)
    elif isinstance(op, Multiply):
        error = abs(x) * errors[1] + abs(values[1]) * e + e * errors[1]
        error = error + UNIT * (abs(exact) + error)
    else:
        error = e + errors[1] + UNIT * (abs(exact) + e + errors[1])
    return activation_bound(op.activation, exact, error + TINY)


def sum_loss(x):
    """Give the relative error of a sum over a row: the kernels' is in float64."""
    return 0 if COMPILED else len(x) * UNIT


def norm_bound(op, x, e):
    """Bound the error of a normalised row: its deviation is 1-Lipschitz."""
    centred = x - x.mean(axis=0)
    sums = sum_loss(x)
    moved = e + e.mean(axis=0) + sums * (abs(x) + e).mean(axis=0) + UNIT * abs(centred)
    deviation = np.sqrt((centred**2).mean(axis=0) + op.eps)
    change = np.sqrt((moved**2).mean(axis=0)) + (2 * UNIT + sums) * deviation
    least = np.maximum(deviation - change, np.sqrt(op.eps) * (1 - UNIT))
    normal = moved / least + abs(centred) * change / (deviation * least)
    weight = abs(op.weight.astype(np.float64))[:, None]
    result = weight * (abs(centred) / deviation + normal)
    rounding = 4 * UNIT * (result + abs(op.bias.astype(np.float64))[:, None])
    return weight * normal + rounding


def exact_and_bound(graph, staged):
    """Run a net in float64 from float32 rows of value 0; bound the error of float32.

    Absolute values go through the net: what a sum of k products may lose to rounding
    is k + 2 times the unit of its absolute terms, and every operation carries the
    errors of what it reads as far as its steepest slope.
    """
    values, errors = [staged.T.astype(np.float64)], [np.zeros(staged.T.shape)]
    for op in graph.ops:
        reads = inputs_of(op)
        exact, error = op_bound(
            op, [values[v] for v in reads], [errors[v] for v in reads]
        )
        values.append(exact)
        errors.append(error)
    return values[-1].T, errors[-1].T


def exact_softmax(exact, error):
    """Continue with the softmax that probabilities are."""
    exact, error = op_bound(Softmax(0), [exact.T], [error.T])
    return exact.T, error.T


def run(graph, X, plan=None, *, proba=False, n_threads=1):
    """Run the kernels under a plan; give raw outputs or probabilities."""
    engine = KernelEngine(graph, plan)
    out = np.full((len(X), graph.n_outputs), np.nan, dtype=np.float32)
    engine.run(X, out, proba=proba, staged=False, n_threads=n_threads)
    return out


def share_always(rows_at_once=64):
    """Let threads share every prediction, though it may not be worth it."""
    patch = pytest.MonkeyPatch()
    patch.setattr(Sharing, "rows_at_once", lambda *args: rows_at_once)
    return patch


def staged(graph, X):
    """Give value 0 of raw rows; its three roundings are those of numpy."""
    return apply_narrow(X, graph.stage)
