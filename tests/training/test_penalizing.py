"""Penalties at work: how far they go, and what they leave."""

import numpy as np
import pytest
import torch
from skorch import NeuralNetClassifier
from torch import nn

from sklearn_sparse_nn.nets.layers import prunable_layers
from sklearn_sparse_nn.training.holding import MaskHolder
from sklearn_sparse_nn.training.run import TrainingRun
from tests.training.penalized import (
    N_BATCHES,
    fraction_zero,
    in_doubles,
    make_net,
    penalty_of,
    same,
    train,
    weights_of,
)


@pytest.fixture(autouse=True)
def _own_rng():
    with torch.random.fork_rng(devices=[]):
        yield


# how far ----------------------------------------------------------------------


def driven_to(aim, kind, granularity, data, n_epochs=100):
    """Train towards a fraction of zeros; give the one that was reached."""
    net = make_net(torch.optim.Adam, lr=0.01)
    with penalty_of(kind, net, granularity) as penalty:
        penalty.set_target(aim, n_epochs * N_BATCHES)
        train(net, data, n_epochs)
        with penalty.prediction_weights():
            return fraction_zero(net)


@pytest.mark.parametrize("aim", [0.15, 0.3])
@pytest.mark.parametrize("kind", ["l1", "l0"])
def test_about_as_much_is_zero_as_was_aimed_at(classes, kind, aim):
    found = driven_to(aim, kind, "unstructured", in_doubles(classes))
    assert abs(found - aim) < 0.04


@pytest.mark.parametrize("kind", ["l1", "l0"])
def test_no_more_neurons_are_zero_than_were_aimed_at(classes, kind):
    found = driven_to(0.1, kind, "neuron", in_doubles(classes))
    # A neuron of the last layer is an eleventh of all weights.
    assert 0 < found <= 0.1 + 1 / 11


@pytest.mark.parametrize("kind", ["l1", "l0"])
def test_a_high_aim_makes_more_zeros_than_a_low_one(classes, kind):
    data = in_doubles(classes)
    low, high = (driven_to(aim, kind, "unstructured", data, 60) for aim in (0.1, 0.6))
    assert high > low + 0.2


@pytest.mark.parametrize("kind", ["l1", "l0"])
def test_nothing_goes_to_zero_without_an_aim(classes, kind):
    net = make_net(torch.optim.Adam, lr=0.01)
    with penalty_of(kind, net) as penalty:
        train(net, in_doubles(classes), 10)
        with penalty.prediction_weights():
            assert fraction_zero(net) < 0.02


@pytest.mark.parametrize("kind", ["l1", "l0"])
def test_the_net_still_learns(classes, kind):
    X, y = in_doubles(classes)
    net = make_net(torch.optim.Adam, lr=0.01)
    with penalty_of(kind, net) as penalty:
        penalty.set_target(0.6, 60 * N_BATCHES)
        train(net, (X, y), 60)
        penalty.fold()
    assert (net.predict(X) == y).mean() > 0.85


@pytest.mark.parametrize("kind", ["l1", "l0"])
def test_neurons_go_to_zero_as_a_whole(classes, kind):
    net = make_net(torch.optim.Adam, lr=0.01)
    with penalty_of(kind, net, "neuron") as penalty:
        penalty.set_target(0.5, 60 * N_BATCHES)
        train(net, in_doubles(classes), 60)
        with penalty.prediction_weights():
            zero = weights_of(net)[0] == 0
    assert zero.any()
    assert torch.equal(zero.any(1), zero.all(1))


@pytest.mark.parametrize("kind", ["l1", "l0"])
def test_the_same_seed_gives_the_same_weights(classes, kind):
    nets = make_net(), make_net()
    for net in nets:
        with penalty_of(kind, net) as penalty:
            penalty.set_target(0.5, 3 * N_BATCHES)
            train(net, in_doubles(classes), 3)
    assert same(*map(weights_of, nets))


