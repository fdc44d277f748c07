"""What lies on paths from inputs to outputs: importances and dead weights."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from sklearn_sparse_nn.nets.layers import PrunableLayer

__all__ = ["effective_nonzeros", "input_importances", "linear_chain"]


def linear_chain(
    module: nn.Module, layers: Mapping[str, PrunableLayer]
) -> dict[str, np.ndarray] | None:
    """Give the weights of a net that is one chain of Linear layers.

    Parameters
    ----------
    module : nn.Module
        Batch norms between the layers scale the rows before them.
    layers : mapping of name to PrunableLayer
        All its prunable layers.

    Returns
    -------
    weights : dict of name to ndarray of shape (out, in), or None
        float64; None when a layer is not Linear or the widths do not chain.
    """
    weights: dict[str, np.ndarray] = {}
    by_module = {layer.module: name for name, layer in layers.items()}
    last = None
    for child in module.modules():
        if isinstance(child, nn.Linear) and child in by_module:
            matrix = child.weight.detach().double().cpu().numpy()
            if last is not None and matrix.shape[1] != len(weights[last]):
                return None
            last = by_module[child]
            weights[last] = matrix
        elif isinstance(child, nn.BatchNorm1d) and last is not None:
            if child.running_var is None:  # it normalises by each batch
                return None
            scale = torch.rsqrt(child.running_var + child.eps)
            if child.weight is not None:
                scale = scale * child.weight
            if len(scale) == len(weights[last]):
                column = scale.detach().double().cpu().numpy()[:, None]
                weights[last] = weights[last] * column
    return weights if len(weights) == len(layers) else None


def input_importances(weights: Mapping[str, np.ndarray]) -> np.ndarray:
    """Sum the absolute weights along all surviving paths from each input.

    Parameters
    ----------
    weights : mapping of name to ndarray of shape (out, in)
        A chain, first layer first.

    Returns
    -------
    importances : ndarray of shape (n_inputs,)
        Adding up to 1, or all 0 when no path survives.

    References
    ----------
    Garson 1991 and Gevrey et al. 2003 (connection weights), for any depth.

    Examples
    --------
    >>> input_importances({"a": np.array([[1.0, 3.0]]), "b": np.array([[2.0]])})
    array([0.25, 0.75])
    """
    matrices = list(weights.values())
    mass = np.ones(len(matrices[-1]))
    for matrix in reversed(matrices):
        mass = mass @ np.abs(matrix)
    total = mass.sum()
    return mass / total if total > 0 else mass


def effective_nonzeros(weights: Mapping[str, np.ndarray]) -> dict[str, int]:
    """Count the weights on a path from an input to an output.

    Parameters
    ----------
    weights : mapping of name to ndarray of shape (out, in)
        A chain, first layer first.

    Returns
    -------
    n : dict of name to int
        A weight whose source gets nothing or whose target gives nothing on counts
        as zero.

    References
    ----------
    Vysogorets and Kempe 2023, "Connectivity Matters" (effective sparsity).

    Examples
    --------
    >>> effective_nonzeros({"a": np.array([[1.0], [0.0]]), "b": np.array([[2.0, 5.0]])})
    {'a': 1, 'b': 1}
    """
    matrices = {name: matrix != 0 for name, matrix in weights.items()}
    chain = list(matrices.values())
    reached = [np.ones(chain[0].shape[1], dtype=bool)]
    for matrix in chain:
        reached.append((matrix & reached[-1]).any(axis=1))
    useful = np.ones(len(chain[-1]), dtype=bool)
    counts = {}
    for i, (name, matrix) in reversed(list(enumerate(matrices.items()))):
        on_path = matrix & reached[i] & useful[:, None]
        counts[name] = int(on_path.sum())
        useful = on_path.any(axis=0)
    return {name: counts[name] for name in matrices}
