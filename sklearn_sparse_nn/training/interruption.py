"""The difference between a person's Ctrl-C and a callback's request to stop."""

import signal
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

__all__ = ["InterruptWatch"]

#: SIGINT is Ctrl-C. Job schedulers send SIGTERM, and some programs let it raise
#: KeyboardInterrupt, too.
_SIGNALS = (signal.SIGINT, signal.SIGTERM)

_Handler = Callable[[int, FrameType | None], Any]


class InterruptWatch:
    """Record whether a signal raises KeyboardInterrupt inside a context.

    A KeyboardInterrupt while `signalled` is False was raised by code: skorch's
    callbacks ask for the end of training so. Inside the context, a signal's handler is
    called through one that records what it raises. Afterwards the handler is as it was.

    A handler of the user's own is called as before. If it returns, and so leaves the
    stop to a callback, nothing is recorded. Only the main thread gets signals; in
    another one, nothing is recorded. Contexts can be nested: each records a signal.

    Attributes
    ----------
    signalled : bool
        Whether a signal has raised KeyboardInterrupt since the context began.

    Examples
    --------
    >>> with InterruptWatch() as watch:
    ...     try:
    ...         raise KeyboardInterrupt
    ...     except KeyboardInterrupt:
    ...         print(watch.signalled)
    False
    """

    signalled = False

    def __enter__(self) -> "InterruptWatch":
        self.signalled = False
        self._replaced: dict[int, tuple[_Handler, _Handler]] = {}
        try:  # a signal may come between any two lines
            for number in _SIGNALS:
                self._install(number)
        except BaseException:
            self._restore()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        try:
            self._restore()
        finally:  # a signal may have ended the line above half way
            self._restore()

    def _install(self, number: int) -> None:
        before = signal.getsignal(number)
        if not callable(before):  # ignored, or left to the operating system
            return

        def handle(number: int, frame: FrameType | None) -> None:
            try:
                before(number, frame)
            except KeyboardInterrupt:
                self.signalled = True
                self._restore()  # now, because it may interrupt the end of the context
                raise

        self._replaced[number] = handle, before
        with suppress(ValueError):  # where this is not the main thread
            signal.signal(number, handle)

    def _restore(self) -> None:
        for number, (handle, before) in self._replaced.items():
            if signal.getsignal(number) is handle:  # and none that came later
                signal.signal(number, before)
