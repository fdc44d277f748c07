"""The constants of a net: weights and numbers, in float64."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["array", "vector"]


def array(constant: Any) -> Any:
    """Convert a constant to a float64 array, all finite.

    Parameters
    ----------
    constant : Tensor, ndarray or number
        A constant of any real dtype, on any device.

    Returns
    -------
    values : ndarray, float64
        The values; do not write to them.
    """
    if isinstance(constant, Tensor):
        if constant.is_complex() or constant.is_meta or constant.is_quantized:
            raise TypeError(f"a constant is of dtype {constant.dtype}")
        constant = constant.detach().to_dense().to("cpu", torch.float64).numpy()
    if isinstance(constant, bool) or not isinstance(constant, (int, float, np.ndarray)):
        raise TypeError(f"a constant is a {type(constant).__name__}")
    values = np.asarray(constant, dtype=np.float64)
    if not np.isfinite(values).all():
        raise ValueError("The net has a weight that is NaN or infinite")
    return values


def vector(constant: Any, width: int) -> Any:
    """Spread a constant over columns."""
    values = array(constant)
    if values.ndim > 1 and values.shape[:-1] == (1,) * (values.ndim - 1):
        values = values.reshape(-1)
    if values.ndim > 1 or values.size not in (1, width):
        raise TypeError(
            f"a constant of shape {values.shape} does not fit {width} columns"
        )
    return np.broadcast_to(values.reshape(-1), width).copy()
