"""What nets from elsewhere hold: all activations of torch, checks, lists of weights."""

import math
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, spectral_norm, weight_norm
from torch.nn.utils.parametrize import register_parametrization

from sklearn_sparse_nn import export_module
from sklearn_sparse_nn.runtime import SparseModel
from tests.export.test_modules import Calls, assert_exported, outputs

#: Every activation of torch that acts on a row, some with other parameters.
ACTIVATIONS = [
    nn.CELU(), nn.CELU(2.5), nn.ELU(), nn.ELU(0.3), nn.GELU(), nn.GELU("tanh"),
    nn.GLU(), nn.GLU(1), nn.Hardshrink(), nn.Hardshrink(0.0), nn.Hardsigmoid(),
    nn.Hardswish(), nn.Hardswish(inplace=True), nn.Hardtanh(), nn.LeakyReLU(),
    nn.LogSigmoid(), nn.LogSoftmax(1), nn.Mish(), nn.PReLU(), nn.PReLU(6),
    nn.RReLU(), nn.RReLU(0.1, 0.7), nn.ReLU(), nn.ReLU6(), nn.SELU(), nn.SiLU(),
    nn.Sigmoid(), nn.Softmax(1), nn.Softmin(1), nn.Softplus(), nn.Softshrink(),
    nn.Softshrink(0.1), nn.Softsign(), nn.Tanh(), nn.Tanhshrink(),
    nn.Threshold(0.1, 20.0), nn.Threshold(-1.0, 0.0),
]  # fmt: skip
#: Values around 0, at the bends, far out.
ROWS = np.concatenate(
    [
        np.random.default_rng(0).normal(size=(40, 6)) * 4,
        np.linspace(-3.5, 3.5, 60).reshape(10, 6),
        np.array([[-90.0, -30.0, 0.0, -0.0, 30.0, 90.0]]),
    ]
).astype(np.float32)


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_every_activation(activation, tmp_path):
    if isinstance(activation, nn.PReLU):
        nn.init.uniform_(activation.weight, -0.5, 0.5)
    module = nn.Sequential(activation)
    model = export_module(module, n_features=6)
    wanted = outputs(module, ROWS.copy())
    # Rounding of the numbers themselves: ten units in the last place.
    np.testing.assert_allclose(model.forward(ROWS), wanted, rtol=1e-6, atol=2e-6)
    assert np.array_equal(model.forward(ROWS)[5:6], model.forward(ROWS[5:6]))
    model.save(tmp_path / "model")
    again = SparseModel.load(tmp_path / "model")
    assert np.array_equal(again.forward(ROWS), model.forward(ROWS))


def test_every_activation_of_torch_is_here():
    ours = {type(activation).__name__ for activation in ACTIVATIONS}
    # Attention, and what takes pixels or targets, are no functions of a row.
    other = {"MultiheadAttention", "Softmax2d"}
    assert ours == set(nn.modules.activation.__all__) - other


@pytest.mark.parametrize(
    "function",
    [
        F.celu, F.glu, F.hardshrink, F.hardsigmoid, F.hardswish, F.logsigmoid, F.rrelu,
        F.softshrink, F.tanhshrink, torch.square, torch.celu,
        lambda x: F.threshold(x, 0.2, -3.0), lambda x: F.softmin(x, dim=1),
        lambda x: F.prelu(x, torch.linspace(-1, 1, 6)), lambda x: x**2,
        lambda x: F.hardswish(x, inplace=True), lambda x: x.clamp(max=0.5),
        lambda x: torch.clip(x, min=-0.25), lambda x: F.alpha_dropout(x, 0.5),
        lambda x: x * torch.sigmoid(x), lambda x: F.hardshrink(x, lambd=1.5),
    ],
)  # fmt: skip
def test_functional_forms(function):
    assert_exported(Calls(lambda m, X: function(m.a(X))))


class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.out = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(8, 2)

    def forward(self, X):
        return self.out(torch.tanh(self.a(X)) * torch.sigmoid(self.b(X)))


