"""SynFlow's objective: the sum over all paths through a net."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from sklearn_sparse_nn.nets.copies import copy_module
from sklearn_sparse_nn.nets.host import AnyBatchNorm
from sklearn_sparse_nn.nets.layers import PrunableLayer, prunable_layers
from sklearn_sparse_nn.nets.modules import ELEMENTWISE, OUTPUTS, Standardize
from sklearn_sparse_nn.statistics.sampling import Sample
from sklearn_sparse_nn.statistics.uses import Calls, StatisticError

__all__ = ["path_mass_slopes"]

_NORMS = (AnyBatchNorm, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm, nn.LocalResponseNorm)
_THROUGH = (Standardize, *_NORMS, *ELEMENTWISE, *OUTPUTS)
_LOOKUPS = (nn.Embedding, nn.EmbeddingBag)
_NAMES = ("relu", "relu_", "tanh", "tanh_", "sigmoid", "sigmoid_")
_FUNCTIONS = {
    *(getattr(place, name) for place in (torch, Tensor) for name in _NAMES),
    *(
        getattr(F, name)
        for name in (
            *("relu", "relu6", "leaky_relu", "elu", "celu", "selu", "gelu", "silu"),
            *("mish", "softplus", "softsign", "hardtanh", "hardswish", "tanh"),
            *("sigmoid", "hardsigmoid", "logsigmoid", "dropout", "batch_norm"),
            *("layer_norm", "group_norm", "instance_norm", "rms_norm"),
            "local_response_norm",
        )
    ),
}


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
    linear = False
    # A forward may convert to a type itself; what fails last is what is raised.
    dtypes = dict.fromkeys((torch.float64, torch.float32, _dtype_of(sample)))
    for dtype in dtypes:
        twin.module_ = _linearized(own, dtype)
        layers = prunable_layers(twin.module_)
        weights = [layers[name].weight for name in sample.layers]
        try:
            with torch.enable_grad():
                mass = _mass(sample, layers, dtype)
                grads = torch.autograd.grad(mass, weights, allow_unused=True)
            with torch.no_grad():
                linear = _is_linear(sample, layers, dtype, mass)
            break
        except RuntimeError:
            if dtype is [*dtypes][-1]:
                raise
        finally:
            twin.module_ = own
    slopes = {
        name: torch.zeros_like(weight) if grad is None else grad.to_dense()
        for name, weight, grad in zip(sample.layers, weights, grads, strict=True)
    }
    positive = [bool((slope >= 0).all()) for slope in slopes.values()]
    if not linear or not all(positive) or not any(s.any() for s in slopes.values()):
        raise StatisticError(
            f"The paths through {type(own).__name__} cannot be followed: its forward "
            "does more than pass on what layers and modules give. Write activations "
            "and norms as modules, or choose an importance other than 'synflow'."
        )
    return slopes


def _linearized(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Copy a module, with absolute weights and without all that is not linear."""
    copy = copy_module(module).to(dtype)
    for child in copy.modules():
        if isinstance(child, _THROUGH):  # its attributes may still be read
            vars(child)["forward"] = _pass_on
    with torch.no_grad():
        for name, parameter in copy.named_parameters():
            if name.split(".")[-1].startswith("bias") or name.endswith("_bias"):
                parameter.zero_()
            else:
                parameter.abs_()
    return copy


def _pass_on(values: Any, *args: Any, **kwargs: Any) -> Any:
    """Return the first argument: an activation or a norm is on every path."""
    return values


class _Through(TorchFunctionMode):
    """Pass on the inputs of activations and norms that are called as functions."""

    def __torch_function__(
        self,
        function: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call a function of torch, if it is none of these."""
        kwargs = dict(kwargs or {})
        if function in _FUNCTIONS:
            return args[0] if args else kwargs["input"]
        return function(*args, **kwargs)


def _is_linear(
    sample: Sample, layers: dict[str, PrunableLayer], dtype: torch.dtype, mass: Tensor
) -> bool:
    """Check whether doubled inputs double the mass, as they do where all is linear."""
    tables = [m for m in sample.net.module_.modules() if isinstance(m, _LOOKUPS)]
    floats = tables and any(map(_has_floats, sample.batches()))
    if floats:
        return True  # some of them may be entries to look up, and cannot be doubled
    for table in tables:
        table.weight.mul_(2)
    doubled = _mass(sample, layers, dtype, 1 if tables else 2)
    return torch.allclose(doubled, 2 * mass, rtol=1e-5, atol=0)


def _inputs(sample: Sample, dtype: torch.dtype, scale: int) -> Iterator[Any]:
    """Yield a row of ones, or the sample's rows if the net has an embedding."""
    looks_up = any(isinstance(m, _LOOKUPS) for m in sample.net.module_.modules())
    for X, _, _ in sample.batches():
        if not torch.is_tensor(X) or not X.is_floating_point():
            yield X
        elif looks_up:
            yield X.to(dtype).abs()
        else:
            yield torch.full_like(X[:1], scale, dtype=dtype)
            return


def _mass(
    sample: Sample, layers: dict[str, PrunableLayer], dtype: torch.dtype, scale: int = 1
) -> Tensor:
    """Sum the outputs of the layer that runs last."""
    masses = []
    with _Through(), Calls(layers) as calls:
        for X in _inputs(sample, dtype, scale):
            sample.net.infer(X)
            if calls.last is not None:
                masses.append(calls.last[2].sum())
    return torch.stack(masses).sum()


def _dtype_of(sample: Sample) -> torch.dtype:
    return next(layer.weight.dtype for layer in sample.layers.values())


def _has_floats(batch: tuple[Any, Any, int]) -> bool:
    return not torch.is_tensor(batch[0]) or batch[0].is_floating_point()
