"""Weights that are used otherwise than by their layer's own call: invariant 30."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sklearn_sparse_nn import PrunedClassifier
from sklearn_sparse_nn.nets.layers import prunable_layers
from sklearn_sparse_nn.statistics.gathering import GATHERED
from sklearn_sparse_nn.statistics.shape import shape_of
from tests.pruning.nets import own_net
from tests.statistics.nets import assert_by_layer, gathered, net_of, rows


@pytest.fixture(autouse=True)
def _own_rng():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


class Two(nn.Module):
    """Two layers, whose first is used in a way that is given."""

    def __init__(self, use=None, last=None):
        super().__init__()
        self.first = nn.Linear(4, 6, dtype=torch.float64)
        self.last = nn.Linear(6, 3, dtype=torch.float64)
        self.use = use or (lambda layer, X: layer(X))
        self.use_last = last or (lambda layer, X: layer(X))

    def forward(self, X):
        return self.use_last(self.last, torch.relu(self.use(self.first, X)))


def own_function(layer, X):
    class Product(torch.autograd.Function):
        @staticmethod
        def forward(ctx, X, weight):
            ctx.save_for_backward(X)
            return X.mm(weight.t())

        @staticmethod
        def backward(ctx, grad):
            return None, grad.t() @ ctx.saved_tensors[0]

    return Product.apply(X, layer.weight) + layer.bias


SAME = {
    "function": lambda layer, X: F.linear(X, layer.weight, layer.bias),
    "keywords": lambda layer, X: F.linear(
        input=X, weight=layer.weight, bias=layer.bias
    ),
    "forward": lambda layer, X: layer.forward(X),
    "class": lambda layer, X: type(layer).forward(layer, X),
    "addmm": lambda layer, X: torch.addmm(layer.bias, X, layer.weight.mT),
    "positions": lambda layer, X: layer(X[:, None])[:, 0],
    "row by row": lambda layer, X: torch.stack([layer(x) for x in X]),
    "not counted": lambda layer, X: layer(X) + 0 * bool(layer.weight.norm() < 0),
}


@pytest.mark.parametrize("last", [False, True], ids=["first", "last"])
@pytest.mark.parametrize("name", GATHERED)
@pytest.mark.parametrize("use", SAME)
def test_a_weight_that_is_used_as_the_layer_does_has_the_layers_statistics(
    use, name, last
):
    usual = net_of(Two())
    other = net_of(Two(**{"last" if last else "use": SAME[use]}))
    other.module_.load_state_dict(usual.module_.state_dict())
    expected = gathered(usual, *rows(4), name)
    assert all(value.any() for value in expected.values())
    assert_by_layer(gathered(other, *rows(4), name), expected.values())
    X = rows(4)[0]
    if not (last and use == "row by row"):  # then no batch of rows reaches the layer
        assert shape_of(other, X) == shape_of(usual, X)


APART = {
    "matmul": lambda layer, X: X @ layer.weight.T + layer.bias,
    "mm": lambda layer, X: torch.mm(X, layer.weight.t()) + layer.bias,
    "columns": lambda layer, X: (layer.weight @ X.T).T + layer.bias,
    "no bias": lambda layer, X: F.linear(X, layer.weight) + layer.bias,
}


@pytest.mark.parametrize("name", GATHERED)
@pytest.mark.parametrize("use", APART)
def test_a_bias_that_is_added_apart_leaves_open_only_when_units_are_zero(use, name):
    usual, other = net_of(Two()), net_of(Two(APART[use]))
    other.module_.load_state_dict(usual.module_.state_dict())
    if name == "activation_zeros":
        with pytest.raises(ValueError, match="'first': its bias is added elsewhere"):
            gathered(other, *rows(4), name)
    else:
        expected = gathered(usual, *rows(4), name)
        assert_by_layer(gathered(other, *rows(4), name), expected.values())


OTHERWISE = {
    "einsum": lambda layer, X: torch.einsum("bi,oi->bo", X, layer.weight),
    "normalised": lambda layer, X: F.linear(X, F.normalize(layer.weight)),
    "scaled": lambda layer, X: F.linear(X, 2 * layer.weight, layer.bias),
    "a part": lambda layer, X: F.linear(X[:, :3], layer.weight[:, :3], layer.bias),
    "twice, once scaled": lambda layer, X: layer(X) + X @ (2 * layer.weight).T,
    "transposed, too": lambda layer, X: layer(F.linear(layer(X), layer.weight.T)),
    "own function": own_function,
    "without gradients": lambda layer, X: F.linear(X, (2 * layer.weight).detach()),
}


@pytest.mark.parametrize("name", ["input_norm", "hessian", "activation_zeros"])
@pytest.mark.parametrize("use", OTHERWISE)
def test_inputs_that_cannot_be_seen_are_refused_naming_the_layer(use, name):
    with pytest.raises(ValueError, match=f"'{name}' is not known for layer 'first'"):
        gathered(net_of(Two(OTHERWISE[use])), *rows(4), name)
    layers = {"last": prunable_layers(net_of(Two(OTHERWISE[use])).module_)["last"]}
    assert gathered(net_of(Two(OTHERWISE[use])), *rows(4), name, layers=layers)


@pytest.mark.parametrize("name", ["grad", "grad_sq", "hessian_grad"])
@pytest.mark.parametrize(
    "use",
    [
        lambda layer, X: F.linear(X, layer.weight.detach(), layer.bias),
        lambda layer, X: layer(X).detach(),
        torch.no_grad()(lambda layer, X: layer(X)),
    ],
    ids=["weight", "outputs", "no_grad"],
)
def test_zeros_of_a_weight_that_no_gradient_reaches_are_refused(use, name):
    with pytest.raises(ValueError, match=r"layer 'first'.* no gradient .* reaches it"):
        gathered(net_of(Two(use)), *rows(4), name)


def test_gradients_do_not_ask_how_a_weight_is_used():
    net = net_of(Two(OTHERWISE["einsum"]))
    for name in ("grad", "grad_sq", "hessian_grad"):
        assert all(value.any() for value in gathered(net, *rows(4), name).values())


# attention --------------------------------------------------------------------


class Attends(nn.Module):
    def __init__(self, kind=nn.MultiheadAttention, **options):
        super().__init__()
        self.token = nn.Linear(4, 8)
        self.mix = kind(8, 2, batch_first=True, **options)
        self.head = nn.Linear(8, 3)

    def forward(self, X):
        tokens = self.token(X)
        if isinstance(self.mix, nn.MultiheadAttention):
            return self.head(self.mix(tokens, tokens, tokens)[0].mean(1))
        return self.head(self.mix(tokens).mean(1))


def tokens():
    X, y = rows(5, 4)
    return X.astype(np.float32), y


def mixed_values(attention, X):
    """What an attention's output projection takes, head by head."""
    weights, biases = attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3)
    q, k, v = (
        (X @ w.T + b).unflatten(-1, (2, 4)).transpose(1, 2)
        for w, b in zip(weights, biases, strict=True)
    )
    shares = torch.softmax(q @ k.mT / 2, -1)
    return (shares @ v).transpose(1, 2).flatten(2)


