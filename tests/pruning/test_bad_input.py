"""What a person sees who gives something wrong."""

import numpy as np
import pytest
from sklearn.frozen import FrozenEstimator
from torch import nn

from sklearn_sparse_nn import (
    PrunedClassifier,
    PrunedRegressor,
    TabularNetClassifier,
    TabularNetRegressor,
)
from sklearn_sparse_nn._compat import InvalidParameterError
from sklearn_sparse_nn.core.allocation import Bounded
from sklearn_sparse_nn.core.compatibility import RULES
from sklearn_sparse_nn.core.recovery import Rewind, SoftTargets
from sklearn_sparse_nn.core.regrowth import Regrow
from sklearn_sparse_nn.core.schedules import Between
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


class Convolution(nn.Module):
    """Takes rows of 8 numbers as signals."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(1, 2, 3)
        self.head = nn.Linear(12, 3)

    def forward(self, X):
        assert not self.training
        return self.head(self.conv(X[:, None]).flatten(1))


class Halves:
    """A granularity that this package does not know."""

    def pool(self, scores):
        return scores.mean(0)

    def choose(self, pooled, n):
        return pooled > 0

    def expand(self, values, shape):
        return values.expand(shape)


def convolution(X, y):
    return own_net(Convolution)


def frozen(X, y):
    return FrozenEstimator(small().fit(X, y))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (
            {"n_steps": 9, "prune_epochs": 4},
            r"9 pruning events do not fit in 4 training steps .*prune_epochs=4, 1 ",
        ),
        ({"schedule": lambda p: p / 2}, "must end at 1"),
        ({"schedule": lambda p: 2 * p}, r"must be in \[0, 1\]"),
        ({"schedule": lambda p: float("nan")}, r"must be in \[0, 1\]"),
        ({"schedule": lambda p: 1.0 if p == 1 else 1 - p}, "must not decrease"),
        ({"granularity": "4:2"}, "0 < N < M"),
        ({"granularity": "block:0x2"}, "at least 1x1"),
        ({"importance": lambda w, *, Hessian: w}, "Unknown statistic .*'hessian'"),
        ({"importance": "magnitud"}, "Unknown importance .*'magnitude'"),
        ({"regrow": "gradiant"}, "Unknown regrow .*'gradient'"),
        ({"regrow": Regrow("gradiant")}, "Unknown importance .*'gradient'"),
        ({"regrow": Regrow(fraction=1.5)}, r"fraction must be in \(0, 1\)"),
        ({"rewind": Rewind("bias")}, "what must be 'weights'"),
        ({"rewind": Rewind(epoch=-1)}, "epoch an int of 0 or more"),
        ({"distill": 1.5}, "'distill' parameter"),
        ({"distill": SoftTargets(temperature=0)}, "temperature above 0"),
        (
            {
                "distill": 0.5,
                "estimator": own_net(NoTraining, criterion=nn.MultiMarginLoss),
            },
            "distill and criterion MultiMarginLoss with",
        ),
        ({"penalty": "l2"}, "'penalty' parameter"),
        ({"subsample": 0}, "'subsample' parameter"),
        ({"budget": {}}, "a dict of one unit to a number"),
        ({"budget": {"bytes": 1, "flops": 1}}, "a dict of one unit to a number"),
        ({"budget": {"kilobytes": 1}}, "Unknown unit of a budget .*'bytes'"),
        ({"budget": {"bytes": True}}, "a number above 0"),
        ({"budget": {"bytes": 84}}, "has 1492 bytes .* and 84 without"),
        ({"budget": {"flops": 1000}}, "has 352 flops with all its weights"),
        ({"allocation": Bounded("global", min_sparsity=0.95)}, "min_sparsity=0.95"),
        ({"schedule": Between("cubic", begin=0.5, end=0.2)}, "begin"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_work_is_refused_before_training(classes, parameters, message):
    pruner = PrunedClassifier(**{"estimator": own_net(NoTraining), **parameters})
    with pytest.raises((ValueError, TypeError), match=message):
        pruner.fit(*classes)


#: Parameters that break each rule of the compatibility table, in its order.
BREAKING = [
    ({"granularity": "2:4", "threshold": 0.1}, "granularity='2:4' and threshold=0.1"),
    ({"granularity": "2:4", "sparsity": 0.3}, "granularity='2:4' and sparsity=0.3"),
    ({"granularity": "2:4", "allocation": "erk"}, "'2:4' and allocation='erk'"),
    ({"granularity": "2:4", "regrow": "random"}, "'2:4' and regrow='random'"),
    ({"importance": "apoz"}, "importance='apoz' and granularity='unstructured'"),
    (
        {"importance": "grasp", "allocation": "lamp"},
        "importance='grasp' and allocation='lamp'",
    ),
    ({"importance": "obs", "estimator": convolution}, "importance='obs' and the lay"),
    (
        {"importance": "obs", "granularity": Halves()},
        "importance='obs' and granularity='halves'",
    ),
    (
        {"importance": "movement", "dense_epochs": 0},
        "importance='movement' and dense_epochs=0",
    ),
    ({"threshold": 0.1, "budget": {"bytes": 600}}, "threshold=0.1 and budget="),
    ({"sparsity": {"*": 0.5}, "allocation": "lamp"}, "sparsity={.*} and allocation='l"),
    ({"penalty": "l1", "threshold": 0.1}, "penalty='l1' and threshold=0.1"),
    ({"penalty": "l1", "schedule": "oneshot"}, "penalty='l1' and schedule='oneshot'"),
    ({"penalty": "l0", "regrow": "random"}, "penalty='l0' and regrow='random'"),
    ({"regrow": "random", "schedule": "cyclic"}, "regrow='random' and schedule='cyc"),
    ({"penalty": "l0", "importance": "obs"}, "penalty='l0' and importance='obs'"),
    ({"regrow": "random", "prune_epochs": 0}, "regrow='random' and prune_epochs=0"),
    ({"distill": 0.5, "dense_epochs": 0}, "distill=0.5 and dense_epochs=0"),
    ({"rewind": "weights", "finetune_epochs": 0}, "'weights' and finetune_epochs=0"),
    (
        {"rewind": Rewind(epoch=3), "dense_epochs": 2},
        r"rewind=Rewind\(epoch=3\) and dense_epochs=2",
    ),
    ({"estimator": frozen, "dense_epochs": 2}, "dense_epochs=2 and a FrozenEstimator"),
]


def test_every_rule_has_an_example():
    assert len(BREAKING) == len(RULES)


@pytest.mark.parametrize(("broken", "rule"), list(zip(BREAKING, RULES, strict=True)))
def test_parts_that_do_not_go_together_are_named_before_training(classes, broken, rule):
    parameters, message = broken
    parameters = {"estimator": own_net(NoTraining), **parameters}
    if parameters["estimator"] in (convolution, frozen):
        parameters["estimator"] = parameters["estimator"](*classes)
    pruner = PrunedClassifier(**parameters)
    with pytest.raises(ValueError, match=message) as caught:
        pruner.fit(*classes)
    assert str(caught.value).endswith(f"do not go together: {rule.why}")


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


def test_rewinding_without_fine_tuning_is_refused_under_a_budget_too(classes):
    pruner = PrunedClassifier(
        small(), budget={"nonzeros": 100}, rewind="weights", finetune_epochs=0
    )
    with pytest.raises(ValueError, match="'weights' and finetune_epochs=0"):
        pruner.fit(*classes)
