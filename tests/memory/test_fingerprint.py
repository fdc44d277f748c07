"""What tells one object from another: values, parameters and code, in any process."""

import functools
import threading
from pathlib import Path

import cloudpickle
import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.frozen import FrozenEstimator
from skorch.callbacks import EarlyStopping
from skorch.helper import predefined_split
from torch import nn

from sklearn_sparse_nn import PrunedClassifier
from sklearn_sparse_nn.memory.fingerprint import fingerprint
from tests.elsewhere import run_elsewhere
from tests.pruning.nets import own_net, small

ROOT = Path(__file__).parents[2]
MODULE = """
FACTOR = {factor}
def scaled(x):
    return {factor_name} * x
class Net(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.one = nn.Linear(8, width)
    @property
    def width(self):
        return {width}
    @staticmethod
    def change(x):
        return scaled(x)
    @functools.cached_property
    def slow(self):
        return {slow}
    def forward(self, X):
        return torch.{activation}(self.change(self.one(X)))
"""
PARTS = {
    "factor": 2, "factor_name": "FACTOR", "width": 4, "slow": 1, "activation": "relu",
}  # fmt: skip


def made(before="", **changes):
    """Make a class as a notebook does: in `__main__`, and in no file."""
    place = {"nn": nn, "torch": torch, "functools": functools, "__name__": "__main__"}
    exec(before + MODULE.format(**PARTS | changes), place)
    return place["Net"]


def same(one, other):
    return fingerprint(one)[0] == fingerprint(other)[0]


def test_code_counts_and_its_place_does_not():
    assert same(made(), made())
    assert same(made(), made(before="# a comment\n\n\n"))


@pytest.mark.parametrize(
    "changes",
    [
        {"activation": "tanh"},
        {"factor": 3},
        {"factor_name": "2 * 3"},
        {"width": 5},
        {"slow": 2},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_every_part_of_a_class_counts(changes):
    assert not same(made(), made(**changes))
    # ... in whatever it is held
    for held in (
        lambda net: functools.partial(net, width=3),
        lambda net: {"module": (net,)},
        lambda net: own_net(net),
    ):
        assert same(held(made()), held(made()))
        assert not same(held(made()), held(made(**changes)))


def test_a_modules_weights_and_classes_count():
    def stack(seed, **changes):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(3, 3), made(**changes)())

    with torch.random.fork_rng():
        assert same(stack(0), stack(0))
        assert not same(stack(0), stack(1))
        assert not same(stack(0), stack(0, activation="tanh"))


def test_functions_count_with_what_they_enclose_and_their_defaults():
    def add(n, step=1):
        def added(x, by=step):
            return x + n + by

        return added

    assert same(add(1), add(1))
    assert not same(add(1), add(2))
    assert not same(add(1), add(1, step=2))
    assert not same(functools.partial(max, 1), functools.partial(max, 2))
    assert not same(functools.partial(max, 1), functools.partial(min, 1))
    assert same(functools.lru_cache(add(1)), functools.lru_cache(add(1)))
    assert not same(functools.lru_cache(add(1)), functools.lru_cache(add(2)))


class Decorated:
    """A decorator as an object, with a state of its own."""

    def __init__(self, function, factor):
        functools.update_wrapper(self, function)
        self.factor = factor


def test_a_decorator_counts_with_its_state():
    assert same(Decorated(again, 2), Decorated(again, 2))
    assert not same(Decorated(again, 2), Decorated(again, 3))


def again(n):
    return again(n - 1) if n else 0


def test_what_holds_itself_has_an_end():
    loop = [1]
    loop.append(loop)
    other = [2]
    other.append(other)
    assert same(loop, loop)
    assert not same(loop, other)
    assert fingerprint(again)[1] == (again,)


A = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (A, A + 0.0),
        (A, np.asfortranarray(A)),
        (torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.0])),
        (torch.tensor(1.5, dtype=torch.bfloat16), torch.tensor(1.5).bfloat16()),
        (sparse.csr_array(A), sparse.csc_array(A).tocsr()),
        ({"a", "b", "c"}, {"c", "b", "a"}),
        (np.float64(0.1), np.float64(0.1)),
        (torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)),
        (np.random.RandomState(1), np.random.RandomState(1)),
        (small(), small()),
        (own_net(), own_net()),
        (EarlyStopping(patience=3), EarlyStopping(patience=3)),
        (torch.optim.Adam, torch.optim.Adam),
        (np.array(["a", None], dtype=object), np.array(["a", None], dtype=object)),
        (np.zeros((0, 3)), np.zeros((0, 3))),
    ],
    ids=range(15),
)
def test_equal_values_are_equal(one, other):
    assert same(one, other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (A, A.T),
        (A, A.ravel()),
        (A, A.astype(np.float64)),
        (A, np.nextafter(A, 9)),
        (A, sparse.csr_array(A)),
        (A.tolist(), A),
        (torch.tensor([1.0]), torch.tensor([1.0], dtype=torch.float64)),
        (torch.tensor([1.0]), torch.tensor([2.0])),
        (torch.tensor([1.0]), nn.Parameter(torch.tensor([1.0]))),
        (1, 1.0),
        (1, True),
        ("1", 1),
        ("ab", b"ab"),
        (["ab", "c"], ["a", "bc"]),
        ([[1], 2], [[1, 2]]),
        ((1, 2), [1, 2]),
        (0.0, -0.0),
        (torch.Generator().manual_seed(1), torch.Generator().manual_seed(2)),
        (small(), small(lr=0.02)),
        (own_net(), own_net(lr=0.5)),
        (own_net(), own_net(criterion__weight=torch.ones(3))),
        (EarlyStopping(patience=3), EarlyStopping(patience=4)),
        (torch.optim.Adam, torch.optim.SGD),
        (predefined_split([1]), predefined_split([2])),
        (np.array(["a"], dtype=object), np.array(["b"], dtype=object)),
        (np.zeros((0, 3)), np.zeros((0, 2))),
    ],
    ids=range(26),
)
def test_other_values_are_others(one, other):
    assert not same(one, other)


