"""What can be exported, what cannot, and what stays untouched by it."""

import threading
from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sklearn_sparse_nn import export_module
from sklearn_sparse_nn.exceptions import UnsupportedLayerError
from sklearn_sparse_nn.nets.modules import SeededDropout, Standardize

ROWS = np.random.default_rng(0).normal(size=(9, 6)).astype(np.float32)


class Calls(nn.Module):
    """A module whose forward is a function of it and its input."""

    def __init__(self, forward, **parts):
        super().__init__()
        self.function = forward
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)
        self.c = nn.Parameter(torch.linspace(-1, 1, 6))
        self.register_buffer("table", torch.linspace(1, 2, 6))
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, X):
        return self.function(self, X)


def outputs(module, X=ROWS):
    module = deepcopy(module).eval()
    with torch.no_grad():
        result = module(torch.from_numpy(X))
    result = result[0] if isinstance(result, tuple) else result
    return result.reshape(len(X), -1).numpy()


def assert_exported(module, X=ROWS):
    # Nets of at most a few sums of six numbers about 1.
    model = export_module(module, n_features=X.shape[1])
    np.testing.assert_allclose(model.forward(X), outputs(module, X), rtol=0, atol=4e-6)
    return model


def in_place_add(m, X):
    h = m.a(X)
    held = h
    h += m.b(h)
    return torch.cat([h, held], 1)


def in_place_relu(m, X):
    h = m.a(X)
    return h + F.relu(h, inplace=True)


def in_place_method(m, X):
    h = m.a(X)
    kept = h.clone()
    h.mul_(2).add_(1)
    return h + kept


FORWARDS = {
    "functions": lambda m, X: F.relu(F.linear(X, m.a.weight, m.a.bias)),
    "torch functions": lambda m, X: torch.relu(torch.tanh(torch.sigmoid(m.a(X)))),
    "methods": lambda m, X: m.a(X).relu().tanh().sigmoid().softmax(-1),
    "elu": lambda m, X: F.selu(F.elu(m.a(X), 0.5)),
    "gelu": lambda m, X: F.gelu(F.gelu(m.a(X)), approximate="tanh"),
    "silu": lambda m, X: F.mish(F.silu(F.softplus(m.a(X), 2, 9))),
    "limits": lambda m, X: F.relu6(torch.clamp(F.hardtanh(m.a(X)), -0.5, 0.5)),
    "clamp at 0": lambda m, X: m.a(X).clamp(min=0),
    "leaky": lambda m, X: F.leaky_relu(m.a(X), 0.3),
    "softsign": lambda m, X: F.softsign(m.a(X)),
    "softmax": lambda m, X: F.log_softmax(F.softmax(m.a(X), dim=1), dim=-1),
    "dropout": lambda m, X: F.dropout(m.a(X), 0.5, m.training),
    "norms": lambda m, X: F.layer_norm(
        F.batch_norm(X, m.table, m.table, m.c, m.c), (6,), m.c, m.table
    ),
    "residual": lambda m, X: m.b(torch.relu(m.a(X))) + X,
    "add twice": lambda m, X: m.a(X) + X + X,
    "alpha": lambda m, X: torch.sub(torch.add(X, m.a(X), alpha=2), X, alpha=3),
    "constants": lambda m, X: 2 - (m.a(X) * m.c - m.table) / 4 + 1,
    "constants first": lambda m, X: m.c * m.a(X) + (m.table - X) - m.c.add(X),
    "divide": lambda m, X: -X / m.table,
    "product": lambda m, X: X @ m.a.weight + torch.matmul(X, m.b.weight.T),
    "input itself": lambda m, X: X,
    "input activated": lambda m, X: torch.relu(X),
    "concatenation": lambda m, X: torch.cat((m.a(X), X, m.b(X)), dim=-1),
    "concatenation of one": lambda m, X: m.b(torch.concat([m.a(X)], 1)),
    "two uses of one layer": lambda m, X: m.a(torch.relu(m.a(X))),
    "same shape": lambda m, X: m.a(X.view(X.size(0), -1)).reshape(X.shape[0], 6),
    "flat": lambda m, X: torch.flatten(m.a(X.flatten(1)), 1),
    "tuple": lambda m, X: (m.a(X), X),
    "in-place add": in_place_add,
    "in-place relu": in_place_relu,
    "in-place methods": in_place_method,
    "tensor made on the way": lambda m, X: X * (m.c.abs() + m.table.exp()),
    "attribute of a layer": lambda m, X: X @ m.a.weight.detach().t() + m.a.bias,
    "isinstance": lambda m, X: m.a(X) if isinstance(m.a, nn.Linear) else X,
    "leaf's own forward": lambda m, X: m.a.forward(X),
    "normalised constants": lambda m, X: F.linear(X, F.normalize(m.a.weight), m.c),
    "float": lambda m, X: m.a(X.float().contiguous()).to(torch.float32),
}


