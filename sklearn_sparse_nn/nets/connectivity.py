"""Paths from inputs to outputs: input importances and effective sparsity."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from sklearn_sparse_nn.nets.host import original
from sklearn_sparse_nn.nets.layers import PrunableLayer
from sklearn_sparse_nn.nets.modules import ELEMENTWISE, OUTPUTS, Standardize

__all__ = ["Chain", "effective_nonzeros", "input_importances", "linear_chain"]


@dataclass(frozen=True)
class Chain:
    """The weights of a net that is one chain of Linear layers.

    Parameters
    ----------
    weights : mapping of name to ndarray of shape (out, in)
        The weights, first layer first, float64, rows scaled by the norm after them.
    input_scale : ndarray of shape (n_inputs,)
        The factors by which a norm before the first layer multiplies the inputs.
    mixes : bool
        Whether a layer norm lets hidden units depend on each other.
    """

    weights: Mapping[str, np.ndarray]
    input_scale: np.ndarray
    mixes: bool = False


def linear_chain(
    module: nn.Module, layers: Mapping[str, PrunableLayer]
) -> Chain | None:
    """Return the weights of a net that is one chain of Linear layers.

    Parameters
    ----------
    module : nn.Module
        The net. Only an ``nn.Sequential`` is recognised as a chain.
    layers : mapping of name to PrunableLayer
        All prunable layers of the net.

    Returns
    -------
    chain : Chain or None
        The chain; None if the net is not one.
    """
    names = {layer.module: name for name, layer in layers.items()}
    weights: dict[str, np.ndarray] = {}
    input_scale, mixes = np.ones(1), False
    for step in _steps(original(module)):
        last = next(reversed(weights), None)
        if isinstance(step, nn.Linear):
            if step not in names or names[step] in weights:
                return None  # a layer that is tied, or used twice
            weights[names[step]] = step.weight.detach().double().cpu().numpy()
        elif isinstance(step, nn.BatchNorm1d) and step.running_var is not None:
            if last is None:
                input_scale = input_scale * _scale(step)
            else:
                weights[last] = weights[last] * _scale(step)[:, None]
        elif isinstance(step, nn.LayerNorm) and last is not None:
            mixes = True
            weights[last] = weights[last] * _scale(step)[:, None]
        elif not isinstance(step, (Standardize, *ELEMENTWISE, *OUTPUTS)):
            return None
    if not weights or len(weights) != len(layers):
        return None
    n_inputs = next(iter(weights.values())).shape[1]
    return Chain(weights, np.broadcast_to(input_scale, n_inputs), mixes)


def _steps(module: nn.Module) -> list[nn.Module]:
    """List the modules of nested Sequentials in the order of their calls."""
    if type(module).forward is not nn.Sequential.forward:
        return [module]
    return [step for child in module.children() for step in _steps(child)]


def _scale(norm: nn.BatchNorm1d | nn.LayerNorm) -> np.ndarray:
    """Compute the fixed factors by which a norm multiplies its inputs."""
    scale = torch.ones(())
    if isinstance(norm, nn.BatchNorm1d) and norm.running_var is not None:
        scale = torch.rsqrt(norm.running_var + norm.eps)
    if norm.weight is not None:
        scale = scale * norm.weight
    return scale.detach().double().cpu().numpy().reshape(-1)


def input_importances(chain: Chain) -> np.ndarray:
    """Sum the absolute weights along all surviving paths from each input.

    Parameters
    ----------
    chain : Chain
        The weights of the net.

    Returns
    -------
    importances : ndarray of shape (n_inputs,)
        The importances, which add up to 1, or are all 0 if no path survives.

    References
    ----------
    Garson 1991 and Gevrey et al. 2003 (connection weights), for any depth.

    Examples
    --------
    >>> weights = {"a": np.array([[1.0, 3.0]]), "b": np.array([[2.0]])}
    >>> input_importances(Chain(weights, np.ones(2)))
    array([0.25, 0.75])
    """
    matrices = list(chain.weights.values())
    mass = np.ones(len(matrices[-1]))
    for matrix in reversed(matrices):
        mass = mass @ np.abs(matrix)
    mass = mass * np.abs(chain.input_scale)
    total = mass.sum()
    return mass / total if total > 0 else mass


def effective_nonzeros(chain: Chain) -> dict[str, int]:
    """Count the weights on a path from an input to an output.

    Parameters
    ----------
    chain : Chain
        The weights of the net.

    Returns
    -------
    n : dict of name to int
        The number of weights that are on such a path, by layer. A weight whose source
        has no inputs left, or whose target no outputs, counts as zero.

    References
    ----------
    Vysogorets and Kempe 2023, "Connectivity Matters" (effective sparsity).

    Examples
    --------
    >>> weights = {"a": np.array([[1.0], [0.0]]), "b": np.array([[2.0, 5.0]])}
    >>> effective_nonzeros(Chain(weights, np.ones(1)))
    {'a': 1, 'b': 1}
    """
    matrices = {name: matrix != 0 for name, matrix in chain.weights.items()}
    reached = [np.ones(len(chain.input_scale), dtype=bool)]
    for matrix in matrices.values():
        reached.append((matrix & reached[-1]).any(axis=1))
    useful = np.ones(len(reached[-1]), dtype=bool)
    counts = {}
    for i, (name, matrix) in reversed(list(enumerate(matrices.items()))):
        on_path = matrix & reached[i] & useful[:, None]
        counts[name] = int(on_path.sum())
        useful = on_path.any(axis=0)
    return {name: counts[name] for name in matrices}
