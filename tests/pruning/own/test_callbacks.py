"""Callbacks that a net's own fit takes, in every kind of fit."""

import pickle
import threading
from copy import deepcopy

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV
from skorch.callbacks import Callback, EarlyStopping
from skorch.dataset import ValidSplit

from sklearn_sparse_nn import (
    PrunedClassifier,
    PrunedClassifierCV,
    TabularNetClassifier,
    pruning_path,
)
from sklearn_sparse_nn.inspection import controls, layer_sensitivity
from tests.pruning.nets import own_net, small

QUICK = {
    "sparsity": 0.6,
    "allocation": "uniform",
    "n_steps": 2,
    "dense_epochs": 1,
    "prune_epochs": 2,
    "finetune_epochs": 1,
    "random_state": 0,
}


class Asks(Callback):
    """Asks for parameters whenever it is called, as skorch's ProgressBar does."""

    def ask(self, net, *args, **kwargs):
        params = net.get_params()
        assert "module" in params
        clone(net)

    on_train_begin = on_epoch_begin = on_batch_begin = on_grad_computed = ask
    on_batch_end = on_epoch_end = on_train_end = ask


class Notes(Callback):
    """Makes an attribute that is no parameter."""

    def __init__(self):
        self.losses = []

    def on_epoch_end(self, net, **kwargs):
        self.losses.append(net.history[-1, "train_loss"])


class Rewrites(Callback):
    """Changes its parameter, which a clone refuses."""

    def __init__(self, names=("a", "b")):
        self.names = list(names)


class Needs(Callback):
    """Does not take its parameter back under its name."""

    def __init__(self, n_lines):
        self.lines = [0] * n_lines


class Holds(Callback):
    """Holds what cannot be copied."""

    def __init__(self, lock=None, rows=()):
        self.lock = lock
        self.rows = list(rows)
        self.inside = {"lock": lock, "rows": list(rows)}

    def on_epoch_end(self, net, **kwargs):
        with self.lock:
            self.rows.append(len(net.history))
            self.inside["rows"].append(len(net.history))


class Writes(Callback):
    def __init__(self, file):
        self.file = file

    def on_epoch_end(self, net, **kwargs):
        self.file.write(f"{len(net.history)}\n")


class Draws(Callback):
    def __init__(self, numbers):
        self.numbers = numbers

    def on_epoch_end(self, net, **kwargs):
        next(self.numbers)


MAKE = {
    "asks": Asks,
    "notes": Notes,
    "rewrites": Rewrites,
    "needs": lambda: Needs(2),
    "holds": lambda: Holds(threading.Lock()),
    "generator": lambda: Draws(i for i in range(10**6)),
}
PICKLES = ("asks", "notes", "rewrites", "needs")


def state(callback):
    """Copy the values of a callback, as far as they can be."""
    values = vars(callback).items()
    return {k: repr(v) if k != "numbers" else id(v) for k, v in values}


@pytest.mark.parametrize("name", MAKE)
@pytest.mark.parametrize("make", [own_net, small], ids=["skorch", "TabularNet"])
def test_a_fit_takes_what_the_nets_own_fit_takes_and_changes_nothing(
    classes, make, name
):
    callback = MAKE[name]()
    net = make(callbacks=[("mine", callback)])
    before = state(callback)
    pruner = PrunedClassifier(net, **QUICK)
    plain = PrunedClassifier(make(), **QUICK).fit(*classes)
    fitted = pruner.fit(*classes)
    assert np.array_equal(
        fitted.predict_proba(classes[0]), plain.predict_proba(classes[0])
    )
    assert state(callback) == before
    assert net.callbacks == [("mine", callback)]
    assert fitted.fit(*classes).sparsity_ == plain.sparsity_
    copy = clone(pruner)
    assert not hasattr(copy, "net_")
    assert copy.fit(*classes).sparsity_ == plain.sparsity_
    assert clone(copy).get_params(deep=False).keys() == pruner.get_params(False).keys()
    assert state(callback) == before


