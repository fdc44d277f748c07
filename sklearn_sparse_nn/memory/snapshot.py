"""A training run as bytes, without its rows: everything that training goes on from."""

import io
import pickle
import random
from typing import Any

import cloudpickle
import numpy as np
import torch
from skorch import NeuralNet

from sklearn_sparse_nn.nets.host import mark_as_scheduled, pickles_without_best

__all__ = ["SnapshotPickler", "dump", "global_rng", "load", "restore_global_rng"]


def dump(value: Any, data: tuple[Any, ...]) -> bytes:
    """Pickle objects around a net in training, and refer to its rows.

    Parameters
    ----------
    value : object
        May hold initialized skorch nets and training runs.
    data : tuple of arrays
        Objects that are not written; `load` is given the like.

    Returns
    -------
    blob : bytes

    Raises
    ------
    Exception
        Something in it cannot be pickled, such as an open file of a callback.
    """
    buffer = io.BytesIO()
    SnapshotPickler(buffer, data).dump(value)
    return buffer.getvalue()


def load(blob: bytes, data: tuple[Any, ...]) -> Any:
    """Give back what `dump` wrote, around these rows.

    Parameters
    ----------
    blob : bytes
        From `dump`.
    data : tuple of arrays
        Equal to those it was given.

    Returns
    -------
    value : object
    """
    return _Unpickler(io.BytesIO(blob), data).load()


def global_rng() -> Any:
    """Give the state of python's, numpy's and torch's global generators."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    numpy_state = np.random.get_state()  # noqa: NPY002
    return random.getstate(), numpy_state, torch.get_rng_state(), cuda


def restore_global_rng(state: Any) -> None:
    """Put a state from `global_rng` back."""
    python_state, numpy_state, torch_state, cuda = state
    random.setstate(python_state)
    np.random.set_state(numpy_state)  # noqa: NPY002
    torch.set_rng_state(torch_state)
    if cuda:
        torch.cuda.set_rng_state_all(cuda)


class SnapshotPickler(cloudpickle.Pickler):
    """Writes a net and all around it at once.

    skorch's own way writes modules and optimizers apart from callbacks, so that a
    learning-rate schedule would come back with an optimizer of its own.
    """

    def __init__(self, file: Any, data: tuple[Any, ...]) -> None:
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL)
        self._places = {id(rows): i for i, rows in enumerate(data)}

    def persistent_id(self, obj: Any) -> int | None:
        """Return the place of rows that are not written, None for all else."""
        return self._places.get(id(obj))

    def reducer_override(self, obj: Any) -> Any:
        """Return how a net, its callbacks and generators are written."""
        if isinstance(obj, NeuralNet):
            state = dict(obj.__dict__)
            return object.__new__, (type(obj),), state, None, None, _set_state
        if pickles_without_best(obj):
            # skorch's own way leaves out the weights of the best epoch.
            return object.__new__, (type(obj),), dict(obj.__dict__)
        if isinstance(obj, torch.Generator):
            return _generator, (str(obj.device), obj.get_state())
        return super().reducer_override(obj)


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: Any, data: tuple[Any, ...]) -> None:
        super().__init__(file)
        self._data = data

    def persistent_load(self, pid: int) -> Any:
        return self._data[pid]


def _set_state(net: NeuralNet, state: dict[str, Any]) -> None:
    net.__dict__.update(state)
    for _, callback in state.get("callbacks_", []):
        optimizer = getattr(getattr(callback, "lr_scheduler_", None), "optimizer", None)
        if optimizer is not None:
            mark_as_scheduled(optimizer)


def _generator(device: str, state: torch.Tensor) -> torch.Generator:
    generator = torch.Generator(device)
    generator.set_state(state)
    return generator
