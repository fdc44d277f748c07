"""What compares epochs with an earlier best forgets it when the masks change."""

import numpy as np
import pytest
import torch
from skorch.callbacks import (
    Callback,
    Checkpoint,
    EarlyStopping,
    EpochScoring,
    LRScheduler,
)
from torch import nn
from torch.optim import lr_scheduler

from sklearn_sparse_nn import PrunedClassifier
from sklearn_sparse_nn.training.forgetting import forget_best
from sklearn_sparse_nn.training.run import TrainingRun
from tests.pruning.nets import own_net

N_DENSE = 6


def fails_once_pruned(net, X, y):
    """Score below 1 in the dense phase; a hundred in the others, and slowly less."""
    epoch = len(net.history)
    return 1.0 / epoch if epoch <= N_DENSE else 100.0 - epoch


class Plateau(Callback):
    """A user's own use of a schedule, inside another one."""

    def on_train_begin(self, net, **kwargs):
        optimizer = net.optimizer_
        plateau = lr_scheduler.ReduceLROnPlateau(optimizer, patience=2)
        constant = lr_scheduler.ConstantLR(optimizer, 1.0)
        self.lr_scheduler_ = lr_scheduler.ChainedScheduler([constant])
        self.lr_scheduler_._schedulers.append(plateau)

    def on_epoch_end(self, net, **kwargs):
        self.lr_scheduler_._schedulers[-1].step(net.history[-1, "risen"])


class Stops(Callback):
    """A user's stop by a best score, in skorch's convention."""

    def on_train_begin(self, net, **kwargs):
        self.best_score_, self.misses_ = np.inf, 0

    def on_epoch_end(self, net, **kwargs):
        score = net.history[-1, "risen"]
        self.misses_ = 0 if score < self.best_score_ else self.misses_ + 1
        self.best_score_ = min(score, self.best_score_)
        if self.misses_ > 2 and len(net.history) > N_DENSE:
            raise KeyboardInterrupt


class Rate(Callback):
    def on_epoch_end(self, net, **kwargs):
        net.history.record("rate", net.optimizer_.param_groups[0]["lr"])


CALLBACKS = {
    "a schedule by name": lambda: LRScheduler(
        "ReduceLROnPlateau", monitor="risen", patience=2
    ),
    "a schedule in another": Plateau,
    "a stop": lambda: EarlyStopping("risen", patience=3),
    "a user's stop": Stops,
}


def fit(classes, make):
    score = EpochScoring(fails_once_pruned, name="risen", use_caching=False)
    net = own_net(
        max_epochs=N_DENSE,
        train_split=lambda dataset, y: (dataset, dataset),
        callbacks=[("risen", score), ("own", make()), ("rate", Rate())],
    )
    return PrunedClassifier(
        net, sparsity=0.5, n_steps=3, prune_epochs=6, finetune_epochs=6, random_state=0
    ).fit(*classes)


@pytest.mark.parametrize("make", CALLBACKS.values(), ids=CALLBACKS)
def test_the_sparse_phase_is_not_measured_by_the_dense_net(classes, make):
    rows = fit(classes, make).history_
    assert len(rows) == N_DENSE + 6 + 6
    assert {row["rate"] for row in rows} == {0.01}


# skorch's own stop has missed too often already, and never asks again.
@pytest.mark.parametrize(
    "name", ["a schedule by name", "a schedule in another", "a user's stop"]
)
def test_twin_that_forgets_nothing_slows_down_or_stops(classes, name, monkeypatch):
    monkeypatch.setattr(TrainingRun, "forget_best", lambda self: None)
    rows = fit(classes, CALLBACKS[name]).history_
    assert len(rows) < N_DENSE + 6 + 6 or rows[-1]["rate"] < 0.01


class Fake:
    def __init__(self, callback):
        self.callbacks_ = [("own", callback)]


class Initializes(Callback):
    """Sets its state in `initialize`, as skorch's EpochScoring does."""

    def initialize(self):
        self.best_loss_, self.best_epoch_, self.best_weights_ = np.inf, 0, None
        return self


class Higher(Callback):
    """Has neither method, a parameter called alike, and says what is better."""

    lower_is_better = False

    def __init__(self, best_of=3.0):
        self.best_of = best_of


def test_callbacks_that_initialize_begin_anew():
    callback = Initializes().initialize()
    callback.best_loss_, callback.best_epoch_ = 0.5, 7
    callback.best_weights_ = {"weight": torch.ones(1)}
    forget_best(Fake(callback))
    assert (callback.best_loss_, callback.best_epoch_) == (np.inf, 0)
    assert callback.best_weights_ is None


def test_values_alone_become_the_worst():
    callback = Higher()
    callback.best_score_, callback.best_state_ = np.float64(0.9), {"weight": 1}
    forget_best(Fake(callback))
    assert (callback.best_score_, callback.best_state_) == (-np.inf, None)
    assert callback.best_of == 3.0


def test_a_score_does_not_find_its_best_in_the_history(classes):
    class Own(EpochScoring):
        def on_train_begin(self, net, X, y, **kwargs):
            super().on_train_begin(net, X, y, **kwargs)

    net = own_net(callbacks=[("own", Own("accuracy", lower_is_better=False))])
    net.set_params(train_split=lambda dataset, y: (dataset, dataset))
    run = TrainingRun(net.initialize(), *classes)
    run.epoch("dense")
    run.forget_best()
    assert dict(net.callbacks_)["own"].best_score_ == -np.inf


@pytest.mark.parametrize("mode", ["min", "max"])
def test_a_plateau_waits_anew(mode):
    weight = nn.Parameter(torch.ones(1))
    scheduler = lr_scheduler.ReduceLROnPlateau(
        torch.optim.SGD([weight], lr=0.1), mode=mode, patience=1, cooldown=3
    )
    for _ in range(3):
        scheduler.step(1.0)
    callback = Callback()
    callback.lr_scheduler_ = scheduler
    forget_best(Fake(callback))
    assert scheduler.best == (np.inf if mode == "min" else -np.inf)
    assert scheduler.num_bad_epochs == scheduler.cooldown_counter == 0


def test_callbacks_without_a_best_are_left_alone():
    class Counts(Callback):
        begun = 0

        def on_train_begin(self, net, **kwargs):
            self.begun += 1

    for callback in (Counts(), Checkpoint(load_best=True)):
        before = dict(vars(callback))
        forget_best(Fake(callback))
        assert vars(callback) == before
