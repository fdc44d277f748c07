"""Methods under training steps, schedules and forwards that users write."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from skorch import NeuralNetClassifier
from skorch.callbacks import Callback, EarlyStopping, LRScheduler
from skorch.dataset import unpack_data
from torch import nn
from torch.nn import functional

from sklearn_sparse_nn import BatchIterator, PrunedClassifier
from sklearn_sparse_nn.core.allocation import Bounded
from sklearn_sparse_nn.core.schedules import Between
from tests.pruning.nets import own_net, small, zeros_of

QUICK = {"n_steps": 3, "prune_epochs": 3, "finetune_epochs": 1, "random_state": 0}


class PlainStep(NeuralNetClassifier):
    """A training step written by hand, which tells no callback of gradients."""

    def train_step(self, batch, **fit_params):
        self._set_training(True)
        self.optimizer_.zero_grad()
        X, y = unpack_data(batch)
        outputs = self.infer(X)
        loss = self.get_loss(outputs, y, X=X, training=True)
        loss.backward()
        self.optimizer_.step()
        return {"loss": loss, "y_pred": outputs}


class ReLUs(nn.Module):
    def __init__(self, last=None):
        super().__init__()
        self.a, self.b = nn.Linear(8, 16), nn.Linear(16, 12)
        self.c = nn.Linear(12, 3)
        self.last = last

    def forward(self, X):
        logits = self.c(torch.relu(self.b(torch.relu(self.a(X)))))
        return logits if self.last is None else self.last(logits, dim=1)


def plain(kind=PlainStep, **kwargs):
    return kind(
        ReLUs,
        criterion=nn.CrossEntropyLoss,
        optimizer=torch.optim.Adam,
        lr=0.01,
        max_epochs=3,
        train_split=None,
        verbose=0,
        iterator_train=BatchIterator,
        batch_size=20,
        **kwargs,
    )


class Moves(Callback):
    """Measures how far each epoch moves a weight."""

    far = ()

    def on_epoch_begin(self, net, **kwargs):
        self.before_ = net.module_.a.weight.detach().clone()

    def on_epoch_end(self, net, **kwargs):
        moved = (net.module_.a.weight.detach() - self.before_).abs().max()
        type(self).far = (*type(self).far, float(moved))


def test_gates_learn_and_weights_move_under_a_hand_written_step(classes):
    class Fresh(Moves):
        pass

    found = [
        PrunedClassifier(
            plain(kind, callbacks=[Fresh]),
            penalty="l0",
            schedule=Between("oneshot", begin=0.6),
            **QUICK,
        ).fit(*classes)
        for kind in (PlainStep, NeuralNetClassifier)
    ]
    assert all(far > 0 for far in Fresh.far)
    own, usual = (pruner.net_.module_.a.weight for pruner in found)
    assert torch.equal(own, usual)


def test_movement_is_seen_under_a_hand_written_step(classes):
    seen = []

    def spy(weight, *, movement):
        seen.append(movement)
        return movement

    PrunedClassifier(plain(), importance=spy, **QUICK).fit(*classes)
    assert all(movement.any() for movement in seen)


@pytest.mark.parametrize("penalty", ["l1", "l0"])
def test_a_net_can_be_copied_in_the_middle_of_a_penalty(classes, penalty):
    copies = []

    class Copies(Callback):
        def on_epoch_end(self, net, **kwargs):
            copies.append(deepcopy(net))

    net = small(callbacks=[Copies])
    PrunedClassifier(net, penalty=penalty, **QUICK).fit(*classes)
    assert len(copies) == 7


@pytest.mark.parametrize("penalty", ["l1", "l0"])
def test_a_penalty_leaves_frozen_weights_alone(classes, penalty):
    class Freezes(Callback):
        def on_train_begin(self, net, **kwargs):
            net.module_.a.weight.requires_grad_(False)
            type(self).start = net.module_.a.weight.detach().clone()

    pruner = PrunedClassifier(
        own_net(ReLUs, callbacks=[Freezes]), penalty=penalty, sparsity=0.5, **QUICK
    ).fit(*classes)
    mask = torch.from_numpy(pruner.masks_["a"])
    assert torch.equal(pruner.net_.module_.a.weight, Freezes.start * mask)


def test_paths_end_at_the_last_layer_whatever_comes_after(classes):
    def masks(last, criterion):
        net = own_net(ReLUs, module__last=last, criterion=criterion)
        once = {"schedule": "oneshot", "prune_epochs": 0, "finetune_epochs": 0}
        pruner = PrunedClassifier(
            net,
            sparsity=0.5,
            importance="synflow",
            dense_epochs=0,
            random_state=0,
            **once,
        )
        return pruner.fit(*classes).masks_

    expected = masks(None, nn.CrossEntropyLoss)
    found = masks(functional.softmax, nn.NLLLoss)
    assert all(np.array_equal(found[name], mask) for name, mask in expected.items())


def test_paths_that_cannot_be_followed_are_refused(classes):
    class Centred(ReLUs):
        def forward(self, X):
            return super().forward(X - X.mean(1, keepdim=True))

    with pytest.raises(ValueError, match="paths through Centred cannot be followed"):
        PrunedClassifier(own_net(Centred), importance="synflow", **QUICK).fit(*classes)


@pytest.mark.parametrize("k", [3, 4, 5])
def test_layers_saved_from_collapse_are_paid_for_by_others(classes, k):
    pruner = PrunedClassifier(small(), sparsity=k, allocation="uniform", **QUICK)
    with pytest.warns(UserWarning, match="would lose every weight"):
        pruner.fit(*classes)
    assert pruner.n_nonzero_ == k


def test_a_bound_empties_no_layer(classes):
    pruner = PrunedClassifier(
        small(hidden_layer_sizes=(1,)),
        sparsity=0.3,
        layers="hidden_0",
        allocation=Bounded("global", min_sparsity=0.05),
        **QUICK,
    ).fit(*classes)
    assert pruner.n_nonzero_ == 6


@pytest.mark.parametrize("inner", ["nope", Bounded("nope"), 3])
def test_bad_parts_inside_parts_are_refused_before_training(classes, inner):
    class Fails(Callback):
        def on_epoch_begin(self, net, **kwargs):
            raise AssertionError("trained")

    pruner = PrunedClassifier(
        small(callbacks=[Fails]), allocation=Bounded(inner), **QUICK
    )
    with pytest.raises(ValueError, match=r"Unknown allocation|a name or a function"):
        pruner.fit(*classes)


@pytest.mark.parametrize(
    "part", [{"schedule": lambda p: torch.rand(1) * 0 + 1}, {"importance": "random"}]
)
def test_a_users_schedule_changes_no_global_random_state(classes, part):
    before = torch.random.get_rng_state()
    PrunedClassifier(small(), **{**QUICK, **part}).fit(*classes)
    assert torch.equal(before, torch.random.get_rng_state())


class Unsized:
    """Batches whose number is not known beforehand."""

    def __init__(self, dataset, **kwargs):
        self.batches = BatchIterator(dataset, **kwargs)

    def __iter__(self):
        return iter(self.batches)

    def __len__(self):
        raise TypeError("no length")


def test_an_iterator_without_length_does_but_for_a_penalty(classes):
    net = own_net(ReLUs, iterator_train=Unsized)
    net.set_params(iterator_train__shuffle=False)
    PrunedClassifier(net, **QUICK).fit(*classes)
    with pytest.raises(ValueError, match="does not know its number of batches"):
        PrunedClassifier(net, penalty="l1", **QUICK).fit(*classes)


def test_a_wish_to_stop_keeps_no_step_from_the_learning_rate(classes):
    rates = []

    class Notes(Callback):
        def on_epoch_begin(self, net, **kwargs):
            rates.append(net.optimizer_.param_groups[0]["lr"])

    class Impatient(EarlyStopping):
        def on_epoch_end(these, net, **kwargs):
            if len(rates) > 3:
                raise KeyboardInterrupt

    step = LRScheduler("StepLR", step_size=1, gamma=0.5)
    net = own_net(ReLUs, lr=0.08, callbacks=[Notes(), Impatient(), step])
    PrunedClassifier(net, **QUICK).fit(*classes)
    assert rates == pytest.approx([0.08 * 0.5**i for i in range(len(rates))])
    assert len(rates) == 7


def test_what_grew_where_nothing_moves_it_counts_as_pruned(classes):
    X, y = classes
    X = np.hstack([X, np.zeros((len(X), 5), dtype=np.float32)])
    pruner = PrunedClassifier(small(), regrow="random", **QUICK).fit(X, y)
    for name, mask in pruner.masks_.items():
        assert zeros_of(pruner)[name] == (~mask).sum()
    assert pruner.n_nonzero_ == sum(w.nnz for w in pruner.transform().values())
