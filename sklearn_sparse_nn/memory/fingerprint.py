"""Digests of objects: values by contents, classes and functions by their code."""

import copyreg
import pickle
from functools import cache, cached_property
from hashlib import sha256
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from scipy import sparse
from sklearn.frozen import FrozenEstimator

from sklearn_sparse_nn.memory.user_code import content_of, is_library, library_name

__all__ = ["fingerprint"]

_CACHED = type(cache(len))
_WRAPPERS = {
    property: ("fget", "fset", "fdel"),
    staticmethod: ("__func__",),
    classmethod: ("__func__",),
    cached_property: ("func",),  # the rest of it may be a lock
    MethodType: ("__func__", "__self__"),
    _CACHED: ("__wrapped__",),
}


def fingerprint(*values: Any) -> tuple[str, tuple[Any, ...]]:
    """Compute a digest that tells values from others, the same in any process.

    Arrays and tensors count by their contents, estimators by their class and
    parameters, other objects by their class and the state that a pickle would hold. Of
    an installed library, classes and functions count by name and version. All others
    count by their code, with what it uses: defaults, enclosed values, and the values of
    its module, and of other modules that are not installed, that it names. What is read
    is the code that would run, never a source file, which may have been edited since it
    was imported.

    Parameters
    ----------
    *values : object
        The values, in an order that counts.

    Returns
    -------
    digest : str
        64 hexadecimal digits.
    parts : tuple
        The classes and functions that count by their code, in an order that is the same
        for equal digests.

    Raises
    ------
    Exception
        A value has no state that a pickle could hold (a lock, an open file), or its
        code cannot be read (compiled code that is not installed) or is not known before
        it runs (``eval``).

    Examples
    --------
    >>> fingerprint([1, 2.0])[0] == fingerprint([1, 2.0])[0]
    True
    >>> from functools import partial
    >>> fingerprint(partial(max, 1))[0] == fingerprint(partial(max, 2))[0]
    False
    """
    pickler = _Digester([])
    for value in values:
        pickler.dump(value)
    for part in pickler.parts:  # their contents may add further parts
        pickler.dump(content_of(part))
    return pickler.digest.hexdigest(), tuple(pickler.parts)


class _Digester(pickle._Pickler):
    """A pickler that hashes what it would write.

    The pickler that is written in Python, as for `joblib.hash`: this one can be told
    what not to remember.

    Parameters
    ----------
    parts : list
        The classes and functions that were met; more are appended.
    fitted : bool, default=False
        Whether estimators count with all that was fitted.
    """

    def __init__(self, parts: list[Any], *, fitted: bool = False) -> None:
        self.digest = sha256()
        self.parts, self._fitted = parts, fitted
        super().__init__(_Sink(self.digest), protocol=4)

    def memoize(self, obj: Any) -> None:
        """Remember an object, to write the next time that it is the same one.

        What cannot be changed is written again: whether equal ones are one object
        depends on the process.
        """
        if not isinstance(obj, (str, bytes, tuple)):
            super().memoize(obj)  # type: ignore[misc]

    def persistent_id(self, obj: Any) -> Any:
        """Return what stands for a class or function, a module or code."""
        if isinstance(obj, (type, FunctionType)):
            name = library_name(obj)
            return name or self._place(obj)
        if isinstance(obj, ModuleType) and is_library(obj.__name__):
            return "module", obj.__name__
        if isinstance(obj, CodeType):
            names = obj.co_names, obj.co_varnames, obj.co_freevars, obj.co_cellvars
            counts = obj.co_argcount, obj.co_posonlyargcount, obj.co_kwonlyargcount
            bytecode = obj.co_code, obj.co_exceptiontable
            return "code", bytecode, names, counts, obj.co_flags, obj.co_consts
        return None

    def _place(self, part: Any) -> int:
        for place, known in enumerate(self.parts):
            if known is part:
                return place
        self.parts.append(part)
        return len(self.parts) - 1

    def reducer_override(self, obj: Any) -> Any:
        """Return what an object is written as: its kind, values, and state."""
        kind = type(obj)
        if kind in (set, frozenset):
            ordered = sorted(obj, key=lambda value: fingerprint(value)[0])
            return _made, (kind.__name__, ordered)
        if kind in self.dispatch:
            return NotImplemented  # numbers, strings, lists, ... as in any pickle
        if kind in (np.ndarray, np.memmap) or sparse.issparse(obj):
            return _made, _array(obj)
        if isinstance(obj, torch.Tensor):
            return _made, (kind, *_tensor(obj)), vars(obj) or None
        if isinstance(obj, torch.Generator):
            return _made, ("generator", str(obj.device), obj.get_state())
        if kind in _WRAPPERS:
            inner = [getattr(obj, name) for name in _WRAPPERS[kind]]
            return _made, (kind.__name__,), inner
        if isinstance(obj, ModuleType):
            return _made, ("module", obj.__name__), _public(obj)
        if kind.__module__.startswith("numba.") and hasattr(obj, "py_func"):
            return _made, ("compiled",), (obj.py_func, obj.targetoptions)
        if isinstance(obj, FrozenEstimator):
            fitted = _Digester(self.parts, fitted=True)
            fitted.dump(obj.estimator)
            return _made, ("frozen", kind, fitted.digest.hexdigest())
        if callable(getattr(obj, "get_params", None)):
            params = vars(obj) if self._fitted else obj.get_params(deep=False)
            return _made, ("estimator", kind), sorted(params.items(), key=_first)
        reduce = copyreg.dispatch_table.get(kind)
        reduced = reduce(obj) if reduce else obj.__reduce_ex__(4)
        return _named(obj, reduced) if isinstance(reduced, str) else reduced


class _Sink:
    """A file that hashes what is written to it."""

    def __init__(self, digest: Any) -> None:
        self.write = digest.update


def _made(*parts: Any) -> None:
    """Mark the kind of an object in a pickle that nobody loads."""


def _first(pair: tuple[str, Any]) -> str:
    return pair[0]


def _public(module: ModuleType) -> dict[str, Any]:
    """Return the values of a module that is not installed."""
    return {k: v for k, v in vars(module).items() if not k.startswith("__")}


def _array(value: Any) -> tuple[Any, ...]:
    if sparse.issparse(value):
        rows = sparse.csr_array(value)
        return "csr", rows.shape, rows.data, rows.indices, rows.indptr
    if value.dtype.hasobject:
        return "objects", str(value.dtype), value.shape, value.ravel().tolist()
    flat = np.ascontiguousarray(value).reshape(-1).view(np.uint8)
    return "array", str(value.dtype), value.shape, sha256(flat.data).digest()


def _tensor(value: torch.Tensor) -> tuple[Any, ...]:
    flat = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    where = value.device.type, value.requires_grad
    return str(value.dtype), tuple(value.shape), *where, _array(flat.numpy())[-1]


def _named(obj: Any, name: str) -> Any:
    """Return what an object is written as that a pickle would find by its name.

    That holds its code only where it is from a library, or its class is in Python.
    """
    module = pickle.whichmodule(obj, name)  # type: ignore[attr-defined]
    if not is_library(module) and library_name(type(obj)) is not None:
        raise TypeError(f"{obj!r} has no code or state that can be read")
    return _made, ("name", type(obj), module, name), getattr(obj, "__dict__", None)
