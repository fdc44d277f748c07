"""A copy of a module in evaluation mode, and the global state while it runs."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import nn

from sklearn_sparse_nn.exceptions import UnsupportedLayerError
from sklearn_sparse_nn.nets.copies import copy_module
from sklearn_sparse_nn.nets.host import (
    drop_weight_norms,
    original,
    own_buffers,
    own_modules,
    set_own_buffers,
    set_own_modules,
)
from sklearn_sparse_nn.nets.seeding import isolated_rng

__all__ = ["copy_structure", "in_evaluation", "in_float32", "private_state"]

_BUILTIN_CONTAINERS = (list, dict, set)
#: Modules from here draw no random numbers in evaluation.
_QUIET = ("torch.nn.modules.", "sklearn_sparse_nn.")


@contextmanager
def private_state(module: nn.Module) -> Iterator[None]:
    """Run a module's own code without a trace in the global random state.

    Parameters
    ----------
    module : nn.Module
        The module. Torch's own layers do not touch the state, so they do not wait for
        other threads that use it.
    """
    with nullcontext() if _is_quiet(module) else isolated_rng(0):
        yield


def _is_quiet(module: nn.Module) -> bool:
    kinds = {type(child).__module__ for child in module.modules()}
    return all(kind.startswith(_QUIET) for kind in kinds)


def in_evaluation(module: nn.Module) -> nn.Module:
    """Copy a module, and switch the copy to evaluation by its own ``train``.

    Parameters
    ----------
    module : nn.Module
        The module; neither it nor anything in it is changed.

    Returns
    -------
    copy : nn.Module
        The copy; with the same parameters if its classes are torch's own.
    """
    module = original(module)
    if isinstance(module, torch.jit.ScriptModule):
        return module  # which is refused
    modes = {child: child.training for child in module.modules()}
    try:
        # A forward of someone else's may write to its weights.
        copy = copy_module(module, share_weights=_is_quiet(module))
    except Exception:  # it holds something that cannot be copied, such as a lock
        copy = _copy_tree(module, {})
    for child in copy.modules():
        buffers = own_buffers(child).items()
        own = {name: None if b is None else b.clone() for name, b in buffers}
        set_own_buffers(child, own)
    try:
        copy.eval()
    finally:
        for child, mode in modes.items():  # a bound method may lead back to it
            child.__dict__["training"] = mode
    for child in copy.modules():
        drop_weight_norms(child)
    return copy


def in_float32(module: nn.Module) -> nn.Module:
    """Return a module, or a copy of it in float32 on the CPU."""
    parameters = list(module.parameters())
    if all(p.dtype == torch.float32 and p.device.type == "cpu" for p in parameters):
        return module
    try:
        return copy_module(module).to("cpu").float()
    except Exception as error:  # whatever a part of it raises
        raise UnsupportedLayerError(
            f"The module cannot be copied in float32 to be compared: {error}"
        ) from error


def _copy_tree(module: nn.Module, done: dict[int, nn.Module]) -> nn.Module:
    """Copy a module and those in it, without what they hold."""
    if id(module) not in done:
        copy = done[id(module)] = copy_structure(module)
        children = {
            name: None if child is None else _copy_tree(child, done)
            for name, child in own_modules(module).items()
        }
        set_own_modules(copy, children)
    return done[id(module)]


def copy_structure(module: nn.Module) -> nn.Module:
    """Copy a module without its parameters, in evaluation mode.

    Buffers, lists, dicts and sets, which its forward may write to, are copied too.
    """
    copy = object.__new__(type(module))
    copy.__dict__.update(vars(module))
    for name, value in vars(module).items():
        if type(value) in _BUILTIN_CONTAINERS:
            copy.__dict__[name] = value.copy()
    buffers = {
        name: None if buffer is None else buffer.clone()
        for name, buffer in own_buffers(module).items()
    }
    set_own_buffers(copy, buffers)
    copy.__dict__["training"] = False
    return copy
