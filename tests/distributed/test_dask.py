"""Searches on a real dask cluster give the serial scores, bit for bit."""

import os

import joblib
import pytest

from tests.distributed.searches import (
    LEVELS,
    N_FOLDS,
    NETS,
    assert_equal,
    assert_trained_there,
    by_path,
    grid,
    trainings,
)
from tests.memory.dense_phases import outputs

dask = pytest.importorskip("dask")
distributed = pytest.importorskip("distributed")


@pytest.fixture(scope="module")
def cluster(no_limits):
    limit = {"distributed.nanny.pre-spawn-environ.NUMBA_NUM_THREADS": 1}
    options = {
        "n_workers": 2,
        "threads_per_worker": 1,
        "dashboard_address": ":0",
    }  # any free port
    with (
        dask.config.set(limit),
        distributed.LocalCluster(processes=True, **options) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield set(client.run(os.getpid).values())


@pytest.mark.parametrize("net", NETS.values(), ids=NETS)
def test_a_grid_search_gives_the_serial_scores(cluster, classes, tmp_path, net):
    expected = grid(tmp_path / "here", net).fit(*classes)
    search = grid(tmp_path / "there", net)
    with joblib.parallel_config("dask"):
        search.fit(*classes)
    assert_equal(search, expected)
    workers = assert_trained_there(
        tmp_path / "there", n_there=N_FOLDS * len(LEVELS), n_here=1
    )
    assert workers <= cluster


@pytest.mark.parametrize("net", NETS.values(), ids=NETS)
def test_a_store_is_shared_by_the_workers(cluster, classes, tmp_path, net):
    expected = grid(tmp_path / "here", net).fit(*classes)
    search = grid(tmp_path / "there", net, memory=tmp_path / "store")
    with joblib.parallel_config("dask"):
        search.fit(*classes)
        assert_equal(search, expected)
        assert len(outputs(tmp_path / "store")) == N_FOLDS + 1
        n_trained = len(trainings(tmp_path / "there"))
        assert_equal(search.fit(*classes), expected)  # all of it recalled
    assert len(trainings(tmp_path / "there")) == n_trained


def test_the_scores_of_a_path_are_the_serial_ones(cluster, classes, tmp_path):
    expected = by_path(tmp_path / "here").fit(*classes)
    search = by_path(tmp_path / "there", n_jobs=2)
    with joblib.parallel_config("dask"):
        search.fit(*classes)
    assert_equal(search, expected)
    n_here = 1 + len(search.path_.sparsities)
    n_there = N_FOLDS * (1 + len(LEVELS))
    workers = assert_trained_there(tmp_path / "there", n_there=n_there, n_here=n_here)
    assert workers <= cluster


def test_numba_has_one_thread(cluster):
    found = distributed.get_client().run(os.environ.get, "NUMBA_NUM_THREADS")
    assert list(found.values()) == ["1"] * 2
