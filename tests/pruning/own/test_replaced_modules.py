"""Callbacks that replace the module, its weights or the optimizer in a fit."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from skorch import NeuralNetRegressor
from skorch.callbacks import Callback, Initializer, InputShapeSetter
from torch import nn

from sklearn_sparse_nn import PrunedClassifier, PrunedRegressor
from sklearn_sparse_nn.pruning.run import PruningRun
from sklearn_sparse_nn.training.holding import MaskHolder
from tests.pruning.nets import Mlp, own_net, small

QUICK = {
    "sparsity": 0.8,
    "allocation": "uniform",
    "n_steps": 2,
    "prune_epochs": 2,
    "finetune_epochs": 2,
    "random_state": 0,
}


class Wide(Mlp):
    """A module whose width skorch's InputShapeSetter sets."""

    def __init__(self, input_dim=3, dropout=0.0):
        super().__init__(input_dim)
        self.drop.p = dropout


class At(Callback):
    """Calls a function of the net at a hook, in one epoch."""

    def __init__(self, hook, act, epoch=1):
        self.hook, self.act, self.epoch = hook, act, epoch


def _calls_at(hook):
    def call(self, net, *args, **kwargs):
        if hook == self.hook and (
            hook.startswith("on_train") or len(net.history) == self.epoch
        ):
            self.act(net)

    return call


for _hook in ("on_train_begin", "on_epoch_begin", "on_epoch_end", "on_train_end"):
    setattr(At, _hook, _calls_at(_hook))


def assert_zeros_are_masks(pruner):
    layers = dict(pruner.net_.module_.named_modules())
    n_zeros = 0
    for name, mask in pruner.masks_.items():
        weight = layers[name].weight.detach().numpy()
        assert np.array_equal(weight != 0, mask)
        n_zeros += int((~mask).sum())
    assert n_zeros == round(
        pruner.sparsity_ * sum(m.size for m in pruner.masks_.values())
    )
    assert n_zeros > 0


def new_dropout(net):
    net.set_params(module__dropout=0.1)


def new_layer(net):
    net.module_.first = nn.Linear(*reversed(net.module_.first.weight.shape))
    net.initialize_optimizer()


def new_weight(net):
    net.module_.last.weight = nn.Parameter(torch.randn_like(net.module_.last.weight))
    net.initialize_optimizer()


REPLACE = (new_dropout, new_layer, new_weight)


def test_a_width_that_is_set_when_training_begins(classes):
    net = own_net(Wide, callbacks=[InputShapeSetter()])
    pruner = PrunedClassifier(net, **QUICK).fit(*classes)
    assert pruner.masks_["first"].shape == (16, 8)
    assert_zeros_are_masks(pruner)


@pytest.mark.parametrize("act", REPLACE)
@pytest.mark.parametrize("importance", ["magnitude", "movement", "wanda"])
def test_a_module_replaced_when_training_begins(classes, act, importance):
    net = own_net(Wide, module__input_dim=8, callbacks=[At("on_train_begin", act)])
    pruner = PrunedClassifier(net, importance=importance, **QUICK).fit(*classes)
    assert_zeros_are_masks(pruner)


def test_the_width_of_a_regressor_is_set_when_training_begins(values):
    class Regressor(Wide):
        def __init__(self, input_dim=3):
            super().__init__(input_dim)
            self.last = nn.Linear(16, 1)

    X, y = values
    net = NeuralNetRegressor(
        Regressor,
        max_epochs=2,
        train_split=None,
        verbose=0,
        callbacks=[InputShapeSetter()],
    )
    pruner = PrunedRegressor(net, **QUICK).fit(X, (y / y.std()).astype(np.float32))
    assert_zeros_are_masks(pruner)


def test_a_searched_number_of_components_in_front(classes):
    net = own_net(Wide, max_epochs=1, callbacks=[InputShapeSetter()])
    pruner = PrunedClassifier(net, **QUICK)
    search = GridSearchCV(
        make_pipeline(PCA(), pruner), {"pca__n_components": [2, 5]}, cv=2,
        error_score="raise",
    ).fit(*classes)  # fmt: skip
    assert_zeros_are_masks(search.best_estimator_[-1])


def test_partial_fit_takes_the_width_of_the_first_chunk(classes):
    X, y = classes
    pruner = PrunedClassifier(
        own_net(Wide, callbacks=[InputShapeSetter()]), sparsity=0.5
    )
    pruner.partial_fit(X, y, classes=np.unique(y)).prune().partial_fit(X, y)
    assert_zeros_are_masks(pruner)


@pytest.mark.parametrize(
    "callback",
    [
        InputShapeSetter(),
        At("on_train_begin", new_dropout),
        Initializer("*weight", fn=nn.init.ones_),
    ],
)
def test_a_frozen_net_keeps_what_it_has_learnt(classes, callback):
    net = own_net(Wide, module__input_dim=8, max_epochs=5, callbacks=[callback])
    net.fit(*classes)
    before = net.module_.last.weight.detach().numpy().copy()
    still = {**QUICK, "prune_epochs": 0, "finetune_epochs": 0, "schedule": "oneshot"}
    pruner = PrunedClassifier(FrozenEstimator(net), **still).fit(*classes)
    after = pruner.net_.module_.last.weight.detach().numpy()
    alive = pruner.masks_["last"]
    assert np.array_equal(after[alive], before[alive])
    tuned = {**QUICK, "schedule": "oneshot", "prune_epochs": 0, "finetune_epochs": 1}
    pruner = PrunedClassifier(FrozenEstimator(net), **tuned).fit(*classes)
    after = pruner.net_.module_.last.weight.detach().numpy()
    assert np.abs(after - before)[pruner.masks_["last"]].max() < 0.1


