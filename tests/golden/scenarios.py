"""Fits whose masks and exported bytes stay the same from version to version.

Run as a module, it prints a digest for every scenario; with ``--write`` it replaces
the golden file. It asks the libraries for the plainest instructions, which every
x86-64 processor computes alike: `ENVIRONMENT`, which must be set before they load.
"""

import json
import os
import sys
import tempfile
import warnings
from hashlib import sha256
from pathlib import Path

ENVIRONMENT = {
    "ATEN_CPU_CAPABILITY": "default",
    "CUDA_VISIBLE_DEVICES": "",
    "MKL_CBWR": "COMPATIBLE",
    "MKL_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
}
GOLDEN = Path(__file__).parent / "digests.json"


def scenarios():
    """Name the fits: each a function that gives a fitted estimator."""
    import numpy as np
    import torch
    from sklearn.datasets import make_classification, make_regression
    from sklearn.frozen import FrozenEstimator

    from sklearn_sparse_nn import (
        PrunedClassifier,
        PrunedClassifierCV,
        PrunedRegressor,
        TabularNetClassifier,
        TabularNetRegressor,
        pruning_path,
    )
    from sklearn_sparse_nn.parts import Between
    from tests.pruning.nets import Conv, own_net

    X, y = make_classification(
        150, 8, n_informative=6, n_classes=3, class_sep=2.0, random_state=0
    )
    X, labels = X.astype(np.float32), np.array(["a", "b", "c"])[y]
    values = X @ np.arange(8, dtype=np.float64) + 1e3
    target = np.round(make_regression(150, 8, random_state=0)[1])  # sums are exact
    pixels = np.tile(X, 8)
    short = {"prune_epochs": 3, "finetune_epochs": 2, "n_steps": 3}

    def net(**kwargs):
        options = {"hidden_layer_sizes": (16, 12), "max_epochs": 3, "lr": 0.01}
        return TabularNetClassifier(**{**options, **kwargs})

    def prune(**kwargs):
        options = {"estimator": net(), **short, "random_state": 1}
        return PrunedClassifier(**{**options, **kwargs}).fit(X, labels)

    def by_chunks():
        pruner = PrunedClassifier(net(), random_state=1, importance="wanda")
        for _ in range(2):
            pruner.partial_fit(X[:75], labels[:75], classes=["a", "b", "c"])
        pruner.prune(0.5, X[75:], labels[75:])
        pruner.partial_fit(X[75:], labels[75:]).prune(0.8, X[:75], labels[:75])
        return pruner.partial_fit(X, labels)

    def remembered():
        with tempfile.TemporaryDirectory() as folder:
            prune(memory=folder, sparsity=0.5)
            return prune(memory=folder, sparsity=0.8)

    def on_path(start):
        pruner = PrunedClassifier(net(), **short, random_state=1)
        path = pruning_path(pruner, X, labels, sparsities=[0.5, 0.9], start=start)
        return path.models[-1]

    def chosen():
        pruner = PrunedClassifier(net(), **short, random_state=1)
        return PrunedClassifierCV(pruner, sparsities=[0.5, 0.9], cv=2).fit(X, labels)

    def own(module_net, rows, **kwargs):
        options = {**short, "random_state": 1, "sparsity": 0.7}
        return PrunedClassifier(module_net, **{**options, **kwargs}).fit(rows, y)

    def frozen():
        fitted = net(random_state=0).fit(X, labels)
        return prune(estimator=FrozenEstimator(fitted), sparsity=0.8)

    regression_net = TabularNetRegressor((16, 12), max_epochs=3, lr=0.01)
    return {
        "defaults": lambda: prune(prune_epochs=10, finetune_epochs=10, n_steps=10),
        "dense net": lambda: net(random_state=1).fit(X, labels),
        "nothing pruned": lambda: prune(sparsity=0),
        "regression": lambda: PrunedRegressor(
            regression_net, **short, random_state=1
        ).fit(X, values),
        "large targets": lambda: PrunedRegressor(
            regression_net, **short, random_state=1, allocation="lamp"
        ).fit(X, 1e4 + target),
        "early stopping": lambda: prune(
            estimator=net(early_stopping=True, patience=1, max_epochs=6), memory=None
        ),
        "norm and dropout": lambda: prune(estimator=net(norm="batch", dropout=0.2)),
        "layer norm, sgd": lambda: prune(estimator=net(norm="layer", optimizer="sgd")),
        "sparse rows": lambda: PrunedClassifier(net(), **short, random_state=1).fit(
            _sparse(X), labels
        ),
        "one-shot obs": lambda: prune(schedule="oneshot", importance="obs"),
        "wanda, uniform": lambda: prune(importance="wanda", allocation="uniform"),
        "movement": lambda: prune(importance="movement"),
        "fisher": lambda: prune(importance="fisher"),
        "snip": lambda: prune(dense_epochs=0, importance="snip", schedule="oneshot"),
        "grasp": lambda: prune(dense_epochs=0, importance="grasp", schedule="oneshot"),
        "synflow": lambda: prune(dense_epochs=0, importance="synflow"),
        "rigl": lambda: prune(dense_epochs=0, regrow="gradient", sparsity=0.7),
        "set": lambda: prune(dense_epochs=0, regrow="random", sparsity=0.7),
        "ac/dc": lambda: prune(schedule="cyclic", n_steps=4, prune_epochs=4),
        "lottery ticket": lambda: prune(rewind="weights"),
        "learning-rate rewinding": lambda: prune(rewind="learning_rate"),
        "distilled": lambda: prune(distill=0.5),
        "l1": lambda: prune(penalty="l1"),
        "l0": lambda: prune(penalty="l0"),
        "flops": lambda: prune(budget={"flops": 300}),
        "threshold": lambda: prune(threshold=0.2),
        "by layer": lambda: prune(sparsity={"hidden_*": 0.8}),
        "count": lambda: prune(sparsity=60),
        "2:4": lambda: prune(granularity="2:4", sparsity=0.6),
        "blocks": lambda: prune(granularity="block:4x1", sparsity=0.6),
        "neurons": lambda: prune(granularity="neuron", importance="apoz", sparsity=0.5),
        "inputs": lambda: prune(granularity="input", sparsity=0.5),
        "inside epochs": lambda: prune(n_steps=6, schedule=Between("cubic", begin=0.1)),
        "chunks": by_chunks,
        "memory": remembered,
        "path from the previous": lambda: on_path("previous"),
        "path from the dense": lambda: on_path("dense"),
        "cross-validation": chosen,
        "frozen": frozen,
        "own net": lambda: own(own_net(), X),
        "own convolution": lambda: own(own_net(Conv, module__n_outputs=3), pixels),
        "own net, magnitude by function": lambda: own(
            own_net(optimizer=torch.optim.SGD), X, importance=_absolute
        ),
    }


