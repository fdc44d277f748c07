"""Columns of X that are no numbers, or not those of the fit, in every kind of table.

The estimators and the sparse model refuse the same.
"""

from datetime import date, datetime, time, timedelta

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from scipy import sparse

from sklearn_sparse_nn import PrunedRegressor, TabularNetRegressor
from sklearn_sparse_nn.runtime.columns import column_names

X = np.random.default_rng(0).normal(size=(12, 2)).astype(np.float32)
NET = TabularNetRegressor((3,), max_epochs=1, random_state=0)
FITTED = TabularNetRegressor((3,), max_epochs=1, random_state=0).fit(
    pd.DataFrame(X, columns=["a", "b"]), X[:, 0]
)


@pytest.fixture(scope="module", params=["estimator", "pruner", "model"])
def predict(request):
    rows = pd.DataFrame(X, columns=["a", "b"])
    if request.param == "estimator":
        return FITTED.predict
    pruner = PrunedRegressor(
        NET, sparsity=0.3, prune_epochs=1, n_steps=1, random_state=0
    )
    pruner.fit(rows, X[:, 0])
    return pruner.predict if request.param == "pruner" else pruner.export().predict


class Protocol:
    """A table of a library that nobody here knows."""

    def __init__(self, names):
        self.names = names

    def __dataframe__(self):
        return self

    def column_names(self):
        return iter(self.names)

    def __array__(self, dtype=None, copy=None):
        return X.astype(dtype or X.dtype)


class Columns:
    def __init__(self, names):
        self.columns = tuple(names)

    def __array__(self, dtype=None, copy=None):
        return X.astype(dtype or X.dtype)

    def __getitem__(self, name):
        return X[:, self.columns.index(name)]


TABLES = {
    "pandas": lambda names: pd.DataFrame(X, columns=names),
    "polars": lambda names: pl.DataFrame(X, schema=names),
    "pyarrow": lambda names: pa.table(dict(zip(names, X.T, strict=True))),
    "batch": lambda names: TABLES["pyarrow"](names).to_batches()[0],
    "columns": Columns,
}


@pytest.mark.filterwarnings("ignore:X does not have valid feature names")
@pytest.mark.parametrize("kind", TABLES)
@pytest.mark.parametrize("names", [["b", "a"], ["x", "y"], ["a", "x"]])
def test_names_are_compared_in_every_kind_of_table(predict, kind, names):
    with pytest.raises(ValueError, match="feature names should match"):
        predict(TABLES[kind](names))
    assert (
        predict(TABLES[kind](["a", "b"])).tolist()
        == predict(TABLES["pandas"](["a", "b"])).tolist()
    )


@pytest.mark.parametrize(
    ("table", "names"),
    [
        (Protocol("ab"), ["a", "b"]),
        (pd.DataFrame({"columns": [1], "schema": [2], "column_names": [3]}), None),
        (pa.table({"schema": [1], "columns": [2]}), ["schema", "columns"]),
        (pd.Series([1.0]), False),
        (X, False),
        ([[1, 2]], False),
        (sparse.eye(2), False),
        ("text", False),
    ],
    ids=lambda x: type(x).__name__,
)
def test_names_are_found(table, names):
    expected = list(table.columns) if names is None else names or None
    assert column_names(table) == expected


@pytest.mark.parametrize("kind", ["pyarrow", "batch", "polars", "columns"])
def test_names_are_learned_from_every_kind_of_table(kind):
    net = TabularNetRegressor((3,), max_epochs=1).fit(TABLES[kind](["a", "b"]), X[:, 0])
    assert net.feature_names_in_.tolist() == ["a", "b"]


MOMENT = datetime(2020, 1, 1)
OTHER = {
    "datetimes": [MOMENT] * 12,
    "dates": [date(2020, 1, 1)] * 12,
    "times": [time(1)] * 12,
    "durations": [timedelta(1)] * 12,
    "text": ["x"] * 12,
    "numbers as text": ["1.5"] * 12,
    "missing datetimes": [MOMENT, None] * 6,
    "lists": [[1.0]] * 12,
    "bytes": [b"1"] * 12,
}


