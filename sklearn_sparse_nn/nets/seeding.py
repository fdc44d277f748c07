"""Global random state, borrowed and given back exactly."""

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Integral, Real
from types import FunctionType
from typing import Any

import numpy as np
import torch
from sklearn.utils import check_random_state

__all__ = ["as_seed", "has_foreign_parts", "isolated_rng"]

# The global generators belong to the process, so fits of user nets in several
# threads take turns: interleaved they would be neither reproducible nor restorable.
_TURN = threading.RLock()
_OURS = ("sklearn_sparse_nn.", "skorch.", "torch.optim.")


def as_seed(random_state: Any) -> int:
    """Make a seed of a random state, without touching the global one.

    Parameters
    ----------
    random_state : int, RandomState instance or None
        An int is its own seed. An instance is drawn from. None takes the operating
        system's entropy, where scikit-learn would draw from numpy's global generator
        and so change it.

    Returns
    -------
    seed : int

    Examples
    --------
    >>> as_seed(7)
    7
    """
    if random_state is None:
        return int(np.random.SeedSequence().generate_state(1)[0])
    if isinstance(random_state, Integral):
        return int(random_state)
    return int(check_random_state(random_state).randint(2**31 - 1))


def has_foreign_parts(*parts: Any) -> bool:
    """Tell whether some parts are a user's, and may draw random numbers.

    Parameters
    ----------
    *parts : callback, class, function, str, number, None, or lists of these
        Not a user's is what comes from this package, skorch or `torch.optim`, with all
        that it was made with.

    Examples
    --------
    >>> from skorch.callbacks import EarlyStopping, EpochScoring
    >>> has_foreign_parts("adamw", [("stop", EarlyStopping())], None)
    False
    >>> from sklearn.metrics import max_error
    >>> has_foreign_parts([EpochScoring(max_error)])
    True
    """
    return not all(map(_is_known, parts))


def _is_known(part: Any) -> bool:
    if part is None or part is print or isinstance(part, (str, Real)):
        return True
    if isinstance(part, (list, tuple)):
        return all(map(_is_known, part))
    is_code = isinstance(part, (type, FunctionType))
    module = part.__module__ if is_code else type(part).__module__
    nested = {}
    if not is_code and hasattr(part, "get_params"):
        nested = part.get_params(deep=False)
    return f"{module}.".startswith(_OURS) and all(map(_is_known, nested.values()))


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
