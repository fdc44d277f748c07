"""Calls that fail between chunks, and what they leave: invariant 14."""

import os
import pickle
import signal
import threading

import numpy as np
import pytest
import torch
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.neural_network import MLPClassifier
from skorch.callbacks import Callback, EarlyStopping

from sklearn_sparse_nn.exceptions import DivergedTrainingError
from tests.pruning.chunks.pruners import (
    LABELS,
    SIZE,
    bits,
    plainly,
    pruner_of,
    trained,
    weights,
)
from tests.pruning.nets import Tied, own_net, small

# -- what fails, and what it leaves: invariant 14


class RaisesOnce(Callback):
    error: type[BaseException] | None = None

    def on_epoch_end(self, net, **kwargs):
        if RaisesOnce.error is not None:
            raise RaisesOnce.error("as asked")


@pytest.mark.parametrize("error", [RuntimeError, MemoryError, SystemExit])
def test_a_failed_call_leaves_everything_as_it_was(classes, error, monkeypatch):
    pruner = trained(pruner_of(own_net(callbacks=[RaisesOnce])), classes).prune(0.5)
    untouched = pickle.loads(pickle.dumps(pruner))
    before = dict(pruner.__dict__)
    with monkeypatch.context() as patch:
        patch.setattr(RaisesOnce, "error", error)
        with pytest.raises(error, match="as asked"):
            pruner.partial_fit(*classes)
    assert pruner.__dict__.keys() == before.keys()
    assert all(pruner.__dict__[key] is before[key] for key in before)
    assert bits(trained(pruner, classes)) == bits(trained(untouched, classes))


def test_a_failed_first_call_leaves_it_unfitted(classes, monkeypatch):
    monkeypatch.setattr(RaisesOnce, "error", RuntimeError)
    pruner = pruner_of(own_net(callbacks=[RaisesOnce]))
    with pytest.raises(RuntimeError, match="as asked"):
        pruner.partial_fit(*classes, classes=LABELS)
    assert not hasattr(pruner, "n_features_in_")
    with pytest.raises(NotFittedError):
        pruner.predict(classes[0])


def test_a_failed_prune_leaves_everything_as_it_was(classes):
    def broken(weight):
        return weight * np.nan

    pruner = trained(pruner_of(), classes)
    before, weights_before = dict(pruner.__dict__), weights(pruner)
    pruner.set_params(importance=broken)
    with pytest.raises(ValueError, match="scores of layer 'hidden_0' contain NaN"):
        pruner.prune(0.5)
    pruner.set_params(importance="magnitude")
    assert all(pruner.__dict__[key] is before[key] for key in before)
    assert weights(pruner) == weights_before


def test_ctrl_c_reaches_the_caller_and_leaves_it_usable(classes):
    X, y = classes
    pruner = trained(pruner_of(own_net(Tied, batch_size=1)), classes).prune(0.5)
    before, proba = bits(pruner), pruner.predict_proba(X)
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        pruner.partial_fit(np.tile(X, (500, 1)), np.tile(y, 500))
    timer.join()
    assert bits(pruner) == before
    assert np.array_equal(pruner.predict_proba(X), proba)
    trained(pruner, classes)


def test_a_callbacks_wish_to_stop_is_not_heard(classes):
    class Stops(Callback):
        def on_epoch_end(self, net, **kwargs):
            raise KeyboardInterrupt

    pruner = trained(pruner_of(own_net(callbacks=[Stops])), classes)
    assert len(pruner.history_) == 3


@pytest.mark.parametrize("lr", [1e38, 1e12])
def test_a_diverged_loss_says_so_and_changes_nothing(classes, lr):
    net = own_net(optimizer=torch.optim.SGD, batch_size=8, lr=lr)
    with pytest.raises(DivergedTrainingError, match=r"loss became|is NaN or infinite"):
        trained(pruner_of(net), classes, n=5)
    X, y = classes
    pruner = trained(pruner_of(), classes).prune(0.5)
    before = bits(pruner)
    with pytest.raises(DivergedTrainingError, match=r"in epoch 4, in the finetune"):
        pruner.partial_fit(np.full_like(X, 3e38), y)
    assert bits(pruner) == before


def test_a_last_step_to_nan_is_found(classes):
    """Its loss is fine; only the weights after it are not."""
    X, y = classes
    net = own_net(optimizer=torch.optim.SGD, batch_size=len(X), lr=float("inf"))
    with pytest.raises(DivergedTrainingError, match=r"Parameter 'first.weight' is NaN"):
        pruner_of(net).partial_fit(X, y, classes=LABELS)


# -- errors


def answer(estimator, calls):
    """Give what is said to the last of some calls."""
    for X, y, classes in calls[:-1]:
        estimator.partial_fit(X, y, classes=classes)
    X, y, classes = calls[-1]
    with pytest.raises(ValueError, match=r".") as caught:
        estimator.partial_fit(X, y, classes=classes)
    return str(caught.value)


