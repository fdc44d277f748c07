"""Time one pruning event against one epoch of the default net, for every importance.

An event gathers statistics, scores, selects and masks. Epochs and events take turns,
round after round, because the machine may be shared; what counts is the ratio of their
medians. It writes docs/events.md. Run with::

    python benchmarks/events.py [--rows 20000] [--columns 50] [--rounds 7]
"""

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import make_classification
from sklearn.frozen import FrozenEstimator

from sklearn_sparse_nn import PrunedClassifier, TabularNetClassifier
from sklearn_sparse_nn.core.importance import IMPORTANCES
from sklearn_sparse_nn.pruning.events import PruningEvents
from sklearn_sparse_nn.training.run import TrainingRun

HEAD = """# What a pruning event costs

Gathering statistics over {subsample} rows, scoring, selecting and masking at one event,
as a share of one epoch of the default net (3 x 256) on {rows} rows of {columns}
columns: medians of {rounds} rounds in turns, one thread. An epoch took {epoch:.0f} ms.

Written by `python benchmarks/events.py --rows {rows} --columns {columns}`.

| event | ms | of an epoch |
|---|---|---|
"""

CASES = {
    **{name: {"importance": name} for name in IMPORTANCES},
    "magnitude, LAMP": {"allocation": "lamp"},
    "magnitude, ERK": {"allocation": "erk"},
    "magnitude, 2:4": {"granularity": "2:4"},
    "magnitude, blocks of 4x1": {"granularity": "block:4x1"},
    "magnitude, regrown by gradient": {"regrow": "gradient", "schedule": "constant"},
}
CASES["apoz"] |= {"granularity": "neuron"}
CASES["fpgm"] |= {"granularity": "neuron"}
CASES["movement"] |= {"dense_epochs": 1}


def seconds_of_events(X, y, net, parameters):
    """Time the events of one fit; the last is like all others."""
    times = []
    carry_out = PruningEvents.carry_out

    def timed(self, *args):
        begin = time.perf_counter()
        carry_out(self, *args)
        times.append(time.perf_counter() - begin)

    PruningEvents.carry_out = timed
    fresh = "dense_epochs" in parameters
    start = TabularNetClassifier(random_state=0) if fresh else FrozenEstimator(net)
    epochs = {"prune_epochs": 0, "finetune_epochs": 0, "n_steps": 2}
    if "regrow" in parameters:
        epochs |= {"prune_epochs": 1}
    try:
        parameters = {"schedule": "linear", **epochs, **parameters}
        PrunedClassifier(start, random_state=0, **parameters).fit(X, y)
    finally:
        PruningEvents.carry_out = carry_out
    return times[-1]


def seconds_of_epoch(X, y):
    times = []
    epoch = TrainingRun.epoch

    def timed(self, *args):
        begin = time.perf_counter()
        go_on = epoch(self, *args)
        times.append(time.perf_counter() - begin)
        return go_on

    TrainingRun.epoch = timed
    try:
        TabularNetClassifier(max_epochs=2, random_state=0).fit(X, y)
    finally:
        TrainingRun.epoch = epoch
    return times[-1]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--columns", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--output", type=Path, default=Path("docs/events.md"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    X, y = make_classification(
        args.rows, args.columns, n_informative=20, random_state=0
    )
    X = X.astype(np.float32)
    net = TabularNetClassifier(max_epochs=2, random_state=0).fit(X, y)
    epochs, events = [], {name: [] for name in CASES}
    for round_ in range(args.rounds):
        epochs.append(seconds_of_epoch(X, y))
        for name, parameters in CASES.items():
            if name == "obs" and round_ >= 2:
                continue  # exempt from the target, and slow
            events[name].append(seconds_of_events(X, y, net, parameters))
    epoch = statistics.median(epochs)
    subsample = PrunedClassifier().subsample
    text = HEAD.format(**vars(args), epoch=1000 * epoch, subsample=subsample)
    for name, times in events.items():
        event = statistics.median(times)
        text += f"| {name} | {1000 * event:.1f} | {event / epoch:.0%} |\n"
    print(text)
    args.output.write_text(text)


if __name__ == "__main__":
    main()
