"""The exact removal of units that are constant or that no output depends on."""

from typing import Any

import numpy as np
from scipy import sparse, special

from sklearn_sparse_nn.export.steps import Step, in_order
from sklearn_sparse_nn.runtime.reference import activate

__all__ = ["fold_constants", "shrink"]

_TIED = ("affine", "activation", "layer_norm", "add", "multiply", "softmax")
_MIXING = ("layer_norm", "softmax")


def fold_constants(output: Step) -> None:
    """Move values that are the same for every row into the biases after them.

    Parameters
    ----------
    output : Step
        The step that computes the output of the net. The steps are changed: the
        values stay the same, and no weight is multiplied with a constant any more.
    """
    steps = in_order(output)
    known: dict[Step, Any] = {}
    for step in steps:
        if step.kind == "linear":
            _fold_into(step, known[step.inputs[0]])
        known[step] = _constants(step, [known[source] for source in step.inputs])
    for step in steps:
        if step.kind in ("add", "multiply"):
            _use_constant(step, known)
    _cut_empty(steps, {step: np.ones(step.width, dtype=bool) for step in steps})


def _use_constant(step: Step, known: dict[Step, Any]) -> None:
    """Turn a sum or a product with constants into an affine step."""
    constant, other = step.inputs
    if not np.isfinite(known[constant]).all():
        constant, other = other, constant
    if np.isfinite(known[constant]).all():
        ones, zeros, values = np.ones(step.width), np.zeros(step.width), known[constant]
        is_sum = step.kind == "add"
        step.kind, step.inputs = "affine", [other]
        step.weight, step.bias = (ones, values) if is_sum else (values, zeros)


def _cut_empty(steps: list[Step], kept: dict[Step, Any]) -> bool:
    """Connect linear maps without weights to the input, so that others can go.

    Returns
    -------
    cut : bool
        Whether any linear map was connected anew.
    """
    source = next(step for step in steps if step.kind == "input")
    cut = False
    for step in steps:
        if step.kind != "linear" or step.inputs[0] is source:
            continue
        if step.weight[kept[step]].nnz == 0:
            step.inputs = [source]
            step.weight = sparse.csr_array((step.width, source.width))
            cut = True
    return cut


def _fold_into(step: Step, constant: Any) -> None:
    """Move constant inputs of a linear map into its bias."""
    fixed = np.isfinite(constant)
    if fixed.any():
        weight = step.weight
        step.bias = step.bias + weight @ np.where(fixed, constant, 0.0)
        step.weight = sparse.csr_array(weight.multiply(np.where(fixed, 0.0, 1.0)))
        step.weight.eliminate_zeros()


def _constants(step: Step, known: list[Any]) -> Any:
    """Compute the values of constant units; NaN for units that vary."""
    vary = np.full(step.width, np.nan)
    if step.kind == "input":
        return vary
    if step.kind == "linear":
        constant = np.where(np.diff(step.weight.indptr) == 0, step.bias, np.nan)
    elif step.kind == "affine":
        constant = np.where(step.weight == 0, 0.0, known[0] * step.weight) + step.bias
    elif step.kind == "activation":
        fixed = np.isfinite(known[0])
        values = activate(np.where(fixed, known[0], 0.0), step.activation)
        constant = np.where(fixed, values, np.nan)
    elif step.kind == "add":
        constant = known[0] + known[1]
    elif step.kind == "multiply":
        constant = known[0] * known[1]
    elif step.kind == "concat":
        constant = np.concatenate(known)
    elif step.kind == "layer_norm":
        constant = np.where(step.weight == 0, step.bias, _normed(step, known[0]))
    else:
        constant = (special.log_softmax if step.log else special.softmax)(known[0])
    return np.where(np.isfinite(constant), constant, np.nan)


def _normed(step: Step, values: Any) -> Any:
    centred = values - values.mean()
    return centred / np.sqrt((centred**2).mean() + step.eps) * step.weight + step.bias


def shrink(output: Step) -> Any:
    """Remove every unit that the outputs do not depend on.

    Parameters
    ----------
    output : Step
        The step that computes the output of the net; all of its columns are kept. The
        steps are changed.

    Returns
    -------
    columns : ndarray of int
        The columns of the input that are left, at least one.
    """
    steps = in_order(output)
    while _cut_empty(steps, kept := _kept(steps)):
        steps = in_order(output)
    columns = np.zeros(1, dtype=np.int64)
    for step in steps:
        if step.kind == "input":
            kept[step][0] |= not kept[step].any()
            columns = np.flatnonzero(kept[step])
        elif step.kind == "linear":
            inside = kept[step.inputs[0]]
            step.weight = sparse.csr_array(step.weight[kept[step]][:, inside])
            step.weight.sort_indices()
        elif step.kind == "concat":
            ends = np.cumsum([source.width for source in step.inputs])[:-1]
            parts = zip(step.inputs, np.split(kept[step], ends), strict=True)
            step.inputs = [source for source, part in parts if part.any()]
        elif step.weight is not None:
            step.weight = step.weight[kept[step]]
        if step.divide is not None:
            step.divide = tuple(part[kept[step]] for part in step.divide)
        if step.bias is not None:
            step.bias = step.bias[kept[step]]
    for step in steps:
        step.width = int(kept[step].sum())
    return columns


def _kept(steps: list[Step]) -> dict[Step, Any]:
    """Find the units that are needed, and those that are tied to them."""
    kept = {step: np.zeros(step.width, dtype=bool) for step in steps}
    kept[steps[-1]][:] = True
    before = -1
    while (count := sum(int(k.sum()) for k in kept.values())) != before:
        before = count
        for step in reversed(steps):
            _spread(step, kept)
        for step in steps:
            _spread(step, kept)
    return kept


def _spread(step: Step, kept: dict[Step, Any]) -> None:
    """Mark the units that a step needs, and those that need the same columns."""
    if step.kind == "linear":
        rows = step.weight[kept[step]]
        kept[step.inputs[0]][rows.indices] = True
    elif step.kind == "concat":
        start = 0
        for source in step.inputs:
            part = kept[step][start : start + source.width]  # a view
            if part.any():  # else it is left out whole
                part |= kept[source]
                kept[source] |= part
            start += source.width
    elif step.kind in _TIED:
        if step.kind in _MIXING and kept[step].any():
            kept[step][:] = True
        for source in step.inputs:
            kept[source] |= kept[step]
            kept[step] |= kept[source]
