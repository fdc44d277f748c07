"""What may be X, and what a person sees who passes something else.

The sentences are compared with those of scikit-learn, asked in the name of SparseModel.
"""

import warnings
from decimal import Decimal

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from scipy import sparse
from sklearn.base import BaseEstimator
from sklearn.utils.validation import validate_data

from sklearn_sparse_nn.runtime import SparseModel
from sklearn_sparse_nn.runtime.graph import Graph, InputStage, Linear
from tests.runtime.file.file_models import weight

N = 4
NAMES = ["a", "b", "c", "d"]


def make(**kwargs):
    rng = np.random.default_rng(0)
    stage = InputStage(N, **kwargs)
    layer = Linear(0, weight(rng, 3, N, 0.7), rng.normal(size=3))
    return SparseModel(Graph(stage, (layer,)), feature_names=NAMES)


MODEL = make()
X = np.arange(20, dtype=np.float32).reshape(5, N) % 7 - 3


class Peer(BaseEstimator):
    """How scikit-learn answers, in the name of another estimator."""

    def fit(self):
        return validate_data(self, pd.DataFrame(X, columns=NAMES), reset=True)

    def predict(self, rows, dtype):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # rows without names
            return validate_data(
                self,
                rows,
                reset=False,
                dtype=dtype,
                accept_sparse=True,
                ensure_min_samples=0,
            )


Peer.__name__ = "SparseModel"


def answer_of(function):
    """Give the type and text of the error."""
    try:
        function()
    except Exception as error:
        return type(error), str(error)
    raise AssertionError("no error")


def cell(value, at=(1, 2), dtype=np.float64):
    changed = X.astype(dtype)
    changed[at] = value
    return changed


