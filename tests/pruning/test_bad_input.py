"""What a person sees who gives something wrong."""

import numpy as np
import pytest
from torch import nn

from sklearn_sparse_nn import (
    PrunedClassifier,
    PrunedRegressor,
    TabularNetClassifier,
    TabularNetRegressor,
)
from sklearn_sparse_nn._compat import InvalidParameterError
from tests.pruning.nets import own_net, small

ESTIMATORS = [
    PrunedClassifier(small()),
    PrunedClassifier(own_net()),
    PrunedRegressor(TabularNetRegressor((4,), max_epochs=1)),
    TabularNetClassifier((4,), max_epochs=1),
    TabularNetRegressor((4,), max_epochs=1),
]


@pytest.fixture(params=ESTIMATORS, ids=lambda e: type(e).__name__)
def estimator(request):
    return request.param


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda X, y: (np.where(X > 2, np.nan, X), y), "Input X contains NaN"),
        (
            lambda X, y: (np.where(X > 2, np.inf, X), y),
            "infinity or a value too large for dtype",
        ),
        (
            lambda X, y: (np.where(X > 2, 1e300, X.astype(float)), y),
            r"value too large for dtype\('float32'\)",
        ),
        (lambda X, y: (X[:, 0], y), "Expected 2D array, got 1D array"),
        (lambda X, y: (X[:0], y[:0]), "Found array with 0 sample"),
        (lambda X, y: (X[:, :0], y), r"Found array with 0 feature\(s\)"),
        (lambda X, y: (X, y[:-1]), "inconsistent numbers of samples"),
        (lambda X, y: (X, np.where(y == 1, np.nan, y)), "Input y contains NaN"),
        (lambda X, y: (X.astype(complex), y), "Complex data not supported"),
        (lambda X, y: (X, None), "requires y to be passed"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_data(estimator, classes, spoil, message):
    X, y = classes
    with np.errstate(all="ignore"), pytest.raises(ValueError, match=message):
        estimator.fit(*spoil(X, y))


def test_one_sample_fits_or_names_the_sample(classes):
    X, y = classes
    pruner = PrunedClassifier(small(), sparsity=0.5, allocation="uniform")
    for estimator in (TabularNetClassifier((4,), max_epochs=1), pruner):
        assert estimator.fit(X[:1], y[:1]).predict(X[:1]) == y[:1]


def test_wrong_number_of_features_and_nan_at_predict(classes):
    X, y = classes
    pruner = PrunedClassifier(small()).fit(X, y)
    with pytest.raises(ValueError, match="X has 5 features, but PrunedClassifier"):
        pruner.predict(X[:, :5])
    with pytest.raises(ValueError, match="contains NaN"):
        pruner.predict(np.full_like(X, np.nan))


def test_continuous_labels_are_refused_by_classifiers(classes):
    X, _ = classes
    with pytest.raises(ValueError, match="Unknown label type"):
        PrunedClassifier(small()).fit(X, X[:, 0])


@pytest.mark.parametrize(
    "sparsity", [1.0, 1.5, -0.1, np.nan, True, False, np.True_, "0.9", None, -3, [0.9]]
)
def test_sparsity_out_of_range(classes, sparsity):
    message = "The 'sparsity' parameter of PrunedClassifier must be .* Got .* instead"
    with pytest.raises(InvalidParameterError, match=message):
        PrunedClassifier(small(), sparsity=sparsity).fit(*classes)


@pytest.mark.parametrize("value", [1.1, -0.1, True, "all"])
def test_sparsity_by_layer_out_of_range(classes, value):
    with pytest.raises(InvalidParameterError, match="for the layer pattern 'hidden_0'"):
        PrunedClassifier(small(), sparsity={"hidden_0": value}).fit(*classes)


def test_more_nonzeros_than_weights(classes):
    with pytest.raises(ValueError, match="only 356"):
        PrunedClassifier(small(), sparsity=357).fit(*classes)


def test_fewer_nonzeros_than_layers(classes):
    with pytest.raises(ValueError, match="3 layers may need 3"):
        PrunedClassifier(small(), sparsity=2).fit(*classes)


class NoTraining(nn.Module):
    """Fails the test if it is ever trained."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(8, 16)
        self.last = nn.Linear(16, 3)

    def forward(self, X):
        assert not self.training
        return self.last(self.first(X))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (
            {"n_steps": 5, "prune_epochs": 4},
            "n_steps=5 .* do not fit in prune_epochs=4",
        ),
        ({"schedule": lambda p: p / 2}, "must end at 1"),
        ({"schedule": lambda p: 2 * p}, r"must be in \[0, 1\]"),
        ({"schedule": lambda p: float("nan")}, r"must be in \[0, 1\]"),
        ({"schedule": lambda p: 1.0 if p == 1 else 1 - p}, "must not decrease"),
        ({"granularity": "2:4", "sparsity": 0.3}, "'2:4' and sparsity=0.3 do not go"),
        ({"granularity": "2:4", "threshold": 0.1}, "'2:4' and threshold=0.1 do not go"),
        ({"granularity": "4:2"}, "0 < N < M"),
        ({"granularity": "block:0x2"}, "at least 1x1"),
        ({"rewind": "weights", "finetune_epochs": 0}, "finetune_epochs=0 do not go"),
        ({"importance": lambda w, *, hessian: w}, "Unknown statistic .*'hessian'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_work_is_refused_before_training(classes, parameters, message):
    pruner = PrunedClassifier(own_net(NoTraining), **parameters)
    with pytest.raises(ValueError, match=message):
        pruner.fit(*classes)


def test_a_net_with_no_prunable_layer(classes):
    class Scale(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(8)

        def forward(self, X):
            return self.norm(X)

    with pytest.raises(ValueError, match=r"no prunable layer.*BatchNorm1d, Scale"):
        PrunedClassifier(own_net(Scale)).fit(*classes)


def test_neurons_of_a_net_with_only_outputs(classes):
    with pytest.raises(ValueError, match="only layer 'output' gives the outputs"):
        PrunedClassifier(TabularNetClassifier(()), granularity="neuron").fit(*classes)


def test_a_bad_parameter_of_the_inner_net_is_named(classes):
    with pytest.raises(InvalidParameterError, match="'lr' parameter of TabularNet"):
        PrunedClassifier(small(lr=-1.0)).fit(*classes)


def test_something_that_is_no_net(classes):
    from sklearn.linear_model import LogisticRegression

    with pytest.raises(InvalidParameterError, match="'estimator' parameter"):
        PrunedClassifier(LogisticRegression()).fit(*classes)


def test_an_importance_of_the_wrong_shape(classes):
    with pytest.raises(ValueError, match="must have the weight's shape"):
        PrunedClassifier(small(), importance=lambda w: w.sum(1)).fit(*classes)
