"""Small nets whose statistics can be worked out in numpy, and their rows."""

import numpy as np
import torch
from skorch import NeuralNetClassifier
from torch import nn

from sklearn_sparse_nn.nets.layers import prunable_layers
from sklearn_sparse_nn.statistics.gathering import gather

N_ROWS, BATCH = 13, 5  # the last batch is smaller


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
