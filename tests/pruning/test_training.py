"""Training under pruning: invariants 9 to 16."""

import os
import signal
import threading
from copy import deepcopy

import numpy as np
import pytest
import torch
from sklearn.base import clone
from skorch.callbacks import Callback, Checkpoint, EarlyStopping, LRScheduler
from skorch.dataset import ValidSplit

from sklearn_sparse_nn import PrunedClassifier, TabularNetClassifier
from sklearn_sparse_nn.core.allocation import n_pruned
from sklearn_sparse_nn.exceptions import DivergedTrainingError
from sklearn_sparse_nn.training.holding import MaskHolder
from sklearn_sparse_nn.training.run import TrainingRun
from tests.pruning.nets import Mlp, Tied, own_net, small, zeros_of

SIZE = 8 * 16 + 16 * 12 + 12 * 3
QUICK = {
    "allocation": "uniform",  # so small a net would lose a layer to one ranking
    "n_steps": 2,
    "prune_epochs": 2,
    "finetune_epochs": 2,
    "random_state": 0,
}


class AfterEveryStep(Callback):
    """Counts revived weights and remembered state after every optimizer step."""

    steps = revived = remembered = 0

    def on_batch_end(self, net, training=False, **kwargs):
        holder = dict(net.callbacks_).get("masks")
        if not training or holder is None:
            return
        cls = type(self)
        cls.steps += 1
        for weight, alive in holder._held:
            dead = alive == 0
            bits = weight.detach().numpy().view(np.int32)
            cls.revived += int(np.count_nonzero(bits[dead.numpy()]))
            for value in net.optimizer_.state.get(weight, {}).values():
                if torch.is_tensor(value) and value.shape == weight.shape:
                    cls.remembered += int(torch.count_nonzero(value[dead]))


@pytest.mark.parametrize(
    ("optimizer", "options"),
    [
        (torch.optim.SGD, {"momentum": 0.9}),
        (torch.optim.Adam, {}),
        (torch.optim.AdamW, {"weight_decay": 0.1}),
    ],
)
def test_pruned_weights_are_plus_zero_after_every_step(classes, optimizer, options):
    class Watch(AfterEveryStep):
        pass

    net = own_net(
        optimizer=optimizer,
        callbacks=[Watch],
        **{f"optimizer__{key}": value for key, value in options.items()},
    )
    PrunedClassifier(net, **QUICK).fit(*classes)
    assert Watch.steps == 2 + 2  # pruning and fine-tuning; nothing is held before
    assert Watch.revived == 0
    assert Watch.remembered == 0


@pytest.mark.parametrize("at", range(1, 11))
@pytest.mark.parametrize("load_best", [False, True])
def test_target_is_met_wherever_early_stopping_fires(classes, at, load_best):
    class FiresAt(EarlyStopping):
        def on_epoch_end(self, net, **kwargs):
            self.best_model_weights_ = self.best_model_weights_ or deepcopy(
                net.module_.state_dict()
            )
            self.seen_ = getattr(self, "seen_", 0) + 1
            if self.seen_ == at:
                raise KeyboardInterrupt

    net = own_net(max_epochs=4, callbacks=[FiresAt(load_best=load_best)])
    pruner = PrunedClassifier(
        net, **{**QUICK, "n_steps": 3, "prune_epochs": 3, "finetune_epochs": 3}
    ).fit(*classes)
    size = 8 * 16 + 16 * 3
    assert sum(zeros_of(pruner).values()) == n_pruned(0.9, size)
    phases = [row["phase"] for row in pruner.history_]
    assert phases.count("prune") == 3
    assert phases.count("dense") == min(at, 4)
    finetuned = at - 7 if 7 < at <= 10 else 3
    assert phases.count("finetune") == finetuned


@pytest.fixture
def without_reapplying(monkeypatch):
    """The known bad engine: masks are set at events, and never applied again."""
    held = MaskHolder.hold

    def hold(self, masks):
        held(self, masks)
        monkeypatch.setattr(MaskHolder, "apply", lambda self: None)

    monkeypatch.setattr(MaskHolder, "hold", hold)


