"""The checks of X, and its conversion to rows of float32."""

import warnings
from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import sparse

from sklearn_sparse_nn.runtime.columns import (
    check_names,
    check_numbers,
    column_names,
    without_masks,
)
from sklearn_sparse_nn.runtime.graph import Csr, Floats, InputStage
from sklearn_sparse_nn.runtime.row_steps import apply_steps, refused

__all__ = [
    "Names",
    "Rows",
    "Table",
    "apply_narrow",
    "check_rows",
    "chunks",
    "is_wide",
    "refuse_nonfinite",
]

#: Rows of X from a user: an array, nested lists, a DataFrame or a sparse matrix.
Table: TypeAlias = npt.ArrayLike | sparse.sparray | sparse.spmatrix
#: An array of any dtype.
Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]
#: Checked rows of X.
Rows: TypeAlias = Array | Csr
#: The names of columns.
Names: TypeAlias = np.ndarray[Any, np.dtype[np.object_]]

_CHUNK_BYTES = 4 * 2**20


def check_rows(X: Table, n_features: int, names: Names | None) -> Rows:
    """Return X as a two-dimensional array or CSR array of real numbers.

    Parameters
    ----------
    X : array-like, sparse matrix or DataFrame of shape (n_rows, n_features)
        The rows; they are never changed.
    n_features : int
        The number of columns that the model expects.
    names : ndarray of str or None
        The names of the columns; those of a DataFrame or a table must be the same.

    Returns
    -------
    X : ndarray or csr_array
        The rows, in any numeric dtype and layout. An array is not copied.

    Raises
    ------
    ValueError
        X has another number of dimensions or columns, other names, complex numbers, or
        text, dates and times. The messages are scikit-learn's, with the column's name.
    TypeError
        X is an ``np.matrix``, or has objects that are no numbers.
    """
    if names is not None:
        given = column_names(X)
        check_names(given, names.tolist())
        if given and not any(isinstance(name, str) for name in given):
            warnings.warn(
                "X does not have valid feature names, but SparseModel was fitted with "
                "feature names",
                stacklevel=3,
            )
    if sparse.issparse(X):
        X = _as_csr(X)
    elif type(X) is not np.ndarray:
        X = _as_array(X)
    if X.dtype.kind == "c":
        raise ValueError(f"Complex data not supported\n{X}\n")
    if X.dtype.kind == "O":
        check_numbers(X)
        X = X.astype(np.float64)
    if X.ndim != 2:
        _refuse_dimensions(X)
    check_numbers(X)
    if X.shape[1] == 0:
        raise ValueError(
            f"Found array with 0 feature(s) (shape={X.shape}) while a minimum of 1 is "
            "required by SparseModel."
        )
    if X.shape[1] != n_features:
        raise ValueError(
            f"X has {X.shape[1]} features, but SparseModel is expecting {n_features} "
            "features as input."
        )
    return X


def _as_csr(X: Csr) -> Csr:
    """Return a sparse matrix as a CSR array; the user's own is not changed."""
    if X.ndim != 2:
        raise ValueError(
            f"Expected 2D input, got input with shape {X.shape}.\nReshape your data "
            "either using array.reshape(-1, 1) if your data has a single feature or "
            "array.reshape(1, -1) if it contains a single sample."
        )
    if X.format in ("csr", "csc"):
        own = (sparse.csr_array if X.format == "csr" else sparse.csc_array)(X)
        own.check_format()  # scipy uses indices without a check
        return sparse.csr_array(own)
    X = X.tocoo()
    for axis, index in enumerate((X.row, X.col)):
        if len(index) and (index.min() < 0 or index.max() >= X.shape[axis]):
            raise ValueError(
                f"X is a sparse matrix of shape {X.shape} with an entry outside of it."
            )
    return sparse.csr_array(X)


def _as_array(X: Table) -> Array:
    """Return a list, a DataFrame or a kind of ndarray as a plain ndarray."""
    if isinstance(X, np.matrix):
        raise TypeError(
            "np.matrix is not supported. Please convert to a numpy array with "
            "np.asarray. For more information see: "
            "https://numpy.org/doc/stable/reference/generated/numpy.matrix.html"
        )
    is_frame = hasattr(X, "iloc")
    if not is_frame:
        check_numbers(X)
    array = np.asarray(without_masks(X))
    if is_frame and array.dtype.kind not in "fiub":  # else all columns are numbers
        check_numbers(X)
    if is_frame:
        if array.ndim == 1:
            raise ValueError(
                f"Expected a 2-dimensional container but got {type(X)} instead. Pass a "
                "DataFrame containing a single row (i.e. single sample) or a single "
                "column (i.e. single feature) instead."
            )
        if array.dtype.kind == "O":  # pandas' own missing values, which are no floats
            frame: Any = X
            array = frame.to_numpy(dtype=np.float64, na_value=np.nan)
    return array


