"""Objects in training, put away between two calls as bytes, and copied by it."""

import io
from dataclasses import dataclass
from types import FunctionType
from typing import Any

from sklearn_sparse_nn.memory.snapshot import SnapshotPickler, load

__all__ = ["Kept", "keep"]


@dataclass(frozen=True)
class Kept:
    """What was put away.

    Classes and functions are not copied: in the same process they stay the same
    objects, with the globals that they use, also where they were defined in a notebook.
    When this is pickled, they are pickled as whoever does so would do it.

    Parameters
    ----------
    blob : bytes
        The objects.
    parts : tuple
        Classes and functions that these refer to.
    """

    blob: bytes
    parts: tuple[Any, ...]

    def copy(self) -> Any:
        """Give a copy of the objects; another one at every call."""
        return load(self.blob, self.parts)


def keep(value: Any) -> Kept:
    """Put objects around a net in training away.

    Parameters
    ----------
    value : object
        May hold initialized skorch nets and training runs.

    Returns
    -------
    kept : Kept

    Raises
    ------
    Exception
        Something in it cannot be pickled, such as an open file of a callback.
    """
    file = io.BytesIO()
    pickler = _LivePickler(file)
    pickler.dump(value)
    return Kept(file.getvalue(), tuple(pickler.parts))


class _LivePickler(SnapshotPickler):
    def __init__(self, file: Any) -> None:
        super().__init__(file, ())
        self.parts: list[Any] = []

    def persistent_id(self, obj: Any) -> int | None:
        if not isinstance(obj, (type, FunctionType)):
            return None
        place = self._places.setdefault(id(obj), len(self.parts))
        if place == len(self.parts):
            self.parts.append(obj)
        return place