def test_a_frozen_net_whose_new_module_does_not_fit_is_refused(classes):
    X, y = classes
    net = own_net(Wide, callbacks=[InputShapeSetter()]).fit(X[:, :5], y)
    with pytest.raises(ValueError, match="cannot predict rows of X, of shape"):
        PrunedClassifier(FrozenEstimator(net), **QUICK).fit(X, y)
    hook = At("on_train_begin", lambda net: net.set_params(module__width=5))
    net = own_net(callbacks=[hook]).set_params(module__width=7).initialize()
    with pytest.raises(ValueError, match="has replaced module_ when training began"):
        PrunedClassifier(FrozenEstimator(net), **QUICK).fit(X, y)


@pytest.mark.parametrize("act", REPLACE)
def test_a_module_replaced_in_the_dense_phase_is_pruned(classes, act):
    net = own_net(
        Wide, module__input_dim=8, callbacks=[At("on_epoch_begin", act, epoch=2)]
    )
    pruner = PrunedClassifier(net, **QUICK).fit(*classes)
    assert_zeros_are_masks(pruner)


def test_a_module_replaced_while_it_is_watched_is_refused(classes):
    net = own_net(
        Wide,
        module__input_dim=8,
        callbacks=[At("on_epoch_begin", new_dropout, epoch=2)],
    )
    with pytest.raises(RuntimeError, match="replaced the module in the dense phase"):
        PrunedClassifier(net, importance="movement", **QUICK).fit(*classes)


@pytest.mark.parametrize("act", REPLACE)
@pytest.mark.parametrize(("epoch", "phase"), [(4, "prune"), (7, "finetune")])
def test_a_weight_replaced_under_its_mask_is_refused(classes, act, epoch, phase):
    hook = At("on_epoch_begin", act, epoch=epoch)
    net = own_net(Wide, module__input_dim=8, callbacks=[hook])
    with pytest.raises(RuntimeError, match=f"was replaced in the {phase} phase"):
        PrunedClassifier(net, **QUICK).fit(*classes)


def mean_of_weights(net):
    net.module_ = deepcopy(net.module_)
    with torch.no_grad():
        for parameter in net.module_.parameters():
            parameter.add_(0.1)  # pruned weights, too


@pytest.mark.parametrize("n_epochs", [0, 2])
def test_a_module_replaced_when_training_ends_is_masked(classes, n_epochs):
    net = own_net(callbacks=[At("on_train_end", mean_of_weights)])
    options = {**QUICK, "finetune_epochs": n_epochs}
    assert_zeros_are_masks(PrunedClassifier(net, **options).fit(*classes))


def test_another_module_at_the_end_is_refused(classes):
    def other(net):
        net.module_ = nn.Sequential(net.module_)

    net = own_net(callbacks=[At("on_train_end", other)])
    with pytest.raises(RuntimeError, match="replaced when training ended"):
        PrunedClassifier(net, **QUICK).fit(*classes)


class CountsRevived(Callback):
    revived = 0

    def on_batch_end(self, net, training=False, **kwargs):
        holder = dict(net.callbacks_).get("masks")
        if training and holder is not None:
            for weight, alive in holder._held:
                type(self).revived += int((weight[alive == 0] != 0).sum())


def test_a_new_optimizer_keeps_the_masks(classes):
    class Counts(CountsRevived):
        pass

    def new_optimizer(net):
        net.initialize_optimizer()

    hook = At("on_epoch_begin", new_optimizer, epoch=5)
    net = own_net(callbacks=[hook, Counts])
    assert_zeros_are_masks(PrunedClassifier(net, **QUICK).fit(*classes))
    assert Counts.revived == 0


@pytest.mark.parametrize("penalty", ["l1", "l0"])
def test_a_new_optimizer_under_a_penalty_is_refused(classes, penalty):
    def new_optimizer(net):
        net.initialize_optimizer()

    hook = At("on_epoch_begin", new_optimizer, epoch=4)
    with pytest.raises(RuntimeError, match="has replaced the optimizer"):
        PrunedClassifier(
            own_net(callbacks=[hook]), penalty=penalty, **QUICK
        ).fit(*classes)  # fmt: skip


def test_zeros_are_masks_without_any_event(classes):
    class Padded(nn.Sequential):
        def __init__(self):
            super().__init__(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
            nn.init.zeros_(self[0].weight[3])

    X, y = classes
    pruner = PrunedClassifier(
        own_net(Padded, max_epochs=0), sparsity=0, prune_epochs=0, finetune_epochs=0
    ).fit(X, y)
    assert_zeros_are_masks(pruner)


def test_twin_that_looks_at_the_module_too_early_is_no_fit(classes, monkeypatch):
    """The known bad engine: masks are held in the module from before training."""
    monkeypatch.setattr(MaskHolder, "check", lambda *args: None)
    monkeypatch.setattr(MaskHolder, "follow", lambda self: None)
    hook = At("on_epoch_begin", new_dropout, epoch=4)
    pruner = PrunedClassifier(
        own_net(Wide, module__input_dim=8, callbacks=[hook]), **QUICK
    )
    with pytest.raises(RuntimeError, match="not zero exactly where its mask says"):
        pruner.fit(*classes)
    assert not hasattr(pruner, "net_")


def test_an_earlier_fit_survives_a_refusal(classes, monkeypatch):
    pruner = PrunedClassifier(small(), **QUICK).fit(*classes)
    before = pruner.predict_proba(classes[0])
    monkeypatch.setattr(PruningRun, "end", lambda self, **kwargs: spoil(self.net))

    def spoil(net):
        with torch.no_grad():
            net.module_.output.weight.add_(1.0)

    with pytest.raises(RuntimeError, match="not zero exactly"):
        pruner.fit(*classes)
    assert np.array_equal(pruner.predict_proba(classes[0]), before)
