"""Snapshots: what comes back is another copy of all that was there."""

import warnings

import numpy as np
import pytest
import torch
from torch.optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau, StepLR

from sklearn_sparse_nn.memory.snapshot import Snapshot
from tests.pruning.nets import Mlp, own_net


class Local:
    """A class that a snapshot refers to."""


@pytest.mark.parametrize("live", [False, True])
def test_data_are_not_written_and_may_be_there_twice(live):
    rows = np.zeros(1000)
    snapshot = Snapshot.of([rows, Local(), rows], data=(rows, rows), live=live)
    assert len(snapshot.blob) < 500
    assert snapshot.parts == ((Local,) if live else ())
    other = np.ones(1000)
    one, local, two = snapshot.restore(data=(other, other))
    assert one is other and two is other and type(local) is Local
    assert snapshot.restore(data=(other, other))[1] is not local


@pytest.mark.parametrize(
    "schedule",
    [
        lambda optimizer: StepLR(optimizer, 2, gamma=0.5),
        lambda optimizer: OneCycleLR(optimizer, 0.1, total_steps=9),
        lambda optimizer: ReduceLROnPlateau(optimizer),
    ],
    ids=["step", "cycle", "plateau"],
)
@pytest.mark.parametrize("rate", [0.3, torch.tensor(0.3)], ids=["number", "tensor"])
def test_a_schedule_goes_on_as_it_would_have(schedule, rate):
    with torch.random.fork_rng():
        net = own_net(Mlp, optimizer=torch.optim.SGD, lr=rate).initialize()

    class Holds:
        lr_scheduler_ = schedule(net.optimizer_)

    def go_on(net):
        watched = dict(net.callbacks_)["rate"].lr_scheduler_
        assert watched.optimizer is net.optimizer_
        found = [dict(net.optimizer_.param_groups[0], params=None)]
        for _ in range(5):
            net.optimizer_.step()
            watched.step(*[1.0] * isinstance(watched, ReduceLROnPlateau))
            found.append(float(net.optimizer_.param_groups[0]["lr"]))
        return found

    held = Holds()
    held.lr_scheduler_ = Holds.lr_scheduler_
    net.callbacks_.append(("rate", held))
    snapshot = Snapshot.of(net, live=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = snapshot.restore()
        assert go_on(again) == go_on(net)
