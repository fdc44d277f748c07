"""The state of a module that decides its outputs, compared bit by bit."""

from functools import lru_cache
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sklearn_sparse_nn.nets.host import forward_hooks, own_buffers, own_parameters

__all__ = ["State", "state_of"]

_INTERNAL = frozenset(vars(nn.Module()))  # torch's own attributes
_NUMPY = (torch.float32, torch.int64, torch.float64, torch.int32, torch.bool)
_CONSTANTS = {
    *(int, str, bool, bytes, complex, type(None), type(...), range, slice, type),
    *(torch.dtype, torch.device, np.dtype),
}
_PLAIN = (bool, int, float, complex, str, list, tuple, dict, set, np.ndarray, Tensor)
_QUIET = ("torch.", "sklearn_sparse_nn.")  # whose classes hold nothing that changes
_MAX_VALUES = 2_000  # of an attribute; a look at each takes about a microsecond


class _UnknownStateError(Exception):
    """Something in a module may change unseen."""


class State:
    """The values that decide a module's outputs, apart from the code of its classes.

    Weights may be changed behind torch's version counters (``weight.data``, arrays that
    share their memory), so their bits are compared, not the counters. That takes a
    memcmp: 0.03 ms for the default net.

    Parameters
    ----------
    facts : list
        Settings of another kind that count.
    """

    def __init__(self, facts: list[Any]) -> None:
        self.facts = facts
        self._contents: list[Any] = []
        self._met: dict[int, Any] = {}
        self._left = 0

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, State):
            return NotImplemented
        # A bytearray compares with any buffer, without a copy.
        return self.facts == other.facts and all(
            one == two for one, two in zip(self._contents, other._contents, strict=True)
        )

    __hash__ = None  # type: ignore[assignment]

    def keep(self) -> "State":
        """Copy all bits, so that later changes can be told, and hold no object."""
        self._contents = [bytearray(content) for content in self._contents]
        self._met = {}
        return self

    def add_module(self, module: nn.Module) -> None:
        """Add one module, without those in it."""
        facts, values = self.facts, vars(module)
        kind: Any = type(module)
        facts += kind, kind.forward, id(module)
        for scope, name in _outside(kind, kind.forward):
            facts.append(name)
            self._left = _MAX_VALUES
            self._add(scope.get(name))
        facts += forward_hooks(module)
        for name, value in values.items():
            if name not in _INTERNAL:
                self._left = _MAX_VALUES
                facts.append(name)
                self._add(value)
        for tensors in (own_parameters(module), own_buffers(module)):
            for name, tensor in tensors.items():
                facts.append(name)
                self._add(tensor)

    def _add(self, value: Any) -> None:
        facts, kind = self.facts, type(value)
        if kind in _CONSTANTS or isinstance(value, type):
            facts += kind, value
        elif kind is float:
            facts.append(repr(value))  # tells -0.0 from 0.0, and nan is nan
        elif isinstance(value, Tensor):
            self._add_tensor(value)
        elif id(value) in self._met:
            facts += "again", list(self._met).index(id(value))
        else:
            self._met[id(value)] = value  # it stays, so its number is no other's
            self._left -= 1
            if self._left < 0:
                raise _UnknownStateError
            self._add_object(value)

    def _add_object(self, value: Any) -> None:
        facts, kind = self.facts, type(value)
        facts.append(kind)
        if kind is np.ndarray and not value.dtype.hasobject:
            facts += value.dtype.str, value.shape
            self._contents.append(_buffer(value))
        elif kind in (list, tuple, set, frozenset):
            self._add_each(value)
        elif kind is dict:
            self._add_each([part for pair in value.items() for part in pair])
        elif kind in (ModuleType, BuiltinFunctionType):
            facts.append(id(value))
        elif kind is MethodType:
            self._add_each((value.__func__, value.__self__))
        elif kind is FunctionType:
            facts.append(value.__code__)
            cells = [cell.cell_contents for cell in value.__closure__ or ()]
            self._add_each((value.__defaults__, value.__kwdefaults__, cells))
        else:
            self._add_each(_parts(value))

    def _add_each(self, values: Any) -> None:
        self.facts.append(len(values))
        for value in values:
            self._add(value)

    def _add_tensor(self, value: Tensor) -> None:
        plain = type(value) in (Tensor, nn.Parameter) and value.device.type == "cpu"
        if not plain or value.layout is not torch.strided:
            raise _UnknownStateError
        bits = value.detach()
        if value.dtype not in _NUMPY:
            bits = bits.contiguous().reshape(-1).view(torch.uint8)
        self.facts += id(value), value.dtype, tuple(value.shape)
        self._contents.append(_buffer(bits.numpy()))


def _buffer(values: np.ndarray) -> memoryview:
    return np.ascontiguousarray(values).reshape(-1).view(np.uint8).data


def _parts(value: Any) -> list[Any]:
    """Return what an object consists of, as a pickle would hold it."""
    try:
        reduced = value.__reduce_ex__(4)
    except Exception as error:  # the state of anything may fail in any way
        raise _UnknownStateError from error
    if isinstance(reduced, str):
        return [reduced]
    parts = [list(part) if hasattr(part, "__next__") else part for part in reduced]
    own = getattr(type(value), "__getstate__", None)
    if own is not getattr(object, "__getstate__", None):
        parts.append(getattr(value, "__dict__", None))  # it may hold more than that
    return parts


@lru_cache(maxsize=256)
def _outside(kind: Any, forward: Any) -> list[tuple[Any, str]]:
    """List the values outside of a module that its class and its forward name.

    These are attributes of the class and its bases, and variables of the file of the
    forward, where they are numbers, texts, arrays, or lists and dicts of these.
    """
    found: list[tuple[Any, str]] = []
    for base in kind.__mro__:
        if not f"{base.__module__}.".startswith(_QUIET):
            own = vars(base)
            found += [
                (own, name)
                for name, value in own.items()
                if isinstance(value, _PLAIN) and not name.startswith("__")
            ]
    if not f"{getattr(forward, '__module__', '')}.".startswith(_QUIET):
        names = getattr(getattr(forward, "__code__", None), "co_names", ())
        scope = getattr(forward, "__globals__", {})
        found += [(scope, n) for n in names if isinstance(scope.get(n), _PLAIN)]
    return found


def state_of(module: nn.Module, facts: list[Any]) -> State | None:
    """Collect all that decides the outputs of a module.

    Parameters
    ----------
    module : nn.Module
        With its submodules: their weights, buffers, hooks and attributes, and what
        these hold: lists, dicts, arrays, objects. Also attributes of their classes,
        and the variables that their forwards name.
    facts : list
        Settings of another kind that count.

    Returns
    -------
    state : State or None
        None if something in it may change unseen: a lock, a generator, a tensor that
        is not on the CPU, or more values than can be looked at for every prediction.
    """
    state = State(facts)
    try:
        for child in module.modules():
            state.add_module(child)
    except (_UnknownStateError, RecursionError, ValueError):  # an empty cell
        return None
    return state