REFUSED = {
    "1-D": np.ones(4),
    "scalar": np.float64(3.0),
    "3-D": np.ones((2, 4, 1)),
    "a list, 1-D": [1, 2, 3, 4],
    "a Series": pd.Series([1.0, 2.0]),
    "no columns": np.ones((3, 0)),
    "fewer columns": np.ones((3, 3)),
    "more columns": np.ones((3, 5)),
    "one column": np.ones((1, 1)),
    "sparse, fewer columns": sparse.csr_array(np.eye(3)),
    "sparse, 1-D": sparse.coo_array(np.ones(4)),
    "complex": np.ones((1, 4)) + 1j,
    "sparse, complex": sparse.csr_array(np.eye(4) * 1j),
    "matrix": np.ones((1, 4)).view(np.matrix),
    "strings": np.array([["a", "b", "c", "d"]]),
    "numeric strings": np.array([["1", "2", "3", "4"]]),
    "bytes": np.array([[b"1", b"2", b"3", b"4"]]),
    "objects": np.array([[1, 2, 3, "x"]], dtype=object),
    "dicts": np.array([[1, 2, 3, {}]], dtype=object),
    "a ragged list": [[1, 2, 3, 4], [1, 2]],
    "renamed": pd.DataFrame(X, columns=["a", "b", "c", "z"]),
    "renamed, all": pd.DataFrame(X, columns=["z", "y", "x", "w"]),
    "another order": pd.DataFrame(X[:, ::-1], columns=NAMES[::-1]),
    "one missing": pd.DataFrame(X[:, :3], columns=NAMES[:3]),
    "many more": pd.DataFrame(np.ones((1, 12)), columns=list("abcdefghijkl")),
    "polars, renamed": pl.DataFrame(X, schema=["a", "b", "c", "z"]),
    "pyarrow, renamed": pa.table(dict(zip("abcz", X.T, strict=True))),
    "pyarrow, another order": pa.table(dict(zip("dcba", X.T, strict=True))),
    "names of two kinds": pd.DataFrame(X, columns=["a", "b", "c", 3]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_is_refused_in_scikit_learns_words(name):
    rows = REFUSED[name]
    peer = Peer()
    peer.fit()
    theirs = answer_of(lambda: peer.predict(rows, "numeric"))
    assert answer_of(lambda: MODEL.predict(rows)) == theirs
    assert answer_of(lambda: MODEL.transform(rows)) == theirs


def test_text_in_a_frame_is_scikit_learns_sentence_and_the_column():
    rows = pd.DataFrame([[1, 2, 3, "x"]], columns=NAMES)
    peer = Peer()
    peer.fit()
    kind, theirs = answer_of(lambda: peer.predict(rows, "numeric"))
    expected = kind, f"{theirs} (column 'd' of X)"
    assert answer_of(lambda: MODEL.predict(rows)) == expected
    assert answer_of(lambda: MODEL.transform(rows)) == expected


NOT_FINITE = {
    "NaN": cell(np.nan),
    "NaN, float32": cell(np.nan, dtype=np.float32),
    "NaN, first": cell(np.nan, (0, 0)),
    "NaN, last": cell(np.nan, (4, 3)),
    "inf": cell(np.inf),
    "-inf, float32": cell(-np.inf, dtype=np.float32),
    "too large": cell(1e39),
    "too small": cell(-1e300),
    "NaN and inf": np.array([[np.nan, np.inf, 0, 0]]),
    "float16": cell(np.inf, dtype=np.float16),
    "a list": [[1.0, 2.0, float("nan"), 3.0]],
    "None": [[1.0, 2.0, None, 3.0]],
    "a frame": pd.DataFrame(cell(np.nan), columns=NAMES),
    "pandas' NA": pd.DataFrame({n: pd.array([1, None], "Int64") for n in NAMES}),
    "polars' null": pl.DataFrame({n: [1, None] for n in NAMES}),
    "sparse": sparse.csr_array(cell(np.nan)),
    "sparse, too large": sparse.coo_array(cell(1e39)),
    "Fortran": np.asfortranarray(cell(np.inf)),
}


@pytest.mark.parametrize("name", NOT_FINITE)
def test_what_is_not_finite_is_refused_in_scikit_learns_words(name):
    rows = NOT_FINITE[name]
    peer = Peer()
    peer.fit()
    kind, theirs = answer_of(lambda: peer.predict(rows, np.float32))
    theirs = theirs.split("\n")[0]  # then it advises other estimators
    assert answer_of(lambda: MODEL.predict(rows)) == (kind, theirs)


def test_dates_are_no_numbers():
    with pytest.raises(ValueError, match="must hold numbers; got dtype datetime64"):
        MODEL.predict(np.zeros((1, 4), dtype="datetime64[D]"))


def test_broken_sparse_rows_are_refused_before_scipy_follows_them():
    for kind in (sparse.csr_array, sparse.csc_matrix):
        broken = kind(np.eye(4))
        broken.indices = np.array([0, 1, 2, 400_000_000], dtype=broken.indices.dtype)
        with pytest.raises(ValueError, match="ind"):
            MODEL.predict(broken)
    pairs = sparse.coo_array(np.eye(4))
    pairs.coords[1][3] = 400_000_000
    blocks = sparse.bsr_array(np.eye(4), blocksize=(2, 2))
    blocks.indices[1] = 400_000
    for broken in (pairs, blocks):
        with pytest.raises(ValueError, match=r"outside|exceeds"):
            MODEL.predict(broken)


def memory_mapped(path):
    mapped = np.memmap(path, dtype=np.float32, mode="w+", shape=X.shape)
    mapped[...] = X
    mapped.flush()
    return np.memmap(path, dtype=np.float32, mode="r", shape=X.shape)


def read_only():
    rows = X.copy()
    rows.setflags(write=False)
    return rows


def unaligned():
    raw = np.zeros(X.nbytes + 1, dtype=np.uint8)
    rows = raw[1:].view(np.float32).reshape(X.shape)
    rows[...] = X
    assert not rows.flags.aligned
    return rows


def doubled():
    """Every number as two entries of one place, and one explicit zero."""
    i, j = np.indices(X.shape).reshape(2, -1)
    i, j = np.r_[i, i, 0], np.r_[j, j, 0]
    return sparse.coo_array((np.r_[X.ravel() - 1, np.ones(X.size), 0], (i, j)), X.shape)


ACCEPTED = {
    "float32": lambda: X,
    "float64": lambda: X.astype(np.float64),
    "float16": lambda: X.astype(np.float16),
    "longdouble": lambda: X.astype(np.longdouble),
    "int64": lambda: X.astype(np.int64),
    "int8": lambda: X.astype(np.int8),
    "objects": lambda: X.astype(object),
    "other byte order": lambda: X.astype(">f4"),
    "other byte order, wide": lambda: X.astype(">f8"),
    "a list": lambda: X.tolist(),
    "a tuple": lambda: tuple(map(tuple, X.tolist())),
    "Fortran": lambda: np.asfortranarray(X),
    "Fortran, float64": lambda: np.asfortranarray(X, dtype=np.float64),
    "strided rows": lambda: np.repeat(X, 2, axis=0)[::2],
    "strided columns": lambda: np.repeat(X, 2, axis=1)[:, ::2],
    "reversed": lambda: X[::-1, ::-1].copy()[::-1, ::-1],
    "broadcast": lambda: np.broadcast_to(X, (2, *X.shape))[1],
    "unaligned": unaligned,
    "read-only": read_only,
    "masked": lambda: np.ma.array(X),
    "pandas": lambda: pd.DataFrame(X, columns=NAMES),
    "pandas, mixed": lambda: pd.DataFrame(X, columns=NAMES).astype({"a": int}),
    "pandas, nullable": lambda: pd.DataFrame(X, columns=NAMES).astype("Float32"),
    "pandas, no names": lambda: pd.DataFrame(X),
    "polars": lambda: pl.DataFrame(X, schema=NAMES),
    "pyarrow": lambda: pa.table(dict(zip(NAMES, X.T, strict=True))),
    "pyarrow, a batch": lambda: ACCEPTED["pyarrow"]().to_batches()[0],
    "pyarrow in pandas": lambda: pd.DataFrame(X, columns=NAMES).astype(
        "float[pyarrow]"
    ),
    "decimals": lambda: pd.DataFrame(X, columns=NAMES).map(lambda x: Decimal(float(x))),
    "csr": lambda: sparse.csr_array(X),
    "csc": lambda: sparse.csc_array(X),
    "coo": lambda: sparse.coo_array(X),
    "csr matrix": lambda: sparse.csr_matrix(X),
    "csc matrix": lambda: sparse.csc_matrix(X),
    "coo matrix": lambda: sparse.coo_matrix(X),
    "lil": lambda: sparse.lil_array(X),
    "dok": lambda: sparse.dok_array(X),
    "sparse ints": lambda: sparse.csr_array(X.astype(int)),
    "doubled": doubled,
    "csr, unsorted": lambda: sparse.csr_array(X)[:, ::-1][:, ::-1],
}


@pytest.mark.filterwarnings("ignore:X does not have valid feature names")
@pytest.mark.parametrize("name", [*ACCEPTED, "memory-mapped"])
@pytest.mark.parametrize("wide", [False, True])
def test_what_is_accepted_gives_the_same_bits_and_is_not_changed(name, wide, tmp_path):
    model = make(shift=np.ones(4), scale=[1, 2, 4, 8], wide=wide)
    if name == "memory-mapped":
        rows = memory_mapped(tmp_path / "X")
    else:
        rows = ACCEPTED[name]()
    before = repr(rows)
    parts = ("data", "indices", "indptr")
    held = [getattr(rows, p).copy() for p in parts if sparse.issparse(rows)
            and rows.format in ("csr", "csc")]  # fmt: skip
    assert model.forward(rows).tobytes() == model.forward(X).tobytes()
    assert (model.transform(rows) != model.transform(X)).nnz == 0
    assert repr(rows) == before
    for part, old in zip(parts, held, strict=False):
        assert getattr(rows, part).tobytes() == old.tobytes()


def test_bools_are_zeros_and_ones():
    rows = X > 0
    assert (MODEL.predict(rows) == MODEL.predict(rows.astype(np.float32))).all()


@pytest.mark.parametrize("kind", [np.array, sparse.csr_array, sparse.coo_matrix])
def test_no_rows_give_no_rows(kind):
    rows = kind(np.zeros((0, 4)))
    assert MODEL.predict(rows).shape == (0, 3)
    assert MODEL.forward(rows).shape == (0, 3)
    assert MODEL.transform(rows).shape == (0, 4)


def test_a_stage_that_fills_takes_nan_but_not_infinity():
    model = make(fill=[1, 2, 3, 4])
    filled = model.forward([[np.nan] * 4])
    assert (filled == model.forward([[1, 2, 3, 4]])).all()
    with pytest.raises(ValueError, match="Input X contains infinity"):
        model.forward([[np.nan, np.inf, 0, 0]])


def test_sparse_rows_are_densified_in_pieces():
    n = 50_000
    rng = np.random.default_rng(0)
    layer = Linear(0, weight(rng, 2, n, 0.001), [0, 0])
    model = SparseModel(Graph(InputStage(n), (layer,)))
    rows = sparse.random_array((60, n), density=0.01, rng=rng, format="csr")
    expected = np.vstack([model.forward(rows[[i]].toarray()) for i in range(60)])
    import tracemalloc

    tracemalloc.start()
    found = model.forward(rows)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert peak < 60 * n * 4  # less than all rows in float32
