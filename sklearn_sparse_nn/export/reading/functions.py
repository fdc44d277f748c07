"""The table of known functions: torch's names, and what makes steps of them."""

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from sklearn_sparse_nn.export.reading import shapes
from sklearn_sparse_nn.export.reading.activations import (
    COMPOSED,
    activation,
    clamp,
    gelu,
)
from sklearn_sparse_nn.export.reading.arithmetic import (
    add,
    cat,
    div,
    linear,
    matmul,
    mul,
    neg,
    power,
    rsub,
    sub,
)
from sklearn_sparse_nn.export.reading.constants import array, vector
from sklearn_sparse_nn.export.reading.shapes import refuse_flat
from sklearn_sparse_nn.export.steps import Step
from sklearn_sparse_nn.runtime.activations import ACTIVATIONS

__all__ = [
    "BY_TARGET",
    "FUNCTIONS",
    "batch_norm",
    "layer_norm",
    "linear",
]


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


def _softmin(x: Step, dim: Any = None, _stacklevel: int = 3, dtype: Any = None) -> Step:
    return _softmax(False)(neg(x), dim, _stacklevel, dtype)


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
    "softmin": _softmin,
    "pow": power,
    "square": lambda x: power(x, 2),
    "gelu": gelu,
    **COMPOSED,
    **{name: activation(name) for name, known in ACTIVATIONS.items() if known.module},
    "clamp": clamp,
    "clip": clamp,
    "dropout": dropout,
    "alpha_dropout": dropout,
    "feature_alpha_dropout": dropout,
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
