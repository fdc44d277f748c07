"""`partial_fit` and `prune`: invariants 1, 4, 9, 10, 14, 18, 19 and 21 for chunks."""

import os
import pickle
import random
import re
import signal
import subprocess
import sys
import textwrap
import threading
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.neural_network import MLPClassifier
from skorch.callbacks import Callback, EarlyStopping, LRScheduler

from sklearn_sparse_nn import (
    PrunedClassifier,
    PrunedRegressor,
    TabularNetRegressor,
)
from sklearn_sparse_nn.core.allocation import n_pruned
from sklearn_sparse_nn.exceptions import DivergedTrainingError
from sklearn_sparse_nn.nets.batches import BatchIterator
from sklearn_sparse_nn.training.holding import MaskHolder
from tests.pruning.nets import Conv, Tied, own_net, own_regressor, small, zeros_of

ROOT = Path(__file__).parents[2]
SIZE = 8 * 16 + 16 * 12 + 12 * 3
OWN_SIZE = 8 * 16 + 16 * 3
LABELS = [0, 1, 2]


def plainly(value):
    """Name a parameter alike in every worker."""
    return re.sub(" object at 0x[0-9a-f]+", "", str(value))


def pruner_of(net=None, **kwargs):
    """Chunks of a net; so small a net would lose a layer to one ranking of all."""
    net = small() if net is None else net
    return PrunedClassifier(
        net, **{"allocation": "uniform", "random_state": 0, **kwargs}
    )


def chunks_of(classes, size=40):
    X, y = classes
    return [
        (X[start : start + size], y[start : start + size])
        for start in range(0, len(X), size)
    ]


def trained(pruner, classes, n=1):
    for _ in range(n):
        for X, y in chunks_of(classes):
            pruner.partial_fit(X, y, classes=LABELS)
    return pruner


def weights(pruner):
    return {
        name: value.numpy().tobytes()
        for name, value in pruner.net_.module_.state_dict().items()
    }


def bits(pruner):
    masks = {name: mask.tobytes() for name, mask in pruner.masks_.items()}
    return weights(pruner), masks


# -- what a chunk's epoch is


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"dropout": 0.2},
        {"norm": "batch"},
        {"optimizer": "sgd"},
        {"callbacks": [("lr", LRScheduler("StepLR", step_size=1, gamma=0.5))]},
    ],
    ids=plainly,
)
def test_all_rows_at_every_call_is_fit(classes, options):
    net = small(max_epochs=4, random_state=3, **options)
    pruner = pruner_of(clone(net))
    for _ in range(4):
        pruner.partial_fit(*classes, classes=LABELS)
    assert weights(pruner) == weights(net.fit(*classes))
    pruner.partial_fit(*classes)
    assert weights(pruner) != weights(net)


@pytest.mark.parametrize(
    "net", [own_net(), own_net(Tied), small(dropout=0.1)], ids=plainly
)
def test_all_rows_at_every_call_is_the_pruners_dense_phase(classes, net):
    whole = pruner_of(net, sparsity=0.0, prune_epochs=0, finetune_epochs=0)
    whole.fit(*classes)
    pruner = pruner_of(net)
    for _ in range(3):
        pruner.partial_fit(*classes, classes=LABELS)
    assert weights(pruner) == weights(whole)


def test_a_regressor_equals_fit_too(values):
    X, y = values
    net = TabularNetRegressor((16,), max_epochs=3, random_state=1)
    pruner = PrunedRegressor(clone(net))
    for _ in range(3):
        pruner.partial_fit(X, y)
    assert weights(pruner) == weights(net.fit(X, y))
    model = pruner.export()  # in units of y
    assert np.array_equal(pruner.predict(X), model.predict(X))
    assert pruner.predict(X).min() > 1000  # and not standardised


def test_steps_are_those_of_the_chunks_in_their_own_batches(classes):
    class Sizes(Callback):
        def on_batch_begin(self, net, batch=None, training=False, **kwargs):
            if training:
                SEEN.append(len(batch[0]))

    SEEN.clear()
    net = own_net(Tied, batch_size=16, callbacks=[Sizes])
    X, y = classes
    pruner = pruner_of(net)
    for size in (40, 17, 16):
        pruner.partial_fit(X[:size], y[:size], classes=LABELS)
    assert SEEN == [16, 16, 8, 16, 1, 16]


SEEN: list[int] = []


