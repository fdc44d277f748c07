"""A store of dense phases, each computed once for all equal fits."""

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
from sklearn_sparse_nn.memory.snapshot import Snapshot

__all__ = ["key_of", "recall"]

_FORMAT = 3  # of the stored value; after a change, old values are not found

# Warning filters belong to the process.
_TURN = threading.Lock()


def key_of(
    memory: Any, estimator: Any, X: Any, y: Any, **settings: Any
) -> tuple[str, tuple[Any, ...]] | None:
    """Compute a key of all that a dense phase depends on.

    Parameters
    ----------
    memory : str, joblib.Memory or object with ``cache``
        The store, which the warning names.
    estimator : estimator
        The net; its class and parameters count, as in `fingerprint`.
    X, y : arrays
        The validated training data; values and dtypes count, memory layouts do not.
    **settings
        Other values that count.

    Returns
    -------
    key : str
        64 hexadecimal digits.
    parts : tuple
        The user's classes and functions among the parameters. They are not stored, so
        that a net from the store has those of the current process.

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
    """The computation of a value that the store may not have.

    Parameters
    ----------
    compute : callable
        The function that computes the value; it may take long.
    data : tuple of arrays
        The rows, which are not stored.
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
        """Compute the value, at the first call."""
        if not self.done:
            try:
                self.value = self.compute()
            except BaseException as error:
                self.error = error
                raise
            self.done = True
        return self.value

    def blob(self) -> bytes:
        """Compute the value, and return it as bytes with a checksum."""
        blob = Snapshot.of(self.run(), data=self.data).blob
        return sha256(blob).digest() + blob


def _no_job() -> None:
    """Replace a job in joblib's key."""


def dense_phase(key: str, job: Any) -> bytes:
    """Compute a dense phase; joblib stores what this returns, by its key."""
    blob: bytes = job.blob()
    return blob


def recall(
    memory: Any, key: str, compute: Callable[[], Any], data: tuple[Any, ...]
) -> tuple[Any, bool]:
    """Load a value from a store, or compute it and store it.

    Two processes that need it at once may both compute it; the values are equal, and
    each is written whole. Where the store fails, a warning says so, once, and the value
    is computed.

    Parameters
    ----------
    memory : str, joblib.Memory or object with ``cache``
        The store.
    key : str
        The key of the value.
    compute : callable
        The function that computes the value.
    data : tuple of arrays
        The rows, which are not stored.

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
            return Snapshot(_checked(blob)).restore(data=data), True
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
    """Load a blob, if it is there; a store that is not joblib's may compute it."""
    if not isinstance(cached, MemorizedFunc):
        return cached(key, job)
    if not cached.check_call_in_cache(key, job):
        return None
    return cached.call_and_shelve(key, job).get()


def _put(cached: Any, key: str, job: _Job) -> None:
    """Store the value; raise the errors that joblib would only warn of."""
    with _TURN, warnings.catch_warnings():
        warnings.filterwarnings("error", message="Unable to cache to disk")
        cached(key, job)


def _forget(cached: Any, key: str, job: _Job) -> None:
    """Remove a damaged value from the store, if that is possible."""
    with suppress(Exception):
        cached.call_and_shelve(key, job).clear()


def _checked(blob: Any) -> bytes:
    """Check the checksum of a blob, and return what is behind it."""
    if not isinstance(blob, bytes) or sha256(blob[32:]).digest() != blob[:32]:
        raise ValueError("a stored net is damaged")
    return blob[32:]


_warned: set[str] = set()


def _warn(memory: Any, error: Exception) -> None:
    """Warn that a store fails, once for each store."""
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
