"""The model file: written whole or not at all, and checked before it is used.

A file is a safetensors file. The model determines its every byte; docs/format.md
describes it. It is read here, not through the safetensors library: that holds a file
three times in memory, and accepts what this format does not.
"""

import errno
import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any, BinaryIO, Protocol, TypeAlias, TypeVar

import numpy as np

from sklearn_sparse_nn.exceptions import ModelFormatError
from sklearn_sparse_nn.runtime.file.description import assemble, describe
from sklearn_sparse_nn.runtime.file.schema import (
    NO_CHECKSUM,
    TYPES,
    Layout,
    array_bytes,
    dump,
    parse,
)
from sklearn_sparse_nn.runtime.graph import Graph
from sklearn_sparse_nn.runtime.head import Head

__all__ = ["Path", "read_model", "write_model"]

Model = TypeVar("Model")
#: The name of a file.
Path: TypeAlias = str | bytes | os.PathLike[Any]
Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]


class _Hash(Protocol):
    """A hash that takes bytes piece by piece, of hashlib."""

    def update(self, piece: bytes | memoryview, /) -> None:
        """Add bytes to the hash."""


_OPENING = '{"__metadata__":{"sklearn_sparse_nn":'
#: How every model file goes on after its first eight bytes; the checksum follows.
_PREFIX = _OPENING + '"{\\"checksum\\":\\"'
_MAX_HEADER = 12 * 2**20
_PIECE = 2**22


def read_model(path: Path, make: Callable[..., Model]) -> Model:
    """Read a model file.

    Parameters
    ----------
    path : str or path-like
        The name of the file.
    make : callable
        The maker of the model: it takes a graph, ``head`` and ``feature_names``.

    Returns
    -------
    model : object
        The result of `make`.

    Raises
    ------
    ModelFormatError
        The file is damaged, of another format, or no model file.
    OSError
        The file cannot be opened or read.
    """
    with open(path, "rb", opener=_open_unblocked) as file:
        try:
            graph, head, names = _read(file)
            return make(graph, head=head, feature_names=names)
        except (ValueError, OverflowError) as error:
            name = os.fsdecode(path)
            raise ModelFormatError(f"{name!r} is no usable model: {error}") from error