def test_the_order_of_chunks_counts(classes):
    forth, back = pruner_of(), pruner_of()
    chunks = chunks_of(classes)
    for pruner, order in ((forth, chunks), (back, chunks[:1] + chunks[:0:-1])):
        for X, y in order:
            pruner.partial_fit(X, y, classes=LABELS)
    assert weights(forth) != weights(back)


def test_rows_come_in_another_order_at_every_call(classes):
    """The twin would begin its generator anew with every chunk."""
    X, y = classes
    net = own_net(
        iterator_train=BatchIterator,
        iterator_train__random_state=5,
        batch_size=40,
        callbacks=[Orders],
    )
    SEEN_ROWS.clear()
    pruner = pruner_of(net)
    for _ in range(3):
        pruner.partial_fit(X, y, classes=LABELS)
    epochs = [np.concatenate(SEEN_ROWS[i : i + 3]) for i in (0, 3, 6)]
    assert not np.array_equal(epochs[0], epochs[1])
    assert not np.array_equal(epochs[1], epochs[2])
    for rows in epochs:
        assert np.array_equal(np.sort(rows[:, 0]), np.sort(X[:, 0]))
    assert pruner.net_.iterator_train__random_state == 5  # the parameter as it was


class Orders(Callback):
    def on_batch_begin(self, net, batch=None, training=False, **kwargs):
        if training:
            SEEN_ROWS.append(batch[0].numpy().copy())


SEEN_ROWS: list[np.ndarray] = []


def test_a_learning_rate_schedule_goes_on(classes):
    schedule = LRScheduler("StepLR", step_size=1, gamma=0.5)
    pruner = trained(pruner_of(own_net(callbacks=[schedule])), classes, n=2)
    rates = [row["event_lr"] for row in pruner.history_]
    assert rates == [0.01 * 0.5**i for i in range(6)]


def test_standardisation_comes_from_the_first_chunk(classes):
    X, y = classes
    pruner = pruner_of().partial_fit(X[:40], y[:40], classes=LABELS)
    pruner.partial_fit(100 * X[40:], y[40:])
    module = pruner.net_.module_
    mean = X[:40].mean(axis=0, dtype=np.float64)
    assert np.allclose(module.standardize.mean, mean, atol=1e-6)


# -- masks and counts: invariants 1 and 4


@pytest.mark.parametrize("sparsity", [0.29, 0.5, 0.9, 0.95])
def test_prune_gives_the_exact_count_and_training_keeps_it(classes, sparsity):
    pruner = trained(pruner_of(), classes)
    pruner.prune(sparsity)
    count = sum(n_pruned(sparsity, size) for size in (8 * 16, 16 * 12, 12 * 3))
    for _ in range(2):
        assert sum(zeros_of(pruner).values()) == count
        assert sum(int((~mask).sum()) for mask in pruner.masks_.values()) == count
        assert pruner.sparsity_ == count / SIZE
        assert pruner.n_nonzero_ == SIZE - count
        for name, mask in pruner.masks_.items():
            weight = pruner.transform(format="dense")[name]
            assert not weight[~mask].any()
            assert pruner.layer_sparsity_[name] == float((~mask).mean())
        before = weights(pruner)
        trained(pruner, classes)
        assert weights(pruner) != before


def test_a_sparsity_is_of_all_and_never_compounds(classes):
    pruner = trained(pruner_of(), classes).prune(0.5)
    once = bits(pruner)
    assert bits(pruner.prune(0.5)) == once
    earlier = dict(pruner.masks_)
    trained(pruner, classes).prune(0.75)
    assert sum(zeros_of(pruner).values()) == sum(
        n_pruned(0.75, size) for size in (8 * 16, 16 * 12, 12 * 3)
    )
    for name, mask in pruner.masks_.items():
        assert not (mask & ~earlier[name]).any()  # what died stays dead


@pytest.mark.parametrize(
    ("parts", "first", "second"),
    [
        ({}, 0.8, 0.5),
        ({}, 100, 101),
        ({}, {"hidden_*": 0.5}, {"hidden_0": 0.4, "hidden_1": 0.6}),
        ({"granularity": "neuron"}, 0.7, 0.3),
        ({}, 0.5, 0.0),
    ],
    ids=plainly,
)
def test_less_than_there_is_is_refused(classes, parts, first, second):
    pruner = trained(pruner_of(**parts), classes).prune(first)
    before = bits(pruner)
    with pytest.raises(ValueError, match=r"is less than the .* stays pruned"):
        pruner.prune(second)
    assert bits(pruner) == before
    assert bits(pruner.prune(first)) == before


