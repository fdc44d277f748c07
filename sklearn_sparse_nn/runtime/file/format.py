"""The model file: written whole or not at all, and checked before it is used.

A file is a safetensors file. The model determines its every byte; docs/format.md
describes it. It is read here, not through the safetensors library: that holds a file
three times in memory, and accepts what this format does not.
"""

import errno
import hashlib
import io
import json
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import chain
from typing import Any, Protocol, TypeAlias, TypeVar

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
from sklearn_sparse_nn.runtime.file.streams import (
    Source,
    Stream,
    Target,
    write_all,
)
from sklearn_sparse_nn.runtime.graph import Graph
from sklearn_sparse_nn.runtime.head import Head

__all__ = ["read_model", "write_model"]

Model = TypeVar("Model")
#: A file on the disk, a file in memory, or a file object of the caller.
_Open: TypeAlias = io.BufferedReader | io.BytesIO | Stream
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


def read_model(source: Source, make: Callable[..., Model]) -> Model:
    """Read a model file.

    Parameters
    ----------
    source : str, path-like, bytes-like or file object
        The name of the file, its content, or an object with ``read``.
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
    TypeError
        `source` is something else, or a file object for text.
    """
    if isinstance(source, bytes | bytearray | memoryview):
        content = bytes(source)
        name = f"A {type(source).__name__} (content, never a name: see os.fsdecode)"
        return _made(io.BytesIO(content), len(content), name, make)
    if isinstance(source, str | os.PathLike):
        with open(source, "rb", opener=_open_unblocked) as file:
            return _made(file, None, repr(os.fsdecode(source)), make)
    if not hasattr(source, "read"):
        raise TypeError(
            "A model is loaded from a name (str or path-like), from the content of a "
            f"file (bytes) or from an object with read; got a {type(source).__name__}."
        )
    return _made(Stream(source), None, _name_of(source), make)


def _name_of(file: object) -> str:
    """Return a file object's own name, or its kind."""
    name = getattr(file, "name", None)
    named = isinstance(name, str) and name
    return repr(name) if named else f"A {type(file).__name__}"


def _made(
    file: _Open, size: int | None, name: str, make: Callable[..., Model]
) -> Model:
    """Read a model from an open file, and say whose fault it is if that fails."""
    try:
        graph, head, names = _read(file, size)
        return make(graph, head=head, feature_names=names)
    except (ValueError, OverflowError) as error:
        if isinstance(error, OSError):  # a file object that cannot be read is both
            raise
        raise ModelFormatError(f"{name} is no usable model: {error}") from error


def _open_unblocked(path: str, flags: int) -> int:
    """Open a file without waiting: nobody may write to a pipe."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _read(file: _Open, size: int | None) -> tuple[Graph, Head, list[str] | None]:
    """Read a file of a known size, a file on the disk, or a stream."""
    if isinstance(file, io.BufferedReader):
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("It is not a regular file.")
        size = status.st_size
    header = _read_header(file, size)
    try:
        text, _ = json.JSONDecoder().raw_decode(header, len(_OPENING))
    except ValueError:
        raise ValueError("Its description does not end.") from None
    description, layout = parse(text)
    if header != _header(text, layout):
        raise ValueError("Its table of arrays does not fit its description.")
    expected = 8 + len(header) + sum(array_bytes(layout).values())
    if isinstance(file, Stream):  # as much as there is, and no more than there may be
        rest = file.read(expected - 8 - len(header) + 1)
        size, file = 8 + len(header) + len(rest), io.BytesIO(rest)
    if size != expected:
        more = "or more " if size == expected + 1 else ""
        raise ValueError(
            f"It has {size} {more}bytes instead of {expected}: it is cut or damaged."
        )
    at = len(_PREFIX)
    digest = hashlib.sha256(_start(header[:at] + NO_CHECKSUM + header[at + 64 :]))
    del header, text
    arrays = _read_arrays(file, layout, digest)
    if digest.hexdigest() != description["checksum"]:
        raise ValueError("Its checksum is wrong: it is damaged.")
    return assemble(description, arrays)


def _read_header(file: _Open, size: int | None) -> str:
    start = file.read(8)
    if not start:
        end = " from where it stands: seek(0) goes back" if size is None else ""
        raise ValueError(f"It is empty{end}.")
    length = int.from_bytes(start, "little")
    most = _MAX_HEADER if size is None else min(size - 8, _MAX_HEADER)
    if not len(_PREFIX) <= length <= most:
        raise ValueError(
            "It does not begin as a model file of this package does, or is cut."
        )
    header = file.read(length)
    if len(header) < length:
        raise ValueError("It is cut within its header.")
    if not header.startswith(_PREFIX.encode()) or not header.isascii():
        raise ValueError("It is not a model file of this package, or is damaged.")
    return header.decode("ascii")


def _read_arrays(
    file: io.BufferedReader | io.BytesIO, layout: Layout, digest: _Hash
) -> dict[str, Array]:
    """Read all arrays, each straight into its own memory, and hash them."""
    arrays = {}
    for name, (code, shape) in layout.items():
        array = np.empty(shape, dtype=TYPES[code])
        for piece in _pieces(array):
            if file.readinto(piece) != len(piece):
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
    target: Target, graph: Graph, head: Head, feature_names: Iterable[str] | None
) -> None:
    """Write a model file: all of it, or nothing.

    Parameters
    ----------
    target : str, bytes, path-like or file object
        The name of the file, or an object with ``write``. An older file stays until
        the new one is complete; a file object gets all bytes and stays open.
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
    TypeError
        `target` is something else, or a file object for text.
    """
    named = isinstance(target, str | bytes | os.PathLike)
    if not named and not hasattr(target, "write"):
        raise TypeError(
            "A model is saved to a name (str, bytes or path-like) or to an object with "
            f"write; got a {type(target).__name__}."
        )
    description, layout, arrays = describe(graph, head, feature_names)
    blank = _start(_header(dump(description), layout))
    digest = hashlib.sha256(blank)
    for name in layout:
        for piece in _pieces(arrays[name]):
            digest.update(piece)
    description["checksum"] = digest.hexdigest()
    start = _start(_header(dump(description), layout))
    ordered = [arrays[name] for name in layout]
    if isinstance(target, str | bytes | os.PathLike):
        _replace(os.fsdecode(target), start, ordered)
    else:
        write_all(target, chain([start], *map(_pieces, ordered)))


def _replace(name: str, start: bytes, arrays: list[Array]) -> None:
    """Put a new file in the place of an older one, in one step."""
    target = _target(name)
    folder = os.path.dirname(target)
    # Its name does not contain the file's: that may be as long as names may be.
    temporary = os.path.join(folder, f".{os.urandom(8).hex()}.tmp")
    try:
        _write(temporary, start, arrays)
        _compare(temporary, start, arrays)
        os.replace(temporary, target)
        _sync_folder(folder)
    except BaseException as error:
        with suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, OSError):  # the caller knows the one name only
            error.filename = name
            del error.filename2
        raise


def _target(name: str) -> str:
    """Find the file that a name means: of a link, the file that it points to."""
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
