"""The mixed loss is the papers' by numpy, and only training ever sees it."""

import numpy as np
import pytest
import torch
from scipy.special import expit, log_softmax, softmax
from skorch import (
    NeuralNet,
    NeuralNetBinaryClassifier,
    NeuralNetClassifier,
    NeuralNetRegressor,
)
from torch import nn

from sklearn_sparse_nn import TabularNetClassifier
from sklearn_sparse_nn.nets.targets import Labels
from sklearn_sparse_nn.training.distillation import Distill, check_distillable
from sklearn_sparse_nn.training.run import TrainingRun

WEIGHT, T = 0.3, 2.5


@pytest.fixture(autouse=True)
def _own_rng():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def mlp(n_outputs, *last):
    first = nn.Linear(4, 6)
    return nn.Sequential(first, nn.Tanh(), nn.Linear(6, n_outputs), *last).double()


def net_of(module, criterion, kind=NeuralNetClassifier, **kwargs):
    options = {"batch_size": 5, "train_split": None, "verbose": 0, "lr": 0.1}
    return kind(module, criterion=criterion, **{**options, **kwargs}).initialize()


def rows(n_classes=3):
    rng = np.random.default_rng(0)
    return rng.normal(size=(13, 4)), rng.integers(0, n_classes, 13)


def outputs_of(module, X):
    """Run the linear and tanh parts of an `mlp` in numpy."""
    first, last = module[0], module[2]
    hidden = X @ first.weight.detach().numpy().T + first.bias.detach().numpy()
    hidden = np.tanh(hidden)
    return hidden @ last.weight.detach().numpy().T + last.bias.detach().numpy()


def mixed_loss(net, X, y, *, weight=WEIGHT, temperature=T, training=True):
    """Give the loss of a net that has moved away from its teacher, and both outputs."""
    wanted = outputs_of(net.module_, X)
    with Distill(net, weight, temperature):
        with torch.no_grad():
            for parameter in net.module_.parameters():
                parameter.add_(0.5 * torch.randn_like(parameter))
        found = net.get_loss(
            net.infer(torch.as_tensor(X)),
            torch.as_tensor(y),
            X=torch.as_tensor(X),
            training=training,
        )
    return found.item(), outputs_of(net.module_, X), wanted


def divergence(given, wanted, temperature=T):
    """Average KL(teacher || student) at a temperature over rows."""
    student = log_softmax(given / temperature, axis=1)
    teacher = log_softmax(wanted / temperature, axis=1)
    return (np.exp(teacher) * (teacher - student)).sum(1).mean()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_the_loss_of_logits_is_the_papers(weight, temperature):
    net, (X, y) = net_of(mlp(3), nn.CrossEntropyLoss), rows()
    asked = {"weight": weight, "temperature": temperature}
    found, given, wanted = mixed_loss(net, X, y, **asked)
    hard = -log_softmax(given, axis=1)[np.arange(13), y].mean()
    soft = temperature**2 * divergence(given, wanted, temperature)
    np.testing.assert_allclose(found, (1 - weight) * hard + weight * soft, rtol=1e-10)


def test_the_loss_of_probabilities_is_the_papers():
    net, (X, y) = net_of(mlp(3, nn.Softmax(dim=1)), nn.NLLLoss), rows()
    found, given, wanted = mixed_loss(net, X, y)
    hard = -log_softmax(given, axis=1)[np.arange(13), y].mean()
    soft = T**2 * divergence(given, wanted)
    np.testing.assert_allclose(found, (1 - WEIGHT) * hard + WEIGHT * soft, rtol=1e-10)


def test_the_loss_of_log_probabilities_is_the_papers():
    # A plain NeuralNet hands the module's outputs to NLLLoss as they are.
    module = mlp(3, nn.LogSoftmax(dim=1))
    net, (X, y) = net_of(module, nn.NLLLoss, NeuralNet), rows()
    found, given, wanted = mixed_loss(net, X, y)
    hard = -log_softmax(given, axis=1)[np.arange(13), y].mean()
    soft = T**2 * divergence(given, wanted)
    np.testing.assert_allclose(found, (1 - WEIGHT) * hard + WEIGHT * soft, rtol=1e-10)


def binary(given, y):
    return np.mean(np.logaddexp(0, given) - y * given)


def test_the_loss_of_a_binary_logit_is_the_papers():
    net = net_of(mlp(1), nn.BCEWithLogitsLoss, NeuralNetBinaryClassifier)
    X, y = rows(2)
    found, given, wanted = mixed_loss(net, X, y.astype(float))
    given, wanted = given[:, 0], wanted[:, 0]
    # Two classes whose logits are 0 and z.
    pairs = [np.stack([0 * z, z], axis=1) for z in (given, wanted)]
    soft = T**2 * divergence(*pairs)
    hard = binary(given, y)
    np.testing.assert_allclose(found, (1 - WEIGHT) * hard + WEIGHT * soft, rtol=1e-10)


