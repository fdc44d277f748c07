"""The activations of torch, as steps: those of the runtime, and others made of them."""

from collections.abc import Callable
from inspect import Parameter, Signature
from typing import Any

import numpy as np
from scipy import sparse

from sklearn_sparse_nn.export.reading.arithmetic import add, affine, linear, mul, neg
from sklearn_sparse_nn.export.reading.constants import array, vector
from sklearn_sparse_nn.export.reading.shapes import refuse_flat
from sklearn_sparse_nn.export.steps import Step
from sklearn_sparse_nn.runtime.activations import ACTIVATIONS
from sklearn_sparse_nn.runtime.graph import Activation

__all__ = ["COMPOSED", "activate", "activation", "clamp", "gelu"]

_MOST = float(np.finfo(np.float32).max)


def activate(x: Any, name: str, *params: float) -> Step:
    """Build the step of an activation that the runtime has."""
    if not isinstance(x, Step):
        raise TypeError(f"it is applied to a {type(x).__name__}")
    chosen = Activation(name, tuple(float(array(p)) for p in params))
    return Step("activation", [x], x.width, activation=chosen, flat=x.flat)


def activation(name: str) -> Callable[..., Step]:
    """Build torch's function of an activation, with torch's names and defaults."""
    places = [Parameter("x", Parameter.POSITIONAL_OR_KEYWORD)] + [
        Parameter(key, Parameter.POSITIONAL_OR_KEYWORD, default=value)
        for key, value in ACTIVATIONS[name].parameters.items()
    ]
    signature = Signature(places)

    def function(*args: Any, **kwargs: Any) -> Step:
        call = signature.bind(*args, **kwargs)
        call.apply_defaults()
        return activate(call.arguments.pop("x"), name, *call.arguments.values())

    return function


def gelu(x: Any, approximate: str = "none") -> Step:
    """Build GELU, exact or by tanh."""
    return activate(x, {"none": "gelu", "tanh": "gelu_tanh"}[approximate])


def clamp(x: Any, min: Any = None, max: Any = None) -> Step:
    """Clip values by numbers, on one side or on both."""
    if max is None and isinstance(min, (int, float)) and min == 0:
        return activate(x, "relu")
    low, high = -_MOST if min is None else min, _MOST if max is None else max
    if not isinstance(low, (int, float)) or not isinstance(high, (int, float)):
        raise TypeError("its limits are no numbers")
    return activate(x, "hardtanh", low, high)


def _celu(x: Any, alpha: float = 1.0) -> Step:
    if not alpha > 0:
        raise TypeError(f"its alpha is {alpha!r}, and must be positive")
    return affine(activate(affine(x, 1 / alpha, 0), "elu", 1.0), alpha, 0)


def _glu(x: Any, dim: int = -1) -> Step:
    refuse_flat(x)
    if dim not in (1, -1) or x.width % 2:
        raise TypeError(f"it halves {x.width} columns along dimension {dim}")
    half, one = x.width // 2, sparse.eye_array(x.width, format="csr")
    value, gate = (linear(x, part.toarray()) for part in (one[:half], one[half:]))
    return mul(value, activate(gate, "sigmoid"))


def _hardshrink(x: Any, lambd: float = 0.5) -> Step:
    if lambd < 0:
        raise TypeError(f"its lambd is {lambd!r}, and must not be negative")
    below = neg(activate(neg(x), "threshold", lambd, 0.0))
    return add(activate(x, "threshold", lambd, 0.0), below)


def _hardsigmoid(x: Any) -> Step:
    return activate(affine(x, 1 / 6, 0.5), "hardtanh", 0.0, 1.0)


def _logsigmoid(x: Any) -> Step:
    return neg(activate(neg(x), "softplus", 1.0, 100.0))


def _prelu(x: Any, weight: Any) -> Step:
    slopes = array(weight)
    if slopes.size == 1:
        return activate(x, "leaky_relu", float(slopes.reshape(())))
    below = activate(neg(x), "relu")
    return add(activate(x, "relu"), affine(below, -vector(slopes, x.width), 0))


def _rrelu(
    x: Any, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False
) -> Step:
    if training:
        raise TypeError("it draws random slopes in evaluation too")
    return activate(x, "leaky_relu", (lower + upper) / 2)


def _softshrink(x: Any, lambd: float = 0.5) -> Step:
    return add(x, neg(activate(x, "hardtanh", -lambd, lambd)))


#: Activations that are made of several steps, by the names of torch's functions.
COMPOSED: dict[str, Callable[..., Step]] = {
    "celu": _celu,
    "glu": _glu,
    "hardshrink": _hardshrink,
    "hardsigmoid": _hardsigmoid,
    "hardswish": lambda x: mul(x, _hardsigmoid(x)),
    "logsigmoid": _logsigmoid,
    "prelu": _prelu,
    "relu6": lambda x: activate(x, "hardtanh", 0, 6),
    "rrelu": _rrelu,
    "softshrink": _softshrink,
    "tanhshrink": lambda x: add(x, neg(activate(x, "tanh"))),
}
