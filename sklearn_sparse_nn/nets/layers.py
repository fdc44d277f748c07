"""The prunable layers of a torch module, and the shapes of their weights."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn

from sklearn_sparse_nn.exceptions import UnknownNameError
from sklearn_sparse_nn.nets.host import (
    AnyConv,
    AnyConvTranspose,
    original,
    own_parameters,
)

__all__ = [
    "PrunableLayer",
    "as_sparse",
    "is_prunable",
    "match_layers",
    "prunable_layers",
    "unprunable_weights",
    "zero_mask",
]

_PRUNABLE = (nn.Linear, AnyConv, nn.Embedding, nn.EmbeddingBag)
_INPUTS_FIRST = (nn.Embedding, nn.EmbeddingBag, AnyConvTranspose)


@dataclass(frozen=True)
class PrunableLayer:
    """A layer whose weight can be pruned.

    Parameters
    ----------
    name : str
        The path of the module, such as ``"hidden_0"`` or ``"encoder.2"``.
    module : nn.Module
        The layer itself.
    inputs_first : bool
        Whether the weight has shape (in, out, ...) instead of (out, in, ...), as in
        embeddings and transposed convolutions.
    """

    name: str
    module: nn.Module
    inputs_first: bool

    @property
    def weight(self) -> nn.Parameter:
        """The weight, as the module's own parameter."""
        return self.module.get_parameter("weight")

    def turned(self, tensor: Tensor) -> Tensor:
        """Transpose a tensor of the weight's shape to (out, in, ...), or back."""
        return tensor.transpose(0, 1) if self.inputs_first else tensor


def is_prunable(module: nn.Module) -> bool:
    """Check whether a module's weight can be pruned.

    Parameters
    ----------
    module : nn.Module
        A single module; modules inside it do not count.

    Returns
    -------
    prunable : bool
        True for Linear, Conv and Embedding layers.

    Examples
    --------
    >>> is_prunable(nn.Linear(2, 3)), is_prunable(nn.LayerNorm(3))
    (True, False)
    """
    return isinstance(module, _PRUNABLE)


def prunable_layers(module: nn.Module) -> dict[str, PrunableLayer]:
    """Find the Linear, Conv and Embedding layers of a module.

    Norms and biases are never pruned.

    Parameters
    ----------
    module : nn.Module
        The whole net, compiled or not. A weight that two layers share is listed once,
        under the first of them.

    Returns
    -------
    layers : dict of name to PrunableLayer
        The layers, in order of registration.

    Raises
    ------
    ValueError
        The module has no such layer, or a weight is computed from other parameters.

    Examples
    --------
    >>> list(prunable_layers(nn.Sequential(nn.Linear(2, 3), nn.ReLU())))
    ['0']
    """
    layers: dict[str, PrunableLayer] = {}
    seen: set[int] = set()
    for path, child in original(module).named_modules():
        if not is_prunable(child):
            continue
        name = path or type(child).__name__.lower()
        weight = own_parameters(child).get("weight")
        if weight is None:
            raise ValueError(
                f"The weight of layer {name!r} is computed from other parameters "
                "(a parametrization, weight_norm or torch.nn.utils.prune), so zeros "
                "cannot be held in it. Make it plain first, as with "
                "torch.nn.utils.parametrize.remove_parametrizations or "
                "torch.nn.utils.prune.remove."
            )
        if id(weight) not in seen:
            seen.add(id(weight))
            layers[name] = PrunableLayer(name, child, isinstance(child, _INPUTS_FIRST))
    if not layers:
        found = sorted({type(child).__name__ for child in module.modules()})
        raise ValueError(
            "The net has no prunable layer: Linear, Conv and Embedding weights are "
            f"pruned, and its modules are {', '.join(found)}."
        )
    return layers


