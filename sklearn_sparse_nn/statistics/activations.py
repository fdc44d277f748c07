"""Activations of the last hidden layer, found by running the net."""

from typing import Any

from scipy import sparse
from skorch import NeuralNet
from torch import Tensor

from sklearn_sparse_nn.nets.copies import private_twin, rows_run
from sklearn_sparse_nn.nets.layers import prunable_layers
from sklearn_sparse_nn.statistics.uses import Uses

__all__ = ["LastInput", "hidden_activations"]


def hidden_activations(net: NeuralNet, X: Any) -> sparse.csr_array:
    """Compute the inputs of the last layer, made sparse batch by batch.

    Parameters
    ----------
    net : skorch.NeuralNet
        A fitted net.
    X : array
        Rows of the type that `net` takes.

    Returns
    -------
    activations : csr_array of shape (n_samples, n_hidden), float32
        The activations of the last hidden layer.

    Raises
    ------
    ValueError
        The module calls none of its prunable layers, or the inputs of the last one are
        not one per row.
    """
    parts = []
    with LastInput(net) as layer:
        for outputs in layer.net.forward_iter(X):
            if layer.last is None:
                raise ValueError(
                    "The module calls none of its prunable layers, so it has no last "
                    "hidden layer to give activations of."
                )
            first = outputs[0] if isinstance(outputs, tuple) else outputs
            name, values = layer.last
            if len(values) != rows_run(net, len(first)):
                raise ValueError(
                    f"Layer {name!r} runs last, and {len(values)} rows reach it for a "
                    f"batch of {len(first)}: its inputs are no activations by row."
                )
            rows = values[: len(first)]
            parts.append(sparse.csr_array(rows.float().cpu().flatten(1).numpy()))
    return sparse.vstack(parts, format="csr")


class LastInput:
    """Records what reaches the prunable layer that runs last.

    Use as a context manager; it runs a private copy that shares the net's weights.

    Parameters
    ----------
    net : skorch.NeuralNet
        An initialized net.

    Attributes
    ----------
    net : skorch.NeuralNet
        The private copy.
    last : (str, Tensor) or None
        The layer that was used last and its inputs; None before the first use.
    """

    def __init__(self, net: NeuralNet) -> None:
        self.net = private_twin(net)
        self.last: tuple[str, Tensor] | None = None
        self._uses = Uses(prunable_layers(self.net.module_), self._record)

    def __enter__(self) -> "LastInput":
        self._uses.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._uses.__exit__(*error)

    def _record(self, name: str, inputs: Tensor, output: Tensor) -> Tensor:
        self.last = name, inputs
        return output
