"""`prune` between chunks: counts, masks, statistics (invariants 1, 4, 9 and 10)."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.frozen import FrozenEstimator
from skorch.callbacks import Callback

from sklearn_sparse_nn.core.allocation import n_pruned
from sklearn_sparse_nn.training.holding import MaskHolder
from tests.pruning.chunks.pruners import (
    LABELS,
    SIZE,
    bits,
    chunks_of,
    plainly,
    pruner_of,
    trained,
    weights,
)
from tests.pruning.nets import own_net, small, zeros_of

# -- masks and counts: invariants 1 and 4


@pytest.mark.parametrize("sparsity", [0.29, 0.5, 0.9, 0.95])
def test_prune_gives_the_exact_count_and_training_keeps_it(classes, sparsity):
    pruner = trained(pruner_of(), classes)
    pruner.prune(sparsity)
    count = sum(n_pruned(sparsity, size) for size in (8 * 16, 16 * 12, 12 * 3))
    for _ in range(2):
        assert sum(zeros_of(pruner).values()) == count
        assert sum(int((~mask).sum()) for mask in pruner.masks_.values()) == count
        assert pruner.sparsity_ == count / SIZE
        assert pruner.n_nonzero_ == SIZE - count
        for name, mask in pruner.masks_.items():
            weight = pruner.transform(format="dense")[name]
            assert not weight[~mask].any()
            assert pruner.layer_sparsity_[name] == float((~mask).mean())
        before = weights(pruner)
        trained(pruner, classes)
        assert weights(pruner) != before


def test_a_sparsity_is_of_all_and_never_compounds(classes):
    pruner = trained(pruner_of(), classes).prune(0.5)
    once = bits(pruner)
    assert bits(pruner.prune(0.5)) == once
    earlier = dict(pruner.masks_)
    trained(pruner, classes).prune(0.75)
    assert sum(zeros_of(pruner).values()) == sum(
        n_pruned(0.75, size) for size in (8 * 16, 16 * 12, 12 * 3)
    )
    for name, mask in pruner.masks_.items():
        assert not (mask & ~earlier[name]).any()  # what died stays dead


@pytest.mark.parametrize(
    ("parts", "first", "second"),
    [
        ({}, 0.8, 0.5),
        ({}, 100, 101),
        ({}, {"hidden_*": 0.5}, {"hidden_0": 0.4, "hidden_1": 0.6}),
        ({"granularity": "neuron"}, 0.7, 0.3),
        ({}, 0.5, 0.0),
    ],
    ids=plainly,
)
def test_less_than_there_is_is_refused(classes, parts, first, second):
    pruner = trained(pruner_of(**parts), classes).prune(first)
    before = bits(pruner)
    with pytest.raises(ValueError, match=r"is less than the .* stays pruned"):
        pruner.prune(second)
    assert bits(pruner) == before
    assert bits(pruner.prune(first)) == before


def test_groups_that_leave_less_than_asked_may_be_asked_for_again(classes):
    pruner = trained(pruner_of(granularity="neuron"), classes).prune(0.3)
    # Neurons have 8 or 16 weights: no multiple of them is the count.
    assert pruner.n_nonzero_ != 320 - n_pruned(0.3, 320)
    before = bits(pruner)
    assert bits(pruner.prune(0.3)) == before


@pytest.mark.parametrize(
    "parts",
    [
        {"sparsity": 0.6},
        {"sparsity": 50},
        {"sparsity": 0.0, "budget": {"nonzeros": 60}},
        {"sparsity": {"hidden_*": 0.7}},
        {"granularity": "2:4", "sparsity": 0.75},
        {"granularity": "block:4x1", "sparsity": 0.75},
        {"threshold": 0.1},
    ],
    ids=plainly,
)
def test_without_an_argument_it_is_the_estimators_own(classes, parts):
    pruner = trained(pruner_of(**parts), classes).prune()
    zeros = zeros_of(pruner)
    if "budget" in parts or parts.get("sparsity") == 50:
        assert SIZE - sum(zeros.values()) == parts.get("budget", {}).get("nonzeros", 50)
    elif "threshold" in parts:
        alive = [np.abs(w.data) for w in pruner.transform().values()]
        assert 0 < sum(map(len, alive)) < SIZE
        assert np.concatenate(alive).min() >= 0.1
    else:
        asked = parts["sparsity"]
        share = asked["hidden_*"] if isinstance(asked, dict) else asked
        assert np.isclose(pruner.sparsity_, share, atol=0.02)
    before = dict(pruner.masks_)
    trained(pruner, classes)
    assert all(np.array_equal(before[name], pruner.masks_[name]) for name in before)


def test_an_argument_comes_before_threshold_and_budget(classes):
    pruner = pruner_of(budget={"nonzeros": 300}, sparsity=0.0, allocation="global")
    trained(pruner, classes).prune(100)
    assert pruner.n_nonzero_ == 100


# -- training under masks: invariants 9 and 10


class AfterEveryStep(Callback):
    def on_batch_end(self, net, training=False, **kwargs):
        holder = dict(net.callbacks_).get("masks")
        if not training or holder is None:
            return
        for weight, alive in holder._held:
            dead = alive == 0
            bits = weight.detach().numpy().view(np.int32)
            state = [
                int(torch.count_nonzero(value[dead]))
                for value in net.optimizer_.state.get(weight, {}).values()
                if torch.is_tensor(value) and value.shape == weight.shape
            ]
            STEPS.append((int(np.count_nonzero(bits[dead.numpy()])), sum(state)))


STEPS: list[tuple[int, int]] = []
OPTIMIZERS = [
    (torch.optim.SGD, {"momentum": 0.9}),
    (torch.optim.Adam, {}),
    (torch.optim.AdamW, {"weight_decay": 0.1}),
]


def net_of(optimizer, options, **kwargs):
    given = {f"optimizer__{key}": value for key, value in options.items()}
    return own_net(optimizer=optimizer, **given, **kwargs)


@pytest.mark.parametrize(("optimizer", "options"), OPTIMIZERS)
def test_pruned_weights_are_plus_zero_after_every_step(classes, optimizer, options):
    STEPS.clear()
    pruner = pruner_of(net_of(optimizer, options, callbacks=[AfterEveryStep]))
    trained(pruner, classes)
    assert not STEPS  # nothing is held yet
    trained(pruner.prune(0.7), classes, n=2)
    assert len(STEPS) == 2 * 6  # two layers, six chunks of one batch
    assert set(STEPS) == {(0, 0)}


@pytest.mark.parametrize(("optimizer", "options"), OPTIMIZERS)
def test_zeroed_weights_alone_would_not_stay(classes, optimizer, options, monkeypatch):
    """The known bad holder: it sets weights to zero, and no optimizer's memory."""

    def weights_only(self):
        with torch.no_grad():
            for weight, alive in self._held:
                weight.mul_(alive)

    STEPS.clear()
    pruner = pruner_of(net_of(optimizer, options, callbacks=[AfterEveryStep]))
    monkeypatch.setattr(MaskHolder, "apply", weights_only)
    trained(pruner, classes, n=2).prune(0.7)
    monkeypatch.setattr(MaskHolder, "after_step", lambda self, *args: None)
    trained(pruner, classes)
    assert any(revived for revived, _ in STEPS)
    assert any(remembered for _, remembered in STEPS)