def unprunable_weights(module: nn.Module) -> list[tuple[str, Tensor]]:
    """List the weights of a net that are in no prunable layer.

    Parameters
    ----------
    module : nn.Module
        The whole net, compiled or not.

    Returns
    -------
    weights : list of (str, Tensor)
        Parameters of two and more dimensions: of recurrent and bilinear layers, the
        input projection of attention, a module's own. Biases and norms are no weights.

    Examples
    --------
    >>> [name for name, _ in unprunable_weights(nn.GRU(2, 3))]
    ['weight_ih_l0', 'weight_hh_l0']
    """
    module = original(module)
    prunable = {
        id(weight)
        for child in module.modules()
        if is_prunable(child)
        and (weight := own_parameters(child).get("weight")) is not None
    }
    return [
        (name, weight.detach())
        for name, weight in module.named_parameters()
        if weight.ndim > 1 and id(weight) not in prunable
    ]


def match_layers(
    names: Iterable[str], patterns: str | Iterable[str] | None
) -> tuple[str, ...]:
    """Choose layers by shell-style patterns.

    Parameters
    ----------
    names : iterable of str
        The names of all layers.
    patterns : str, iterable of str or None
        One pattern or several, such as ``"hidden_*"`` or ``["encoder.*", "head"]``, or
        a parameter's name such as ``"head.weight"``. None stands for all layers.

    Returns
    -------
    chosen : tuple of str
        The names that match, in the order of `names`.

    Raises
    ------
    UnknownNameError
        If a pattern matches no layer.

    Examples
    --------
    >>> match_layers(["hidden_0", "hidden_1", "output"], "hidden_*")
    ('hidden_0', 'hidden_1')
    """
    names = list(names)
    if patterns is None:
        return tuple(names)
    chosen: set[str] = set()
    patterns = [patterns] if isinstance(patterns, str) else list(patterns)
    if not patterns or not all(isinstance(pattern, str) for pattern in patterns):
        raise ValueError(
            f"Layers are chosen by one or more patterns such as {names[0]!r}; got "
            f"{patterns!r}. Layers: {', '.join(map(repr, names))}."
        )
    for pattern in patterns:
        hits = {
            name
            for name in names
            if fnmatchcase(name, pattern) or fnmatchcase(f"{name}.weight", pattern)
        }
        if not hits:
            raise UnknownNameError("layer pattern", pattern, names)
        chosen |= hits
    return tuple(name for name in names if name in chosen)


def as_sparse(
    layer: PrunableLayer,
    format: str,
    block: tuple[int, int] | None,
) -> Any:
    """Return a layer's weight as a scipy.sparse array.

    Parameters
    ----------
    layer : PrunableLayer
        The layer. A convolution's weight is (out, in * kernel), an embedding's
        (dim, entries).
    format : {"csr", "csc", "coo", "bsr", "dense"}
        The format of the result; ``"dense"`` is an ndarray.
    block : (int, int) or None
        The block size of ``"bsr"``, used if it divides the shape; scipy chooses one
        otherwise.

    Returns
    -------
    weight : csr_array, csc_array, coo_array, bsr_array or ndarray of shape (out, in)
        A copy, float32 for a float32 net. Sparse formats store only non-zeros and,
        in ``"bsr"``, the zeros of a stored block.
    """
    with torch.no_grad():
        matrix = layer.turned(layer.weight.detach()).flatten(1).cpu().numpy()
    matrix = np.array(matrix, order="C")  # a copy: the caller may write to it
    if format == "dense":
        return matrix
    csr = sparse.csr_array(matrix)
    if format == "bsr":
        fits = block and not any(n % b for n, b in zip(csr.shape, block, strict=True))
        return csr.tobsr(blocksize=block if fits else None)
    return csr.asformat(format)


def zero_mask(layers: Mapping[str, PrunableLayer]) -> dict[str, Tensor]:
    """Return masks of the weights that are not zero, (out, in, ...), on the CPU."""
    return {
        name: (layer.turned(layer.weight.detach()) != 0).cpu()
        for name, layer in layers.items()
    }
