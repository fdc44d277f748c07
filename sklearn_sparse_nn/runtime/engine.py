"""What runs a graph: the kernels, or scipy where there is no numba."""

from typing import Protocol

import numpy as np
from scipy import special

from sklearn_sparse_nn.runtime.graph import Floats, Graph
from sklearn_sparse_nn.runtime.inputs import apply_narrow
from sklearn_sparse_nn.runtime.reference import evaluate

__all__ = ["Engine", "ReferenceEngine", "make_engine"]


class Engine(Protocol):
    """Runs one graph."""

    def run(
        self, X: Floats, out: Floats, *, proba: bool, staged: bool, n_threads: int
    ) -> None:
        """Write raw outputs, or their softmax.

        Parameters
        ----------
        X : ndarray of shape (n_rows, n_features), float32, C-contiguous
            Raw rows; with `staged`, of shape (n_rows, width): value 0.
        out : ndarray of shape (n_rows, n_outputs), float32, C-contiguous
            Where to write.
        proba : bool
            Whether to take the softmax of every row.
        staged : bool
            Whether X has passed the input stage already.
        n_threads : int
            At most so many own threads.
        """

    def hidden(self, values: Floats, upto: int) -> Floats:
        """Give value `upto` for rows of value 0."""


class ReferenceEngine:
    """Runs a graph with scipy and numpy.

    Parameters
    ----------
    graph : Graph
        The net.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph

    def run(
        self, X: Floats, out: Floats, *, proba: bool, staged: bool, n_threads: int
    ) -> None:
        """Write raw outputs, or their softmax."""
        values = X if staged else apply_narrow(X, self.graph.stage)
        out[...] = evaluate(self.graph, values)
        if proba:
            out[...] = special.softmax(out, axis=1)

    def hidden(self, values: Floats, upto: int) -> Floats:
        """Give value `upto` for rows of value 0."""
        result: Floats = evaluate(self.graph, np.asarray(values), upto=upto)
        return result


def make_engine(graph: Graph) -> Engine:
    """Choose what runs a graph."""
    return ReferenceEngine(graph)
