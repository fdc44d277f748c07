"""What a sparse model says of itself: cost, text and table."""

import os
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given, settings
from scipy import sparse

from sklearn_sparse_nn.runtime import SparseModel
from sklearn_sparse_nn.runtime.graph import (
    Add,
    Affine,
    Concat,
    Graph,
    InputStage,
    LayerNorm,
    Linear,
    Softmax,
    inputs_of,
)
from tests.runtime.file.file_models import golden_model, models, parts, weight

ENGINE = repr("scipy" if os.environ.get("NUMBA_DISABLE_JIT") == "1" else "kernel")


def make(*ops, n=4, **kwargs):
    return SparseModel(Graph(InputStage(n), ops), **kwargs)


def layer(n_out, n_in, source=0, density=0.5, name=""):
    rng = np.random.default_rng(n_out)
    return Linear(source, weight(rng, n_out, n_in, density), np.zeros(n_out), name=name)


def test_nonzeros_and_flops_are_counted():
    first, second = layer(8, 4, name="a"), layer(2, 8, 1, name="b")
    cost = make(first, second).cost()
    nonzeros = [op.weight.count_nonzero() for op in (first, second)]
    assert cost.nonzeros == sum(nonzeros)
    assert cost.flops == 2 * sum(nonzeros)
    assert [(x.name, x.shape, x.nonzeros, x.flops) for x in cost.layers] == [
        ("a", (8, 4), nonzeros[0], 2 * nonzeros[0]),
        ("b", (2, 8), nonzeros[1], 2 * nonzeros[1]),
    ]
    assert cost.layers[0].sparsity == 1 - nonzeros[0] / 32


def test_bytes_of_a_layer_are_those_of_its_arrays():
    first = layer(8, 4)
    cost = make(first).cost()
    nnz = first.weight.nnz
    assert cost.bytes == cost.layers[0].bytes == nnz * (4 + 2) + 9 * 4 + 8 * 4


@settings(max_examples=100, deadline=None)
@given(models())
def test_bytes_are_those_of_the_file(tmp_path_factory, model):
    path = tmp_path_factory.getbasetemp() / "cost"
    model.save(path)
    arrays = {name: len(raw) for name, _, _, raw in parts(path.read_bytes())[1]}
    assert model.cost().bytes == sum(arrays.values()) - arrays.get("classes", 0)


@pytest.mark.parametrize(
    ("ops", "columns"),
    [
        ([layer(8, 4)], 4 + 8),
        ([layer(8, 4), layer(2, 8, 1)], 4 + 8),  # then 8 + 2
        ([layer(8, 4), layer(16, 8, 1), layer(1, 16, 2)], 8 + 16),
        ([layer(4, 4), Add((0, 1))], 4 + 4 + 4),  # the input is needed twice
        ([layer(4, 4), layer(4, 4, 1), Add((0, 2))], 4 + 4 + 4),
        ([Concat((0, 0, 0))], 4 + 12),
        ([layer(9, 4), layer(2, 4, 0)], 4 + 9),  # the first is needed by none
        ([Softmax(0)], 4 + 4),
        ([Affine(0, np.ones(4), np.ones(4)), LayerNorm(1, [1] * 4, [1] * 4)], 8),
    ],
)
def test_peak_bytes_follow_what_is_still_needed(ops, columns):
    assert make(*ops).cost().peak_activation_bytes == 4 * columns


@settings(max_examples=200, deadline=None)
@given(models())
def test_peak_bytes_are_those_of_a_simulation(model):
    graph = model.graph
    peak = 0
    for i in range(len(graph.ops)):  # while operation i runs
        later = {v for op in graph.ops[i + 1 :] for v in inputs_of(op)}
        later |= {len(graph.ops)}
        needed = {v for v in later if v <= i} | {*inputs_of(graph.ops[i]), i + 1}
        peak = max(peak, sum(graph.widths[v] for v in needed))
    if 0 not in {v for op in graph.ops for v in inputs_of(op)}:
        return  # an input that nothing reads is there all the same
    assert model.cost().peak_activation_bytes == 4 * peak


def test_the_text_is_a_readable_block():
    assert repr(golden_model()) == (
        "SparseModel(4 features to 2 classes, 9 of 20 weights, 226 bytes, "
        f"engine={ENGINE})\n"
        "  net.0  3 to 4  6  50.0%\n"
        "  net.3  4 to 2  3  62.5%"
    )
    assert repr(make(layer(1, 4, density=1, name="out"))) == (
        "SparseModel(4 features to 1 output, 4 of 4 weights, 36 bytes, "
        f"engine={ENGINE})\n"
        "  out  4 to 1  4  0.0%"
    )
    assert (
        repr(make(Softmax(0)))
        == f"SparseModel(4 features to 4 outputs, 0 weights, 0 bytes, engine={ENGINE})"
    )


def test_the_engine_is_named():
    model = golden_model()
    assert repr(model.engine) == ENGINE
    assert f"engine {model.engine}" in model._repr_html_()
    assert model.with_threads(2).engine == model.engine
    with pytest.raises(AttributeError):
        model.engine = "torch"


def test_sizes_have_units():
    dense = sparse.csr_array(np.ones((1000, 300), dtype=np.float32))
    text = repr(make(Linear(0, dense, np.zeros(1000)), n=300))
    assert "300 features to 1,000 outputs, 300,000 of 300,000 weights, 1.81 MB" in text


def test_many_layers_are_not_all_listed():
    model = make(*(layer(4, 4, i) for i in range(25)))
    assert repr(model).endswith("\n    and 5 more layers")
    assert model._repr_html_().count("<tr>") == 21
    assert "and 5 more layers" in model._repr_html_()


class Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.cells = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        assert not attrs
        self.tags.append(tag)

    def handle_data(self, data):
        self.cells.append(data)


@pytest.mark.parametrize(
    "name",
    [
        "<script>alert(1)</script>",
        "</td><img src=x onerror=alert(1)>",
        "\" onmouseover='alert(1)'",
        "&lt;script&gt;",
        "a\nb\x1b[31m",
        "\ud800",
        "x" * 10_000,
    ],
)
def test_names_from_a_file_cannot_do_harm(tmp_path, name):
    saved = make(layer(2, 4, name=name), classes=[name, "b" + name], output="softmax")
    saved.save(tmp_path / "m")
    model = SparseModel.load(tmp_path / "m")
    html = model._repr_html_()
    assert set(Tags(html).tags) == {
        "div", "p", "b", "table", "thead", "tbody", "tr", "th", "td"
    }  # fmt: skip
    assert len(html) < 1000
    assert len(repr(model).split("\n")) == 2
    assert repr(model).isprintable() or repr(model).replace("\n", "").isprintable()
    assert not re.search(r"[\x00-\x09\x0b-\x1f]", repr(model))
    html.encode(), repr(model).encode()  # no lone surrogates
