"""The dense phase in a store: the same fit, trained once, whatever the store does."""

import functools
import sys

import joblib
import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.base import clone
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from skorch.callbacks import Callback, Checkpoint, EarlyStopping, LRScheduler

from sklearn_sparse_nn import (
    PrunedClassifier,
    PrunedRegressor,
    TabularNetRegressor,
)
from sklearn_sparse_nn.parts import Rewind
from tests.elsewhere import run_elsewhere
from tests.memory.dense_phases import QUICK, bits, outputs
from tests.pruning.nets import Mlp, Tied, own_net, own_regressor, small


def draws_globally(weight):
    """An importance as somebody might write it."""
    return weight.abs() + 1e-3 * torch.rand_like(weight)


NETS = {
    "plain": lambda: small(),
    "dropout and norm": lambda: small(dropout=0.3, norm="batch"),
    "sgd": lambda: small(optimizer="sgd"),
    "early stopping": lambda: small(early_stopping=True, patience=1, max_epochs=8),
    "schedule": lambda: small(
        callbacks=[("rate", LRScheduler("StepLR", step_size=2, gamma=0.5))]
    ),
    "own": lambda: own_net(),
    "own, cycles, stops": lambda: own_net(
        optimizer=torch.optim.SGD,
        optimizer__momentum=0.9,
        train_split=None,
        callbacks=[
            (
                "rate",
                LRScheduler("CyclicLR", base_lr=1e-3, max_lr=0.1, step_every="batch"),
            ),
            ("stop", EarlyStopping(monitor="train_loss", patience=1, sink=str)),
        ],
    ),
    "tied": lambda: own_net(Tied),
}


PARTS = {
    "magnitude": {},
    "movement": {"importance": "movement"},
    "rewind": {"rewind": "weights"},
    "rewind to an epoch": {"rewind": Rewind("weights", epoch=1)},
    "rewind the rate": {"rewind": "learning_rate"},
    "distill": {"distill": 0.5},
    "foreign importance": {"importance": draws_globally},
    "random": {"importance": "random"},
    "regrow": {"regrow": "gradient"},
    "l0": {"penalty": "l0"},
    "gradient": {"importance": "gradient", "subsample": 50},
    "dense": {"sparsity": 0.0},
}


@pytest.mark.parametrize("parts", PARTS.values(), ids=PARTS)
@pytest.mark.parametrize("make", NETS.values(), ids=NETS)
def test_with_memory_equals_without(classes, tmp_path, trained, make, parts):
    pruner = PrunedClassifier(make(), **QUICK | parts)
    expected = bits(pruner.fit(*classes))
    pruner.set_params(memory=str(tmp_path))
    assert bits(pruner.fit(*classes)) == expected  # trained, and stored
    assert len(trained) == 2
    assert bits(pruner.fit(*classes)) == expected  # recalled
    assert len(trained) == 2


@pytest.mark.parametrize(
    "make", [lambda: TabularNetRegressor((16,), max_epochs=3), own_regressor]
)
def test_with_memory_a_regressor_equals_one_without(values, tmp_path, trained, make):
    X, y = values
    pruner = PrunedRegressor(make(), **QUICK)
    expected = bits(pruner.fit(X, y))
    pruner.set_params(memory=joblib.Memory(tmp_path, verbose=0))
    for _ in range(2):
        assert bits(pruner.fit(X, y)) == expected
        assert np.array_equal(pruner.predict(X), pruner.predict(X.copy()))
    assert len(trained) == 2


def fit_with_memory(folder, X, y):
    PrunedClassifier(own_net(module=Mlp), memory=folder, **QUICK).fit(X, y)


def test_with_memory_in_another_process_equals_without(classes, tmp_path, trained):
    run_elsewhere(fit_with_memory, str(tmp_path), *classes)
    pruner = PrunedClassifier(own_net(module=Mlp), **QUICK)
    expected = bits(pruner.fit(*classes))
    assert bits(pruner.set_params(memory=str(tmp_path)).fit(*classes)) == expected
    assert len(trained) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"sparsity": 0.5},
        {"sparsity": 0.0},
        {"sparsity": {"hidden_*": 0.5}},
        {"importance": "gradient"},
        {"granularity": "input"},
        {"allocation": "uniform"},
        {"schedule": "linear"},
        {"n_steps": 1},
        {"prune_epochs": 1},
        {"finetune_epochs": 0},
        {"distill": 0.3},
        {"penalty": "l1"},
        {"layers": "hidden_0"},
        {"subsample": 7},
        {"verbose": 1},
        {"dense_epochs": 3},  # the net's own number
    ],
    ids=str,
)
def test_what_comes_after_the_dense_phase_does_not_count(
    classes, tmp_path, trained, changes
):
    pruner = PrunedClassifier(small(), memory=str(tmp_path), **QUICK).fit(*classes)
    pruner.set_params(**changes).fit(*classes)
    assert len(trained) == 1


