"""Gradients, their squares, Hessians and paths equal sums worked out in numpy."""

import numpy as np
import pytest
import torch
from skorch import NeuralNetClassifier, NeuralNetRegressor
from torch import nn

from sklearn_sparse_nn.nets.layers import prunable_layers
from sklearn_sparse_nn.statistics import row_gradients
from sklearn_sparse_nn.statistics.sampling import Sample
from tests.statistics.nets import (
    N_ROWS,
    Summed,
    Tied,
    assert_by_layer,
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


# gradients --------------------------------------------------------------------


def own_gradients(net, X, y):
    by_row = list(row_losses_gradients(net, X, y))
    return [torch.stack(grads).numpy() for grads in zip(*by_row, strict=True)]


def test_the_mean_gradient_is_that_of_all_rows_at_once():
    net = net_of(mlp(nn.Tanh()))
    expected = [grads.mean(0) for grads in own_gradients(net, *rows(4))]
    assert_by_layer(gathered(net, *rows(4), "grad"), expected)


def regression_rows():
    rng = np.random.default_rng(0)
    return rng.normal(size=(N_ROWS, 4)), rng.normal(size=(N_ROWS, 3))


@pytest.mark.parametrize("criterion", [nn.MSELoss, nn.SmoothL1Loss])
def test_gradients_of_a_loss_over_several_targets(criterion):
    net = net_of(mlp(nn.Tanh()), criterion, NeuralNetRegressor)
    by_row = own_gradients(net, *regression_rows())
    found = gathered(net, *regression_rows(), "grad", "grad_sq")
    assert_by_layer(found["grad"], [grads.mean(0) for grads in by_row])
    assert_by_layer(found["grad_sq"], [(grads**2).mean(0) for grads in by_row])


def test_a_loss_that_sums_weighs_all_rows_alike():
    net = net_of(mlp(nn.Tanh()), criterion__reduction="sum")
    by_row = own_gradients(net, *rows(4))
    found = gathered(net, *rows(4), "grad", "grad_sq")
    assert_by_layer(found["grad_sq"], [(grads**2).mean(0) for grads in by_row])
    for grad, own in zip(found["grad"].values(), by_row, strict=True):
        mean = own.mean(0)
        scale = float((grad.numpy() * mean).sum() / (mean**2).sum())
        np.testing.assert_allclose(grad, scale * mean, rtol=1e-9, atol=1e-12)


SQUARED = {
    "at once": (lambda: mlp(nn.Tanh()), (4,)),
    "in place": (lambda: mlp(nn.ReLU(inplace=True)), (4,)),
    "by position": (lambda: Summed(nn.Linear(5, 6), 4).double(), (4, 5)),
    "tied": (Tied, (4,)),
    "convolution": (lambda: convolution(nn.BatchNorm2d(3)), (2, 5, 5)),
    "group norm": (lambda: convolution(nn.GroupNorm(3, 3)), (2, 5, 5)),
    "recurrent": (lambda: Recurrent(), (4, 5)),
    "by a row's number": (lambda: Decided(), (4,)),
}


def convolution(norm):
    layers = nn.Conv2d(2, 3, 3), norm, nn.ReLU(inplace=True), nn.Flatten()
    return nn.Sequential(*layers, nn.Dropout(0.5), nn.Linear(27, 3)).double()


class Recurrent(nn.Module):
    """Torch has no rule to run an LSTM's rows side by side."""

    def __init__(self):
        super().__init__()
        self.cell = nn.LSTM(5, 4, batch_first=True, dtype=torch.float64)
        self.head = nn.Linear(4, 3, dtype=torch.float64)

    def forward(self, X):
        return torch.relu(self.head(self.cell(X)[0])).sum(1)


class Decided(nn.Module):
    """A forward that asks for a number."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(1, 3, 4, dtype=torch.float64)

    def forward(self, X):
        found = self.conv(X[:, None])[..., 0]
        return found if float(X.sum()) > 0 else 2 * found


@pytest.mark.parametrize("kind", SQUARED)
def test_squared_gradients_are_those_of_single_rows(kind):
    make, shape = SQUARED[kind]
    net = net_of(make())
    X, y = rows(*shape)
    expected = [(grads**2).mean(0) for grads in own_gradients(net, X, y)]
    assert_by_layer(gathered(net, X, y, "grad_sq"), expected)


def test_rows_are_run_side_by_side_where_torch_can(monkeypatch):
    sizes, batches = [], Sample.batches
    monkeypatch.setattr(
        Sample,
        "batches",
        lambda self, size=None: sizes.append(size) or batches(self, size),
    )
    for kind, alone in (("convolution", False), ("tied", False), ("recurrent", True)):
        sizes.clear()
        make, shape = SQUARED[kind]
        gathered(net_of(make()), *rows(*shape), "grad_sq")
        assert (1 in sizes) == alone, kind


def test_more_weights_than_fit_are_run_in_smaller_parts(monkeypatch):
    net = net_of(convolution(nn.GroupNorm(3, 3)))
    X, y = rows(2, 5, 5)
    whole = gathered(net, X, y, "grad_sq")
    n_weights = sum(grads.numel() for grads in whole.values())
    monkeypatch.setattr(row_gradients, "_NUMBERS", 2 * n_weights)
    assert_by_layer(gathered(net, X, y, "grad_sq"), whole.values())


def test_squared_gradients_under_class_weights_do_not_depend_on_the_batch():
    weights = torch.tensor([0.2, 1.0, 5.0], dtype=torch.float64)
    net = net_of(mlp(nn.Tanh()), criterion__weight=weights)
    by_batch = gathered(net, *rows(4), "grad_sq")
    net.set_params(batch_size=N_ROWS)
    assert_by_layer(gathered(net, *rows(4), "grad_sq"), by_batch.values())


def test_squared_gradients_include_a_penalty_in_the_nets_own_loss():
    class Penalized(NeuralNetClassifier):
        def get_loss(self, y_pred, y_true, *args, **kwargs):
            loss = super().get_loss(y_pred, y_true, *args, **kwargs)
            return loss + 0.1 * sum(p.abs().sum() for p in self.module_.parameters())

    net = net_of(mlp(nn.Tanh()), kind=Penalized)
    plain = net_of(mlp(nn.Tanh()))
    plain.module_.load_state_dict(net.module_.state_dict())
    layers = prunable_layers(net.module_).values()
    signs = [0.1 * torch.sign(layer.weight.detach()).numpy() for layer in layers]
    pairs = zip(own_gradients(plain, *rows(4)), signs, strict=True)
    expected = [((grads + sign) ** 2).mean(0) for grads, sign in pairs]
    assert_by_layer(gathered(net, *rows(4), "grad_sq"), expected)


def test_the_hessian_times_the_gradient_is_a_difference_of_gradients():
    net = net_of(mlp(nn.Tanh()))
    X, y = rows(4)
    found = gathered(net, X, y, "hessian_grad")
    layers = prunable_layers(net.module_)
    before = gathered(net, X, y, "grad")
    ends = []
    for step in (1e-5, -1e-5):
        with torch.no_grad():
            for name, layer in layers.items():
                layer.weight.add_(before[name], alpha=step)
        ends.append(gathered(net, X, y, "grad"))
        with torch.no_grad():
            for name, layer in layers.items():
                layer.weight.sub_(before[name], alpha=step)
    for name in layers:
        expected = (ends[0][name] - ends[1][name]) / 2e-5
        np.testing.assert_allclose(found[name], expected, atol=1e-9)


def test_a_frozen_weight_has_statistics_too():
    net = net_of(mlp(nn.Tanh()))
    expected = gathered(net, *rows(4), "grad")
    net.module_[0].weight.requires_grad_(False)
    assert_by_layer(gathered(net, *rows(4), "grad"), expected.values())


# paths ------------------------------------------------------------------------


def paths_of(first, last):
    """Give slopes of 1' |W2| |W1| 1."""
    first, last = np.abs(first), np.abs(last)
    return [
        last.sum(0)[:, None] + 0 * first,
        0 * last + first.sum(1)[None],
    ]


STOOD_BETWEEN = {
    "relu": lambda: [nn.ReLU()],
    "tanh": lambda: [nn.Tanh()],
    "batch norm": lambda: [nn.BatchNorm1d(6), nn.ReLU()],
    "layer norm": lambda: [nn.LayerNorm(6), nn.GELU()],
    "dropout": lambda: [nn.ReLU(), nn.Dropout(0.5)],
    "group norm": lambda: [nn.GroupNorm(2, 6), nn.ReLU()],
    "the same module twice": lambda: [nn.Tanh()] * 2,
}


@pytest.mark.parametrize("between", STOOD_BETWEEN)
def test_paths_run_through_what_stands_between(between):
    module = mlp(*STOOD_BETWEEN[between]())
    net = net_of(module)
    ends = module[0], module[-1]
    expected = paths_of(*[layer.weight.detach().numpy() for layer in ends])
    assert_by_layer(gathered(net, *rows(4), "path_grad"), expected)


def test_paths_of_a_deep_net_do_not_vanish_or_overflow():
    module = nn.Sequential(*[nn.Linear(30, 30, bias=False) for _ in range(60)])
    with torch.no_grad():
        for layer in module:
            layer.weight.fill_(10.0)
    net = net_of(module)
    X = np.ones((4, 30), dtype=np.float32)
    found = gathered(net, X, np.zeros(4, dtype=int), "path_grad")
    expected = 30.0 * 30.0 * (10.0 * 30) ** 59 / 30 / 30
    for slopes in found.values():
        np.testing.assert_allclose(slopes, np.full((30, 30), expected), rtol=1e-9)
