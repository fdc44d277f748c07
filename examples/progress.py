"""Watch a search: a bar for every phase of every fit, and a store of dense nets.

A GridSearchCV over sparsities and importances. The dense net of a fold is trained for
its first candidate only: the others take it from the store, and have no bar for it.
Press Ctrl-C and start again, with ``python examples/progress.py FOLDER``: what was
trained is in that folder.

Needs scikit-learn 1.9 and rich. Run with ``python examples/progress.py``. A quarter of
a minute.
"""

import sys
import tempfile
import time

from sklearn.callback import ProgressBar
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_sparse_nn import PrunedClassifier, TabularNetClassifier


def main(folder):
    """Search, and print what was chosen."""
    start = time.perf_counter()
    X, y = load_digits(return_X_y=True)
    net = TabularNetClassifier((128,), max_epochs=20, random_state=0)
    pruner = PrunedClassifier(
        net, prune_epochs=5, finetune_epochs=5, memory=folder, random_state=0
    )
    search = GridSearchCV(
        make_pipeline(StandardScaler(), pruner),
        {
            "prunedclassifier__sparsity": [0.8, 0.9, 0.95],
            "prunedclassifier__importance": ["magnitude", "wanda"],
        },
        cv=2,
    )
    search.set_callbacks(ProgressBar(max_propagation_depth=None))
    search.fit(X, y)
    print(f"\nchosen: {search.best_params_}, accuracy {search.best_score_:.4f}")
    print(f"{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(sys.argv[1])
    else:
        with tempfile.TemporaryDirectory() as folder:
            main(folder)
