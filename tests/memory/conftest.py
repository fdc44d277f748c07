"""Fixtures that count dense phases, and warn of every store anew."""

import pytest

from sklearn_sparse_nn.memory import store as memory_store
from sklearn_sparse_nn.pruning import dense_phase


@pytest.fixture(autouse=True)
def warn_anew():
    memory_store._warned.clear()


@pytest.fixture
def trained(monkeypatch):
    """Count the dense phases that are trained in this process."""
    count = []

    def counted(*args, **kwargs):
        count.append(args[1].plan.dense_epochs)
        return real(*args, **kwargs)

    real = dense_phase.train_dense
    monkeypatch.setattr(dense_phase, "train_dense", counted)
    return count