def test_groups_that_leave_less_than_asked_may_be_asked_for_again(classes):
    pruner = trained(pruner_of(granularity="neuron"), classes).prune(0.3)
    # Neurons have 8 or 16 weights: no multiple of them is the count.
    assert pruner.n_nonzero_ != 320 - n_pruned(0.3, 320)
    before = bits(pruner)
    assert bits(pruner.prune(0.3)) == before


@pytest.mark.parametrize(
    "parts",
    [
        {"sparsity": 0.6},
        {"sparsity": 50},
        {"sparsity": 0.0, "budget": {"nonzeros": 60}},
        {"sparsity": {"hidden_*": 0.7}},
        {"granularity": "2:4", "sparsity": 0.75},
        {"granularity": "block:4x1", "sparsity": 0.75},
        {"threshold": 0.1},
    ],
    ids=plainly,
)
def test_without_an_argument_it_is_the_estimators_own(classes, parts):
    pruner = trained(pruner_of(**parts), classes).prune()
    zeros = zeros_of(pruner)
    if "budget" in parts or parts.get("sparsity") == 50:
        assert SIZE - sum(zeros.values()) == parts.get("budget", {}).get("nonzeros", 50)
    elif "threshold" in parts:
        alive = [np.abs(w.data) for w in pruner.transform().values()]
        assert 0 < sum(map(len, alive)) < SIZE
        assert np.concatenate(alive).min() >= 0.1
    else:
        asked = parts["sparsity"]
        share = asked["hidden_*"] if isinstance(asked, dict) else asked
        assert np.isclose(pruner.sparsity_, share, atol=0.02)
    before = dict(pruner.masks_)
    trained(pruner, classes)
    assert all(np.array_equal(before[name], pruner.masks_[name]) for name in before)


def test_an_argument_comes_before_threshold_and_budget(classes):
    pruner = pruner_of(budget={"nonzeros": 300}, sparsity=0.0, allocation="global")
    trained(pruner, classes).prune(100)
    assert pruner.n_nonzero_ == 100


# -- training under masks: invariants 9 and 10


class AfterEveryStep(Callback):
    def on_batch_end(self, net, training=False, **kwargs):
        holder = dict(net.callbacks_).get("masks")
        if not training or holder is None:
            return
        for weight, alive in holder._held:
            dead = alive == 0
            bits = weight.detach().numpy().view(np.int32)
            state = [
                int(torch.count_nonzero(value[dead]))
                for value in net.optimizer_.state.get(weight, {}).values()
                if torch.is_tensor(value) and value.shape == weight.shape
            ]
            STEPS.append((int(np.count_nonzero(bits[dead.numpy()])), sum(state)))


STEPS: list[tuple[int, int]] = []
OPTIMIZERS = [
    (torch.optim.SGD, {"momentum": 0.9}),
    (torch.optim.Adam, {}),
    (torch.optim.AdamW, {"weight_decay": 0.1}),
]


def net_of(optimizer, options, **kwargs):
    given = {f"optimizer__{key}": value for key, value in options.items()}
    return own_net(optimizer=optimizer, **given, **kwargs)


@pytest.mark.parametrize(("optimizer", "options"), OPTIMIZERS)
def test_pruned_weights_are_plus_zero_after_every_step(classes, optimizer, options):
    STEPS.clear()
    pruner = pruner_of(net_of(optimizer, options, callbacks=[AfterEveryStep]))
    trained(pruner, classes)
    assert not STEPS  # nothing is held yet
    trained(pruner.prune(0.7), classes, n=2)
    assert len(STEPS) == 2 * 6  # two layers, six chunks of one batch
    assert set(STEPS) == {(0, 0)}


@pytest.mark.parametrize(("optimizer", "options"), OPTIMIZERS)
def test_zeroed_weights_alone_would_not_stay(classes, optimizer, options, monkeypatch):
    """The known bad holder: it sets weights to zero, and no optimizer's memory."""

    def weights_only(self):
        with torch.no_grad():
            for weight, alive in self._held:
                weight.mul_(alive)

    STEPS.clear()
    pruner = pruner_of(net_of(optimizer, options, callbacks=[AfterEveryStep]))
    monkeypatch.setattr(MaskHolder, "apply", weights_only)
    trained(pruner, classes, n=2).prune(0.7)
    monkeypatch.setattr(MaskHolder, "after_step", lambda self, *args: None)
    trained(pruner, classes)
    assert any(revived for revived, _ in STEPS)
    assert any(remembered for _, remembered in STEPS)


