"""What reaches a net's last layer: found by running it, not by reading its code."""

from copy import deepcopy
from itertools import chain
from typing import Any

import torch
from scipy import sparse
from skorch import NeuralNet
from torch import Tensor, nn
from torch.utils.data import DataLoader

from sklearn_sparse_nn.nets.layers import prunable_layers

__all__ = [
    "copy_module",
    "first_outputs",
    "hidden_activations",
    "last_layer",
    "private_twin",
    "rows_run",
    "spare_global_rng",
]


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


def last_layer(net: NeuralNet, X: Any) -> tuple[str, int] | None:
    """Find the prunable layer that runs last, and how many values reach it per row.

    Parameters
    ----------
    net : skorch.NeuralNet
        Initialized.
    X : array
        As `net` takes it; two rows are used.

    Returns
    -------
    name, width : str and int, or None
        None when the module calls none of its prunable layers.
    """
    with _Listener(net) as heard:
        outputs = first_outputs(heard.net, X)
    if heard.last is None:
        return None
    name, values = heard.last
    if len(values) != rows_run(net, len(outputs)):
        return name, 0
    return name, values.flatten(1).shape[1]


def hidden_activations(net: NeuralNet, X: Any) -> sparse.csr_array:
    """Compute what reaches the last layer, made sparse batch by batch.

    Parameters
    ----------
    net : skorch.NeuralNet
        Fitted.
    X : array
        As `net` takes it.

    Returns
    -------
    activations : csr_array of shape (n_samples, n_hidden), float32
    """
    parts = []
    with _Listener(net) as heard:
        for outputs in heard.net.forward_iter(X):
            if heard.last is None:
                raise ValueError(
                    "The module calls none of its prunable layers, so it has no last "
                    "hidden layer to give activations of."
                )
            first = outputs[0] if isinstance(outputs, tuple) else outputs
            name, values = heard.last
            if len(values) != rows_run(net, len(first)):
                raise ValueError(
                    f"Layer {name!r} runs last, and {len(values)} rows reach it for a "
                    f"batch of {len(first)}: its inputs are no activations by row."
                )
            rows = values[: len(first)]
            parts.append(sparse.csr_array(rows.float().cpu().flatten(1).numpy()))
    return sparse.vstack(parts, format="csr")


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
    module: nn.Module = getattr(net.module_, "_orig_mod", net.module_)
    return _twin(net, copy_module(module, share_weights=True))


def _twin(net: NeuralNet, module: nn.Module) -> NeuralNet:
    """Make a net with the same settings around a module, for looking at it only."""
    twin = object.__new__(type(net))
    twin.__dict__.update(net.__dict__, module_=module)
    spare_global_rng(twin)
    return twin


def rows_run(net: NeuralNet, n_rows: int) -> int:
    """Give the rows that a module sees for a batch: our nets fill small ones up."""
    return n_rows + -n_rows % getattr(net, "rows_at_once", 1)


class _Listener:
    """Listens to a private copy of a net that shares its weights."""

    def __init__(self, net: NeuralNet) -> None:
        self.net = private_twin(net)
        self.last: tuple[str, Tensor] | None = None
        self._hooks: list[Any] = []

    def __enter__(self) -> "_Listener":
        for name, layer in prunable_layers(self.net.module_).items():

            def listen(_: Any, args: Any, kwargs: Any, name: str = name) -> None:
                values = args[0] if args else next(iter(kwargs.values()))
                self.last = name, values.detach()

            hook = layer.module.register_forward_pre_hook(listen, with_kwargs=True)
            self._hooks.append(hook)
        return self

    def __exit__(self, *error: object) -> None:
        for hook in self._hooks:
            hook.remove()
