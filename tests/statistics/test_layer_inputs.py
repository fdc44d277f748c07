"""Statistics of what enters and leaves a layer, of any kind of layer."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from sklearn_sparse_nn.nets.layers import prunable_layers
from sklearn_sparse_nn.statistics.gathering import GATHERED
from tests.statistics.nets import (
    N_ROWS,
    Summed,
    Tied,
    gathered,
    mlp,
    net_of,
    row_losses_gradients,
    rows,
)


@pytest.fixture(autouse=True)
def _own_rng():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


class Functional(nn.Module):
    """An MLP whose activation is a call, in place or not."""

    def __init__(self, activate):
        super().__init__()
        self.first = nn.Linear(4, 6, dtype=torch.float64)
        self.last = nn.Linear(6, 3, dtype=torch.float64)
        self.activate = activate

    def forward(self, X):
        return self.last(self.activate(self.first(X)))


# activations ------------------------------------------------------------------


ACTIVATED = {
    "module": lambda: mlp(nn.ReLU()),
    "in place": lambda: mlp(nn.ReLU(inplace=True)),
    "dropout after": lambda: mlp(nn.ReLU(), nn.Dropout(0.5)),
    "dropout before": lambda: mlp(nn.Dropout(0.5), nn.ReLU(inplace=True)),
    "function": lambda: Functional(functional.relu),
    "function in place": lambda: Functional(functional.relu_),
    "tensor method": lambda: Functional(lambda values: values.clamp(min=0)),
}


@pytest.mark.parametrize("kind", ACTIVATED)
def test_zeros_after_relu_and_what_reaches_the_next_layer(kind):
    module = ACTIVATED[kind]()
    net = net_of(module)
    X, y = rows(4)
    first, last = prunable_layers(module).values()
    hidden = X @ first.weight.detach().numpy().T + first.module.bias.detach().numpy()
    hidden = np.maximum(hidden, 0)
    zeros = gathered(net, X, y, "activation_zeros")[first.name]
    np.testing.assert_allclose(zeros, (hidden == 0).mean(0)[:, None], atol=1e-7)
    norms = gathered(net, X, y, "input_norm")
    np.testing.assert_allclose(norms[first.name], np.linalg.norm(X, axis=0)[None])
    np.testing.assert_allclose(norms[last.name], np.linalg.norm(hidden, axis=0)[None])
    gram = gathered(net, X, y, "hessian")
    np.testing.assert_allclose(gram[first.name], X.T @ X, atol=1e-12)
    np.testing.assert_allclose(gram[last.name], hidden.T @ hidden, atol=1e-12)


@pytest.mark.parametrize("relu", ["module", "function"])
def test_zeros_are_counted_behind_a_norm(relu):
    norm = nn.BatchNorm1d(6)
    module = mlp(norm, nn.ReLU(inplace=True))
    if relu == "function":

        class Behind(Functional):
            def __init__(self):
                super().__init__(functional.relu)
                self.first, self.norm, self.last = module[0], norm, module[3]

            def forward(self, X):
                return self.last(functional.relu(self.norm(self.first(X))))

        module = Behind()
    with torch.no_grad():
        norm.running_mean.copy_(torch.linspace(-1, 1, 6))
        norm.bias.copy_(torch.linspace(1, -1, 6))
        norm.weight[2] = -1.0
    net = net_of(module)
    X, y = rows(4)
    first = next(iter(prunable_layers(module).values()))
    values = X @ first.weight.detach().numpy().T + first.module.bias.detach().numpy()
    values = (values - np.linspace(-1, 1, 6)) / np.sqrt(1 + norm.eps)
    values = values * norm.weight.detach().numpy() + np.linspace(1, -1, 6)
    zeros = gathered(net, X, y, "activation_zeros")[first.name]
    np.testing.assert_allclose(zeros, (values <= 0).mean(0)[:, None], atol=1e-7)


@pytest.mark.parametrize("between", [nn.Dropout1d(0.5), nn.GroupNorm(2, 4)], ids=str)
def test_zeros_are_counted_behind_what_is_no_activation(between):
    class Behind(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv1d(2, 4, 3)
            self.between = between
            self.head = nn.Linear(4, 3)

        def forward(self, X):
            return self.head(functional.relu(self.between(self.conv(X))).sum(2))

    net = net_of(Behind())
    X, y = rows(2, 7)
    X = X.astype(np.float32)
    net.module_.eval()
    with torch.no_grad():
        values = net.module_.between(net.module_.conv(torch.as_tensor(X))).numpy()
    zeros = gathered(net, X, y, "activation_zeros")["conv"]
    expected = (values <= 0).mean((0, 2)).reshape(4, 1, 1)
    np.testing.assert_allclose(zeros, expected, atol=1e-6)


def test_a_layer_that_follows_directly_is_no_activation():
    module = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)).double()
    net = net_of(module)
    X, y = rows(4)
    layers = {"0": prunable_layers(module)["0"]}
    zeros = gathered(net, X, y, "activation_zeros", layers=layers)["0"]
    values = X @ module[0].weight.detach().numpy().T + module[0].bias.detach().numpy()
    np.testing.assert_allclose(zeros, (values <= 0).mean(0)[:, None], atol=1e-7)


# convolutions, embeddings -----------------------------------------------------


LAYERS = {
    "conv1d": (nn.Conv1d(4, 6, 3), (4, 7)),
    "conv2d": (nn.Conv2d(4, 6, (2, 3), stride=2, padding=1), (4, 6, 5)),
    "conv2d in groups": (nn.Conv2d(4, 6, 3, groups=2), (4, 5, 5)),
    "depthwise": (nn.Conv2d(4, 4, 3, groups=4), (4, 5, 5)),
    "conv3d": (nn.Conv3d(2, 6, 2), (2, 3, 3, 3)),
    "transposed": (nn.ConvTranspose1d(4, 6, 3), (4, 5)),
    "transposed in groups": (nn.ConvTranspose2d(4, 6, 2, groups=2), (4, 3, 3)),
    "linear by position": (nn.Linear(5, 6), (4, 5)),
}


def by_position(layer, X):
    """Give every input of a layer at every position: (rows and positions, in)."""
    if isinstance(layer, nn.Linear):
        return X.reshape(-1, X.shape[-1])
    return np.moveaxis(X, 1, -1).reshape(-1, X.shape[1])


@pytest.mark.parametrize("kind", LAYERS)
def test_every_weight_of_a_layer_meets_the_norm_of_its_own_input(kind):
    layer, shape = LAYERS[kind]
    width = 4 if kind == "linear by position" else getattr(layer, "out_channels", 0)
    net = net_of(Summed(layer, width))
    X, y = rows(*shape)
    X = X.astype(np.float32)
    turned = prunable_layers(net.module_)["layer"]
    weight = turned.turned(turned.weight)
    norms = gathered(net, X, y, "input_norm")["layer"]
    assert norms.ndim == weight.ndim
    everywhere = norms.expand(weight.shape).detach().numpy()
    by_input = np.sqrt((by_position(layer, X) ** 2).sum(0))
    groups = getattr(layer, "groups", 1)
    for out, given in np.ndindex(weight.shape[:2]):
        if turned.inputs_first or groups == 1:
            own = given
        else:  # a row of the weight sees the inputs of its group alone
            own = out // (weight.shape[0] // groups) * weight.shape[1] + given
        expected = np.full(weight.shape[2:], by_input[own])
        np.testing.assert_allclose(everywhere[out, given], expected, rtol=1e-5)


@pytest.mark.parametrize("kind", LAYERS)
def test_zeros_of_a_layer_are_fractions_of_rows_and_positions(kind):
    layer, shape = LAYERS[kind]
    width = 4 if kind == "linear by position" else getattr(layer, "out_channels", 0)
    net = net_of(Summed(layer, width))
    X, y = rows(*shape)
    X = X.astype(np.float32)
    turned = prunable_layers(net.module_)["layer"]
    weight = turned.turned(turned.weight)
    zeros = gathered(net, X, y, "activation_zeros")["layer"]
    with torch.no_grad():
        values = by_position(layer, layer(torch.as_tensor(X)).numpy())
    by_unit = (values <= 0).mean(0)
    # The rows of a transposed convolution's weight serve a unit of every group.
    expected = by_unit.reshape(-1, len(weight)).mean(0)
    assert zeros.shape == (len(weight), *[1] * (weight.ndim - 1))
    np.testing.assert_allclose(zeros.flatten(), expected, atol=1e-6)


@pytest.mark.parametrize("name", ["grad", "grad_sq", "path_grad"])
@pytest.mark.parametrize("kind", LAYERS)
def test_statistics_of_weights_have_the_turned_shape(kind, name):
    layer, shape = LAYERS[kind]
    width = 4 if kind == "linear by position" else getattr(layer, "out_channels", 0)
    net = net_of(Summed(layer, width))
    X, y = rows(*shape)
    turned = prunable_layers(net.module_)["layer"]
    found = gathered(net, X.astype(np.float32), y, name)["layer"]
    assert found.shape == turned.turned(turned.weight).shape


@pytest.mark.parametrize("kind", [k for k in LAYERS if "conv" in k or "trans" in k])
def test_squared_gradients_of_convolutions_are_those_of_single_rows(kind):
    layer, shape = LAYERS[kind]
    net = net_of(Summed(layer, layer.out_channels).double())
    X, y = rows(*shape)
    by_row = list(row_losses_gradients(net, X, y))
    expected = sum(grads[0] ** 2 for grads in by_row) / N_ROWS
    found = gathered(net, X, y, "grad_sq")["layer"]
    turned = prunable_layers(net.module_)["layer"].turned(expected)
    np.testing.assert_allclose(found, turned, rtol=1e-9)
    layer.float()


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("kind", ["embedding", "bag"])
def test_an_embeddings_inputs_are_counts_of_its_entries(kind, sparse):
    class Table(nn.Module):
        def __init__(self):
            super().__init__()
            make = nn.Embedding if kind == "embedding" else nn.EmbeddingBag
            self.table = make(9, 5, sparse=sparse)
            self.head = nn.Linear(5, 3)

        def forward(self, X):
            values = self.table(X)
            return self.head(values if kind == "bag" else values.mean(1))

    net = net_of(Table())
    rng = np.random.default_rng(0)
    X, y = rng.integers(0, 8, (N_ROWS, 4)), rng.integers(0, 3, N_ROWS)
    counts = np.bincount(X.ravel(), minlength=9)
    norms = gathered(net, X, y, "input_norm")["table"]
    np.testing.assert_allclose(norms, np.sqrt(counts)[None], rtol=1e-6)
    table = net.module_.table.weight.detach().numpy()
    zeros = gathered(net, X, y, "activation_zeros")["table"]
    seen = table[X] if kind == "embedding" else table[X].mean(1)
    expected = (seen <= 0).reshape(-1, 5).mean(0)[:, None]
    np.testing.assert_allclose(zeros, expected, atol=1e-6)
    # torch has no second derivatives of bags.
    names = ["hessian_grad"] * (kind == "embedding")
    for name in ("grad", "grad_sq", "path_grad", *names):
        found = gathered(net, X, y, name)["table"]
        assert found.shape == (5, 9)
        assert (found[:, 8] == 0).all()  # never looked up
        assert (found != 0).any()


def test_the_hessian_of_a_convolution_is_refused_naming_the_layer():
    net = net_of(Summed(nn.Conv1d(2, 4, 3), 4))
    X, y = rows(2, 6)
    with pytest.raises(ValueError, match="'layer' is Conv1d"):
        gathered(net, X.astype(np.float32), y, "hessian")


def test_the_hessian_of_a_layer_that_is_used_by_position_sums_over_positions():
    net = net_of(Summed(nn.Linear(5, 6), 4))
    X, y = rows(4, 5)
    X = X.astype(np.float32)
    found = gathered(net, X, y, "hessian")["layer"]
    every = X.reshape(-1, 5).astype(float)
    np.testing.assert_allclose(found, every.T @ every, rtol=1e-5, atol=1e-4)


def test_a_weight_that_two_layers_share_meets_the_inputs_of_both():
    net = net_of(Tied())
    X, y = rows(4)
    one = net.module_.one
    hidden = np.tanh(X @ one.weight.detach().numpy().T + one.bias.detach().numpy())
    both = np.vstack([X, hidden])
    found = gathered(net, X, y, "input_norm", "hessian")
    norms = np.linalg.norm(both, axis=0)[None]
    np.testing.assert_allclose(found["hessian"]["one"], both.T @ both, atol=1e-10)
    np.testing.assert_allclose(found["input_norm"]["one"], norms, rtol=1e-10)


class WithUnused(nn.Module):
    def __init__(self, unused):
        super().__init__()
        self.head = nn.Linear(4, 3)
        self.unused = unused

    def forward(self, X):
        return self.head(X)


@pytest.mark.parametrize(
    "unused",
    [
        nn.Linear(2, 5),
        nn.Conv2d(4, 6, 3, groups=2),
        nn.ConvTranspose2d(4, 6, 2, groups=2),
        nn.Embedding(7, 2),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_a_layer_that_is_never_used_has_statistics_of_zero_and_is_never_active(unused):
    net = net_of(WithUnused(unused))
    X, y = rows(4)
    layer = prunable_layers(net.module_)["unused"]
    shape = layer.turned(layer.weight).shape
    names = [name for name in GATHERED if name != "hessian"]
    found = gathered(net, X.astype(np.float32), y, *names)
    assert (found.pop("activation_zeros")["unused"].expand(shape) == 1).all()
    for stat in found.values():
        assert stat["unused"].expand(shape).abs().sum() == 0