class Steps(Callback):
    def on_batch_end(self, net, **kwargs):
        COUNTS.append(int(net.optimizer_.state[net.module_.last.weight]["step"]))


COUNTS: list[int] = []


def test_optimizer_state_goes_on(classes):
    COUNTS.clear()
    pruner = trained(pruner_of(own_net(callbacks=[Steps])), classes).prune(0.5)
    trained(pickle.loads(pickle.dumps(pruner)), classes)
    assert COUNTS == [1, 2, 3, 4, 5, 6]


def test_classes_of_a_notebook_keep_their_globals(classes):
    """Such as a counter in a class, or in a list, that nobody imports."""
    seen = []

    class Counts(Callback):
        n = 0

        def on_epoch_end(self, net, **kwargs):
            Counts.n += 1
            seen.append(Counts.n)

    trained(pruner_of(own_net(callbacks=[Counts])), classes)
    assert seen == [1, 2, 3]
    assert Counts.n == 3


# -- statistics


@pytest.mark.parametrize(
    "importance", ["wanda", "gradient", "fisher", "obs", "snip", "apoz"]
)
def test_an_importance_that_looks_at_rows_asks_for_them(classes, importance):
    parts = {"granularity": "neuron"} if importance == "apoz" else {}
    pruner = trained(pruner_of(importance=importance, **parts), classes)
    before = bits(pruner)
    with pytest.raises(ValueError, match=rf"importance='{importance}'.*call prune\(X="):
        pruner.prune(0.5)
    with pytest.raises(ValueError, match="prune got X without y; give both"):
        pruner.prune(0.5, classes[0])
    assert bits(pruner) == before
    pruner.prune(0.5, *classes)
    assert np.isclose(pruner.sparsity_, 0.5, atol=0.05)
    pruner.partial_fit(*classes)


def test_rows_decide(classes):
    X, y = classes
    pruner = trained(pruner_of(importance="wanda"), classes)
    other = pickle.loads(pickle.dumps(pruner))
    pruner.prune(0.5, X, y)
    other.prune(0.5, X * np.geomspace(1, 1e3, 8, dtype=np.float32), y)
    assert bits(pruner) != bits(other)


@pytest.mark.parametrize("importance", ["movement", "magnitude_increase"])
def test_training_is_watched_from_the_first_chunk_on(classes, importance):
    if importance == "magnitude_increase":
        importance = increase
    pruner = trained(pruner_of(importance=importance), classes)
    went = pickle.loads(pickle.dumps(pruner))
    pruner.prune(0.5)
    assert np.isclose(pruner.sparsity_, 0.5, atol=0.01)
    assert bits(went.prune(0.5)) == bits(pruner)
    late = trained(pruner_of(), classes).set_params(importance=importance)
    with pytest.raises(ValueError, match="watched from the first call of partial_fit"):
        late.prune(0.5)


def increase(weight, *, initial):
    return weight.abs() - initial.abs()


def test_all_rows_and_one_prune_decide_as_fit_does(classes):
    for importance in ("movement", "wanda", increase):
        parts = {"importance": importance, "sparsity": 0.6}
        now = {"schedule": "oneshot", "n_steps": 1, "prune_epochs": 0}
        whole = pruner_of(**parts, **now, finetune_epochs=0).fit(*classes)
        pruner = pruner_of(**parts)
        for _ in range(3):
            pruner.partial_fit(*classes, classes=LABELS)
        assert bits(pruner.prune(None, *classes)) == bits(whole)


# -- the estimator between calls