class Steps(Callback):
    def on_batch_end(self, net, **kwargs):
        COUNTS.append(int(net.optimizer_.state[net.module_.last.weight]["step"]))


COUNTS: list[int] = []


def test_optimizer_state_goes_on(classes):
    COUNTS.clear()
    pruner = trained(pruner_of(own_net(callbacks=[Steps])), classes).prune(0.5)
    trained(pickle.loads(pickle.dumps(pruner)), classes)
    assert COUNTS == [1, 2, 3, 4, 5, 6]


def test_classes_of_a_notebook_keep_their_globals(classes):
    """Such as a counter in a class, or in a list, that nobody imports."""
    seen = []

    class Counts(Callback):
        n = 0

        def on_epoch_end(self, net, **kwargs):
            Counts.n += 1
            seen.append(Counts.n)

    trained(pruner_of(own_net(callbacks=[Counts])), classes)
    assert seen == [1, 2, 3]
    assert Counts.n == 3


# -- statistics


@pytest.mark.parametrize(
    "importance", ["wanda", "gradient", "fisher", "obs", "snip", "apoz"]
)
def test_an_importance_that_looks_at_rows_asks_for_them(classes, importance):
    parts = {"granularity": "neuron"} if importance == "apoz" else {}
    pruner = trained(pruner_of(importance=importance, **parts), classes)
    before = bits(pruner)
    with pytest.raises(ValueError, match=rf"importance='{importance}'.*call prune\(X="):
        pruner.prune(0.5)
    with pytest.raises(ValueError, match="prune got X without y; give both"):
        pruner.prune(0.5, classes[0])
    assert bits(pruner) == before
    pruner.prune(0.5, *classes)
    assert np.isclose(pruner.sparsity_, 0.5, atol=0.05)
    pruner.partial_fit(*classes)