def _open_unblocked(path: str, flags: int) -> int:
    """Open a file without waiting: nobody may write to a pipe."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _read(file: BinaryIO) -> tuple[Graph, Head, list[str] | None]:
    status = os.fstat(file.fileno())
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("It is not a regular file.")
    header = _read_header(file, status.st_size)
    try:
        text, _ = json.JSONDecoder().raw_decode(header, len(_OPENING))
    except ValueError:
        raise ValueError("Its description does not end.") from None
    description, layout = parse(text)
    if header != _header(text, layout):
        raise ValueError("Its table of arrays does not fit its description.")
    expected = 8 + len(header) + sum(array_bytes(layout).values())
    if status.st_size != expected:
        raise ValueError(
            f"It has {status.st_size} bytes instead of {expected}: it is cut or "
            "damaged."
        )
    at = len(_PREFIX)
    digest = hashlib.sha256(_start(header[:at] + NO_CHECKSUM + header[at + 64 :]))
    del header, text
    arrays = _read_arrays(file, layout, digest)
    if digest.hexdigest() != description["checksum"]:
        raise ValueError("Its checksum is wrong: it is damaged.")
    return assemble(description, arrays)


def _read_header(file: BinaryIO, size: int) -> str:
    length = int.from_bytes(file.read(8), "little")
    if not len(_PREFIX) <= length <= min(size - 8, _MAX_HEADER):
        raise ValueError(
            "It does not begin as a model file of this package does, or is cut."
        )
    header = file.read(length)
    if not header.startswith(_PREFIX.encode()) or not header.isascii():
        raise ValueError("It is not a model file of this package, or is damaged.")
    return header.decode("ascii")


def _read_arrays(file: BinaryIO, layout: Layout, digest: _Hash) -> dict[str, Array]:
    """Read all arrays, each straight into its own memory, and hash them."""
    arrays = {}
    for name, (code, shape) in layout.items():
        array = np.empty(shape, dtype=TYPES[code])
        for piece in _pieces(array):
            if file.readinto(piece) != len(piece):  # type: ignore[attr-defined]
                raise ValueError("It was cut while it was read.")
            digest.update(piece)
        array.setflags(write=False)
        arrays[name] = array
    return arrays


def _pieces(array: Array) -> Iterator[memoryview]:
    """Yield the bytes of an array in pieces, as they lie in memory."""
    flat = array.reshape(-1).view(np.uint8)
    for start in range(0, len(flat), _PIECE):
        yield flat[start : start + _PIECE].data


def _header(text: str, layout: Layout) -> str:
    """Return the header of a safetensors file, padded to eight bytes."""
    header: dict[str, Any] = {"__metadata__": {"sklearn_sparse_nn": text}}
    start = 0
    for name, n_bytes in array_bytes(layout).items():
        code, shape = layout[name]
        header[name] = {
            "dtype": code,
            "shape": list(shape),
            "data_offsets": [start, start + n_bytes],
        }
        start += n_bytes
    written = json.dumps(header, separators=(",", ":"))
    return written + " " * (-len(written) % 8)


def _start(header: str) -> bytes:
    """Return the bytes before the arrays."""
    return len(header).to_bytes(8, "little") + header.encode("ascii")


def write_model(
    path: Path, graph: Graph, head: Head, feature_names: Iterable[str] | None
) -> None:
    """Write a model file: all of it, or nothing.

    Parameters
    ----------
    path : str, bytes or path-like
        The name of the file. An older file stays until the new one is complete.
    graph : Graph
        The operations of the model.
    head : Head
        The meaning of its outputs.
    feature_names : iterable of str or None
        The names of the columns of X.

    Raises
    ------
    ValueError
        The model has a part that a file cannot hold.
    OSError
        The file cannot be written, or is no ordinary file; an older file stays.
    """
    description, layout, arrays = describe(graph, head, feature_names)
    blank = _start(_header(dump(description), layout))
    digest = hashlib.sha256(blank)
    for name in layout:
        for piece in _pieces(arrays[name]):
            digest.update(piece)
    description["checksum"] = digest.hexdigest()
    start = _start(_header(dump(description), layout))
    target = _target(path)
    folder = os.path.dirname(target)
    # Its name does not contain the file's: that may be as long as names may be.
    temporary = os.path.join(folder, f".{os.urandom(8).hex()}.tmp")
    ordered = [arrays[name] for name in layout]
    try:
        _write(temporary, start, ordered)
        _compare(temporary, start, ordered)
        os.replace(temporary, target)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    _sync_folder(folder)


def _target(path: Path) -> str:
    """Find the file that a path means: of a link, the file that it points to."""
    name = os.fsdecode(path)
    target = os.path.realpath(name)
    if not os.path.basename(name) or os.path.isdir(target):
        raise IsADirectoryError(errno.EISDIR, "A model is saved in a file", name)
    if os.path.lexists(target) and not os.path.isfile(target):
        raise OSError(errno.EINVAL, "A model is saved in an ordinary file", name)
    return target


def _write(path: str, start: bytes, arrays: list[Array]) -> None:
    # os.open, for its mode is what the umask leaves of 0666, as that of any new file.
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    with open(os.open(path, flags, 0o666), "wb") as file:
        file.write(start)
        for array in arrays:
            for piece in _pieces(array):
                file.write(piece)
        file.flush()
        os.fsync(file.fileno())


def _compare(path: str, start: bytes, arrays: list[Array]) -> None:
    """Check a file against what was written, so that a bad disk is found now."""
    with open(path, "rb") as file:
        same = file.read(len(start)) == start
        for array in arrays:
            for piece in _pieces(array):
                same = same and file.read(len(piece)) == piece.tobytes()
        same = same and not file.read(1)
    if not same:
        raise OSError(errno.EIO, "The file does not read as it was written", path)


def _sync_folder(folder: str) -> None:
    """Write the new name to the disk; not every system can."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)
