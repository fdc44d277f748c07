"""Global random state, borrowed and given back exactly."""

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

__all__ = ["isolated_rng"]

# The global generators belong to the process, so fits of user nets in several
# threads take turns: interleaved they would be neither reproducible nor restorable.
_TURN = threading.RLock()


@contextmanager
def isolated_rng(seed: int) -> Iterator[None]:
    """Seed python's, numpy's and torch's global generators, then restore them.

    For modules that someone else wrote: their layers and callbacks draw from the
    global generators, and no parameter changes that.

    Parameters
    ----------
    seed : int
        In [0, 2**32).

    Examples
    --------
    >>> before = torch.random.get_rng_state()
    >>> with isolated_rng(0):
    ...     _ = torch.rand(3)
    >>> bool((before == torch.random.get_rng_state()).all())
    True
    """
    with _TURN, torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
        try:
            random.seed(seed)
            np.random.seed(seed)  # noqa: NPY002
            torch.manual_seed(seed)
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)  # noqa: NPY002
