"""What the kernels read and write: rows of any kind, checked, never changed."""

import os
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import sparse, special

from sklearn_sparse_nn.runtime import SparseModel
from sklearn_sparse_nn.runtime.engine import KernelEngine
from sklearn_sparse_nn.runtime.graph import (
    Activation,
    Affine,
    Graph,
    InputStage,
    LayerNorm,
    Linear,
    Softmax,
)
from tests.runtime.graphs import (
    BATCHES,
    make_weight,
    nets,
    rows_for,
    wide_weight,
)

N = 37
NAN = r"^Input X contains NaN\.$"
INF = r"^Input X contains infinity or a value too large for dtype\('float32'\)\.$"


def make_graph(density=0.3, **stage):
    rng = np.random.default_rng(0)
    stage = InputStage(N, **stage)
    layers = (
        Linear(0, make_weight(rng, 20, stage.width, density), rng.normal(size=20)),
        Linear(1, make_weight(rng, 3, 20, density), rng.normal(size=3)),
    )
    return Graph(stage, layers)


def fortran(X):
    return np.asfortranarray(X)


def framed(X):
    return pd.DataFrame(X)


def strided(X):
    wide = np.zeros((2 * X.shape[0], 3 * X.shape[1]), dtype=X.dtype)
    wide[::2, ::3] = X
    return wide[::2, ::3]


def backwards(X):
    return X[::-1, ::-1].copy()[::-1, ::-1]


def read_only(X):
    X = X.copy()
    X.setflags(write=False)
    return X


def unaligned(X):
    raw = np.zeros(X.nbytes + 1, dtype=np.uint8)[1:]
    view = raw.view(X.dtype).reshape(X.shape)
    view[...] = X
    assert not view.flags.aligned or not X.size
    return view


def swapped(X):
    return X.astype(X.dtype.newbyteorder())


LAYOUTS = {
    "list": lambda X: X.tolist() if len(X) else X,
    "Fortran": fortran,
    "strided": strided,
    "backwards": backwards,
    "read-only": read_only,
    "unaligned": unaligned,
    "other byte order": swapped,
    "frame": framed,
    "csr": sparse.csr_array,
    "csc": sparse.csc_array,
    "coo": sparse.coo_matrix,
    "longdouble": lambda X: X.astype(np.longdouble),
}


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(
    nets(), st.sampled_from(BATCHES), st.sampled_from(sorted(LAYOUTS)), st.booleans()
)
def test_every_layout_gives_the_same_bits_and_is_not_changed(graph, n, layout, double):
    X = rows_for(graph, n)
    rows = LAYOUTS[layout](X.astype(np.float64) if double else X)
    dtype = getattr(rows, "dtype", None) or np.asarray(rows).dtype
    # A wide stage computes in float64 what is not float32, in any order of bytes.
    wide = graph.stage.wide and dtype.newbyteorder("=") != np.float32
    expected = SparseModel(graph).forward(X.astype(np.float64) if wide else X)
    before = repr(rows)
    found = SparseModel(graph).forward(rows)
    assert found.tobytes() == expected.tobytes()
    assert repr(rows) == before


@pytest.mark.parametrize("n", BATCHES)
@pytest.mark.parametrize("n_threads", [1, 2])
def test_rows_that_cannot_be_written_are_enough(n, n_threads, tmp_path):
    model = SparseModel(make_graph(), n_threads=n_threads)
    X = rows_for(model.graph, n)
    mapped = X
    if n:
        X.tofile(tmp_path / "X")
        mapped = np.memmap(tmp_path / "X", dtype=np.float32, mode="r", shape=X.shape)
    expected = model.forward(X.copy()).tobytes()
    assert model.forward(mapped).tobytes() == expected
    assert model.forward(read_only(X)).tobytes() == expected
    assert model.forward(np.asarray(mapped)).tobytes() == expected


def direct(model, X):
    return model.forward(X)