def test_the_output_projection_of_an_attention_has_true_statistics():
    net = net_of(Attends())
    X, y = tokens()
    module = net.module_.eval()
    with torch.no_grad():
        inputs = mixed_values(module.mix, module.token(torch.from_numpy(X)))
    inputs = inputs.flatten(0, 1).double()
    found = gathered(net, X, y, "input_norm", "hessian")
    expected = inputs.T @ inputs
    gram = found["hessian"]["mix.out_proj"]
    np.testing.assert_allclose(gram, expected, rtol=1e-4, atol=1e-5)
    norms = found["input_norm"]["mix.out_proj"]
    np.testing.assert_allclose(norms[0] ** 2, expected.diagonal(), rtol=1e-4)
    outputs = inputs.float() @ module.mix.out_proj.weight.T + module.mix.out_proj.bias
    zeros = gathered(net, X, y, "activation_zeros")["mix.out_proj"]
    np.testing.assert_allclose(zeros[:, 0], (outputs <= 0).float().mean(0), atol=1e-6)


@pytest.mark.parametrize("name", GATHERED)
@pytest.mark.parametrize("norm_first", [False, True])
def test_every_layer_of_an_encoder_has_statistics_that_are_not_zero(name, norm_first):
    module = Attends(
        nn.TransformerEncoderLayer, dim_feedforward=16, norm_first=norm_first
    )
    found = gathered(net_of(module), *tokens(), name)
    assert all(value.any() for value in found.values())


# other layers -----------------------------------------------------------------


class Looks(nn.Module):
    def __init__(self, look):
        super().__init__()
        self.table, self.head = nn.Embedding(9, 5), nn.Linear(5, 3)
        self.look = look

    def forward(self, X):
        return self.head(self.look(self.table, X).mean(1))


@pytest.mark.parametrize(
    "look",
    [
        lambda table, X: F.embedding(X, table.weight),
        lambda table, X: table.weight[X],
        lambda table, X: table.forward(X),
    ],
)
@pytest.mark.parametrize("name", [name for name in GATHERED if name != "hessian"])
def test_lookups_by_functions(look, name):
    usual, other = net_of(Looks(lambda table, X: table(X))), net_of(Looks(look))
    other.module_.load_state_dict(usual.module_.state_dict())
    X, y = np.random.default_rng(0).integers(0, 9, (13, 4)), rows(4)[1]
    expected = gathered(usual, X, y, name).values()
    assert_by_layer(gathered(other, X, y, name), expected, rtol=1e-5)


def test_a_table_that_is_the_head_as_well_is_refused():
    class Shared(Looks):
        def forward(self, X):
            return F.linear(self.table(X).mean(1), self.table.weight)

    X, y = np.random.default_rng(0).integers(0, 9, (13, 4)), rows(4)[1]
    with pytest.raises(ValueError, match="'table': its weight is used through linear"):
        gathered(net_of(Shared(None)), X, y, "input_norm")


