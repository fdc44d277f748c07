"""The operations of a graph in torch, and the ways to multiply by a sparse weight.

This file is imported only when a GPU is named.
"""

import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse
from torch import Tensor
from torch.nn import functional

from sklearn_sparse_nn.runtime.graph import (
    Activation,
    Add,
    Affine,
    Concat,
    Csr,
    InputStage,
    Ints,
    Linear,
    Multiply,
    Op,
    Softmax,
    Vector,
)

__all__ = [
    "Function",
    "candidates",
    "default",
    "float32_products",
    "multiply",
    "op_on",
    "stage_on",
    "torch_alone",
]

#: A function of a tensor, such as ``x @ weight.T + bias`` in one of the ways.
Function: TypeAlias = Callable[[Tensor], Tensor]

BLOCKS = (16, 32, 64)
_MOST_DENSITY = 0.5  # above it CSR and blocks cannot win: they were never close
_FLAGS = threading.RLock()  # torch's switches belong to the whole process

#: The activations that `torch.nn.functional` has not under their own names, or for
#: which it refuses parameters that the other backends take.
_OWN_NAMES: dict[str, Callable[..., Tensor]] = {
    "identity": lambda x: x,
    "hardtanh": torch.clamp,
    "gelu_tanh": partial(functional.gelu, approximate="tanh"),
}


@contextmanager
def float32_products(*, tf32: bool) -> Iterator[None]:
    """Set torch's switch for TF32 in float32 products, and restore it at the end.

    The switch is changed only where it is not set so already. For a captured graph it
    may change back: the kernel is chosen at the capture.
    """
    switches: Any = torch.backends.cuda.matmul
    with _FLAGS:
        # Since torch 2.9 this one counts; the old one may then not even be read.
        new = hasattr(switches, "fp32_precision")
        name = "fp32_precision" if new else "allow_tf32"
        before = getattr(switches, name)
        if (before == "tf32" if new else before) == tf32:
            yield
            return
        if new and before == getattr(torch.backends, name):
            before = "none"  # it follows the general switch, and does so again later
        value = "tf32" if tf32 else "ieee"
        setattr(switches, name, value if new else tf32)
        try:
            yield
        finally:
            setattr(switches, name, before)


@contextmanager
def torch_alone(device: torch.device) -> Iterator[None]:
    """Switch off the caller's autocast and autograd, and torch's beta warnings."""
    with (
        _FLAGS,
        torch.no_grad(),
        torch.autocast(device.type, enabled=False),
        warnings.catch_warnings(),
    ):
        # Invariants hold: a `Linear` checks its weight on construction.
        for words in ("beta state", "prototype", "non-optimal triton", "invariant"):
            words = f"(?s).*{words}"
            warnings.filterwarnings("ignore", words, UserWarning)
        yield


def candidates(op: Linear, device: torch.device, precision: str) -> list[str]:
    """List the ways to multiply by a weight that its mask and the precision allow.

    Parameters
    ----------
    op : Linear
        The layer.
    device : torch.device
        The device; 2:4 needs a GPU.
    precision : {"float32", "tf32", "bf16"}
        The precision; it allows its own kernels and those of the more exact ones.

    Returns
    -------
    names : list of str
        Some of ``dense``, ``dense tf32``, ``dense bf16``, ``csr``, ``bsr <block>``,
        ``bsr <block> bf16`` and ``2:4 bf16``; the first is used without measurement.
    """
    names = [default(precision)]
    if precision != "float32":
        names.append("dense")
    if precision == "bf16":
        names.append("dense tf32")
    n_out, n_in = op.weight.shape
    nnz = op.weight.nnz
    if nnz == 0:
        return names
    if nnz <= _MOST_DENSITY * n_out * n_in:
        names.append("csr")
    for block in BLOCKS:
        if n_out % block or n_in % block:
            continue
        if _block_density(op.weight, block) <= _MOST_DENSITY:
            names.append(f"bsr {block}")
            if precision == "bf16":
                names.append(f"bsr {block} bf16")
    if precision == "bf16" and device.type == "cuda" and is_two_of_four(op.weight):
        names.append("2:4 bf16")
    return names


def default(precision: str) -> str:
    """Return the way that is used for a layer that was not measured."""
    return {"float32": "dense", "tf32": "dense tf32", "bf16": "dense bf16"}[precision]


