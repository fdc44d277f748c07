"""The choice whether threads share a prediction, by the costs of its kernels."""

from dataclasses import dataclass

from sklearn_sparse_nn.runtime.graph import Graph
from sklearn_sparse_nn.runtime.kernels.choice import Plan, cycles
from sklearn_sparse_nn.runtime.kernels.layout import WIDE

__all__ = ["NEVER_SHARED", "Sharing"]

NEVER_SHARED = WIDE // 2  # up to so many rows: half of a tile is the least piece
_START = 200_000.0  # cycles, about 65 us: to wake a helper, and its end
_PIECES = 4  # for every thread, about; each takes the interpreter's lock once


@dataclass(frozen=True)
class Sharing:
    """The cost of a net's rows, and the choice that follows from it.

    Parameters
    ----------
    half, whole : float
        The cycles of half a tile of rows and of a whole one.
    """

    half: float
    whole: float

    @classmethod
    def of(cls, graph: Graph, plan: Plan) -> "Sharing":
        """Count the cycles of a net under a plan."""
        return cls(cycles(graph, plan, WIDE // 2), cycles(graph, plan, WIDE))

    def rows_at_once(self, n_rows: int, n_threads: int) -> int | None:
        """Choose how many rows a thread takes at once.

        Parameters
        ----------
        n_rows : int
            The number of rows, at least 1.
        n_threads : int
            The number of threads, at least 1.

        Returns
        -------
        n : int or None
            A number of whole tiles, or half a tile; None where one thread is as fast.
        """
        if n_rows <= NEVER_SHARED:
            return None
        if n_rows <= WIDE:
            n, cost = WIDE // 2, self.half
        else:
            n_tiles = max(1, n_rows // (WIDE * _PIECES * n_threads))
            n, cost = n_tiles * WIDE, n_tiles * self.whole
        rounds = -(-n_rows // (n * n_threads))
        alone = n_rows / WIDE * self.whole
        return n if rounds * cost + _START < alone else None
