import os
import signal
import threading

import numpy as np
import pytest
import torch
from skorch import NeuralNetClassifier
from skorch.callbacks import Callback, EarlyStopping
from torch import nn

from sklearn_sparse_nn import TabularNetClassifier
from sklearn_sparse_nn.exceptions import DivergedTrainingError
from sklearn_sparse_nn.training.run import TrainingRun


@pytest.fixture(autouse=True)
def _own_rng():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def make_net(**kwargs):
    return NeuralNetClassifier(
        nn.Linear,
        module__in_features=8,
        module__out_features=3,
        criterion=nn.CrossEntropyLoss,
        lr=0.1,
        verbose=0,
        **kwargs,
    )


def test_a_run_equals_skorchs_own_fit_bit_for_bit(classes):
    torch.manual_seed(7)
    theirs = make_net(max_epochs=4, iterator_train__shuffle=True).fit(*classes)
    torch.manual_seed(7)
    ours = make_net(iterator_train__shuffle=True).initialize()
    run = TrainingRun(ours, *classes)
    for _ in range(4):
        assert run.epoch("dense")
    run.end()
    assert torch.equal(ours.module_.weight, theirs.module_.weight)
    assert ours.history[:, "train_loss"] == theirs.history[:, "train_loss"]
    assert ours.history[:, "valid_acc"] == theirs.history[:, "valid_acc"]


class StopAt(Callback):
    """Asks for a stop in skorch's way, at any hook."""

    def __init__(self, hook="on_epoch_end", at=1):
        self.hook = hook
        self.at = at

    def on_epoch_end(self, net, **kwargs):
        if self.hook == "on_epoch_end" and len(net.history) == self.at:
            raise KeyboardInterrupt

    def on_batch_end(self, net, **kwargs):
        if self.hook == "on_batch_end":
            raise KeyboardInterrupt


@pytest.mark.parametrize("hook", ["on_epoch_end", "on_batch_end"])
def test_a_callbacks_stop_is_a_wish(classes, hook):
    net = make_net(callbacks=[StopAt(hook)]).initialize()
    assert TrainingRun(net, *classes).epoch("dense") is False


def test_skorchs_early_stopping_is_a_wish(classes):
    net = make_net(callbacks=[EarlyStopping(patience=1, threshold=10.0)]).initialize()
    run = TrainingRun(net, *classes)
    assert [run.epoch("dense") for _ in range(2)] == [True, False]


class CtrlC(Callback):
    """A person at the keyboard: a real signal, while a callback runs."""

    def on_epoch_end(self, net, **kwargs):
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(10**6):
            pass


def test_ctrl_c_is_raised_even_inside_a_callback(classes):
    net = make_net(callbacks=[CtrlC()]).initialize()
    run = TrainingRun(net, *classes)
    with pytest.raises(KeyboardInterrupt):
        run.epoch("dense")


def test_ctrl_c_through_a_handler_written_in_python_is_raised(classes):
    def handler(signum, frame):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, handler)
    try:
        net = make_net(callbacks=[CtrlC()]).initialize()
        with pytest.raises(KeyboardInterrupt):
            TrainingRun(net, *classes).epoch("dense")
    finally:
        signal.signal(signal.SIGINT, before)


def test_ctrl_c_at_any_time_leaves_an_earlier_fit_usable(classes):
    X, y = classes
    net = TabularNetClassifier((32, 32), max_epochs=2, random_state=0).fit(X, y)
    expected = net.predict_proba(X)
    net.set_params(max_epochs=10**6)
    timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        net.fit(np.tile(X[:, :4], (10, 1)), np.tile(y, 10))
    timer.join()
    assert np.array_equal(net.predict_proba(X), expected)
    assert net.n_features_in_ == 8


def test_a_diverged_loss_names_epoch_and_phase(classes):
    net = make_net().set_params(lr=1e38, optimizer__momentum=0.9).initialize()
    run = TrainingRun(net, *classes)
    with pytest.raises(DivergedTrainingError, match=r"epoch \d+, in the dense phase"):
        for _ in range(5):
            run.epoch("dense")


def test_weights_that_the_very_last_step_broke_are_an_error(classes):
    net = TabularNetClassifier((4,), optimizer="sgd", lr=1e38, batch_size=120)
    with pytest.raises(DivergedTrainingError, match="is NaN or infinite after"):
        net.set_params(max_epochs=1, weight_decay=100.0).fit(*classes)


def test_nets_that_drive_their_own_epochs_are_refused(classes):
    class Own(NeuralNetClassifier):
        def fit_loop(self, X, y=None, epochs=None, **kwargs):
            return self

    net = Own(nn.Linear, module__in_features=8, module__out_features=3).initialize()
    with pytest.raises(TypeError, match="overrides fit_loop"):
        TrainingRun(net, *classes)


def test_history_forgets_batches_but_keeps_epochs(classes):
    net = TabularNetClassifier((4,), max_epochs=3).fit(*classes).net_
    assert len(net.history) == 3
    assert np.isfinite(net.history[:, "train_loss"]).all()
    assert [len(row["batches"]) for row in net.history][:-1] == [0, 0]
