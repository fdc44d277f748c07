"""What would fail after the dense phase is refused before any training."""

import numpy as np
import pytest
import torch
from skorch import NeuralNetClassifier
from skorch.callbacks import Callback, LRScheduler
from torch import nn
from torch.nn import functional as F

from sklearn_sparse_nn import BatchIterator, PrunedClassifier, pruning_path
from sklearn_sparse_nn.statistics.gathering import GATHERED
from tests.pruning.nets import Embedded, Mlp, own_net

QUICK = {
    "sparsity": 0.5,
    "allocation": "uniform",
    "n_steps": 2,
    "dense_epochs": 1,
    "prune_epochs": 2,
    "finetune_epochs": 1,
    "random_state": 0,
}
NAMES = ("grad", "grad_sq", "hessian_grad", "input_norm", "hessian")
NAMES += ("activation_zeros", "path_grad")


class Untrained(Callback):
    """Fails as soon as there is an epoch."""

    def on_epoch_begin(self, net, **kwargs):
        raise AssertionError("training has begun")


def asks_for(name):
    scope = {}
    exec(f"def asks(weight, *, {name}): return weight.abs()", scope)
    return scope["asks"]


def refused(net, classes, error=ValueError, **options):
    net.set_params(callbacks=[*(net.callbacks or []), Untrained])
    with pytest.raises(error) as caught:
        PrunedClassifier(net, **QUICK).set_params(**options).fit(*classes)
    return str(caught.value)


# statistics -------------------------------------------------------------------


class Encoder(nn.Module):
    def __init__(self, norm_first=False):
        super().__init__()
        self.token, self.out = nn.Linear(2, 8), nn.Linear(8, 3)
        self.mix = nn.TransformerEncoderLayer(
            8, 2, 16, batch_first=True, norm_first=norm_first
        )

    def forward(self, X):
        return self.out(self.mix(self.token(X.view(len(X), 4, 2))).mean(1))


class Recurrent(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.body, self.out = getattr(nn, kind)(2, 6, batch_first=True), nn.Linear(6, 3)

    def forward(self, X):
        return self.out(self.body(X.view(len(X), 4, 2))[0][:, -1])


@pytest.mark.filterwarnings(
    "ignore::sklearn_sparse_nn.exceptions.UnprunedWeightsWarning"
)
@pytest.mark.parametrize("importance", ["synflow", "grasp", "fisher", "wanda", "obs"])
@pytest.mark.parametrize("norm_first", [False, True])
def test_importances_of_an_encoder(classes, importance, norm_first):
    net = own_net(Encoder, module__norm_first=norm_first)
    pruner = PrunedClassifier(net, importance=importance, **QUICK).fit(*classes)
    assert 0.5 <= pruner.sparsity_ < 0.52


@pytest.mark.parametrize("importance", ["grasp", "fisher", "wanda"])
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_importances_of_a_layer_behind_a_recurrent_one(classes, importance, kind):
    pruner = PrunedClassifier(own_net(Recurrent, module__kind=kind), **QUICK)
    assert pruner.set_params(importance=importance, layers="out").fit(*classes)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64, torch.float16])
def test_importances_of_nets_in_other_precisions(classes, name, dtype):
    class Other(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(8, 12, dtype=dtype)
            self.last = nn.Linear(12, 3, dtype=dtype)

        def forward(self, X):
            return self.last(torch.relu(self.first(X.to(dtype)))).to(X.dtype)

    net = own_net(Other, optimizer=torch.optim.SGD)
    pruner = PrunedClassifier(net, importance=asks_for(name), **QUICK).fit(*classes)
    assert pruner.sparsity_ == 0.5


class OneWay(torch.autograd.Function):
    """Has a derivative that has none itself."""

    @staticmethod
    def forward(ctx, X):
        return X.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        return grad


class Through(nn.Module):
    def __init__(self, between):
        super().__init__()
        self.first, self.last, self.between = nn.Linear(8, 6), nn.Linear(6, 3), between

    def forward(self, X):
        return self.last(self.between(self.first(X)))


def test_an_operation_without_second_derivative(classes):
    net = own_net(Through, module__between=OneWay.apply)
    text = refused(net, classes, importance="grasp")
    assert "'hessian_grad' is not known for Through: a function in it has no" in text


class Bag(Embedded):
    def __init__(self):
        super().__init__()
        self.table = nn.EmbeddingBag(12, 5)

    def forward(self, X):
        return self.head(self.table(X))


def test_a_bag_has_no_second_derivative():
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 12, size=(60, 4)), rng.integers(0, 3, size=60)
    text = refused(own_net(Bag), rows, importance="grasp")
    assert "importance='grasp' asks for the statistic 'hessian_grad', which" in text
    assert "cannot be computed for Bag (NotImplementedError: " in text
    text = refused(own_net(Bag), rows, importance="grasp", regrow="gradient")
    assert "importance='grasp' or regrow='gradient' asks" in text
    assert PrunedClassifier(own_net(Bag), importance="fisher", **QUICK).fit(*rows)


