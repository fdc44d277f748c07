"""A small net, and penalties to train it under."""

import numpy as np
import torch
from skorch import NeuralNetClassifier
from torch import nn

from sklearn_sparse_nn.core.granularity import resolve_granularity
from sklearn_sparse_nn.nets.layers import prunable_layers
from sklearn_sparse_nn.training.penalizing import L0Penalty, L1Penalty
from sklearn_sparse_nn.training.run import TrainingRun

SEED, BATCH = 5, 20
N_BATCHES = 120 // BATCH


def make_net(optimizer=torch.optim.SGD, lr=0.1, **kwargs):
    torch.manual_seed(0)
    options = {"train_split": None, "verbose": 0, "batch_size": BATCH}
    return NeuralNetClassifier(
        nn.Sequential(nn.Linear(8, 24), nn.ReLU(), nn.Linear(24, 3)).double(),
        criterion=nn.CrossEntropyLoss,
        optimizer=optimizer,
        lr=lr,
        **{**options, **kwargs},
    ).initialize()


def in_doubles(classes):
    X, y = classes
    return X.astype(np.float64), y


def penalty_of(kind, net, granularity="unstructured"):
    parts = net, prunable_layers(net.module_), resolve_granularity(granularity)
    return L1Penalty(*parts) if kind == "l1" else L0Penalty(*parts, seed=SEED)


def weights_of(net):
    layers = prunable_layers(net.module_).values()
    return [layer.weight.detach().clone() for layer in layers]


def train(net, data, n_epochs=1):
    run = TrainingRun(net, *data)
    for _ in range(n_epochs):
        run.epoch("prune")


def fraction_zero(net):
    weights = weights_of(net)
    zeros = sum(int((weight == 0).sum()) for weight in weights)
    return zeros / sum(weight.numel() for weight in weights)


def same(ones, others):
    return all(torch.equal(a, b) for a, b in zip(ones, others, strict=True))
