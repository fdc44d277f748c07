"""The private parts of torch and skorch, in the only file that touches them.

They are old: the dictionaries of modules, base classes of convolutions and norms, and
skorch's lists of names have been there for years. A test keeps them out of all other
files.
"""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from skorch import NeuralNet
from skorch.callbacks import EarlyStopping
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm
from torch.utils._pytree import tree_map

__all__ = [
    "FIND_NONLINEARITY",
    "AnyBatchNorm",
    "AnyConv",
    "AnyConvTranspose",
    "criteria",
    "drop_optimizers",
    "drop_weight_norms",
    "forward_hooks",
    "has_forward_hooks",
    "has_global_forward_hooks",
    "inner_schedulers",
    "map_tensors",
    "optimizers",
    "original",
    "own_buffers",
    "own_modules",
    "own_parameters",
    "part_names",
    "pickles_without_best",
    "set_own_buffers",
    "set_own_modules",
]

#: Base classes of torch's layers of any number of dimensions. An instance norm is a
#: batch norm here, as in torch.
AnyConv, AnyConvTranspose, AnyBatchNorm = _ConvNd, _ConvTransposeNd, _NormBase
#: Applies a function to every tensor in nested tuples, lists and dictionaries.
map_tensors = tree_map
#: The method by which a skorch net finds what follows its module in `predict_proba`.
FIND_NONLINEARITY = "_get_predict_nonlinearity"

_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_Module = TypeVar("_Module")


def original(module: _Module) -> _Module:
    """Return the module that ``torch.compile`` was given, or an uncompiled one itself.

    Examples
    --------
    >>> layer = nn.Linear(2, 1)
    >>> original(torch.compile(layer, backend="eager")) is layer
    True
    >>> original(layer) is layer
    True
    """
    return getattr(module, "_orig_mod", module)


def own_parameters(module: nn.Module) -> dict[str, nn.Parameter | None]:
    """Return a module's own parameters, without those of modules inside it.

    Writing to the result changes the module. A weight that is computed from other
    parameters is not in it.

    Examples
    --------
    >>> list(own_parameters(nn.Linear(2, 1, bias=False)))
    ['weight', 'bias']
    """
    return module._parameters


def own_buffers(module: nn.Module) -> dict[str, Tensor | None]:
    """Return a module's own buffers, without those of modules inside it."""
    return module._buffers


def own_modules(module: nn.Module) -> dict[str, nn.Module | None]:
    """Return the modules directly inside a module; one may come twice.

    Writing to the result changes the module.
    """
    return module._modules


def set_own_buffers(module: nn.Module, buffers: Mapping[str, Tensor | None]) -> None:
    """Replace all own buffers of a module, also of one that was never initialized."""
    vars(module)["_buffers"] = dict(buffers)


def set_own_modules(module: nn.Module, modules: Mapping[str, Any]) -> None:
    """Replace all modules directly inside a module; they may be of any type."""
    vars(module)["_modules"] = dict(modules)


def forward_hooks(module: nn.Module) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the numbers of a module's hooks after and before its forward.

    Examples
    --------
    >>> forward_hooks(nn.Identity())
    ((), ())
    """
    return tuple(module._forward_hooks), tuple(module._forward_pre_hooks)


def drop_weight_norms(module: nn.Module) -> None:
    """Compute the weights of a module that torch's older norms compute in hooks.

    Parameters
    ----------
    module : nn.Module
        The module, in evaluation. It is changed: its weights become plain tensors, and
        the hooks of ``torch.nn.utils.weight_norm`` and ``spectral_norm`` go. A module
        with other hooks stays as it is.
    """
    hooks = list(module._forward_pre_hooks.values())
    if hooks and all(isinstance(hook, (WeightNorm, SpectralNorm)) for hook in hooks):
        with torch.no_grad():
            for hook in hooks:
                hook(module, ())
        vars(module)["_forward_pre_hooks"] = OrderedDict()


def has_forward_hooks(module: nn.Module) -> bool:
    """Check whether a hook may change what a module's forward takes or returns."""
    return any(forward_hooks(module))


def has_global_forward_hooks() -> bool:
    """Check whether hooks are registered that torch calls for all modules."""
    return any(getattr(nn.modules.module, f"_global{name}", None) for name in _HOOKS)


def optimizers(net: NeuralNet) -> list[torch.optim.Optimizer]:
    """Return all optimizers of an initialized net; most nets have one.

    A wrapper of accelerate takes no hooks, so the optimizer inside it is returned.
    """
    found = [getattr(net, f"{name}_") for name in net._optimizers]
    return [getattr(optimizer, "optimizer", optimizer) for optimizer in found]


def drop_optimizers(net: NeuralNet) -> None:
    """Set all optimizers of a net to None."""
    for name in net._optimizers:
        setattr(net, f"{name}_", None)


def criteria(net: NeuralNet) -> list[Any]:
    """Return all losses of a net, None for one that is not initialized."""
    return [getattr(net, f"{name}_", None) for name in net._criteria]


def part_names(net: NeuralNet) -> list[str]:
    """Return the names of the attributes that hold a net's modules and losses."""
    return [f"{name}_" for name in net._modules + net._criteria]


def pickles_without_best(callback: object) -> bool:
    """Check whether pickling drops a callback's weights of the best epoch.

    skorch's `EarlyStopping` drops them.
    """
    own = getattr(type(callback), "__getstate__", None)
    return own is EarlyStopping.__getstate__


def inner_schedulers(scheduler: Any) -> list[Any]:
    """Return a learning-rate schedule of torch, and all that it is made of.

    Examples
    --------
    >>> from torch.optim.lr_scheduler import ChainedScheduler, ConstantLR
    >>> optimizer = torch.optim.SGD([torch.zeros(1)])
    >>> len(inner_schedulers(ChainedScheduler([ConstantLR(optimizer)])))
    2
    """
    inner = getattr(scheduler, "_schedulers", ())
    return [scheduler, *(part for one in inner for part in inner_schedulers(one))]
