"""The learning rate in fine-tuning, under every kind of schedule."""

import numpy as np
import pytest
import torch
from skorch.callbacks import Callback, LRScheduler

from sklearn_sparse_nn import PrunedClassifier
from tests.pruning.nets import own_net

SCHEDULES = {
    "none": None,
    "step": {"policy": "StepLR", "step_size": 2, "gamma": 0.5},
    "exponential": {"policy": "ExponentialLR", "gamma": 0.9},
    "cosine": {"policy": "CosineAnnealingLR", "T_max": 12},
    "restarts": {
        "policy": torch.optim.lr_scheduler.CosineAnnealingWarmRestarts,
        "T_0": 3,
    },
    "lambda": {"policy": "LambdaLR", "lr_lambda": lambda epoch: 1 / (1 + epoch)},
    "cycles": {
        "policy": "CyclicLR",
        "base_lr": 1e-3,
        "max_lr": 0.1,
        "step_every": "batch",
    },
    "one cycle": {
        "policy": torch.optim.lr_scheduler.OneCycleLR,
        "max_lr": 0.1,
        "total_steps": 40,
        "step_every": "epoch",
    },
    "chained": {
        "policy": lambda optimizer, **_: torch.optim.lr_scheduler.SequentialLR(
            optimizer,
            [
                torch.optim.lr_scheduler.LinearLR(optimizer, total_iters=3),
                torch.optim.lr_scheduler.LambdaLR(optimizer, lambda e: 0.9**e),
            ],
            milestones=[3],
        )
    },
}


class Rates(Callback):
    """Notes the learning rate of every batch, by phase."""

    def on_batch_begin(self, net, training=False, **kwargs):
        if training:
            net.rates_.append(net.optimizer_.param_groups[0]["lr"])

    def on_train_begin(self, net, **kwargs):
        net.rates_ = []


def rates(classes, schedule, **options):
    callbacks = [Rates()]
    if schedule is not None:
        callbacks.append(LRScheduler(**schedule))
    net = own_net(optimizer=torch.optim.SGD, lr=0.01, callbacks=callbacks)
    pruner = PrunedClassifier(
        net,
        sparsity=0.5,
        prune_epochs=3,
        finetune_epochs=4,
        n_steps=3,
        random_state=0,
        **options,
    )
    pruner.fit(*classes)
    found = np.array(pruner.net_.rates_)
    n = 4 * len(found) // 10
    return found[:-n], found[-n:]


@pytest.mark.parametrize("rewind", [None, "learning_rate"])
@pytest.mark.parametrize("name", SCHEDULES)
def test_fine_tuning_has_a_multiple_of_what_it_would_have(classes, name, rewind):
    before, after = rates(classes, SCHEDULES[name], rewind=rewind)
    scaled_before, scaled_after = rates(
        classes, SCHEDULES[name], rewind=rewind, finetune_lr=0.1
    )
    assert np.array_equal(scaled_before, before)
    # A schedule may lead to a rate of 0 within rounding.
    np.testing.assert_allclose(scaled_after, 0.1 * after, rtol=1e-9, atol=1e-15)
    assert after.max() > 0


def test_it_must_be_above_zero(classes):
    with pytest.raises(ValueError, match="The 'finetune_lr' parameter"):
        PrunedClassifier(finetune_lr=0).fit(*classes)