def _absolute(weight):
    return weight.abs()


def _sparse(X):
    from scipy import sparse

    return sparse.csr_array(X * (abs(X) > 0.5))


def digest(estimator):
    """Make a number of the masks, of the net and of the exported file."""
    import numpy as np

    total = sha256()
    for name, mask in sorted(getattr(estimator, "masks_", {}).items()):
        total.update(f"{name}{mask.shape}".encode())
        total.update(np.packbits(mask).tobytes())
    masks = total.hexdigest()[:16]
    total = sha256()
    for name, values in estimator.net_.module_.state_dict().items():
        total.update(name.encode())
        total.update(values.numpy().tobytes())
    weights = total.hexdigest()[:16]
    return {"masks": masks, "weights": weights, "file": _file(estimator)}


def _file(estimator):
    from sklearn_sparse_nn import export
    from sklearn_sparse_nn.exceptions import UnsupportedLayerError

    try:
        model = export.export_pruner(estimator)
    except UnsupportedLayerError:
        return None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        model.save(path)
        return sha256(path.read_bytes()).hexdigest()[:16]


def main():
    os.environ.update(ENVIRONMENT)
    warnings.simplefilter("ignore")
    found = {name: digest(fit()) for name, fit in scenarios().items()}
    text = json.dumps(found, indent=1) + "\n"
    if "--write" in sys.argv:
        GOLDEN.write_text(text)
    else:
        print(text)


if __name__ == "__main__":
    main()
