"""What a search of the sparsity costs: a grid, a grid with memory, and two paths.

The same folds, levels, net and scores for all: ``GridSearchCV`` over a pruner,
the same with ``memory=`` (an empty store), and ``PrunedClassifierCV`` with levels that
start from the level before and from the dense net. Dense trainings are counted as they
happen. The first score decides which level is refitted. Run with::

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
from sklearn_sparse_nn.pruning import dense_phase
from sklearn_sparse_nn.search.path import check_levels

HERE = Path(__file__).parent
N_FOLDS = 5
SCORES = ["neg_log_loss", "roc_auc", "accuracy"]


class DenseTrainings:
    """Counts the dense phases that this process trains."""

    def __enter__(self):
        self.n, self._real = 0, dense_phase.train_dense

        def counted(run, request, progress):
            self.n += request.plan.dense_epochs > 0
            return self._real(run, request, progress)

        dense_phase.train_dense = counted
        return self

    def __exit__(self, *error):
        dense_phase.train_dense = self._real


def searches(pruner, cv, scoring):
    """Give them by name, unfitted."""
    grid, given = {"sparsity": check_levels(None)}, {"cv": cv, "scoring": scoring}
    stored = clone(pruner).set_params(memory=tempfile.mkdtemp())
    return {
        "GridSearchCV": GridSearchCV(pruner, grid, refit=scoring[0], **given),
        "GridSearchCV, memory": GridSearchCV(stored, grid, refit=scoring[0], **given),
        "PrunedClassifierCV": PrunedClassifierCV(pruner, select_by=scoring[0], **given),
        'PrunedClassifierCV, start="dense"': PrunedClassifierCV(
            pruner, start="dense", select_by=scoring[0], **given
        ),
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
        splits = {
            score: np.array(
                [search.cv_results_[f"split{k}_test_{score}"] for k in range(N_FOLDS)]
            )
            for score in args.scoring
        }
        lines.append((name, count.n, seconds, search.best_params_["sparsity"], splits))
        print(name, count.n, f"{seconds:.1f} s", lines[-1][3], flush=True)
    return lines, X.shape


def table(lines):
    slowest = lines[0][2]
    rows = [
        "| search | dense trainings | seconds | faster | chosen sparsity |",
        "|---|---|---|---|---|",
    ]
    rows += [
        f"| {name} | {n} | {seconds:.0f} | {slowest / seconds:.2f}x | {level} |"
        for name, n, seconds, level, _ in lines
    ]
    return "\n".join(rows)


def winners_table(lines):
    """Compare what a search finds best with the grid's best, by the grid."""
    levels = check_levels(None)
    rows = [
        "| score | search | its best | its score | the grid's score there | "
        "less than the grid's best, with standard error |",
        "|---|---|---|---|---|---|",
    ]
    for score, grid in lines[0][-1].items():
        best = int(grid.mean(axis=0).argmax())
        for name, *_, splits in lines:
            own = int(splits[score].mean(axis=0).argmax())
            losses = grid[:, best] - grid[:, own]
            error = losses.std(ddof=1) / np.sqrt(N_FOLDS)
            rows.append(
                f"| {score} | {name} | {levels[own]} | "
                f"{splits[score].mean(axis=0)[own]:.4f} | {grid[:, own].mean():.4f} | "
                f"{losses.mean():.4f} ± {error:.4f} |"
            )
    return "\n".join(rows)


def levels_table(lines, score):
    head = ["sparsity", *(name for name, *_ in lines)]
    rows = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for i, level in enumerate(check_levels(None)):
        means = [f"{line[-1][score].mean(axis=0)[i]:.4f}" for line in lines]
        rows.append(f"| {level} | {' | '.join(means)} |")
    return "\n".join(rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="adult", choices=datasets.NAMES)
    parser.add_argument("--rows", type=int, default=10**9)
    parser.add_argument("--epochs", type=int, default=4, help="sparse ones, a level")
    parser.add_argument("--scoring", nargs="+", default=SCORES)
    parser.add_argument("--write", action="store_true", help="write docs/search.md")
    args = parser.parse_args()
    lines, shape = run(args)
    check_equal(lines)
    print(table(lines), winners_table(lines), sep="\n\n")
    for score in args.scoring:
        print(score, levels_table(lines, score), sep="\n\n")
    if args.write:
        text = page(args, parser.parse_args([]), lines, shape)
        (HERE.parent / "docs" / "search.md").write_text(text)


def check_equal(lines):
    """Fail unless the searches that say so have the grid's scores, bit for bit."""
    grid = lines[0][-1]
    for name, *_, splits in (lines[1], lines[3]):
        for score in grid:
            if not np.array_equal(grid[score], splits[score]):
                raise SystemExit(f"{name} has another {score} than the grid.")


def page(args, default, lines, shape):
    given = " ".join(
        f"--{k} {' '.join(v) if isinstance(v, list) else v}"
        for k, v in vars(args).items()
        if k != "write" and v != getattr(default, k)
    )
    text = f"""# What a search of the sparsity costs

Ten sparsities, {N_FOLDS} folds, the default net with its 20 dense epochs, and
{args.epochs} epochs to prune and fine-tune a level, on {args.data} ({shape[0]} rows,
{shape[1]} columns), one process, one thread; {args.scoring[0]} chooses. What is
saved is dense epochs, so the gain falls as the epochs of a level grow: with 20 of them,
as the pruner comes, sharing the dense phase can save no more than 1.8x.

Written by `{f"python benchmarks/search.py {given}".strip()}`.

{table(lines)}

With memory, and with levels that start from the dense net, scores are equal to the
grid's, bit for bit, and so are the winners. With levels that start from the one before,
sparse levels have trained for longer, and scores and winners are their own.

{winners_table(lines)}
"""
    for score in args.scoring:
        text += f"\nMeans of {score} over the folds:\n\n{levels_table(lines, score)}\n"
    return text


if __name__ == "__main__":
    main()
