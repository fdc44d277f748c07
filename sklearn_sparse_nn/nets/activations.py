"""What reaches a net's last layer: found by running it, not by reading its code."""

from copy import deepcopy
from itertools import chain
from typing import Any

import torch
from scipy import sparse
from skorch import NeuralNet
from torch import Tensor, nn

from sklearn_sparse_nn.nets.layers import prunable_layers

__all__ = ["first_outputs", "hidden_activations", "last_layer"]


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
    with torch.random.fork_rng(devices=[]):  # a DataLoader draws from it
        for outputs in net.forward_iter(X[:2]):
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
    return name, values[: len(outputs)].flatten(1).shape[1]


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
    with _Listener(net) as heard, torch.random.fork_rng(devices=[]):
        for outputs in heard.net.forward_iter(X):
            if heard.last is None:
                raise ValueError(
                    "The module calls none of its prunable layers, so it has no last "
                    "hidden layer to give activations of."
                )
            first = outputs[0] if isinstance(outputs, tuple) else outputs
            rows = heard.last[1][: len(first)]
            parts.append(sparse.csr_array(rows.float().cpu().flatten(1).numpy()))
    return sparse.vstack(parts, format="csr")


class _Listener:
    """Listens to a private copy of a net that shares its weights.

    The copy keeps other threads' predictions out, and a compiled module, which
    ignores hooks that come later, is run as it was before compilation.
    """

    def __init__(self, net: NeuralNet) -> None:
        module: nn.Module = getattr(net.module_, "_orig_mod", net.module_)
        tensors = chain(module.parameters(), module.buffers())
        memo = {id(tensor): tensor for tensor in tensors}
        self.net = object.__new__(type(net))
        self.net.__dict__.update(net.__dict__, module_=deepcopy(module, memo))
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
