"""Nets that are unusual, and lawful all the same."""

import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import KFold, cross_val_predict
from torch import nn

from sklearn_sparse_nn import PrunedClassifier, PrunedRegressor, TabularNetClassifier
from sklearn_sparse_nn._compat import InvalidParameterError
from tests.pruning.nets import Embedded, Mlp, own_net, own_regressor, small, zeros_of

QUICK = {
    "sparsity": 0.6,
    "allocation": "uniform",
    "n_steps": 2,
    "prune_epochs": 2,
    "finetune_epochs": 1,
    "random_state": 0,
}


class HeadFirst(nn.Module):
    """Lists its last layer first."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(16, 3)
        self.body = nn.Linear(8, 16)

    def forward(self, X):
        return self.head(torch.relu(self.body(X)))


class Helped(nn.Module):
    """Lists a layer last that only training calls."""

    def __init__(self):
        super().__init__()
        self.body = nn.Linear(8, 16)
        self.head = nn.Linear(16, 3)
        self.helper = nn.Linear(16, 3)

    def forward(self, X):
        hidden = torch.relu(self.body(X))
        return self.head(hidden) + (self.helper(hidden) if self.training else 0)


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(8, 8)
        self.last = nn.Linear(8, 3)

    def forward(self, X):
        return self.last(torch.relu(self.first(X)) + X)


@pytest.mark.parametrize("module", [HeadFirst, Helped])
def test_the_last_layer_is_the_one_that_runs_last(classes, module):
    X, y = classes
    pruner = PrunedClassifier(own_net(module), **QUICK).fit(X, y)
    body = pruner.net_.module_.body
    expected = torch.relu(body(torch.from_numpy(X))).detach().numpy()
    assert np.allclose(pruner.transform(X).toarray(), expected, atol=1e-6)
    assert len(pruner.get_feature_names_out()) == 16
    neurons = PrunedClassifier(own_net(module), granularity="neuron", **QUICK)
    assert "head" not in neurons.fit(X, y).masks_


@pytest.mark.filterwarnings(
    "ignore::sklearn_sparse_nn.exceptions.UnprunedWeightsWarning"
)
def test_a_layer_called_by_keyword_and_one_that_is_not_called(classes):
    class Odd(Mlp):
        def __init__(self):
            super().__init__()
            self.unused = nn.MultiheadAttention(4, 2)

        def forward(self, X):
            return self.last(input=torch.relu(self.first(X)))

    pruner = PrunedClassifier(own_net(Odd), **QUICK).fit(*classes)
    assert pruner.transform(classes[0]).shape == (120, 16)


# torch itself warns about its own parts when the compiler is first loaded.
@pytest.mark.filterwarnings("ignore")
def test_a_compiled_net_transforms_and_refits_after_it_predicted(classes):
    net = own_net(compile=True, compile__backend="eager", max_epochs=1)
    pruner = PrunedClassifier(net, **QUICK).fit(*classes)
    pruner.predict(classes[0])
    assert pruner.transform(classes[0]).shape == (120, 16)
    assert pruner.fit(*classes).transform(classes[0]).shape == (120, 16)


def test_spare_outputs_belong_to_no_class(classes):
    X, y = classes
    order = np.argsort(y, kind="stable")
    pruner = PrunedClassifier(own_net(), **QUICK)
    proba = pruner.fit(X[y < 2], y[y < 2]).predict_proba(X)
    assert proba.shape == (len(X), 2)
    assert np.allclose(proba.sum(1), 1, atol=1e-6)
    assert set(pruner.fit(X[:50], np.full(50, 7)).predict(X)) == {7}
    folds = KFold(3)
    sorted_proba = cross_val_predict(
        pruner, X[order], y[order] % 2, cv=folds, method="predict_proba"
    )
    assert sorted_proba.shape == (len(X), 2)


def test_a_net_that_branches_has_no_path_figures(classes):
    pruner = PrunedClassifier(own_net(Residual), **QUICK).fit(*classes)
    assert not hasattr(pruner, "feature_importances_")
    assert pruner.report()["effective_sparsity"].isna().all()


def test_a_sequential_of_the_user_has_path_figures(classes):
    module = nn.Sequential(
        nn.BatchNorm1d(8),
        nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.1)),
        nn.Linear(16, 3),
    )
    pruner = PrunedClassifier(own_net(module), **QUICK).fit(*classes)
    norm, (body, *_), head = pruner.net_.module_
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    mass = (head.weight.abs() @ body.weight.abs()).sum(0) * scale.abs()
    expected = (mass / mass.sum()).detach().numpy()
    assert np.allclose(pruner.feature_importances_, expected, rtol=1e-5)
    assert pruner.report()["effective_sparsity"].notna().all()


@pytest.mark.parametrize("layer", [nn.LayerNorm(8), nn.Flatten(), nn.Softmax(1)])
def test_steps_that_mix_inputs_have_no_path_figures(classes, layer):
    class Flip(nn.Module):
        def forward(self, X):
            return X.flip(1)

    first = Flip() if isinstance(layer, nn.Softmax) else layer
    module = nn.Sequential(first, nn.Linear(8, 3))
    pruner = PrunedClassifier(own_net(module), **QUICK).fit(*classes)
    assert not hasattr(pruner, "feature_importances_")


def test_a_layer_norm_between_layers_leaves_effective_sparsity_open(classes):
    pruner = PrunedClassifier(small(norm="layer"), **QUICK).fit(*classes)
    assert pruner.feature_importances_.sum() == pytest.approx(1)
    assert pruner.report()["effective_sparsity"].isna().all()


class Remembers(Mlp):
    """Leaves an activation, with its history, in an attribute."""

    def forward(self, X):
        self.hidden = torch.relu(self.first(X))
        return self.last(self.hidden)


def test_a_module_that_keeps_an_activation(classes):
    X, y = classes
    pruner = PrunedClassifier(own_net(Remembers), **QUICK).fit(X, y)
    pruner.report()
    assert pruner.transform(X).shape == (120, 16)
    again = PrunedClassifier(FrozenEstimator(pruner), **QUICK).fit(X, y)
    assert again.sparsity_ == pruner.sparsity_
    assert pickle.loads(pickle.dumps(again)).predict(X).shape == y.shape


def test_a_last_layer_that_sees_no_rows_gives_no_activations(classes):
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.each = nn.Linear(1, 3)

        def forward(self, X):
            return self.each(X.reshape(-1, 1)).reshape(len(X), 8, 3).mean(1)

    pruner = PrunedClassifier(own_net(Tokens), **{**QUICK, "sparsity": 1}).set_params(
        sparsity=0.3
    )
    pruner.fit(*classes)
    with pytest.raises(ValueError, match="960 rows reach it for a batch of 120"):
        pruner.transform(classes[0])


def test_a_net_with_a_fit_of_its_own_is_refused(classes):
    class Own(type(own_net())):
        def fit(self, X, y, **kwargs):
            return super().fit(X, y, **kwargs)

    net = Own(Mlp, criterion=nn.CrossEntropyLoss, verbose=0)
    with pytest.raises(TypeError, match="overrides fit,"):
        PrunedClassifier(net, **QUICK).fit(*classes)


def test_a_net_that_stops_itself(classes):
    class Own(type(own_net())):
        def on_epoch_end(self, net, **kwargs):
            super().on_epoch_end(net, **kwargs)
            if len(self.history) == 2:
                raise KeyboardInterrupt

    net = Own(
        Mlp, criterion=nn.CrossEntropyLoss, max_epochs=5, train_split=None, verbose=0
    )
    rows = PrunedClassifier(net, **QUICK).fit(*classes).history_
    assert [row["phase"] for row in rows].count("dense") == 2


def test_a_penalty_without_slope_at_zero(classes):
    class GroupLasso(type(own_net())):
        def get_loss(self, y_pred, y_true, *args, **kwargs):
            rows = self.module_.first.weight.square().sum(1).sqrt().sum()
            return super().get_loss(y_pred, y_true, *args, **kwargs) + 0.01 * rows

    net = GroupLasso(
        Mlp, criterion=nn.CrossEntropyLoss, max_epochs=2, train_split=None, verbose=0
    )
    pruner = PrunedClassifier(net, granularity="neuron", **QUICK).fit(*classes)
    assert np.isfinite(pruner.predict_proba(classes[0])).all()
    assert zeros_of(pruner)["first"] >= 0.6 * 128


def test_modules_in_double_precision(classes, values):
    class Double(Mlp):
        def __init__(self, n_outputs=3):
            super().__init__(n_outputs=n_outputs)
            self.double()

    pruner = PrunedClassifier(own_net(Double), **QUICK).fit(*classes)
    assert pruner.predict(classes[0]).shape == (120,)
    assert pruner.transform()["first"].dtype == np.float64
    regressor = own_regressor().set_params(module=Double)
    X, y = values
    assert PrunedRegressor(regressor, **QUICK).fit(X, y / y.std()).predict(X).ndim == 1


def test_whole_numbers_of_any_type_reach_an_embedding(classes):
    rng = np.random.default_rng(0)
    X, y = rng.integers(0, 12, size=(60, 4)), rng.integers(0, 3, size=60)
    pruner = PrunedClassifier(own_net(Embedded), **QUICK).fit(X, y)
    expected = pruner.predict_proba(X)
    frame = pd.DataFrame(X).astype("Int64")
    for rows in (X.astype(float), X.astype(np.uint16), X.tolist(), frame):
        again = PrunedClassifier(own_net(Embedded), **QUICK).fit(rows, y)
        assert np.array_equal(again.predict_proba(rows), expected)
        assert np.array_equal(pruner.predict_proba(rows), expected)
    with pytest.raises(ValueError, match="whole numbers"):
        pruner.predict(X + 0.5)


def test_a_module_that_picks_its_entries_out_of_floats(classes):
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(5, 4)
            self.head = nn.Linear(4 + 7, 3)

        def forward(self, X):
            entries = self.table(X[:, 0].long())
            return self.head(torch.cat([entries, X[:, 1:].float()], 1))

    X, y = classes[0].copy(), classes[1]
    X[:, 0] = np.arange(len(X)) % 5
    pruner = PrunedClassifier(own_net(Mixed), **QUICK).fit(X, y)
    assert np.array_equal(pruner.predict(X), pruner.predict(X.astype(float)))
    whole = pd.DataFrame(np.rint(X).astype(int))
    assert pruner.predict(whole).shape == y.shape


def test_a_frozen_net_of_a_local_class_with_a_function_inside(classes):
    class Local(Mlp):
        def __init__(self):
            super().__init__()
            self.act = lambda X: X.relu()

        def forward(self, X):
            return self.last(self.act(self.first(X)))

    X, y = classes
    net = own_net(Local).fit(X, y)
    before = net.module_.first.weight.detach().clone()
    pruner = PrunedClassifier(FrozenEstimator(net), **QUICK).fit(X, y)
    assert pruner.sparsity_ == pytest.approx(0.6, abs=0.01)
    assert torch.equal(net.module_.first.weight, before)


@pytest.mark.parametrize("sizes", [(0,), (8, -3), (16.5,), "16"])
def test_hidden_layer_sizes_that_cannot_be_built(classes, sizes):
    with pytest.raises(InvalidParameterError, match="'hidden_layer_sizes' parameter"):
        TabularNetClassifier(sizes).fit(*classes)
