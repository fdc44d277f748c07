"""The known functions, as steps, with torch's own parameters.

Each takes a step in place of torch's tensor, and constants as float64 arrays, tensors
or numbers. A TypeError says which part of the call is not known.
"""

import operator
from collections.abc import Callable
from inspect import Parameter, Signature
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch.nn import functional as F

from sklearn_sparse_nn.export.reading import shapes
from sklearn_sparse_nn.export.reading.constants import array, vector
from sklearn_sparse_nn.export.reading.shapes import refuse_flat
from sklearn_sparse_nn.export.steps import Step
from sklearn_sparse_nn.runtime.activations import ACTIVATIONS
from sklearn_sparse_nn.runtime.graph import Activation

__all__ = [
    "BY_TARGET",
    "FUNCTIONS",
    "batch_norm",
    "layer_norm",
    "linear",
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


def _both(a: Step, b: Step) -> Step:
    refuse_flat(a, b)
    if a.width != b.width:
        if 1 in (a.width, b.width):
            raise TypeError("it spreads one column over several")
        raise ValueError(f"Values of {a.width} and {b.width} columns are added")
    return Step("add", [a, b], a.width)


def add(x: Any, other: Any, *, alpha: float = 1) -> Step:
    """Compute ``x + alpha * other``."""
    if isinstance(other, Step):
        other = other if alpha == 1 else affine(other, alpha, 0)
        return _both(x, other) if isinstance(x, Step) else affine(other, 1, x)
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
    """Compute ``x * other``, one of them a constant."""
    if isinstance(other, Step):
        x, other = other, x
    return affine(x, other, 0)


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


def batch_norm(
    x: Step,
    running_mean: Any,
    running_var: Any,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Step:
    """Normalise columns by the running statistics of a batch norm."""
    refuse_flat(x)
    if training or running_mean is None or running_var is None:
        raise TypeError("it normalises by the statistics of each batch")
    _check_size("A batch norm", running_mean, x)
    mean, variance = vector(running_mean, x.width), vector(running_var, x.width)
    if np.any(variance + eps <= 0):
        raise ValueError("A batch norm has a running variance that is not positive")
    scale = 1 / np.sqrt(variance + eps)
    if weight is not None:
        scale = scale * vector(weight, x.width)
    shift = -mean * scale
    if bias is not None:
        shift = shift + vector(bias, x.width)
    return Step("affine", [x], x.width, scale, shift)


def layer_norm(
    x: Step,
    normalized_shape: Any,
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
) -> Step:
    """Normalise rows over the columns."""
    refuse_flat(x)
    if tuple(normalized_shape) != (x.width,):
        raise ValueError(
            f"A layer norm over {tuple(normalized_shape)} gets {x.width} columns"
        )
    scale = np.ones(x.width) if weight is None else vector(weight, x.width)
    shift = np.zeros(x.width) if bias is None else vector(bias, x.width)
    return Step("layer_norm", [x], x.width, scale, shift, eps=float(eps))


def _check_size(what: str, statistics: Any, x: Step) -> None:
    size = array(statistics).size
    if size != x.width:
        raise ValueError(f"{what} of {size} columns gets {x.width}")


def _softmax(log: bool) -> Callable[..., Step]:
    def softmax(
        x: Step, dim: Any = None, _stacklevel: int = 3, dtype: Any = None
    ) -> Step:
        refuse_flat(x)
        if dim not in (1, -1) or dtype is not None:
            raise TypeError(f"it has dim={dim!r} and dtype={dtype!r}; dim=1 is known")
        return Step("softmax", [x], x.width, log=log)

    return softmax


def _activate(x: Any, name: str, *params: float) -> Step:
    if not isinstance(x, Step):
        raise TypeError(f"it is applied to a {type(x).__name__}")
    activation = Activation(name, tuple(float(array(p)) for p in params))
    return Step("activation", [x], x.width, activation=activation, flat=x.flat)


def _activation(name: str) -> Callable[..., Step]:
    """Build torch's function of an activation, with torch's names and defaults."""
    places = [Parameter("x", Parameter.POSITIONAL_OR_KEYWORD)] + [
        Parameter(key, Parameter.POSITIONAL_OR_KEYWORD, default=value)
        for key, value in ACTIVATIONS[name].parameters.items()
    ]
    signature = Signature(places)

    def function(*args: Any, **kwargs: Any) -> Step:
        call = signature.bind(*args, **kwargs)
        call.apply_defaults()
        return _activate(call.arguments.pop("x"), name, *call.arguments.values())

    return function


def _gelu(x: Any, approximate: str = "none") -> Step:
    return _activate(x, {"none": "gelu", "tanh": "gelu_tanh"}[approximate])


def clamp(x: Any, min: Any = None, max: Any = None) -> Step:
    """Clip values on both sides, or at 0 below."""
    if max is None and isinstance(min, (int, float)) and min == 0:
        return _activate(x, "relu")
    if not isinstance(min, (int, float)) or not isinstance(max, (int, float)):
        raise TypeError("it needs two numbers as limits, or min=0 alone")
    return _activate(x, "hardtanh", min, max)


def dropout(x: Any, p: float = 0.5, training: bool = True) -> Any:
    """Return the values: in evaluation dropout changes nothing."""
    if training and p:
        raise TypeError("it drops values in evaluation too; give it self.training")
    return x


#: The functions by torch's names.
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "linear": linear,
    "matmul": matmul,
    "add": add,
    "sub": sub,
    "subtract": sub,
    "rsub": rsub,
    "mul": mul,
    "multiply": mul,
    "div": div,
    "divide": div,
    "true_divide": div,
    "truediv": div,
    "neg": neg,
    "negative": neg,
    "cat": cat,
    "concat": cat,
    "concatenate": cat,
    "batch_norm": batch_norm,
    "layer_norm": layer_norm,
    "softmax": _softmax(False),
    "log_softmax": _softmax(True),
    "relu6": lambda x: _activate(x, "hardtanh", 0, 6),
    "gelu": _gelu,
    **{name: _activation(name) for name, known in ACTIVATIONS.items() if known.module},
    "clamp": clamp,
    "clip": clamp,
    "dropout": dropout,
    "flatten": shapes.flatten,
    "squeeze": shapes.squeeze,
    "unsqueeze": shapes.unsqueeze,
    "reshape": shapes.reshape,
    "view": shapes.reshape,
    "size": shapes.size,
    "dim": shapes.dim,
    "ndimension": shapes.dim,
    "get_device": shapes.fact(-1),
    "is_complex": shapes.fact(False),
    "is_contiguous": shapes.fact(True),
    "is_floating_point": shapes.fact(True),
    "float": shapes.same,
    "contiguous": shapes.same,
    "cpu": shapes.same,
    "detach": shapes.same,
    "clone": shapes.copy,
    "to": shapes.to,
    "type": shapes.kind,
    "type_as": shapes.to,
    "getattr": shapes.attribute,
    "getitem": shapes.item,
}
#: The names of torch's and Python's functions; ``_`` at the end means in place.
BY_TARGET: dict[Any, str] = {getattr: "getattr"} | {
    getattr(home, name + end): name + end
    for home in (operator, torch, F)
    for name in FUNCTIONS
    for end in ("", "_")
    if hasattr(home, name + end)
}
