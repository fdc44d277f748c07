"""Copies, pickles and processes between chunks: invariants 18, 19 and 21."""

import pickle
import random
import tempfile
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from skorch.callbacks import LRScheduler

from tests.elsewhere import run_elsewhere
from tests.pruning.chunks.pruners import (
    LABELS,
    bits,
    chunks_of,
    plainly,
    pruner_of,
    trained,
)
from tests.pruning.nets import Tied, own_net, small

ROOT = Path(__file__).parents[3]


def test_a_pickle_goes_on_to_the_same_bits(classes):
    for net in (small(dropout=0.2), own_net(callbacks=[("lr", LRScheduler())])):
        pruner = trained(pruner_of(net), classes).prune(0.5)
        copy = pickle.loads(pickle.dumps(trained(pruner, classes)))
        assert bits(trained(copy, classes)) == bits(trained(pruner, classes))
        assert bits(copy.prune(0.8)) == bits(pruner.prune(0.8))
        copy = deepcopy(pruner)
        assert bits(trained(copy, classes)) == bits(trained(pruner, classes))


def test_a_pickle_holds_no_rows(classes):
    X, y = classes
    marked = X.copy()
    marked[:, 3] = np.float32(1.2345678)
    needle = marked[5].tobytes()
    assert needle in pickle.dumps(marked)
    for net in (small(), own_net(), own_net(train_split=skorch_split())):
        pruner = trained(pruner_of(net, importance="wanda"), (marked, y))
        pruner.prune(0.5, marked, y)
        assert needle not in pickle.dumps(pruner)
        assert np.float32(1.2345678).tobytes() * 2 not in pickle.dumps(pruner)
    one, many = pruner_of(), pruner_of()
    one.partial_fit(X, y, classes=LABELS)
    many.partial_fit(np.tile(X, (50, 1)), np.tile(y, 50), classes=LABELS)
    assert abs(len(pickle.dumps(one)) - len(pickle.dumps(many))) < X.nbytes


def skorch_split():
    from skorch.dataset import ValidSplit

    return ValidSplit(3)


def test_many_batches_leave_no_trace(classes):
    """skorch would remember the loss of every batch of every epoch."""
    X, y = classes
    pruner = pruner_of(own_net(Tied, batch_size=1))
    sizes = []
    for _ in range(3):
        pruner.partial_fit(X, y, classes=LABELS)
        sizes.append(len(pickle.dumps(pruner)))
    assert sizes[2] - sizes[0] < 2 * 2000  # two rows of the history, written twice


def test_clone_is_unfitted_and_parameters_are_never_written(classes):
    pruner = trained(pruner_of(), classes).prune(0.5)
    params = pruner_of().get_params()
    assert {k: repr(v) for k, v in pruner.get_params().items()} == (
        {k: repr(v) for k, v in params.items()}
    )
    assert not hasattr(clone(pruner), "net_")
    with pytest.raises(NotFittedError):
        clone(pruner).prune(0.5)
    with pytest.raises(ValueError, match="classes must be passed"):
        clone(pruner).partial_fit(*classes)


@pytest.mark.parametrize("net", [small(dropout=0.1), own_net()], ids=plainly)
def test_global_random_state_stays_as_it_was(classes, net):
    def state():
        numpy_state = np.random.get_state()  # noqa: NPY002
        return (
            random.getstate(),
            numpy_state[1].tobytes() + bytes([numpy_state[2] % 256]),
            torch.get_rng_state().numpy().tobytes(),
        )

    runs = []
    for seed in (1, 2):  # of the process, which shall not count
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        random.seed(seed)
        pruner = pruner_of(net, importance="wanda")
        for X, y in chunks_of(classes):
            before = state()
            pruner.partial_fit(X, y, classes=LABELS)
            pruner.prune(0.5, X, y)
            assert state() == before
            torch.rand(3)
        runs.append(bits(pruner))
    assert runs[0] == runs[1]


def test_another_seed_gives_another_net(classes):
    runs = [bits(trained(pruner_of(random_state=seed), classes)) for seed in (0, 1)]
    assert runs[0] != runs[1]


def files(data):
    """Train, prune and train on; return the bytes of the file, and of all else."""
    found = []
    for net in (small(), own_net()):
        pruner = trained(pruner_of(net), data).prune(0.5)
        trained(pruner, data)
        with tempfile.TemporaryDirectory() as folder:
            pruner.export().save(Path(folder, "m"))
            file = Path(folder, "m").read_bytes()
        found.append(file + repr(sorted(bits(pruner)[1])).encode())
    return found


def test_two_processes_give_the_same_files(classes):
    here = files(classes)
    assert run_elsewhere(files, classes) == here
    assert len(set(here)) == 2