def _restoring_dense_weights():
    class RestoresDense(Callback):
        def on_epoch_end(self, net, **kwargs):
            if not hasattr(self, "dense_"):
                self.dense_ = deepcopy(net.module_.state_dict())

        def on_train_end(self, net, **kwargs):
            net.module_.load_state_dict(self.dense_)

    return own_net(callbacks=[RestoresDense])


def test_a_restore_of_dense_weights_at_the_end_stays_sparse(classes):
    pruner = PrunedClassifier(_restoring_dense_weights(), **QUICK).fit(*classes)
    assert sum(zeros_of(pruner).values()) == n_pruned(0.9, 8 * 16 + 16 * 3)


@pytest.mark.usefixtures("without_reapplying")
def test_twin_without_reapplying_the_restore_is_no_fit(classes):
    pruner = PrunedClassifier(_restoring_dense_weights(), **QUICK)
    with pytest.raises(RuntimeError, match="not zero exactly where its mask says"):
        pruner.fit(*classes)
    assert not hasattr(pruner, "net_")


@pytest.mark.parametrize("load_best", [True, False])
def test_checkpoints_and_early_stopping_of_the_user(classes, tmp_path, load_best):
    net = own_net(
        max_epochs=6,
        train_split=ValidSplit(4, stratified=True),
        callbacks=[
            ("stop", EarlyStopping(patience=2, load_best=True)),
            ("save", Checkpoint(dirname=tmp_path, load_best=load_best)),
        ],
    )
    pruner = PrunedClassifier(net, **QUICK).fit(*classes)
    assert sum(zeros_of(pruner).values()) == n_pruned(0.9, 8 * 16 + 16 * 3)


def test_only_epochs_at_final_sparsity_are_restored(classes):
    """The dense epochs have the best loss by far; none of them may come back."""
    X, y = classes
    net = small(max_epochs=30, early_stopping=True, patience=30, random_state=0)
    pruner = PrunedClassifier(
        net, sparsity=0.93, n_steps=1, prune_epochs=1, finetune_epochs=12
    ).fit(X, y)
    rows = pruner.history_
    dense_best = min(row["valid_loss"] for row in rows if row["phase"] == "dense")
    final = [row["valid_loss"] for row in rows if row["phase"] == "finetune"]
    assert dense_best < min(final)
    split = pruner.net_.train_split
    held_out = split(np.empty(len(X)), y)[1].indices
    proba = pruner.predict_proba(X[held_out])
    loss = -np.mean(np.log(proba[np.arange(len(held_out)), y[held_out]]))
    assert loss == pytest.approx(min(final), rel=1e-4)


def test_rewound_survivors_have_their_first_values_bit_for_bit(classes):
    first = {}

    class Remember(Callback):
        def on_train_begin(self, net, **kwargs):
            if not first:
                first.update(deepcopy(net.module_.state_dict()))

    class Look(Callback):
        rewound = None

        def on_epoch_begin(self, net, **kwargs):
            if len(net.history) == 6:  # the first epoch of fine-tuning
                Look.rewound = deepcopy(net.module_.state_dict())
                Look.state = len(net.optimizer_.state)

    net = own_net(callbacks=[Remember, Look])
    pruner = PrunedClassifier(net, rewind="weights", **QUICK).fit(*classes)
    assert Look.state == 0
    for name, value in Look.rewound.items():
        mask = pruner.masks_.get(name.removesuffix(".weight"))
        if name.endswith("weight") and mask is not None:
            expected = first[name] * torch.from_numpy(mask)
            assert torch.equal(value, expected)
        else:
            assert torch.equal(value, first[name])


