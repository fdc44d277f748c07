"""Private copies of a net, to look at."""

from copy import deepcopy
from itertools import chain
from typing import Any

import torch
from skorch import NeuralNet
from torch import Tensor, nn
from torch.utils.data import DataLoader

from sklearn_sparse_nn.nets.host import original

__all__ = [
    "copy_module",
    "first_outputs",
    "private_twin",
    "rows_run",
    "spare_global_rng",
]


def copy_module(module: nn.Module, *, share_weights: bool = False) -> nn.Module:
    """Copy a module, and with it activations that its forward left in attributes.

    Parameters
    ----------
    module : nn.Module
        What to copy.
    share_weights : bool, default=False
        Whether parameters and buffers stay the same tensors.

    Returns
    -------
    copy : nn.Module
    """
    # Tensors with a history cannot be deep-copied; theirs is over.
    memo: dict[int, Any] = {
        id(value): value.detach()
        for child in module.modules()
        for value in vars(child).values()
        if torch.is_tensor(value) and not value.is_leaf
    }
    if share_weights:
        tensors = chain(module.parameters(), module.buffers())
        memo |= {id(tensor): tensor for tensor in tensors}
    return deepcopy(module, memo)


def first_outputs(net: NeuralNet, X: Any) -> Tensor:
    """Look at the module's outputs for a row or two; lazy layers get their shape.

    Parameters
    ----------
    net : skorch.NeuralNet
        Initialized.
    X : array
        As `net` takes it.

    Returns
    -------
    outputs : Tensor
        The first, if the module gives several.
    """
    for outputs in _twin(net, net.module_).forward_iter(X[:2]):
        return outputs[0] if isinstance(outputs, tuple) else outputs
    raise ValueError(
        f"{type(net).__name__}.iterator_valid gives no batch for {len(X[:2])} rows; "
        "it must not drop the last batch."
    )


def private_twin(net: NeuralNet) -> NeuralNet:
    """Copy a net for looking at it; its weights stay the same tensors.

    The copy keeps other threads' predictions out of what is heard, and a compiled
    module, which ignores hooks that come later, is run as it was before compilation.

    Parameters
    ----------
    net : skorch.NeuralNet
        Initialized.

    Returns
    -------
    twin : skorch.NeuralNet
        Do not train it.
    """
    return _twin(net, copy_module(original(net.module_), share_weights=True))


def _twin(net: NeuralNet, module: nn.Module) -> NeuralNet:
    """Make a net with the same settings around a module, for looking at it only."""
    twin = object.__new__(type(net))
    twin.__dict__.update(net.__dict__, module_=module)
    spare_global_rng(twin)
    return twin


def spare_global_rng(net: NeuralNet) -> None:
    """Let a net's prediction batches come without a draw from the global generator.

    Parameters
    ----------
    net : skorch.NeuralNet
        A torch ``DataLoader`` draws a seed for its workers whenever it is run. Here it
        gets a generator of its own, if it has none.
    """
    loader = net.iterator_valid
    if isinstance(loader, type) and issubclass(loader, DataLoader):
        net.__dict__.setdefault("iterator_valid__generator", torch.Generator())


def rows_run(net: NeuralNet, n_rows: int) -> int:
    """Give the rows that a module sees for a batch: our nets fill small ones up."""
    return n_rows + -n_rows % getattr(net, "rows_at_once", 1)
