"""Ask whether pruning does better than what is simpler, and which layers bear it.

On the digits: a PrunedClassifier beside random masks, a small dense net of as many
weights and the dense net trained as long, over paired repeats. Then the score with one
layer pruned at a time, of a dense net, and nothing retrained.

Run with ``python examples/controls.py``. One core, less than a minute.
"""

import time

from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from sklearn_sparse_nn import PrunedClassifier, TabularNetClassifier
from sklearn_sparse_nn.inspection import controls, layer_sensitivity


def main():
    """Print the comparison, its sentence, and the sensitivities."""
    start = time.perf_counter()
    X, y = load_digits(return_X_y=True)
    net = TabularNetClassifier((128, 128), max_epochs=15, random_state=0)
    pruner = PrunedClassifier(net, sparsity=0.95, prune_epochs=8, finetune_epochs=7)

    print("Digits, 95 % of the weights pruned, 4 repeats: test accuracy\n")
    found = controls(pruner, X, y, n_repeats=4)
    print(found.table.drop(columns="effective_sparsity").round(4).to_string())
    print(f"\n{found.sentence}\n")

    X, X_test, y, y_test = train_test_split(X, y, stratify=y, random_state=0)
    table = layer_sensitivity(net.fit(X, y), X_test, y_test)
    print(
        "Accuracy of a dense net with one layer pruned, by sparsity, not retrained:\n"
    )
    scores = table.pivot(index="layer", columns="sparsity", values="score")
    print(scores.round(4).to_string())
    print(f"\n{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