def test_convolutions_by_functions():
    class Conv(nn.Module):
        def __init__(self, by_function):
            super().__init__()
            self.conv, self.head = nn.Conv1d(2, 4, 3), nn.Linear(4, 3)
            self.by_function = by_function

        def forward(self, X):
            if self.by_function:
                values = F.conv1d(X, self.conv.weight, self.conv.bias)
            else:
                values = torch.stack([self.conv(x) for x in X])
            return self.head(F.relu(values).sum(2))

    X, y = rows(2, 7)
    X = X.astype(np.float32)
    one, two = net_of(Conv(False)), net_of(Conv(True))
    two.module_.load_state_dict(one.module_.state_dict())
    for name in GATHERED:
        if name != "hessian":
            expected = gathered(one, X, y, name).values()
            assert_by_layer(gathered(two, X, y, name), expected, rtol=1e-4)


# torch itself warns about its own parts when the compiler is first loaded.
@pytest.mark.filterwarnings("ignore")
def test_layers_and_functions_that_are_compiled_inside_of_a_net():
    def compiled(kind):
        function = torch.compile(F.linear, backend="eager")
        layer = nn.Linear(4, 6).double()
        module = Two(lambda layer, X: function(X, layer.weight, layer.bias))
        if kind == "layer":
            module = Two()
            module.first = torch.compile(layer, backend="eager")
        net = net_of(module)
        net.predict(rows(4)[0])
        return net

    for kind in ("layer", "function"):
        net = compiled(kind)
        for name in GATHERED:
            found = gathered(net, *rows(4), name)
            assert all(value.any() for value in found.values()), (kind, name)


# paths ------------------------------------------------------------------------


@pytest.mark.parametrize("act", [F.gelu, torch.tanh, torch.sigmoid, F.relu, F.silu])
def test_paths_run_through_activations_that_are_functions(act):
    net = net_of(Two(lambda layer, X: act(layer(X))))
    first = net.module_.first.weight.detach().abs().numpy()
    last = net.module_.last.weight.detach().abs().numpy()
    expected = [last.sum(0)[:, None] + 0 * first, 0 * last + first.sum(1)[None]]
    assert_by_layer(gathered(net, *rows(4), "path_grad"), expected)


@pytest.mark.parametrize(
    "use",
    [
        lambda layer, X: layer(X) ** 2,
        lambda layer, X: layer(X).exp(),
        lambda layer, X: layer(X) * torch.sigmoid(layer(X)),
    ],
)
def test_paths_through_what_is_not_linear_are_refused(use):
    with pytest.raises(ValueError, match="paths through Two cannot be followed"):
        gathered(net_of(Two(use)), *rows(4), "path_grad")


# half precision, and whole fits ------------------------------------------------


def test_sums_over_rows_of_a_half_precision_net_do_not_overflow():
    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(4, 6, dtype=torch.bfloat16)
            self.last = nn.Linear(6, 3, dtype=torch.bfloat16)

        def forward(self, X):
            return self.last(torch.relu(self.first(X.bfloat16()))).float()

    X = 1 + np.zeros((600, 4), dtype=np.float32)
    y = np.arange(600) % 3
    net = net_of(Half(), batch_size=1)
    norms = gathered(net, X, y, "input_norm")["first"]
    np.testing.assert_allclose(norms, np.sqrt(600) + np.zeros((1, 4)), rtol=1e-6)
    for name in GATHERED:
        found = gathered(net, X[:20], y[:20], name)
        assert all(value.isfinite().all() for value in found.values())


@pytest.mark.parametrize("importance", ["wanda", "obs", "apoz"])
def test_masks_do_not_depend_on_how_a_layer_is_called(classes, importance):
    class Called(nn.Module):
        def __init__(self, direct):
            super().__init__()
            self.first, self.last = nn.Linear(8, 16), nn.Linear(16, 3)
            self.direct = direct

        def forward(self, X):
            first = self.first
            values = F.linear(X, first.weight, first.bias) if self.direct else first(X)
            return self.last(torch.relu(values))

    once = {"schedule": "oneshot", "prune_epochs": 0, "finetune_epochs": 0}
    once["allocation"] = "uniform"
    if importance == "apoz":
        once["granularity"] = "neuron"
    one, two = (
        PrunedClassifier(
            own_net(Called, module__direct=direct),
            importance=importance,
            sparsity=0.5,
            random_state=0,
            **once,
        ).fit(*classes)
        for direct in (False, True)
    )
    assert all(
        np.array_equal(one.masks_[name], two.masks_[name]) for name in one.masks_
    )
    hidden = one.transform(classes[0]).toarray()
    assert np.allclose(two.transform(classes[0]).toarray(), hidden, atol=1e-6)


def test_a_hook_on_the_layer_would_see_nothing():
    """The twin: statistics of a layer's own calls are zero for a function's weight."""
    net = net_of(Two(SAME["function"]))
    norms = []

    def hook(module, args, output):
        norms.append(args[0].norm())

    net.module_.first.register_forward_hook(hook)
    found = gathered(net, *rows(4), "input_norm")
    assert norms == []
    assert found["first"].all()
