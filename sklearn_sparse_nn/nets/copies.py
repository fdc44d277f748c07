"""Copies of a net and its module, for runs that leave the net as it is."""

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
    """Copy a module and the activations that its forward has stored in attributes.

    Parameters
    ----------
    module : nn.Module
        The module to copy.
    share_weights : bool, default=False
        Whether the copy has the same tensors as parameters and buffers.

    Returns
    -------
    copy : nn.Module
        The copy, with detached activations.
    """
    # Tensors with a graph cannot be deep-copied; these graphs are not needed.
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
    """Compute the module's outputs for one or two rows; lazy layers get their shape.

    Parameters
    ----------
    net : skorch.NeuralNet
        An initialized net.
    X : array
        Rows of the type that `net` takes; the first two are used.

    Returns
    -------
    outputs : Tensor
        The outputs; the first ones if the module returns a tuple.
    """
    for outputs in _twin(net, net.module_).forward_iter(X[:2]):
        return outputs[0] if isinstance(outputs, tuple) else outputs
    raise ValueError(
        f"{type(net).__name__}.iterator_valid gives no batch for {len(X[:2])} rows; "
        "it must not drop the last batch."
    )


def private_twin(net: NeuralNet, *, share_weights: bool = True) -> NeuralNet:
    """Copy a net whose hooks and settings may be changed.

    Hooks of the copy do not see predictions of other threads. A compiled module ignores
    later hooks, so the copy has the module from before compilation.

    Parameters
    ----------
    net : skorch.NeuralNet
        An initialized net.
    share_weights : bool, default=True
        Whether the copy has the same tensors as parameters and buffers.

    Returns
    -------
    twin : skorch.NeuralNet
        The copy, which must not be trained.
    """
    module = copy_module(original(net.module_), share_weights=share_weights)
    return _twin(net, module)


def _twin(net: NeuralNet, module: nn.Module) -> NeuralNet:
    """Build a net with the same settings around a module, for predictions only."""
    twin = object.__new__(type(net))
    twin.__dict__.update(net.__dict__, module_=module)
    spare_global_rng(twin)
    return twin


def spare_global_rng(net: NeuralNet) -> None:
    """Keep a net's prediction batches from drawing from the global generator.

    Parameters
    ----------
    net : skorch.NeuralNet
        The net, which is changed. A torch ``DataLoader`` draws a seed for its workers
        whenever it is iterated; it gets its own generator if it has none.
    """
    loader = net.iterator_valid
    if isinstance(loader, type) and issubclass(loader, DataLoader):
        net.__dict__.setdefault("iterator_valid__generator", torch.Generator())


def rows_run(net: NeuralNet, n_rows: int) -> int:
    """Compute how many rows a module sees for a batch: our nets pad small batches."""
    return n_rows + -n_rows % getattr(net, "rows_at_once", 1)
