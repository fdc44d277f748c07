"""The shape of a net, as two rows that run through it show it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from skorch import NeuralNet
from torch import Tensor

from sklearn_sparse_nn.nets.copies import first_outputs, private_twin, rows_run
from sklearn_sparse_nn.nets.host import AnyConvTranspose
from sklearn_sparse_nn.nets.layers import PrunableLayer, prunable_layers
from sklearn_sparse_nn.statistics.uses import Calls

__all__ = ["NetShape", "shape_of"]


@dataclass(frozen=True)
class NetShape:
    """The last layer of a net, and how often its weights are used.

    Parameters
    ----------
    last : str or None
        The prunable layer that runs last; None when the module uses none.
    width : int
        The number of values that reach it for a row; 0 where rows do not.
    uses : mapping of layer name to int
        How often each weight of a layer is used for one row: 1 for a Linear layer that
        sees each row once, the number of output positions in a convolution; 1 where it
        cannot be counted.
    """

    last: str | None
    width: int
    uses: Mapping[str, int]


def shape_of(net: NeuralNet, X: Any) -> NetShape:
    """Find the shape of a net by running two rows through a private copy of it.

    Parameters
    ----------
    net : skorch.NeuralNet
        An initialized net.
    X : array
        Rows as `net` takes them; the first two are used.

    Returns
    -------
    shape : NetShape
    """
    twin = private_twin(net)
    layers = prunable_layers(twin.module_)
    with torch.no_grad(), Calls(layers) as calls:
        n_rows = rows_run(net, len(first_outputs(twin, X)))
    uses = {name: _uses(layers[name], calls, n_rows) for name in layers}
    if calls.last is None:
        return NetShape(None, 0, uses)
    name, inputs, _ = calls.last
    width = inputs.flatten(1).shape[1] if len(inputs) == n_rows else 0
    return NetShape(name, width, uses)


def _uses(layer: PrunableLayer, calls: Calls, n_rows: int) -> int:
    n_units = layer.turned(layer.weight).shape[0]
    if isinstance(layer.module, AnyConvTranspose):
        n_units *= layer.module.groups
    outputs: list[Tensor] = [values for _, values in calls.seen[layer.name]]
    return max(1, sum(map(torch.numel, outputs)) // (n_rows * n_units))
