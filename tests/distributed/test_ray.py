"""Searches on a real Ray cluster give the serial scores, bit for bit."""

import shutil
import tempfile
from pathlib import Path

import joblib
import pytest
from joblib.pool import PicklingPool

from tests.distributed.searches import (
    LEVELS,
    N_FOLDS,
    assert_equal,
    assert_trained_there,
    by_path,
    grid,
)
from tests.memory.dense_phases import outputs
from tests.pruning.nets import own_net

ray = pytest.importorskip("ray")

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def cluster(no_limits):
    from ray.util.joblib import register_ray

    folder = tempfile.mkdtemp(prefix="ray")  # short: it holds sockets
    bases = PicklingPool.__bases__
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("PYTHONPATH", str(ROOT))  # where workers find these tests
        ray.init(
            "local",
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,  # else a print that is pickled is not builtins.print
            object_store_memory=100 * 2**20,
            _temp_dir=folder,
        )
        register_ray()
        yield
        ray.shutdown()
    PicklingPool.__bases__ = bases  # Ray's backend puts its own pool there
    shutil.rmtree(folder)


def test_a_grid_search_gives_the_serial_scores(cluster, classes, tmp_path):
    expected = grid(tmp_path / "here").fit(*classes)
    search = grid(tmp_path / "there")
    with joblib.parallel_config("ray", n_jobs=2):
        search.fit(*classes)
    assert_equal(search, expected)
    n_there = N_FOLDS * len(LEVELS)
    assert_trained_there(tmp_path / "there", n_there=n_there, n_here=1)


def test_a_store_is_shared_by_the_workers(cluster, classes, tmp_path):
    expected = grid(tmp_path / "here", own_net).fit(*classes)
    search = grid(tmp_path / "there", own_net, memory=tmp_path / "store")
    with joblib.parallel_config("ray", n_jobs=2):
        search.fit(*classes)
    assert_equal(search, expected)
    assert len(outputs(tmp_path / "store")) == N_FOLDS + 1


def test_the_scores_of_a_path_are_the_serial_ones(cluster, classes, tmp_path):
    expected = by_path(tmp_path / "here").fit(*classes)
    search = by_path(tmp_path / "there", n_jobs=2)
    with joblib.parallel_config("ray"):
        search.fit(*classes)
    assert_equal(search, expected)
    n_here = 1 + len(search.path_.sparsities)
    n_there = N_FOLDS * (1 + len(LEVELS))
    assert_trained_there(tmp_path / "there", n_there=n_there, n_here=n_here)
