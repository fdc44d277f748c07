"""The checks of a device and a precision, before a GPU is used.

Torch is loaded here and nowhere else in the runtime, when a GPU is named.
"""

import re
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

__all__ = ["PRECISIONS", "find_device"]

#: The precisions, from the most exact to the fastest.
PRECISIONS = ("float32", "tf32", "bf16")


def find_device(device: object, precision: str) -> "torch.device | None":
    """Find the GPU that a model shall run on.

    Parameters
    ----------
    device : str or torch.device
        ``"cpu"``, ``"cuda"`` or ``"cuda:<index>"``.
    precision : {"float32", "tf32", "bf16"}
        The lowest precision that a GPU may compute with.

    Returns
    -------
    device : torch.device or None
        None for the CPU.

    Raises
    ------
    ImportError
        A GPU is named and torch is not installed.
    RuntimeError
        There is no GPU, or torch was built without CUDA.
    ValueError
        Another device, or another precision.
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
        return None
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
    return torch.device("cuda", index)  # type: ignore[no-any-return]


def _parse(device: str) -> int | None:
    """Return the index of a GPU, -1 for the current one, None for the CPU."""
    if device == "cpu":
        return None
    match = re.fullmatch(r"cuda(?::(0|[1-9][0-9]{0,3}))?", device)
    if match is None:
        raise ValueError(
            f'device must be "cpu", "cuda" or "cuda:<index>"; got {device!r}.'
        )
    return -1 if match[1] is None else int(match[1])


def _load_torch(device: str) -> ModuleType:
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            f'to("{device}") needs torch with CUDA: install it as '
            "https://pytorch.org/get-started/locally says."
        ) from error
    return torch
