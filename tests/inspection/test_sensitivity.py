"""Scores with one layer pruned at a time, against arithmetic by hand."""

import numpy as np
import pytest
import torch
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator

from sklearn_sparse_nn import (
    PrunedClassifier,
    PrunedRegressor,
    TabularNetClassifier,
    TabularNetRegressor,
)
from sklearn_sparse_nn.exceptions import UnknownNameError
from sklearn_sparse_nn.inspection import layer_sensitivity
from tests.pruning.nets import Conv, own_net, small

QUICK = {"n_steps": 2, "prune_epochs": 2, "finetune_epochs": 1, "random_state": 0}
LAYERS = ["hidden_0", "hidden_1", "output"]


@pytest.fixture(scope="module")
def net(classes):
    return small(random_state=0, max_epochs=10).fit(*classes)


def accuracy(net, weights, X, y):
    """Run the net in numpy."""
    module = net.net_.module_
    hidden = (X - module.standardize.mean.numpy()) / module.standardize.scale.numpy()
    for name in LAYERS:
        bias = getattr(module, name).bias.detach().numpy()
        hidden = hidden @ weights[name].T + bias
        if name != "output":
            hidden = np.maximum(hidden, 0)
    return (hidden.argmax(axis=1) == y).mean()


def weights_of(net):
    module = net.net_.module_
    return {name: getattr(module, name).weight.detach().numpy() for name in LAYERS}


def smallest_zeroed(weight, n_zeros):
    pruned = weight.copy().ravel()
    pruned[np.argsort(np.abs(pruned), kind="stable")[:n_zeros]] = 0
    return pruned.reshape(weight.shape)


@pytest.mark.parametrize("sparse", [False, True])
def test_scores_are_those_of_the_net_with_a_layer_zeroed_by_hand(net, classes, sparse):
    if sparse:
        net = PrunedClassifier(small(), sparsity=0.6, **QUICK).fit(*classes)
    weights = weights_of(net)
    table = layer_sensitivity(net, *classes, sparsities=[0.25, 0.5, 0.9, 0.97])
    assert table.columns.tolist() == ["layer", "sparsity", "n_nonzero", "score", "drop"]
    assert table["layer"].tolist() == np.repeat(LAYERS, 5).tolist()
    assert table["sparsity"].tolist() == [0, 0.25, 0.5, 0.9, 0.97] * 3
    for row in table.itertuples():
        size = weights[row.layer].size
        n_zeros = int(np.floor(row.sparsity * size + 0.5))
        pruned = smallest_zeroed(weights[row.layer], n_zeros)
        assert row.n_nonzero == np.count_nonzero(pruned)
        expected = accuracy(net, {**weights, row.layer: pruned}, *classes)
        assert row.score == pytest.approx(expected, abs=1e-12)
        assert row.drop == pytest.approx(net.score(*classes) - expected, abs=1e-12)


def test_at_sparsity_0_the_score_is_the_estimators_own(net, classes):
    table = layer_sensitivity(net, *classes, sparsities=[0.5], scoring="neg_log_loss")
    rows = table[table["sparsity"] == 0]
    assert len(rows) == 3
    assert rows["score"].nunique() == 1
    assert rows["drop"].eq(0).all()
    proba = net.predict_proba(classes[0])[np.arange(120), classes[1]]
    assert rows["score"].iloc[0] == pytest.approx(np.log(proba).mean(), rel=1e-5)


@pytest.mark.parametrize(
    ("importance", "granularity"),
    [
        ("magnitude", "block:4x1"),
        ("random", "unstructured"),
        ("gradient", "unstructured"),
        ("fisher", "input"),
        ("wanda", "unstructured"),
        ("obs", "unstructured"),
        ("synflow", "unstructured"),
        ("apoz", "neuron"),
        (lambda weight, *, grad: (weight * grad).abs(), "unstructured"),
    ],
)
def test_the_estimator_is_unchanged_and_counts_fall(
    net, classes, importance, granularity
):
    before = net.predict_proba(classes[0])
    state = {k: v.clone() for k, v in net.net_.module_.state_dict().items()}
    table = layer_sensitivity(
        net, *classes, importance=importance, granularity=granularity
    )
    again = layer_sensitivity(
        net, *classes, importance=importance, granularity=granularity
    )
    assert table.equals(again)
    assert np.array_equal(net.predict_proba(classes[0]), before)
    assert all((v == state[k]).all() for k, v in net.net_.module_.state_dict().items())
    for layer, rows in table.groupby("layer"):
        assert rows["n_nonzero"].is_monotonic_decreasing
        size = weights_of(net)[layer].size
        assert rows["n_nonzero"].iloc[0] == size
        assert 0 < rows["n_nonzero"].iloc[-1] < size / 2
        assert rows["drop"].iloc[0] == 0
    assert table["drop"].max() > 0.2
    assert ("output" in set(table["layer"])) is (granularity != "neuron")


