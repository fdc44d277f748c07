"""Train the dense net data-parallel, in two processes; then prune it in one.

Two processes hold the net, take a batch each, and step by the mean of their gradients
(torch's DistributedDataParallel, through skorch's AccelerateMixin). The first of them
saves the weights. A plain net reads them, and is pruned.

Run with ``python examples/data_parallel.py`` after ``pip install ".[distributed]"``. It
starts torchrun by itself. Two cores, half a minute.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import scale
from skorch import NeuralNetClassifier
from skorch.hf import AccelerateMixin
from torch import nn

from sklearn_sparse_nn import PrunedClassifier


class AcceleratedNet(AccelerateMixin, NeuralNetClassifier):
    """A skorch net that accelerate trains."""


class Mlp(nn.Sequential):
    """Two hidden layers for the 64 pixels of a digit."""

    def __init__(self):
        super().__init__(
            nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(),
            nn.Linear(256, 10),
        )  # fmt: skip


OPTIONS = {
    "module": Mlp,
    "criterion": nn.CrossEntropyLoss,
    "optimizer": torch.optim.AdamW,
    "lr": 2e-3,
    "max_epochs": 20,
    "train_split": None,
    "verbose": 0,
}


def split():
    X, y = load_digits(return_X_y=True)
    return train_test_split(scale(X).astype("float32"), y, stratify=y, random_state=0)


def train(path):
    """Train as one of the processes that torchrun has started."""
    from accelerate import Accelerator

    class OnlyWhatLearns(Accelerator):
        """Leaves a loss alone: torch wraps no module without parameters."""

        def prepare_model(self, model, **kwargs):
            if not any(p.requires_grad for p in model.parameters()):
                return model
            return super().prepare_model(model, **kwargs)

    accelerator = OnlyWhatLearns(cpu=True)
    torch.manual_seed(0)
    net = AcceleratedNet(
        **OPTIONS,
        accelerator=accelerator,
        batch_size=32,  # of each process
        callbacks__print_log__sink=str,  # prints nowhere
        iterator_train__shuffle=True,
    )
    X, _, y, _ = split()
    start = time.perf_counter()
    net.fit(X, y)
    seconds = time.perf_counter() - start
    flat = torch.cat([p.detach().ravel() for p in net.module_.parameters()])
    same = bool((accelerator.gather(flat).reshape(-1, len(flat)) == flat).all())
    net.save_params(f_params=path)  # rank 0 writes
    accelerator.print(
        f"Trained by {accelerator.num_processes} processes "
        f"({accelerator.distributed_type.value}) in {seconds:.1f} s; "
        f"all hold the same weights: {same}"
    )
    accelerator.end_training()


def main():
    """Start the processes, then prune what they have trained."""
    _, X_test, _, y_test = split()
    X, _, y, _ = split()
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, "dense.pt"))
        launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
        subprocess.run([sys.executable, *launch, __file__, path], check=True)
        net = NeuralNetClassifier(**OPTIONS, iterator_train__shuffle=True).initialize()
        net.load_params(f_params=path)
    pruner = PrunedClassifier(FrozenEstimator(net), sparsity=0.95, random_state=0)
    pruner.fit(X, y)
    print(f"Dense net:  accuracy {net.score(X_test, y_test):.4f}")
    print(
        f"Sparse net: accuracy {pruner.score(X_test, y_test):.4f} with "
        f"{pruner.sparsity_:.1%} of the weights pruned"
    )


if __name__ == "__main__":
    train(sys.argv[1]) if len(sys.argv) > 1 else main()