def test_between_calls_it_is_a_fitted_pruner(classes):
    X, y = classes
    pruner = pruner_of()
    for sparsity in (0.0, 0.5, 0.8):
        trained(pruner.prune(sparsity) if sparsity else pruner, classes, n=3)
        model = pruner.export()
        assert np.array_equal(pruner.predict(X), model.predict(X))
        proba = torch.softmax(pruner.net_.forward(X), 1).numpy()
        assert np.allclose(pruner.predict_proba(X), proba, atol=1e-6)
        assert pruner.transform(X).shape == (120, 12)
        assert pruner.report()["nonzeros"].sum() == pruner.n_nonzero_
        assert pruner.feature_importances_.shape == (8,)
        assert pruner.score(X, y) > 0.4
    assert list(pruner.classes_) == LABELS
    assert pruner.n_features_in_ == 8
    phases = [(row["phase"], round(row["sparsity"], 2)) for row in pruner.history_]
    assert phases[:9] == [("dense", 0.0)] * 9
    assert phases[9:] == [("finetune", 0.5)] * 9 + [("finetune", 0.8)] * 9
    assert [row["epoch"] for row in pruner.history_] == list(range(1, 28))
    assert all(np.isfinite(row["train_loss"]) for row in pruner.history_)


def test_the_net_before_a_call_stays_as_it_was(classes):
    pruner = trained(pruner_of(), classes)
    net, masks, history = pruner.net_, pruner.masks_, list(pruner.history_)
    before = weights(pruner)
    trained(pruner.prune(0.5), classes)
    assert {k: v.numpy().tobytes() for k, v in net.module_.state_dict().items()} == (
        before
    )
    assert all(mask.all() for mask in masks.values())
    assert pruner.history_[:3] == history


@pytest.mark.parametrize("net", [own_net(), own_net(Conv), own_net(Tied)], ids=plainly)
def test_a_users_own_net(classes, net):
    X, y = classes
    if net.module is Conv:
        X, net = np.tile(X, (1, 8)), net.set_params(module__n_outputs=3)
    given = {key: repr(value) for key, value in vars(net).items()}
    pruner = trained(pruner_of(net), (X, y))
    trained(pruner.prune(0.5), (X, y))
    assert sum(zeros_of(pruner).values()) == pruner.report()["weights"].sum() // 2
    assert not net.initialized_
    assert {key: repr(value) for key, value in vars(net).items()} == given
    assert set(pruner.predict(X)) <= set(LABELS)


def test_a_users_own_regressor(values):
    X, y = values
    y = (y - y.mean()) / y.std()
    pruner = PrunedRegressor(own_regressor(), random_state=0, allocation="uniform")
    for start in range(0, 120, 40):
        pruner.partial_fit(X[start : start + 40], y[start : start + 40])
    pruner.prune(0.5).partial_fit(X, y)
    assert pruner.predict(X).shape == (120,)
    assert sum(zeros_of(pruner).values()) == 72


def test_float64_sparse_rows_and_frames(classes):
    import pandas as pd

    X, y = classes
    plain = trained(pruner_of(), classes)
    for kind in (sparse.csr_array, sparse.coo_matrix, lambda X: X.astype(np.float64)):
        pruner = trained(pruner_of(), (X, y))
        pruner.partial_fit(kind(X), y)
        assert weights(pruner) == weights(trained_once_more(plain, X, y))
    names = [f"c{i}" for i in range(8)]
    frame = pd.DataFrame(X, columns=names)
    pruner = pruner_of().partial_fit(frame, y, classes=LABELS)
    assert list(pruner.feature_names_in_) == names
    with pytest.raises(ValueError, match="feature names should match"):
        pruner.partial_fit(frame[names[::-1]], y)


def trained_once_more(pruner, X, y):
    return pickle.loads(pickle.dumps(pruner)).partial_fit(X, y)


def test_a_chunk_may_have_one_class_and_one_row(classes):
    X, y = classes
    pruner = pruner_of().partial_fit(X[y == 1], y[y == 1], classes=LABELS)
    assert pruner.predict_proba(X).shape == (120, 3)
    for i in range(3):
        pruner.partial_fit(X[i : i + 1], y[i : i + 1])
    assert list(pruner.classes_) == LABELS


def test_scores_of_a_chunk_know_all_classes(classes):
    """skorch would take the classes of the last chunk for those of the net."""
    X, y = classes
    pruner = pruner_of(own_net(callbacks=[KnowsClasses]))
    KNOWN.clear()
    for label in (1, 0, 2):
        pruner.partial_fit(X[y == label], y[y == label], classes=LABELS)
    assert KNOWN == [LABELS] * 3


class KnowsClasses(Callback):
    def on_epoch_end(self, net, **kwargs):
        KNOWN.append(list(net.classes_))


KNOWN: list[list[int]] = []


