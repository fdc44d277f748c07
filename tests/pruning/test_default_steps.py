"""The number of pruning events where nobody says how many: never too many."""

import numpy as np
import pytest
from sklearn.model_selection import cross_val_score
from skorch import NeuralNetClassifier
from torch import nn
from torch.utils.data import DataLoader

from sklearn_sparse_nn import (
    PrunedClassifier,
    PrunedClassifierCV,
    TabularNetClassifier,
    pruning_path,
)

generator = np.random.default_rng(0)
X = generator.normal(size=(48, 6)).astype("float32")
y = np.arange(48) % 2


def pruner(**kwargs):
    net = TabularNetClassifier((8,), max_epochs=1, batch_size=16, random_state=0)
    options = {"estimator": net, "finetune_epochs": 1, "random_state": 0}
    return PrunedClassifier(**{**options, **kwargs})


def events(fitted):
    """Count the changes of sparsity from epoch to epoch."""
    return len({row["sparsity"] for row in fitted.history_} - {0.0})


def test_the_default_is_ten_where_ten_fit():
    for epochs in (4, 10, 25):
        one = pruner(prune_epochs=epochs, sparsity=0.5).fit(X, y)
        ten = pruner(prune_epochs=epochs, n_steps=10, sparsity=0.5).fit(X, y)
        np.testing.assert_array_equal(one.predict_proba(X), ten.predict_proba(X))


@pytest.mark.parametrize("prune_epochs", [0, 1, 2, 3])
def test_the_default_fits_any_number_of_rows_and_epochs(prune_epochs):
    short = pruner(prune_epochs=prune_epochs, sparsity=0.5)
    for n_rows in (2, 17, 48):
        assert short.fit(X[:n_rows], y[:n_rows]).sparsity_ == 0.5
    assert np.isfinite(cross_val_score(short, X, y, error_score="raise")).all()
    search = PrunedClassifierCV(short, sparsities=[0.5], cv=3).fit(X, y)
    assert search.sparsity_ == 0.5
    assert pruning_path(short, X, y, sparsities=[0.25, 0.5]).sparsity[-1] == 0.5


def test_as_many_events_as_training_steps():
    two = pruner(prune_epochs=1, schedule="linear", sparsity=0.6, n_steps=3)
    default = pruner(prune_epochs=1, schedule="linear", sparsity=0.6)
    for fitted in (two.fit(X, y), default.fit(X, y)):
        assert fitted.sparsity_ == pytest.approx(0.6, abs=0.01)
    np.testing.assert_array_equal(two.predict_proba(X), default.predict_proba(X))


def test_an_explicit_number_is_kept_or_refused():
    with pytest.raises(ValueError, match="10 pruning events do not fit in 3 training"):
        pruner(prune_epochs=1, n_steps=10).fit(X, y)


class Unsized(DataLoader):
    """Batches whose number is not known."""

    def __len__(self):
        raise TypeError("no length")


def test_an_unknown_number_of_batches():
    net = NeuralNetClassifier(
        nn.Linear,
        module__in_features=6,
        module__out_features=2,
        criterion=nn.CrossEntropyLoss,
        iterator_train=Unsized,
        train_split=None,
        max_epochs=1,
        verbose=0,
    )
    fitted = pruner(estimator=net, prune_epochs=3, sparsity=0.75, schedule="linear")
    fitted.fit(X, y)
    assert fitted.sparsity_ == 0.75
    assert events(fitted) == 3
