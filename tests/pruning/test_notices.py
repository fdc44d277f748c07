"""What a net will not be, though it was asked for, is said once."""

import warnings

import numpy as np
import pytest
import torch
from sklearn.frozen import FrozenEstimator
from torch import nn

from sklearn_sparse_nn import PrunedClassifier
from sklearn_sparse_nn.exceptions import LayerCollapseWarning, UnprunedWeightsWarning
from tests.pruning.nets import own_net, small

QUICK = {"n_steps": 2, "prune_epochs": 2, "finetune_epochs": 1, "random_state": 0}


class Mixed(nn.Module):
    """Takes 8 columns through a layer of one kind, and then a Linear layer."""

    def __init__(self, kind="gru"):
        super().__init__()
        self.kind = kind
        if kind in ("gru", "lstm", "rnn"):
            make = {"gru": nn.GRU, "lstm": nn.LSTM, "rnn": nn.RNN}[kind]
            self.inner = make(2, 6, batch_first=True)
        elif kind == "bilinear":
            self.inner = nn.Bilinear(8, 8, 6)
        elif kind == "attention":
            self.inner = nn.MultiheadAttention(2, 1, batch_first=True)
            self.widen = nn.Linear(2, 6)
        else:
            self.own = nn.Parameter(torch.randn(8, 6) / 3)
            self.bias = nn.Parameter(torch.zeros(6))
        self.last = nn.Linear(6, 3)

    def forward(self, X):
        if self.kind in ("gru", "lstm", "rnn"):
            hidden = self.inner(X.reshape(-1, 4, 2))[0][:, -1]
        elif self.kind == "bilinear":
            hidden = self.inner(X, X)
        elif self.kind == "attention":
            steps = X.reshape(-1, 4, 2)
            hidden = self.widen(self.inner(steps, steps, steps)[0].mean(1))
        else:
            hidden = X @ self.own + self.bias
        return self.last(torch.relu(hidden))


KINDS = {
    "gru": ["inner.weight_ih_l0", "inner.weight_hh_l0"],
    "lstm": ["inner.weight_ih_l0", "inner.weight_hh_l0"],
    "rnn": ["inner.weight_ih_l0", "inner.weight_hh_l0"],
    "bilinear": ["inner.weight"],
    "attention": ["inner.in_proj_weight"],
    "parameter": ["own"],
}


@pytest.mark.parametrize(("kind", "names"), KINDS.items(), ids=KINDS)
def test_weights_that_stay_dense_are_named_and_reported(classes, kind, names):
    pruner = PrunedClassifier(own_net(Mixed, module__kind=kind), sparsity=0.5, **QUICK)
    with pytest.warns(UnprunedWeightsWarning) as heard:
        pruner.fit(*classes)
    assert len(heard) == 1
    parameters = dict(pruner.net_.module_.named_parameters())
    n_dense = sum(parameters[name].numel() for name in names)
    n_all = sum(p.numel() for p in parameters.values() if p.ndim > 1)
    said = str(heard[0].message)
    assert said.startswith(f"{n_dense} of the net's {n_all} weights are not pruned")
    report = pruner.report()
    assert not report.loc[names, "pruned"].any()
    assert report["weights"].sum() == n_all
    zeros = sum(int((p == 0).sum()) for p in parameters.values() if p.ndim > 1)
    assert report["nonzeros"].sum() == n_all - zeros


def quietly(fit):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return fit()


def test_nothing_is_said_where_all_was_pruned_or_layers_were_chosen(classes):
    quietly(lambda: PrunedClassifier(small(), sparsity=0.5, **QUICK).fit(*classes))
    net = own_net(Mixed, module__kind="gru")
    for options in ({"layers": "last"}, {"sparsity": 0.0}):
        pruner = PrunedClassifier(net, **{"sparsity": 0.5, **QUICK, **options})
        quietly(lambda pruner=pruner: pruner.fit(*classes))


def test_prune_between_chunks_says_it_too(classes):
    X, y = classes
    pruner = PrunedClassifier(own_net(Mixed, module__kind="gru"), sparsity=0.5)
    quietly(lambda: pruner.partial_fit(X, y, classes=np.unique(y)))
    with pytest.warns(UnprunedWeightsWarning):
        pruner.prune()


@pytest.mark.parametrize("asked", [0.3, 200, {"*": 0.3}])
def test_a_frozen_net_that_is_sparser_already_says_so(classes, asked):
    first = PrunedClassifier(
        small(), sparsity=0.8, allocation="uniform", **QUICK
    ).fit(*classes)  # fmt: skip
    again = PrunedClassifier(FrozenEstimator(first), sparsity=asked, **QUICK)
    with pytest.warns(UserWarning, match="What is zero stays zero"):
        again.fit(*classes)
    assert again.sparsity_ == first.sparsity_


def test_a_frozen_net_asked_for_as_much_or_more_says_nothing(classes):
    first = PrunedClassifier(
        small(), sparsity=0.5, granularity="2:4", **QUICK
    ).fit(*classes)  # fmt: skip
    for asked in (0.5, 0.6):
        again = PrunedClassifier(FrozenEstimator(first), sparsity=asked, **QUICK)
        quietly(lambda again=again: again.fit(*classes))


def test_a_count_that_looks_like_a_percentage_is_said(classes):
    net = small(hidden_layer_sizes=(40, 40))  # 2,040 weights
    pruner = PrunedClassifier(net, sparsity=90, allocation="uniform", **QUICK)
    with pytest.warns(UserWarning, match="keeps 90 weights of 2040.*sparsity=0.9"):
        pruner.fit(*classes)
    assert pruner.n_nonzero_ == 90
    pruner.set_params(sparsity=600)
    quietly(lambda: pruner.fit(*classes))
    pruner.set_params(sparsity=90, estimator=small())  # a count in so small a net
    quietly(lambda: pruner.fit(*classes))


def test_a_layer_that_a_count_empties_says_that_it_was_a_count(classes):
    pruner = PrunedClassifier(small(), sparsity=4, allocation="global", **QUICK)
    with pytest.warns(LayerCollapseWarning, match="sparsity=4 is a number of weights"):
        pruner.fit(*classes)
