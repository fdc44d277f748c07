"""Any skorch net of the user's: modules, losses, callbacks, inputs."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from skorch import NeuralNet, NeuralNetBinaryClassifier
from skorch.callbacks import EpochScoring, GradientNormClipping, LRScheduler
from torch import nn

from sklearn_sparse_nn import BatchIterator, PrunedClassifier, PrunedRegressor
from tests.pruning.nets import (
    Conv,
    Embedded,
    Lazy,
    Mlp,
    own_net,
    own_regressor,
    zeros_of,
)


class TwoChannels(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 6, 3)
        self.head = nn.Linear(6 * 4, 10)

    def forward(self, X):
        return self.head(
            torch.relu(self.conv(X.reshape(-1, 2, 4, 8)))[..., :2].flatten(1)
        )


QUICK = {
    "sparsity": 0.7,
    "allocation": "uniform",
    "n_steps": 2,
    "prune_epochs": 2,
    "finetune_epochs": 2,
    "random_state": 0,
}


def test_a_convolution_on_flat_and_on_shaped_rows():
    X, y = load_digits(return_X_y=True)
    X, y = (X[:400] / 16).astype("float32"), y[:400]
    net = own_net(Conv, max_epochs=15)
    for rows in (X, X.reshape(-1, 1, 8, 8)):
        pruner = PrunedClassifier(net, **QUICK).fit(rows, y)
        assert pruner.score(rows, y) > 0.8
        assert pruner.masks_["conv"].shape == (6, 1, 3, 3)
        assert pruner.transform()["conv"].shape == (6, 9)
        assert pruner.transform(rows[:5]).shape == (5, 216)


@pytest.mark.parametrize("granularity", ["neuron", "input", "2:4", "block:2x2"])
def test_structures_in_a_convolution(granularity):
    X, y = load_digits(return_X_y=True)
    pruner = PrunedClassifier(
        own_net(Conv, max_epochs=1), granularity=granularity, layers="conv", **QUICK
    )
    if granularity == "input":  # two channels, of which one goes
        pruner.set_params(estimator=own_net(TwoChannels, max_epochs=1), sparsity=0.5)
    mask = next(iter(pruner.fit(X[:100], y[:100]).masks_.values()))
    rows = mask.reshape(len(mask), -1)  # (out, in * kernel)
    assert 0 < mask.sum() <= 0.5 * mask.size
    if granularity == "2:4":
        pairs = [rows[:, i : i + 4].sum(1).max() for i in range(0, rows.shape[1], 4)]
        assert max(pairs) <= 2
        return
    groups = {
        "neuron": list(rows),
        "input": list(np.moveaxis(mask, 1, 0)),
        "block:2x2": [
            rows[r : r + 2, c : c + 2]
            for r in range(0, rows.shape[0], 2)
            for c in range(0, rows.shape[1], 2)
        ],
    }[granularity]
    assert all(group.all() or not group.any() for group in groups)
    assert any(not group.any() for group in groups)


def test_an_embedding_takes_integers_and_is_pruned():
    rng = np.random.default_rng(0)
    X = rng.integers(0, 12, size=(300, 6))
    y = (X == 3).sum(1).clip(max=2)
    pruner = PrunedClassifier(own_net(Embedded, max_epochs=40, lr=0.05), **QUICK)
    assert pruner.fit(X, y).score(X, y) > 0.7
    assert pruner.masks_["table"].shape == (12, 5)
    assert pruner.transform()["table"].shape == (5, 12)
    assert zeros_of(pruner)["table"] == 42


def test_integers_become_floats_for_other_modules(classes):
    X, y = (classes[0] * 10).astype(np.int64), classes[1]
    assert PrunedClassifier(own_net(), **QUICK).fit(X, y).predict(X).shape == y.shape


def test_lazy_layers_get_their_shape(classes):
    pruner = PrunedClassifier(own_net(Lazy), **QUICK).fit(*classes)
    assert pruner.net_.module_.first.weight.shape == (16, 8)


# torch itself warns about its own parts when the compiler is first loaded.
@pytest.mark.filterwarnings("ignore")
def test_a_compiled_module(classes):
    net = own_net(Mlp, compile=True, compile__backend="eager", max_epochs=1)
    pruner = PrunedClassifier(net, **QUICK).fit(*classes)
    assert list(pruner.masks_) == ["first", "last"]
    assert sum(zeros.sum() for zeros in (~m for m in pruner.masks_.values())) == 124
    weight = pruner.net_.module_._orig_mod.first.weight
    assert int((weight == 0).sum()) == 90


def test_binary_classifier_with_one_logit(classes):
    X, y = classes
    labels = np.where(y == 0, "no", "yes")
    net = NeuralNetBinaryClassifier(
        Mlp, module__n_outputs=1, lr=0.1, max_epochs=20, verbose=0, train_split=None
    )
    pruner = PrunedClassifier(net, **QUICK).fit(X, labels)
    assert pruner.score(X, labels) > 0.7
    assert pruner.predict_proba(X).shape == (len(X), 2)
    with pytest.raises(ValueError, match="takes 2 classes; y has 3"):
        PrunedClassifier(net, **QUICK).fit(X, y)


def test_a_plain_neural_net(classes):
    net = NeuralNet(
        Mlp, nn.CrossEntropyLoss, max_epochs=20, lr=0.1, train_split=None, verbose=0
    )
    assert PrunedClassifier(net, **QUICK).fit(*classes).score(*classes) > 0.6


def test_nll_loss_with_softmax_in_the_module(classes):
    class Softmax(Mlp):
        def forward(self, X):
            return super().forward(X).softmax(-1)

    net = own_net(Softmax, criterion=nn.NLLLoss, max_epochs=20)
    pruner = PrunedClassifier(net, **QUICK).fit(*classes)
    assert pruner.score(*classes) > 0.6
    assert np.allclose(pruner.predict_proba(classes[0]).sum(1), 1, atol=1e-5)


@pytest.mark.parametrize("flat", [False, True])
def test_regression_targets_take_the_shape_of_the_outputs(values, flat):
    class Flat(Mlp):
        def forward(self, X):
            return super().forward(X)[:, 0]

    X, y = values
    y = (y - y.mean()) / y.std()
    net = own_regressor(lr=0.05).set_params(max_epochs=40)
    if flat:
        net.set_params(module=Flat)
    pruner = PrunedRegressor(net, **{**QUICK, "finetune_epochs": 10}).fit(X, y)
    assert pruner.predict(X).shape == y.shape
    assert pruner.score(X, y) > 0.5


def test_too_few_outputs_are_an_error(classes):
    with pytest.raises(ValueError, match="y has 3 classes"):
        PrunedClassifier(own_net(module__n_outputs=2), **QUICK).fit(*classes)


def test_too_many_outputs_for_regression_are_an_error(values):
    net = own_regressor().set_params(module__n_outputs=4)
    with pytest.raises(ValueError, match="gives 4 outputs"):
        PrunedRegressor(net, **QUICK).fit(*values)


def test_the_other_kind_of_net_is_refused(classes, values):
    with pytest.raises(TypeError, match="needs a classifier such as"):
        PrunedClassifier(own_regressor()).fit(*classes)
    with pytest.raises(TypeError, match="needs a regressor such as"):
        PrunedRegressor(own_net()).fit(*values)


def test_callbacks_schedulers_and_our_batches_together(classes):
    net = own_net(
        callbacks=[
            GradientNormClipping(1.0),
            EpochScoring("accuracy", name="acc", on_train=True, lower_is_better=False),
            LRScheduler(
                torch.optim.lr_scheduler.OneCycleLR,
                max_lr=0.1,
                total_steps=7,
                step_every="epoch",
            ),
        ],
        iterator_train=BatchIterator,
        iterator_valid=BatchIterator,
    )
    pruner = PrunedClassifier(net, **QUICK).fit(*classes)
    assert [set(row) >= {"acc", "event_lr"} for row in pruner.history_] == [True] * 7


def test_callbacks_switched_off(classes):
    pruner = PrunedClassifier(own_net(callbacks="disable"), **QUICK).fit(*classes)
    assert sum(zeros_of(pruner).values()) == 90 + 34


def test_two_optimizers(classes):
    class Two(type(own_net())):
        def initialize_optimizer(self, *args, **kwargs):
            first = list(self.module_.first.parameters())
            rest = [
                p for p in self.module_.parameters() if all(p is not q for q in first)
            ]
            self.optimizer_ = torch.optim.SGD(first, lr=0.1, momentum=0.9)
            self.other_optimizer_ = torch.optim.Adam(rest, lr=0.01)
            return self

    net = Two(Mlp, criterion=nn.CrossEntropyLoss, max_epochs=2, verbose=0)
    pruner = PrunedClassifier(net, **QUICK).fit(*classes)
    assert sum(zeros_of(pruner).values()) == 90 + 34
    assert pruner.net_.other_optimizer_ is None
