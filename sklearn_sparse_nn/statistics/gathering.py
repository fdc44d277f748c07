"""What an importance asks to know of a net: gathered over rows, only what is asked."""

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

from skorch import NeuralNet
from torch import Tensor

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

#: Statistics that come from running rows through the net, by name.
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
    net: NeuralNet, rows: Any, layers: Mapping[str, PrunableLayer], names: Iterable[str]
) -> dict[str, dict[str, Tensor]]:
    """Gather statistics over a sample of rows.

    Parameters
    ----------
    net : skorch.NeuralNet
        Initialized; nothing of it changes.
    rows : Dataset
        What `net` takes batches from.
    layers : mapping of name to PrunableLayer
        The layers to gather for.
    names : iterable of str
        Which statistics: keys of `GATHERED`.

    Returns
    -------
    statistics : dict of name to dict of layer name to Tensor
        ``core.importance.STATISTICS`` says what each is; what has a weight's own
        shape is turned to (out, in, ...).
    """
    if not names:
        return {}
    sample = Sample(net, rows, layers)
    return {name: _turned(layers, GATHERED[name](sample)) for name in names}


def _turned(
    layers: Mapping[str, PrunableLayer], found: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    turned = {}
    for name, layer in layers.items():
        value = found[name].detach()
        own_shape = value.shape == layer.weight.shape
        turned[name] = layer.turned(value) if own_shape else value
    return turned
