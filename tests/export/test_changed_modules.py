"""A module that is changed after the fit predicts by what it is now."""

import copy
import gc
import threading
from collections import deque
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from sklearn_sparse_nn import PrunedClassifier
from sklearn_sparse_nn.export import cache, predicting_model
from tests.pruning.nets import own_net


class Options(nn.Module):
    """Its attributes choose the activation."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(8, 9), nn.Linear(9, 3)
        self.list, self.dict, self.array = ["relu"], {"way": "relu"}, np.zeros(2)
        self.nested = {"ways": [("relu", 1.0)]}
        self.object = SimpleNamespace(way="relu")
        self.queue, self.zero = deque(["relu"]), 0.0
        self.tensor = torch.zeros(2)
        self.set, self.plain, self.act = {"relu"}, "relu", torch.relu
        self.hidden = [nn.Linear(2, 2)]  # not registered

    def forward(self, X):
        found = (
            (self.list, ["relu"]),
            (self.dict, {"way": "relu"}),
            (self.array.sum(), 0),
            (self.nested["ways"][0], ("relu", 1.0)),
            (self.object.way, "relu"),
            (self.queue[0], "relu"),
            (float(self.tensor.sum()), 0.0),
            (self.set, {"relu"}),
            (self.plain, "relu"),
            (np.signbit(self.zero), False),
            (self.hidden[0].out_features, 2),
        )
        same = all(bool(one == other) for one, other in found)
        return self.two(self.act(self.one(X)) if same else torch.tanh(self.one(X)))


@pytest.fixture(scope="module")
def fitted(classes):
    net = own_net(Options, max_epochs=1)
    options = {"prune_epochs": 1, "finetune_epochs": 0, "n_steps": 1}
    return PrunedClassifier(net, sparsity=0.5, random_state=0, **options).fit(*classes)


def change_new(module):
    module.queue.append("tanh")
    module.queue.popleft()


def grow_hidden(module):
    module.hidden[0].out_features = 3


def patch_forward(module):
    module.one.forward = lambda X: -nn.functional.linear(X, module.one.weight)


CHANGES = {
    "list": lambda m: m.list.append("tanh"),
    "element of a list": lambda m: m.list.__setitem__(0, "tanh"),
    "dict": lambda m: m.dict.update(way="tanh"),
    "array": lambda m: m.array.__setitem__(0, 1.0),
    "array through a view": lambda m: m.array[1:].fill(1.0),
    "nested": lambda m: m.nested["ways"].__setitem__(0, ("tanh", 1.0)),
    "object": lambda m: setattr(m.object, "way", "tanh"),
    "queue": change_new,
    "tensor": lambda m: m.tensor.data.add_(1),
    "set": lambda m: m.set.add("tanh"),
    "string": lambda m: setattr(m, "plain", "tanh"),
    "sign of zero": lambda m: setattr(m, "zero", -0.0),
    "function": lambda m: setattr(m, "act", torch.tanh),
    "object of a module that is not registered": grow_hidden,
    "forward of a layer": patch_forward,
}


def assert_predicts_as_torch(pruner, X):
    wanted = pruner.net_.predict_proba(X)
    np.testing.assert_allclose(pruner.predict_proba(X), wanted, rtol=0, atol=2e-6)
    return wanted


@pytest.fixture
def pruner(fitted):
    return copy.deepcopy(fitted)


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_changed_attribute_is_noticed(pruner, classes, change):
    X = classes[0]
    before = assert_predicts_as_torch(pruner, X)
    model = predicting_model(pruner)
    assert model is not None and predicting_model(pruner) is model
    change(pruner.net_.module_)
    assert not np.allclose(assert_predicts_as_torch(pruner, X), before)


@torch.no_grad()
def in_place(weight):
    weight.mul_(-1)


def set_data(weight):
    weight.data = -weight.data


def next_number(weight):
    flat = weight.detach().numpy().reshape(-1)
    flat[3] = np.nextafter(flat[3], np.float32(9))


def view_of_bits(weight):
    weight.detach().numpy().view(np.uint8)[0, 0] ^= 1


WRITES = {
    "in place": in_place,
    "to data": lambda w: w.data.mul_(-1),
    "another data": set_data,
    "to a numpy view": lambda w: w.detach().numpy().__imul__(-1),
    "rows swapped": lambda w: w.data.copy_(w.data.flip(0).clone()),
    "one number, by the last bit": next_number,
    "one bit": view_of_bits,
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_a_written_weight_is_noticed(pruner, write):
    model = predicting_model(pruner)
    assert predicting_model(pruner) is model
    write(pruner.net_.module_.two.weight)
    again = predicting_model(pruner)
    assert again is not model and predicting_model(pruner) is again


def test_a_hook_in_another_ones_place_is_noticed(pruner, classes):
    module, X = pruner.net_.module_, classes[0]
    handle = module.one.register_forward_hook(lambda m, args, out: out)
    assert_predicts_as_torch(pruner, X)
    handle.remove()
    module.one.register_forward_hook(lambda m, args, out: -out)
    assert_predicts_as_torch(pruner, X)


@pytest.mark.parametrize(
    "value",
    [threading.Lock(), (n for n in ()), [[n] for n in range(5_000)]],
    ids=["lock", "generator", "too many"],
)
def test_what_may_change_unseen_leaves_the_prediction_to_torch(pruner, classes, value):
    pruner.net_.module_.held = value
    assert predicting_model(pruner) is None
    assert_predicts_as_torch(pruner, classes[0])


def test_what_holds_itself_is_looked_at_once(pruner, classes):
    module, X = pruner.net_.module_, classes[0]
    module.list.append(module.list)
    module.object.owner = [module]
    module.method = module.forward
    assert predicting_model(pruner) is predicting_model(pruner) is not None
    before = assert_predicts_as_torch(pruner, X)
    module.list[:] = ["relu"]
    assert not np.allclose(assert_predicts_as_torch(pruner, X), before)


def test_no_module_is_kept_alive(fitted, classes):
    gc.collect()
    pruner = copy.deepcopy(fitted)
    pruner.net_.module_.method = pruner.net_.module_.forward
    pruner.predict(classes[0])
    n_models = len(cache._models)
    del pruner
    gc.collect()
    assert len(cache._models) == n_models - 1
