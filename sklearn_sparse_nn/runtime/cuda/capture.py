"""The capture of torch operations in CUDA graphs, their replay and their timing.

A body is a function that reads static tensors and returns a static tensor. On a GPU it
is captured once and replayed, so that one launch runs all of it. On a CPU it is called;
so everything but the capture is tested without a GPU.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor

__all__ = ["Capture", "Stream", "Timer", "measure"]

#: A timer of bodies with the same result: microseconds by name, without failed ones.
Timer: TypeAlias = Callable[[Mapping[str, Callable[[], Tensor]]], dict[str, float]]

_cuda: Any = torch.cuda  # its classes have no types
_WARM_UP = 3  # as torch's own make_graphed_callables
_ROUNDS = 7
_ROUND_SECONDS = 5e-4  # long against the clock's ticks, and against a launch


class Stream:
    """One stream of a device, and the memory that its graphs share.

    Graphs that share memory must not run at the same time: everything runs on this
    stream, and the caller holds a lock.

    Parameters
    ----------
    device : torch.device
        The device. Anything but a GPU has no streams: work is done at once.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.is_cuda = device.type == "cuda"
        self.own: Any = _cuda.Stream(device) if self.is_cuda else None
        self.pool: Any = _cuda.graph_pool_handle() if self.is_cuda else None

    def __enter__(self) -> "Stream":
        """Run all that follows on the own stream, after the caller's work."""
        if self.is_cuda:
            self._caller = _cuda.current_stream(self.device)
            self.own.wait_stream(self._caller)
            self._context = _cuda.stream(self.own)
            self._context.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        """Make the caller's later work wait for the own stream."""
        if self.is_cuda:
            self._context.__exit__(*error)
            self._caller.wait_stream(self.own)


class Capture:
    """A body that is ready to run again and again.

    Parameters
    ----------
    body : callable
        The function to capture: it takes no arguments and returns a tensor.
    stream : Stream
        The stream. The caller has entered it, here and for every `replay`.
    pool : object or None, default=None
        The memory shared with other graphs of the stream; None for own memory.
    """

    def __init__(
        self, body: Callable[[], Tensor], stream: Stream, pool: object = None
    ) -> None:
        self._body, self._graph = body, None
        self.out: Tensor
        if not stream.is_cuda:
            return
        for _ in range(_WARM_UP):  # libraries load and choose their kernels
            body()
        stream.own.synchronize()
        graph = _cuda.CUDAGraph()
        # Other threads may allocate meanwhile: only this one is watched.
        with _cuda.graph(
            graph, pool=pool, stream=stream.own, capture_error_mode="thread_local"
        ):
            self.out = body()
        self._graph = graph

    def replay(self) -> Tensor:
        """Run the body; its earlier result is overwritten."""
        if self._graph is None:
            self.out = self._body()
        else:
            self._graph.replay()
        return self.out


def measure(stream: Stream) -> Timer:
    """Build a timer: it returns medians of rounds in which all bodies take turns.

    Parameters
    ----------
    stream : Stream
        The stream. The caller has entered it when the timer is called.

    Returns
    -------
    timer : callable
    """

    def timer(bodies: Mapping[str, Callable[[], Tensor]]) -> dict[str, float]:
        ready: dict[str, Capture] = {}
        for name, body in bodies.items():
            try:
                ready[name] = Capture(body, stream)
            except RuntimeError:
                continue  # a kernel that cannot be captured cannot be used, either
        calls = {
            name: max(1, int(_ROUND_SECONDS / max(_seconds(capture, stream, 1), 1e-7)))
            for name, capture in ready.items()
        }
        times: dict[str, list[float]] = {name: [] for name in ready}
        for _ in range(_ROUNDS):
            for name, capture in ready.items():
                seconds = _seconds(capture, stream, calls[name])
                times[name].append(1e6 * seconds)
        return {name: statistics.median(taken) for name, taken in times.items()}

    return timer


def _seconds(capture: Capture, stream: Stream, calls: int) -> float:
    """Measure the seconds of one call, as the mean of `calls` in a row."""
    if not stream.is_cuda:
        started = time.perf_counter()
        for _ in range(calls):
            capture.replay()
        return (time.perf_counter() - started) / calls
    begin, end = (_cuda.Event(enable_timing=True) for _ in range(2))
    begin.record(stream.own)
    for _ in range(calls):
        capture.replay()
    end.record(stream.own)
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1e3 / calls
