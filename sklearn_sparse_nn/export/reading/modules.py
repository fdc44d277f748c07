"""The known modules, as steps."""

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import nn

from sklearn_sparse_nn.export.reading import functions
from sklearn_sparse_nn.export.reading.constants import vector
from sklearn_sparse_nn.export.reading.shapes import refuse_flat
from sklearn_sparse_nn.export.steps import Step
from sklearn_sparse_nn.nets.modules import SeededDropout, Standardize
from sklearn_sparse_nn.runtime.activations import ACTIVATIONS

__all__ = ["MODULES", "listed", "width_of"]


def _linear(m: nn.Linear, x: Step) -> Step:
    return functions.linear(x, m.weight, m.bias)


def _batch_norm(m: nn.BatchNorm1d, x: Step) -> Step:
    return functions.batch_norm(
        x, m.running_mean, m.running_var, m.weight, m.bias, eps=m.eps
    )


def _layer_norm(m: nn.LayerNorm, x: Step) -> Step:
    return functions.layer_norm(x, m.normalized_shape, m.weight, m.bias, m.eps)


def _standardize(m: Standardize, x: Step) -> Step:
    mean, scale = (vector(v, x.width) for v in (m.mean, m.scale))
    refuse_flat(x)
    if np.any(scale == 0):
        raise ValueError("The scale of a Standardize layer is 0.")
    step = Step("affine", [x], x.width, 1 / scale, -mean / scale)
    step.divide = (mean, scale)
    return step


def _same(m: nn.Module, x: Step) -> Step:
    return x


def _function(
    name: str, *attributes: str, **fixed: Any
) -> Callable[[nn.Module, Step], Step]:
    """Build a conversion by a function; its parameters are the module's attributes."""
    function = functions.FUNCTIONS[name]

    def convert(m: nn.Module, x: Step) -> Step:
        return function(x, *(getattr(m, a) for a in attributes), **fixed)

    return convert


#: The conversion of a module, which is a copy in evaluation mode.
MODULES: dict[type[nn.Module], Callable[[Any, Step], Step]] = {
    nn.Linear: _linear,
    nn.BatchNorm1d: _batch_norm,
    nn.LayerNorm: _layer_norm,
    Standardize: _standardize,
    nn.Dropout: _same,
    SeededDropout: _same,
    nn.Identity: _same,
    nn.Flatten: _function("flatten", "start_dim", "end_dim"),
    nn.AlphaDropout: _same,
    nn.FeatureAlphaDropout: _same,
    nn.CELU: _function("celu", "alpha"),
    nn.GLU: _function("glu", "dim"),
    nn.Hardshrink: _function("hardshrink", "lambd"),
    nn.Hardsigmoid: _function("hardsigmoid"),
    nn.Hardswish: _function("hardswish"),
    nn.LogSigmoid: _function("logsigmoid"),
    nn.PReLU: _function("prelu", "weight"),
    nn.RReLU: _function("rrelu", "lower", "upper"),
    nn.ReLU6: _function("relu6"),
    nn.Softmin: _function("softmin", "dim"),
    nn.Softshrink: _function("softshrink", "lambd"),
    nn.Tanhshrink: _function("tanhshrink"),
    nn.GELU: _function("gelu", "approximate"),
    **{
        getattr(nn, known.module): _function(name, *known.parameters)
        for name, known in ACTIVATIONS.items()
        if known.module
    },
    nn.Softmax: _function("softmax", "dim"),
    nn.LogSoftmax: _function("log_softmax", "dim"),
}


def width_of(module: nn.Module) -> int | None:
    """Return the number of columns that a module takes, if it says so."""
    if isinstance(module, nn.Linear):
        return module.in_features
    if isinstance(module, nn.BatchNorm1d):
        return module.num_features
    if isinstance(module, nn.LayerNorm):
        return module.normalized_shape[-1]
    if isinstance(module, Standardize):
        return len(module.mean)
    return None


def listed() -> str:
    """Return a sentence that lists what is supported."""
    names = ", ".join(kind.__name__ for kind in MODULES if kind is not SeededDropout)
    return (
        f"Supported are {names}, their functional forms, sums, products with "
        "constants and concatenation of columns, on float values of shape (rows, "
        "columns)."
    )
