"""Compare pruning methods with each other and with the simple controls, on real sets.

Every method prunes the default net to the same sparsity in the same epochs. Those that
prune a trained net start from one shared dense net (20 epochs); those that start sparse
train for as many epochs in all. Results are added to a file of JSON lines, so that a
run can be continued, and several can share the work; docs/methods.md is written from
that file. Run with::

    python benchmarks/methods.py [--sets digits ...] [--seeds 5] [--rows 5000]
"""

import argparse
import json
import time
import warnings
from pathlib import Path

import datasets
import numpy as np
import torch
from sklearn.frozen import FrozenEstimator

from sklearn_sparse_nn import (
    PrunedClassifier,
    PrunedRegressor,
    TabularNetClassifier,
    TabularNetRegressor,
)
from sklearn_sparse_nn.core.recovery import SoftTargets
from sklearn_sparse_nn.core.schedules import Between

SETS = ("digits", "letter", "adult", "california")
SPARSITIES = (0.95, 0.98, 0.99)
DENSE, PRUNE, FINETUNE = 20, 6, 6
LATER = {"n_steps": 6, "prune_epochs": PRUNE, "finetune_epochs": FINETUNE}
FIRST = {"dense_epochs": 0, "n_steps": 100, "prune_epochs": 0}
FIRST |= {"finetune_epochs": DENSE + PRUNE + FINETUNE, "schedule": "exponential"}
GROWING = {"dense_epochs": 0, "n_steps": 52, "prune_epochs": 26, "finetune_epochs": 6}
WITHOUT = {"schedule": "oneshot", "prune_epochs": 0, "finetune_epochs": 0}
NEURONS = {"granularity": "neuron", "allocation": "uniform"}

#: Label -> parameters of a pruner, in the order of the table.
AFTER_TRAINING = {
    "magnitude (cubic)": {},
    "magnitude, one-shot": {"schedule": "oneshot"},
    "magnitude, linear (Han 2015)": {"schedule": "linear"},
    "magnitude, cyclic (AC/DC)": {"schedule": "cyclic"},
    "magnitude, uniform": {"allocation": "uniform"},
    "magnitude, ERK": {"allocation": "erk"},
    "magnitude, LAMP": {"allocation": "lamp"},
    "magnitude, regrown by gradient": {"regrow": "gradient"},
    "magnitude, soft targets": {"distill": SoftTargets(0.5, 2.0)},
    "magnitude, weights rewound": {"rewind": "weights"},
    "gradient": {"importance": "gradient"},
    "snip, taylor (one for single weights)": {"importance": "snip"},
    "fisher (OBD)": {"importance": "fisher"},
    "grasp": {"importance": "grasp"},
    "synflow": {"importance": "synflow"},
    "movement": {"importance": "movement", "schedule": Between("cubic", begin=0.17)},
    "wanda": {"importance": "wanda"},
    "obs (two events)": {"importance": "obs", "n_steps": 2},
    "L1 penalty": {"penalty": "l1"},
    "L0 penalty": {"penalty": "l0"},
    "neurons, magnitude": {**NEURONS},
    "neurons, fpgm": {**NEURONS, "importance": "fpgm"},
    "neurons, apoz": {**NEURONS, "importance": "apoz"},
    "neurons, group lasso": {**NEURONS, "penalty": "l1"},
    "magnitude, no training": {**WITHOUT},
    "obs, no training": {**WITHOUT, "importance": "obs"},
}
FROM_SCRATCH = {
    "snip, before training": {**FIRST, "importance": "snip", "schedule": "oneshot"},
    "grasp, before training": {**FIRST, "importance": "grasp", "schedule": "oneshot"},
    "synflow, before training": {**FIRST, "importance": "synflow"},
    "SET": {**GROWING, "regrow": "random", "schedule": "constant"},
    "RigL": {**GROWING, "regrow": "gradient", "schedule": "constant"},
}
CONTROLS = ("random mask", "shuffled mask", "small dense net", "dense, same epochs")
WINNER = "magnitude (cubic)"  # whose counts per layer the shuffled mask has


def kinds(data):
    if data.regression:
        return TabularNetRegressor, PrunedRegressor
    return TabularNetClassifier, PrunedClassifier


def small_sizes(n_inputs, n_outputs, n_nonzero, width=256, n_layers=3):
    """Widths of the largest dense net of equal layers with at most so many weights."""

    def size(width):
        return width * (n_inputs + (n_layers - 1) * width + n_outputs)

    return (max(w for w in range(1, width + 1) if w == 1 or size(w) <= n_nonzero),) * 3


