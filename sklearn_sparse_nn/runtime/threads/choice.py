"""Whether, and how, threads share a prediction: a choice by cost, as in `plan`."""

from sklearn_sparse_nn.runtime.graph import Graph
from sklearn_sparse_nn.runtime.kernels.layout import WIDE
from sklearn_sparse_nn.runtime.kernels.plan import Plan, cycles

__all__ = ["ALONE", "LINES", "Sharing"]

ALONE, LINES = -1, 0

# What it takes to meet at the board, and to read a number that another core has
# written. The second is from the slow ones of two kinds of runs on one machine; in the
# fast ones it was a quarter of that. Why there are two kinds was not found out.
_MEETING, _FOREIGN = 24_000.0, 2.3
_PIECES = 16  # of the rows, at most, for every thread
_REMEMBERED = 1000  # sizes of batches


class Sharing:
    """Chooses for one net.

    Parameters
    ----------
    graph : Graph
        The net.
    plan : Plan
        How it is run.
    """

    def __init__(self, graph: Graph, plan: Plan) -> None:
        self.graph, self.plan = graph, plan
        self._counted: dict[int, float] = {}
        self._chosen: dict[tuple[int, int], int] = {}

    def cycles(self, n: int) -> float:
        """Count the cycles of up to a tile of rows, once."""
        if n not in self._counted:
            self._counted[n] = cycles(self.graph, self.plan, n)
        return self._counted[n]

    def rows_at_once(self, n_rows: int, n_threads: int) -> int:
        """Say how many rows a thread takes at once.

        Parameters
        ----------
        n_rows : int
            At least 1.
        n_threads : int
            At least 2.

        Returns
        -------
        n : int
            Whole tiles, or half of one; `LINES` where threads share the layers of a
            tile; `ALONE` where one thread is as fast.
        """
        key = n_rows, n_threads
        chosen = self._chosen.get(key)
        if chosen is None:
            if len(self._chosen) >= _REMEMBERED:
                self._chosen = {}
            chosen = self._chosen[key] = self._choose(n_rows, n_threads)
        return chosen

    def _choose(self, n_rows: int, n_threads: int) -> int:
        n_tiles, rest = divmod(n_rows, WIDE)
        tile = self.cycles(WIDE) if n_tiles else 0.0
        alone = n_tiles * tile + (self.cycles(rest) if rest else 0.0)
        if alone < _MEETING:
            return ALONE
        n_tiles += rest > 0
        foreign = _FOREIGN * n_rows * sum(self.graph.widths)
        step = max(1, n_tiles // (_PIECES * n_threads)) * WIDE
        costs = {
            ALONE: alone,
            LINES: alone / n_threads + foreign + _MEETING,
            step: self._by_rows(n_rows, step, n_threads, alone),
        }
        if WIDE // 2 < n_rows <= WIDE:
            costs[WIDE // 2] = self.cycles(WIDE // 2) + _MEETING
        return min(costs, key=lambda n: costs[n])

    def _by_rows(self, n_rows: int, step: int, n_threads: int, alone: float) -> float:
        """Count the cycles of the thread that has most to do."""
        rounds = -(-n_rows // (step * n_threads))
        return min(alone, rounds * step / WIDE * self.cycles(WIDE)) + _MEETING
