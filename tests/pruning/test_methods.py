"""Methods of the literature as choices of parameters: each does what it promises."""

from copy import deepcopy
from itertools import pairwise

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from skorch.callbacks import Callback

from sklearn_sparse_nn import PrunedClassifier, PrunedRegressor, TabularNetRegressor
from sklearn_sparse_nn.core.allocation import n_pruned
from sklearn_sparse_nn.core.recovery import Rewind, SoftTargets
from sklearn_sparse_nn.core.schedules import Between
from tests.pruning.nets import Conv, own_net, small

SIZE = 8 * 16 + 16 * 12 + 12 * 3
UNTRAINED = {"schedule": "oneshot", "prune_epochs": 0, "finetune_epochs": 0}


def zeros(net):
    module = net.module_
    layers = [module.hidden_0, module.hidden_1, module.output]
    return sum(int((layer.weight == 0).sum()) for layer in layers)


class Steps(Callback):
    """Remembers zeros and weights after every training step."""

    zeros = ()
    weights = ()

    def on_batch_end(self, net, training=False, **kwargs):
        if training:
            cls = type(self)
            cls.zeros = (*cls.zeros, zeros(net))
            weight = net.module_.hidden_0.weight.detach().clone()
            cls.weights = (*cls.weights, weight)


@pytest.fixture
def steps():
    class Fresh(Steps):
        pass

    return Fresh


@pytest.fixture(scope="module")
def dense(classes):
    return FrozenEstimator(small(max_epochs=20, random_state=0).fit(*classes))


