"""Pruned weights stay +0.0 whatever the optimizer does, and nothing stays behind."""

import numpy as np
import pytest
import torch
from skorch import NeuralNetClassifier
from torch import nn

from sklearn_sparse_nn.nets.layers import prunable_layers
from sklearn_sparse_nn.training.holding import MaskHolder
from sklearn_sparse_nn.training.run import TrainingRun

OPTIMIZERS = {
    "SGD with momentum": (torch.optim.SGD, {"momentum": 0.9, "weight_decay": 0.01}),
    "Nesterov": (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
    "Adam": (torch.optim.Adam, {}),
    "Adam with L2": (torch.optim.Adam, {"weight_decay": 0.1}),
    "AdamW": (torch.optim.AdamW, {"weight_decay": 0.1}),
    "AdamW fused": (torch.optim.AdamW, {"weight_decay": 0.1, "fused": True}),
    "Adamax": (torch.optim.Adamax, {}),
    "RMSprop": (torch.optim.RMSprop, {"momentum": 0.9, "centered": True}),
    "Adagrad": (torch.optim.Adagrad, {"initial_accumulator_value": 0.1}),
    "Adadelta": (torch.optim.Adadelta, {}),
    "Rprop": (torch.optim.Rprop, {}),
    "NAdam": (torch.optim.NAdam, {}),
    "AMSGrad": (torch.optim.Adam, {"amsgrad": True}),
    "LBFGS": (torch.optim.LBFGS, {}),
}


def make_net(optimizer, options, **kwargs):
    torch.manual_seed(0)
    return NeuralNetClassifier(
        nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3)),
        criterion=nn.CrossEntropyLoss,
        optimizer=optimizer,
        lr=0.05,
        train_split=None,
        verbose=0,
        **{f"optimizer__{key}": value for key, value in options.items()},
        **kwargs,
    ).initialize()


@pytest.fixture(autouse=True)
def _own_rng():
    with torch.random.fork_rng(devices=[]):
        yield


def random_masks(layers, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.rand(layer.weight.shape, generator=generator) > 0.7
        for name, layer in layers.items()
    }


def bits(tensor):
    return tensor.detach().numpy().view(np.int32)


class Watcher:
    """Looks at the weights after every optimizer step."""

    def __init__(self, net, layers, masks):
        self.revived = self.remembered = 0
        self.steps = 0

        def look(optimizer, *_):
            self.steps += 1
            for name, layer in layers.items():
                dead = ~masks[name]
                self.revived += int(np.count_nonzero(bits(layer.weight)[dead.numpy()]))
                for value in optimizer.state.get(layer.weight, {}).values():
                    if torch.is_tensor(value) and value.shape == dead.shape:
                        self.remembered += int(torch.count_nonzero(value[dead]))

        net.optimizer_.register_step_post_hook(look)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_pruned_weights_are_plus_zero_after_every_step(classes, name):
    net = make_net(*OPTIMIZERS[name])
    layers = prunable_layers(net.module_)
    TrainingRun(net, *classes).epoch("dense")  # fills the optimizer's memory
    masks = random_masks(layers)
    with MaskHolder(net, layers, masks):
        watcher = Watcher(net, layers, masks)
        run = TrainingRun(net, *classes)
        for _ in range(5):
            run.epoch("prune")
    assert watcher.steps >= 5
    assert watcher.revived == 0
    assert watcher.remembered == 0


class GradientsOnly(MaskHolder):
    """The known bad way: zero gradients, and trust the optimizer with the rest."""

    def apply(self):
        pass


@pytest.mark.parametrize("name", ["SGD with momentum", "Adam"])
def test_twin_masking_gradients_alone_revives_weights(classes, name):
    net = make_net(*OPTIMIZERS[name])
    layers = prunable_layers(net.module_)
    TrainingRun(net, *classes).epoch("dense")
    masks = random_masks(layers)
    with torch.no_grad():
        for key, layer in layers.items():
            layer.weight[~masks[key]] = 0.0
    with GradientsOnly(net, layers, masks):
        watcher = Watcher(net, layers, masks)
        TrainingRun(net, *classes).epoch("prune")
    assert watcher.revived > 0
    assert watcher.remembered > 0


def test_gradients_that_callbacks_see_are_those_of_living_weights(classes):
    from skorch.callbacks import Callback

    class Norm(Callback):
        dead = 0.0

        def on_grad_computed(self, net, named_parameters, **kwargs):
            for name, layer in layers.items():
                Norm.dead += float(layer.weight.grad[~masks[name]].abs().sum())

    net = make_net(torch.optim.SGD, {}, callbacks=[Norm()])
    layers = prunable_layers(net.module_)
    masks = random_masks(layers)
    with MaskHolder(net, layers, masks):
        TrainingRun(net, *classes).epoch("prune")
    assert Norm.dead == 0.0


def test_no_hook_and_no_callback_stays_behind(classes):
    net = make_net(torch.optim.SGD, {})
    layers = prunable_layers(net.module_)
    callbacks = list(net.callbacks_)
    keys = list(net.module_.state_dict())
    with MaskHolder(net, layers, random_masks(layers)):
        TrainingRun(net, *classes).epoch("prune")
    assert net.callbacks_ == callbacks
    assert not net.optimizer_._optimizer_step_post_hooks
    assert list(net.module_.state_dict()) == keys
    for module in net.module_.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


def test_nothing_stays_behind_after_an_error(classes):
    net = make_net(torch.optim.SGD, {})
    layers = prunable_layers(net.module_)
    callbacks = list(net.callbacks_)
    with pytest.raises(RuntimeError), MaskHolder(net, layers, random_masks(layers)):
        raise RuntimeError
    assert net.callbacks_ == callbacks
    assert not net.optimizer_._optimizer_step_post_hooks


def test_masks_of_ones_change_no_bit(classes):
    plain, held = make_net(torch.optim.Adam, {}), make_net(torch.optim.Adam, {})
    layers = prunable_layers(held.module_)
    ones = {n: torch.ones(p.weight.shape, dtype=torch.bool) for n, p in layers.items()}
    TrainingRun(plain, *classes).epoch("dense")
    with MaskHolder(held, layers, ones):
        TrainingRun(held, *classes).epoch("dense")
    parameters = zip(plain.module_.parameters(), held.module_.parameters(), strict=True)
    for one, two in parameters:
        assert np.array_equal(bits(one), bits(two))


def test_sparse_gradients_of_embeddings(classes):
    class Bag(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(10, 3, sparse=True)

        def forward(self, X):
            return self.table(X).sum(1)

    X = np.random.default_rng(0).integers(0, 10, size=(40, 4))
    y = np.random.default_rng(1).integers(0, 3, size=40)
    net = NeuralNetClassifier(
        Bag, criterion=nn.CrossEntropyLoss, lr=0.5, train_split=None, verbose=0
    ).initialize()
    layers = prunable_layers(net.module_)
    masks = {"table": torch.rand(3, 10) > 0.5}
    with MaskHolder(net, layers, masks):
        TrainingRun(net, X, y).epoch("prune")
    weight = net.module_.table.weight.detach()
    assert torch.count_nonzero(weight[~masks["table"].T]) == 0
    assert torch.count_nonzero(weight) > 0