def test_a_frozen_estimator_counts_with_all_that_was_fitted(classes):
    X, y = classes
    for make in (small, own_net):
        one = make(max_epochs=1).fit(X.astype(np.float32), y)
        other = make(max_epochs=1).fit(X[::-1].astype(np.float32), y)
        assert same(one, other)  # as parameters
        assert same(FrozenEstimator(one), FrozenEstimator(one))
        assert not same(FrozenEstimator(one), FrozenEstimator(other))
    pruned = [
        PrunedClassifier(
            small(), prune_epochs=1, finetune_epochs=0, n_steps=1, random_state=seed
        ).fit(X, y)
        for seed in (0, 1)
    ]
    assert not same(*map(FrozenEstimator, pruned))


def test_what_has_no_state_is_refused_as_a_pickle_would():
    with pytest.raises(TypeError, match="lock"):
        fingerprint([threading.Lock()])


def fingerprint_of(pickled):
    return fingerprint(cloudpickle.loads(pickled))[0]


def test_it_is_the_same_in_another_process():
    net = made()
    del net.slow  # no pickle has room for its lock
    values = [
        net,
        own_net(net),
        functools.partial(net, width=2),
        small(),
        A,
        torch.ones(2),
        {"x", "y", "z"},
        again,
    ]
    found = run_elsewhere(fingerprint_of, cloudpickle.dumps(values))
    assert found == fingerprint(values)[0]


def test_parts_are_named_in_one_order():
    one, other = made(), made()
    parts = fingerprint(own_net(one))[1]
    assert [part.__qualname__ for part in parts] == [
        part.__qualname__ for part in fingerprint(own_net(other))[1]
    ]
    assert one in parts
    assert other not in parts
