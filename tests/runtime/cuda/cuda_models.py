"""Nets and weights that are tried in torch, on the CPU and on a GPU."""

import numpy as np
import pytest
import torch
from scipy import sparse

from sklearn_sparse_nn.runtime import SparseModel
from sklearn_sparse_nn.runtime.cuda.model import CudaModel
from sklearn_sparse_nn.runtime.graph import (
    Activation,
    Add,
    Graph,
    InputStage,
    LayerNorm,
    Linear,
)
from tests.runtime.file.file_models import weight

HAS_GPU = torch.cuda.is_available()
needs_gpu = pytest.mark.skipif(not HAS_GPU, reason="needs a CUDA GPU")
CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
on_devices = pytest.mark.parametrize(
    "device", [CPU, pytest.param(GPU, marks=needs_gpu)]
)
UNIT = 2.0**-24  # half a unit in the last place of float32
PER_NAME = {"tf32": 2.0**-9, "bf16": 2.0**-7}


def net(*, n_in=64, hidden=128, density=0.1, seed=0, **stage):
    """Make a classifier with a residual, a norm and a residual's width."""
    rng = np.random.default_rng(seed)
    ops = (
        Linear(0, weight(rng, hidden, n_in, density), rng.normal(size=hidden)),
        Linear(
            1,
            weight(rng, hidden, hidden, density),
            rng.normal(size=hidden),
            Activation("relu"),
            "second",
        ),
        Add((1, 2), Activation("gelu")),
        LayerNorm(3, np.ones(hidden), np.zeros(hidden)),
        Linear(4, weight(rng, 3, hidden, density), rng.normal(size=3)),
    )
    return Graph(InputStage(n_in, **stage), ops)


def classifier(**kwargs):
    return SparseModel(net(**kwargs), output="softmax", classes=["a", "b", "c"])


def there_of(model, device, *args, **kwargs):
    """Put a model on any device, the CPU too."""
    names = getattr(model, "feature_names_in_", None)
    kwargs |= {"host": model, "feature_names": names}
    return CudaModel(model.graph, model.head, device, *args, **kwargs)


def rows(n, n_in=64, seed=1):
    return np.random.default_rng(seed).normal(size=(n, n_in)).astype(np.float32)


def blocky(n_out, n_in, block, share, seed=0):
    rng = np.random.default_rng(seed)
    living = rng.random((n_out // block, n_in // block)) < share
    living[0, 0] = True
    mask = np.kron(living, np.ones((block, block), dtype=bool))
    return sparse.csr_array((rng.normal(size=mask.shape) * mask).astype(np.float32))


def layer(w, seed=0):
    return Linear(0, w, np.random.default_rng(seed).normal(size=w.shape[0]))


def two_of_four(n_out=64, n_in=128):
    dense = np.random.default_rng(3).normal(size=(n_out, n_in)).astype(np.float32)
    dense.reshape(n_out, -1, 4)[:, :, 1::2] = 0
    return sparse.csr_array(dense)


LAYERS = {
    "unstructured": weight(np.random.default_rng(0), 64, 128, 0.05),
    "blocks of 16": blocky(64, 128, 16, 0.2),
    "blocks of 64": blocky(128, 192, 64, 0.2),
    "2:4": two_of_four(),
    "odd": weight(np.random.default_rng(1), 37, 91, 0.2),
    "dense": weight(np.random.default_rng(1), 32, 64, 1),
    "empty": weight(np.random.default_rng(1), 32, 64, 0),
}