def test_gates_are_not_drawn_from_the_global_generator(classes):
    net = make_net(iterator_train__generator=torch.Generator())
    run = TrainingRun(net, *in_doubles(classes))
    state = torch.get_rng_state()
    with penalty_of("l0", net) as penalty:
        penalty.set_target(0.5, N_BATCHES)
        run.epoch("prune")
    assert torch.equal(torch.get_rng_state(), state)


# what stays behind ------------------------------------------------------------


@pytest.mark.parametrize("error", [None, RuntimeError])
@pytest.mark.parametrize("kind", ["l1", "l0"])
def test_no_hook_and_no_callback_stays_behind(classes, kind, error):
    net = make_net()
    callbacks, keys = list(net.callbacks_), list(net.module_.state_dict())
    try:
        with penalty_of(kind, net) as penalty:
            penalty.set_target(0.5, N_BATCHES)
            train(net, in_doubles(classes))
            if error:
                raise error
    except RuntimeError:
        pass
    assert net.callbacks_ == callbacks
    assert not net.optimizer_._optimizer_step_post_hooks
    assert not net.optimizer_._optimizer_step_pre_hooks
    assert list(net.module_.state_dict()) == keys
    for module in net.module_.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


@pytest.mark.parametrize("kind", ["l1", "l0"])
def test_a_penalty_that_was_stopped_pushes_no_more(classes, kind):
    nets = make_net(), make_net()
    for net in nets:
        with penalty_of(kind, net) as penalty:
            penalty.set_target(0.5, 3 * N_BATCHES)
            train(net, in_doubles(classes), 3)
            if net is nets[0]:
                penalty.stop()
                train(net, in_doubles(classes))
    train(nets[1], in_doubles(classes))
    assert same(*map(weights_of, nets))


@pytest.mark.parametrize("kind", ["l1", "l0"])
def test_masks_hold_under_a_penalty(classes, kind):
    net = make_net(torch.optim.Adam, lr=0.01)
    layers = prunable_layers(net.module_)
    generator = torch.Generator().manual_seed(0)
    masks = {
        name: torch.rand(layer.weight.shape, generator=generator) > 0.5
        for name, layer in layers.items()
    }
    revived = []
    with MaskHolder(net, layers, masks), penalty_of(kind, net) as penalty:
        penalty.set_target(0.8, 3 * N_BATCHES)

        def look(*_):
            for name, layer in layers.items():
                revived.append(int(torch.count_nonzero(layer.weight[~masks[name]])))

        hook = net.optimizer_.register_step_post_hook(look)
        train(net, in_doubles(classes), 3)
        hook.remove()
    assert len(revived) == 2 * 3 * N_BATCHES
    assert not any(revived)


@pytest.mark.parametrize("kind", ["l1", "l0"])
def test_dead_weights_count_as_zero_towards_the_aim(classes, kind):
    net = make_net(torch.optim.Adam, lr=0.01)
    layers = prunable_layers(net.module_)
    masks = {
        name: torch.arange(layer.weight.numel()).reshape(layer.weight.shape) % 2 > 0
        for name, layer in layers.items()
    }
    with MaskHolder(net, layers, masks), penalty_of(kind, net) as penalty:
        penalty.set_target(0.5, 40 * N_BATCHES)  # no more than is masked already
        train(net, in_doubles(classes), 40)
        with penalty.prediction_weights():
            assert fraction_zero(net) < 0.52


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("kind", ["l1", "l0"])
def test_tables_of_embeddings_go_to_zero_too(kind, sparse):
    class Table(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(10, 3, sparse=sparse)

        def forward(self, X):
            return self.table(X).sum(1)

    rng = np.random.default_rng(0)
    X, y = rng.integers(0, 10, (40, 4)), rng.integers(0, 3, 40)
    net = NeuralNetClassifier(
        Table, criterion=nn.CrossEntropyLoss, lr=0.05, train_split=None, verbose=0
    ).initialize()
    with penalty_of(kind, net) as penalty:
        penalty.set_target(0.5, 150)
        train(net, (X, y), 150)
        with penalty.prediction_weights():
            assert 0 < fraction_zero(net) < 0.6