def test_rows_decide(classes):
    X, y = classes
    pruner = trained(pruner_of(importance="wanda"), classes)
    other = pickle.loads(pickle.dumps(pruner))
    pruner.prune(0.5, X, y)
    other.prune(0.5, X * np.geomspace(1, 1e3, 8, dtype=np.float32), y)
    assert bits(pruner) != bits(other)


@pytest.mark.parametrize("importance", ["movement", "magnitude_increase"])
def test_training_is_watched_from_the_first_chunk_on(classes, importance):
    if importance == "magnitude_increase":
        importance = increase
    pruner = trained(pruner_of(importance=importance), classes)
    went = pickle.loads(pickle.dumps(pruner))
    pruner.prune(0.5)
    assert np.isclose(pruner.sparsity_, 0.5, atol=0.01)
    assert bits(went.prune(0.5)) == bits(pruner)
    late = trained(pruner_of(), classes).set_params(importance=importance)
    with pytest.raises(ValueError, match="watched from the first call of partial_fit"):
        late.prune(0.5)


def increase(weight, *, initial):
    return weight.abs() - initial.abs()


def test_all_rows_and_one_prune_decide_as_fit_does(classes):
    for importance in ("movement", "wanda", increase):
        parts = {"importance": importance, "sparsity": 0.6}
        now = {"schedule": "oneshot", "n_steps": 1, "prune_epochs": 0}
        whole = pruner_of(**parts, **now, finetune_epochs=0).fit(*classes)
        pruner = pruner_of(**parts)
        for _ in range(3):
            pruner.partial_fit(*classes, classes=LABELS)
        assert bits(pruner.prune(None, *classes)) == bits(whole)


# -- fit, partial_fit and prune in turns


def test_after_fit_training_goes_on_under_its_masks(classes):
    pruner = pruner_of(n_steps=2, prune_epochs=2, finetune_epochs=1).fit(*classes)
    masks, n = pruner.masks_, len(pruner.history_)
    before = weights(pruner)
    trained(pruner, classes)
    assert weights(pruner) != before
    for name, mask in pruner.masks_.items():
        assert np.array_equal(mask, masks[name])
        assert not pruner.transform(format="dense")[name][~mask].any()
    assert [row["phase"] for row in pruner.history_[n:]] == ["finetune"] * 3
    pruner.prune(0.95)
    assert np.isclose(pruner.sparsity_, 0.95, atol=0.01)


@pytest.mark.parametrize("net", [small(), own_net()], ids=plainly)
def test_after_fit_it_is_what_a_frozen_estimator_gives(classes, net):
    options = {"n_steps": 2, "prune_epochs": 2, "finetune_epochs": 1}
    fitted = pruner_of(net, **options).fit(*classes)
    frozen = pruner_of(FrozenEstimator(fitted))
    for X, y in chunks_of(classes):
        frozen.partial_fit(X, y)
    trained(fitted, classes)
    assert weights(frozen) == weights(fitted)
    assert {k: m.tobytes() for k, m in frozen.masks_.items()} == (
        {k: m.tobytes() for k, m in fitted.masks_.items()}
    )


def test_prune_after_fit_asks_for_rows_once(classes):
    pruner = pruner_of(n_steps=2, prune_epochs=2, finetune_epochs=1).fit(*classes)
    before = bits(pruner)
    with pytest.raises(ValueError, match="prune goes on from partial_fit"):
        pruner.prune(0.95)
    with pytest.raises(ValueError, match="stays pruned"):
        pruner.prune(0.5, *classes)
    assert bits(pruner) == before
    assert bits(pruner.prune(0.9, *classes)) == before
    pruner.prune(0.95)
    assert np.isclose(pruner.sparsity_, 0.95, atol=0.01)


def test_a_later_fit_starts_anew(classes):
    options = {"n_steps": 2, "prune_epochs": 2, "finetune_epochs": 1}
    once = pruner_of(**options).fit(*classes)
    again = trained(pruner_of(**options), classes).prune(0.8).fit(*classes)
    assert bits(again) == bits(once)
    assert len(again.history_) == len(once.history_)
    assert pickle.dumps(again).count(b"exp_avg") == 0


def test_layers_that_are_named_later_are_held_together(classes):
    pruner = trained(pruner_of(layers="hidden_0"), classes).prune(0.5)
    pruner.set_params(layers="hidden_1").prune(0.5)
    trained(pruner, classes)
    assert zeros_of(pruner) == {"hidden_0": 64, "hidden_1": 96}
