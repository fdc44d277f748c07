"""A row has the same bits alone and in any batch, under any plan, on any thread."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sklearn_sparse_nn.runtime import SparseModel
from sklearn_sparse_nn.runtime.activations import ACTIVATIONS
from sklearn_sparse_nn.runtime.graph import (
    Activation,
    Concat,
    Graph,
    InputStage,
    LayerNorm,
    Linear,
    Softmax,
)
from sklearn_sparse_nn.runtime.kernels.choice import Choice, Plan, choose
from tests.runtime.graphs import (
    BATCHES,
    kernels_only,
    make_activation,
    make_weight,
    nets,
    picker,
    rows_for,
    run,
    wide_weight,
)

pytestmark = kernels_only


def within(n_examples):
    return settings(
        max_examples=n_examples,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


def assert_same_bits(found, expected):
    assert found.shape == expected.shape
    off = found.view(np.int32) != expected.view(np.int32)
    assert not off.any(), (
        f"{off.sum()} of {off.size}, at {np.argwhere(off)[:5].tolist()}: "
        f"{found[off][:5]} for {expected[off][:5]}"
    )


def one_by_one(graph, X, plan=None, **kwargs):
    rows = [run(graph, X[:1], plan, **kwargs)[:0]]
    return np.concatenate(
        [*rows, *(run(graph, X[[i]], plan, **kwargs) for i in range(len(X)))]
    )


@within(300)
@given(nets(), st.booleans())
def test_a_row_alone_equals_the_row_in_every_batch(graph, proba):
    X = rows_for(graph, max(BATCHES))
    model = SparseModel(graph)
    forward = model.forward
    if proba:
        classes = np.arange(graph.n_outputs)
        model = SparseModel(graph, output="softmax", classes=classes)
        forward = model.predict_proba
    alone = np.concatenate([forward(X[i : i + 1]) for i in range(len(X))])
    for n in BATCHES:
        assert_same_bits(forward(X[:n]), alone[:n])


@st.composite
def plans(draw, graph):
    """Any plan that the kernels know, lawful though not wise."""
    choices = []
    for op in graph.layers:
        n_out = op.weight.shape[0]
        seed = draw(st.integers(0, 2**32 - 1))
        share = draw(st.sampled_from([0.0, 0.3, 1.0]))
        grouped = np.random.default_rng(seed).random(n_out // 4) < share
        panel = draw(st.sampled_from([1, 7, 16, 128, 2**20]))
        limit = draw(st.sampled_from([0, 0, 1, 2, 5, 8, 16, 32]))
        choices.append(Choice(panel, grouped, limit))
    return Plan(tuple(choices), draw(st.integers(0, 8)))


@st.composite
def nets_and_plans(draw):
    graph = draw(nets())
    return graph, draw(plans(graph))


@within(600)
@given(nets_and_plans(), st.sampled_from(BATCHES), st.booleans())
def test_every_plan_gives_the_same_bits(drawn, n, proba):
    graph, plan = drawn
    X = rows_for(graph, n)
    assert_same_bits(run(graph, X, plan, proba=proba), run(graph, X, proba=proba))


def forced(graph):
    """Give plans that send every row down one path."""
    plan = choose(graph)
    for i, op in enumerate(graph.layers):
        fours = np.ones(op.weight.shape[0] // 4, dtype=bool)
        for name, changes in (
            ("plain", {"grouped": ~fours, "dense_limit": 0, "panel": 2**20}),
            ("panels", {"grouped": ~fours, "dense_limit": 0, "panel": 16}),
            ("groups", {"grouped": fours, "dense_limit": 0}),
            ("dense", {"dense_limit": 32}),
        ):
            yield f"{name} {i}", plan.with_choice(i, **changes)
    for limit in range(9):
        yield f"single rows up to {limit}", Plan(plan.choices, limit)


def small_net(activation, density, rng):
    """A layer with the activation, then everything that adds up a row."""
    weight = make_weight(rng, 70, 150, density, "empty rows")
    return Graph(
        InputStage(150),
        (
            Linear(0, weight, rng.normal(size=70), activation),
            LayerNorm(1, *rng.normal(size=(2, 70)), activation=activation),
            Concat((1, 2)),
            Linear(3, make_weight(rng, 9, 140, density), rng.normal(size=9)),
            Softmax(4),
        ),
    )


@pytest.mark.parametrize("density", [0.05, 0.4, 1.0])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_path_gives_the_same_bits_with_every_activation(name, density):
    rng = np.random.default_rng(0)
    graph = small_net(make_activation(picker(0), rng, name), density, rng)
    X = rows_for(graph, max(BATCHES))
    alone = one_by_one(graph, X)
    for path, plan in forced(graph):
        for n in (1, 2, 3, 5, 8, 9, 16, 17, 33, 47, 49, 130):
            try:
                assert_same_bits(run(graph, X[:n], plan), alone[:n])
            except AssertionError as error:
                raise AssertionError(f"{path}, {n} rows") from error


@pytest.mark.parametrize("n_in", [65_535, 65_536, 140_000])
def test_more_columns_than_16_bits_can_count(n_in):
    rng = np.random.default_rng(0)
    weight = wide_weight(rng, 37, n_in, 50)
    graph = Graph(InputStage(n_in), (Linear(0, weight, rng.normal(size=37)),))
    X = rows_for(graph, 70)
    alone = one_by_one(graph, X)
    plan = choose(graph)
    for n in (2, 8, 9, 17, 33, 49, 70):
        assert_same_bits(run(graph, X[:n]), alone[:n])
        narrow = plan.with_choice(0, panel=1000)
        assert_same_bits(run(graph, X[:n], narrow), alone[:n])
        grouped = plan.with_choice(0, grouped=np.ones(9, dtype=bool))
        assert_same_bits(run(graph, X[:n], grouped), alone[:n])


@within(100)
@given(nets(), st.sampled_from([65, 128, 129, 192, 200, 513]))
def test_any_number_of_threads_gives_the_same_bits(graph, n):
    X = rows_for(graph, n)
    serial = SparseModel(graph).forward(X)
    for n_threads in (2, 3, 7):
        found = SparseModel(graph, n_threads=n_threads).forward(X)
        assert_same_bits(found, serial)


def test_where_a_row_stands_and_what_stands_beside_it_does_not_matter():
    rng = np.random.default_rng(0)
    graph = small_net(Activation("gelu"), 0.2, rng)
    X = rows_for(graph, 130)
    model = SparseModel(graph)
    expected = model.forward(X)
    for order in (np.arange(130)[::-1], rng.permutation(130)):
        found = model.forward(np.ascontiguousarray(X[order]))
        assert_same_bits(found, expected[order])
    beside = X * np.float32(1e30)
    beside[7] = X[7]
    with np.errstate(all="ignore"):
        assert_same_bits(model.forward(beside)[7:8], expected[7:8])


@pytest.mark.parametrize("bias", [0.0, -0.0])
def test_zeros_have_one_sign_on_every_path(bias):
    rng = np.random.default_rng(0)
    weight = make_weight(rng, 40, 30, 0.3, "empty rows")
    graph = Graph(InputStage(30), (Linear(0, weight, np.full(40, bias)),))
    X = np.where(rng.random((65, 30)) < 0.5, -0.0, 0.0).astype(np.float32)
    alone = one_by_one(graph, X)
    for _, plan in forced(graph):
        for n in (1, 5, 8, 17, 65):
            assert_same_bits(run(graph, X[:n], plan), alone[:n])


def test_predicting_again_gives_the_same_bits_whatever_ran_between():
    rng = np.random.default_rng(0)
    first = small_net(Activation("silu"), 0.2, rng)
    second = small_net(Activation("relu"), 1, rng)
    X, n_seen = rows_for(first, 100), 0
    model, other = SparseModel(first), SparseModel(second)
    expected = {n: model.forward(X[:n]) for n in BATCHES if n <= 100}
    for n in expected:
        for between in (1, 20, 64):
            other.forward(X[:between] * 100)
            assert_same_bits(model.forward(X[:n]), expected[n])
            n_seen += 1
    assert n_seen > 40


@pytest.mark.parametrize("name", ["identity", "relu", "tanh"])
def test_sums_that_underflow_have_the_same_bits_on_every_path(name):
    rng = np.random.default_rng(0)
    weight = make_weight(rng, 40, 30, 0.3, "empty rows") * np.float32(1e-30)
    layer = Linear(0, weight, np.zeros(40), Activation(name))
    graph = Graph(InputStage(30), (layer,))
    X = rows_for(graph, 65) * np.float32(1e-30)
    alone = one_by_one(graph, X)
    assert not alone.any()
    for _, plan in forced(graph):
        for n in (1, 5, 8, 17, 65):
            assert_same_bits(run(graph, X[:n], plan), alone[:n])


def test_sums_that_overflow_have_the_same_bits_on_every_path():
    rng = np.random.default_rng(0)
    weight = make_weight(rng, 40, 30, 0.3, "empty rows") * np.float32(1e30)
    graph = Graph(InputStage(30), (Linear(0, weight, np.zeros(40)),))
    X = rows_for(graph, 65) * np.float32(1e9)
    alone = one_by_one(graph, X)
    assert np.isinf(alone).any()
    for _, plan in forced(graph):
        for n in (1, 5, 8, 17, 65):
            assert_same_bits(run(graph, X[:n], plan), alone[:n])
