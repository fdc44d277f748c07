"""The folding of affine steps, such as batch norms, into others, in float64."""

import numpy as np
from scipy import sparse

from sklearn_sparse_nn.export.steps import Step, consumers, in_order, replace

__all__ = ["MILD", "fold"]

#: A larger shift, in units of what comes out, would cost digits in a layer's bias.
MILD = 64.0


def fold(output: Step) -> Step:
    """Fold affine steps into others as far as that changes no value.

    Parameters
    ----------
    output : Step
        The step that computes the output of the net. The steps are changed.

    Returns
    -------
    output : Step
        The step that computes the output of the folded net. Its values are the same,
        but for rounding in float64.
    """
    changed = True
    while changed:
        changed = False
        for step in in_order(output):
            if step.kind not in ("activation", "affine", "concat"):
                continue
            # Looked up anew: every fold changes who reads what.
            readers = consumers(in_order(output))
            if step not in readers:
                continue
            if _does_nothing(step) or _fold_one(step, readers, output):
                output = _drop(step, output, readers)
                changed = True
    return output


def _drop(step: Step, output: Step, readers: dict[Step, list[Step]]) -> Step:
    """Remove a step that changes nothing."""
    source = step.inputs[0]
    replace(step, source, readers[step])
    return source if output is step else output


def _does_nothing(step: Step) -> bool:
    if step.kind == "activation":
        return step.activation.name == "identity"
    if step.kind == "concat":
        return len(step.inputs) == 1
    if step.kind != "affine":
        return False
    return bool(np.all(step.weight == 1) and np.all(step.bias == 0))


def _fold_one(step: Step, readers: dict[Step, list[Step]], output: Step) -> bool:
    """Fold an affine step into others, if possible; return whether it was."""
    if step.kind != "affine":
        return False
    source = step.inputs[0]
    alone = len(readers[source]) == 1 and source is not output
    if alone and source.kind == "affine":
        _compose(source, step)
    elif alone and source.kind == "linear":
        source.weight = sparse.csr_array(source.weight.multiply(step.weight[:, None]))
        source.weight.eliminate_zeros()
        source.bias = source.bias * step.weight + step.bias
    elif (
        source.kind != "input"
        and step is not output
        and _only_linear(readers[step])
        and np.abs(step.bias).max(initial=0) <= MILD
    ):
        for reader in dict.fromkeys(readers[step]):
            reader.bias = reader.bias + reader.weight @ step.bias
            reader.weight = sparse.csr_array(reader.weight.multiply(step.weight))
            reader.weight.eliminate_zeros()
    else:
        return False
    return True


def _only_linear(readers: list[Step]) -> bool:
    return bool(readers) and all(reader.kind == "linear" for reader in readers)


def _compose(first: Step, second: Step) -> None:
    """Compose two affine steps in the first one."""
    if first.divide is not None and np.all(second.weight != 0):
        # Kept as a difference: x * scale + shift loses digits where |shift| is large.
        shift, scale = first.divide
        offset = second.bias * scale / second.weight
        first.divide = (shift - offset, scale / second.weight)
    else:
        first.divide = None
    first.bias = first.bias * second.weight + second.bias
    first.weight = first.weight * second.weight