def calls_of(classes):
    X, y = classes
    good = (X, y, LABELS)
    nan = X.copy()
    nan[1, 2] = np.nan
    return {
        "no classes": [(X, y, None)],
        "other classes": [good, (X, y, [0, 1, 2, 3])],
        "unknown label": [good, (X, np.where(y == 2, 7, y), None)],
        "unknown label, first": [(X, np.where(y == 2, 7, y), LABELS)],
        "fewer columns": [good, (X[:, 1:], y, None)],
        "lengths differ": [good, (X, y[1:], None)],
        "no rows": [good, (X[:0], y[:0], None)],
        "1-D": [good, (X[0], y, None)],
        "NaN": [good, (nan, y, None)],
    }


@pytest.mark.parametrize(
    "name", calls_of((np.zeros((9, 8), np.float32), np.arange(9) % 3))
)
def test_what_is_refused_is_refused_in_scikit_learns_words(classes, name):
    calls = calls_of(classes)[name]
    expected = answer(MLPClassifier((4,)), calls)
    assert answer(pruner_of(), calls) == expected.replace(
        "MLPClassifier", "PrunedClassifier"
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("penalty", "l1"),
        ("regrow", "random"),
        ("rewind", "weights"),
        ("distill", 0.5),
    ],
)
def test_what_needs_a_whole_fit_is_refused_by_name(classes, name, value):
    pruner = pruner_of(**{name: value})
    assert not hasattr(pruner, "partial_fit")  # as scikit-learn has it
    with pytest.raises(AttributeError, match="has no attribute 'partial_fit'") as error:
        pruner.partial_fit(*classes, classes=LABELS)
    assert f"do not support {name}={value!r}" in str(error.value.__cause__)
    pruner = trained(pruner_of(), classes).set_params(**{name: value})
    with pytest.raises(AttributeError, match="has no attribute 'prune'"):
        pruner.prune(0.5)
    pruner.set_params(**{name: pruner_of().get_params()[name]}).prune(0.5)


@pytest.mark.parametrize(
    "net",
    [small(early_stopping=True), own_net(callbacks=[EarlyStopping()])],
    ids=plainly,
)
def test_early_stopping_is_refused(classes, net):
    with pytest.raises(ValueError, match=r"does not support early_stopping=True"):
        pruner_of(net).partial_fit(*classes, classes=LABELS)


def test_values_are_no_labels_in_the_words_of_fit(classes):
    X, y = classes
    with pytest.raises(ValueError, match="Unknown label type: continuous") as of_fit:
        pruner_of().fit(X, y + 0.5)
    with pytest.raises(ValueError, match="Unknown label type: continuous") as error:
        trained(pruner_of(), classes).partial_fit(X, y + 0.5)
    assert str(error.value) == str(of_fit.value)


def test_sample_weight_is_refused_by_name(classes):
    weight = np.ones(120)
    with pytest.raises(TypeError, match=r"partial_fit does not support sample_weight"):
        pruner_of().partial_fit(*classes, classes=LABELS, sample_weight=weight)
    pruner_of().partial_fit(*classes, classes=LABELS, sample_weight=None)


@pytest.mark.parametrize("sparsity", [1.0, -0.1, float("nan"), True, "half", -3])
def test_a_sparsity_that_is_none_is_refused_in_scikit_learns_words(classes, sparsity):
    pruner = trained(pruner_of(), classes)
    with pytest.raises(ValueError, match="The 'sparsity' parameter of PrunedClass"):
        pruner.prune(sparsity)


def test_more_than_the_net_has_is_refused(classes):
    pruner = trained(pruner_of(), classes)
    with pytest.raises(ValueError, match=f"have only {SIZE}"):
        pruner.prune(SIZE + 1)


def test_parts_that_do_not_go_together_are_refused_before_training(classes):
    pruner = pruner_of(importance="fpgm")
    with pytest.raises(ValueError, match="do not go together"):
        pruner.partial_fit(*classes, classes=LABELS)


def test_a_frozen_net_knows_its_classes(classes):
    X, y = classes
    net = small(random_state=0).fit(X, y)
    pruner = pruner_of(FrozenEstimator(net)).partial_fit(X, y)
    assert list(pruner.classes_) == LABELS
    with pytest.raises(ValueError, match="not the same as in the frozen net"):
        pruner_of(FrozenEstimator(net)).partial_fit(X, y, classes=[0, 1, 2, 3])


def test_what_cannot_be_kept_says_so(classes, tmp_path):
    class HoldsAFile(Callback):
        def initialize(self):
            self.file_ = (tmp_path / "log").open("w")
            FILES.append(self.file_)
            return self

    pruner = pruner_of(own_net(callbacks=[HoldsAFile]))
    with pytest.raises(TypeError, match=r"cannot be pickled: .* Take it out"):
        pruner.partial_fit(*classes, classes=LABELS)
    assert not hasattr(pruner, "net_")
    for file in FILES:
        file.close()


FILES: list = []
