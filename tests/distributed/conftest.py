import pytest


@pytest.fixture(scope="module")
def no_limits():
    """Leave it to a cluster how many threads its workers have."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
            patch.delenv(name, raising=False)
        yield