def test_a_norm_that_needs_more_than_one_row(classes):
    class Batch(Mlp):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(16, track_running_stats=False)

    net = own_net(Batch, criterion__weight=torch.ones(3))  # rows are run one by one
    text = refused(net, classes, importance="fisher")
    assert "'grad_sq', which cannot be computed for Batch (ValueError: Expected" in text
    assert PrunedClassifier(own_net(Batch), importance="snip", **QUICK).fit(*classes)


@pytest.mark.parametrize(
    ("importance", "between", "text"),
    [
        ("synflow", torch.exp, "paths through Summed cannot be followed"),
        ("snip", torch.no_grad()(torch.relu), "no gradient of the loss reaches it"),
        ("wanda", lambda X: X, "through einsum, and not only as Linear does"),
    ],
)
def test_what_a_statistic_refuses_itself(classes, importance, between, text):
    class Summed(Through):
        def forward(self, X):
            values = torch.einsum("bi,oi->bo", X, self.first.weight)
            return self.last(self.between(values))

    net = own_net(Summed, module__between=between)
    assert text in refused(net, classes, importance=importance)


def test_a_later_level_of_a_path_is_tried_as_well(classes):
    net = own_net(Through, module__between=OneWay.apply, callbacks=[Untrained])
    pruner = PrunedClassifier(net, importance="grasp", **QUICK)
    with pytest.raises(ValueError, match="'hessian_grad' is not known for Through"):
        pruning_path(pruner, *classes, sparsities=[0.5, 0.6])


class Counts(Mlp):
    """Counts its calls, and draws, also in evaluation mode."""

    def __init__(self):
        super().__init__()
        self.register_buffer("n_calls", torch.zeros(()))

    def forward(self, X):
        self.n_calls += 1
        torch.rand(3)
        return super().forward(X)


@pytest.mark.parametrize("name", GATHERED)
def test_trying_changes_nothing(classes, name, monkeypatch):
    def fit():
        net = own_net(Counts)
        importance = asks_for(name)
        return PrunedClassifier(net, importance=importance, **QUICK).fit(*classes)

    tried = fit()
    monkeypatch.setattr("sklearn_sparse_nn.pruning.checks.rehearse", lambda *_: None)
    plain = fit()
    state = plain.net_.module_.state_dict()
    for key, value in tried.net_.module_.state_dict().items():
        assert torch.equal(value, state[key]), key


def test_a_loss_that_needs_a_callback_is_not_tried(classes):
    class Sets(Callback):
        def on_epoch_begin(self, net, **kwargs):
            net.strength_ = 0.1

    class Own(NeuralNetClassifier):
        def get_loss(self, y_pred, y_true, *args, **kwargs):
            self.history.record_batch("seen", 1)
            return super().get_loss(y_pred, y_true, *args, **kwargs) * self.strength_

    options = {"criterion": nn.CrossEntropyLoss, "max_epochs": 1, "verbose": 0}
    net = Own(Mlp, callbacks=[Sets], train_split=None, **options)
    assert PrunedClassifier(net, importance="snip", **QUICK).fit(*classes)


# soft targets -----------------------------------------------------------------


