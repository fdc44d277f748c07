"""The arithmetic of values, as steps: linear maps, sums, products, columns joined.

Each function takes a step in place of torch's tensor, and constants as float64 arrays,
tensors or numbers. A TypeError says which part of the call is not known.
"""

from typing import Any

import numpy as np
from scipy import sparse

from sklearn_sparse_nn.export.reading.constants import array, vector
from sklearn_sparse_nn.export.reading.shapes import refuse_flat
from sklearn_sparse_nn.export.steps import Kind, Step

__all__ = [
    "add",
    "affine",
    "cat",
    "div",
    "linear",
    "matmul",
    "mul",
    "neg",
    "power",
    "rsub",
    "sub",
]


def linear(x: Step, weight: Any, bias: Any = None) -> Step:
    """Compute ``x @ weight.T + bias``."""
    refuse_flat(x)
    values = array(weight)
    if values.ndim != 2:
        raise TypeError(f"its weight has shape {values.shape}")
    if values.shape[1] != x.width:
        raise ValueError(
            f"A linear map takes {values.shape[1]} columns and gets {x.width}"
        )
    n_out = values.shape[0]
    shift = np.zeros(n_out) if bias is None else vector(bias, n_out)
    return Step("linear", [x], n_out, sparse.csr_array(values), shift)


def matmul(x: Any, other: Any) -> Step:
    """Compute ``x @ other`` with a constant matrix."""
    if not isinstance(x, Step) or isinstance(other, Step):
        raise TypeError("only value @ constant matrix is known")
    return linear(x, array(other).T)


def affine(x: Step, scale: Any, shift: Any) -> Step:
    """Compute ``x * scale + shift``."""
    if not isinstance(x, Step):
        raise TypeError(f"it is applied to a {type(x).__name__}")
    if x.flat and max(np.size(array(scale)), np.size(array(shift))) > 1:
        refuse_flat(x)
    scale, shift = vector(scale, x.width), vector(shift, x.width)
    return Step("affine", [x], x.width, scale, shift, flat=x.flat)


def _both(kind: Kind, a: Step, b: Step) -> Step:
    if a.flat != b.flat:
        refuse_flat(a, b)
    if a.width != b.width:
        if 1 in (a.width, b.width):
            raise TypeError("it spreads one column over several")
        raise ValueError(f"Values of {a.width} and {b.width} columns meet")
    return Step(kind, [a, b], a.width, flat=a.flat)


def add(x: Any, other: Any, *, alpha: float = 1) -> Step:
    """Compute ``x + alpha * other``."""
    if isinstance(other, Step):
        other = other if alpha == 1 else affine(other, alpha, 0)
        return _both("add", x, other) if isinstance(x, Step) else affine(other, 1, x)
    return affine(x, 1, array(other) * alpha)


def sub(x: Any, other: Any, *, alpha: float = 1) -> Step:
    """Compute ``x - alpha * other``."""
    if isinstance(other, Step):
        return add(x, affine(other, -alpha, 0))
    return affine(x, 1, -array(other) * alpha)


def rsub(x: Any, other: Any) -> Step:
    """Compute ``other - x``."""
    return sub(other, x)


def mul(x: Any, other: Any) -> Step:
    """Compute ``x * other``."""
    if isinstance(other, Step):
        x, other = other, x
    if isinstance(other, Step):
        return _both("multiply", x, other)
    return affine(x, other, 0)


def power(x: Any, exponent: Any) -> Step:
    """Compute ``x ** 2``."""
    if not isinstance(exponent, (int, float)) or exponent != 2:
        raise TypeError("only the exponent 2 is known")
    return mul(x, x)


def div(x: Any, other: Any) -> Step:
    """Compute ``x / other`` with a constant."""
    values = array(other)
    if np.any(values == 0):
        raise ValueError("The net divides by 0")
    step = affine(x, 1 / values, 0)
    if isinstance(x, Step) and not x.flat:
        step.divide = (np.zeros(x.width), vector(values, x.width))
    return step


def neg(x: Any) -> Step:
    """Compute ``-x``."""
    return affine(x, -1, 0)


def cat(tensors: Any, dim: int = 0) -> Step:
    """Concatenate columns."""
    tensors = list(tensors)
    refuse_flat(*tensors)
    if dim not in (1, -1):
        raise TypeError(f"it joins along dimension {dim}, and 1 is known")
    return Step("concat", tensors, sum(step.width for step in tensors))
