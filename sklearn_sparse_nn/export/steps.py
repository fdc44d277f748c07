"""The net during export: steps in float64 that refer to one another."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from sklearn_sparse_nn.runtime.graph import Activation

__all__ = ["PLAIN", "Kind", "Step", "consumers", "in_order", "replace"]

PLAIN = Activation()
Kind = Literal[
    "input",
    "linear",
    "affine",
    "activation",
    "layer_norm",
    "add",
    "multiply",
    "concat",
    "softmax",
]


@dataclass(eq=False)
class Step:
    """One operation of a net, or the input.

    Parameters
    ----------
    kind : str
        The kind of operation.
    inputs : list of Step
        The steps that it reads.
    width : int
        The number of columns of its values.
    weight : csr_array of shape (width, n_in) or ndarray of shape (width,)
        The weight of a linear map or layer norm, or the scale of an affine step, in
        float64.
    bias : ndarray of shape (width,)
        The bias that is added, in float64.
    activation : Activation
        The activation function: of an activation step, or fused into another.
    divide : (ndarray, ndarray) or None
        The ``(shift, scale)`` of an affine step that was written as
        ``(x - shift) / scale``.
    eps : float
        The epsilon of a layer norm.
    log : bool
        Whether a softmax returns logarithms.
    name : str
        The path of the module that it comes from.
    flat : bool
        Whether torch's value has shape (n,), not (n, 1).
    view : bool
        Whether it shares its memory with its input.
    """

    kind: Kind
    inputs: "list[Step]" = field(default_factory=list)
    width: int = 0
    weight: Any = None
    bias: Any = None
    activation: Activation = PLAIN
    divide: Any = None
    eps: float = 0.0
    log: bool = False
    name: str = ""
    flat: bool = False
    view: bool = False


def in_order(output: Step) -> list[Step]:
    """List a net's steps, each after those that it reads, the input included.

    Parameters
    ----------
    output : Step
        The step that computes the output of the net.

    Returns
    -------
    steps : list of Step
        The steps, in the same order whenever the net is the same.
    """
    done: dict[int, Step] = {}
    stack: list[tuple[Step, bool]] = [(output, False)]
    while stack:
        step, read = stack.pop()
        if id(step) in done:
            continue
        if read:
            done[id(step)] = step
        else:
            stack.append((step, True))
            stack.extend((source, False) for source in reversed(step.inputs))
    return list(done.values())


def consumers(steps: Iterable[Step]) -> dict[Step, list[Step]]:
    """Find the steps that read each step, once for every time that they do.

    Parameters
    ----------
    steps : iterable of Step
        All the steps of a net.

    Returns
    -------
    readers : dict of Step to list of Step
    """
    readers: dict[Step, list[Step]] = {step: [] for step in steps}
    for step in list(readers):
        for source in step.inputs:
            readers[source].append(step)
    return readers


def replace(old: Step, new: Step, readers: Iterable[Step]) -> None:
    """Make readers of one step read another."""
    for reader in readers:
        reader.inputs = [new if s is old else s for s in reader.inputs]


def identity_affine(step: Step, activation: Activation = PLAIN) -> Step:
    """Build an affine step that only applies its activation."""
    ones, zeros = np.ones(step.width), np.zeros(step.width)
    return Step("affine", [step], step.width, ones, zeros, activation)
