"""Modules and nets that users might bring."""

import torch
from skorch import NeuralNetClassifier, NeuralNetRegressor
from torch import nn

from sklearn_sparse_nn import TabularNetClassifier


def small(**kwargs):
    """Our own net, small and fast."""
    options = {"hidden_layer_sizes": (16, 12), "max_epochs": 3, "lr": 0.01}
    return TabularNetClassifier(**{**options, **kwargs})


class Mlp(nn.Module):
    def __init__(self, n_inputs=8, n_outputs=3, width=16):
        super().__init__()
        self.first = nn.Linear(n_inputs, width)
        self.norm = nn.BatchNorm1d(width)
        self.drop = nn.Dropout(0.2)
        self.last = nn.Linear(width, n_outputs)

    def forward(self, X):
        return self.last(self.drop(torch.relu(self.norm(self.first(X)))))


class Conv(nn.Module):
    """Takes rows of 64 pixels."""

    def __init__(self, n_outputs=10):
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 3)
        self.head = nn.Linear(6 * 36, n_outputs)

    def forward(self, X):
        return self.head(torch.relu(self.conv(X.reshape(-1, 1, 8, 8))).flatten(1))


class Embedded(nn.Module):
    """Takes rows of integers."""

    def __init__(self, n_entries=12, n_outputs=3):
        super().__init__()
        self.table = nn.Embedding(n_entries, 5)
        self.head = nn.Linear(5, n_outputs)

    def forward(self, X):
        return self.head(self.table(X).mean(1))


class Lazy(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.LazyLinear(16)
        self.last = nn.LazyLinear(3)

    def forward(self, X):
        return self.last(torch.relu(self.first(X)))


class Tied(nn.Module):
    """An autoencoder-like net whose two maps share one weight."""

    def __init__(self):
        super().__init__()
        self.one = nn.Linear(8, 8)
        self.two = nn.Linear(8, 8)
        self.two.weight = self.one.weight
        self.head = nn.Linear(8, 3)

    def forward(self, X):
        return self.head(torch.relu(self.two(torch.relu(self.one(X)))))


def own_net(module=Mlp, **kwargs):
    """A plain skorch classifier, as a user would write it."""
    options = {
        "criterion": nn.CrossEntropyLoss,
        "optimizer": torch.optim.Adam,
        "lr": 0.01,
        "max_epochs": 3,
        "train_split": None,
        "verbose": 0,
        "iterator_train__shuffle": True,
    }
    return NeuralNetClassifier(module, **{**options, **kwargs})


def own_regressor(**kwargs):
    return NeuralNetRegressor(
        Mlp, module__n_outputs=1, max_epochs=3, train_split=None, verbose=0, **kwargs
    )


def zeros_of(pruner):
    """Count the exact zeros in the pruned layers, straight from torch."""
    layers = dict(pruner.net_.module_.named_modules())
    return {name: int((layers[name].weight == 0).sum()) for name in pruner.masks_}
