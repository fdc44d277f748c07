"""SynFlow's objective: the sum over all paths through a net."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from sklearn_sparse_nn.nets.copies import copy_module
from sklearn_sparse_nn.nets.host import AnyBatchNorm, own_modules
from sklearn_sparse_nn.nets.layers import PrunableLayer, prunable_layers
from sklearn_sparse_nn.nets.modules import ELEMENTWISE, OUTPUTS, Standardize
from sklearn_sparse_nn.statistics.sampling import Calls, Sample

__all__ = ["path_mass_slopes"]

_NORMS = (AnyBatchNorm, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm, nn.LocalResponseNorm)
_THROUGH = (Standardize, *_NORMS, *ELEMENTWISE, *OUTPUTS)


def path_mass_slopes(sample: Sample) -> dict[str, Tensor]:
    """Compute the gradient of the path mass with respect to the absolute weights.

    The mass is ``1' |W_L| ... |W_1| 1``: the sum of the last layer's outputs for inputs
    of one and absolute weights, without biases, activations and norms. A net with an
    embedding, which cannot look up ones, gets the rows of the sample.

    Parameters
    ----------
    sample : Sample
        The net and the rows.

    Returns
    -------
    path_grad : dict of layer name to Tensor of the weight's shape
        The gradients, none of them negative.

    Raises
    ------
    ValueError
        The mass does not grow with the weights, so the forward has other operations.
    """
    twin = sample.net
    own = twin.module_
    grads: tuple[Tensor | None, ...] = ()
    for dtype in (torch.float64, torch.float32):
        twin.module_ = _linearized(own, dtype)
        layers = prunable_layers(twin.module_)
        weights = [layers[name].weight for name in sample.layers]
        try:
            with torch.enable_grad():
                mass = _mass(sample, layers, dtype)
                grads = torch.autograd.grad(mass, weights, allow_unused=True)
            break
        except RuntimeError:  # a forward may convert to float32 itself
            if dtype is torch.float32:
                raise
        finally:
            twin.module_ = own
    slopes = {
        name: torch.zeros_like(weight) if grad is None else grad.to_dense()
        for name, weight, grad in zip(sample.layers, weights, grads, strict=True)
    }
    positive = [bool((slope >= 0).all()) for slope in slopes.values()]
    if not all(positive) or not any(slope.any() for slope in slopes.values()):
        raise ValueError(
            f"The paths through {type(own).__name__} cannot be followed: its forward "
            "does more than pass on what layers and modules give. Write activations "
            "and norms as modules, or choose an importance other than 'synflow'."
        )
    return slopes


def _linearized(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Copy a module, with absolute weights and without all that is not linear."""
    copy = copy_module(module).to(dtype)
    if isinstance(copy, _THROUGH):
        return nn.Identity()
    for parent in list(copy.modules()):
        children = own_modules(parent)  # one may come twice
        for name, child in list(children.items()):
            if isinstance(child, _THROUGH):
                children[name] = nn.Identity()
    with torch.no_grad():
        for name, parameter in copy.named_parameters():
            if name.split(".")[-1].startswith("bias"):
                parameter.zero_()
            else:
                parameter.abs_()
    return copy


def _inputs(sample: Sample, dtype: torch.dtype) -> Iterator[Any]:
    """Yield a row of ones, or the sample's rows if the net has an embedding."""
    lookups = (nn.Embedding, nn.EmbeddingBag)
    looks_up = any(isinstance(m, lookups) for m in sample.net.module_.modules())
    for X, _, _ in sample.batches():
        if not torch.is_tensor(X) or not X.is_floating_point():
            yield X
        elif looks_up:
            yield X.to(dtype).abs()
        else:
            yield torch.ones_like(X[:1], dtype=dtype)
            return


def _mass(
    sample: Sample, layers: dict[str, PrunableLayer], dtype: torch.dtype
) -> Tensor:
    """Sum the outputs of the layer that runs last."""
    masses = []
    with Calls(sample.net.module_, layers) as calls:
        for X in _inputs(sample, dtype):
            sample.net.infer(X)
            masses.append(calls.last.sum())
    return torch.stack(masses).sum()
