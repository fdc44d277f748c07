"""Search a net's width and learning rate with Optuna, and cut bad paths short.

A trial is one pruning path: a dense net, then level after level, each pruned from the
one before. Every level's score is reported, with the level as Optuna's step, so that
its pruner compares trials at the same level and ends one that is behind.

Run with ``python examples/search_optuna.py`` after ``pip install ".[search]"``. One
core, a minute.
"""

import time

import optuna
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import scale

from sklearn_sparse_nn import PrunedClassifier, TabularNetClassifier, pruning_path

LEVELS = [0.5, 0.8, 0.9, 0.95, 0.98]


def split():
    """Give rows to train on, and rows to score every level on."""
    X, y = load_digits(return_X_y=True)
    return train_test_split(scale(X), y, stratify=y, random_state=0)


def objective(trial):
    """Go down one path; give the score of its sparsest net."""
    X, X_val, y, y_val = split()
    width = trial.suggest_categorical("width", [16, 32, 64, 128])
    net = TabularNetClassifier(
        (width, width),
        lr=trial.suggest_float("lr", 1e-4, 1e-1, log=True),
        max_epochs=10,
    )
    pruner = PrunedClassifier(
        net,
        prune_epochs=4,
        finetune_epochs=2,
        n_steps=4,
        random_state=0,
    )
    scores = {}

    def report(level, model, score):
        scores[level] = score
        step = len(scores) - 1  # 0 is the dense net
        trial.report(score, step)
        trial.set_user_attr(f"{level:.0%}", round(score, 4))
        if trial.should_prune():
            raise optuna.TrialPruned(f"behind at {level:.0%}")

    pruning_path(
        pruner, X, y, sparsities=LEVELS, X_val=X_val, y_val=y_val, on_level=report
    )
    return scores[LEVELS[-1]]


def main():
    """Run the study; print how far every trial came."""
    start = time.perf_counter()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # Nobody is ended before the level 80 %: a poor dense net may prune well.
    study = optuna.create_study(
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=0),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=2),
    )
    study.optimize(objective, n_trials=16)
    print("Digits: accuracy by sparsity; a path ends where it is behind the median")
    names = [f"{level:.0%}" for level in [0.0, *LEVELS]]
    print("width      lr " + "".join(f"{name:>8}" for name in names))
    for trial in study.trials:
        found = [trial.user_attrs.get(name) for name in names]
        row = "".join(f"{'' if s is None else f'{s:.4f}':>8}" for s in found)
        print(f"{trial.params['width']:5} {trial.params['lr']:7.4f} {row}".rstrip())
    n_ended = sum(t.state == optuna.trial.TrialState.PRUNED for t in study.trials)
    n_levels = sum(len(trial.intermediate_values) for trial in study.trials)
    print(
        f"{n_ended} of {len(study.trials)} paths were ended; {n_levels} nets fitted "
        f"instead of {len(study.trials) * len(names)}"
    )
    print(f"Best: {study.best_params}, {study.best_value:.4f} at {LEVELS[-1]:.0%}")
    print(f"{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