@pytest.mark.parametrize("name", FORWARDS)
def test_forwards(name):
    assert_exported(Calls(FORWARDS[name]))


@pytest.mark.parametrize(
    "end",
    [
        lambda y: y.squeeze(-1),
        lambda y: y.squeeze(1),
        lambda y: y.view(-1),
        lambda y: y.flatten(),
        lambda y: y[:, 0],
        lambda y: torch.sigmoid(y.squeeze(-1)) * 2 + 1,
        lambda y: y.squeeze(-1).unsqueeze(1),
    ],
)
def test_one_column_may_be_made_flat(end):
    assert_exported(Calls(lambda m, X: end(m.out(X)), out=nn.Linear(6, 1)))


def test_every_known_module():
    module = nn.Sequential(
        Standardize(np.ones(6), np.full(6, 2.0)),
        nn.Flatten(),
        nn.Sequential(
            nn.Linear(6, 5), nn.LayerNorm(5), nn.GELU(), SeededDropout(0.5, 1)
        ),
        nn.ReLU6(),
        nn.Linear(5, 7, bias=False),
        nn.BatchNorm1d(7),
        nn.SiLU(inplace=True),
        nn.Dropout(),
        nn.LayerNorm(7, elementwise_affine=False),
        nn.Identity(),
        nn.Linear(7, 3),
        nn.LogSoftmax(1),
    )
    assert_exported(module)


def test_subclasses_of_known_modules():
    class Ours(nn.Linear):
        pass

    class Doubled(nn.Linear):
        def forward(self, X):
            return 2 * super().forward(X)

    model = assert_exported(nn.Sequential(Ours(6, 5), Doubled(5, 4)))
    assert next(iter(model.weights)) == "0"


def test_a_norm_is_folded_and_an_activation_fused():
    module = nn.Sequential(
        nn.BatchNorm1d(6), nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(),
        nn.BatchNorm1d(5), nn.Linear(5, 2),
    )  # fmt: skip
    for norm in module:
        if isinstance(norm, nn.BatchNorm1d):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
    model = assert_exported(module)
    assert [op.kind for op in model.graph.ops] == ["linear", "linear"]
    assert model.graph.stage.scale is not None


def test_a_norm_of_an_input_far_from_0_keeps_its_digits():
    norm = nn.BatchNorm1d(6)
    norm.running_mean.fill_(1e6)
    module = nn.Sequential(norm, nn.Linear(6, 3))
    X = (ROWS + 1e6).astype(np.float32)
    # torch itself keeps them in float64 only.
    wanted = outputs(module.double(), X.astype(np.float64))
    np.testing.assert_allclose(export_module(module).forward(X), wanted, atol=4e-6)


def test_weights_of_other_dtypes_become_float32():
    module = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2))
    wanted = export_module(deepcopy(module).bfloat16().float()).forward(ROWS)
    assert np.array_equal(export_module(module.bfloat16()).forward(ROWS), wanted)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
