"""The difference between a person's Ctrl-C and a callback's request to stop."""

import signal
from contextlib import ExitStack, suppress
from types import FrameType

__all__ = ["InterruptWatch"]

#: SIGINT is Ctrl-C. Job schedulers send SIGTERM, and some programs let it raise
#: KeyboardInterrupt, too.
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


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
        with ExitStack() as handlers:  # a signal may come between any two lines
            for number in _SIGNALS:
                self._install(number, handlers)
            self._handlers = handlers.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._handlers.close()

    def _install(self, number: int, handlers: ExitStack) -> None:
        before = signal.getsignal(number)
        if not callable(before):  # ignored, or left to the operating system
            return

        def handle(number: int, frame: FrameType | None) -> None:
            try:
                before(number, frame)
            except KeyboardInterrupt:
                self.signalled = True
                restore()  # now, because it may interrupt the end of the context
                raise

        def restore() -> None:
            if signal.getsignal(number) is handle:  # and none that came later
                signal.signal(number, before)

        handlers.callback(restore)
        with suppress(ValueError):  # where this is not the main thread
            signal.signal(number, handle)