def _learning_rates(classes, **kwargs):
    scheduler = LRScheduler(torch.optim.lr_scheduler.ExponentialLR, gamma=0.5)
    net = own_net(
        max_epochs=3, lr=1.0, optimizer=torch.optim.SGD, callbacks=[scheduler]
    )
    pruner = PrunedClassifier(net, **QUICK, **kwargs).fit(*classes)
    return [row["event_lr"] for row in pruner.history_]


def test_the_learning_rate_schedule_is_continuous_over_pruning_events(classes):
    assert _learning_rates(classes) == [0.5**i for i in range(7)]


@pytest.mark.parametrize("rewind", ["learning_rate", "weights"])
def test_rewinding_starts_the_learning_rate_schedule_anew(classes, rewind):
    expected = [1.0, 0.5, 0.25, 0.125, 0.0625, 1.0, 0.5]
    assert _learning_rates(classes, rewind=rewind) == expected


@pytest.mark.parametrize("early_stopping", [False, True])
def test_sparsity_zero_is_the_dense_net_bit_for_bit(classes, early_stopping):
    X, y = classes
    net = small(early_stopping=early_stopping, patience=2, dropout=0.1, random_state=3)
    pruner = PrunedClassifier(net, sparsity=0, **QUICK).fit(X, y)
    total = net.max_epochs + 2 + 2
    dense = clone(net).set_params(max_epochs=total).fit(X, y)
    # Weights: a pruner predicts by the sparse runtime, and a dense net by torch.
    expected = dense.net_.module_.state_dict()
    for name, tensor in pruner.net_.module_.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    assert pruner.sparsity_ == 0.0


def test_sparsity_zero_is_a_users_net_bit_for_bit(classes):
    X, y = classes
    net = own_net(train_split=ValidSplit(0.2))
    pruner = PrunedClassifier(net, sparsity=0, **QUICK).fit(X, y)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002
        plain = clone(net).set_params(max_epochs=7).fit(X, y)
    for one, two in zip(
        pruner.net_.module_.parameters(), plain.module_.parameters(), strict=True
    ):
        assert torch.equal(one, two)


def test_ctrl_c_reaches_the_caller_and_leaves_the_earlier_fit(classes):
    X, y = classes
    pruner = PrunedClassifier(small(), **QUICK).fit(X, y)
    expected, masks = pruner.predict_proba(X), pruner.masks_
    pruner.set_params(dense_epochs=10**6)
    timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        pruner.fit(np.tile(X[:, :3], (10, 1)), np.tile(y, 10))
    timer.join()
    assert np.array_equal(pruner.predict_proba(X), expected)
    assert pruner.masks_ is masks
    assert pruner.n_features_in_ == 8


@pytest.mark.parametrize(("dense_epochs", "phase"), [(3, "dense"), (0, "prune")])
def test_a_diverged_loss_names_epoch_and_phase(classes, dense_epochs, phase):
    net = own_net(optimizer=torch.optim.SGD, optimizer__momentum=0.9, lr=1e38)
    net.set_params(module__width=4)
    with pytest.raises(
        (DivergedTrainingError, ValueError), match=r"NaN|nan|inf"
    ) as info:
        PrunedClassifier(net, dense_epochs=dense_epochs, **QUICK).fit(*classes)
    assert isinstance(info.value, DivergedTrainingError)
    assert f"{phase} phase" in str(info.value)


def test_nothing_stays_behind_in_the_net(classes):
    net = own_net()
    fitted = PrunedClassifier(net, **QUICK).fit(*classes).net_
    plain = Mlp()
    assert list(fitted.module_.state_dict()) == list(plain.state_dict())
    plain.load_state_dict(fitted.module_.state_dict(), strict=True)
    assert [name for name, _ in fitted.callbacks_] == [
        name for name, _ in own_net().initialize().callbacks_
    ]
    for module in fitted.module_.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
        assert not module._backward_hooks
        assert not hasattr(module, "parametrizations")
    for parameter in fitted.module_.parameters():
        assert not parameter._backward_hooks