def test_outputs_that_have_no_soft_form(classes):
    class Own(NeuralNetClassifier):
        def get_loss(self, y_pred, *args, **kwargs):
            return super().get_loss(y_pred["logits"], *args, **kwargs)

        def infer(self, x, **kwargs):
            return {"logits": super().infer(x, **kwargs)}

        def forward_iter(self, *args, **kwargs):
            for outputs in super().forward_iter(*args, **kwargs):
                yield outputs["logits"]

        def evaluation_step(self, batch, training=False):
            return super().evaluation_step(batch, training)

    options = {"criterion": nn.CrossEntropyLoss, "max_epochs": 1, "verbose": 0}
    net = Own(Mlp, train_split=None, **options)
    text = refused(net, classes, distill=0.5)
    assert "distill and the outputs of Mlp do not go together (" in text


# schedules --------------------------------------------------------------------


def scheduled(policy, **options):
    policies = torch.optim.lr_scheduler
    policy = getattr(policies, policy) if isinstance(policy, str) else policy
    scheduler = LRScheduler(policy, **options)
    return own_net(
        callbacks=[("rates", scheduler)],
        optimizer=torch.optim.SGD,
        optimizer__momentum=0.9,
        iterator_train=BatchIterator,
        batch_size=40,
    )


def listed(n):
    rates = [1.0] * n
    return lambda epoch: rates[epoch]


class Ends(torch.optim.lr_scheduler.StepLR):
    def step(self, *args):
        if self.last_epoch >= 2:
            raise RuntimeError("the end")
        super().step(*args)


SCHEDULES = {
    "one cycle": ("OneCycleLR", {"max_lr": 0.1, "total_steps": 3}),
    "one cycle by batches": (
        "OneCycleLR",
        {"max_lr": 0.1, "epochs": 1, "steps_per_epoch": 3, "step_every": "batch"},
    ),
    "a list": ("LambdaLR", {"lr_lambda": listed(4)}),
    "a list of factors": ("MultiplicativeLR", {"lr_lambda": listed(4)}),
    "own": (Ends, {"step_size": 1}),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_that_ends_before_the_training(classes, name):
    policy, options = SCHEDULES[name]
    text = refused(scheduled(policy, **options), classes)
    by_batch = "step_every" in options
    assert "learning-rate schedule 'rates' (" in text
    assert "1 + 2 + 1 epochs (dense_epochs, prune_epochs, finetune_epochs)" in text
    assert f"Make the schedule for {12 if by_batch else 4} steps" in text


@pytest.mark.parametrize(
    ("policy", "options"),
    [
        ("OneCycleLR", {"max_lr": 0.1, "total_steps": 4}),
        ("OneCycleLR", {"max_lr": 0.1, "total_steps": 12, "step_every": "batch"}),
        ("LambdaLR", {"lr_lambda": listed(5)}),
        ("CosineAnnealingLR", {"T_max": 1}),
        ("ReduceLROnPlateau", {}),
        ("CyclicLR", {"base_lr": 0.01, "max_lr": 0.1, "step_every": "batch"}),
    ],
)
def test_a_schedule_that_is_long_enough(classes, policy, options):
    net = scheduled(policy, **options)
    rates = PrunedClassifier(net, **QUICK).fit(*classes).history_
    assert len(rates) == 4


def test_a_rewound_schedule_needs_fewer_steps(classes):
    net = scheduled("OneCycleLR", max_lr=0.1, total_steps=3)
    pruner = PrunedClassifier(net, **QUICK, rewind="weights")
    assert pruner.fit(*classes)
    text = refused(net, classes, rewind="weights", finetune_epochs=4)
    assert "(rewound to epoch 0)" in text


def test_layers_may_be_used_by_functions_in_all_of_this(classes):
    class Functional(Mlp):
        def forward(self, X):
            return self.last(F.relu(F.linear(X, self.first.weight, self.first.bias)))

    for importance in ("wanda", "synflow", "grasp", "apoz", "obs"):
        granularity = "neuron" if importance == "apoz" else "unstructured"
        pruner = PrunedClassifier(own_net(Functional), importance=importance, **QUICK)
        assert pruner.set_params(granularity=granularity).fit(*classes)