@pytest.mark.parametrize("name", MAKE)
def test_other_kinds_of_fits_take_it_too(classes, name):
    X, y = classes
    callback = MAKE[name]()
    before = state(callback)
    stops = EarlyStopping(patience=1, load_best=True, sink=lambda text: None)
    net = own_net(callbacks=[callback, stops], train_split=ValidSplit(3))
    pruner = PrunedClassifier(net, **QUICK)
    assert pruner.fit(X, y).sparsity_ == pytest.approx(0.6, abs=0.01)
    assert GridSearchCV(pruner, {"sparsity": [0.5, 0.6]}, cv=2).fit(X, y)
    trained = own_net().fit(X, y).set_params(callbacks=[callback])
    frozen = PrunedClassifier(FrozenEstimator(trained), **QUICK)
    frozen.set_params(dense_epochs=None).fit(X, y)
    assert frozen.sparsity_ > 0.5
    assert TabularNetClassifier((4,), max_epochs=1, callbacks=[callback]).fit(X, y)
    if name in PICKLES:
        assert len(pruning_path(pruner, X, y, sparsities=[0.5, 0.6]).models) == 2
        for estimator in (pruner, net):
            search = PrunedClassifierCV(estimator, sparsities=[0.5, 0.6], cv=2)
            assert clone(search).get_params(deep=False).keys()
        assert clone(search.set_params(estimator=pruner)).fit(X, y)
        chunks = PrunedClassifier(own_net(callbacks=[callback]), sparsity=0.5)
        chunks.partial_fit(X, y, classes=np.unique(y)).prune().partial_fit(X, y)
    assert state(callback) == before


@pytest.mark.parametrize("penalty", ["l1", "l0"])
def test_parameters_are_there_in_the_middle_of_a_penalty(classes, penalty):
    net = own_net(callbacks=[Asks])
    assert PrunedClassifier(net, penalty=penalty, **QUICK).fit(*classes)


def test_what_cannot_be_copied_is_shared_and_the_rest_is_not(classes):
    callback = Holds(threading.Lock(), [0])
    pruner = PrunedClassifier(own_net(callbacks=[callback]), **QUICK).fit(*classes)
    used = dict(pruner.net_.callbacks_)["Holds"]
    assert used.rows == used.inside["rows"] == [0, 1, 2, 3, 4]
    assert callback.rows == callback.inside["rows"] == [0]
    assert used.lock is used.inside["lock"] is callback.lock


def test_an_open_file_is_written_to(classes, tmp_path):
    with open(tmp_path / "log", "w") as file:
        net = own_net(callbacks=[Writes(file)])
        PrunedClassifier(net, **QUICK).fit(*classes)
    assert (tmp_path / "log").read_text().split() == ["1", "2", "3", "4"]


@pytest.mark.parametrize("name", ["holds", "generator"])
@pytest.mark.parametrize("make", [own_net, small], ids=["skorch", "TabularNet"])
def test_a_store_and_a_path_train_again_and_say_so(classes, tmp_path, make, name):
    X, y = classes
    pruner = PrunedClassifier(make(callbacks=[MAKE[name]()]), **QUICK)
    plain = PrunedClassifier(make(), **QUICK).fit(X, y).masks_
    with pytest.warns(UserWarning, match="could not be shared through memory="):
        stored = clone(pruner).set_params(memory=str(tmp_path / name)).fit(X, y)
    assert all(np.array_equal(stored.masks_[layer], plain[layer]) for layer in plain)
    with pytest.warns(UserWarning, match="cannot be copied"):
        path = pruning_path(pruner, X, y, sparsities=[0.5, 0.6], start="dense")
    assert len(path.models) == 2


@pytest.mark.parametrize("name", ["holds", "generator"])
@pytest.mark.parametrize("make", [own_net, small], ids=["skorch", "TabularNet"])
def test_a_pruner_that_cannot_be_pickled_names_the_callback(classes, make, name):
    callback = MAKE[name]()
    pruner = PrunedClassifier(make(callbacks=[callback]), **QUICK)
    kind = type(callback).__name__
    if name == "draws":  # an iterator over a lambda
        kind = None
    for estimator in (pruner, clone(pruner).fit(*classes)):
        for copy in (pickle.dumps, deepcopy):
            if kind is not None:
                with pytest.raises(
                    TypeError, match=f"callback {kind} has an attribute"
                ):
                    copy(estimator)


@pytest.mark.parametrize("name", PICKLES)
def test_a_pruner_with_such_callbacks_is_pickled(classes, name):
    pruner = PrunedClassifier(own_net(callbacks=[MAKE[name]()]), **QUICK).fit(*classes)
    for copy in (pickle.loads(pickle.dumps(pruner)), deepcopy(pruner)):
        assert np.array_equal(copy.predict(classes[0]), pruner.predict(classes[0]))


def test_inspections_take_such_callbacks(classes):
    pruner = PrunedClassifier(own_net(callbacks=[Notes()]), **QUICK)
    holds = PrunedClassifier(own_net(callbacks=[MAKE["holds"]()]), **QUICK)
    assert len(layer_sensitivity(holds.fit(*classes), *classes)) > 1
    assert controls(pruner, *classes, n_repeats=1) is not None
