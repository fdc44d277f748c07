"""The steps of a pipeline before the net, rounded as scikit-learn rounds them.

One shift and one scale say the same up to rounding. But where a column's mean is far
from 0, what a scaler rounds to float32 is a large part of the column's deviation, and
the pipeline's values have these very errors. So such rows go through the steps one by
one, in the precision that they come in.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

__all__ = ["MAX_STEPS", "ROW_STEPS", "Steps", "apply_steps", "check_steps", "refused"]

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]
#: The name of a step, and a float64 number for every column.
Steps: TypeAlias = tuple[tuple[str, Array], ...]
MAX_STEPS = 256


def _in_place(function: Any) -> Callable[[Array, Array], None]:
    """Build a step that computes in float64, and rounds to what the rows are."""

    def step(rows: Array, values: Array) -> None:
        function(rows, values, out=rows, casting="same_kind")

    return step


def _rounded(function: Any) -> Callable[[Array, Array], None]:
    """Build a step that rounds its numbers to what the rows are."""

    def step(rows: Array, values: Array) -> None:
        function(rows, values.astype(rows.dtype), out=rows)

    return step


def _fill(rows: Array, values: Array) -> None:
    np.copyto(rows, values, where=np.isnan(rows), casting="same_kind")


ROW_STEPS: dict[str, Callable[[Array, Array], None]] = {
    "fill": _fill,
    "subtract": _in_place(np.subtract),
    "subtract_rounded": _rounded(np.subtract),
    "divide": _in_place(np.divide),
    "divide_rounded": _rounded(np.divide),
    "multiply": _in_place(np.multiply),
    "add": _in_place(np.add),
    "at_least": _rounded(np.maximum),
    "at_most": _rounded(np.minimum),
}


def check_steps(steps: Steps, width: int) -> None:
    """Raise an error for steps that are not known, or do not fit the columns.

    Parameters
    ----------
    steps : tuple of (str, ndarray of shape (width,))
        The steps.
    width : int
        The number of columns that the net uses.

    Raises
    ------
    ValueError
        A rule is broken; the message names the step.
    """
    if len(steps) > MAX_STEPS:
        raise ValueError(f"An input stage has at most {MAX_STEPS} steps.")
    for name, values in steps:
        if name not in ROW_STEPS:
            raise ValueError(
                f"Unknown step {name!r} of the input; known: {', '.join(ROW_STEPS)}."
            )
        with np.errstate(over="ignore"):
            narrow = values.astype(np.float32)
        if values.shape != (width,) or not np.isfinite(narrow).all():
            raise ValueError(
                f"The input's step {name!r} must be {width} finite numbers, in float32 "
                "too."
            )
        if name.startswith("divide") and np.any(narrow == 0):
            raise ValueError("The input must not be divided by 0, in float32 too.")


def refused(steps: Steps) -> bool:
    """Return whether rows with NaN are refused, as none is filled."""
    return all(name != "fill" for name, _ in steps)


def apply_steps(rows: Array, steps: Steps) -> Array:
    """Apply steps to rows, one by one.

    Parameters
    ----------
    rows : ndarray of shape (n_rows, width), float32 or float64
        The rows. They are changed.
    steps : tuple of (str, ndarray of shape (width,))
        The steps.

    Returns
    -------
    rows : ndarray of shape (n_rows, width)
        The same array.

    Examples
    --------
    >>> steps = (("subtract", np.array([1.0])), ("divide", np.array([2.0])))
    >>> apply_steps(np.array([[5.0]]), steps)
    array([[2.]])
    """
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        for name, values in steps:
            ROW_STEPS[name](rows, values)
    return rows
