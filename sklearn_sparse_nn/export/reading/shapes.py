"""Functions that change or read shapes, for values of two dimensions."""

from collections.abc import Callable
from functools import partialmethod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sklearn_sparse_nn.export.steps import Step

__all__ = [
    "LENGTH",
    "attribute",
    "copy",
    "dim",
    "fact",
    "flatten",
    "item",
    "kind",
    "refuse_flat",
    "reshape",
    "same",
    "size",
    "squeeze",
    "to",
    "unsqueeze",
]

LENGTH = 1_299_709  # stands for the number of rows; no width is like it


class _Rows(int):
    """The number of rows, which no net may look at."""

    def _compare(self, name: str, other: Any) -> bool:
        if isinstance(other, _Rows) or (isinstance(other, int) and other < 1):
            return bool(getattr(int, name)(int(self), int(other)))
        raise TypeError("it looks at the number of rows, which may be any.")

    __eq__ = partialmethod(_compare, "__eq__")
    __ne__ = partialmethod(_compare, "__ne__")
    __lt__ = partialmethod(_compare, "__lt__")
    __le__ = partialmethod(_compare, "__le__")
    __gt__ = partialmethod(_compare, "__gt__")
    __ge__ = partialmethod(_compare, "__ge__")
    __hash__ = int.__hash__


ROWS = _Rows(LENGTH)


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
    sizes = tuple(map(int, shape))
    if sizes in ((LENGTH, -1), (LENGTH, x.width), (-1, x.width)):
        return x
    if sizes in ((-1,), (LENGTH,)) and x.width == 1:
        return _flattened(x)
    raise TypeError(f"its shape {sizes} is not plainly the value's own")


def to(x: Any, *wanted: Any, **named: Any) -> Any:
    """Return the value as it is, for float32 on the CPU."""
    named = {k: v for k, v in named.items() if k not in _KEEPING}
    for other in (*wanted, *named.values()):
        if isinstance(other, bool) or other is None:  # non_blocking, copy
            continue
        if isinstance(other, (Step, Tensor, np.ndarray)):
            other = getattr(other, "dtype", torch.float32)
        if other not in _FLOAT32 and str(other) != "cpu":
            raise TypeError(f"it asks for {other}; float32 on the CPU is known")
    return x


def kind(x: Any, *wanted: Any, **named: Any) -> Any:
    """Return the name of the value's type; or the value itself, for float32."""
    return to(x, *wanted, **named) if wanted or named else "torch.FloatTensor"


def size(x: Any, dim: int | None = None) -> Any:
    """Return the number of rows, a placeholder, and of columns."""
    shape = (ROWS,) if _step(x).flat else (ROWS, x.width)
    return shape if dim is None else shape[dim]


def fact(found: Any) -> Callable[..., Any]:
    """Build a function that returns the same for every value."""

    def answer(x: Any, *arguments: Any) -> Any:
        _step(x)
        return found

    return answer


def dim(x: Any) -> int:
    """Return the number of dimensions."""
    return 1 if _step(x).flat else 2


def attribute(x: Any, name: str) -> Any:
    """Return an attribute of a tensor that says what it is."""
    if name == "data":
        return _step(x)
    if name not in _ATTRIBUTES:
        raise TypeError(f"it reads {name!r}")
    return _ATTRIBUTES[name](x)


def _step(x: Any) -> Step:
    if not isinstance(x, Step):
        raise TypeError(f"it is applied to a {type(x).__name__}")
    return x


#: Arguments of `to` that change no value.
_KEEPING = ("non_blocking", "copy", "memory_format")
_FLOAT32 = (torch.float32, "torch.FloatTensor")
_ATTRIBUTES: dict[str, Callable[[Any], Any]] = {
    "shape": size,
    "ndim": dim,
    "dtype": fact(torch.float32),
    "device": fact(torch.device("cpu")),
    "layout": fact(torch.strided),
    **{
        name: fact(False)
        for name in (
            *("is_cuda", "is_meta", "is_mps", "is_quantized", "is_sparse"),
            *("is_sparse_csr", "is_xpu", "requires_grad"),
        )
    },
}


def item(x: Any, index: Any) -> Any:
    """Return the only column."""
    only = ((slice(None), 0), (slice(None), -1))
    if isinstance(x, Step) and x.width == 1 and index in only:
        return squeeze(x, 1)
    raise TypeError("it takes a part of a value")


def copy(x: Step) -> Step:
    """Return a new step with the same values."""
    return Step("activation", [x], x.width, flat=x.flat)


def same(x: Any) -> Any:
    """Return the value as it is."""
    return x
