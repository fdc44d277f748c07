"""What objects are by their values: classes and functions by their code."""

import copyreg
import sys
from collections.abc import Iterable
from dis import get_instructions
from functools import cache, cached_property
from hashlib import sha256
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from scipy import sparse
from sklearn.frozen import FrozenEstimator

__all__ = ["fingerprint"]

# What does not change but with its version.
_KNOWN = ("sklearn_sparse_nn", "torch", "skorch", "sklearn", "numpy", "scipy", "pandas")
_STANDARD = sys.stdlib_module_names - {"__main__", "test", "this"}
_PLAIN = (
    *(bool, int, float, complex, str, bytes, range, slice, np.generic),
    *map(type, (None, ..., NotImplemented)),
)
_CACHED = type(cache(len))
_LOOKS_UP = ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS")
_DESCRIPTORS = (property, staticmethod, classmethod)


def fingerprint(*values: Any) -> tuple[str, tuple[Any, ...]]:
    """Tell values from others, in this process and in any other.

    Arrays and tensors count by what is in them, estimators by their parameters, other
    objects by the state that they would be pickled with. Of classes and functions that
    are not from a library, the code counts, with defaults, enclosed values, and what
    they use of their own module by name: functions, classes, numbers and strings. Where
    they stand in a file does not.

    Parameters
    ----------
    *values : object
        Objects whose state no pickle could hold (a lock, an open file) raise as a
        pickle would.

    Returns
    -------
    digest : str
        64 hexadecimal digits.
    parts : tuple
        The classes and functions that are not from a library, in an order that is the
        same for equal digests.

    Examples
    --------
    >>> fingerprint([1, 2.0])[0] == fingerprint([1, 2.0])[0]
    True
    >>> from functools import partial
    >>> fingerprint(partial(max, 1))[0] == fingerprint(partial(max, 2))[0]
    False
    """
    digest = _Digest()
    for value in values:
        digest.add(value)
    return digest.hexdigest(), tuple(digest.parts)


def _is_known(part: Any) -> bool:
    """Tell what is from a library that a fingerprint goes by its name."""
    module = getattr(part, "__module__", None) or "builtins"
    return str(module).split(".")[0] in (*_KNOWN, *_STANDARD)


