"""Validation data that a user's own net brings: converted as training data are."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.datasets import make_classification, make_regression
from skorch import NeuralNetBinaryClassifier, NeuralNetClassifier, NeuralNetRegressor
from skorch.callbacks import EpochScoring
from skorch.dataset import Dataset, ValidSplit
from skorch.helper import predefined_split
from torch import nn
from torch.utils.data import ConcatDataset, IterableDataset, Subset, TensorDataset

from sklearn_sparse_nn import PrunedClassifier, PrunedRegressor
from sklearn_sparse_nn.nets.batches import BatchIterator

X, number = make_classification(120, 4, n_informative=3, n_redundant=0, random_state=0)
TEXT = np.array(["no", "yes"])[number]
SIGNS = 2 * number - 1
ROWS = slice(0, 80), slice(80, 120)


class Items(torch.utils.data.Dataset):
    """Rows one by one, as images are read from disk."""

    def __init__(self, X, y):
        self.rows, self.labels = X, y
        self.read = 0

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        self.read += 1
        return self.rows[i], self.labels[i]


class Stream(IterableDataset):
    def __init__(self, X, y):
        self.rows, self.labels = X, y

    def __iter__(self):
        yield from zip(self.rows, self.labels, strict=True)


def classifier(split, kind=NeuralNetClassifier, **kwargs):
    options = {
        "module__out_features": 2,
        "criterion": nn.CrossEntropyLoss,
        "train_split": split,
        "max_epochs": 2,
        "verbose": 0,
        "lr": 0.1,
        "callbacks": [
            EpochScoring("accuracy", name="score", lower_is_better=False),
            EpochScoring(
                "accuracy", name="fresh", lower_is_better=False, use_caching=False
            ),
        ],
    }
    return kind(nn.Linear, module__in_features=4, **{**options, **kwargs})


def fitted(net, y, rows=ROWS[0], X=X, **kwargs):
    options = {"sparsity": 0.25, "prune_epochs": 1, "n_steps": 1, "finetune_epochs": 1}
    pruner = PrunedClassifier(net, random_state=0, **{**options, **kwargs})
    return pruner.fit(X[rows], y[rows])


def loss_and_score(pruner, y, rows=ROWS[1]):
    """Compute from predictions what the last row of the history must say."""
    proba = pruner.predict_proba(X[rows]).astype(float)
    numbers = np.searchsorted(pruner.classes_, y[rows])
    loss = -np.log(proba[np.arange(len(proba)), numbers]).mean()
    return loss, pruner.score(X[rows], y[rows])


def check_history(pruner, y, rows=ROWS[1]):
    loss, score = loss_and_score(pruner, y, rows)
    last = pruner.history_[-1]
    np.testing.assert_allclose(last["valid_loss"], loss, rtol=1e-4)
    assert last["score"] == last["valid_acc"] == score


@pytest.mark.parametrize(
    "make", [Dataset, Items, lambda X, y: Subset(Dataset(X, y), range(len(X)))]
)
@pytest.mark.parametrize("y", [TEXT, SIGNS, number, number.astype(bool)])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_predefined_set_counts_with_its_labels(y, make, dtype):
    own = make(X[ROWS[1]].astype(dtype), y[ROWS[1]])
    callbacks = None if make is Items else classifier(None).callbacks
    net = classifier(predefined_split(own), callbacks=callbacks)
    pruner = fitted(net, y)
    loss, score = loss_and_score(pruner, y)
    np.testing.assert_allclose(pruner.history_[-1]["valid_loss"], loss, rtol=1e-4)
    assert pruner.history_[-1]["valid_acc"] == score
    assert net.train_split.keywords["valid_ds"] is own


def test_it_equals_the_converted_set():
    tensors = TensorDataset(
        torch.from_numpy(X[ROWS[1]].astype("f")), torch.from_numpy(number[ROWS[1]])
    )
    own = Dataset(X[ROWS[1]], SIGNS[ROWS[1]])
    histories = [
        fitted(classifier(predefined_split(data)), y).history_
        for data, y in ((tensors, number), (own, SIGNS))
    ]
    for row, other in zip(*histories, strict=True):
        assert {**row, "dur": 0} == {**other, "dur": 0}


def test_integers_and_frames_are_converted():
    whole = np.round(X)
    frame = pd.DataFrame(whole, columns=list("abcd")).astype("int64")
    own = Dataset(frame[ROWS[1]], pd.Series(TEXT[ROWS[1]]))
    pruner = fitted(classifier(predefined_split(own)), TEXT, X=frame)
    score = pruner.score(frame[ROWS[1]], TEXT[ROWS[1]])
    assert pruner.history_[-1]["score"] == score
    own = Dataset(frame[ROWS[1]][list("bacd")], TEXT[ROWS[1]])
    with pytest.raises(ValueError, match="same order"):
        fitted(classifier(predefined_split(own)), TEXT, X=frame)


def test_sets_may_be_put_together():
    halves = [slice(80, 100), slice(100, 120)]
    own = ConcatDataset([Dataset(X[rows], TEXT[rows]) for rows in halves])
    net = classifier(predefined_split(own), callbacks=None)
    pruner = fitted(net, TEXT)
    loss, _ = loss_and_score(pruner, TEXT)
    np.testing.assert_allclose(pruner.history_[-1]["valid_loss"], loss, rtol=1e-4)


def test_a_stream_is_converted():
    own = Stream(X[ROWS[1]], TEXT[ROWS[1]])
    pruner = fitted(classifier(predefined_split(own), callbacks=None), TEXT)
    loss, _ = loss_and_score(pruner, TEXT)
    np.testing.assert_allclose(pruner.history_[-1]["valid_loss"], loss, rtol=1e-4)


@pytest.mark.parametrize(
    "split",
    [
        lambda data, y=None: (data, Dataset(X[ROWS[1]], TEXT[ROWS[1]])),
        lambda data, y=None: (
            Subset(data, range(80)),
            Dataset(X[ROWS[1]], TEXT[ROWS[1]]),
        ),
    ],
)
def test_a_function_may_return_other_data(split):
    check_history(fitted(classifier(split), TEXT), TEXT)


def halves(data, y=None):
    """Copy what the net was given, instead of returning subsets."""
    return tuple(Dataset(data.X[rows], data.y[rows]) for rows in ROWS)


@pytest.mark.parametrize("y", [TEXT, SIGNS, SIGNS + 2])
def test_a_copied_split_has_class_numbers_already(y):
    pruner = fitted(classifier(halves), y, rows=slice(None))
    check_history(pruner, y)
    subsets = classifier(
        lambda data, y=None: [Subset(data, range(80)), halves(data)[1]]
    )
    if y is TEXT:
        with pytest.raises(ValueError, match=r"validation data .* labels \[0, 1\]"):
            fitted(subsets, y, rows=slice(None))


def test_the_own_rows_are_never_converted_twice():
    split = ValidSplit(4, stratified=True)
    for y in (TEXT, SIGNS, number):
        net = classifier(split, iterator_train=BatchIterator)
        pruner = fitted(net, y, rows=slice(None))
        valid = split(Dataset(X, number), number)[1].indices
        check_history(pruner, y, valid)


def test_own_labels_reach_a_net_that_is_trained_by_chunks():
    own = Dataset(X[ROWS[1]], TEXT[ROWS[1]])
    pruner = PrunedClassifier(classifier(predefined_split(own)), random_state=0)
    for _ in range(2):
        pruner.partial_fit(X[ROWS[0]], TEXT[ROWS[0]], classes=["no", "yes"])
    check_history(pruner, TEXT)


def test_own_labels_and_a_store(tmp_path):
    own = Dataset(X[ROWS[1]], TEXT[ROWS[1]])
    net = classifier(predefined_split(own))
    for _ in range(2):
        pruner = fitted(net, TEXT, memory=str(tmp_path))
        check_history(pruner, TEXT)
    other = classifier(predefined_split(Dataset(X[ROWS[1]], number[ROWS[1]])))
    check_history(fitted(other, number, memory=str(tmp_path)), number)


def test_the_same_own_labels_stand_for_another_class(tmp_path):
    """Two fits whose arrays are the same once they are encoded."""
    ones = Dataset(X[ROWS[1]], np.ones(40, dtype=int))
    net = classifier(predefined_split(ones), max_epochs=1)
    losses = [
        fitted(net, y, memory=str(tmp_path)).history_[0]["valid_loss"]
        for y in (number, number + 1)
    ]
    assert losses[0] != losses[1]


def test_binary_nets_take_their_own_floats():
    own = Dataset(X[ROWS[1]], TEXT[ROWS[1]])
    net = classifier(
        predefined_split(own),
        NeuralNetBinaryClassifier,
        criterion=nn.BCEWithLogitsLoss,
        module__out_features=1,
    )
    check_history(fitted(net, TEXT), TEXT)


@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
@pytest.mark.parametrize("make", [Dataset, Items])
def test_regression_targets_of_any_shape(shape, make):
    X, y = make_regression(120, 4, random_state=0)
    y = y / y.std()
    own = make(X[ROWS[1]], y[ROWS[1]].reshape(shape))
    net = NeuralNetRegressor(
        nn.Linear,
        module__in_features=4,
        module__out_features=1,
        train_split=predefined_split(own),
        max_epochs=2,
        verbose=0,
    )
    pruner = PrunedRegressor(net, sparsity=0, finetune_epochs=1, random_state=0)
    pruner.fit(X[ROWS[0]], y[ROWS[0]])
    error = np.mean((pruner.predict(X[ROWS[1]]) - y[ROWS[1]]) ** 2)
    np.testing.assert_allclose(pruner.history_[-1]["valid_loss"], error, rtol=1e-4)


@pytest.mark.parametrize(
    ("own", "message"),
    [
        (Dataset(X, np.array(["maybe"] * 120)), r"labels \['maybe'\]"),
        (Items(X, np.array(["maybe"] * 120)), r"labels \['maybe'\]"),
        (Dataset(X, number), r"labels \[0, 1\]"),
        (Dataset(X[:, :3], TEXT), "3 features"),
        (Items(X[:, :3], TEXT), r"shape \(3,\)"),
        (Dataset(np.full((9, 4), np.nan), TEXT[:9]), "NaN"),
        (Dataset(X, np.stack([TEXT, TEXT], 1)), "1d array"),
    ],
)
def test_what_cannot_be_converted_is_refused_before_training(own, message):
    whole = f"(?s)validation data of the net.*{message}"
    with pytest.raises(ValueError, match=whole):
        fitted(classifier(predefined_split(own), max_epochs=0), TEXT)