PATHS = {
    "direct": direct,
    "two threads": lambda model, X: model.with_threads(2).forward(X),
    "rows in chunks": lambda model, X: model.forward(np.asfortranarray(X)),
    "float64": lambda model, X: model.forward(X.astype(np.float64)),
    "sparse": lambda model, X: model.forward(sparse.csr_array(X)),
    "out": lambda model, X: model.forward(X, np.zeros((len(X), 3), np.float32)),
    "predict": lambda model, X: model.predict(X),
    "transform": lambda model, X: model.transform(X),
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("n", [1, 2, 8, 9, 17, 33, 64, 65, 130])
def test_a_bad_value_anywhere_is_refused(path, n):
    model = SparseModel(make_graph())
    X = rows_for(model.graph, n)
    rng = np.random.default_rng(n)
    places = [(0, 0), (n - 1, N - 1), (0, N - 1), (n - 1, 0), (n // 2, 16)]
    places += [(rng.integers(n), rng.integers(N)) for _ in range(10)]
    for place in places:
        for value, message in ((np.nan, NAN), (np.inf, INF), (-np.inf, INF)):
            bad = X.copy()
            bad[place] = value
            with pytest.raises(ValueError, match=message):
                PATHS[path](model, bad)
    PATHS[path](model, X)


@pytest.mark.parametrize("n", [1, 9, 64])
def test_a_bad_value_in_every_place_is_refused(n):
    model = SparseModel(make_graph())
    X = rows_for(model.graph, n)
    out = np.empty((n, 3), dtype=np.float32)
    for i in range(n):
        for j in range(N):
            old, X[i, j] = X[i, j], np.nan
            with pytest.raises(ValueError, match=NAN):
                model.forward(X, out)
            X[i, j] = old


@pytest.mark.parametrize("path", [p for p in PATHS if p != "transform"])
@pytest.mark.parametrize("wide", [False, True])
def test_a_bad_value_in_a_column_that_is_not_used_is_refused(path, wide):
    model = SparseModel(make_graph(columns=[1, 3, 30], wide=wide))
    for n in (1, 9, 64, 70):
        X = rows_for(model.graph, n)
        for column in (0, 2, 36):
            for value, message in ((np.nan, NAN), (np.inf, INF)):
                bad = X.copy()
                bad[n // 2, column] = value
                with pytest.raises(ValueError, match=message):
                    PATHS[path](model, bad)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("wide", [False, True])
def test_a_stage_that_fills_takes_nan_and_refuses_infinity(path, wide):
    fill = np.linspace(-1, 1, N)
    model = SparseModel(make_graph(fill=fill, wide=wide))
    for n in (1, 9, 64, 70):
        X = rows_for(model.graph, n)
        filled = np.where(np.isnan(X), fill.astype(np.float32), X)
        found, expected = PATHS[path](model, X), PATHS[path](model, filled)
        if path == "transform":
            found, expected = found.toarray(), expected.toarray()
        assert np.isfinite(found).all()
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
        X[n // 2, 5] = -np.inf
        with pytest.raises(ValueError, match=INF):
            PATHS[path](model, X)


def test_the_largest_numbers_are_no_infinity():
    model = SparseModel(make_graph())
    most = np.finfo(np.float32).max
    X = np.full((65, N), most, dtype=np.float32)
    X[:, ::2] = -most
    with np.errstate(all="ignore"):
        assert model.forward(X).shape == (65, 3)
        assert model.forward(X[:1]).shape == (1, 3)
    tiny = np.full((65, N), 1e-45, dtype=np.float32)
    assert np.isfinite(model.forward(tiny)).all()


@pytest.mark.parametrize("n", BATCHES)
@pytest.mark.parametrize("n_threads", [1, 2])
def test_out_is_written_to_and_nothing_beside_it(n, n_threads):
    model = SparseModel(make_graph(), n_threads=n_threads)
    X = rows_for(model.graph, n)
    frame = np.full((n + 2, 3), 7.0, dtype=np.float32)
    found = model.forward(X, frame[1:-1])
    assert np.shares_memory(found, frame) or not n
    assert (frame[0] == 7).all()
    assert (frame[-1] == 7).all()
    assert frame[1:-1].tobytes() == model.forward(X).tobytes()


def test_an_out_that_overlaps_the_rows_is_written_from_a_copy_of_them():
    weight = sparse.csr_array(np.eye(4, dtype=np.float32)[::-1])
    model = SparseModel(Graph(InputStage(4), (Linear(0, weight, np.zeros(4)),)))
    memory = np.arange(4 * 131, dtype=np.float32).reshape(131, 4)
    expected = model.forward(memory[:-1].copy())
    np.testing.assert_array_equal(model.forward(memory[:-1], memory[1:]), expected)


@pytest.mark.parametrize("name", ["target_mean", "target_scale"])
def test_units_are_finite(name):
    with pytest.raises(ValueError, match="target_mean and target_scale must be finite"):
        SparseModel(make_graph(), **{name: np.nan})


@pytest.mark.parametrize("output", ["softmax", "identity"])
def test_outputs_without_a_class_may_dominate(output):
    weight = sparse.csr_array((3, 2), dtype=np.float32)
    bias = [1.0, 2.0, 500.0] if output == "softmax" else [0.0, 0.0, 1.0]
    graph = Graph(InputStage(2), (Linear(0, weight, bias),))
    model = SparseModel(graph, output=output, classes=["a", "b"])
    expected = special.softmax(bias[:2]) if output == "softmax" else [0.5, 0.5]
    np.testing.assert_allclose(model.predict_proba([[0.0, 0.0]])[0], expected, 1e-6)


def test_a_layer_that_is_used_twice_is_listed_twice():
    weight = sparse.csr_array(np.eye(2, dtype=np.float32))
    layers = [Linear(i, weight, np.zeros(2), name="shared") for i in range(3)]
    model = SparseModel(Graph(InputStage(2), tuple(layers)))
    assert list(model.weights) == ["shared", "shared_2", "shared_3"]


def locked():
    out = np.zeros((5, 3), dtype=np.float32)
    out.setflags(write=False)
    return out


@pytest.mark.parametrize(
    "out",
    [
        np.zeros((4, 3), dtype=np.float32),
        np.zeros((5, 2), dtype=np.float32),
        np.zeros(15, dtype=np.float32),
        np.zeros((5, 3)),
        np.zeros((5, 3), dtype=">f4"),
        np.zeros((3, 5), dtype=np.float32).T,
        np.zeros((5, 6), dtype=np.float32)[:, ::2],
        locked(),
        [[0.0] * 3] * 5,
    ],
)
def test_an_out_that_does_not_fit_is_refused(out):
    model = SparseModel(make_graph())
    with pytest.raises(ValueError, match="out must be a writeable, C-contiguous"):
        model.forward(rows_for(model.graph, 5), out)


def test_inputs_are_never_written_to():
    """Not even in place of padding: the memory around stays as it was."""
    graph = make_graph(shift=np.ones(N), scale=np.full(N, 2.0), fill=np.zeros(N))
    frame = rows_for(graph, 132)
    before = frame.tobytes()
    model = SparseModel(graph, n_threads=2)
    for n in BATCHES:
        model.forward(frame[1 : n + 1])
    assert frame.tobytes() == before


def test_many_columns_that_are_hardly_used():
    rng = np.random.default_rng(0)
    columns = np.sort(rng.choice(100_000, 50, replace=False))
    layer = Linear(0, make_weight(rng, 4, 50, 0.5), np.zeros(4))
    model = SparseModel(Graph(InputStage(100_000, columns), (layer,)))
    X = rng.normal(size=(20, 100_000)).astype(np.float32)
    narrow = SparseModel(Graph(InputStage(50), (layer,)))
    expected = narrow.forward(np.ascontiguousarray(X[:, columns]))
    assert model.forward(X).tobytes() == expected.tobytes()


def test_no_columns_at_all_give_the_bias():
    empty = sparse.csr_array((3, 0), dtype=np.float32)
    graph = Graph(
        InputStage(4, columns=np.zeros(0, int)), (Linear(0, empty, [1, 2, 3]),)
    )
    model = SparseModel(graph)
    for n in BATCHES:
        found = model.forward(np.ones((n, 4), dtype=np.float32))
        assert found.shape == (n, 3)
        assert (found == [1, 2, 3]).all()


def test_the_input_alone_may_be_the_net():
    X = rows_for(make_graph(), 70)
    scale, shift = np.arange(N), np.ones(N)
    for op, expected in (
        (Affine(0, scale, shift), X * scale.astype(np.float32) + np.float32(1)),
        (Affine(0, np.ones(N), np.zeros(N), Activation("relu")), np.maximum(X, 0)),
    ):
        model = SparseModel(Graph(InputStage(N), (op,)))
        for n in (1, 8, 33, 70):
            assert (model.forward(X[:n]) == expected[:n]).all()


def test_a_norm_of_equal_numbers_is_its_bias():
    norm = LayerNorm(0, np.full(5, 3.0), np.arange(5), eps=1e-5)
    model = SparseModel(Graph(InputStage(5), (norm,)))
    for n in (1, 5, 64):
        X = np.full((n, 5), 1e6, dtype=np.float32)
        assert (model.forward(X) == np.arange(5)).all()


@pytest.mark.parametrize("log", [False, True])
def test_softmax_of_large_numbers_stays_finite(log):
    model = SparseModel(Graph(InputStage(3), (Softmax(0, log),)))
    X = np.array([[1e38, -1e38, 0], [-1e38] * 3, [1e4, 1e4 - 1, 0]], dtype=np.float32)
    for rows in (X, np.tile(X, (22, 1))):
        found = model.forward(rows)[:3]
        with np.errstate(over="ignore"):
            proba = np.exp(found) if log else found
        np.testing.assert_allclose(proba.sum(axis=1), 1, rtol=1e-6)
        np.testing.assert_allclose(proba[1], 1 / 3, rtol=1e-6)
        assert proba[0].tolist() == [1, 0, 0]


def test_a_very_wide_last_layer():
    rng = np.random.default_rng(0)
    weight = sparse.csr_array(wide_weight(rng, 8, 70_000, 30).T)
    weight.sort_indices()
    graph = Graph(InputStage(8), (Linear(0, weight, np.zeros(70_000)),))
    X = rows_for(graph, 65)
    expected = (weight @ X.T).T
    model = SparseModel(graph)
    for n in (1, 9, 33, 65):
        found = model.forward(X[:n])
        np.testing.assert_allclose(found, expected[:n], rtol=1e-5, atol=1e-5)
        assert found[:1].tobytes() == model.forward(X[:1]).tobytes()


@pytest.mark.skipif(
    os.environ.get("NUMBA_BOUNDSCHECK") != "1", reason="needs NUMBA_BOUNDSCHECK=1"
)
def test_an_index_out_of_bounds_is_seen():
    """So the mode does check; without it this would read foreign memory."""
    engine = KernelEngine(make_graph(columns=[1, 3, 30]))
    X, out = np.ones((5, N), np.float32), np.zeros((5, 3), np.float32)
    engine.run(X, out, proba=False, staged=False, n_threads=1)
    kernel, program = engine._ready
    engine._ready = kernel, replace(program, table=program.table[:0])
    with pytest.raises(IndexError, match="out of bounds"):
        engine.run(X, out, proba=False, staged=False, n_threads=1)
