"""The reference in scipy and numpy, which also runs where there is no numba."""

from typing import Any, TypeAlias

import numpy as np
from scipy import special

from sklearn_sparse_nn.runtime.activations import ACTIVATIONS
from sklearn_sparse_nn.runtime.graph import (
    Activation,
    Add,
    Affine,
    Concat,
    Graph,
    LayerNorm,
    Linear,
    Multiply,
    Op,
    Softmax,
    inputs_of,
)

__all__ = ["activate", "apply", "evaluate"]

#: Numbers in the precision that everything is computed in: float32 or float64.
Values: TypeAlias = np.ndarray[Any, np.dtype[Any]]


def activate(values: Values, activation: Activation) -> Values:
    """Apply an activation, in the precision of the values.

    Parameters
    ----------
    values : ndarray
        The values, float32 or float64.
    activation : Activation
        The activation.

    Returns
    -------
    activated : ndarray of the same shape and dtype

    Examples
    --------
    >>> activate(np.array([-1.0, 2.0]), Activation("relu")).tolist()
    [0.0, 2.0]
    """
    params = [values.dtype.type(p) for p in activation.params]
    with np.errstate(over="ignore", under="ignore"):
        result = ACTIVATIONS[activation.name].formula(values, *params)
    return np.asarray(result, dtype=values.dtype)


def apply(op: Op, values: list[Values]) -> Values:
    """Apply one operation to feature-major values.

    Parameters
    ----------
    op : operation
        The operation.
    values : list of ndarray of shape (width, n_rows)
        The values that it reads, float32 or float64.

    Returns
    -------
    result : ndarray of shape (width, n_rows)
        The result, in the same precision.
    """
    x = values[0]
    kind = x.dtype.type
    if isinstance(op, Linear):
        result = op.weight.astype(kind) @ x + op.bias.astype(kind)[:, None]
    elif isinstance(op, Affine):
        result = x * op.scale.astype(kind)[:, None] + op.shift.astype(kind)[:, None]
    elif isinstance(op, LayerNorm):
        centred = x - x.mean(axis=0)
        scale = np.sqrt((centred**2).mean(axis=0) + kind(op.eps))
        result = centred / scale * op.weight.astype(kind)[:, None]
        result = result + op.bias.astype(kind)[:, None]
    elif isinstance(op, Concat):
        return np.concatenate(values)
    elif isinstance(op, Softmax):
        softmax = special.log_softmax if op.log else special.softmax
        return np.asarray(softmax(x, axis=0))
    elif isinstance(op, Add):
        result = x + values[1]
    elif isinstance(op, Multiply):
        result = x * values[1]
    return activate(result, op.activation)


def evaluate(graph: Graph, X: Values, *, upto: int | None = None) -> Values:
    """Run a net on rows that have passed the input stage.

    Parameters
    ----------
    graph : Graph
        The operations of the net.
    X : ndarray of shape (n_rows, width), float32 or float64
        Value 0; everything is computed in its precision.
    upto : int or None, default=None
        The value to return; None for the output.

    Returns
    -------
    values : ndarray of shape (n_rows, width of the value)
        The value, C-contiguous.
    """
    upto = len(graph.ops) if upto is None else upto
    last = graph.last_uses()
    values: list[Any] = [np.ascontiguousarray(X.T)]
    for i, op in enumerate(graph.ops[:upto]):
        values.append(apply(op, [values[v] for v in inputs_of(op)]))
        for v in inputs_of(op):
            if last[v] == i and v != upto:
                values[v] = None
    return np.ascontiguousarray(values[upto].T)
