"""Random nets for torch, and how far float32 may take them from the exact values."""

import numpy as np
import torch
from hypothesis import strategies as st
from torch import nn

from sklearn_sparse_nn.nets.modules import SeededDropout, Standardize

UNIT = 2.0**-24  # half a unit in the last place of 1.0 in float32

#: Activations, and how much they stretch a difference at most.
ACTIVATIONS = {
    "relu": (nn.ReLU, 1.0),
    "leaky_relu": (lambda: nn.LeakyReLU(0.2), 1.0),
    "elu": (lambda: nn.ELU(0.7), 1.0),
    "selu": (nn.SELU, 1.7581),
    "gelu": (nn.GELU, 1.13),
    "gelu_tanh": (lambda: nn.GELU(approximate="tanh"), 1.13),
    "silu": (nn.SiLU, 1.1),
    "mish": (nn.Mish, 1.09),
    "tanh": (nn.Tanh, 1.0),
    "softsign": (nn.Softsign, 1.0),
    "sigmoid": (nn.Sigmoid, 0.25),
    "softplus": (lambda: nn.Softplus(2.0, 15.0), 1.0),
    "hardtanh": (lambda: nn.Hardtanh(-0.5, 1.5), 1.0),
    "relu6": (nn.ReLU6, 1.0),
    "identity": (nn.Identity, 1.0),
}


class Residual(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, X):
        return X + self.inner(X)


class Joined(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, X):
        return torch.cat([self.inner(X), X], dim=1)


class Activation(nn.Module):
    """Knows its name."""

    def __init__(self, name):
        super().__init__()
        self.name = name
        self.function = ACTIVATIONS[name][0]()

    def forward(self, X):
        return self.function(X)


widths = st.integers(1, 40)
densities = st.sampled_from([0.0, 0.02, 0.1, 0.3, 1.0])
norms = st.sampled_from([None, None, "batch", "layer"])
layers = st.tuples(
    st.sampled_from(["plain", "plain", "residual", "joined", "norm first"]),
    widths,
    st.sampled_from(list(ACTIVATIONS)),
    norms,
    densities,
    st.booleans(),  # whether whole rows and columns are empty
)
specs = st.tuples(
    widths,
    st.lists(layers, max_size=4),
    widths,
    densities,
    st.sampled_from([None, None, "standardize", "batch"]),
    st.sampled_from([None, None, None, "softmax", "log_softmax"]),
    st.integers(0, 2**31 - 1),
)


def build(spec):
    """Make the net of a spec, on weights from its seed; and rows for it."""
    n_inputs, blocks, n_outputs, density, first, last, seed = spec
    rng = np.random.default_rng(seed)
    modules, width = [], n_inputs
    if first == "standardize":
        mean, scale = rng.normal(size=width) * 9, rng.uniform(0.1, 3, width)
        modules.append(Standardize(mean, scale))
    elif first == "batch":
        modules.append(_norm("batch", width, rng))
    for kind, size, activation, norm, part, structured in blocks:
        size = width if kind == "residual" else size
        inner = [_linear(width, size, part, structured, rng)]
        inner += [_norm(norm, size, rng)] if norm and kind != "norm first" else []
        inner += [Activation(activation), SeededDropout(0.5, 0)]
        inner += [_norm(norm, size, rng)] if norm and kind == "norm first" else []
        block = nn.Sequential(*inner)
        wrap = {"residual": Residual, "joined": Joined}.get(kind)
        modules.append(wrap(block) if wrap else block)
        width = size + width if kind == "joined" else size
    modules.append(_linear(width, n_outputs, density, False, rng))
    if last is not None:
        modules.append(nn.Softmax(1) if last == "softmax" else nn.LogSoftmax(-1))
    X = rng.normal(size=(rng.integers(1, 9), n_inputs)).astype(np.float32)
    return nn.Sequential(*modules), X


def _linear(n_inputs, n_outputs, density, structured, rng):
    layer = nn.Linear(n_inputs, n_outputs, bias=rng.random() < 0.9)
    weight = rng.normal(size=(n_outputs, n_inputs)) / max(1, density * n_inputs) ** 0.5
    weight *= rng.random(weight.shape) < density
    if structured:
        weight *= rng.random((n_outputs, 1)) < 0.5
        weight *= rng.random(n_inputs) < 0.5
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weight))
        if layer.bias is not None:
            layer.bias.copy_(torch.from_numpy(rng.normal(size=n_outputs)))
    return layer