def test_the_slope_by_a_binary_logit_is_the_papers():
    net = net_of(mlp(1), nn.BCEWithLogitsLoss, NeuralNetBinaryClassifier)
    X, _ = rows(2)
    wanted = outputs_of(net.module_, X)[:, 0]
    given = torch.linspace(-2, 2, 13, dtype=torch.float64, requires_grad=True)
    with Distill(net, 1.0, T):
        loss = net.get_loss(
            given, torch.zeros(13).double(), X=torch.as_tensor(X), training=True
        )
    (slope,) = torch.autograd.grad(loss, given)
    expected = T * (expit(given.detach().numpy() / T) - expit(wanted / T)) / 13
    np.testing.assert_allclose(slope, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("criterion", [nn.MSELoss, nn.L1Loss, nn.HuberLoss])
def test_regression_takes_the_teachers_outputs_for_targets(criterion):
    net = net_of(mlp(2), criterion, NeuralNetRegressor)
    X, _ = rows()
    y = np.random.default_rng(1).normal(size=(13, 2))
    found, given, wanted = mixed_loss(net, X, y)

    def distance(off):
        size = np.abs(off)
        if criterion is nn.MSELoss:
            return (off**2).mean()
        if criterion is nn.L1Loss:
            return size.mean()
        return np.where(size < 1, off**2 / 2, size - 0.5).mean()

    expected = (1 - WEIGHT) * distance(given - y) + WEIGHT * distance(given - wanted)
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_an_output_for_every_position_is_averaged_over_positions():
    class Tagger(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv1d(2, 3, 1, dtype=torch.float64)

        def forward(self, X):
            return self.conv(X)

    net = net_of(Tagger(), nn.CrossEntropyLoss)
    X = torch.randn(5, 2, 4, dtype=torch.float64)
    y = torch.randint(0, 3, (5, 4))
    wanted = net.module_(X).detach().numpy()
    given = torch.randn(5, 3, 4, dtype=torch.float64)
    with Distill(net, 1.0, T):
        found = net.get_loss(given, y, X=X, training=True).item()
    flat = [
        np.moveaxis(values, 1, -1).reshape(-1, 3) for values in (given.numpy(), wanted)
    ]
    np.testing.assert_allclose(found, T**2 * divergence(*flat), rtol=1e-10)


def test_a_student_like_its_teacher_has_no_soft_loss():
    net, (X, y) = net_of(mlp(3), nn.CrossEntropyLoss), rows()
    X, y = torch.as_tensor(X), torch.as_tensor(y)
    with Distill(net, 1.0, T):
        assert abs(net.get_loss(net.infer(X), y, X=X, training=True).item()) < 1e-12


def test_a_batch_that_our_net_fills_up_is_as_the_teacher_sees_it(classes):
    X, y = classes
    estimator = TabularNetClassifier((7,), random_state=0)
    net = estimator.build_net(X, y, Labels.of(y)).initialize()
    X, y = torch.as_tensor(X[:5]), torch.as_tensor(y[:5])
    with Distill(net, 1.0, T):
        net.module_.train()
        assert abs(net.get_loss(net.infer(X), y, X=X, training=True).item()) < 1e-6


# what stays the same ----------------------------------------------------------


def test_validation_sees_the_nets_own_loss():
    net, (X, y) = net_of(mlp(3), nn.CrossEntropyLoss), rows()
    found, given, _ = mixed_loss(net, X, y, training=False)
    hard = -log_softmax(given, axis=1)[np.arange(13), y].mean()
    np.testing.assert_allclose(found, hard, rtol=1e-10)


def test_the_recorded_validation_loss_is_the_nets_own():
    from skorch.dataset import ValidSplit

    split = ValidSplit(2, stratified=False)
    net = net_of(mlp(3), nn.CrossEntropyLoss, train_split=split)
    X, y = rows()
    with Distill(net, 0.9, T):
        TrainingRun(net, X, y).epoch("finetune")
    _, valid = split(net.get_dataset(X, y))
    given = outputs_of(net.module_, X[valid.indices])
    own = -log_softmax(given, axis=1)[np.arange(len(given)), y[valid.indices]].mean()
    np.testing.assert_allclose(net.history[-1, "valid_loss"], own, rtol=1e-6)


def test_the_loss_is_the_nets_own_afterwards():
    net = net_of(mlp(3), nn.CrossEntropyLoss)
    TrainingRun(net, *rows()).epoch("dense")
    settings = set(vars(net))
    with Distill(net, WEIGHT, T):
        TrainingRun(net, *rows()).epoch("finetune")
    assert set(vars(net)) == settings
    assert net.get_loss.__func__ is NeuralNetClassifier.get_loss


def test_the_loss_is_the_nets_own_after_an_error():
    net = net_of(mlp(3), nn.CrossEntropyLoss)
    student = net.module_
    X, y = rows()
    with pytest.raises(RuntimeError), Distill(net, WEIGHT, T):
        net.get_loss(
            net.infer(torch.as_tensor(X)),
            torch.as_tensor(y),
            X=torch.as_tensor(X[:, :2]),  # the teacher cannot take it
            training=True,
        )
    assert "get_loss" not in vars(net)
    assert net.module_ is student


def test_a_loss_that_a_user_put_on_the_net_is_there_again():
    net = net_of(mlp(3), nn.CrossEntropyLoss)

    def mine(y_pred, y_true, *args, **kwargs):
        return 7 * y_pred.sum()

    net.get_loss = mine
    X, y = map(torch.as_tensor, rows())
    with Distill(net, 0.5, T):
        given = net.infer(X)
        found = net.get_loss(given, y, X=X, training=False).item()
        assert found == pytest.approx(7 * given.sum().item())
    assert net.get_loss is mine


def test_a_subclass_of_a_net_keeps_its_own_part_of_the_loss():
    class Doubled(NeuralNetClassifier):
        def get_loss(self, *args, **kwargs):
            return 2 * super().get_loss(*args, **kwargs)

    net, (X, y) = net_of(mlp(3), nn.CrossEntropyLoss, Doubled), rows()
    found, given, _ = mixed_loss(net, X, y, weight=0.0)
    hard = -log_softmax(given, axis=1)[np.arange(13), y].mean()
    np.testing.assert_allclose(found, 2 * hard, rtol=1e-10)


def test_the_teacher_does_not_learn_with_the_student():
    net, (X, y) = net_of(mlp(3), nn.CrossEntropyLoss, lr=1.0), rows()
    wanted = softmax(outputs_of(net.module_, X) / T, axis=1)
    with Distill(net, 0.5, T):
        for _ in range(5):
            TrainingRun(net, X, y).epoch("finetune")
        # The soft loss is least where the student is what the teacher was.
        logits = torch.as_tensor(T * np.log(wanted)).requires_grad_()
        loss = net.get_loss(
            logits, torch.as_tensor(y), X=torch.as_tensor(X), training=True
        )
    hard = nn.functional.cross_entropy(logits, torch.as_tensor(y))
    np.testing.assert_allclose(loss.item(), 0.5 * hard.item(), rtol=1e-10)


class Dropped(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 6, dtype=torch.float64)
        self.norm = nn.BatchNorm1d(6, dtype=torch.float64)
        self.drop = nn.Dropout(0.5)
        self.last = nn.Linear(6, 3, dtype=torch.float64)

    def forward(self, X):
        return self.last(self.drop(self.norm(self.first(X))))


def test_the_teacher_draws_no_dropout_and_moves_no_running_mean():
    net, (X, y) = net_of(Dropped(), nn.CrossEntropyLoss), rows()
    X, y = torch.as_tensor(X), torch.as_tensor(y)
    net.module_.train()
    given = net.infer(X)
    buffers = [b.clone() for b in net.module_.buffers()]
    with Distill(net, 1.0, T):
        state = torch.get_rng_state()
        losses = [net.get_loss(given, y, X=X, training=True) for _ in range(3)]
        assert torch.equal(torch.get_rng_state(), state)
    assert len({loss.item() for loss in losses}) == 1
    assert all(map(torch.equal, net.module_.buffers(), buffers))
    assert net.module_.training


def test_a_weight_of_zero_trains_as_without_a_teacher():
    nets = [net_of(mlp(3), nn.CrossEntropyLoss) for _ in range(2)]
    nets[1].module_.load_state_dict(nets[0].module_.state_dict())
    with Distill(nets[0], 0.0, T):
        TrainingRun(nets[0], *rows()).epoch("finetune")
    TrainingRun(nets[1], *rows()).epoch("finetune")
    for one, two in zip(*[net.module_.parameters() for net in nets], strict=True):
        torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-12)


def test_training_towards_the_teacher_alone_needs_no_right_labels():
    net, (X, y) = net_of(mlp(3), nn.CrossEntropyLoss, lr=1.0), rows()
    wanted = outputs_of(net.module_, X)
    with Distill(net, 1.0, 1.0):
        with torch.no_grad():
            for parameter in net.module_.parameters():
                parameter.add_(torch.randn_like(parameter))
        before = divergence(outputs_of(net.module_, X), wanted, 1.0)
        for _ in range(60):
            TrainingRun(net, X, (y + 1) % 3).epoch("finetune")
    assert divergence(outputs_of(net.module_, X), wanted, 1.0) < before / 10


def test_an_unknown_loss_is_refused_naming_it_and_the_known_ones():
    net = net_of(mlp(3), nn.MultiMarginLoss)
    for refuse in (check_distillable, lambda net: Distill(net, 0.5, T)):
        with pytest.raises(TypeError) as caught:
            refuse(net)
        message = str(caught.value)
        names = ("MultiMarginLoss", "CrossEntropyLoss", "NLLLoss", "MSELoss")
        assert all(name in message for name in (*names, "distill=0"))
    assert "get_loss" not in vars(net)
