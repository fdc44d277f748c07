import os

import pytest


@pytest.fixture(scope="module", autouse=True)
def variables_are_put_back():
    """dask and Ray set limits of threads for their workers in this process, too."""
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)


@pytest.fixture(scope="module")
def no_limits(variables_are_put_back):
    """Leave it to a cluster how many threads its workers have."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ.pop(name, None)
