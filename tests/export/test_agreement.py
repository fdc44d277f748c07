"""A model is trusted only if it gives what its module gives, on rows."""

import copy
import random
import threading
import time
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sklearn_sparse_nn import PrunedClassifier, export_module
from sklearn_sparse_nn.exceptions import UnsupportedLayerError
from sklearn_sparse_nn.export import predicting_model
from sklearn_sparse_nn.export.reading import convert as converting
from tests.export.test_modules import FAR, ROWS, Calls, assert_exported
from tests.pruning.nets import own_net

QUICK = {"prune_epochs": 1, "finetune_epochs": 0, "n_steps": 1, "random_state": 0}
SEEN = []


class Inner(Calls):
    """A part that differs, in a net that does not."""


class KeptInTraining(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.drop = nn.Linear(6, 6), nn.Dropout(0.5)

    def train(self, mode=True):
        super().train(mode)
        self.drop.train(True)
        return self

    def forward(self, X):
        return self.drop(self.layer(X))


class OwnSwitch(nn.Module):
    """Its train does what torch's does not, and what the recording must see."""

    scale = 1.0

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 6)

    def train(self, mode=True):
        self.scale = 3.0 if mode else 2.0
        return super().train(mode)

    def forward(self, X):
        return self.layer(X) * self.scale


def count(m, X):
    m.calls = getattr(m, "calls", 0) + 1
    return m.a(X) if m.calls < 50 else m.b(X)


def remember(m, X):
    m.held = [*getattr(m, "held", []), 1.0]
    return m.a(X) * len(m.held)


def grow(m, X):
    m.c.data.add_(1)
    return X * m.c


DIFFERENT = {
    "type": lambda m, X: m.a(X) if type(X) is torch.Tensor else m.b(X),
    "class name": lambda m, X: m.a(X) if type(X).__name__ == "Tensor" else X,
    "module of the type": lambda m, X: m.a(X) if type(X).__module__ == "torch" else X,
    "a tensor's part": lambda m, X: m.a(X) if hasattr(X, "node") else m.b(X),
    "few rows": lambda m, X: m.a(X) if len(X) > 4 else m.b(X),
    "one row": lambda m, X: m.a(X) if len(X) > 1 else m.b(X),
    "mean by count": lambda m, X: m.a(X) / X.shape[0],
    "python's random": lambda m, X: m.a(X) * random.random(),
    "rare draw": lambda m, X: m.a(X) if random.random() > 1e-9 else X,
    "numpy's": lambda m, X: m.a(X) + float(np.random.standard_normal()),  # noqa: NPY002
    "own generator": lambda m, X: m.a(X) + np.random.default_rng().normal(),
    "dropout of weights": lambda m, X: F.linear(X, F.dropout(m.a.weight)),
    "alpha dropout": lambda m, X: X * F.alpha_dropout(m.c, 0.5, True),
    "clock": lambda m, X: m.a(X) * (time.perf_counter_ns() % 9973),
    "count of calls": count,
    "list of calls": remember,
    "global list": lambda m, X: SEEN.append(1) or m.a(X) * len(SEEN),
}


def random_states():
    state = np.random.get_state()  # noqa: NPY002
    return random.getstate(), state[1].tolist(), torch.get_rng_state().tolist()


@pytest.mark.parametrize("name", DIFFERENT)
def test_what_differs_is_refused_and_named(name):
    module = nn.Sequential(nn.Linear(6, 6), nn.Sequential(Inner(DIFFERENT[name])))
    before = random_states()
    with pytest.raises(UnsupportedLayerError, match=r"'1\.0(' \(Inner\)|\.calls')"):
        export_module(module)
    assert random_states() == before


def test_a_twin_without_the_comparison_exports_it(monkeypatch):
    monkeypatch.setattr(converting, "check_agreement", lambda *args: None)
    assert export_module(Calls(DIFFERENT["type"]), n_features=6) is not None


SAME = {
    "isinstance": lambda m, X: m.a(X) if isinstance(X, torch.Tensor) else X,
    "is_tensor": lambda m, X: m.a(X) if torch.is_tensor(X) else X,
    "hasattr": lambda m, X: X if hasattr(X, "iloc") else m.a(X),
    "log": lambda m, X: SEEN.append(len(X)) or m.a(X),
    "jump": lambda m, X: m.a((X - FAR) / 2),
    "cancelling": lambda m, X: m.a(X) * 1e6 - m.a(X) * (1e6 - 1),
}