def _block_density(weight: Csr, block: int) -> float:
    """Return the share of square blocks that have a non-zero."""
    coo = sparse.coo_array(weight)
    n_across = weight.shape[1] // block
    living = np.unique(coo.row // block * np.int64(n_across) + coo.col // block)
    return float(len(living) * block * block / (weight.shape[0] * weight.shape[1]))


def is_two_of_four(weight: Csr) -> bool:
    """Return whether at most two of every four inputs live, in a shape for GPUs."""
    n_out, n_in = weight.shape
    if n_out % 32 or n_in % 64:  # CUTLASS's; cuSPARSELt takes these too
        return False
    coo = sparse.coo_array(weight)
    groups = coo.row * np.int64(n_in // 4) + coo.col // 4
    return bool(np.bincount(groups, minlength=1).max() <= 2)


def multiply(op: Linear, name: str, device: torch.device) -> Function:
    """Prepare one way to multiply by a layer's weight.

    Parameters
    ----------
    op : Linear
        The layer; its activation is left out.
    name : str
        The way, one of `candidates`.
    device : torch.device
        The device of the weights.

    Returns
    -------
    multiply : callable
        A function of a tensor of shape (n_rows, n_in), float32 or bfloat16. It returns
        a tensor of shape (n_rows, n_out) of the kernel's own type.
    """
    dtype = torch.bfloat16 if name.endswith("bf16") else torch.float32
    bias = _tensor(op.bias, device).to(dtype)
    if name == "csr":
        w = op.weight
        kind = np.int32 if w.nnz < 2**31 else np.int64  # int32 is half to read
        rows, columns = (_tensor(i.astype(kind), device) for i in (w.indptr, w.indices))
        weight = torch.sparse_csr_tensor(
            rows, columns, _tensor(w.data, device), w.shape
        )
        return partial(_sparse_product, weight, bias)
    dense = _tensor(op.weight.toarray(), device).to(dtype)
    if name.startswith("bsr"):
        block = int(name.split()[1])
        return partial(_sparse_product, dense.to_sparse_bsr((block, block)), bias)
    if name.startswith("2:4"):
        return partial(_dense_product, _semi_structured(dense), bias, False)
    return partial(_dense_product, dense, bias, name == "dense tf32")


def _semi_structured(dense: Tensor) -> Tensor:
    packed: Tensor = torch.sparse.to_sparse_semi_structured(dense)
    return packed


def _dense_product(weight: Tensor, bias: Tensor, tf32: bool, x: Tensor) -> Tensor:
    with float32_products(tf32=tf32):
        return functional.linear(x.to(bias.dtype), weight, bias)


def _sparse_product(weight: Tensor, bias: Tensor, x: Tensor) -> Tensor:
    with float32_products(tf32=False):
        product: Tensor = weight @ x.to(bias.dtype).t()
    return product.add_(bias[:, None]).t()


def _tensor(array: npt.ArrayLike, device: torch.device) -> Tensor:
    """Copy an array to a device; torch does not know read-only arrays."""
    return torch.from_numpy(np.array(array)).to(device)


def stage_on(stage: InputStage, device: torch.device) -> Function:
    """Prepare the input stage for rows of float32.

    Parameters
    ----------
    stage : InputStage
        The input stage.
    device : torch.device
        The device of its arrays. They are copied now: a captured graph cannot do it.

    Returns
    -------
    apply : callable
        A function of a tensor of shape (n_rows, n_features), which returns one of shape
        (n_rows, width).
    """

    def on_device(array: Vector | Ints | None, dtype: npt.DTypeLike) -> Tensor | None:
        return None if array is None else _tensor(array.astype(dtype), device)

    columns = on_device(stage.columns, np.int64)
    fill = on_device(stage.fill, np.float32)
    shift = on_device(stage.shift, np.float32)
    scale = on_device(stage.scale, np.float32)

    def apply(x: Tensor) -> Tensor:
        if columns is not None:
            x = x.index_select(1, columns)
        if fill is not None:
            x = torch.where(torch.isnan(x), fill, x)
        if shift is not None and scale is not None:
            x = (x - shift) / scale
        return x

    return apply


def op_on(op: Op, device: torch.device) -> Callable[[list[Tensor]], Tensor]:
    """Prepare an operation; for a `Linear`, only its activation.

    Parameters
    ----------
    op : operation
        The operation.
    device : torch.device
        The device of its arrays.

    Returns
    -------
    apply : callable
        A function of a list of tensors of shape (n_rows, width), the values that the
        operation reads: bfloat16 after a layer of that precision. It returns one such
        tensor.
    """
    if isinstance(op, Concat):
        return partial(torch.cat, dim=1)
    if isinstance(op, Softmax):
        # Norms and softmax stay in float32, as under torch.autocast.
        softmax = torch.log_softmax if op.log else torch.softmax
        return lambda values: softmax(values[0].float(), 1)
    function = activation_of(op.activation)
    if isinstance(op, Linear):
        return lambda values: function(values[0])
    if isinstance(op, Add):
        return lambda values: function(values[0] + values[1])
    if isinstance(op, Multiply):
        return lambda values: function(values[0] * values[1])
    if isinstance(op, Affine):
        scale, shift = _tensor(op.scale, device), _tensor(op.shift, device)
        return lambda values: function(values[0].float() * scale + shift)
    weight, bias, eps = _tensor(op.weight, device), _tensor(op.bias, device), op.eps
    return lambda values: function(
        functional.layer_norm(values[0].float(), weight.shape, weight, bias, eps)
    )


def activation_of(activation: Activation) -> Function:
    """Return an activation by torch's own formula."""
    name, params = activation.name, activation.params
    function = _OWN_NAMES.get(name) or getattr(functional, name)
    return lambda x: function(x, *params)
