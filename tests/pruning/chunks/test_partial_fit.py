"""`partial_fit`: an epoch of a chunk, and the estimator between calls."""

import pickle

import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.base import clone
from skorch.callbacks import Callback, LRScheduler

from sklearn_sparse_nn import (
    PrunedRegressor,
    TabularNetRegressor,
)
from sklearn_sparse_nn.nets.batches import BatchIterator
from tests.pruning.chunks.pruners import (
    LABELS,
    chunks_of,
    plainly,
    pruner_of,
    trained,
    weights,
)
from tests.pruning.nets import Conv, Tied, own_net, own_regressor, small, zeros_of

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
