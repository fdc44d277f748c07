"""What a search of the sparsity costs: a grid, a grid with memory, and a path.

The same folds, levels, net and scores for all three: ``GridSearchCV`` over a pruner,
the same with ``memory=`` (an empty store), and ``PrunedClassifierCV``. Dense trainings
are counted as they happen. Run with::

    python benchmarks/search.py [--rows 5000] [--epochs 4] [--write]
"""

import argparse
import tempfile
import time
from pathlib import Path

import datasets
import numpy as np
import torch
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, StratifiedKFold

from sklearn_sparse_nn import PrunedClassifier, PrunedClassifierCV, TabularNetClassifier
from sklearn_sparse_nn.pruning import _base
from sklearn_sparse_nn.pruning.path import check_levels

HERE = Path(__file__).parent
N_FOLDS = 5


class DenseTrainings:
    """Counts the dense phases that this process trains."""

    def __enter__(self):
        self.n, self._real = 0, _base.train_dense

        def counted(*args, n_epochs, **kwargs):
            self.n += n_epochs > 0
            return self._real(*args, n_epochs=n_epochs, **kwargs)

        _base.train_dense = counted
        return self

    def __exit__(self, *error):
        _base.train_dense = self._real


def searches(pruner, cv, scoring):
    """Give the three, unfitted, and how each says what it chose."""
    levels = check_levels(None)
    grid = {"sparsity": levels}
    return {
        "GridSearchCV": GridSearchCV(pruner, grid, cv=cv, scoring=scoring),
        "GridSearchCV, memory": GridSearchCV(
            clone(pruner).set_params(memory=tempfile.mkdtemp()),
            grid,
            cv=cv,
            scoring=scoring,
        ),
        "PrunedClassifierCV": PrunedClassifierCV(pruner, cv=cv, scoring=scoring),
    }


def run(args):
    torch.set_num_threads(1)
    data = datasets.load(args.data)
    rows = np.random.default_rng(0).permutation(len(data.y_train))[: args.rows]
    X, y = data.X_train[rows], data.y_train[rows]
    net = TabularNetClassifier(random_state=0)
    half = args.epochs // 2
    pruner = PrunedClassifier(
        net,
        n_steps=half,
        prune_epochs=half,
        finetune_epochs=args.epochs - half,
        random_state=0,
    )
    cv = StratifiedKFold(N_FOLDS, shuffle=True, random_state=0)
    lines = []
    for name, search in searches(pruner, cv, args.scoring).items():
        begin = time.perf_counter()
        with DenseTrainings() as count:
            search.fit(X, y)
        seconds = time.perf_counter() - begin
        means = search.cv_results_["mean_test_score"]
        level = search.best_params_["sparsity"]
        lines.append((name, count.n, seconds, level, search.best_score_, means))
        print(name, count.n, f"{seconds:.1f} s", level, means.round(4), flush=True)
    return lines, X.shape


def table(lines):
    slowest = lines[0][2]
    rows = [
        "| search | dense trainings | seconds | faster | chosen sparsity | its score |",
        "|---|---|---|---|---|---|",
    ]
    rows += [
        f"| {name} | {n} | {seconds:.0f} | {slowest / seconds:.2f}x | {level} | "
        f"{best:.4f} |"
        for name, n, seconds, level, best, _ in lines
    ]
    return "\n".join(rows)


def levels_table(lines):
    head = ["sparsity", *(name for name, *_ in lines)]
    rows = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for i, level in enumerate(check_levels(None)):
        means = [f"{line[-1][i]:.4f}" for line in lines]
        rows.append(f"| {level} | {' | '.join(means)} |")
    return "\n".join(rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="adult", choices=datasets.NAMES)
    parser.add_argument("--rows", type=int, default=10**9)
    parser.add_argument("--epochs", type=int, default=4, help="sparse ones, a level")
    parser.add_argument("--scoring", default="neg_log_loss")
    parser.add_argument("--write", action="store_true", help="write docs/search.md")
    args = parser.parse_args()
    lines, shape = run(args)
    print(table(lines))
    if args.write:
        given = [f"--{k} {v}" for k, v in vars(args).items() if k != "write"]
        default = parser.parse_args([])
        given = " ".join(
            text
            for text, k in zip(given, vars(args), strict=False)
            if getattr(args, k) != getattr(default, k)
        )
        (HERE.parent / "docs" / "search.md").write_text(
            f"""# What a search of the sparsity costs

Ten sparsities, {N_FOLDS} folds, the default net with its 20 dense epochs, and
{args.epochs} epochs to prune and fine-tune a level, on {args.data} ({shape[0]} rows,
{shape[1]} columns), scored by {args.scoring}; one process, one thread. What is saved is
dense epochs, so the gain falls as the epochs of a level grow: with the pruner's own 20
of them, sharing the dense phase can save no more than 1.8x.

Written by `python benchmarks/search.py {given}`.

{table(lines)}

Mean scores over the folds. With memory they are equal to those without, bit for bit. On
a path every level starts from the one before it, and has trained for longer.

{levels_table(lines)}
"""
        )


if __name__ == "__main__":
    main()