def _refuse_dimensions(X: Rows) -> None:
    """Raise the error of X that has not two dimensions."""
    if X.ndim > 2:
        raise ValueError(
            f"Found array with dim {X.ndim}, while dim <= 2 is required by SparseModel."
        )
    raise ValueError(
        f"Expected 2D array, got {'1D' if X.ndim else 'scalar'} array instead:\narray="
        f"{X}.\nReshape your data either using array.reshape(-1, 1) if your data has a "
        "single feature or array.reshape(1, -1) if it contains a single sample."
    )


def chunks(X: Rows, stage: InputStage) -> Iterator[tuple[int, Floats]]:
    """Yield X in bounded pieces of float32 rows.

    Parameters
    ----------
    X : ndarray or csr_array of shape (n_rows, n_features)
        The rows that `check_rows` has returned.
    stage : InputStage
        The input stage. With ``wide``, it is applied here, in float64, to rows that are
        not float32.

    Yields
    ------
    start : int
        The first row of the piece.
    rows : ndarray of shape (n, n_features), float32, C-contiguous
        The piece. After a wide stage it has only the columns that are used: shape
        (n, width).
    """
    size = max(1, _CHUNK_BYTES // (8 * X.shape[1]))
    wide = is_wide(X, stage)
    for start in range(0, X.shape[0], size):
        rows = X[start : start + size]
        if not isinstance(rows, np.ndarray):
            rows = rows.toarray()
        if wide:
            yield start, apply_wide(rows, stage)
        else:
            with np.errstate(over="ignore"):  # infinity is refused later
                yield start, np.require(rows, np.float32, ["C", "A"])


def is_wide(X: Rows, stage: InputStage) -> bool:
    """Return whether `chunks` applies the input stage to X, in float64."""
    is_float32 = X.dtype.newbyteorder("=") == np.float32
    return bool(stage.steps or (stage.wide and not is_float32))


def apply_wide(rows: Array, stage: InputStage) -> Floats:
    """Fill, shift and scale rows in float64, or step by step; return float32."""
    if stage.steps:
        return _apply_steps(rows, stage)
    refuse_nonfinite(rows, allow_nan=stage.fill is not None)
    rows = np.asarray(rows, dtype=np.float64)
    if stage.columns is not None:
        rows = rows[:, stage.columns]
    if stage.fill is not None:
        rows = np.where(np.isnan(rows), stage.fill, rows)
    if stage.scale is not None:
        rows = (rows - stage.shift) / stage.scale
    with np.errstate(over="ignore"):
        narrow = np.ascontiguousarray(rows, dtype=np.float32)
    refuse_nonfinite(narrow)
    return narrow


def _apply_steps(rows: Array, stage: InputStage) -> Floats:
    """Run the steps of a pipeline in the precision of the rows; return float32."""
    refuse_nonfinite(rows, allow_nan=not refused(stage.steps))
    kind = np.float32 if rows.dtype.newbyteorder("=") == np.float32 else np.float64
    if stage.columns is not None:
        rows = rows[:, stage.columns]
    found = apply_steps(rows.astype(kind, order="C"), stage.steps)
    with np.errstate(over="ignore"):
        narrow = np.ascontiguousarray(found, dtype=np.float32)
    refuse_nonfinite(narrow)
    return narrow


def apply_narrow(rows: Floats, stage: InputStage) -> Floats:
    """Fill, shift and scale rows in float32; return value 0 of the graph."""
    refuse_nonfinite(rows, allow_nan=stage.fill is not None)
    if stage.columns is not None:
        rows = rows[:, stage.columns]
    if stage.fill is not None:
        rows = np.where(np.isnan(rows), stage.fill.astype(np.float32), rows)
    if stage.shift is not None and stage.scale is not None:
        shift, scale = (v.astype(np.float32) for v in (stage.shift, stage.scale))
        rows = (rows - shift) / scale
    return rows


def refuse_nonfinite(X: Array, *, allow_nan: bool = False) -> None:
    """Raise scikit-learn's error if X has NaN or infinite values.

    Parameters
    ----------
    X : ndarray
        The rows, real numbers.
    allow_nan : bool, default=False
        Whether NaN are allowed, because they are filled later.

    Raises
    ------
    ValueError
        ``Input X contains NaN.`` or ``Input X contains infinity ...``.
    """
    if np.isfinite(X).all():
        return
    if np.isnan(X).any() and not allow_nan:
        raise ValueError("Input X contains NaN.")
    if np.isinf(X).any():
        raise ValueError(
            "Input X contains infinity or a value too large for dtype('float32')."
        )