def test_labels_of_any_type(classes):
    X, y = classes
    words = np.array(["no", "perhaps", "yes"])[y]
    pruner = pruner_of().partial_fit(
        X[:40], words[:40], classes=["yes", "perhaps", "no"]
    )
    pruner.partial_fit(X[40:], words[40:])
    assert pruner.classes_.tolist() == ["no", "perhaps", "yes"]
    assert set(pruner.predict(X)) <= set(words)
    numbers = pruner_of()
    numbers.partial_fit(X[:40], y[:40], classes=LABELS).partial_fit(X[40:], y[40:])
    assert weights(pruner) == weights(numbers)


# -- fit, partial_fit and prune in turns


def test_after_fit_training_goes_on_under_its_masks(classes):
    pruner = pruner_of(n_steps=2, prune_epochs=2, finetune_epochs=1).fit(*classes)
    masks, n = pruner.masks_, len(pruner.history_)
    before = weights(pruner)
    trained(pruner, classes)
    assert weights(pruner) != before
    for name, mask in pruner.masks_.items():
        assert np.array_equal(mask, masks[name])
        assert not pruner.transform(format="dense")[name][~mask].any()
    assert [row["phase"] for row in pruner.history_[n:]] == ["finetune"] * 3
    pruner.prune(0.95)
    assert np.isclose(pruner.sparsity_, 0.95, atol=0.01)


@pytest.mark.parametrize("net", [small(), own_net()], ids=plainly)
def test_after_fit_it_is_what_a_frozen_estimator_gives(classes, net):
    options = {"n_steps": 2, "prune_epochs": 2, "finetune_epochs": 1}
    fitted = pruner_of(net, **options).fit(*classes)
    frozen = pruner_of(FrozenEstimator(fitted))
    for X, y in chunks_of(classes):
        frozen.partial_fit(X, y)
    trained(fitted, classes)
    assert weights(frozen) == weights(fitted)
    assert {k: m.tobytes() for k, m in frozen.masks_.items()} == (
        {k: m.tobytes() for k, m in fitted.masks_.items()}
    )


def test_prune_after_fit_asks_for_rows_once(classes):
    pruner = pruner_of(n_steps=2, prune_epochs=2, finetune_epochs=1).fit(*classes)
    before = bits(pruner)
    with pytest.raises(ValueError, match="prune goes on from partial_fit"):
        pruner.prune(0.95)
    with pytest.raises(ValueError, match="stays pruned"):
        pruner.prune(0.5, *classes)
    assert bits(pruner) == before
    assert bits(pruner.prune(0.9, *classes)) == before
    pruner.prune(0.95)
    assert np.isclose(pruner.sparsity_, 0.95, atol=0.01)


def test_a_later_fit_starts_anew(classes):
    options = {"n_steps": 2, "prune_epochs": 2, "finetune_epochs": 1}
    once = pruner_of(**options).fit(*classes)
    again = trained(pruner_of(**options), classes).prune(0.8).fit(*classes)
    assert bits(again) == bits(once)
    assert len(again.history_) == len(once.history_)
    assert pickle.dumps(again).count(b"exp_avg") == 0


def test_layers_that_are_named_later_are_held_together(classes):
    pruner = trained(pruner_of(layers="hidden_0"), classes).prune(0.5)
    pruner.set_params(layers="hidden_1").prune(0.5)
    trained(pruner, classes)
    assert zeros_of(pruner) == {"hidden_0": 64, "hidden_1": 96}


# -- a copy, a pickle, another process: invariants 18, 19 and 21


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


SCRIPT = textwrap.dedent(
    """
    import hashlib, sys, tempfile, torch
    torch.set_num_threads(1)
    from pathlib import Path
    import numpy as np
    from sklearn.datasets import make_classification
    from tests.pruning.test_chunks import *
    X, y = make_classification(
        120, 8, n_informative=6, n_classes=3, class_sep=2.0, random_state=0
    )
    data = X.astype(np.float32), y
    for net in (small(), own_net()):
        pruner = trained(pruner_of(net), data).prune(0.5)
        trained(pruner, data)
        with tempfile.TemporaryDirectory() as folder:
            pruner.export().save(Path(folder, "m"))
            file = Path(folder, "m").read_bytes()
        print(hashlib.sha256(file + repr(sorted(bits(pruner)[1])).encode()).hexdigest())
    """
)


def test_two_processes_give_the_same_files():
    runs = [
        subprocess.run(
            [sys.executable, "-c", SCRIPT],
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    ]
    assert runs[0] == runs[1]
    assert len(set(runs[0].split())) == 2


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