def test_the_pruners_seed_does_not_count_where_the_net_has_its_own(
    classes, tmp_path, trained
):
    net = small(random_state=3)
    pruner = PrunedClassifier(net, memory=str(tmp_path), **QUICK).fit(*classes)
    pruner.set_params(random_state=8).fit(*classes)
    assert len(trained) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"random_state": 1},
        {"dense_epochs": 2},
        {"estimator__lr": 0.02},
        {"estimator__hidden_layer_sizes": (16, 13)},
        {"estimator__callbacks": [("stop", EarlyStopping(monitor="train_loss"))]},
        {"rewind": Rewind("weights", epoch=1)},
        {"importance": "movement"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_what_the_dense_phase_depends_on_counts(classes, tmp_path, trained, changes):
    pruner = PrunedClassifier(small(), memory=str(tmp_path), **QUICK).fit(*classes)
    pruner.set_params(**changes).fit(*classes)
    assert len(trained) == 2


def test_every_value_of_the_data_counts(classes, tmp_path, trained):
    X, y = classes
    pruner = PrunedClassifier(small(), memory=str(tmp_path), **QUICK).fit(X, y)
    other = X.copy()
    other[-1, -1] = np.nextafter(other[-1, -1], np.float32(9))
    pruner.fit(other, y)
    labels = y.copy()
    labels[:2] = labels[:2][::-1] if labels[0] != labels[1] else (labels[:2] + 1) % 3
    pruner.fit(X, labels)
    pruner.fit(X[::-1], y[::-1])
    assert len(trained) == 4


def test_layouts_dtypes_and_names_of_labels_do_not_count(classes, tmp_path, trained):
    X, y = classes
    pruner = PrunedClassifier(small(), memory=str(tmp_path), **QUICK).fit(X, y)
    path = tmp_path / "rows.npy"
    np.save(path, X)
    letters = np.array(["a", "b", "c"])[y]
    for rows in (
        np.asfortranarray(X),
        X.astype(np.float64),
        np.load(path, mmap_mode="r"),
    ):
        pruner.fit(rows, letters)
    assert pruner.predict(X).dtype == letters.dtype
    assert len(trained) == 1
    pruner.fit(sparse.csr_array(X), y)
    pruner.fit(sparse.csc_array(X), y)
    assert len(trained) == 2


MODULE = """
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(8, 9), nn.Linear(9, 3)
    def forward(self, X):
        return self.two(torch.{activation}(self.one(X)))
"""


def test_the_source_of_a_users_module_counts(classes, tmp_path, trained, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    for n, activation in enumerate(["relu", "tanh", "relu"]):
        (tmp_path / "somebodys.py").write_text(MODULE.format(activation=activation))
        sys.modules.pop("somebodys", None)
        import importlib
        import linecache

        importlib.invalidate_caches()
        linecache.clearcache()
        sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
        try:
            module = importlib.import_module("somebodys")
        finally:
            sys.dont_write_bytecode = before
        pruner = PrunedClassifier(
            own_net(module.Net), memory=str(tmp_path / "store"), **QUICK
        )
        pruner.fit(*classes)
        assert len(trained) == min(n + 1, 2)
    sys.modules.pop("somebodys")


def test_without_any_seed_the_stored_net_is_as_good_as_another(
    classes, tmp_path, trained
):
    options = QUICK | {"random_state": None}
    pruner = PrunedClassifier(small(), memory=str(tmp_path), **options)
    for _ in range(3):
        pruner.fit(*classes)
    assert len(trained) == 1


def test_what_is_stored_has_no_rows(classes, tmp_path):
    X, y = np.tile(classes[0], (50, 1)), np.tile(classes[1], 50)
    X[:, 0] = 1234.5678  # a value to look for
    for make in (small, own_net):
        PrunedClassifier(make(), memory=str(tmp_path), **QUICK).fit(X, y)
    for path in outputs(tmp_path):
        assert path.read_bytes().count(np.float32(1234.5678).tobytes()) < 10


def test_a_checkpoint_of_the_users_is_left_alone(classes, tmp_path, trained):
    folder = tmp_path / "checkpoints"
    checkpoint = Checkpoint(
        monitor="train_loss_best", dirname=str(folder), load_best=True
    )
    net = own_net(callbacks=[("keep", checkpoint)])
    pruner = PrunedClassifier(net, **QUICK)
    expected = bits(pruner.fit(*classes))
    pruner.set_params(memory=str(tmp_path / "store"))
    assert bits(pruner.fit(*classes)) == expected


def test_the_best_epoch_is_stored_too(classes, tmp_path, trained):
    net = small(max_epochs=8, lr=0.3, early_stopping=True, patience=3, random_state=0)
    dense = net.fit(*classes).net_
    best = int(np.argmin(dense.history[:, "valid_loss"]))
    assert best < len(dense.history) - 1  # else the last epoch would do
    pruner = PrunedClassifier(net, **QUICK | {"sparsity": 0.2})
    expected = bits(pruner.fit(*classes))
    pruner.set_params(memory=str(tmp_path))
    assert bits(pruner.fit(*classes)) == expected
    assert bits(pruner.fit(*classes)) == expected
    assert len(trained) == 2


def in_no_file(activation):
    """Make a module class as an edited notebook cell does, or another process."""
    place = {"__name__": "__main__"}
    exec(MODULE.format(activation=activation), place)
    return place["Net"]


@pytest.mark.parametrize(
    "held",
    [
        lambda made: own_net(made),
        lambda made: own_net(functools.partial(made)),
        lambda made: own_net(torch.nn.Sequential(made())),
    ],
    ids=["class", "partial", "module"],
)
def test_a_class_that_is_in_no_file_counts_by_its_code(
    classes, tmp_path, trained, held
):
    for n, activation in enumerate(["relu", "tanh", "relu"]):
        torch.manual_seed(0)
        made = in_no_file(activation)
        pruner = PrunedClassifier(held(made), memory=str(tmp_path), **QUICK)
        pruner.fit(*classes)
        assert len(trained) == min(n + 1, 2)
        # A net out of the store is of the class that was asked for.
        assert any(type(part) is made for part in pruner.net_.module_.modules())


def test_tensors_among_the_parameters_have_one_key(classes, tmp_path, trained):
    for weights in ([1.0, 2.0, 1.0], [1.0, 2.0, 1.0], [1.0, 2.0, 3.0]):
        net = own_net(criterion__weight=torch.tensor(weights))
        PrunedClassifier(net, memory=str(tmp_path), **QUICK).fit(*classes)
    assert len(trained) == 2


def test_a_stored_net_leaves_the_global_generators_alone(classes, tmp_path, trained):
    net = small(random_state=None)
    pruner = PrunedClassifier(net, memory=str(tmp_path), **QUICK)
    pruner.set_params(importance=draws_globally).fit(*classes)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    for importance in ("magnitude", draws_globally, "magnitude"):
        pruner.set_params(importance=importance).fit(*classes)
        assert torch.equal(before, torch.get_rng_state())
    assert len(trained) == 2  # a run that owns the global generators is another one


class Shakes(Callback):
    """Draws from the global generator."""

    def on_epoch_end(self, net, **kwargs):
        with torch.no_grad():
            for weights in net.module_.parameters():
                weights.add_(0.01 * torch.randn_like(weights))


def test_a_callback_that_draws_equals_with_memory_and_leaves_no_trace(
    classes, tmp_path, trained
):
    pruner = PrunedClassifier(small(callbacks=[Shakes()]), **QUICK)
    before = torch.get_rng_state()
    expected = bits(pruner.fit(*classes))
    assert bits(pruner.fit(*classes)) == expected
    pruner.set_params(memory=str(tmp_path))
    assert bits(pruner.fit(*classes)) == expected
    assert bits(pruner.fit(*classes)) == expected
    assert torch.equal(before, torch.get_rng_state())
    assert len(trained) == 3


def test_a_net_or_chunks_with_a_callback_that_draws_have_one_result(classes):
    X, y = classes
    before = torch.get_rng_state()
    net = small(callbacks=[Shakes()], random_state=0)
    nets = [clone(net).fit(X, y).net_.module_.state_dict() for _ in range(2)]
    assert all(torch.equal(nets[0][name], nets[1][name]) for name in nets[0])
    pruner = PrunedClassifier(net, **QUICK)
    chunks = [
        bits(clone(pruner).partial_fit(X, y, classes=[0, 1, 2]).partial_fit(X, y))
        for _ in range(2)
    ]
    assert chunks[0] == chunks[1]
    assert torch.equal(before, torch.get_rng_state())
