"""The runtime's graph, made from a net of steps."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from sklearn_sparse_nn.export.dead_units import fold_constants, shrink
from sklearn_sparse_nn.export.folding import MILD, fold
from sklearn_sparse_nn.export.steps import (
    PLAIN,
    Step,
    consumers,
    identity_affine,
    in_order,
    replace,
)
from sklearn_sparse_nn.runtime.graph import (
    Add,
    Affine,
    Concat,
    Graph,
    InputStage,
    LayerNorm,
    Linear,
    Multiply,
    Op,
    Softmax,
)
from sklearn_sparse_nn.runtime.row_steps import Steps

__all__ = ["Rows", "emit"]

_FUSING = ("linear", "affine", "layer_norm", "add", "multiply")


@dataclass(frozen=True)
class Rows:
    """The treatment of the rows of X before the net's steps, without scaling.

    Parameters
    ----------
    n_features : int
        The number of columns of X.
    columns : ndarray of int of shape (n_kept,)
        The columns of X that the input of the net has.
    fill : ndarray of shape (n_kept,) or None
        The values that replace NaN.
    wide : bool
        Whether rows of float64 are scaled in float64.
    steps : tuple of (str, ndarray of shape (n_kept,))
        Steps that rows go through one by one; there is no fill then.
    """

    n_features: int
    columns: Any
    fill: Any = None
    wide: bool = False
    steps: Steps = ()


def emit(output: Step, rows: Rows | None = None) -> Graph:
    """Fold, remove dead units, fuse activations and round to float32.

    Parameters
    ----------
    output : Step
        The step that computes the output of the net. The steps are changed.
    rows : Rows or None, default=None
        The treatment of the rows. None for rows that are the input of the net.

    Returns
    -------
    graph : Graph
    """
    source = next(step for step in in_order(output) if step.kind == "input")
    rows = rows or Rows(source.width, np.arange(source.width))
    for _ in range(2):  # a folded affine step may let another constant through
        output = fold(output)
        fold_constants(output)
    output = fold(output)
    used = shrink(output)
    output = fold(output)  # a concatenation may have one part left
    columns = rows.columns[used]
    shift = scale = None
    if not rows.steps:  # else the net's own shift comes after them, in float32
        output, shift, scale = _stage(output)
    if output.kind == "input":
        output = identity_affine(output)
    output = _fuse(output)
    stage = InputStage(
        rows.n_features,
        columns=None if len(columns) == rows.n_features else columns,
        fill=None if rows.fill is None else rows.fill[used],
        shift=shift,
        scale=scale,
        wide=rows.wide,
        steps=tuple((name, values[used]) for name, values in rows.steps),
    )
    return Graph(stage, _ops(output))


def _stage(output: Step) -> tuple[Step, Any, Any]:
    """Move an affine step that alone reads the input into the input stage.

    There it is a difference, which keeps the digits that ``x * scale + shift`` in
    float32 loses where a column's mean is far from 0.
    """
    readers = consumers(in_order(output))
    source = next(step for step in readers if step.kind == "input")
    first = readers[source][0] if readers[source] else output
    if first.kind != "affine" or len(readers[source]) > 1:
        return output, None, None
    used = first.weight != 0
    safe = np.where(used, first.weight, 1.0)
    shift = np.where(used, -first.bias / safe, 0.0)
    scale = np.where(used, 1 / safe, 1.0)
    if first.divide is not None:
        shift, scale = first.divide
    with np.errstate(over="ignore", under="ignore"):
        narrow = np.abs(scale.astype(np.float32))
        fits = np.isfinite(narrow) & (narrow > 0)
        fits &= np.isfinite(shift.astype(np.float32))
    if not fits.all():
        return output, None, None
    if used.all():
        replace(first, source, readers[first])
        output = source if first is output else output
    else:
        first.weight = used.astype(np.float64)
        first.bias = np.where(used, 0.0, first.bias)
    return output, shift, scale


def _fuse(output: Step) -> Step:
    """Fuse activations into the steps that compute their inputs."""
    readers = consumers(in_order(output))
    for step in list(readers):
        if step.kind != "activation":
            continue
        source = step.inputs[0]
        fits = source.kind in _FUSING and source.activation == PLAIN
        if fits and len(readers[source]) == 1:
            source.activation = step.activation
            replace(step, source, readers[step])
            readers[source] = readers[step]
            output = source if step is output else output
        else:
            # Nothing else there may apply it: others read the plain value too.
            step.kind = "affine"
            step.weight, step.bias = np.ones(step.width), np.zeros(step.width)
    return output


def _ops(output: Step) -> tuple[Op, ...]:
    steps = in_order(output)
    source = next(step for step in steps if step.kind == "input")
    numbers = {source: 0}
    ops: list[Op] = []
    for step in steps:
        if step is not source:
            reads = [numbers[s] for s in step.inputs]
            difference = _difference(step)
            if difference is not None:
                ops.append(Affine(reads[0], np.ones(step.width), -difference))
                reads = [len(ops)]
                step.bias = np.zeros(step.width)
            ops.append(_op(step, reads))
            numbers[step] = len(ops)
    return tuple(ops)


def _difference(step: Step) -> Any:
    """Find the values that an affine step should subtract before it scales.

    Where a column's mean is far from 0, ``x * scale + shift`` loses digits in float32.
    """
    if step.kind != "affine" or not step.bias.any() or np.any(step.weight == 0):
        return None
    if step.divide is not None:
        return step.divide[0]
    large = np.abs(step.bias).max(initial=0) > MILD
    return -step.bias / step.weight if large else None


def _op(step: Step, reads: list[int]) -> Op:
    if step.kind == "linear":
        weight = sparse.csr_array(step.weight.astype(np.float32))
        weight.eliminate_zeros()
        weight.sort_indices()
        return Linear(reads[0], weight, step.bias, step.activation, step.name)
    if step.kind == "affine":
        return Affine(reads[0], step.weight, step.bias, step.activation)
    if step.kind == "layer_norm":
        return LayerNorm(reads[0], step.weight, step.bias, step.eps, step.activation)
    if step.kind == "add":
        return Add((reads[0], reads[1]), step.activation)
    if step.kind == "multiply":
        return Multiply((reads[0], reads[1]), step.activation)
    if step.kind == "concat":
        return Concat(tuple(reads))
    return Softmax(reads[0], step.log)
