"""Gathering leaves no trace, and gathers what is asked for."""

from contextlib import contextmanager

import numpy as np
import pytest
import torch
from skorch.callbacks import Callback
from torch import nn

from sklearn_sparse_nn import TabularNetClassifier
from sklearn_sparse_nn.core.importance import STATISTICS
from sklearn_sparse_nn.nets.layers import prunable_layers
from sklearn_sparse_nn.nets.targets import Labels
from sklearn_sparse_nn.statistics.gathering import GATHERED, gather
from tests.statistics.nets import (
    N_ROWS,
    Summed,
    assert_by_layer,
    gathered,
    mlp,
    net_of,
    rows,
)


@pytest.fixture(autouse=True)
def _own_rng():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(8, 6)
        self.norm = nn.BatchNorm1d(6)
        self.drop = nn.Dropout(0.5)
        self.last = nn.Linear(6, 3)

    def forward(self, X):
        return self.last(self.drop(torch.relu(self.norm(self.first(X)))))


# no trace ---------------------------------------------------------------------


class Counting(Callback):
    heard = 0

    def on_batch_begin(self, net, **kwargs):
        Counting.heard += 1

    def on_grad_computed(self, net, *args, **kwargs):
        Counting.heard += 1


@contextmanager
def unchanged(net):
    """See that nothing of a net or of the global generators differs afterwards."""
    parameters = [p.clone() for p in net.module_.parameters()]
    for parameter in net.module_.parameters():
        parameter.grad = torch.ones_like(parameter)
    buffers = [b.clone() for b in net.module_.buffers()]
    modes = [m.training for m in net.module_.modules()]
    settings = {key: value for key, value in vars(net).items() if key != "history_"}
    callbacks, heard = list(net.callbacks_), Counting.heard
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()  # noqa: NPY002
    yield
    after = np.random.get_state()  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert all(np.array_equal(a, b) for a, b in zip(after, numpy_state, strict=True))
    assert (net.callbacks_, Counting.heard) == (callbacks, heard)
    assert {k: v for k, v in vars(net).items() if k != "history_"} == settings
    assert [m.training for m in net.module_.modules()] == modes
    assert all(map(torch.equal, net.module_.buffers(), buffers))
    assert all(map(torch.equal, net.module_.parameters(), parameters))
    for parameter in net.module_.parameters():
        assert torch.equal(parameter.grad, torch.ones_like(parameter))
    for module in net.module_.modules():
        hooks = module._forward_hooks, module._forward_pre_hooks
        assert not any((*hooks, module._backward_hooks))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", GATHERED)
def test_gathering_changes_nothing(classes, name, training):
    net = net_of(Normed(), callbacks=[Counting()])
    net.module_.train(training)
    net.module_.drop.eval()
    with unchanged(net):
        gathered(net, *classes, name)


@pytest.mark.parametrize("name", GATHERED)
def test_gathering_is_the_same_twice_and_in_any_mode(classes, name):
    net = net_of(Normed())
    net.module_.train()
    first = gathered(net, *classes, name)
    net.module_.eval()
    second = gathered(net, *classes, name)
    assert all(torch.equal(first[layer], second[layer]) for layer in first)


def test_hooks_go_even_after_an_error():
    net = net_of(mlp(nn.ReLU()))
    X, y = rows(4)
    for name in GATHERED:
        with pytest.raises(RuntimeError), unchanged(net):
            gathered(net, X[:, :3], y, name)


def test_what_is_gathered_has_no_history_of_autograd():
    net = net_of(mlp(nn.ReLU()))
    found = gathered(net, *rows(4), *GATHERED)
    assert not any(t.requires_grad for stat in found.values() for t in stat.values())


def test_every_gathered_statistic_is_a_known_one():
    assert set(GATHERED) <= set(STATISTICS)


def test_only_what_is_asked_for_is_gathered():
    net = net_of(mlp(nn.ReLU()))
    assert gathered(net, *rows(4), "grad", "input_norm").keys() == {
        "grad",
        "input_norm",
    }
    assert gather(net, None, prunable_layers(net.module_), ()) == {}


def test_only_the_layers_asked_for_are_looked_at():
    net = net_of(mlp(nn.ReLU()))
    layers = {"2": prunable_layers(net.module_)["2"]}
    found = gathered(net, *rows(4), *GATHERED, layers=layers)
    assert all(list(stat) == ["2"] for stat in found.values())


def test_statistics_gathered_together_are_those_gathered_alone():
    net = net_of(mlp(nn.ReLU()))
    together = gathered(net, *rows(4), *GATHERED)
    for name, stat in together.items():
        alone = gathered(net, *rows(4), name)
        assert_by_layer(stat, alone.values())


def test_dropout_is_off():
    net = net_of(mlp(nn.ReLU(), nn.Dropout(0.5)))
    plain = net_of(mlp(nn.ReLU()))
    plain.module_[0], plain.module_[2] = net.module_[0], net.module_[3]
    net.module_.train()
    ours = gathered(net, *rows(4), *GATHERED)
    others = gathered(plain, *rows(4), *GATHERED)
    for name, stat in ours.items():
        assert_by_layer(stat, others[name].values())


def test_rows_taken_one_by_one_for_one_statistic_do_not_slow_the_next():
    class Asking(Summed):
        def forward(self, X):
            assert (
                float(X.abs().sum()) >= 0
            )  # a number, of which rows at once have many
            return super().forward(X)

    net = net_of(Asking(nn.Conv1d(2, 4, 3), 4))
    n_calls = []
    net.module_.register_forward_hook(lambda *_: n_calls.append(1))
    X, y = rows(2, 6)
    X = X.astype(np.float32)
    gathered(net, X, y, "input_norm")
    n_batches = len(n_calls)
    gathered(net, X, y, "grad_sq", "input_norm")
    assert n_batches == 3
    assert len(n_calls) == n_batches + N_ROWS + n_batches


# our own net ------------------------------------------------------------------


@pytest.mark.parametrize("name", GATHERED)
def test_rows_that_fill_a_batch_up_are_not_counted(classes, name):
    X, y = classes
    X, y = X[:37], y[:37]  # not a multiple of rows_at_once
    estimator = TabularNetClassifier((7, 6), random_state=0)
    padded = estimator.build_net(X, y, Labels.of(y)).initialize()
    assert padded.rows_at_once > 1
    plain = net_of(padded.module_, batch_size=10)
    ours = gathered(padded, X, y, name)
    others = gathered(plain, X, y, name)
    for layer, value in ours.items():
        np.testing.assert_allclose(value, others[layer], rtol=2e-4, atol=1e-5)