def test_tied_weights_are_counted_once_and_stay_tied(classes):
    pruner = PrunedClassifier(own_net(Tied), sparsity=0.5, **QUICK).fit(*classes)
    module = pruner.net_.module_
    assert module.two.weight is module.one.weight
    assert list(pruner.masks_) == ["one", "head"]
    assert sum(zeros_of(pruner).values()) == (64 + 24) // 2


def test_norms_and_biases_are_never_pruned(classes):
    pruner = PrunedClassifier(own_net(), sparsity=0.97, **QUICK).fit(*classes)
    module = pruner.net_.module_
    assert list(pruner.masks_) == ["first", "last"]
    for parameter in (module.norm.weight, module.norm.bias, module.first.bias):
        assert (parameter != 0).all()


def test_pruning_before_training_and_without_training(classes):
    early = PrunedClassifier(small(), dense_epochs=0, **QUICK).fit(*classes)
    assert [row["phase"] for row in early.history_] == ["prune"] * 2 + ["finetune"] * 2
    never = PrunedClassifier(
        small(), schedule="oneshot", dense_epochs=2, prune_epochs=0, finetune_epochs=0
    ).fit(*classes)
    assert [row["phase"] for row in never.history_] == ["dense"] * 2
    assert sum(zeros_of(never).values()) == n_pruned(0.9, SIZE)


def test_without_training_after_pruning_no_checkpoint_overrules_the_scores(
    classes, tmp_path
):
    net = own_net(
        max_epochs=5,
        train_split=ValidSplit(4, stratified=True),
        callbacks=[Checkpoint(dirname=tmp_path, monitor=None)],
    )
    pruner = PrunedClassifier(
        net, **{**QUICK, "n_steps": 1, "prune_epochs": 0, "finetune_epochs": 0}
    ).fit(*classes)
    scores = {
        name: dict(pruner.net_.module_.named_modules())[name].weight.detach().abs()
        for name in pruner.masks_
    }
    assert all((scores[name][mask] > 0).all() for name, mask in pruner.masks_.items())


def test_the_dense_phase_is_the_dense_net(classes):
    """What is scored at the first event is what TabularNet's own fit gives."""
    X, y = classes
    seen = []

    def watching(weight):
        seen.append(weight.clone())
        return weight.abs()

    net = small(early_stopping=True, patience=1, lr=0.2, max_epochs=30, random_state=0)
    PrunedClassifier(net, importance=watching, **QUICK).fit(X, y)
    dense = clone(net).fit(X, y)
    assert torch.equal(seen[0], dense.net_.module_.hidden_0.weight)


def test_history_has_a_row_for_every_epoch(classes):
    pruner = PrunedClassifier(small(), **QUICK).fit(*classes)
    assert [row["epoch"] for row in pruner.history_] == list(range(1, 8))
    assert all(np.isfinite(row["train_loss"]) for row in pruner.history_)


def test_verbose_prints_a_line_an_epoch(classes, capsys):
    PrunedClassifier(small(), verbose=1, **QUICK).fit(*classes)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 7
    assert "finetune" in lines[-1]
    PrunedClassifier(small(), **QUICK).fit(*classes)
    TabularNetClassifier((4,), max_epochs=1).fit(*classes)
    assert capsys.readouterr().out == ""


def test_a_verbose_dense_net_prints_a_line_an_epoch(classes, capsys):
    TabularNetClassifier((4,), max_epochs=3, verbose=1).fit(*classes)
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [row[0] for row in rows if row[0].isdigit()] == ["1", "2", "3"]


def test_a_run_without_events_is_not_touched_by_masks(classes, monkeypatch):
    calls = []
    epoch = TrainingRun.epoch
    monkeypatch.setattr(
        TrainingRun,
        "epoch",
        lambda self, phase, *_: calls.append(phase) or epoch(self, phase),
    )
    PrunedClassifier(small(), sparsity=0, **QUICK).fit(*classes)
    assert calls == ["dense"] * 7
