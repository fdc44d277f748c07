"""The code of classes and functions, and which of it is from an installed library."""

import importlib.util
import sys
from dis import Instruction, get_instructions
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.metadata import packages_distributions, version
from itertools import pairwise
from pathlib import Path
from sysconfig import get_path
from types import (
    CodeType,
    FunctionType,
    GetSetDescriptorType,
    MemberDescriptorType,
    ModuleType,
)
from typing import Any

__all__ = ["content_of", "is_library", "library_name"]

_OWN = __name__.partition(".")[0]
_MAIN = ("__main__", "__mp_main__")  # whatever file started the process
_HEAP_TYPE = 1 << 9  # of `type.__flags__`; other types are compiled into python
_GLOBALS = ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS")
_BY_TEXT = {"eval", "exec", "globals", "__import__"}
# What python writes into a class, and no code of the class reads.
_NOT_CODE = {
    "__module__", "__qualname__", "__doc__", "__dict__", "__weakref__",
    "__annotations__", "__annotate__", "__annotate_func__", "__annotations_cache__",
    "__firstlineno__", "__static_attributes__", "__classdictcell__",
    "__slotnames__", "__orig_bases__", "__parameters__", "__type_params__",
    "__dataclass_fields__", "__dataclass_params__", "__match_args__",
    "__abstractmethods__", "_abc_impl",
}  # fmt: skip


def is_library(name: str) -> bool:
    """Check whether a module is of Python, of an installed package, or of this one.

    It is the module's file that says so: a user's ``profile.py`` is not Python's.
    """
    top = name.partition(".")[0]
    if top in _MAIN or top == _OWN:
        return top == _OWN
    modules = [sys.modules.get(name), sys.modules.get(top)]
    files = [getattr(module, "__file__", None) for module in modules]
    file = files[0] or files[1]
    if file is None:
        return modules[0] is not None and top in sys.stdlib_module_names
    return _is_installed(file)


@cache
def _is_installed(file: str) -> bool:
    path = Path(file)
    if {"site-packages", "dist-packages"} & set(path.parts):
        return True
    python = {get_path("stdlib"), get_path("platstdlib")}
    return any(path.resolve().is_relative_to(Path(place).resolve()) for place in python)


def library_name(part: Any) -> tuple[str, ...] | None:
    """Return module, name and version of what is in a library under its name.

    Parameters
    ----------
    part : class or function
        A class or function.

    Returns
    -------
    name : tuple of str or None
        None if it is not from a library, or not found there: it then counts by its
        code.
    """
    module = getattr(part, "__module__", None)
    if not isinstance(module, str) or not is_library(module):
        return None
    if isinstance(part, FunctionType) and not _has_library_globals(part):
        return None  # someone's own function with a library's name
    found: Any = sys.modules.get(module)
    for name in part.__qualname__.split("."):
        found = getattr(found, name, None)
    compiled = isinstance(part, type) and not part.__flags__ & _HEAP_TYPE
    if found is not part and not compiled:
        return None
    return module, part.__qualname__, _version(module.partition(".")[0])


@cache
def _version(top: str) -> str:
    found = getattr(sys.modules.get(top), "__version__", None)
    if found is None and top not in sys.stdlib_module_names:
        found = [version(name) for name in packages_distributions().get(top, ())]
    return str(found)


def _has_library_globals(part: FunctionType) -> bool:
    name = str(part.__globals__.get("__name__", ""))
    known = getattr(sys.modules.get(name), "__dict__", None)
    return known is part.__globals__ and is_library(name)


def content_of(part: Any) -> tuple[Any, ...]:
    """Return what a class or function consists of.

    Parameters
    ----------
    part : class or function
        A class or function that is not in a library under its name.

    Returns
    -------
    content : tuple
        Code, classes, functions and values; where they stand in a file is not in it.

    Raises
    ------
    TypeError
        Its code cannot be read, or is not known before it runs.
    """
    if isinstance(part, type):
        return _content_of_class(part)
    given = part.__code__, part.__defaults__, part.__kwdefaults__, vars(part)
    used = {} if _has_library_globals(part) else _used(part)
    return *given, _enclosed(part), used


def _content_of_class(part: type) -> tuple[Any, ...]:
    file = str(getattr(sys.modules.get(part.__module__), "__file__", ""))
    if file.endswith(tuple(EXTENSION_SUFFIXES)):
        raise TypeError(f"{part!r} is compiled, so its code cannot be read")
    slots = GetSetDescriptorType, MemberDescriptorType
    members = {
        name: member
        for name, member in sorted(vars(part).items())
        if name not in _NOT_CODE and not isinstance(member, slots)
    }
    return part.__qualname__, type(part), part.__bases__, members


def _enclosed(part: FunctionType) -> list[Any]:
    """Return the values that a function encloses; some may not be there yet."""
    found = []
    for cell in part.__closure__ or ():
        try:
            found.append(cell.cell_contents)
        except ValueError:
            found.append("nothing yet")
    return found


def _codes(code: CodeType) -> list[CodeType]:
    """Return code and the code that is defined in it."""
    inner = [part for part in code.co_consts if isinstance(part, CodeType)]
    return [code, *(deeper for part in inner for deeper in _codes(part))]


def _used(part: FunctionType) -> dict[str, Any]:
    """Return the values of its module, and of other modules, that a function names."""
    used: dict[str, Any] = {}
    space = part.__globals__
    for code in _codes(part.__code__):
        steps = [s for s in get_instructions(code) if s.opname != "EXTENDED_ARG"]
        looked_up = [s.argval for s in steps if s.opname in _GLOBALS]
        if _BY_TEXT.intersection(looked_up) or "import_module" in code.co_names:
            raise TypeError(f"{part.__qualname__} runs code that only its text names")
        for step, after in pairwise(steps):
            if step.opname in _GLOBALS and step.argval in space:
                used |= _looked_up(step.argval, space[step.argval], after)
        for level, names, step in zip(steps, steps[1:], steps[2:], strict=False):
            if step.opname == "IMPORT_NAME":
                name = "." * level.argval + step.argval
                used |= _imported(part, name, names.argval)
    return dict(sorted(used.items()))


def _looked_up(name: str, value: Any, after: Instruction) -> dict[str, Any]:
    """Return a value by its name, or of a module the attribute that is read next."""
    if isinstance(value, ModuleType) and not is_library(value.__name__):
        found, attribute = vars(value), after.argval
        if after.opname in ("LOAD_ATTR", "LOAD_METHOD") and attribute in found:
            return {f"{name}.{attribute}": found[attribute]}
    return {name: value}


def _imported(
    part: FunctionType, name: str, names: tuple[str, ...] | None
) -> dict[str, Any]:
    """Return what a function imports as it runs, if it is not from a library."""
    full = importlib.util.resolve_name(name, part.__globals__.get("__package__"))
    module = sys.modules.get(full)
    if module is None:
        top = importlib.util.find_spec(full.partition(".")[0])
        if top is None or top.origin is None or _is_installed(top.origin):
            return {}
    elif is_library(full):
        return {}
    if module is None or not set(names or ()) <= vars(module).keys():
        raise TypeError(
            f"{part.__qualname__} imports from {full} only as it runs, so that code is "
            "not known yet; import it at the top of the file"
        )
    values = {name: vars(module)[name] for name in names} if names else module
    return {f"import {full}": values}
