"""Time one epoch of the default net against its peers, side by side in one run.

Contenders take turns, round after round, because the machine may be shared; what
counts is the ratio of their medians. Run with::

    python benchmarks/training.py [--rows 20000] [--columns 50] [--rounds 7]
"""

import argparse
import statistics
import time

import numpy as np
import torch
from sklearn.datasets import make_classification
from sklearn.neural_network import MLPClassifier
from skorch import NeuralNetClassifier
from skorch.dataset import Dataset
from threadpoolctl import threadpool_limits
from torch.utils.data import DataLoader

from sklearn_sparse_nn import BatchIterator, PrunedClassifier, TabularNetClassifier

SIZES = (256, 256, 256)  # the default net's
BATCH = 128  # skorch's default; --batch for others
EPOCHS = 3


def make_module(n_inputs, n_outputs):
    widths = [n_inputs, *SIZES]
    layers = []
    for before, after in zip(widths, SIZES, strict=False):
        layers += [torch.nn.Linear(before, after), torch.nn.ReLU()]
    return torch.nn.Sequential(*layers, torch.nn.Linear(SIZES[-1], n_outputs))


def raw_torch(X, y):
    """The loop that one would write by hand, with the same optimizer."""
    module = make_module(X.shape[1], int(y.max()) + 1)
    optimizer = torch.optim.AdamW(
        module.parameters(), lr=1e-3, weight_decay=1e-4, fused=True
    )
    criterion = torch.nn.CrossEntropyLoss()
    X, y = torch.from_numpy(X), torch.from_numpy(y)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(X)).split(BATCH):
            optimizer.zero_grad()
            loss = criterion(module(X[rows]), y[rows])
            loss.backward()
            optimizer.step()
            loss.item()


def tabular_net(X, y):
    TabularNetClassifier(SIZES, batch_size=BATCH, max_epochs=EPOCHS).fit(X, y)


def batches_alone(iterator):
    """Go through the rows without training: what loading itself costs."""

    def run(X, y):
        data = iterator(Dataset(X, y), batch_size=BATCH, shuffle=True)
        for _ in range(EPOCHS):
            for _batch in data:
                pass

    return run


def pruned(X, y):
    """Every epoch under held masks: what pruning adds to a training step."""
    PrunedClassifier(
        TabularNetClassifier(SIZES, batch_size=BATCH),
        schedule="oneshot",
        n_steps=1,
        dense_epochs=0,
        prune_epochs=0,
        finetune_epochs=EPOCHS,
    ).fit(X, y)


def skorch_net(X, y, **kwargs):
    NeuralNetClassifier(
        make_module,
        module__n_inputs=X.shape[1],
        module__n_outputs=int(y.max()) + 1,
        criterion=torch.nn.CrossEntropyLoss,
        optimizer=torch.optim.AdamW,
        optimizer__weight_decay=1e-4,
        optimizer__fused=True,
        lr=1e-3,
        batch_size=BATCH,
        max_epochs=EPOCHS,
        train_split=None,
        iterator_train__shuffle=True,
        verbose=0,
        **kwargs,
    ).fit(X, y)


def skorch_batches(X, y):
    """A plain skorch net that takes our batch iterator."""
    skorch_net(X, y, iterator_train=BatchIterator)


def sklearn_mlp(X, y):
    MLPClassifier(
        SIZES, batch_size=BATCH, max_iter=EPOCHS, n_iter_no_change=EPOCHS + 1
    ).fit(X, y)


CONTENDERS = {
    "raw torch loop": raw_torch,
    "TabularNetClassifier": tabular_net,
    "PrunedClassifier, masks held": pruned,
    "skorch, BatchIterator": skorch_batches,
    "skorch, default loader": skorch_net,
    "sklearn MLPClassifier": sklearn_mlp,
    "no training: BatchIterator": batches_alone(BatchIterator),
    "no training: default loader": batches_alone(DataLoader),
}


def main():
    global BATCH
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--columns", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=BATCH)
    args = parser.parse_args()
    BATCH = args.batch
    torch.set_num_threads(args.threads)
    X, y = make_classification(
        args.rows, args.columns, n_informative=20, random_state=0
    )
    X, y = X.astype(np.float32), y.astype(np.int64)
    seconds = {name: [] for name in CONTENDERS}
    with threadpool_limits(args.threads):
        for round_ in range(args.rounds + 1):
            for name, train in CONTENDERS.items():
                start = time.perf_counter()
                train(X, y)
                if round_:  # the first round warms up
                    seconds[name].append((time.perf_counter() - start) / EPOCHS)
    print(
        f"One epoch, {args.rows} rows x {args.columns} columns, net {SIZES}, batch "
        f"{BATCH}, {args.threads} thread(s), {args.rounds} rounds in turn\n"
    )
    print(f"{'':30}{'median s':>10}{'min s':>10}{'to raw torch':>14}{'to ours':>10}")
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    for name, times in seconds.items():
        print(
            f"{name:30}{medians[name]:10.3f}{min(times):10.3f}"
            f"{medians[name] / medians['raw torch loop']:14.2f}"
            f"{medians[name] / medians['TabularNetClassifier']:10.2f}"
        )


if __name__ == "__main__":
    import warnings

    from sklearn.exceptions import ConvergenceWarning

    warnings.simplefilter("ignore", ConvergenceWarning)
    main()
