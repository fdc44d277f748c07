"""What a sparse model costs: counted, not measured."""

from dataclasses import dataclass

from sklearn_sparse_nn.runtime.file.description import describe_op, describe_stage
from sklearn_sparse_nn.runtime.file.schema import array_bytes, op_layout, stage_layout
from sklearn_sparse_nn.runtime.graph import Graph, Linear, inputs_of

__all__ = ["Cost", "LayerCost", "cost_of"]


@dataclass(frozen=True)
class LayerCost:
    """What one linear layer costs.

    Attributes
    ----------
    name : str
        Its path in the net.
    shape : (int, int)
        Outputs and inputs.
    nonzeros : int
        Weights that are left; biases are not counted.
    sparsity : float
        Share of the weights of this shape that are zero; 0.0 of an empty shape.
    flops : int
        For one row: a multiplication and an addition for every non-zero.
    bytes : int
        In a file: values, columns, row starts and biases.
    """

    name: str
    shape: tuple[int, int]
    nonzeros: int
    sparsity: float
    flops: int
    bytes: int


@dataclass(frozen=True)
class Cost:
    """What a model costs.

    Attributes
    ----------
    nonzeros : int
        Weights of all linear layers.
    flops : int
        For one row, of the linear layers: two for every non-zero. Biases, activations
        and norms are left out, as they are where pruning counts FLOPs.
    bytes : int
        All arrays of the model as they are saved; the file has a header besides.
    peak_activation_bytes : int
        For one row: the most that values take which are still needed, in float32, the
        net's input among them.
    layers : tuple of LayerCost
        Every linear layer, in order.

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
    """Count what a graph costs.

    Parameters
    ----------
    graph : Graph
        The net.

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
    """Give the most columns that values take together while one is computed."""
    last, alive = graph.last_uses(), graph.widths[0]
    peak = alive
    for i, op in enumerate(graph.ops):
        alive += graph.widths[i + 1]
        peak = max(peak, alive)
        done = {v for v in (*inputs_of(op), i + 1) if last[v] <= i}
        alive -= sum(graph.widths[v] for v in done)
    return peak
