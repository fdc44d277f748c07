"""Outputs equal the exact ones within the rounding of their own sums."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import sparse, special

from sklearn_sparse_nn.runtime import SparseModel
from sklearn_sparse_nn.runtime.activations import ACTIVATIONS
from sklearn_sparse_nn.runtime.graph import (
    Activation,
    Graph,
    InputStage,
    Linear,
    Multiply,
)
from tests.runtime.graphs import (
    BATCHES,
    exact_and_bound,
    exact_softmax,
    make_activation,
    make_graph,
    make_weight,
    nets,
    picker,
    rows_for,
    staged,
    wide_weight,
)


def within(n_examples):
    return settings(
        max_examples=n_examples,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


def assert_within_bound(found, exact, bound):
    assert found.shape == exact.shape
    off = ~(abs(found - exact) <= bound)
    assert not off.any(), (
        f"{off.sum()} of {off.size}, at {np.argwhere(off)[:5].tolist()}: "
        f"{found[off][:5]} for {exact[off][:5]} within {bound[off][:5]}"
    )


@within(5000)
@given(nets(), st.sampled_from(BATCHES), st.integers(1, 2))
def test_outputs_equal_the_exact_ones_within_rounding(graph, n, n_threads):
    X = rows_for(graph, n)
    model = SparseModel(graph, n_threads=n_threads)
    assert_within_bound(model.forward(X), *exact_and_bound(graph, staged(graph, X)))


@within(40)
@given(nets(wide=True), st.sampled_from([1, 2, 8, 9, 33, 65]))
def test_more_columns_than_16_bits_can_count(graph, n):
    X = rows_for(graph, n)
    exact, bound = exact_and_bound(graph, staged(graph, X))
    assert_within_bound(SparseModel(graph).forward(X), exact, bound)


@pytest.mark.parametrize("n_in", [65_534, 65_535, 65_536, 65_537, 131_073, 150_000])
@pytest.mark.parametrize("density", ["sparse", "grouped", "dense"])
def test_the_limits_of_16_bits(n_in, density):
    rng = np.random.default_rng(n_in)
    if density == "dense":
        weight = make_weight(rng, 5, n_in, 1)
    else:
        weight = wide_weight(rng, 21, n_in, 60)
        if density == "grouped":  # fours with the same columns
            weight = sparse.vstack([weight[[i // 4]] for i in range(21)], "csr")
    layer = Linear(0, weight, rng.normal(size=weight.shape[0]))
    graph = Graph(InputStage(n_in), (layer,))
    model = SparseModel(graph)
    X = rows_for(graph, 65)
    exact, bound = exact_and_bound(graph, X)
    for n in (1, 2, 9, 17, 33, 65):
        assert_within_bound(model.forward(X[:n]), exact[:n], bound[:n])


@within(200)
@given(nets(), st.sampled_from(BATCHES))
def test_probabilities_equal_the_exact_ones_within_rounding(graph, n):
    X = rows_for(graph, n)
    proba = SparseModel(
        graph, output="softmax", classes=np.arange(graph.n_outputs)
    ).predict_proba(X)
    raw = exact_and_bound(graph, staged(graph, X))
    assert_within_bound(proba, *exact_softmax(*raw))


def perturbed(graph, rng):
    """Give the net with one weight 0.1 % larger; None where there is no weight."""
    layers = [
        i
        for i, op in enumerate(graph.ops)
        if isinstance(op, Linear) and op.weight.count_nonzero()
    ]
    if not layers:
        return None
    i = int(rng.choice(layers))
    weight = graph.ops[i].weight.copy()
    weight.data = weight.data.copy()
    weight.data[rng.integers(len(weight.data))] *= np.float32(1.001)
    ops = list(graph.ops)
    ops[i] = replace(ops[i], weight=weight)
    return Graph(graph.stage, tuple(ops))


def test_the_bound_sees_one_weight_that_is_off_by_a_thousandth():
    moved = seen = 0
    for seed in range(400):
        graph = make_graph(picker(seed))
        other = perturbed(graph, np.random.default_rng(seed))
        if other is None:
            continue
        X = rows_for(graph, 63, seed)
        exact, bound = exact_and_bound(graph, staged(graph, X))
        off = exact_and_bound(other, staged(graph, X))[0]
        found = SparseModel(other).forward(X)
        outside = bool((abs(found - exact) > bound).any())
        if (off == exact).all():  # no output depends on it
            assert not outside
        else:
            moved, seen = moved + 1, seen + outside
    assert moved > 150
    assert seen > 0.6 * moved


@pytest.mark.parametrize("n_in", [1, 3, 16, 80, 300, 700])
@pytest.mark.parametrize("pattern", ["plain", "blocks", "dense", "empty", "empty rows"])
def test_a_layer_of_integers_equals_scipy_exactly(pattern, n_in):
    rng = np.random.default_rng(n_in)
    for n_out in (1, 4, 15, 64, 67):
        weight = make_weight(rng, n_out, n_in, 0.2, pattern)
        weight.data = rng.integers(-9, 10, size=weight.nnz).astype(np.float32)
        bias = rng.integers(-9, 10, size=n_out).astype(np.float32)
        model = SparseModel(Graph(InputStage(n_in), (Linear(0, weight, bias),)))
        for n in BATCHES:
            X = rng.integers(-9, 10, size=(n, n_in)).astype(np.float32)
            expected = (weight @ X.T).T + bias
            np.testing.assert_array_equal(model.forward(X), expected)


def test_dense_sparse_and_scipy_agree_on_random_layers():
    rng = np.random.default_rng(0)
    for n_out, n_in, density in [(64, 128, 0.1), (33, 500, 0.02), (100, 77, 0.6)]:
        weight = make_weight(rng, n_out, n_in, density)
        bias = rng.normal(size=n_out).astype(np.float32)
        model = SparseModel(Graph(InputStage(n_in), (Linear(0, weight, bias),)))
        X = rng.normal(size=(130, n_in)).astype(np.float32)
        size = (abs(weight) @ abs(X.T)).T + abs(bias)
        bound = 2 * (np.diff(weight.indptr) + 2) * 2.0**-24 * size
        for n in BATCHES:
            expected = (weight @ X[:n].T).T + bias
            assert (abs(model.forward(X[:n]) - expected) <= bound[:n]).all()


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation_in_every_tile(name):
    pick, rng = picker(1), np.random.default_rng(1)
    weights = [make_weight(rng, 37, 30, d) for d in (0.2, 1)]
    for weight in weights:
        layer = Linear(0, weight, rng.normal(size=37), make_activation(pick, rng, name))
        graph = Graph(InputStage(30), (layer,))
        model = SparseModel(graph)
        X = 4 * rows_for(graph, 130)
        exact, bound = exact_and_bound(graph, X)
        for n in BATCHES:
            assert_within_bound(model.forward(X[:n]), exact[:n], bound[:n])


def test_products_in_every_tile():
    rng = np.random.default_rng(2)
    ops = [
        Linear(0, make_weight(rng, 37, 30, 0.3), rng.normal(size=37)),
        Linear(
            0, make_weight(rng, 37, 30, 0.3), rng.normal(size=37), Activation("sigmoid")
        ),
        Multiply((1, 2), Activation("leaky_relu", (0.5,))),
        Multiply((3, 3)),
    ]
    graph = Graph(InputStage(30), tuple(ops))
    model, X = SparseModel(graph), rows_for(graph, 130)
    exact, bound = exact_and_bound(graph, X)
    for n in BATCHES:
        assert_within_bound(model.forward(X[:n]), exact[:n], bound[:n])
    assert np.array_equal(model.forward(X)[7], model.forward(X[7:8])[0])
    with pytest.raises(ValueError, match=r"\(multiply\) reads 1 values, not 2"):
        Graph(InputStage(30), (Multiply((0,)),))


@pytest.mark.parametrize("ends", ["regressor", "softmax", "sigmoid"])
def test_predictions_follow_from_the_outputs(ends):
    rng = np.random.default_rng(0)
    n_out = 1 if ends == "sigmoid" else 3
    layer = Linear(0, make_weight(rng, n_out, 9, 0.5), rng.normal(size=n_out))
    graph = Graph(InputStage(9), (layer,))
    X = rows_for(graph, 70)
    raw = SparseModel(graph).forward(X)
    if ends == "regressor":
        model = SparseModel(graph, target_mean=5, target_scale=2)
        expected = raw.astype(np.float64) * 2 + 5
        np.testing.assert_array_equal(model.predict(X), expected)
        return
    classes = np.array(["a", "b", "c"][: max(2, n_out)])
    model = SparseModel(graph, output=ends, classes=classes)
    proba = model.predict_proba(X)
    if ends == "sigmoid":
        expected = special.expit(np.c_[-raw, raw].astype(np.float64))
    else:
        expected = special.softmax(raw.astype(np.float64), axis=1)
    np.testing.assert_allclose(proba, expected, rtol=1e-5, atol=1e-7)
    assert (model.predict(X) == classes[proba.argmax(axis=1)]).all()


def onnx_session(graph):
    """Write the same net for ONNX Runtime."""
    onnx = pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    from onnx import TensorProto, helper, numpy_helper

    nodes, constants, value = [], [], "v0"
    names = {"relu": "Relu", "tanh": "Tanh", "sigmoid": "Sigmoid"}
    for i, op in enumerate(graph.ops):
        constants += [
            numpy_helper.from_array(op.weight.toarray(), f"w{i}"),
            numpy_helper.from_array(op.bias, f"b{i}"),
        ]
        reads = [value, f"w{i}", f"b{i}"]
        value = f"v{i + 1}"
        nodes.append(helper.make_node("Gemm", reads, [value], transB=1))
        if op.activation.name != "identity":
            kind = names[op.activation.name]
            nodes.append(helper.make_node(kind, [value], [f"a{i}"]))
            value = f"a{i}"
    shapes = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, width])
        for name, width in (("v0", graph.widths[0]), (value, graph.n_outputs))
    ]
    net = helper.make_graph(nodes, "net", shapes[:1], shapes[1:], constants)
    model = helper.make_model(net, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = min(model.ir_version, 9)
    onnx.checker.check_model(model)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    return runtime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


@pytest.mark.parametrize("widths", [(8, 3), (30, 64, 2), (50, 256, 128, 64, 1)])
@pytest.mark.parametrize("name", ["relu", "tanh", "sigmoid"])
def test_mlps_equal_onnx_runtime(widths, name):
    rng = np.random.default_rng(0)
    for density in (0.05, 0.3, 1):
        ops = []
        for i, (n_in, n_out) in enumerate(pairwise(widths)):
            activation = Activation(name if i < len(widths) - 2 else "identity")
            weight = make_weight(rng, n_out, n_in, density)
            ops.append(Linear(i, weight, rng.normal(size=n_out), activation))
        graph = Graph(InputStage(widths[0]), tuple(ops))
        session, model = onnx_session(graph), SparseModel(graph)
        for n in (1, 7, 64, 130):
            X = rows_for(graph, n)
            (theirs,) = session.run(None, {"v0": X})
            # Theirs has another order of sums, and polynomials that err by more.
            np.testing.assert_allclose(model.forward(X), theirs, rtol=1e-5, atol=1e-5)
            assert_within_bound(model.forward(X), *exact_and_bound(graph, X))