def test_events_inside_epochs_come_at_even_steps(classes, steps):
    net = small(batch_size=20, callbacks=[steps])  # six batches an epoch
    PrunedClassifier(
        net,
        schedule="linear",
        n_steps=4,
        dense_epochs=0,
        prune_epochs=2,
        finetune_epochs=1,
        random_state=0,
    ).fit(*classes)
    due = [n_pruned(share, n_pruned(0.9, SIZE)) for share in (0.25, 0.5, 0.75, 1)]
    # Four events in two epochs: at steps 0, 3, 6 and 9 of twelve.
    expected = [due[i // 3] for i in range(12)] + [due[3]] * 6
    assert list(steps.zeros) == expected


def test_as_many_events_as_epochs_begin_epochs_as_before(classes, steps):
    net = small(batch_size=50, callbacks=[steps])  # fifty, fifty and twenty rows
    PrunedClassifier(
        net,
        schedule="linear",
        n_steps=2,
        dense_epochs=1,
        prune_epochs=3,
        finetune_epochs=0,
        random_state=0,
    ).fit(*classes)
    half, all_ = n_pruned(0.5, n_pruned(0.9, SIZE)), n_pruned(0.9, SIZE)
    assert list(steps.zeros) == [0] * 3 + [half] * 3 + [all_] * 6


def test_without_pruning_epochs_all_events_come_at_once(classes, dense):
    asked = []

    def recording(weight, *, path_grad):
        asked.append(int((weight == 0).sum()))
        return weight.abs() * path_grad

    settings = {**UNTRAINED, "schedule": "exponential", "n_steps": 5}
    PrunedClassifier(dense, importance=recording, **settings).fit(*classes)
    of_first_layer = asked[::3]
    assert len(of_first_layer) == 5
    assert of_first_layer == sorted(of_first_layer)
    assert of_first_layer[0] == 0 < of_first_layer[1] < of_first_layer[4]


def test_a_cyclic_schedule_trains_dense_in_between(classes):
    pruner = PrunedClassifier(
        small(batch_size=120),
        sparsity=0.5,
        schedule="cyclic",
        n_steps=7,
        dense_epochs=1,
        prune_epochs=14,
        finetune_epochs=2,
        random_state=0,
    ).fit(*classes)
    found = [row["sparsity"] for row in pruner.history_]
    assert found == [0, *[0.5, 0.5, 0, 0] * 3, 0.5, 0.5, 0.5, 0.5]


def test_a_window_of_the_schedule_is_kept_to(classes):
    pruner = PrunedClassifier(
        small(),
        schedule=Between("linear", begin=0.25, end=0.75),
        n_steps=8,
        prune_epochs=8,
        finetune_epochs=1,
        random_state=0,
    ).fit(*classes)
    found = [row["sparsity"] for row in pruner.history_ if row["phase"] == "prune"]
    shares = [0, 0, 0.25, 0.5, 0.75, 1, 1, 1]
    due = [n_pruned(share, n_pruned(0.9, SIZE)) / SIZE for share in shares]
    assert found == pytest.approx(due)


@pytest.mark.parametrize("epoch", [0, 2, 3])
def test_rewinding_puts_survivors_back_to_the_epoch_bit_for_bit(classes, epoch):
    class First(Callback):
        """Takes the weights at the beginning of every epoch."""

        seen = ()

        def on_epoch_begin(self, net, **kwargs):
            weight = net.module_.hidden_0.weight.detach().clone()
            type(self).seen = (*type(self).seen, weight)

    net = small(callbacks=[First])
    pruner = PrunedClassifier(
        net,
        rewind=Rewind("weights", epoch=epoch),
        n_steps=2,
        dense_epochs=3,
        prune_epochs=2,
        finetune_epochs=1,
        random_state=0,
    ).fit(*classes)
    mask = torch.from_numpy(pruner.masks_["hidden_0"])
    assert torch.equal(First.seen[5], First.seen[epoch] * mask)


def test_sparse_training_starts_with_erk_and_swaps_until_three_quarters(classes, steps):
    net = small(batch_size=120, callbacks=[steps])
    pruner = PrunedClassifier(
        net,
        sparsity=0.8,
        regrow="random",
        schedule="constant",
        n_steps=8,
        dense_epochs=0,
        prune_epochs=8,
        finetune_epochs=2,
        random_state=0,
    ).fit(*classes)
    alive = [weight != 0 for weight in steps.weights]
    erk = clone(pruner).set_params(regrow=None, allocation="erk").fit(*classes)
    for name, sparsity in erk.layer_sparsity_.items():
        # What grew last may still be zero, and then counts as pruned.
        assert sparsity <= pruner.layer_sparsity_[name] < sparsity + 0.06
    changed = [bool((after & ~before).any()) for before, after in pairwise(alive)]
    assert changed == [True] * 5 + [False] * 4  # frozen from the sixth epoch on


def test_regrown_weights_start_with_fresh_optimizer_state(classes):
    grown_state = []

    class Look(Callback):
        def on_batch_begin(self, net, training=False, **kwargs):
            holder = dict(net.callbacks_).get("masks")
            if not training or holder is None:
                return
            weight = net.module_.hidden_0.weight
            mask = holder.masks["hidden_0"]
            before = getattr(self, "mask_", mask)
            for value in net.optimizer_.state.get(weight, {}).values():
                if torch.is_tensor(value) and value.shape == weight.shape:
                    grown_state.append(value[mask & ~before])
            self.mask_ = mask

    PrunedClassifier(
        small(callbacks=[Look]),
        sparsity=0.5,
        regrow="random",
        n_steps=8,
        prune_epochs=8,
        random_state=0,
    ).fit(*classes)
    values = torch.cat(grown_state)
    assert len(values) > 20
    assert not values.any()


def test_soft_targets_draw_the_net_towards_the_dense_one(classes, dense):
    X, _ = classes
    wanted = dense.predict_proba(X)

    def distance(weight):
        pruner = PrunedClassifier(
            dense, sparsity=0.5, distill=SoftTargets(weight, 1.0), random_state=0
        )
        found = pruner.fit(*classes).predict_proba(X)
        return np.mean(np.sum(wanted * np.log(wanted / found), axis=1))

    assert distance(1.0) < 0.1 * distance(0.0)


def test_soft_targets_for_regression(values):
    net = TabularNetRegressor((16, 12), max_epochs=20, lr=0.01, random_state=0)
    dense = FrozenEstimator(net.fit(*values))
    pruner = PrunedRegressor(dense, distill=1.0, sparsity=0.8, random_state=0)
    # The labels have no part in it: shuffled ones give the same net.
    X, y = values
    shuffled = np.random.default_rng(0).permutation(y)
    assert np.array_equal(
        pruner.fit(X, y).predict(X), clone(pruner).fit(X, shuffled).predict(X)
    )


@pytest.mark.parametrize("granularity", ["unstructured", "2:4", "block:4x1"])
def test_obs_needs_no_training_where_magnitude_does(classes, dense, granularity):
    X, _ = classes
    logits = dense.estimator.net_.forward(X)

    def error(importance):
        pruner = PrunedClassifier(
            dense,
            sparsity=0.5,
            importance=importance,
            granularity=granularity,
            allocation="uniform",
            subsample=None,
            **UNTRAINED,
        )
        found = pruner.fit(*classes).net_.forward(X)
        return float((found - logits).square().mean())

    assert error("obs") < 0.5 * error("magnitude")


@pytest.mark.parametrize("unit", ["nonzeros", "flops", "bytes"])
def test_a_budget_is_what_the_report_adds_up_to_at_most(classes, unit):
    full = {"nonzeros": SIZE, "flops": 2 * SIZE, "bytes": 8 * SIZE + 4 * 34}[unit]
    limit = full // 3
    pruner = PrunedClassifier(small(), budget={unit: limit}, random_state=0)
    column = {"nonzeros": "nonzeros", "flops": "flops", "bytes": "bytes_csr"}[unit]
    total = pruner.fit(*classes).report()[column].sum()
    one_weight = {"nonzeros": 1, "flops": 2, "bytes": 8}[unit]
    assert limit - one_weight < total <= limit


def test_a_budget_counts_what_is_not_pruned(classes):
    pruner = PrunedClassifier(
        small(), layers="hidden_*", budget={"nonzeros": 100}, random_state=0
    ).fit(*classes)
    assert pruner.report()["nonzeros"].sum() == 100
    assert pruner.n_nonzero_ == 100 - 36


def test_a_budget_of_flops_knows_how_often_a_kernel_is_used():
    X = np.random.default_rng(0).normal(size=(80, 64)).astype(np.float32)
    y = np.arange(80) % 10
    # 54 weights at 36 positions, 2160 at one: 8208 FLOPs.
    pruner = PrunedClassifier(
        own_net(Conv), budget={"flops": 4000}, random_state=0
    ).fit(X, y)
    report = pruner.report()
    assert report["flops"].sum() <= 4000 < report["flops"].sum() + 72
    assert report.loc["conv", "flops"] == 72 * report.loc["conv", "nonzeros"]


@pytest.mark.parametrize("penalty", ["l1", "l0"])
@pytest.mark.parametrize("granularity", ["unstructured", "neuron"])
def test_a_penalty_brings_groups_to_zero_before_the_event(
    classes, penalty, granularity
):
    """Without it hardly a weight would be zero when the one late event comes."""
    found = []

    def watching(weight):
        found.append((weight == 0).float().mean())
        return weight.abs()

    pruner = PrunedClassifier(
        small(max_epochs=20, batch_size=10),
        sparsity=0.5,
        penalty=penalty,
        importance=watching,
        granularity=granularity,
        schedule=Between("oneshot", begin=0.9),
        n_steps=10,
        prune_epochs=30,
        finetune_epochs=2,
        random_state=0,
    ).fit(*classes)
    assert 0.1 < np.mean(found) < 0.6
    sizes = {name: mask.size for name, mask in pruner.masks_.items()}
    least = n_pruned(0.5, sum(sizes.values()))
    assert sum(int((~mask).sum()) for mask in pruner.masks_.values()) >= least


def test_movement_keeps_what_grew(classes):
    """Weights that training pushed away from zero outlive larger ones."""
    seen = []

    def spy(weight, *, movement, initial):
        seen.append((weight.clone(), movement.clone(), initial.clone()))
        return movement

    pruner = PrunedClassifier(
        small(optimizer="sgd"), importance=spy, schedule="oneshot", random_state=0
    ).fit(*classes)
    weight, movement, initial = seen[0]
    assert torch.equal(initial, untrained(pruner, classes).hidden_0.weight)
    grown = (weight.abs() - initial.abs()).flatten()
    ranks = np.argsort(np.argsort([grown.numpy(), movement.flatten().numpy()]))
    assert np.corrcoef(ranks)[0, 1] > 0.5


def untrained(pruner, classes):
    """Give the module of a pruner's net as it was before training."""
    X, y = classes
    net = clone(pruner.estimator).set_params(random_state=pruner.random_state)
    return deepcopy(net.build_net(X, y, net._learn_targets(y)).initialize().module_)


def test_statistics_are_gathered_once_an_event_and_only_if_asked(classes, monkeypatch):
    from sklearn_sparse_nn.pruning import events as pruning_events

    calls = []
    gather = pruning_events.gather
    monkeypatch.setattr(
        pruning_events, "gather", lambda *args: calls.append(args[-1]) or gather(*args)
    )
    quick = {"n_steps": 3, "prune_epochs": 3, "random_state": 0}
    PrunedClassifier(small(), **quick).fit(*classes)
    assert calls == []
    PrunedClassifier(small(), importance="wanda", **quick).fit(*classes)
    assert calls == [["input_norm"]] * 3
    PrunedClassifier(small(), importance="fisher", regrow="gradient", **quick).fit(
        *classes
    )
    assert calls[3:] == [["grad_sq", "grad"]] * 3


def test_the_subsample_is_drawn_anew_at_every_event(classes):
    seen = []

    def spy(weight, *, input_norm):
        seen.append(input_norm)
        return weight.abs()

    quick = {"n_steps": 2, "prune_epochs": 2, "layers": "hidden_0", "random_state": 0}
    net = small(lr=1e-12)  # what reaches the first layer does not change anyway
    PrunedClassifier(net, importance=spy, subsample=30, **quick).fit(*classes)
    assert not torch.equal(seen[0], seen[1])
    PrunedClassifier(net, importance=spy, subsample=None, **quick).fit(*classes)
    assert torch.equal(seen[2], seen[3])


def neurons_by_mean(weight):
    """Score neurons, with no name that the package knows."""
    return weight.abs().mean(1, keepdim=True).expand_as(weight)


def test_facts_of_a_users_importance_are_read(classes, monkeypatch):
    pruner = PrunedClassifier(small(), importance=neurons_by_mean, sparsity=0.2)
    pruner.fit(*classes)  # nothing is declared, so nothing is refused
    monkeypatch.setattr(neurons_by_mean, "scores_neurons", True, raising=False)
    with pytest.raises(ValueError, match="granularity='unstructured' do not go tog"):
        pruner.fit(*classes)
    pruner.set_params(granularity="neuron", sparsity=0.5).fit(*classes)
    # "auto" is then uniform: half of the neurons of each hidden layer.
    assert pruner.layer_sparsity_ == {"hidden_0": 0.5, "hidden_1": 0.5}
