"""Predicting rows that lie elsewhere: memory-mapped files, Dask arrays and frames."""

import os
import pickle
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from sklearn_sparse_nn import PrunedClassifier, PrunedRegressor
from tests.pruning.nets import small
from tests.runtime.graphs import kernels_only

ROOT = Path(__file__).parents[2]
QUICK = {"n_steps": 2, "prune_epochs": 2, "finetune_epochs": 1, "random_state": 0}
QUICK |= {"allocation": "uniform"}
N_ROWS = 1003  # no multiple of a tile, a chunk of a file or a partition


@pytest.fixture(scope="module")
def classifier(classes):
    return PrunedClassifier(small(), **QUICK).fit(*classes)


@pytest.fixture(scope="module")
def regressor(values):
    return PrunedRegressor(**QUICK | {"dense_epochs": 2}).fit(*values)


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    return rng.standard_normal((N_ROWS, 8), dtype=np.float32)


def mapped(path, rows, dtype, order):
    """Write rows to a file, and map it read-only."""
    file = np.memmap(path, dtype=dtype, mode="w+", shape=rows.shape, order=order)
    file[...] = rows
    file.flush()
    return np.memmap(path, dtype=dtype, mode="r", shape=rows.shape, order=order)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, ">f4", np.int16])
@pytest.mark.parametrize("order", ["C", "F"])
def test_a_mapped_file_is_predicted_as_its_rows(
    classifier, regressor, rows, tmp_path, dtype, order
):
    X = mapped(tmp_path / "X", rows, dtype, order)
    inside = np.array(X)
    assert isinstance(X, np.memmap)
    for model in (classifier, classifier.export()):
        assert np.array_equal(model.predict_proba(X), model.predict_proba(inside))
        assert np.array_equal(model.predict(X), model.predict(inside))
    for model in (regressor, regressor.export()):
        assert np.array_equal(model.predict(X), model.predict(inside))
    assert (classifier.transform(X) != classifier.transform(inside)).nnz == 0


def test_a_part_of_a_mapped_file_is_predicted_too(classifier, rows, tmp_path):
    X = mapped(tmp_path / "X", rows, np.float32, "C")
    model = classifier.export()
    expected = model.predict_proba(rows)
    for part in (slice(3, 700), slice(None, None, 7), slice(None, None, -1)):
        assert np.array_equal(model.predict_proba(X[part]), expected[part])
        assert np.array_equal(classifier.predict_proba(X[part]), expected[part])
    np.save(tmp_path / "X.npy", rows)
    X = np.load(tmp_path / "X.npy", mmap_mode="r")
    assert np.array_equal(model.predict_proba(X), expected)


def test_nothing_is_written_to_a_mapped_file(classifier, rows, tmp_path):
    X = mapped(tmp_path / "X", rows, np.float32, "C")
    before = (tmp_path / "X").read_bytes()
    writable = np.memmap(tmp_path / "X", np.float32, "r+", shape=X.shape)
    classifier.predict(writable)
    classifier.export().predict(writable)
    writable.flush()
    assert (tmp_path / "X").read_bytes() == before


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_in_a_file_is_refused(classifier, rows, tmp_path, value):
    bad = rows.copy()
    bad[-1, -1] = value
    X = mapped(tmp_path / "X", bad, np.float32, "C")
    for model in (classifier, classifier.export()):
        with pytest.raises(ValueError, match="Input X contains"):
            model.predict(X)


