"""The cost of a sparse model: counted, not measured."""

from dataclasses import dataclass

from sklearn_sparse_nn.runtime.file.description import describe_op, describe_stage
from sklearn_sparse_nn.runtime.file.schema import array_bytes, op_layout, stage_layout
from sklearn_sparse_nn.runtime.graph import Graph, Linear, inputs_of

__all__ = ["Cost", "LayerCost", "cost_of"]


@dataclass(frozen=True)
class LayerCost:
    """The cost of one linear layer.

    Attributes
    ----------
    name : str
        The path of the layer in the net.
    shape : (int, int)
        The numbers of outputs and inputs.
    nonzeros : int
        The number of weights that are left; biases are not counted.
    sparsity : float
        The share of the weights of this shape that are zero; 0.0 for an empty shape.
    flops : int
        The operations for one row: a multiplication and an addition per non-zero.
    bytes : int
        The bytes in a file: values, columns, row starts and biases.
    """

    name: str
    shape: tuple[int, int]
    nonzeros: int
    sparsity: float
    flops: int
    bytes: int


@dataclass(frozen=True)
class Cost:
    """The cost of a model.

    Attributes
    ----------
    nonzeros : int
        The number of weights of all linear layers.
    flops : int
        The operations of the linear layers for one row: two per non-zero. Biases,
        activations and norms are left out, as they are where pruning counts FLOPs.
    bytes : int
        The bytes of all arrays as they are saved; the file has a header besides.
    peak_activation_bytes : int
        The largest number of bytes, for one row, of the values that are still needed,
        in float32; the net's input is one of them.
    layers : tuple of LayerCost
        The costs of the linear layers, in order.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy import sparse
    >>> from sklearn_sparse_nn.runtime.graph import InputStage
    >>> weight = sparse.csr_array(np.array([[0.0, 2.0]], dtype=np.float32))
    >>> cost = cost_of(Graph(InputStage(2), (Linear(0, weight, [1.0]),)))
    >>> cost.nonzeros, cost.flops, cost.bytes, cost.peak_activation_bytes
    (1, 2, 18, 12)
    """

    nonzeros: int
    flops: int
    bytes: int
    peak_activation_bytes: int
    layers: tuple[LayerCost, ...]


def cost_of(graph: Graph) -> Cost:
    """Count the cost of a graph.

    Parameters
    ----------
    graph : Graph
        The operations of the net.

    Returns
    -------
    cost : Cost
    """
    layers = []
    n_bytes = sum(array_bytes(stage_layout(describe_stage(graph.stage))).values())
    for op in graph.ops:
        own = sum(array_bytes(op_layout(describe_op(op)[0])).values())
        n_bytes += own
        if isinstance(op, Linear):
            n_out, n_in = op.weight.shape
            nonzeros, size = len(op.weight.data), n_out * n_in
            sparsity = 1 - nonzeros / size if size else 0.0
            layers.append(
                LayerCost(op.name, (n_out, n_in), nonzeros, sparsity, 2 * nonzeros, own)
            )
    nonzeros = sum(layer.nonzeros for layer in layers)
    peak = _peak_width(graph) * 4
    return Cost(nonzeros, 2 * nonzeros, n_bytes, peak, tuple(layers))


def _peak_width(graph: Graph) -> int:
    """Return the largest number of columns that are needed at one time."""
    last, alive = graph.last_uses(), graph.widths[0]
    peak = alive
    for i, op in enumerate(graph.ops):
        alive += graph.widths[i + 1]
        peak = max(peak, alive)
        done = {v for v in (*inputs_of(op), i + 1) if last[v] <= i}
        alive -= sum(graph.widths[v] for v in done)
    return peak
