"""Where `SparseModel.to` leads: the checks before a GPU is used.

Torch is loaded here and nowhere else in the runtime, when a GPU is asked for.
"""

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sklearn_sparse_nn.runtime.model import SparseModel

__all__ = ["PRECISIONS", "move"]

#: How much rounding is allowed, from none beyond float32's to bfloat16's.
PRECISIONS = ("float32", "tf32", "bf16")


def move(model: "SparseModel", device: Any, precision: str) -> Any:
    """Put a model on a device; see `SparseModel.to`.

    Parameters
    ----------
    model : SparseModel
        The model on the CPU.
    device : str or torch.device
        ``"cpu"``, ``"cuda"`` or ``"cuda:<index>"``.
    precision : {"float32", "tf32", "bf16"}
        What a GPU may compute with.

    Returns
    -------
    model : SparseModel or CudaModel
    """
    index = _parse(str(device))
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {PRECISIONS}; got {precision!r}.")
    if index is None:
        if precision != "float32":
            raise ValueError(
                f"On the CPU a model computes in float32; got precision={precision!r}, "
                'which needs device="cuda".'
            )
        return model
    torch = _load_torch(str(device))
    count = torch.cuda.device_count()
    if not torch.cuda.is_available() or count == 0:
        raise RuntimeError(
            f'to("{device}") needs a CUDA GPU and a torch build with CUDA; torch '
            f"{torch.__version__} here has none."
        )
    if index < 0:  # "cuda" alone is the current one, as torch has it
        index = torch.cuda.current_device()
    if index >= count:
        raise ValueError(
            f'to("{device}"): there are {count} GPUs here, "cuda:0" to '
            f'"cuda:{count - 1}".'
        )
    from sklearn_sparse_nn.runtime.cuda.model import CudaModel

    return CudaModel(model, torch.device("cuda", index), precision)


def _parse(device: str) -> int | None:
    """Give the index of a GPU, -1 for the current one, None for the CPU."""
    if device == "cpu":
        return None
    match = re.fullmatch(r"cuda(?::(0|[1-9][0-9]{0,3}))?", device)
    if match is None:
        raise ValueError(
            f'device must be "cpu", "cuda" or "cuda:<index>"; got {device!r}.'
        )
    return -1 if match[1] is None else int(match[1])


def _load_torch(device: str) -> Any:
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            f'to("{device}") needs torch with CUDA: install it as '
            "https://pytorch.org/get-started/locally says."
        ) from error
    return torch
