"""Snapshots of training: nets, runs and all around them as bytes."""

import io
import pickle
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import cloudpickle
import torch
from skorch import NeuralNet
from torch.optim.lr_scheduler import LambdaLR

from sklearn_sparse_nn.nets.host import pickles_without_best
from sklearn_sparse_nn.nets.seeding import plain_torch

__all__ = ["Snapshot"]


@dataclass(frozen=True)
class Snapshot:
    """Objects around a net in training, as bytes; each `restore` is another copy.

    Parameters
    ----------
    blob : bytes
        The objects, without the parts.
    parts : tuple
        Classes and functions that the objects refer to. They are not copied: in the
        same process they stay the same objects, with the globals that they use, also
        where they were defined in a notebook. When the snapshot is pickled, they are
        pickled as whoever does so would do it.

    Examples
    --------
    >>> import numpy as np
    >>> rows = np.zeros(3)
    >>> snapshot = Snapshot.of({"rows": rows, "epoch": 3}, data=(rows,))
    >>> snapshot.restore(data=(np.ones(3),))
    {'rows': array([1., 1., 1.]), 'epoch': 3}
    """

    blob: bytes
    parts: tuple[Any, ...] = ()

    @classmethod
    def of(
        cls, value: Any, *, data: tuple[Any, ...] = (), live: bool = False
    ) -> "Snapshot":
        """Build a snapshot.

        Parameters
        ----------
        value : object
            The objects; there may be initialized skorch nets and training runs.
        data : tuple of object
            Objects that are not written, such as rows; `restore` needs equal ones.
        live : bool, default=False
            Whether classes and functions stay the objects that they are, as parts.
            Otherwise they are pickled, by name or by their code.

        Returns
        -------
        snapshot : Snapshot

        Raises
        ------
        Exception
            Something in it cannot be pickled, such as an open file of a callback.
        """
        file = io.BytesIO()
        pickler = _Pickler(file, data, live=live)
        pickler.dump(value)
        return cls(file.getvalue(), tuple(pickler.parts))

    def restore(self, *, data: tuple[Any, ...] = ()) -> Any:
        """Build the objects anew.

        Parameters
        ----------
        data : tuple of object
            Objects equal to those that were not written.

        Returns
        -------
        value : object
        """
        # Tensors that are made in inference mode cannot be trained.
        with plain_torch(own_net=True, autocast=True):
            return _Unpickler(io.BytesIO(self.blob), (*data, *self.parts)).load()


class _Pickler(cloudpickle.Pickler):
    """A pickler that writes a net and all around it at once.

    skorch's own way writes modules and optimizers apart from callbacks, so that a
    learning-rate schedule would come back with an optimizer of its own.
    """

    def __init__(self, file: io.BytesIO, data: tuple[Any, ...], *, live: bool) -> None:
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL)
        self.parts: list[Any] = []
        self._places = {id(obj): place for place, obj in enumerate(data)}
        self._n_data, self._live = len(data), live

    def persistent_id(self, obj: Any) -> int | None:
        """Return the place of what is not written, None for all else."""
        is_code = isinstance(obj, (type, FunctionType))
        if self._live and is_code and id(obj) not in self._places:
            self._places[id(obj)] = self._n_data + len(self.parts)
            self.parts.append(obj)
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
    def __init__(self, file: io.BytesIO, data: tuple[Any, ...]) -> None:
        super().__init__(file)
        self._data = data

    def persistent_load(self, pid: int) -> Any:
        return self._data[pid]


def _set_state(net: NeuralNet, state: dict[str, Any]) -> None:
    net.__dict__.update(state)
    for _, callback in state.get("callbacks_", []):
        optimizer = getattr(getattr(callback, "lr_scheduler_", None), "optimizer", None)
        if optimizer is not None:
            _watch_steps(optimizer)


def _watch_steps(optimizer: torch.optim.Optimizer) -> None:
    """Make torch note an optimizer's steps, as any learning-rate schedule does.

    What torch does for that is not pickled, and without it a schedule warns of steps in
    the wrong order. A schedule by the factor 1 has torch do it again.
    """
    begun = [dict(group) for group in optimizer.param_groups]
    LambdaLR(optimizer, lambda epoch: 1)
    for group, before in zip(optimizer.param_groups, begun, strict=True):
        group.clear()
        group.update(before)


def _generator(device: str, state: torch.Tensor) -> torch.Generator:
    generator = torch.Generator(device)
    generator.set_state(state)
    return generator
