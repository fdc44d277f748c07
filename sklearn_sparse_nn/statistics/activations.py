"""What reaches a net's last layer: found by running it, not by reading its code."""

from typing import Any

from scipy import sparse
from skorch import NeuralNet
from torch import Tensor

from sklearn_sparse_nn.nets.copies import first_outputs, private_twin, rows_run
from sklearn_sparse_nn.nets.layers import prunable_layers

__all__ = ["hidden_activations", "last_layer"]


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
