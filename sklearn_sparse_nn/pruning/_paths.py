"""What lies on paths from inputs to outputs: importances and dead weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from sklearn_sparse_nn.nets.layers import PrunableLayer
from sklearn_sparse_nn.nets.modules import SeededDropout, Standardize

__all__ = ["Chain", "effective_nonzeros", "input_importances", "linear_chain"]


@dataclass(frozen=True)
class Chain:
    """The weights of a net that is one chain of Linear layers.

    Parameters
    ----------
    weights : mapping of name to ndarray of shape (out, in)
        First layer first, float64, rows scaled by the norm that follows them.
    input_scale : ndarray of shape (n_inputs,)
        What a norm before the first layer multiplies the inputs by.
    """

    weights: Mapping[str, np.ndarray]
    input_scale: np.ndarray


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, qualified_name: str) -> bool:
        ours = isinstance(m, (Standardize, SeededDropout))
        return ours or super().is_leaf_module(m, qualified_name)


def linear_chain(
    module: nn.Module, layers: Mapping[str, PrunableLayer]
) -> Chain | None:
    """Give the weights of a net that is one chain of Linear layers.

    Parameters
    ----------
    module : nn.Module
        Traced, so that what it does counts, not in which order its layers are listed.
    layers : mapping of name to PrunableLayer
        All its prunable layers.

    Returns
    -------
    chain : Chain or None
        None when the net branches, calls another kind of layer, or cannot be traced.
    """
    module = getattr(module, "_orig_mod", module)
    steps = _steps(module)
    if steps is None:
        return None
    names = {layer.module: name for name, layer in layers.items()}
    weights: dict[str, np.ndarray] = {}
    scales: list[np.ndarray] = []
    for step in steps:
        if isinstance(step, nn.Linear):
            matrix = step.weight.detach().double().cpu().numpy()
            before = list(weights.values())
            if step not in names or names[step] in weights:
                return None  # a layer that is tied, or used twice
            if before and matrix.shape[1] != len(before[-1]):
                return None
            weights[names[step]] = matrix
        elif (scale := _scale(step)) is not None:
            last = next(reversed(weights), None)
            if last is None:
                scales.append(scale)
            elif len(scale) == len(weights[last]):
                weights[last] = weights[last] * scale[:, None]
    if not weights or len(weights) != len(layers):
        return None
    n_inputs = next(iter(weights.values())).shape[1]
    if any(len(scale) != n_inputs for scale in scales):
        return None
    return Chain(weights, np.prod([np.ones(n_inputs), *scales], axis=0))


def _steps(module: nn.Module) -> list[Any] | None:
    """Give the leaf modules in the order of their calls, None if the net branches."""
    tracer = _Tracer()
    try:
        graph = tracer.trace(module)
    except Exception:  # a forward that looks at its values cannot be traced
        return None
    nodes = [node for node in graph.nodes if node.users or node.op == "output"]
    steps = []
    for before, node in zip([None, *nodes], nodes, strict=False):
        inputs = node.all_input_nodes
        if inputs != ([] if before is None else [before]):
            return None
        if node.op == "call_module":
            steps.append(tracer.root.get_submodule(str(node.target)))
    return steps


def _scale(step: nn.Module) -> np.ndarray | None:
    """Give what a norm multiplies each value by, as far as it is fixed."""
    scale = None
    if isinstance(step, nn.BatchNorm1d):
        if step.running_var is not None:
            scale = torch.rsqrt(step.running_var + step.eps)
        if step.weight is not None:
            scale = step.weight if scale is None else scale * step.weight
    elif isinstance(step, nn.LayerNorm):
        scale = step.weight
    return None if scale is None else scale.detach().double().cpu().numpy().ravel()


def input_importances(chain: Chain) -> np.ndarray:
    """Sum the absolute weights along all surviving paths from each input.

    Parameters
    ----------
    chain : Chain
        The net.

    Returns
    -------
    importances : ndarray of shape (n_inputs,)
        Adding up to 1, or all 0 when no path survives.

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
        The net.

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
