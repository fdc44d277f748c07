"""The compiled code of a function on disk: sealed files that are replaced if damaged.

numba keeps code as bare pickles. A file that is cut or empty is then an error in every
later process, and whatever a file holds is unpickled. Here a file begins with the
SHA-256 of the rest, and what does not fit it is not read, but written anew.
"""

import inspect
import os
import pickle
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from typing import Any

from numba.core import caching as _caching
from numba.core import compiler as _compiler
from numba.core import config as _config

__all__ = ["KernelCache"]

# numba has no types, and no other way to say where and how code is kept.
caching: Any = _caching
config: Any = _config
CompileResult: Any = _compiler.CompileResult
_Files: Any = caching.IndexDataCacheFile
_FunctionCache: Any = caching.FunctionCache

_MAGIC = b"sklearn_sparse_nn kernels 1\n"
_PYTHON = f"py{sys.version_info[0]}{sys.version_info[1]}{getattr(sys, 'abiflags', '')}"


class _SealedFiles(_Files):
    """The index and the code in one folder, behind their hashes."""

    def _load_index(self) -> dict[Any, str]:
        content = _read(self._index_path)
        version, stamp, names = content if content else (None, None, {})
        fresh = (version, stamp) == (self._version, self._source_stamp)
        return dict(names) if fresh else {}

    def _save_index(self, overloads: dict[Any, str]) -> None:
        self._write(self._index_path, (self._version, self._source_stamp, overloads))

    def _load_data(self, name: str) -> Any:
        return _read(self._data_path(name))

    def _save_data(self, name: str, data: Any) -> None:
        self._write(self._data_path(name), data)

    def _write(self, path: str, content: Any) -> None:
        raw = self._dump(content)
        with self._open_for_write(path) as file:  # renamed when it is whole
            file.write(_MAGIC + sha256(raw).digest() + raw)


def _read(path: str) -> Any:
    """Read a sealed file; return None if it is missing, damaged or another's."""
    try:
        with open(path, "rb") as file:
            sealed = file.read()
        start = len(_MAGIC) + 32
        raw = sealed[start:]
        if sealed[:start] == _MAGIC + sha256(raw).digest():
            return pickle.loads(raw)  # what this package has written
    except Exception:  # as if it were not there: it is compiled, and written anew
        pass
    return None


class KernelCache(_FunctionCache):
    """The compiled code of one function, in the folders where numba would keep it.

    A folder is read whether it can be written or not. Folders after the first one that
    can be written are not looked at, so that ``NUMBA_CACHE_DIR`` holds the code.

    Parameters
    ----------
    function : callable
        The function that is compiled.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._py_func = function
        self._name = repr(function)
        file = inspect.getfile(function)
        base = f"{os.path.basename(file).rpartition('.')[0]}.{function.__qualname__}"
        base = base.replace("<", "").replace(">", "")
        self._files = [
            (locator, _SealedFiles(locator.get_cache_path(), *_stamped(locator, base)))
            for locator in _locators(function, file)
        ]
        self.enable()

    @property
    def cache_path(self) -> str | None:
        """The folder that is looked at first."""
        return self._files[0][1]._cache_path if self._files else None

    def flush(self) -> None:
        """Forget the code in the folders that can be written."""
        for _, files in self._files:
            with suppress(OSError):
                files.flush()

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Load the code for a signature; return None if there is none that is sound."""
        target_context.refresh()
        key = self._index_key(sig, target_context.codegen())
        for locator, files in self._files if self._enabled else ():
            with suppress(Exception):
                kept = files.load(key)
                if kept is not None and kept[0] == key:
                    return CompileResult._rebuild(target_context, *kept[1])
            if _can_write(locator):
                break
        return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep the code for a signature, or warn that it could not be kept."""
        if not self._enabled or data.library.has_dynamic_globals:
            return
        key = self._index_key(sig, data.codegen)
        content = key, data._reduce()
        failures, kept = [], None
        for locator, files in self._files:
            try:
                locator.ensure_cache_path()
                files.save(key, content)
            except Exception as error:  # no folder, no right to write, no space
                failures.append((files._cache_path, error))
            else:
                kept = files._cache_path
                break
        if kept is None or (failures and config.CACHE_DIR):
            _warn(failures, kept)


def _locators(function: Callable[..., Any], file: str) -> list[Any]:
    """Find the folders where numba would keep a function, the first one first."""
    found = []
    for kind in caching.CacheImpl._locator_classes:
        # numba leaves a folder out that it cannot write; such a one can be read.
        lenient: Any = type(kind.__name__, (kind,), {"ensure_cache_path": _nothing})
        with suppress(Exception):
            locator = lenient.from_function(function, file)
            if locator is not None:
                locator.__class__ = kind
                found.append(locator)
    return found


def _nothing(locator: Any) -> None:
    """Check nothing."""


def _stamped(locator: Any, base: str) -> tuple[str, Any]:
    """Return the name of a function's files, and the stamp of its source."""
    return f"{base}-{locator.get_disambiguator()}.{_PYTHON}", locator.get_source_stamp()


def _can_write(locator: Any) -> bool:
    try:
        locator.ensure_cache_path()
    except OSError:
        return False
    return True


def _warn(failures: list[tuple[str, Exception]], kept: str | None) -> None:
    """Warn once that a folder could not be used."""
    folder, error = failures[0] if failures else ("any folder", "there is none")
    rest = (
        f"It is kept in {kept} instead"
        if kept
        else "Every process will compile it again, for half a minute"
    )
    warnings.warn(
        f"The compiled code of the kernels could not be kept in {folder} ({error}). "
        f"{rest}. Set NUMBA_CACHE_DIR to a folder that can be written, or to one that "
        "holds the code.",
        UserWarning,
        stacklevel=2,
    )
