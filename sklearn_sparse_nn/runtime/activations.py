"""The table of activations: names, parameters, formulas and numbers.

Everything that knows activations reads this table: the graph and the model file take
the names and the parameters, the reference takes the formula, the kernels take the
number, and the GPU and the export find torch's functions and modules by their names.
A new activation goes to the end, for its place is its number, and gets a branch in
`kernels/elementwise.py`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, TypeAlias

import numpy as np
from scipy import special

__all__ = ["ACTIVATIONS", "CODES", "Code", "Definition"]

#: The values, then the parameters; returns values of the same shape.
Formula: TypeAlias = Callable[..., np.ndarray[Any, np.dtype[Any]]]
Values: TypeAlias = np.ndarray[Any, np.dtype[Any]]

_SELU_ALPHA = 1.6732632423543772  # Klambauer et al. 2017, equation 14
_SELU_SCALE = 1.0507009873554805
_enumeration: Any = IntEnum  # type checkers know no members that a table names


def _threshold(x: Values, limit: float, value: float) -> Values:
    return np.where(x <= limit, value, x)


@dataclass(frozen=True)
class Definition:
    """One activation.

    Parameters
    ----------
    formula : callable
        The function in numpy, for float32 and float64: the values, then the parameters.
    module : str or None, default=None
        The name of the class in `torch.nn`. The name of the activation is then that of
        the function in `torch.nn.functional`.
    parameters : mapping of str to float, default={}
        The parameters, in order, and torch's defaults. Their names are those of the
        attributes of torch's class and of the arguments of torch's function.
    """

    formula: Formula
    module: str | None = None
    parameters: Mapping[str, float] = field(default_factory=dict)


ACTIVATIONS: dict[str, Definition] = {
    "identity": Definition(lambda x: x),
    "relu": Definition(lambda x: np.maximum(x, 0), "ReLU"),
    "leaky_relu": Definition(
        lambda x, slope: np.where(x > 0, x, x * slope),
        "LeakyReLU",
        {"negative_slope": 0.01},
    ),
    "hardtanh": Definition(
        lambda x, low, high: np.clip(x, low, high),
        "Hardtanh",
        {"min_val": -1.0, "max_val": 1.0},
    ),
    "elu": Definition(
        lambda x, alpha: np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0))),
        "ELU",
        {"alpha": 1.0},
    ),
    "selu": Definition(
        lambda x: (
            _SELU_SCALE * np.where(x > 0, x, _SELU_ALPHA * np.expm1(np.minimum(x, 0)))
        ),
        "SELU",
    ),
    # torch has one class and one function for these two; the export tells them apart.
    "gelu": Definition(lambda x: x * special.ndtr(x)),
    "gelu_tanh": Definition(
        lambda x: x * special.expit(2 * np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))
    ),
    "silu": Definition(lambda x: x * special.expit(x), "SiLU"),
    "mish": Definition(lambda x: x * np.tanh(np.logaddexp(0, x)), "Mish"),
    "tanh": Definition(np.tanh, "Tanh"),
    "sigmoid": Definition(special.expit, "Sigmoid"),
    "softplus": Definition(
        lambda x, beta, threshold: np.where(
            x * beta > threshold, x, np.logaddexp(0, x * beta) / beta
        ),
        "Softplus",
        {"beta": 1.0, "threshold": 20.0},
    ),
    "softsign": Definition(lambda x: x / (1 + abs(x)), "Softsign"),
    # torch has no defaults for these two.
    "threshold": Definition(_threshold, "Threshold", {"threshold": 0.0, "value": 0.0}),
}

#: The number of every activation in a program of the kernels.
CODES: dict[str, int] = {name: number for number, name in enumerate(ACTIVATIONS)}
#: The same numbers as constants that compiled code can read: ``Code.relu``.
Code: Any = _enumeration("Code", CODES)
