"""The columns of X: their names, and whether they hold numbers.

DataFrames and tables are known by their attributes, so no library of them is loaded.
"""

from collections.abc import Iterator, Sequence
from typing import Any, TypeGuard

import numpy as np
from scipy import sparse

__all__ = ["check_names", "check_numbers", "column_names", "without_masks"]

_TEXT = (
    "dtype='numeric' is not compatible with arrays of bytes/strings."
    "Convert your data to numeric values explicitly instead."
)


def column_names(X: Any) -> list[Any] | None:
    """Return the names of the columns of a DataFrame or a table.

    Parameters
    ----------
    X : object
        Rows: of pandas, polars, pyarrow, or any other kind that has ``columns``,
        ``column_names``, ``schema.names`` or ``__dataframe__``.

    Returns
    -------
    names : list or None
        The names, in order; None for an array, a list or a sparse matrix.
    """
    if isinstance(X, np.ndarray | list | tuple) or sparse.issparse(X):
        return None
    names = getattr(X, "columns", None)
    if hasattr(X, "iloc"):  # other attributes may be columns of that name
        return None if names is None else list(names)
    for other in ("column_names", "schema"):
        found = getattr(X, other, None)
        found = getattr(found, "names", None) if other == "schema" else found
        found = found() if callable(found) else found
        if _are_labels(found):
            return list(found)
    if _are_labels(names):
        return list(names)
    if hasattr(X, "__dataframe__"):
        return list(X.__dataframe__().column_names())
    return None


def _are_labels(found: Any) -> TypeGuard[Sequence[Any]]:
    """Return whether something is a sequence of names, not of columns."""
    return (
        isinstance(found, Sequence | np.ndarray)
        and not isinstance(found, str)
        and all(isinstance(name, str | int | np.integer) for name in found)
    )


def without_masks(X: Any) -> Any:
    """Return a masked array with NaN in place of the masked values.

    Parameters
    ----------
    X : object
        Rows; anything but an array with masked values is returned as it is.

    Returns
    -------
    X : object
    """
    if isinstance(X, np.ma.MaskedArray) and np.ma.is_masked(X):
        copy: Any = X.astype(np.float64)
        return copy.filled(np.nan)
    return X


def check_names(given: Sequence[Any] | None, expected: Sequence[str]) -> None:
    """Check the names of columns, as scikit-learn does.

    Parameters
    ----------
    given : sequence or None
        The names of the columns of X; None where there are none.
    expected : sequence of str
        The names of the columns that a model was made with.

    Raises
    ------
    ValueError
        Names differ, or come in another order.
    TypeError
        Only some names are strings.
    """
    given, expected = list(given or ()), list(expected)
    strings = [isinstance(name, str) for name in given]
    if given == expected or not any(strings):
        return
    if not all(strings):
        kinds = sorted({type(name).__name__ for name in given})
        raise TypeError(
            "Feature names are only supported if all input features have string names, "
            f"but your input has {kinds} as feature name / column name types. If you "
            "want feature names to be stored and validated, you must convert them all "
            "to strings, by using X.columns = X.columns.astype(str) for example. "
            "Otherwise you can remove feature / column names from your input data, or "
            "convert them all to a non-string data type."
        )
    message = "The feature names should match those that were passed during fit.\n"
    unseen = sorted(set(given) - set(expected))
    missing = sorted(set(expected) - set(given))
    for title, found in (
        ("Feature names unseen at fit time", unseen),
        ("Feature names seen at fit time, yet now missing", missing),
    ):
        if found:
            listed = [f"- {name}" for name in found[:5]]
            listed += ["- ..."] if len(found) > 5 else []
            message += "\n".join([f"{title}:", *listed, ""])
    if not unseen and not missing:
        message += "Feature names must be in the same order as they were in fit.\n"
    raise ValueError(message)


def check_numbers(X: Any) -> None:
    """Check that X holds numbers, and nothing that numpy would make numbers of.

    Dates become nanoseconds, and text becomes what it spells, without a word.

    Parameters
    ----------
    X : ndarray, DataFrame, table or sparse matrix
        The rows. A list must be an array already.

    Raises
    ------
    ValueError
        A column has dates, times or text; the message names it.
    TypeError
        A column has other objects that are no numbers.
    """
    if isinstance(X, np.ndarray) or sparse.issparse(X):
        _check_array(X, "")
        return
    for name, column in _suspects(X):
        _check_array(np.asarray(column), f" (column {name!r} of X)")


def _suspects(X: Any) -> Iterator[tuple[Any, Any]]:
    """Yield the columns of a table that may hold something else than numbers."""
    names = column_names(X)
    if names is None:
        return
    if hasattr(X, "iloc"):
        kinds = X.dtypes
        for i, kind in enumerate(kinds if hasattr(kinds, "__iter__") else names):
            if not (isinstance(kind, np.dtype) and kind.kind in "fiub"):
                yield names[i], X.iloc[:, i]
    elif callable(getattr(X, "column", None)):  # pyarrow
        yield from ((name, X.column(i)) for i, name in enumerate(names))
    elif hasattr(X, "__getitem__"):
        yield from ((name, X[name]) for name in names)


def _check_array(array: Any, where: str) -> None:
    """Check the numbers of an array, or of a column."""
    kind = array.dtype.kind
    if kind in "mM":
        raise ValueError(
            f"X must hold numbers; got dtype {array.dtype}{where}. Convert dates and "
            "times to numbers with the unit that you mean."
        )
    if kind in "USTV":
        raise ValueError(f"{_TEXT}{where}")
    if kind == "O":
        flat = array.ravel()
        wrong = tuple(t for t in set(map(type, flat.tolist())) if not _is_number(t))
        if wrong:
            _refuse(next(value for value in flat if isinstance(value, wrong)), where)


def _is_number(kind: type) -> bool:
    """Return whether values of a type are numbers, or stand for missing ones."""
    if issubclass(kind, np.timedelta64 | np.datetime64 | np.ndarray | str | bytes):
        return False
    missing = kind is type(None) or kind.__name__ == "NAType"
    # Complex numbers are refused by their own sentence, later.
    return missing or hasattr(kind, "__float__") or hasattr(kind, "__complex__")


def _refuse(value: Any, where: str) -> None:
    """Raise the error of an object that is no number, in scikit-learn's words."""
    if isinstance(value, str | bytes):
        try:
            float(value)
        except ValueError as error:
            raise ValueError(f"{error}{where}") from None
        raise ValueError(f"{_TEXT}{where}")
    if hasattr(value, "total_seconds") or hasattr(value, "isoformat"):
        kind = f"{type(value).__module__}.{type(value).__name__}"
        raise ValueError(
            f"X must hold numbers; got a {kind}{where}. Convert dates and times to "
            "numbers with the unit that you mean."
        )
    raise TypeError(
        "float() argument must be a string or a real number, not "
        f"{type(value).__name__!r}{where}"
    )
