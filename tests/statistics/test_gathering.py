"""What is gathered of a net equals sums worked out in numpy, and leaves no trace."""

from contextlib import contextmanager

import numpy as np
import pytest
import torch
from skorch import NeuralNetClassifier, NeuralNetRegressor
from skorch.callbacks import Callback
from torch import nn
from torch.nn import functional

from sklearn_sparse_nn import TabularNetClassifier
from sklearn_sparse_nn.core.importance import STATISTICS
from sklearn_sparse_nn.nets.layers import prunable_layers
from sklearn_sparse_nn.nets.targets import Labels
from sklearn_sparse_nn.statistics.gathering import GATHERED, gather

N_ROWS, BATCH = 13, 5  # the last batch is smaller


@pytest.fixture(autouse=True)
def _own_rng():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def net_of(module, criterion=nn.CrossEntropyLoss, kind=NeuralNetClassifier, **kwargs):
    options = {"batch_size": BATCH, "train_split": None, "verbose": 0}
    return kind(module, criterion=criterion, **{**options, **kwargs}).initialize()


def gathered(net, X, y, *names, layers=None):
    layers = layers or prunable_layers(net.module_)
    found = gather(net, net.get_dataset(X, y), layers, names)
    return found[names[0]] if len(names) == 1 else found


def rows(*shape, n_classes=3, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(N_ROWS, *shape))
    return X, rng.integers(0, n_classes, N_ROWS)


def mlp(*between):
    first = nn.Linear(4, 6)
    return nn.Sequential(first, *between, nn.Linear(6, 3)).double()


class Functional(nn.Module):
    """An MLP whose activation is a call, in place or not."""

    def __init__(self, activate):
        super().__init__()
        self.first = nn.Linear(4, 6, dtype=torch.float64)
        self.last = nn.Linear(6, 3, dtype=torch.float64)
        self.activate = activate

    def forward(self, X):
        return self.last(self.activate(self.first(X)))


class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(8, 6)
        self.norm = nn.BatchNorm1d(6)
        self.drop = nn.Dropout(0.5)
        self.last = nn.Linear(6, 3)

    def forward(self, X):
        return self.last(self.drop(torch.relu(self.norm(self.first(X)))))


class Tied(nn.Module):
    """Two layers share one weight."""

    def __init__(self):
        super().__init__()
        self.one = nn.Linear(4, 4, dtype=torch.float64)
        self.two = nn.Linear(4, 4, dtype=torch.float64)
        self.two.weight = self.one.weight
        self.head = nn.Linear(4, 3, dtype=torch.float64)

    def forward(self, X):
        return self.head(torch.tanh(self.two(torch.tanh(self.one(X)))))


class Summed(nn.Module):
    """Sums a layer's outputs over positions: its head sees one value per unit."""

    def __init__(self, layer, width):
        super().__init__()
        self.layer = layer
        self.head = nn.Linear(width, 3)

    def forward(self, X):
        values = torch.relu(self.layer(X))
        return self.head(values.flatten(2).sum(2) if values.ndim > 2 else values)


def row_losses_gradients(net, X, y):
    """Differentiate every row's loss alone, by torch's autograd and no skorch."""
    module = net.module_.eval()
    weights = [layer.weight for layer in prunable_layers(module).values()]
    for x, target in zip(torch.as_tensor(X), torch.as_tensor(y), strict=True):
        loss = net.criterion_(module(x[None]), target[None])
        yield [g.detach() for g in torch.autograd.grad(loss, weights)]


def assert_by_layer(found, expected, rtol=1e-9):
    assert len(found) == len(expected)
    for one, two in zip(found.values(), expected, strict=True):
        np.testing.assert_allclose(one, two, rtol=rtol, atol=1e-12)


# no trace ---------------------------------------------------------------------


class Counting(Callback):
    heard = 0

    def on_batch_begin(self, net, **kwargs):
        Counting.heard += 1

    def on_grad_computed(self, net, *args, **kwargs):
        Counting.heard += 1


@contextmanager
def unchanged(net):
    """See that nothing of a net or of the global generators differs afterwards."""
    parameters = [p.clone() for p in net.module_.parameters()]
    for parameter in net.module_.parameters():
        parameter.grad = torch.ones_like(parameter)
    buffers = [b.clone() for b in net.module_.buffers()]
    modes = [m.training for m in net.module_.modules()]
    settings = {key: value for key, value in vars(net).items() if key != "history_"}
    callbacks, heard = list(net.callbacks_), Counting.heard
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()  # noqa: NPY002
    yield
    after = np.random.get_state()  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert all(np.array_equal(a, b) for a, b in zip(after, numpy_state, strict=True))
    assert (net.callbacks_, Counting.heard) == (callbacks, heard)
    assert {k: v for k, v in vars(net).items() if k != "history_"} == settings
    assert [m.training for m in net.module_.modules()] == modes
    assert all(map(torch.equal, net.module_.buffers(), buffers))
    assert all(map(torch.equal, net.module_.parameters(), parameters))
    for parameter in net.module_.parameters():
        assert torch.equal(parameter.grad, torch.ones_like(parameter))
    for module in net.module_.modules():
        hooks = module._forward_hooks, module._forward_pre_hooks
        assert not any((*hooks, module._backward_hooks))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", GATHERED)
