"""Pruners trained chunk by chunk, and what they hold."""

import re

from sklearn_sparse_nn import (
    PrunedClassifier,
)
from tests.pruning.nets import small

SIZE = 8 * 16 + 16 * 12 + 12 * 3
LABELS = [0, 1, 2]


def plainly(value):
    """Name a parameter alike in every worker."""
    return re.sub(" object at 0x[0-9a-f]+", "", str(value))


def pruner_of(net=None, **kwargs):
    """Chunks of a net; so small a net would lose a layer to one ranking of all."""
    net = small() if net is None else net
    return PrunedClassifier(
        net, **{"allocation": "uniform", "random_state": 0, **kwargs}
    )


def chunks_of(classes, size=40):
    X, y = classes
    return [
        (X[start : start + size], y[start : start + size])
        for start in range(0, len(X), size)
    ]


def trained(pruner, classes, n=1):
    for _ in range(n):
        for X, y in chunks_of(classes):
            pruner.partial_fit(X, y, classes=LABELS)
    return pruner


def weights(pruner):
    return {
        name: value.numpy().tobytes()
        for name, value in pruner.net_.module_.state_dict().items()
    }


def bits(pruner):
    masks = {name: mask.tobytes() for name, mask in pruner.masks_.items()}
    return weights(pruner), masks
