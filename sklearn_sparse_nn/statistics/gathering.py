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
from sklearn_sparse_nn.statistics.sampling import Sample, few_rows
from sklearn_sparse_nn.statistics.units import input_gram, input_norms, zero_fractions
from sklearn_sparse_nn.statistics.uses import StatisticError

__all__ = ["GATHERED", "gather", "rehearse"]

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


def rehearse(
    net: NeuralNet,
    rows: Dataset[Any],
    layers: Mapping[str, PrunableLayer],
    names: Iterable[str],
    said: str,
) -> None:
    """Compute statistics over two rows, to refuse before training what cannot be known.

    Parameters
    ----------
    net : skorch.NeuralNet
        An initialized net, which is not changed.
    rows : Dataset
        A dataset that `net` can take batches from.
    layers : mapping of name to PrunableLayer
        The layers whose statistics will be asked for.
    names : iterable of str
        The names of the statistics, keys of `GATHERED`.
    said : str
        What asks for them, for the message.

    Raises
    ------
    ValueError
        A statistic cannot be computed.
    """
    for name in names:
        sample = few_rows(net, rows, layers)
        if sample is None:
            return
        try:
            GATHERED[name](sample)
        except StatisticError:
            raise
        except Exception as error:  # the forward may raise anything
            reason = (str(error).splitlines() or [""])[0]
            module = type(sample.net.module_).__name__
            raise ValueError(
                f"{said} asks for the statistic {name!r}, which cannot be computed for "
                f"{module} ({type(error).__name__}: {reason}). Choose another "
                "importance, or leave layers out with `layers`."
            ) from error


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