def test_a_compiled_module_is_looked_through():
    module = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2))
    wanted = export_module(module).forward(ROWS)
    assert np.array_equal(export_module(torch.compile(module)).forward(ROWS), wanted)


def branch(m, X):
    return X if X.sum() > 0 else m.a(X)


UNSUPPORTED = {
    "branch": (branch, r"sum\(\) in the module itself \(Calls\): it is not known"),
    "random": (lambda m, X: X + torch.randn(6), "random numbers with randn"),
    "random like": (lambda m, X: X + torch.randn_like(X), "random"),
    "dropout always": (lambda m, X: F.dropout(X), "dropout.* in evaluation too"),
    "product of rows": (lambda m, X: m.a(X) @ X.T, "reads 'T'"),
    "spread gate": (lambda m, X: X * m.one(X), "spreads one column"),
    "a cube": (lambda m, X: X**3, "only the exponent 2"),
    "number of rows": (lambda m, X: X if X.shape[0] > 3 else m.a(X), "number of rows"),
    "another device": (lambda m, X: X.to("meta"), "asks for meta"),
    "rows joined": (lambda m, X: torch.cat([X, X]), "along dimension 0"),
    "softmax of rows": (lambda m, X: X.softmax(0), "dim=0"),
    "columns chosen": (lambda m, X: X[:, :3], "getitem"),
    "spread column": (lambda m, X: X + m.one(X), "spreads one column"),
    "flat and more": (lambda m, X: m.b(m.one(X).squeeze(-1)), "not two-dimensional"),
    "sum": (lambda m, X: X.sum(1), "sum.* it is not known"),
    "autocast": (lambda m, X: lower(m, X), "autocast"),
    "nothing of the input": (lambda m, X: m.c, "gives a"),
    "a dict": (lambda m, X: {"out": X}, "gives a dict"),
    "double": (lambda m, X: X.double(), "double"),
    "view in place": (lambda m, X: change_view(m, X), "of which there is a view"),
    "viewed in place": (lambda m, X: change_viewed(m, X), "of which there is a view"),
}


def change_view(m, X):
    h = m.one(X)
    h.squeeze(1).add_(1)
    return h


def change_viewed(m, X):
    h = m.one(X)
    flat = h.squeeze(1)
    h.mul_(2)
    return flat


def lower(m, X):
    with torch.autocast("cpu", torch.bfloat16):
        return m.a(X)


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_unsupported_forwards_say_what_and_where(name):
    forward, said = UNSUPPORTED[name]
    inner = Calls(forward, one=nn.Linear(6, 1))
    with pytest.raises(UnsupportedLayerError, match=said):
        export_module(inner, n_features=6)
    place = r"'1\.0(\.b)?' \((Calls|Linear)\)|the module itself \(Sequential\) gives a"
    with pytest.raises(UnsupportedLayerError, match=place):
        export_module(nn.Sequential(nn.Linear(6, 6), nn.Sequential(inner)))


class TwoInputs(nn.Module):
    def forward(self, X, Z):
        return X + Z


def hooked():
    module = nn.Linear(6, 6)
    module.register_forward_hook(lambda m, args, out: 2 * out)
    return module


FAR = torch.tensor([1e4, -1e5, 1e6, 3.0, 0.0, -7e5])


@pytest.mark.parametrize(
    "forward",
    [
        lambda m, X: m.a((X - FAR) / 2) + m.b(X / 1e6),
        lambda m, X: torch.cat([m.a((X - FAR) / 2), m.b(X / 1e6)], 1),
        lambda m, X: m.a((X - FAR) * 0.5) + m.b(X * 1e-6),
        lambda m, X: m.a((F.leaky_relu(X, 1.0) - FAR) / 2),
    ],
)
def test_columns_far_from_zero_keep_their_digits(forward):
    # Folded into x * scale + shift, or into a bias, they lose four of their seven.
    assert_exported(Calls(forward), ROWS + FAR.numpy())