def test_gathering_changes_nothing(classes, name, training):
    net = net_of(Normed(), callbacks=[Counting()])
    net.module_.train(training)
    net.module_.drop.eval()
    with unchanged(net):
        gathered(net, *classes, name)


@pytest.mark.parametrize("name", GATHERED)
def test_gathering_is_the_same_twice_and_in_any_mode(classes, name):
    net = net_of(Normed())
    net.module_.train()
    first = gathered(net, *classes, name)
    net.module_.eval()
    second = gathered(net, *classes, name)
    assert all(torch.equal(first[layer], second[layer]) for layer in first)


def test_hooks_go_even_after_an_error():
    net = net_of(mlp(nn.ReLU()))
    X, y = rows(4)
    for name in GATHERED:
        with pytest.raises(RuntimeError), unchanged(net):
            gathered(net, X[:, :3], y, name)


def test_what_is_gathered_has_no_history_of_autograd():
    net = net_of(mlp(nn.ReLU()))
    found = gathered(net, *rows(4), *GATHERED)
    assert not any(t.requires_grad for stat in found.values() for t in stat.values())


def test_every_gathered_statistic_is_a_known_one():
    assert set(GATHERED) <= set(STATISTICS)


def test_only_what_is_asked_for_is_gathered():
    net = net_of(mlp(nn.ReLU()))
    assert gathered(net, *rows(4), "grad", "input_norm").keys() == {
        "grad",
        "input_norm",
    }
    assert gather(net, None, prunable_layers(net.module_), ()) == {}


def test_only_the_layers_asked_for_are_looked_at():
    net = net_of(mlp(nn.ReLU()))
    layers = {"2": prunable_layers(net.module_)["2"]}
    found = gathered(net, *rows(4), *GATHERED, layers=layers)
    assert all(list(stat) == ["2"] for stat in found.values())


def test_statistics_gathered_together_are_those_gathered_alone():
    net = net_of(mlp(nn.ReLU()))
    together = gathered(net, *rows(4), *GATHERED)
    for name, stat in together.items():
        alone = gathered(net, *rows(4), name)
        assert_by_layer(stat, alone.values())


def test_dropout_is_off():
    net = net_of(mlp(nn.ReLU(), nn.Dropout(0.5)))
    plain = net_of(mlp(nn.ReLU()))
    plain.module_[0], plain.module_[2] = net.module_[0], net.module_[3]
    net.module_.train()
    ours = gathered(net, *rows(4), *GATHERED)
    others = gathered(plain, *rows(4), *GATHERED)
    for name, stat in ours.items():
        assert_by_layer(stat, others[name].values())


def test_rows_taken_one_by_one_for_one_statistic_do_not_slow_the_next():
    net = net_of(Summed(nn.Conv1d(2, 4, 3), 4))
    n_calls = []
    net.module_.register_forward_hook(lambda *_: n_calls.append(1))
    X, y = rows(2, 6)
    X = X.astype(np.float32)
    gathered(net, X, y, "input_norm")
    n_batches = len(n_calls)
    gathered(net, X, y, "grad_sq", "input_norm")
    assert n_batches == 3
    assert len(n_calls) == n_batches + N_ROWS + n_batches


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
def test_a_layer_that_is_never_called_has_statistics_of_zero(unused):
    net = net_of(WithUnused(unused))
    X, y = rows(4)
    layer = prunable_layers(net.module_)["unused"]
    shape = layer.turned(layer.weight).shape
    names = [name for name in GATHERED if name != "hessian"]
    for stat in gathered(net, X.astype(np.float32), y, *names).values():
        assert stat["unused"].expand(shape).abs().sum() == 0


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
}


@pytest.mark.parametrize("kind", SQUARED)
def test_squared_gradients_are_those_of_single_rows(kind):
    make, shape = SQUARED[kind]
    net = net_of(make())
    X, y = rows(*shape)
    expected = [(grads**2).mean(0) for grads in own_gradients(net, X, y)]
    assert_by_layer(gathered(net, X, y, "grad_sq"), expected)


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


# our own net ------------------------------------------------------------------


@pytest.mark.parametrize("name", GATHERED)
def test_rows_that_fill_a_batch_up_are_not_counted(classes, name):
    X, y = classes
    X, y = X[:37], y[:37]  # not a multiple of rows_at_once
    estimator = TabularNetClassifier((7, 6), random_state=0)
    padded = estimator.build_net(X, y, Labels.of(y)).initialize()
    assert padded.rows_at_once > 1
    plain = net_of(padded.module_, batch_size=10)
    ours = gathered(padded, X, y, name)
    others = gathered(plain, X, y, name)
    for layer, value in ours.items():
        np.testing.assert_allclose(value, others[layer], rtol=2e-4, atol=1e-5)
