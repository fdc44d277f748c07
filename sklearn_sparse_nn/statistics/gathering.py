"""The table of statistics that importances need, and their computation."""

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

from skorch import NeuralNet
from torch import Tensor
from torch.utils.data import Dataset

from sklearn_sparse_nn.nets.layers import PrunableLayer
from sklearn_sparse_nn.statistics.gradients import (
    mean_gradient,
    mean_hessian_gradient,
    mean_squared_gradient,
)
from sklearn_sparse_nn.statistics.path_mass import path_mass_slopes
from sklearn_sparse_nn.statistics.sampling import Sample
from sklearn_sparse_nn.statistics.units import input_gram, input_norms, zero_fractions

__all__ = ["GATHERED", "gather"]

#: Statistics that are computed by running rows through the net, by name.
GATHERED: Mapping[str, Callable[[Sample], dict[str, Tensor]]] = MappingProxyType(
    {
        "grad": mean_gradient,
        "grad_sq": mean_squared_gradient,
        "hessian_grad": mean_hessian_gradient,
        "input_norm": input_norms,
        "hessian": input_gram,
        "activation_zeros": zero_fractions,
        "path_grad": path_mass_slopes,
    }
)


def gather(
    net: NeuralNet,
    rows: Dataset[Any],
    layers: Mapping[str, PrunableLayer],
    names: Iterable[str],
) -> dict[str, dict[str, Tensor]]:
    """Compute statistics over a sample of rows.

    Parameters
    ----------
    net : skorch.NeuralNet
        An initialized net, which is not changed.
    rows : Dataset
        The sample, a dataset that `net` can take batches from.
    layers : mapping of name to PrunableLayer
        The layers whose statistics are computed.
    names : iterable of str
        The names of the statistics, keys of `GATHERED`.

    Returns
    -------
    statistics : dict of name to dict of layer name to Tensor
        The statistics, described in ``core.importance.STATISTICS``. Tensors of a
        weight's own shape are transposed to (out, in, ...).
    """
    if not names:
        return {}
    sample = Sample(net, rows, layers)
    return {name: _turned(layers, GATHERED[name](sample)) for name in names}


def _turned(
    layers: Mapping[str, PrunableLayer], found: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Transpose tensors of a weight's own shape to (out, in, ...)."""
    turned = {}
    for name, layer in layers.items():
        value = found[name].detach()
        own_shape = value.shape == layer.weight.shape
        turned[name] = layer.turned(value) if own_shape else value
    return turned
