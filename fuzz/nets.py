"""Nets that users might bring, of every kind that the randomised trial draws."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["NETS"]

N_INPUTS = 8


class Linear(nn.Module):
    """A perceptron with a drawn activation and norm."""

    def __init__(self, n_outputs=3, width=12, activation=nn.ReLU, norm=None, drop=0.0):
        super().__init__()
        self.first = nn.Linear(N_INPUTS, width)
        self.norm = nn.Identity() if norm is None else norm(width)
        self.act = activation()
        self.drop = nn.Dropout(drop)
        self.last = nn.Linear(width, n_outputs)

    def forward(self, X):
        return self.last(self.drop(self.act(self.norm(self.first(X)))))


class Wide(Linear):
    """A perceptron whose number of inputs a callback sets."""

    def __init__(self, input_dim=N_INPUTS, **kwargs):
        super().__init__(**kwargs)
        self.first = nn.Linear(input_dim, self.first.out_features)


class Residual(nn.Module):
    """Two layers around which their input passes."""

    def __init__(self, n_outputs=3):
        super().__init__()
        self.first, self.second = nn.Linear(N_INPUTS, 10), nn.Linear(10, 10)
        self.last = nn.Linear(10, n_outputs)

    def forward(self, X):
        hidden = torch.relu(self.first(X))
        return self.last(hidden + torch.tanh(self.second(hidden)))


class Conv(nn.Module):
    """Rows as sequences of one channel."""

    def __init__(self, n_outputs=3, transposed=False):
        super().__init__()
        self.conv = nn.Conv1d(1, 4, 3, padding=1)
        if transposed:
            self.conv = nn.ConvTranspose1d(1, 4, 3, padding=1)
        self.last = nn.Linear(4 * N_INPUTS, n_outputs)

    def forward(self, X):
        return self.last(torch.relu(self.conv(X.reshape(len(X), 1, -1))).flatten(1))


class Recurrent(nn.Module):
    """Rows as steps of two values."""

    def __init__(self, n_outputs=3, kind=nn.LSTM):
        super().__init__()
        self.steps = kind(2, 6, batch_first=True)
        self.last = nn.Linear(6, n_outputs)

    def forward(self, X):
        return self.last(self.steps(X.reshape(len(X), -1, 2))[0][:, -1])


class Attention(nn.Module):
    """Rows as tokens of two values."""

    def __init__(self, n_outputs=3, whole=False):
        super().__init__()
        self.token = nn.Linear(2, 4)
        self.whole = whole
        if whole:
            self.mix = nn.TransformerEncoderLayer(4, 2, 8, 0.0, batch_first=True)
        else:
            self.mix = nn.MultiheadAttention(4, 2, batch_first=True)
        self.last = nn.Linear(4, n_outputs)

    def forward(self, X):
        tokens = self.token(X.reshape(len(X), -1, 2))
        mixed = self.mix(tokens) if self.whole else self.mix(tokens, tokens, tokens)[0]
        return self.last(mixed.mean(1))


class Functional(nn.Module):
    """Weights of layers that are never called."""

    def __init__(self, n_outputs=3, normalised=False):
        super().__init__()
        self.first, self.last = nn.Linear(N_INPUTS, 10), nn.Linear(10, n_outputs)
        self.normalised = normalised

    def forward(self, X):
        weight = self.first.weight
        if self.normalised:
            weight = F.normalize(weight, dim=1, eps=1e-6)
        return self.last(torch.relu(F.linear(X, weight, self.first.bias)))


class Direct(nn.Module):
    """A layer whose forward is called past its hooks."""

    def __init__(self, n_outputs=3):
        super().__init__()
        self.first, self.last = nn.Linear(N_INPUTS, 10), nn.Linear(10, n_outputs)

    def forward(self, X):
        return self.last(torch.relu(self.first.forward(X)))


class Tied(nn.Module):
    """Two layers of one weight."""

    def __init__(self, n_outputs=3):
        super().__init__()
        self.one, self.two = nn.Linear(N_INPUTS, 8), nn.Linear(8, 8)
        self.two.weight = self.one.weight
        self.last = nn.Linear(8, n_outputs)

    def forward(self, X):
        return self.last(torch.relu(self.two(torch.relu(self.one(X)))))


class Own(nn.Module):
    """A weight that is a parameter of the module, and a bilinear layer."""

    def __init__(self, n_outputs=3):
        super().__init__()
        self.own = nn.Parameter(torch.randn(N_INPUTS, 6) / 3)
        self.pairs = nn.Bilinear(6, 6, 5)
        self.last = nn.Linear(5, n_outputs)

    def forward(self, X):
        hidden = torch.relu(X @ self.own)
        return self.last(torch.relu(self.pairs(hidden, hidden)))


class Asks(nn.Module):
    """A forward that asks what its input is."""

    def __init__(self, n_outputs=3, how="isinstance"):
        super().__init__()
        self.how = how
        self.first, self.last = nn.Linear(N_INPUTS, 10), nn.Linear(10, n_outputs)

    def forward(self, X):
        yes = {
            "isinstance": lambda: isinstance(X, Tensor),
            "is_tensor": lambda: torch.is_tensor(X),
            "type": lambda: type(X) is Tensor,
            "hasattr": lambda: hasattr(X, "untyped_storage"),
            "dim": lambda: X.dim() == 2,
            "shape": lambda: X.shape[1] == N_INPUTS,
        }[self.how]()
        return self.last(torch.relu(self.first(X * 2 if yes else X)))


class Unused(nn.Module):
    """A layer that the forward never uses."""

    def __init__(self, n_outputs=3):
        super().__init__()
        self.first, self.idle = nn.Linear(N_INPUTS, 10), nn.Linear(10, 10)
        self.last = nn.Linear(10, n_outputs)

    def forward(self, X):
        return self.last(torch.relu(self.first(X)))


class Embedded(nn.Module):
    """Whole numbers, looked up."""

    def __init__(self, n_outputs=3):
        super().__init__()
        self.table = nn.Embedding(5, 4)
        self.last = nn.Linear(4 * N_INPUTS, n_outputs)

    def forward(self, X):
        return self.last(self.table(X.long().clamp(0, 4)).flatten(1))


class Normed(nn.Module):
    """A weight that is computed from others."""

    def __init__(self, n_outputs=3):
        super().__init__()
        self.first = nn.utils.parametrizations.weight_norm(nn.Linear(N_INPUTS, 10))
        self.last = nn.Linear(10, n_outputs)

    def forward(self, X):
        return self.last(torch.relu(self.first(X)))


#: A class of modules, and the values that its parameters may have.
NETS = {
    "linear": (
        Linear,
        {
            "activation": [nn.ReLU, nn.Tanh, nn.GELU, nn.PReLU, nn.Hardswish, nn.ELU],
            "norm": [None, nn.BatchNorm1d, nn.LayerNorm],
            "drop": [0.0, 0.3],
        },
    ),
    "wide": (Wide, {"input_dim": [N_INPUTS, 3]}),
    "residual": (Residual, {}),
    "conv": (Conv, {"transposed": [False, True]}),
    "recurrent": (Recurrent, {"kind": [nn.LSTM, nn.GRU, nn.RNN]}),
    "attention": (Attention, {"whole": [False, True]}),
    "functional": (Functional, {"normalised": [False, True]}),
    "direct": (Direct, {}),
    "tied": (Tied, {}),
    "own": (Own, {}),
    "asks": (
        Asks,
        {"how": ["isinstance", "is_tensor", "type", "hasattr", "dim", "shape"]},
    ),
    "unused": (Unused, {}),
    "embedded": (Embedded, {}),
    "normed": (Normed, {}),
}
