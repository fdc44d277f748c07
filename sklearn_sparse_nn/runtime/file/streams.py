"""The places that a model is read from and written to: names, bytes, file objects."""

import errno
import io
import os
from collections.abc import Iterable
from typing import Any, Protocol, TypeAlias

__all__ = ["Path", "Readable", "Source", "Stream", "Target", "Writable", "write_all"]


class Readable(Protocol):
    """An object that gives bytes, such as an open file."""

    def read(self, n: int = ..., /) -> bytes:
        """Read at most `n` bytes, none at the end."""


class Writable(Protocol):
    """An object that takes bytes, such as an open file."""

    def write(self, piece: bytes, /) -> object:
        """Write bytes; the result may be their number."""


#: The name of a file.
Path: TypeAlias = str | bytes | os.PathLike[Any]
#: What a model is read from: a name, the content of a file, or an open file.
Source: TypeAlias = str | os.PathLike[Any] | bytes | bytearray | memoryview | Readable
#: What a model is written to.
Target: TypeAlias = Path | Writable

_PIECE = 2**22


class Stream:
    """Bytes of a file object, from where it stands.

    Parameters
    ----------
    file : object
        An object with ``read``, which may return fewer bytes than it is asked for, or
        take no number. It is neither closed nor moved back.

    Raises
    ------
    ValueError
        The file is closed.
    TypeError
        It was opened for text.
    """

    def __init__(self, file: Readable) -> None:
        _refuse_closed(file)
        if isinstance(file, io.TextIOBase):
            raise _text(file)
        self._file = file
        self._ahead = b""

    def read(self, n: int) -> bytes:
        """Read `n` bytes, or fewer where the file ends."""
        parts, size = [self._ahead], len(self._ahead)
        while size < n and (piece := self._next(min(_PIECE, n - size))):
            parts.append(piece)
            size += len(piece)
        whole = b"".join(parts)
        self._ahead = whole[n:]
        return whole[:n]

    def _next(self, n: int) -> bytes:
        """Read once."""
        try:
            piece: object = self._file.read(n)
        except UnicodeDecodeError as error:
            raise _text(self._file) from error
        except TypeError:  # it takes no number
            piece = self._file.read()
        if isinstance(piece, str):
            raise _text(self._file)
        if not isinstance(piece, bytes | bytearray | memoryview):
            raise TypeError(
                f"The read of a {type(self._file).__name__} must return bytes; it "
                f"returned a {type(piece).__name__}."
            )
        return bytes(piece)


def write_all(file: Writable, pieces: Iterable[bytes | memoryview]) -> None:
    """Write bytes to a file object, and leave it open.

    Parameters
    ----------
    file : object
        An object with ``write``, which may write fewer bytes than it is given and
        return their number.
    pieces : iterable of bytes or memoryview
        The bytes.

    Raises
    ------
    ValueError
        The file is closed.
    TypeError
        It was opened for text, or takes no bytes.
    OSError
        It takes no more bytes.
    """
    _refuse_closed(file)
    for piece in pieces:
        rest = bytes(piece)  # a copy that nobody changes, for those who keep it
        while rest:
            try:
                written = file.write(rest)
            except TypeError as error:
                raise _text(file) from error
            if written == 0 or (written is None and isinstance(file, io.RawIOBase)):
                raise OSError(errno.EIO, "The file object takes no more bytes")
            rest = rest[written:] if isinstance(written, int) else b""


def _refuse_closed(file: object) -> None:
    if getattr(file, "closed", False) is True:
        raise ValueError(
            f"The {type(file).__name__} is closed; give one that is open in binary "
            "mode, or the name of a file."
        )


def _text(file: object) -> TypeError:
    """Return the error of a file object for text."""
    return TypeError(
        f"A model is bytes, and this {type(file).__name__} is for something else: open "
        "it in binary mode ('rb' to load, 'wb' to save)."
    )
