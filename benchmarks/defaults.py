"""Measure the defaults of the dense nets: one change at a time, on real sets.

For every change the mean test score (accuracy or R2) over seeds, dense and pruned to
95 % by the default pruner. It writes docs/defaults.md. Run with::

    python benchmarks/defaults.py [--seeds 3] [--sets digits letter ...]
"""

import argparse
import time
from pathlib import Path

import datasets
import numpy as np
import torch

from sklearn_sparse_nn import (
    PrunedClassifier,
    PrunedRegressor,
    TabularNetClassifier,
    TabularNetRegressor,
)

CHANGES = {
    "defaults": {},
    'norm="batch"': {"norm": "batch"},
    'norm="layer"': {"norm": "layer"},
    "dropout=0.1": {"dropout": 0.1},
    "dropout=0.2": {"dropout": 0.2},
    "dropout=0.3": {"dropout": 0.3},
    "early_stopping=True": {"early_stopping": True},
    "weight_decay=0.01": {"weight_decay": 0.01},
    "weight_decay=0.1": {"weight_decay": 0.1},
    "lr=5e-4": {"lr": 5e-4},
    "lr=2e-3": {"lr": 2e-3},
    'optimizer="sgd", lr=0.02': {"optimizer": "sgd", "lr": 0.02},
    "batch_size=128": {"batch_size": 128},
    "2 x 256": {"hidden_layer_sizes": (256, 256)},
    "3 x 128": {"hidden_layer_sizes": (128, 128, 128)},
}
SPARSITY = 0.95


def scores(name: str, seed: int, change: dict, rows: int) -> tuple[float, float]:
    data = datasets.load(name, seed)
    chosen = np.random.default_rng(seed).permutation(len(data.y_train))[:rows]
    X, y = data.X_train[chosen], data.y_train[chosen]
    net_class, pruner_class = TabularNetClassifier, PrunedClassifier
    if data.regression:
        net_class, pruner_class = TabularNetRegressor, PrunedRegressor
    net = net_class(random_state=seed, **change)
    pruner = pruner_class(net, sparsity=SPARSITY, random_state=seed)
    dense = net.fit(X, y)
    sparse = pruner.fit(X, y)
    return (
        dense.score(data.X_test, data.y_test),
        sparse.score(data.X_test, data.y_test),
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=10_000, help="train on at most")
    parser.add_argument("--sets", nargs="+", default=list(datasets.NAMES))
    parser.add_argument("--output", type=Path, default=Path("docs/defaults.md"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    lines = [
        "# What the defaults of the dense nets rest on",
        "",
        "`TabularNetClassifier` and `TabularNetRegressor` as they come, and with one",
        f"change at a time. Mean test score of {args.seeds} seeds (accuracy; R2 for",
        f"california), dense / pruned to {SPARSITY:.0%} with the default pruner,",
        f"trained on at most {args.rows} rows. The last row has the deviation over",
        "seeds of the first.",
        "",
        "Written by",
        f"`python benchmarks/defaults.py --seeds {args.seeds} --rows {args.rows}`.",
        "",
        "| change | " + " | ".join(args.sets) + " | mean | minutes |",
        "|---|" + "---|" * (len(args.sets) + 2),
    ]
    spread = ""
    for label, change in CHANGES.items():
        start = time.perf_counter()
        table = np.array(
            [
                [scores(name, seed, change, args.rows) for seed in range(args.seeds)]
                for name in args.sets
            ]
        )  # (sets, seeds, 2)
        minutes = (time.perf_counter() - start) / 60
        cells = [f"{dense:.4f} / {sparse:.4f}" for dense, sparse in table.mean(1)]
        dense, sparse = table.mean((0, 1))
        if not spread:
            deviations = [f"{d:.4f} / {s:.4f}" for d, s in table.std(1)]
            spread = "| deviation | " + " | ".join(deviations) + " | | |"
        cells += [f"{dense:.4f} / {sparse:.4f}", f"{minutes:.1f}"]
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
        print(lines[-1], flush=True)
        args.output.write_text("\n".join([*lines, spread, ""]))


if __name__ == "__main__":
    main()