def test_gates_with_dead_units():
    module = Gated()
    with torch.no_grad():
        module.a.weight[:3] = 0  # constant factors
        module.b.weight[2:5] = 0
        module.out.weight[:, 7] = 0  # a product that nothing reads
    model = assert_exported(module)
    assert model.weights["a"].shape[0] < 8
    with torch.no_grad():
        module.a.weight[:] = 0
    model = assert_exported(module)
    assert "multiply" not in [op.kind for op in model.graph.ops]


class Listed(nn.Module):
    def __init__(self):
        super().__init__()
        self.list = nn.ParameterList([torch.randn(6, 6) / 3 for _ in range(2)])
        self.dict = nn.ParameterDict({"bias": torch.randn(6), "w": torch.randn(2, 6)})

    def forward(self, X):
        for weight in self.list:
            X = torch.relu(X @ weight + self.dict["bias"])
        return F.linear(X, self.dict["w"])


class Halved(nn.Module):
    def forward(self, weight):
        return weight / 2


def parametrized(kind):
    module = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    if kind == "own":
        register_parametrization(module[0], "weight", Halved())
        register_parametrization(module[0], "bias", Halved())
        return module
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        normalised = {
            "weight norm": parametrizations.weight_norm,
            "spectral norm": parametrizations.spectral_norm,
            "orthogonal": parametrizations.orthogonal,
            "old weight norm": weight_norm,
            "old spectral norm": spectral_norm,
        }[kind](module[0])
    assert normalised is module[0]
    module(torch.ones(4, 6))
    with torch.no_grad():  # as a last step of an optimizer
        for parameter in module.parameters():
            parameter.mul_(1.5)
    return module


@pytest.mark.parametrize(
    "kind",
    [
        "own", "weight norm", "spectral norm", "orthogonal", "old weight norm",
        "old spectral norm",
    ],
)  # fmt: skip
def test_normalised_weights_are_constants(kind):
    module = parametrized(kind).train()
    before = {name: p.detach().clone() for name, p in module.state_dict().items()}
    model = export_module(module)
    X = torch.from_numpy(ROWS[:9, :6])
    with torch.no_grad():
        wanted = module.eval()(X).numpy()
    np.testing.assert_allclose(model.forward(ROWS[:9]), wanted, atol=2e-5, rtol=1e-5)
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())


def test_lists_of_parameters():
    assert_exported(Listed())


def checks(m, X):
    assert X.dim() == 2 and X.ndim == 2 and X.shape[1] == 6 and X.size(-1) == 6
    assert X.shape[1:] == (6,) and X.shape[0] > 0 and len(X.shape) == 2
    assert torch.is_floating_point(X) and not X.is_cuda and not X.requires_grad
    assert isinstance(X, torch.Tensor) and X.device == m.a.weight.device
    assert X.dtype == m.a.weight.dtype and X.type() == "torch.FloatTensor"
    return X.to(m.a.weight.device)


ASKING = {
    "checks": checks,
    "width": lambda m, X: X / math.sqrt(X.shape[-1]),
    "batch": lambda m, X: X.view(X.size()[0], -1),
    "rows": lambda m, X: X.reshape(X.shape[0], X.shape[1]),
    "a row": lambda m, X: X.unsqueeze(0) if X.dim() == 1 else X,
    "device and dtype": lambda m, X: X.to(device="cpu", dtype=torch.float32),
    "like another": lambda m, X: X.type_as(m.a.weight).to(m.c, non_blocking=True),
    "type": lambda m, X: X.type(torch.FloatTensor).cpu().data,
    "not complex": lambda m, X: X.real if X.is_complex() else X,
    "sparse": lambda m, X: X.to_dense() if X.is_sparse else X,
    "empty": lambda m, X: X if X.shape[0] == 0 else m.b(X),
}


@pytest.mark.parametrize("name", ASKING)
def test_questions_about_the_input(name):
    assert_exported(Calls(lambda m, X: m.a(ASKING[name](m, X))))
    module = nn.Sequential(Calls(lambda m, X: m.a(ASKING[name](m, X))))
    export_module(module)  # the width is that of the first layer
