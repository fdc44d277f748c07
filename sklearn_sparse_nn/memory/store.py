"""The dense phase in a store: computed once, for all that ask for the same."""

import sys
import threading
import warnings
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from typing import Any

import skorch
import torch
from joblib.memory import MemorizedFunc
from sklearn.utils.validation import check_memory

from sklearn_sparse_nn._version import __version__
from sklearn_sparse_nn.memory.fingerprint import fingerprint
from sklearn_sparse_nn.memory.snapshot import dump, load

__all__ = ["key_of", "recall"]

_FORMAT = 3  # of what is stored; another number forgets all

# Warning filters belong to the process.
_TURN = threading.Lock()


def key_of(
    memory: Any, estimator: Any, X: Any, y: Any, **settings: Any
) -> tuple[str, tuple[Any, ...]] | None:
    """Make a key of all that a dense phase depends on.

    Parameters
    ----------
    memory : str, joblib.Memory or object with ``cache``
        The store, for the warning.
    estimator : estimator
        Whose parameters count, as `fingerprint` tells them apart.
    X, y : arrays
        Validated training data; values and dtypes count, memory layouts do not.
    **settings
        What else counts.

    Returns
    -------
    key : str
        Of 64 hexadecimal digits.
    parts : tuple
        A user's classes and functions among the parameters. They are not stored, so
        that a stored net has those of who asks for it.

    None, with a warning, where a parameter has no state to tell it from others.
    """
    versions = (_FORMAT, sys.version_info[:2], torch.__version__, skorch.__version__)
    try:
        asked, parts = fingerprint(versions, __version__, estimator, settings)
        if fingerprint(versions, __version__, estimator, settings)[0] != asked:
            raise TypeError("a parameter has another state each time it is pickled")
        return fingerprint(asked, X, y)[0], parts
    except Exception as error:  # the state of anything may fail in any way
        _warn(memory, error)
        return None


class _Job:
    """What is to be done if the store has it not; the same for every key.

    Parameters
    ----------
    compute : callable
        Gives the value; may take long.
    data : tuple of arrays
        Rows that are not stored with it.
    """

    def __init__(self, compute: Callable[[], Any], data: tuple[Any, ...]) -> None:
        self.compute, self.data = compute, data
        self.value: Any = None
        self.done = False
        self.error: BaseException | None = None

    def __reduce__(self) -> Any:
        return _no_job, ()  # joblib makes its key of this, and of nothing in here

    def __repr__(self) -> str:
        return "dense phase"

    def run(self) -> Any:
        """Compute, once."""
        if not self.done:
            try:
                self.value = self.compute()
            except BaseException as error:
                self.error = error
                raise
            self.done = True
        return self.value

    def blob(self) -> bytes:
        """Compute, and write the value down with a checksum."""
        blob = dump(self.run(), self.data)
        return sha256(blob).digest() + blob


def _no_job() -> None:
    """Stand for a job in a key."""


def dense_phase(key: str, job: Any) -> bytes:
    """Compute a dense phase; joblib keeps what this gives, by its key."""
    blob: bytes = job.blob()
    return blob


def recall(
    memory: Any, key: str, compute: Callable[[], Any], data: tuple[Any, ...]
) -> tuple[Any, bool]:
    """Get a value from a store, or compute it and put it there.

    Two processes that ask at once may both compute; the values are equal, and each is
    written whole. What is wrong with the store is warned of, once, and computed around.

    Parameters
    ----------
    memory : str, joblib.Memory or object with ``cache``
        The store.
    key : str
        What the value is stored under.
    compute : callable
        Gives the value.
    data : tuple of arrays
        Rows that are not stored with it.

    Returns
    -------
    value : object
    found : bool
        Whether it was in the store.
    """
    job = _Job(compute, data)
    cached = None
    try:
        cached = check_memory(memory).cache(dense_phase)
        blob = _stored(cached, key, job)
        if blob is not None and not job.done:
            return load(_checked(blob), data), True
    except Exception as error:
        if error is job.error:
            raise
        _warn(memory, error)
        _forget(cached, key, job)
    value = job.run()
    if isinstance(cached, MemorizedFunc):
        try:
            _put(cached, key, job)
        except Exception as error:
            _warn(memory, error)
    return value, False


def _stored(cached: Any, key: str, job: _Job) -> Any:
    """Look a blob up; a store that is not joblib's may compute it at once."""
    if not isinstance(cached, MemorizedFunc):
        return cached(key, job)
    if not cached.check_call_in_cache(key, job):
        return None
    return cached.call_and_shelve(key, job).get()


def _put(cached: Any, key: str, job: _Job) -> None:
    """Store what is computed; raise what joblib would only warn of."""
    with _TURN, warnings.catch_warnings():
        warnings.filterwarnings("error", message="Unable to cache to disk")
        cached(key, job)


def _forget(cached: Any, key: str, job: _Job) -> None:
    """Take a damaged value out of the store, if that can be done."""
    with suppress(Exception):
        cached.call_and_shelve(key, job).clear()


def _checked(blob: Any) -> bytes:
    """Give a blob whose checksum is right."""
    if not isinstance(blob, bytes) or sha256(blob[32:]).digest() != blob[:32]:
        raise ValueError("a stored net is damaged")
    return blob[32:]


_warned: set[str] = set()


def _warn(memory: Any, error: Exception) -> None:
    """Warn once of every store."""
    where = str(getattr(memory, "location", memory))
    if where not in _warned:
        _warned.add(where)
        reason = str(error).splitlines() or [""]
        warnings.warn(
            f"The dense phase could not be shared through memory={where!r} "
            f"({type(error).__name__}: {reason[0]}). It is trained here instead: "
            "results are the same, only slower.",
            UserWarning,
            stacklevel=2,
        )
