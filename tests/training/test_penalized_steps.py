"""Steps of training under an L1 and an L0 penalty."""

import numpy as np
import pytest
import torch
from skorch.callbacks import Callback
from skorch.dataset import ValidSplit
from torch import nn
from torch.func import functional_call

from sklearn_sparse_nn.core.granularity import resolve_granularity
from sklearn_sparse_nn.core.penalties import mean_gate, sample_gate
from sklearn_sparse_nn.nets.layers import prunable_layers
from sklearn_sparse_nn.training.run import TrainingRun
from tests.training.penalized import (
    BATCH,
    N_BATCHES,
    SEED,
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


# L1 ---------------------------------------------------------------------------


def test_an_l1_step_takes_the_same_from_every_weight_of_the_optimizers_step(classes):
    plain, pushed = make_net(), make_net()
    X, y = in_doubles(classes)
    data = X[:BATCH], y[:BATCH]
    before = weights_of(plain)
    train(plain, data)
    with penalty_of("l1", pushed) as penalty:
        penalty.set_target(0.9, 1)
        train(pushed, data)
    stepped = weights_of(plain)
    after = weights_of(pushed)
    flat = [torch.cat([w.ravel() for w in ws]).numpy() for ws in (stepped, after)]
    taken = np.abs(flat[0]) - np.abs(flat[1])
    threshold = taken.max()
    expected = np.sign(flat[0]) * np.maximum(np.abs(flat[0]) - threshold, 0)
    np.testing.assert_allclose(flat[1], expected, atol=1e-12)
    changes = flat[0] - torch.cat([w.ravel() for w in before]).numpy()
    assert 0 < threshold <= np.sqrt((changes[changes != 0] ** 2).mean())


def test_enough_zeros_are_not_pushed(classes):
    nets = make_net(), make_net()
    for net in nets:
        with torch.no_grad():
            net.module_[0].weight[:20] = 0.0
            net.module_[0].bias[:20] = -100.0  # dead, so they get no gradient
    with penalty_of("l1", nets[0]) as penalty:
        penalty.set_target(0.3, 2 * N_BATCHES)
        train(nets[0], in_doubles(classes), 2)
    train(nets[1], in_doubles(classes), 2)
    assert same(*map(weights_of, nets))


def test_what_l1_shows_and_folds_are_the_weights_themselves(classes):
    net = make_net(torch.optim.Adam, lr=0.01)
    with penalty_of("l1", net) as penalty:
        penalty.set_target(0.6, 30 * N_BATCHES)
        train(net, in_doubles(classes), 30)
        before = weights_of(net)
        penalty.fold()
        with penalty.prediction_weights():
            assert same(weights_of(net), before)
    assert fraction_zero(net) > 0.2


# L0 ---------------------------------------------------------------------------


class Watcher(Callback):
    """Notes weights in forward passes, at the optimizer's step and after batches."""

    def __init__(self, net):
        self.net = net
        self.ran, self.stepped, self.after = [], [], []
        self.grads, self.at_step = [], []
        self.hooks = [
            net.module_.register_forward_pre_hook(self.run),
            net.optimizer_.register_step_post_hook(self.after_step),
        ]
        net.callbacks_.append(("watcher", self))

    def run(self, *_):
        self.ran.append(weights_of(self.net))

    def on_grad_computed(self, net, *args, **kwargs):
        self.at_step.append(weights_of(self.net))
        layers = prunable_layers(self.net.module_).values()
        self.grads.append([layer.weight.grad.clone() for layer in layers])

    def after_step(self, *_):
        self.stepped.append(weights_of(self.net))

    def on_batch_end(self, net, *args, **kwargs):
        self.after.append(weights_of(self.net))

    def remove(self):
        for hook in self.hooks:
            hook.remove()


def drawn_gates(weights, gates=None):
    """Draw gates as the penalty's first step does."""
    generator = torch.Generator().manual_seed(SEED)
    noise = [torch.rand(weight.shape, generator=generator) for weight in weights]
    locations = gates or [torch.full_like(weight, 2.5) for weight in weights]
    return [
        sample_gate(location, uniform.clamp(1e-6, 1 - 1e-6))
        for location, uniform in zip(locations, noise, strict=True)
    ]


def test_a_forward_pass_multiplies_the_weights_by_drawn_gates(classes):
    net = make_net()
    raw = weights_of(net)
    watcher = Watcher(net)
    with penalty_of("l0", net):
        train(net, in_doubles(classes))
    gates = drawn_gates(raw)
    assert any((gate == 0).any() for gate in gates)
    for ran, weight, gate in zip(watcher.ran[0], raw, gates, strict=True):
        torch.testing.assert_close(ran, weight * gate, rtol=1e-12, atol=0)
    watcher.remove()


def loss_through(net, weights, X, y):
    layers = prunable_layers(net.module_)
    named = {
        f"{name}.weight": weight for name, weight in zip(layers, weights, strict=True)
    }
    biases = {
        key: value.detach()
        for key, value in net.module_.named_parameters()
        if key.endswith("bias")
    }
    outputs = functional_call(net.module_, {**named, **biases}, (torch.as_tensor(X),))
    return nn.functional.cross_entropy(outputs, torch.as_tensor(y))


@pytest.mark.parametrize("granularity", ["unstructured", "neuron", "block:2x3"])
def test_weights_get_the_slope_of_the_loss_through_their_gates(classes, granularity):
    X, y = in_doubles(classes)
    net = make_net()
    raw = [weight.requires_grad_() for weight in weights_of(net)]
    biases = {k: p.detach().clone() for k, p in net.module_.named_parameters()}
    watcher = Watcher(net)
    with penalty_of("l0", net, granularity):
        train(net, (X, y))
    watcher.remove()
    net.module_.load_state_dict(biases)
    pairs = zip(watcher.ran[0], raw, strict=True)
    gates = [(ran / weight).detach() for ran, weight in pairs]
    gated = [weight * gate for weight, gate in zip(raw, gates, strict=True)]
    expected = torch.autograd.grad(loss_through(net, gated, X[:20], y[:20]), raw)
    assert any((gate != 1).any() for gate in gates)
    for found, slope in zip(watcher.grads[0], expected, strict=True):
        torch.testing.assert_close(found, slope, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("granularity", ["unstructured", "neuron", "block:2x3"])
def test_gates_get_the_slope_of_the_loss_by_their_locations(classes, granularity):
    X, y = in_doubles(classes)
    net = make_net()
    raw, part = weights_of(net), resolve_granularity(granularity)
    penalty = penalty_of("l0", net, granularity)
    first = {k: p.detach().clone() for k, p in net.module_.named_parameters()}
    with penalty:
        train(net, (X[:BATCH], y[:BATCH]))  # without an aim nothing pushes
    found = [gates.grad for gates in penalty._gates.values()]
    net.module_.load_state_dict(first)
    locations = [torch.full_like(slope, 2.5).requires_grad_() for slope in found]
    drawn = drawn_gates(locations, locations)
    gated = [
        weight * part.expand(gate, weight.shape)
        for weight, gate in zip(raw, drawn, strict=True)
    ]
    loss = loss_through(net, gated, X[:BATCH], y[:BATCH])
    expected = torch.autograd.grad(loss, locations)
    assert any((slope != 0).any() for slope in expected)
    for one, two in zip(found, expected, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-7, atol=1e-12)


def test_the_optimizer_and_what_comes_between_batches_see_the_raw_weights(classes):
    net = make_net()
    raw = weights_of(net)
    watcher = Watcher(net)
    with penalty_of("l0", net) as penalty:
        penalty.set_target(0.8, 5 * N_BATCHES)
        train(net, in_doubles(classes), 5)
    watcher.remove()
    assert same(watcher.at_step[0], raw)
    assert len(watcher.after) == 5 * N_BATCHES
    for before, after in zip(watcher.stepped[:-1], watcher.at_step[1:], strict=True):
        assert same(before, after)
    for stepped, after in zip(watcher.stepped, watcher.after, strict=True):
        assert same(stepped, after)


def half_pruned(net, data):
    """Train a net until a good part of its gates is closed."""
    penalty = penalty_of("l0", net)
    with penalty:
        penalty.set_target(0.6, 20 * N_BATCHES)
        train(net, data, 25)
    return penalty


def test_weights_are_shown_for_a_while_as_they_predict(classes):
    net = make_net(torch.optim.Adam, lr=0.01)
    penalty = half_pruned(net, in_doubles(classes))
    raw = weights_of(net)
    gates = [mean_gate(g.detach()) for g in penalty._gates.values()]
    with penalty.prediction_weights():
        shown = weights_of(net)
    assert same(weights_of(net), raw)
    assert any((gate == 0).any() for gate in gates)
    assert any(((gate > 0) & (gate < 1)).any() for gate in gates)
    assert same(shown, [w * g for w, g in zip(raw, gates, strict=True)])


def test_weights_come_back_after_an_error_while_they_are_shown(classes):
    net = make_net(torch.optim.Adam, lr=0.01)
    penalty = half_pruned(net, in_doubles(classes))
    raw = weights_of(net)
    with pytest.raises(RuntimeError), penalty.prediction_weights():
        raise RuntimeError
    assert same(weights_of(net), raw)


def test_folding_leaves_the_weights_as_they_predict(classes):
    net = make_net(torch.optim.Adam, lr=0.01)
    penalty = half_pruned(net, in_doubles(classes))
    with penalty.prediction_weights():
        shown = weights_of(net)
    penalty.fold()
    assert same(weights_of(net), shown)
    penalty.on_batch_end(net)
    assert same(weights_of(net), shown)


def test_folded_weights_are_shown_as_they_are(classes):
    # The last event folds, and then decides on what is shown.
    net = make_net(torch.optim.Adam, lr=0.01)
    penalty = half_pruned(net, in_doubles(classes))
    penalty.fold()
    folded = weights_of(net)
    with penalty.prediction_weights():
        assert same(weights_of(net), folded)
    assert same(weights_of(net), folded)


def test_validation_runs_on_mean_gates_and_puts_the_weights_back(classes):
    net = make_net(train_split=ValidSplit(4, stratified=True))
    data = in_doubles(classes)
    penalty = half_pruned(net, data)
    with penalty:
        watcher = Watcher(net)
        raw = weights_of(net)
        with penalty.prediction_weights():
            shown = weights_of(net)
        net.run_single_epoch(
            TrainingRun(net, *data)._valid, False, "valid", net.validation_step
        )
    watcher.remove()
    assert watcher.ran
    assert all(same(ran, shown) for ran in watcher.ran)
    assert same(weights_of(net), raw)


class Stop(Callback):
    def __init__(self, error):
        self.error = error

    def on_batch_begin(self, net, *args, **kwargs):
        raise self.error


def test_an_error_in_a_training_step_leaves_the_raw_weights(classes):
    net = make_net(callbacks=[Stop(RuntimeError())])
    raw = weights_of(net)
    with pytest.raises(RuntimeError), penalty_of("l0", net):
        train(net, in_doubles(classes))
    assert same(weights_of(net), raw)


def test_a_callbacks_wish_to_stop_leaves_the_raw_weights(classes):
    net = make_net(callbacks=[Stop(KeyboardInterrupt())])
    raw = weights_of(net)
    with penalty_of("l0", net):
        train(net, in_doubles(classes), 2)  # the run goes on with another epoch
    assert same(weights_of(net), raw)
