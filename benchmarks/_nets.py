"""Nets of random weights with an exact sparsity, the same for every peer."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy import sparse

WIDTHS = {
    "small": (64, 256, 256, 10),
    "mid": (128, 1024, 1024, 512, 10),
    "wide": (617, 2048, 26),
}


@dataclass(frozen=True, eq=False)
class Net:
    """Weights of shape (out, in), biases, and rows to predict, all float32."""

    name: str
    sparsity: float
    weights: tuple
    biases: tuple
    X: np.ndarray

    @property
    def dense(self):
        return [weight.toarray() for weight in self.weights]

    @property
    def widths(self):
        return WIDTHS[self.name]


def make_net(name, sparsity, n_rows):
    """Draw a ReLU net; every layer has the same share of zeros, to the weight."""
    rng = np.random.default_rng(round(1e6 * sparsity) + 17 * len(name))
    widths = WIDTHS[name]
    weights, biases = [], []
    for before, after in pairwise(widths):
        size = before * after
        kept = max(1, size - round(sparsity * size))
        weight = np.zeros(size, dtype=np.float32)
        places = rng.choice(size, kept, replace=False)
        # He's scale for the weights that live keeps the variance of activations from
        # layer to layer, so that about half of every hidden layer is alive.
        scale = np.sqrt(2 * after / kept)
        weight[places] = scale * rng.standard_normal(kept, dtype=np.float32)
        weights.append(sparse.csr_array(weight.reshape(after, before)))
        biases.append(0.1 * rng.standard_normal(after, dtype=np.float32))
    X = rng.standard_normal((n_rows, widths[0]), dtype=np.float32)
    return Net(name, sparsity, tuple(weights), tuple(biases), X)


def exact_outputs(net):
    """Compute raw outputs in float64, the oracle of every peer."""
    values = net.X.astype(np.float64)
    last = len(net.weights) - 1
    for i, (weight, bias) in enumerate(zip(net.dense, net.biases, strict=True)):
        values = values @ weight.astype(np.float64).T + bias
        if i < last:
            np.maximum(values, 0, out=values)
    return values


def onnx_bytes(net):
    """Write the net as ONNX: Gemm and Relu, any number of rows."""
    from onnx import TensorProto, helper, numpy_helper

    nodes, arrays, value = [], [], "X"
    last = len(net.weights) - 1
    for i, (weight, bias) in enumerate(zip(net.dense, net.biases, strict=True)):
        arrays.append(numpy_helper.from_array(weight, f"W{i}"))
        arrays.append(numpy_helper.from_array(bias, f"b{i}"))
        after = "Y" if i == last else f"z{i}"
        inputs = [value, f"W{i}", f"b{i}"]
        nodes.append(helper.make_node("Gemm", inputs, [after], transB=1))
        if i < last:
            nodes.append(helper.make_node("Relu", [after], [f"h{i}"]))
        value = f"h{i}"
    ends = [
        helper.make_tensor_value_info(end, TensorProto.FLOAT, ["rows", width])
        for end, width in (("X", net.widths[0]), ("Y", net.widths[-1]))
    ]
    graph = helper.make_graph(nodes, net.name, ends[:1], ends[1:], arrays)
    # Old enough for every reader here; none is faster with a newer one.
    opset = [helper.make_opsetid("", 13)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=7)
    return model.SerializeToString()