def scores_of(data, X, y, seed, sparsity, todo):
    """Yield (label, score, non-zeros) for every row that is asked for."""
    net_class, pruner_class = kinds(data)
    net = net_class(max_epochs=DENSE, random_state=seed)
    dense = net_class(max_epochs=DENSE, random_state=seed).fit(X, y)
    start = FrozenEstimator(dense)

    def pruned(estimator, **parameters):
        parameters = {"sparsity": sparsity, "random_state": seed, **parameters}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of layer collapse: the score tells
            return pruner_class(estimator, **parameters).fit(X, y)

    def row(label, fitted):
        weights = dict(fitted.net_.module_.named_parameters())
        kept = sum(int((w != 0).sum()) for n, w in weights.items() if "weight" in n)
        return label, fitted.score(data.X_test, data.y_test), kept

    yield row("dense", dense)
    reference = pruned(start, **LATER)
    yield row(WINNER, reference)
    for label, parameters in AFTER_TRAINING.items():
        if label in todo and label != WINNER:
            yield row(label, pruned(start, **{**LATER, **parameters}))
    for label, parameters in FROM_SCRATCH.items():
        if label in todo:
            yield row(label, pruned(net, **parameters))
    if not todo & set(CONTROLS):
        return
    yield row(CONTROLS[0], pruned(start, **LATER, importance="random"))
    layers = reference.layer_sparsity_
    shuffled = {**LATER, "sparsity": layers, "importance": "random"}
    yield row(CONTROLS[1], pruned(start, **shuffled))
    n_outputs = reference.transform()["output"].shape[0]
    sizes = small_sizes(X.shape[1], n_outputs, reference.n_nonzero_)
    n_epochs = DENSE + PRUNE + FINETUNE
    small = net_class(sizes, max_epochs=n_epochs, random_state=seed)
    yield row(CONTROLS[2], small.fit(X, y))
    longer = net_class(max_epochs=n_epochs, random_state=seed)
    yield row(CONTROLS[3], longer.fit(X, y))


def run(name, args):
    labels = {*AFTER_TRAINING, *FROM_SCRATCH, *CONTROLS}
    for seed in range(args.seeds):
        data = datasets.load(name, seed)
        chosen = np.random.default_rng(seed).permutation(len(data.y_train))
        X, y = (part[chosen[: args.rows]] for part in (data.X_train, data.y_train))
        for sparsity in SPARSITIES:
            key = {"set": name, "seed": seed, "sparsity": sparsity, "rows": args.rows}
            done = {r["label"] for r in read(args.results) if key.items() <= r.items()}
            if not labels - done:
                continue
            begin = time.perf_counter()
            for label, score, kept in scores_of(
                data, X, y, seed, sparsity, labels - done
            ):
                if label not in done:
                    line = {**key, "label": label, "score": float(score), "kept": kept}
                    with args.results.open("a") as file:
                        file.write(json.dumps(line) + "\n")
            seconds = time.perf_counter() - begin
            print(
                f"{name} seed {seed} sparsity {sparsity}: {seconds:.0f} s", flush=True
            )


def read(path):
    return [json.loads(line) for line in path.open()] if path.exists() else []


def table(results, sets):
    """Write the rows of the docs table; the controls come last, the best in bold."""
    labels = ["dense", *AFTER_TRAINING, *FROM_SCRATCH, *CONTROLS]
    columns = [(name, sparsity) for name in sets for sparsity in SPARSITIES]
    cells = {}
    for label in labels:
        for name, sparsity in columns:
            key = {"set": name, "sparsity": sparsity, "label": label}
            values = [r["score"] for r in results if key.items() <= r.items()]
            if values:
                cells[label, name, sparsity] = np.mean(values), np.std(values)
    best = {
        column: max(
            (label for label in labels if (label, *column) in cells),
            key=lambda label: (
                cells[(label, *column)][0]
                if label != "dense" and label != CONTROLS[3]
                else -np.inf
            ),
        )
        for column in columns
    }
    heads = [f"{name} {sparsity:.0%}" for name, sparsity in columns]
    yield "| method | " + " | ".join(heads) + " |"
    yield "|---|" + "---|" * len(heads)
    for label in labels:
        row = []
        for column in columns:
            if (label, *column) not in cells:
                row.append("")
                continue
            mean, std = cells[(label, *column)]
            text = f"{100 * mean:.1f} ± {100 * std:.1f}"
            row.append(f"**{text}**" if best[column] == label else text)
        name = f"*{label}*" if label in CONTROLS else label
        yield f"| {name} | " + " | ".join(row) + " |"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", nargs="+", default=list(SETS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=5000, help="train on at most")
    parser.add_argument("--results", type=Path, default=Path("methods.jsonl"))
    parser.add_argument("--output", type=Path, default=Path("docs/methods.md"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    for name in args.sets:
        run(name, args)
    results = read(args.results)
    text = HEAD.format(seeds=args.seeds, rows=args.rows)
    rows = "\n".join(table(results, SETS))
    args.output.write_text(f"{text}\n{rows}\n")


HEAD = f"""# Every method against every control

Test scores in percent (accuracy; R2 for california), mean and standard deviation of
{{seeds}} seeds, each with its own split (adult: the published one) and at most {{rows}}
training rows. The default net, 3 x 256, {DENSE} dense epochs; what prunes a trained
net has {PRUNE} pruning and {FINETUNE} fine-tuning epochs more, from one shared dense
net; what starts sparse has all {DENSE + PRUNE + FINETUNE}; "no training" has none after
the dense ones. Pruning neurons spares the output layer.

Controls in italics. The shuffled mask has as many weights in every layer as
`{WINNER}`; the small dense net has at most as many weights; the last row is the
dense net with as many epochs. Bold: the best of a column, dense nets aside. No method
was tuned for any set.

Written by `python benchmarks/methods.py --seeds {{seeds}} --rows {{rows}}`.
"""

if __name__ == "__main__":
    main()
