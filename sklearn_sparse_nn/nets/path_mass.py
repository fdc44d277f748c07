"""The mass of all paths through a net: SynFlow's objective."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from sklearn_sparse_nn.nets.activations import copy_module
from sklearn_sparse_nn.nets.layers import prunable_layers
from sklearn_sparse_nn.nets.modules import ELEMENTWISE, OUTPUTS, Standardize
from sklearn_sparse_nn.nets.sampling import Sample

__all__ = ["path_mass_slopes"]

_NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm, nn.LocalResponseNorm)
_THROUGH = (Standardize, *_NORMS, *ELEMENTWISE, *OUTPUTS)


def path_mass_slopes(sample: Sample) -> dict[str, Tensor]:
    """Differentiate the mass of all paths by the absolute weights.

    The mass is ``1' |W_L| ... |W_1| 1``: outputs for inputs of one, absolute weights,
    no biases, activations and norms passed over. An embedding, which cannot look up
    ones, is fed the rows of the sample.

    Parameters
    ----------
    sample : Sample
        Net and rows.

    Returns
    -------
    path_grad : dict of layer name to float64 Tensor of the weight's shape
    """
    twin = sample.net
    own = twin.module_
    twin.module_ = _linearized(own)
    layers = prunable_layers(twin.module_)
    weights = [layers[name].weight for name in sample.layers]
    try:
        with torch.enable_grad():
            mass = torch.stack([_mass(twin, X) for X in _inputs(sample)]).sum()
            grads = torch.autograd.grad(mass, weights, allow_unused=True)
    finally:
        twin.module_ = own
    return {
        name: torch.zeros_like(weight) if grad is None else grad.to_dense()
        for name, weight, grad in zip(sample.layers, weights, grads, strict=True)
    }


def _linearized(module: nn.Module) -> nn.Module:
    """Copy a module with absolute weights, no biases, nothing but linear maps."""
    copy: Any = copy_module(module).double()
    if isinstance(copy, _THROUGH):
        return nn.Identity()
    for parent in list(copy.modules()):
        for name, child in list(parent._modules.items()):  # one may come twice
            if isinstance(child, _THROUGH):
                parent._modules[name] = nn.Identity()
    with torch.no_grad():
        for name, parameter in copy.named_parameters():
            if name.split(".")[-1].startswith("bias"):
                parameter.zero_()
            else:
                parameter.abs_()
    return copy


def _inputs(sample: Sample) -> list[Tensor]:
    batches = [X for X, _, _ in sample.batches()]
    if batches[0].is_floating_point():
        return [torch.ones_like(batches[0][:1], dtype=torch.float64)]
    return batches


def _mass(net: Any, X: Tensor) -> Tensor:
    outputs = net.infer(X)
    return (outputs[0] if isinstance(outputs, tuple) else outputs).sum()