# What the process itself allocates is counted; pages of a mapped file are not, since
# the system takes them back at will.
MEASURE = textwrap.dedent(
    """
    import pickle, resource, sys
    from pathlib import Path
    import numpy as np
    import torch
    torch.set_num_threads(1)
    path, model_path, dtype, extra = sys.argv[1:]
    model = pickle.loads(Path(model_path).read_bytes())
    X = np.memmap(path, dtype=dtype, mode="r").reshape(-1, 200)
    model.predict(X[:20_000])  # what is compiled, is now
    status = Path("/proc/self/status").read_text()
    taken = 1024 * int(status.split("VmData:")[1].split()[0])
    limit = taken + int(extra)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    y = model.predict(X)
    try:
        np.array(X)
    except MemoryError:
        print(len(y), int(y.sum()))
    """
)


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A pruner of 200 columns, and files of 128 MB and twice that."""
    rng = np.random.default_rng(1)
    X = rng.standard_normal((160_000, 200), dtype=np.float32)
    folder = tmp_path_factory.mktemp("large")
    y = (X[:300, 0] > 0).astype(np.int64)
    pruner = PrunedClassifier(small(), **QUICK).fit(X[:300], y)
    X.tofile(folder / "float32")
    with (folder / "float64").open("wb") as file:
        for start in range(0, len(X), 20_000):
            X[start : start + 20_000].astype(np.float64).tofile(file)
    total = int(pruner.predict(X).sum())
    for name, model in (("pruner", pruner), ("model", pruner.export())):
        (folder / name).write_bytes(pickle.dumps(model))
    yield folder, len(X), total
    for name in ("float32", "float64"):
        (folder / name).unlink()


@kernels_only  # scipy holds 64 MiB of every value at once
@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA is Linux's")
@pytest.mark.parametrize(
    ("kind", "dtype"),
    # A pruner makes float32 of other numbers first, all of them.
    [("model", "float32"), ("model", "float64"), ("pruner", "float32")],
)
def test_memory_stays_bounded(large, kind, dtype):
    """With 32 MiB to spare, for outputs and a few chunks."""
    folder, n_rows, total = large
    given = folder / dtype, folder / kind, dtype, 32 * 2**20
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *map(str, given)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == [str(n_rows), str(total)], done.stderr[-2000:]


# -- Dask calls the model for every block or partition


@pytest.fixture(scope="module")
def da():
    return pytest.importorskip("dask.array")


@pytest.fixture(scope="module")
def dd():
    return pytest.importorskip("dask.dataframe")


SCHEDULERS = ["synchronous", "threads", "processes"]


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_dask_arrays_by_blocks(classifier, rows, da, scheduler):
    model = classifier.export()
    X = da.from_array(rows, chunks=(300, 8))
    empty = np.empty((0, 3), dtype=np.float32)
    proba = X.map_blocks(model.predict_proba, chunks=(X.chunks[0], (3,)), meta=empty)
    labels = X.map_blocks(model.predict, drop_axis=1, meta=np.empty(0, dtype=np.int64))
    assert proba.shape == (N_ROWS, 3)
    assert labels.shape == (N_ROWS,)
    done = da.compute(proba, labels, scheduler=scheduler, num_workers=2)
    assert np.array_equal(done[0], model.predict_proba(rows))
    assert np.array_equal(done[1], model.predict(rows))


def test_dask_arrays_over_a_mapped_file(regressor, values, tmp_path, da):
    X = mapped(tmp_path / "X", np.tile(values[0], (9, 1)), np.float64, "C")
    model = regressor.export()
    blocks = da.from_array(X, chunks=(250, 8))
    predicted = blocks.map_blocks(model.predict, drop_axis=1, meta=np.empty(0))
    assert np.array_equal(predicted.compute(), model.predict(X))
    assert np.isclose(predicted.mean().compute(), model.predict(X).mean())


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_dask_frames_by_partitions(classes, rows, dd, scheduler):
    import pandas as pd

    names = [f"column {i}" for i in range(8)]
    X, y = classes
    labels = np.array(["a", "b", "c"])[y]
    pruner = PrunedClassifier(small(), **QUICK).fit(
        pd.DataFrame(X, columns=names), labels
    )
    model = pruner.export()
    frame = pd.DataFrame(rows, columns=names, index=np.arange(N_ROWS) * 2)
    parts = dd.from_pandas(frame, npartitions=5)
    meta = pd.Series([], dtype=object, name="label")
    predicted = parts.map_partitions(labelled, model, meta=meta)
    done = predicted.compute(scheduler=scheduler, num_workers=2)
    assert np.array_equal(done.index, frame.index)
    assert np.array_equal(done.to_numpy(), pruner.predict(frame))
    other = parts.rename(columns={"column 0": "another"})
    with pytest.raises(ValueError, match="feature names should match"):
        other.map_partitions(labelled, model, meta=meta).compute(
            scheduler="synchronous"
        )


def labelled(part, model):
    import pandas as pd

    return pd.Series(model.predict(part).astype(object), part.index, name="label")


def test_dask_blocks_are_chunks_for_partial_fit(classes, da):
    X, y = classes
    blocks = da.from_array(X, chunks=(40, 8))
    by_dask, by_hand = (PrunedClassifier(small(), **QUICK) for _ in range(2))
    for i, block in enumerate(blocks.blocks):
        part = y[40 * i : 40 * (i + 1)]
        by_dask.partial_fit(block.compute(), part, classes=[0, 1, 2])
        by_hand.partial_fit(X[40 * i : 40 * (i + 1)], part, classes=[0, 1, 2])
    assert np.array_equal(by_dask.predict_proba(X), by_hand.predict_proba(X))