def test_what_is_gathered_is_gathered_on_the_rows_given(net, classes):
    X, y = classes
    grads = {}

    def watched(weight, *, grad):
        grads[tuple(weight.shape)] = grad.clone()
        return (weight * grad).abs()

    layer_sensitivity(net, X, y, sparsities=[0.5], importance=watched)
    module = net.net_.module_
    loss = torch.nn.functional.cross_entropy(module(torch.tensor(X)), torch.tensor(y))
    for name in LAYERS:
        weight = getattr(module, name).weight
        (expected,) = torch.autograd.grad(loss, weight, retain_graph=True)
        assert torch.allclose(grads[tuple(weight.shape)], expected, atol=1e-6)


def test_refitting_what_lives_helps(values):
    X, y = values
    net = TabularNetRegressor((16,), lr=0.02, random_state=0).fit(X, y)
    drop = {
        name: layer_sensitivity(net, X, y, sparsities=[0.5], importance=name)["drop"]
        for name in ("obs", "random")
    }
    assert drop["obs"].sum() < drop["random"].sum()


def test_dead_weights_stay_dead_and_count(classes):
    pruner = PrunedClassifier(small(), sparsity=0.8, **QUICK).fit(*classes)
    alive = {name: int(mask.sum()) for name, mask in pruner.masks_.items()}
    table = layer_sensitivity(pruner, *classes, sparsities=[0.1, 0.95])
    for layer, rows in table.groupby("layer"):
        assert rows["n_nonzero"].iloc[0] == alive[layer]
        size = pruner.masks_[layer].size
        assert rows["n_nonzero"].iloc[1] == min(alive[layer], round(0.9 * size))


def test_nets_of_ones_own_in_a_pruner(classes):
    net = own_net().fit(*classes)
    options = {"sparsity": 0.0, "prune_epochs": 0, "finetune_epochs": 0}
    pruner = PrunedClassifier(FrozenEstimator(net), **options).fit(*classes)
    assert np.array_equal(pruner.predict(classes[0]), net.predict(classes[0]))
    table = layer_sensitivity(pruner, *classes, importance="taylor")
    assert set(table["layer"]) == {"first", "last"}
    assert table["score"].iloc[0] == net.score(*classes)


def test_convolutions_and_regressors(values):
    X = np.random.default_rng(0).normal(size=(40, 64)).astype("float32")
    y = np.arange(40) % 10
    pruner = PrunedClassifier(own_net(Conv), sparsity=0.2, **QUICK).fit(X, y)
    table = layer_sensitivity(pruner, X, y, importance="wanda", sparsities=[0.5])
    assert table["n_nonzero"].tolist()[1::2] == [27, 1080]
    with pytest.raises(ValueError, match=r"'obs'.*\['conv'\]"):
        layer_sensitivity(pruner, X, y, importance="obs")
    X, y = values
    pruner = PrunedRegressor(
        TabularNetRegressor((8,), max_epochs=2), sparsity=0.2, **QUICK
    ).fit(X, y)
    table = layer_sensitivity(pruner, X, y, importance="snip")
    assert table["score"].iloc[0] == pruner.score(X, y)


def test_bad_input_is_refused(net, classes):
    X, y = classes
    with pytest.raises(UnknownNameError, match="Did you mean 'magnitude'"):
        layer_sensitivity(net, X, y, importance="magnitud")
    with pytest.raises(UnknownNameError, match="granularity"):
        layer_sensitivity(net, X, y, granularity="neurons")
    with pytest.raises(ValueError, match="'movement', which only training gives"):
        layer_sensitivity(net, X, y, importance="movement")
    with pytest.raises(ValueError, match="'initial', which only training gives"):
        layer_sensitivity(net, X, y, importance=lambda weight, *, initial: initial)
    with pytest.raises(ValueError, match="do not go together"):
        layer_sensitivity(net, X, y, importance="apoz")
    with pytest.raises(ValueError, match="do not go together"):
        layer_sensitivity(net, X, y, granularity="2:4", sparsities=[0.3])
    for bad in (1.0, -0.1, float("nan"), True, "0.5"):
        with pytest.raises(ValueError, match=r"range \[0.0, 1.0\)"):
            layer_sensitivity(net, X, y, sparsities=[bad])
    with pytest.raises(ValueError, match="empty"):
        layer_sensitivity(net, X, y, sparsities=[])
    with pytest.raises(ValueError, match="features"):
        layer_sensitivity(net, X[:, :3], y)
    with pytest.raises(NotFittedError):
        layer_sensitivity(TabularNetClassifier(), X, y)
    with pytest.raises(TypeError, match="FrozenEstimator"):
        layer_sensitivity(own_net().fit(X, y), X, y)


def test_without_pandas_it_says_what_to_install(net, classes, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r"sklearn-sparse-nn\[pandas\]"):
        layer_sensitivity(net, *classes)