class Doubling(nn.Linear):
    def __call__(self, X):
        return 2 * super().__call__(X)


def test_global_hooks_are_seen():
    module = nn.Linear(2, 2)
    handle = nn.modules.module.register_module_forward_hook(lambda m, a, out: 2 * out)
    try:
        with pytest.raises(UnsupportedLayerError, match="global forward hooks"):
            export_module(module)
    finally:
        handle.remove()


def patched():
    module = nn.Linear(6, 6)
    module.forward = lambda X: X
    return module


@pytest.mark.parametrize(
    ("module", "said"),
    [
        (nn.Conv1d(1, 1, 1), r"conv1d\(\) in module '0\.1' \(Conv1d\).*Supported are"),
        (nn.GLU(0), r"module '0\.1' \(GLU\).* dimension 0"),
        (nn.CELU(-1.0), r"module '0\.1' \(CELU\).* must be positive"),
        (nn.Embedding(3, 3), r"module '0\.1' \(Embedding\)"),
        (nn.LSTM(6, 6), r"module '0\.1' \(LSTM\)"),
        (nn.Softmax(0), r"module '0\.1' \(Softmax\): it has dim=0"),
        (nn.BatchNorm1d(6, track_running_stats=False), r"'0\.1' \(BatchNorm1d\).*each"),
        (hooked(), r"'0\.1' \(Linear\) has forward hooks"),
        (Doubling(6, 6), r"'0\.1' \(Doubling\) has a __call__ of its own"),
        (patched(), r"'0\.1' \(Linear\) has a forward of its own"),
        (TwoInputs(), r"module '0\.1' \(TwoInputs\)"),
    ],
)
def test_unsupported_modules_are_named_by_path(module, said):
    with pytest.raises(UnsupportedLayerError, match=said):
        export_module(nn.Sequential(nn.Sequential(nn.Linear(6, 6), module)))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite(value):
    module = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 2))
    with torch.no_grad():
        module[1].weight[0, 0] = value
    with pytest.raises(ValueError, match=r"NaN or infinite, in module '1' \(Linear\)"):
        export_module(module)


def test_widths_that_do_not_fit():
    module = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(4, 2))
    with pytest.raises(ValueError, match=r"takes 4 columns and gets 5, in module '2'"):
        export_module(module)
    with pytest.raises(ValueError, match="takes 6 columns and gets 7"):
        export_module(module, n_features=7)
    with pytest.raises(ValueError, match="give n_features"):
        export_module(nn.Sequential(nn.ReLU()))


def test_the_module_is_not_changed():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(6, 6)
            self.register_buffer("calls", torch.zeros(()))
            self.seen = []

        def forward(self, X):
            self.calls += 1
            self.seen.append(X)
            self.last = self.first(X)
            return self.last

    module = nn.Sequential(Counting(), nn.Dropout(), nn.BatchNorm1d(6)).train()
    module[0].eval()
    before = {k: v.clone() for k, v in module.state_dict().items()}
    held = [dict(vars(child)) for child in module.modules()]
    export_module(module)
    for child, values in zip(module.modules(), held, strict=True):
        assert vars(child).keys() == values.keys()
        assert all(vars(child)[k] is v for k, v in values.items())
    assert module.training and not module[0].training and not module[0].seen
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())


def test_tracing_disturbs_no_module_in_another_thread():
    module = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU()).eval()
    X = torch.from_numpy(ROWS)
    wanted, wrong, done = module(X), [], threading.Event()

    def run():
        while not done.is_set():
            if not torch.equal(module(X), wanted):
                wrong.append(1)

    thread = threading.Thread(target=run)
    thread.start()
    call = nn.Module.__call__
    models = [export_module(module) for _ in range(30)]
    done.set()
    thread.join()
    assert not wrong and nn.Module.__call__ is call
    assert np.array_equal(models[0].forward(ROWS), models[-1].forward(ROWS))