@pytest.mark.filterwarnings("ignore:X does not have valid feature names")
@pytest.mark.parametrize("other", OTHER)
@pytest.mark.parametrize("kind", ["pandas", "polars", "pyarrow", "batch"])
def test_what_is_no_number_is_refused_by_the_name_of_its_column(predict, kind, other):
    columns = {"a": X[:, 0], "b": OTHER[other]}
    table = {
        "pandas": pd.DataFrame,
        "polars": pl.DataFrame,
        "pyarrow": pa.table,
        "batch": lambda columns: pa.table(columns).to_batches()[0],
    }[kind](columns)
    with pytest.raises((ValueError, TypeError), match=r"\(column 'b' of X\)"):
        predict(table)
    with pytest.raises((ValueError, TypeError), match=r"\(column 'b' of X\)"):
        NET.fit(table, X[:, 0])


def frame(column):
    return pd.DataFrame({"a": X[:, 0], "b": column})


@pytest.mark.parametrize(
    "column",
    [
        pd.Series([MOMENT] * 12).dt.tz_localize("UTC"),
        pd.Series([MOMENT] * 12).dt.to_period("D"),
        pd.Series([timedelta(1)] * 12, dtype="duration[ns][pyarrow]"),
        pd.Series([MOMENT] * 12, dtype="timestamp[ns][pyarrow]"),
        pd.Series(["u", "v"] * 6, dtype="category"),
        pd.Series(["1"] * 12, dtype="string"),
        pd.Series([np.timedelta64(1, "s"), 1.0] * 6, dtype=object),
        pd.interval_range(0, 12),
    ],
    ids=lambda column: str(column.dtype),
)
def test_pandas_own_types_are_no_numbers_either(predict, column):
    with pytest.raises((ValueError, TypeError), match=r"\(column 'b' of X\)"):
        predict(frame(column))


@pytest.mark.parametrize("dtype", ["M8[ns]", "m8[s]", "U9", "S9", "object"])
@pytest.mark.parametrize("listed", [False, True])
def test_arrays_and_lists_of_something_else_are_refused(predict, dtype, listed):
    rows = (X * 100).astype(int).astype("U9" if dtype == "object" else dtype)
    rows = rows.astype(object) if dtype == "object" else rows
    rows = rows.tolist() if listed and dtype not in ("M8[ns]",) else rows
    with pytest.raises(ValueError, match=r"must hold numbers|dtype='numeric'"):
        predict(rows)


@pytest.mark.filterwarnings("ignore:X does not have valid feature names")
@pytest.mark.filterwarnings("ignore:pandas.DataFrame with sparse columns")
@pytest.mark.parametrize(
    "make",
    [
        lambda: X.astype(">f4"),
        lambda: X.astype(">f8"),
        lambda: X[::-1].copy()[::-1],
        lambda: X[:, ::-1].copy()[:, ::-1],
        lambda: X.astype(object),
        lambda: np.ma.array(X),
        lambda: frame(X[:, 1]).astype("Float32"),
        lambda: frame(X[:, 1]).astype("float[pyarrow]"),
        lambda: frame(pd.arrays.SparseArray(X[:, 1])),
    ],
)
def test_numbers_of_any_layout_and_type_give_the_same_bits(predict, make):
    assert predict(make()).tobytes() == predict(frame(X[:, 1])).tobytes()


@pytest.mark.filterwarnings("ignore:X does not have valid feature names")
def test_masked_values_are_missing_ones(predict):
    rows = np.ma.array(X, mask=X[3, 1] == X)
    with pytest.raises(ValueError, match="contains NaN"):
        predict(rows)
    assert rows.data is not None
    assert (rows.mask == (X[3, 1] == X)).all()
