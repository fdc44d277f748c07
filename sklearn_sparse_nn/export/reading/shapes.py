"""Functions that change or read shapes, for values of two dimensions."""

from typing import Any

import torch

from sklearn_sparse_nn.export.steps import Step

__all__ = [
    "attribute",
    "copy",
    "flatten",
    "item",
    "refuse_flat",
    "reshape",
    "same",
    "size",
    "squeeze",
    "to",
    "unsqueeze",
]

ROWS = "rows"  # stands for the number of rows, which no net may look at


def refuse_flat(*steps: Any) -> None:
    """Raise where a function needs two-dimensional values and has others."""
    for step in steps:
        if not isinstance(step, Step):
            raise TypeError(f"it is applied to a {type(step).__name__}")
        if step.flat:
            raise TypeError("it is applied to a value that is not two-dimensional")


def _flattened(x: Step) -> Step:
    return Step("activation", [x], 1, flat=True, view=True)


def squeeze(x: Any, *dim: Any) -> Any:
    """Drop the second dimension of one column."""
    if dim not in ((1,), (-1,)):
        raise TypeError("only dimension 1 or -1 can be squeezed")
    refuse_flat(x)
    return _flattened(x) if x.width == 1 else x


def unsqueeze(x: Any, dim: int) -> Any:
    """Turn a flat value into one column."""
    if not isinstance(x, Step) or not x.flat or dim not in (1, -1):
        raise TypeError("it makes more than two dimensions")
    return Step("activation", [x], 1, view=True)


def flatten(x: Any, start_dim: int = 0, end_dim: int = -1) -> Any:
    """Return a value of two dimensions as it is, or flatten one column."""
    refuse_flat(x)
    if start_dim in (1, -1) and end_dim in (1, -1):
        return x
    if x.width != 1 or start_dim not in (0, -2) or end_dim not in (1, -1):
        raise TypeError("it mixes rows and columns")
    return _flattened(x)


def reshape(x: Any, *shape: Any) -> Any:
    """Return a value that has the shape already, or flatten one column."""
    if len(shape) == 1 and isinstance(shape[0], (tuple, list)):
        shape = tuple(shape[0])
    refuse_flat(x)
    if shape in ((ROWS, -1), (ROWS, x.width), (-1, x.width)):
        return x
    if shape in ((-1,), (ROWS,)) and x.width == 1:
        return _flattened(x)
    raise TypeError(f"its shape {shape} is not plainly the value's own")


def to(x: Any, dtype: Any) -> Any:
    """Return the value as it is, for float32."""
    if dtype is not torch.float32:
        raise TypeError("only float32 is known")
    return x


def size(x: Any, dim: int | None = None) -> Any:
    """Return the number of rows, a placeholder, and of columns."""
    refuse_flat(x)
    shape = (ROWS, x.width)
    return shape if dim is None else shape[dim]


def attribute(x: Any, name: str) -> Any:
    """Return the shape, the one attribute that is known."""
    if name != "shape":
        raise TypeError(f"it reads {name!r}")
    return size(x)


def item(x: Any, index: Any) -> Any:
    """Return a part of a shape, or the only column."""
    if isinstance(x, tuple):
        return x[index]
    if index in ((slice(None), 0), (slice(None), -1)) and x.width == 1:
        return squeeze(x, 1)
    raise TypeError("it takes a part of a value")


def copy(x: Step) -> Step:
    """Return a new step with the same values."""
    return Step("activation", [x], x.width, flat=x.flat)


def same(x: Any) -> Any:
    """Return the value as it is."""
    return x
