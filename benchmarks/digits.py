"""Compare dense and 95 % sparse nets on the digits, with the simpler alternatives.

The default net, trained dense, and pruned by the default pruner; mean test accuracy
over seeds, each with its own split. Beside them the dense net trained for as many
epochs as the sparse one, the same pruner with random importance, and a small dense net
of as many weights, because pruning should beat what is simpler. Run with::

    python benchmarks/digits.py [--seeds 5] [--sparsity 0.95]
"""

import argparse

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from sklearn_sparse_nn import PrunedClassifier, TabularNetClassifier


def contenders(seed, sparsity):
    net = TabularNetClassifier(random_state=seed)
    pruner = PrunedClassifier(net, sparsity=sparsity, random_state=seed)
    n_epochs = net.max_epochs + pruner.prune_epochs + pruner.finetune_epochs
    yield "dense", net
    yield "pruned, magnitude", pruner
    yield (
        "dense, same epochs",
        TabularNetClassifier(max_epochs=n_epochs, random_state=seed),
    )
    yield (
        "pruned, random",
        PrunedClassifier(
            net, sparsity=sparsity, importance="random", random_state=seed
        ),
    )
    yield (
        "small dense, same weights",
        TabularNetClassifier(
            small_sizes(sparsity), max_epochs=n_epochs, random_state=seed
        ),
    )


def small_sizes(sparsity):
    """Three equal layers with about as many weights as the sparse net keeps."""

    def size(width):
        return 64 * width + 2 * width**2 + 10 * width

    budget = (1 - sparsity) * size(256)
    width = max(w for w in range(1, 257) if size(w) <= budget)
    return (width,) * 3


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--sparsity", type=float, default=0.95)
    args = parser.parse_args()
    torch.set_num_threads(1)
    X, y = load_digits(return_X_y=True)
    scores, kept = {}, {}
    for seed in range(args.seeds):
        X_train, X_test, y_train, y_test = train_test_split(
            X, y, test_size=0.25, stratify=y, random_state=seed
        )
        for name, estimator in contenders(seed, args.sparsity):
            estimator.fit(X_train, y_train)
            scores.setdefault(name, []).append(estimator.score(X_test, y_test))
            weights = estimator.net_.module_.named_parameters()
            kept[name] = sum(
                int(torch.count_nonzero(w)) for n, w in weights if n.endswith("weight")
            )
    print(f"Digits, sparsity {args.sparsity}, {args.seeds} seeds: test accuracy\n")
    print(f"{'':28}{'mean':>8}{'std':>8}{'to dense':>10}{'weights':>9}  each seed")
    dense = np.mean(scores["dense"])
    for name, values in scores.items():
        print(
            f"{name:28}{np.mean(values):8.4f}{np.std(values):8.4f}"
            f"{np.mean(values) - dense:+10.4f}{kept[name]:9d}  "
            + " ".join(f"{value:.4f}" for value in values)
        )


if __name__ == "__main__":
    main()