class _Digest:
    def __init__(self) -> None:
        self.parts: list[Any] = []
        self._hash = sha256()
        self._places: dict[int, int] = {}
        self._open: list[int] = []  # what is being described, outermost first
        self._frozen = 0  # inside estimators that count with all that was fitted

    def hexdigest(self) -> str:
        return self._hash.hexdigest()

    def add(self, value: Any) -> None:
        if isinstance(value, _PLAIN) and _is_known(type(value)):
            self._words(type(value).__name__, repr(value))
        elif id(value) in self._open:
            self._words("again", self._open.index(id(value)))
        else:
            self._open.append(id(value))
            self._add(value)
            self._open.pop()

    def _words(self, *words: Any) -> None:
        for word in map(str, words):
            self._hash.update(f"{len(word)}:{word}".encode())

    def _each(self, name: str, values: Iterable[Any]) -> None:
        values = list(values)
        self._words(name, len(values))
        for value in values:
            self.add(value)

    def _add(self, value: Any) -> None:
        if type(value) in (np.ndarray, np.memmap) or sparse.issparse(value):
            self._array(value)
        elif isinstance(value, torch.Tensor):
            self._tensor(value)
        elif isinstance(value, (type, FunctionType)):
            self._part(value)
        elif isinstance(value, CodeType):
            self._code(value)
        elif type(value) in (dict, list, tuple):
            flat = value.items() if isinstance(value, dict) else value
            self._each(type(value).__name__, flat)
        elif isinstance(value, (set, frozenset)):
            self._words(type(value).__name__, *sorted(fingerprint(v)[0] for v in value))
        elif isinstance(value, MethodType):
            self._each("method", (value.__func__, value.__self__))
        elif isinstance(value, ModuleType):
            self._words("module", value.__name__)
        elif isinstance(value, _DESCRIPTORS):
            parts = ("fget", "fset", "fdel", "__func__")
            self._each(
                type(value).__name__, (getattr(value, part, None) for part in parts)
            )
        else:
            self._object(value)

    def _array(self, value: Any) -> None:
        if sparse.issparse(value):
            rows = sparse.csr_array(value)
            self._each("csr", (rows.shape, rows.data, rows.indices, rows.indptr))
            return
        self._words("array", value.dtype, value.shape)
        if value.dtype.hasobject:
            self._each("objects", value.ravel().tolist())
        else:
            flat = np.ascontiguousarray(value).reshape(-1).view(np.uint8)
            self._hash.update(flat.data)

    def _tensor(self, value: torch.Tensor) -> None:
        self._words(type(value).__name__, value.dtype, tuple(value.shape))
        self._words(value.device.type, value.requires_grad)
        flat = value.detach().cpu().contiguous().reshape(-1)
        self._array(flat.view(torch.uint8).numpy())

    def _object(self, value: Any) -> None:
        """Add an object by its parameters, or else by what a pickle would hold."""
        kind = type(value)
        if kind is _CACHED:
            self._each("cached", (value.__wrapped__,))
        elif kind.__module__.startswith("numba.") and hasattr(value, "py_func"):
            self._each("compiled", (value.py_func, value.targetoptions))
        elif isinstance(value, torch.Generator):
            self._each("generator", (str(value.device), value.get_state()))
        elif isinstance(value, FrozenEstimator):
            self._frozen += 1
            self._each("frozen", (kind, value.estimator))
            self._frozen -= 1
        elif callable(getattr(value, "get_params", None)):
            own = vars(value) if self._frozen else value.get_params(deep=False)
            self._each("estimator", (kind, sorted(own.items(), key=lambda p: p[0])))
        else:
            reduce = copyreg.dispatch_table.get(kind)
            reduced = reduce(value) if reduce else value.__reduce_ex__(4)
            if isinstance(reduced, str):
                module = getattr(value, "__module__", None)
                self._words("name", kind.__name__, module, reduced)
            else:
                make, given, state, items, pairs = (*reduced, *[None] * 5)[:5]
                self._each("object", (make, given, state))
                self._each("items", items or ())
                self._each("pairs", pairs or ())

    def _part(self, part: Any) -> None:
        """Add a class or a function: by name, or, the first time, by its code."""
        self._words("part", part.__module__, part.__qualname__)
        if id(part) in self._places:
            self._words("again", self._places[id(part)])
        elif not _is_known(part):
            self._places[id(part)] = len(self.parts)
            self.parts.append(part)
            if isinstance(part, type):
                self._class(part)
            else:
                self._function(part)
        elif isinstance(part, FunctionType):
            self._each("closure", _enclosed(part))

    def _class(self, part: type) -> None:
        self._each("bases", part.__mro__[1:])
        for name, given in sorted(vars(part).items()):
            # The rest of a cached property is a lock.
            member = given.func if isinstance(given, cached_property) else given
            is_code = isinstance(member, (FunctionType, *_DESCRIPTORS))
            is_slot = hasattr(member, "__objclass__")
            if is_code or not (is_slot or name.startswith(("__", "_abc_"))):
                self._words(name)
                self.add(member)

    def _function(self, part: FunctionType) -> None:
        self.add(part.__code__)
        self._each("given", (part.__defaults__, part.__kwdefaults__))
        self._each("closure", _enclosed(part))
        for name in sorted(_names(part.__code__) & part.__globals__.keys()):
            value = part.__globals__[name]
            own = getattr(value, "__module__", None) == part.__module__
            if type(value) in _PLAIN or (
                own and isinstance(value, (type, FunctionType))
            ):
                self._words(name)
                self.add(value)

    def _code(self, code: CodeType) -> None:
        for part in (code.co_code, code.co_exceptiontable):
            self._words(len(part))
            self._hash.update(part)
        self._words(code.co_argcount, code.co_kwonlyargcount, code.co_flags)
        for names in (code.co_names, code.co_varnames, code.co_freevars):
            self._words(len(names), *names)
        self._each("constants", code.co_consts)


def _names(code: CodeType) -> set[str]:
    """Name what code looks up in its module."""
    inner = (part for part in code.co_consts if isinstance(part, CodeType))
    looked_up = {
        step.argval for step in get_instructions(code) if step.opname in _LOOKS_UP
    }
    return looked_up.union(*map(_names, inner))


def _enclosed(part: FunctionType) -> list[Any]:
    """Give the values that a function encloses; some may not be there yet."""
    found = []
    for cell in part.__closure__ or ():
        try:
            found.append(cell.cell_contents)
        except ValueError:
            found.append("nothing yet")
    return found