def _norm(kind, width, rng):
    norm = {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm}[kind](width)
    draws = {
        "weight": rng.normal(size=width) * (rng.random(width) < 0.9),
        "bias": rng.normal(size=width),
        "running_mean": rng.normal(size=width),
        "running_var": rng.uniform(0.1, 4, width),
    }
    with torch.no_grad():
        for name, values in draws.items():
            if hasattr(norm, name):
                getattr(norm, name).copy_(torch.from_numpy(values))
    return norm


def exact(module, X):
    """Compute a net in float64, and a bound on what float32 may make of it.

    The bound follows the absolute values of every sum through the net, to first order
    in the unit of rounding (Higham 2002, section 3.1). It holds for any order of
    summation, and where an affine step is folded into a linear one.

    Returns
    -------
    values, errors : ndarray of shape (n_rows, n_outputs), float64
    """
    X = X.astype(np.float64)
    return _bounded(module, X, np.zeros_like(X))


def _array(tensor):
    return tensor.detach().double().numpy()


def _bounded(m, x, e):
    if isinstance(m, nn.Sequential):
        for child in m:
            x, e = _bounded(child, x, e)
        return x, e
    if isinstance(m, Residual):
        y, f = _bounded(m.inner, x, e)
        return x + y, e + f + UNIT * (abs(x) + abs(y))
    if isinstance(m, Joined):
        y, f = _bounded(m.inner, x, e)
        return np.concatenate([y, x], 1), np.concatenate([f, e], 1)
    if isinstance(m, nn.Dropout):
        return x, e
    return _RULES[type(m)](m, x, e)


def _bounded_linear(m, x, e):
    weight = _array(m.weight)
    bias = np.zeros(len(weight)) if m.bias is None else _array(m.bias)
    n = np.count_nonzero(weight, axis=1) + 3
    sums = (abs(x) + e) @ abs(weight).T + abs(bias)
    return x @ weight.T + bias, e @ abs(weight).T + n * UNIT * sums


def _bounded_affine(x, e, mean, scale, shift):
    sums = abs(scale) * (abs(x) + e + abs(mean)) + abs(shift)
    return (x - mean) * scale + shift, abs(scale) * e + 5 * UNIT * sums


def _bounded_batch_norm(m, x, e):
    scale = _array(m.weight) / np.sqrt(_array(m.running_var) + m.eps)
    return _bounded_affine(x, e, _array(m.running_mean), scale, _array(m.bias))


def _bounded_standardize(m, x, e):
    return _bounded_affine(x, e, _array(m.mean), 1 / _array(m.scale), 0.0)


def _bounded_activation(m, x, e):
    with torch.no_grad():
        y = m(torch.from_numpy(x)).numpy()
    return y, ACTIVATIONS[m.name][1] * e + 8 * UNIT * (abs(x) + abs(y))


def _bounded_layer_norm(m, x, e):
    weight, bias, n = _array(m.weight), _array(m.bias), x.shape[1]
    centred = x - x.mean(1, keepdims=True)
    sums = abs(x) + abs(x).mean(1, keepdims=True)
    off = e + e.mean(1, keepdims=True) + (n + 3) * UNIT * sums
    scale = np.sqrt((centred**2).mean(1, keepdims=True) + m.eps)
    # A root mean square moves by no more than that of what its numbers move by.
    scale_off = np.sqrt((off**2).mean(1, keepdims=True)) + (n + 3) * UNIT * scale
    least = np.where(scale_off < scale / 2, scale - scale_off, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        y = centred / scale
        z_off = (off + abs(y) * scale_off) / least
    y = y * weight + bias
    sums = abs(y - bias) + abs(bias)
    return y, np.nan_to_num(abs(weight) * z_off, nan=0, posinf=np.inf) + 6 * UNIT * sums


def _bounded_softmax(m, x, e):
    log = isinstance(m, nn.LogSoftmax)
    with torch.no_grad():
        y = m(torch.from_numpy(x)).numpy()
    spread = abs(x).max(1, keepdims=True)
    off = 2 * e.max(1, keepdims=True) + UNIT * (4 * spread + x.shape[1] + 12)
    return y, off + 2 * UNIT * abs(y) if log else np.expm1(off) * y + UNIT * y


_RULES = {
    nn.Linear: _bounded_linear,
    nn.BatchNorm1d: _bounded_batch_norm,
    Standardize: _bounded_standardize,
    Activation: _bounded_activation,
    nn.LayerNorm: _bounded_layer_norm,
    nn.Softmax: _bounded_softmax,
    nn.LogSoftmax: _bounded_softmax,
}