@pytest.mark.parametrize("name", SAME)
def test_what_is_the_same_is_exported(name):
    export_module(Calls(SAME[name]), n_features=6)


def test_an_overridden_train_is_used():
    with pytest.raises(
        UnsupportedLayerError, match=r"'0\.drop' \(Dropout\) draws random"
    ):
        export_module(nn.Sequential(KeptInTraining()).train())
    module = OwnSwitch().train()
    assert_exported(module)
    assert module.training and module.scale == 3.0


def test_the_parameters_stay_as_they_are():
    module = Calls(grow)
    before = module.c.detach().clone()
    with pytest.raises(UnsupportedLayerError):
        export_module(module, n_features=6)
    assert torch.equal(module.c, before)


class Asks(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(8, 9), nn.Linear(9, 3)

    def forward(self, X):
        if type(X) is torch.Tensor:
            X = X - 2
        return self.two(torch.relu(self.one(X)))


def test_a_pruner_predicts_by_torch_and_says_so_once(classes):
    X, y = classes
    pruner = PrunedClassifier(own_net(Asks, max_epochs=1), **QUICK).fit(X, y)
    with pytest.warns(UserWarning, match=r"Torch predicts.*\(Asks\) is off"):
        proba = pruner.predict_proba(X)
    np.testing.assert_allclose(proba, pruner.net_.predict_proba(X))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(pruner.predict(X), pruner.net_.predict(X))
        pruner.net_.module_.one.weight.data.mul_(2)
        assert predicting_model(pruner) is None
    with pytest.raises(UnsupportedLayerError, match="type of its input"):
        pruner.export()


LIMIT, TABLE = 0.5, {"ways": [np.ones(3), (1.0, 2.0)]}


class Outside(nn.Module):
    factor, names = 1.0, ["relu"]

    def __init__(self):
        super().__init__()
        self.one = nn.Linear(8, 3)
        self.nested = {"a": ({"b": np.zeros(2)}, 1.0)}

    def forward(self, X):
        h = self.one(X) * self.factor + LIMIT * TABLE["ways"][1][0]
        h = h * float(TABLE["ways"][0].sum()) + float(self.nested["a"][0]["b"][1])
        return h.relu() if self.names == ["relu"] else h


def set_global(name, value):
    return lambda patch, m: patch.setitem(globals(), name, value)


OUTSIDE = {
    "class attribute": lambda patch, m: patch.setattr(Outside, "factor", 2.0),
    "class list": lambda patch, m: patch.setattr(Outside, "names", []),
    "global": set_global("LIMIT", 9.0),
    "in a global": lambda patch, m: patch.setitem(
        TABLE, "ways", [np.full(3, 9), (1.0, 2.0)]
    ),
    "array, deep": lambda patch, m: m.nested["a"][0]["b"].__setitem__(1, 7.0),
}


@pytest.fixture(scope="module")
def outside(classes):
    net = own_net(Outside, max_epochs=1)
    return PrunedClassifier(net, sparsity=0.5, **QUICK).fit(*classes)


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_change_outside_of_the_weights_is_noticed(outside, classes, name):
    X, pruner = classes[0], copy.deepcopy(outside)
    before = pruner.predict_proba(X)
    assert predicting_model(pruner) is predicting_model(pruner) is not None
    with pytest.MonkeyPatch.context() as patch:
        OUTSIDE[name](patch, pruner.net_.module_)
        wanted = pruner.net_.predict_proba(X)
        np.testing.assert_allclose(pruner.predict_proba(X), wanted, atol=2e-6)
    assert not np.allclose(before, wanted)


def test_given_rows_are_compared_too():
    # Only rows far out take another way, and the drawn ones never do.
    class Far(nn.Linear):
        def forward(self, X):
            if type(X) is torch.Tensor and X.abs().max() > 1e6:
                return X
            return super().forward(X)

    converting.convert(Far(6, 6), 6)
    with pytest.raises(UnsupportedLayerError, match="is off"):
        converting.convert(Far(6, 6), 6, ROWS * 1e8)


def test_draws_of_other_threads_are_not_the_modules():
    """As a dask worker's own threads make them, now and then."""
    ended = threading.Event()

    def draw():
        while not ended.wait(0.002):
            random.random()

    state, other = random.getstate(), threading.Thread(target=draw)
    other.start()
    try:
        for seed in range(20):
            torch.manual_seed(seed)
            export_module(nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)))
    finally:
        ended.set()
        other.join()
        random.setstate(state)
