"""Plant a sparse teacher and see which share of its mask each method finds again.

Three teachers with one output and known masks; students learn from their values with
noise, and are pruned to the teacher's own number of weights:

* linear: 200 correlated inputs, of which 20 count;
* two layers, known start: 40 inputs, 20 hidden ReLU units that read 4 inputs each; the
  student starts as the teacher with every weight disturbed, so that units correspond;
* two layers, random start: the same, from a random start with twice as many units.
  Units are matched by the best assignment of their input weights.

Printed is the share of the teacher's first-layer mask that the student's mask has, mean
and deviation over seeds. It writes docs/planted.md. Run with::

    python benchmarks/planted.py [--seeds 5] [--rows 4000]
"""

import argparse
import warnings
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from skorch import NeuralNetRegressor
from torch import nn

from sklearn_sparse_nn import BatchIterator, PrunedRegressor
from sklearn_sparse_nn.core.schedules import Between

METHODS = {
    "magnitude": {},
    "magnitude, one-shot": {"schedule": "oneshot"},
    "magnitude, LAMP": {"allocation": "lamp"},
    "magnitude, regrown by gradient": {"regrow": "gradient"},
    "gradient": {"importance": "gradient"},
    "snip": {"importance": "snip"},
    "fisher (OBD)": {"importance": "fisher"},
    "grasp": {"importance": "grasp"},
    "synflow": {"importance": "synflow"},
    "movement": {"importance": "movement"},
    "wanda": {"importance": "wanda"},
    "obs": {"importance": "obs"},
    "L1 penalty": {"penalty": "l1"},
    "L0 penalty": {"penalty": "l0"},
    "L1 penalty, one late event": {
        "penalty": "l1",
        "schedule": Between("oneshot", begin=0.9),
    },
    "snip, before training": {
        "importance": "snip",
        "schedule": "oneshot",
        "dense_epochs": 0,
        "finetune_epochs": 40,
        "prune_epochs": 0,
    },
    "RigL": {
        "regrow": "gradient",
        "schedule": "constant",
        "dense_epochs": 0,
        "n_steps": 40,
        "prune_epochs": 30,
    },
    "*random mask*": {"importance": "random"},
}
SETTINGS = ("linear", "two layers, known start", "two layers, random start")


class Student(nn.Sequential):
    """A net with given first weights, or torch's own where none are given."""

    def __init__(self, n_inputs, n_hidden=0, start=None):
        if n_hidden:
            layers = [nn.Linear(n_inputs, n_hidden), nn.ReLU(), nn.Linear(n_hidden, 1)]
        else:
            layers = [nn.Linear(n_inputs, 1)]
        super().__init__(*layers)
        if start is not None:
            with torch.no_grad():
                for layer, weight in zip(layers[::2], start, strict=True):
                    layer.weight.copy_(torch.from_numpy(weight))


def correlated(rng, n_rows, n_inputs):
    """Neighbouring columns correlate with 0.6."""
    X = rng.normal(size=(n_rows, n_inputs))
    for column in range(1, n_inputs):
        X[:, column] = 0.6 * X[:, column - 1] + 0.8 * X[:, column]
    return X.astype(np.float32)


def planted(setting, seed, n_rows):
    """Make rows, targets, the true first-layer mask, and the student's net."""
    rng = np.random.default_rng(seed)
    if setting == "linear":
        X = correlated(rng, n_rows, 200)
        weight = np.zeros((1, 200))
        chosen = rng.choice(200, 20, replace=False)
        weight[0, chosen] = rng.choice([-1, 1], 20) * rng.uniform(0.3, 1, 20)
        values, student = X @ weight[0], {"n_inputs": 200}
    else:
        X = correlated(rng, n_rows, 40)
        weight = np.zeros((20, 40))
        for row in weight:
            row[rng.choice(40, 4, replace=False)] = rng.choice([-1, 1], 4)
        out = rng.choice([-1, 1], (1, 20)) * rng.uniform(0.5, 1, (1, 20))
        values = np.maximum(X @ weight.T, 0) @ out[0]
        student = {"n_inputs": 40, "n_hidden": 40}
        if "known" in setting:
            noise = rng.normal(scale=0.4, size=weight.shape)
            disturbed = [(weight + noise).astype(np.float32), out.astype(np.float32)]
            student = {"n_inputs": 40, "n_hidden": 20, "start": disturbed}
    y = values + 0.3 * values.std() * rng.normal(size=n_rows)
    return X, (y / y.std()).astype(np.float32), weight != 0, student


def recovered(setting, seed, n_rows, parameters):
    X, y, truth, student = planted(setting, seed, n_rows)
    net = NeuralNetRegressor(
        Student,
        **{f"module__{name}": value for name, value in student.items()},
        optimizer=torch.optim.Adam,
        lr=3e-3,
        batch_size=64,
        max_epochs=20,
        iterator_train=BatchIterator,
        iterator_train__shuffle=True,
        train_split=None,
        verbose=0,
    )
    defaults = {"finetune_epochs": 5, "random_state": seed, "layers": "0"}
    pruner = PrunedRegressor(
        net, sparsity=int(truth.sum()), **{**defaults, **parameters}
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of layer collapse: the share tells
        mask = pruner.fit(X, y).masks_["0"]
    if "random start" not in setting:
        return (mask & truth).sum() / truth.sum()
    overlap = truth.astype(int) @ mask.T.astype(int)  # (teacher's, student's units)
    return overlap[linear_sum_assignment(-overlap)].sum() / truth.sum()


HEAD = """# Which share of a planted mask is found again

Sparse teachers of known masks, {rows} noisy rows, pruned to the teacher's number of
weights in the first layer; mean and deviation of {seeds} seeds, in percent. What the
three teachers are, `benchmarks/planted.py` says. The random mask says how much chance
finds; from a random start, units are matched, which finds more by chance.

Written by `python benchmarks/planted.py --seeds {seeds} --rows {rows}`.

| method | linear | two layers, known start | two layers, random start |
|---|---|---|---|
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=4000)
    parser.add_argument("--output", type=Path, default=Path("docs/planted.md"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    text = HEAD.format(seeds=args.seeds, rows=args.rows)
    for label, parameters in METHODS.items():
        cells = []
        for setting in SETTINGS:
            shares = [
                100 * recovered(setting, seed, args.rows, parameters)
                for seed in range(args.seeds)
            ]
            cells.append(f"{np.mean(shares):.1f} ± {np.std(shares):.1f}")
        line = f"| {label} | " + " | ".join(cells) + " |"
        print(line, flush=True)
        text += f"{line}\n"
    args.output.write_text(text)


if __name__ == "__main__":
    main()
