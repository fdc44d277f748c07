"""Options of quick fits, and what of a fit is compared."""

from pathlib import Path

from sklearn.experimental import enable_halving_search_cv  # noqa: F401

ROOT = Path(__file__).parents[2]


QUICK = {
    "sparsity": 0.6,
    "prune_epochs": 2,
    "finetune_epochs": 2,
    "n_steps": 2,
    "random_state": 0,
}


def bits(pruner):
    """Give all that a fit decides, to the bit."""
    state = {
        k: v.numpy().tobytes() for k, v in pruner.net_.module_.state_dict().items()
    }
    masks = {k: v.tobytes() for k, v in pruner.masks_.items()}
    history = [{k: v for k, v in row.items() if k != "dur"} for row in pruner.history_]
    return state, masks, repr(history)


def outputs(folder):
    return sorted(Path(folder).rglob("output.pkl"))
