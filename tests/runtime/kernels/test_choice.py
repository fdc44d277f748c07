"""A plan is a pure function of the net, and its program fits the memory it names."""

import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from scipy import sparse

from sklearn_sparse_nn.runtime import SparseModel
from sklearn_sparse_nn.runtime.graph import (
    Add,
    Concat,
    Graph,
    InputStage,
    Linear,
    inputs_of,
)
from sklearn_sparse_nn.runtime.kernels import layout
from sklearn_sparse_nn.runtime.kernels.choice import _shared_columns, choose
from sklearn_sparse_nn.runtime.kernels.program import (
    aligned,
    make_program,
    place_values,
)
from tests.runtime.graphs import make_graph, make_weight, nets, picker, wide_weight

explore = settings(max_examples=500, deadline=None)


def described(plan):
    """Give a plan as text that two processes can compare."""
    choices = [
        (c.panel, c.grouped.astype(int).tolist(), c.dense_limit) for c in plan.choices
    ]
    return repr((choices, plan.single_limit))


def program_bytes(program):
    arrays = (program.lines, program.floats, program.table, program.columns)
    return [array.tobytes() for array in arrays] + [program.scratch_size]


@explore
@given(nets())
def test_the_same_net_gives_the_same_plan_and_program(graph):
    again = Graph(graph.stage, graph.ops)
    plan, other = choose(graph), choose(again)
    assert described(plan) == described(other)
    first = program_bytes(make_program(graph, plan))
    assert first == program_bytes(make_program(again, other))


PLANS = """
from tests.runtime.graphs import make_graph, picker
from tests.runtime.kernels.test_choice import described
from sklearn_sparse_nn.runtime.kernels.choice import choose
print([described(choose(make_graph(picker(seed)))) for seed in range(40)])
"""


def test_another_process_with_other_settings_chooses_the_same():
    here = str([described(choose(make_graph(picker(seed)))) for seed in range(40)])
    settings = {
        "PYTHONHASHSEED": "7",
        "NUMBA_CPU_NAME": "generic",
        "NUMBA_NUM_THREADS": "1",
    }
    for changed in ({}, settings):
        done = subprocess.run(
            [sys.executable, "-c", PLANS],
            cwd=Path(__file__).parents[3],
            env=os.environ | changed,
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        )
        assert done.stdout.strip() == here


@explore
@given(nets())
def test_values_that_are_alive_never_share_memory(graph):
    places, size = place_values(graph)
    last = graph.last_uses()
    assert len(places) == len(graph.widths)
    spans = [
        (start, start + width + 1)  # its zero is part of it
        for start, width in zip(places, graph.widths, strict=True)
    ]
    assert min(places) >= 0
    assert max(end for _, end in spans) <= size
    for i, op in enumerate(graph.ops):  # while operation i runs
        alive = {v for v in range(i + 1) if last[v] >= i} | {*inputs_of(op), i + 1}
        taken = sorted(spans[v] for v in alive)
        for (_, end), (start, _) in pairwise(taken):
            assert end <= start


def test_memory_is_used_again():
    rng = np.random.default_rng(0)
    ops = tuple(
        Linear(i, make_weight(rng, 50, 50, 0.1), np.zeros(50)) for i in range(20)
    )
    assert place_values(Graph(InputStage(50), ops))[1] == 2 * 51


def test_what_is_needed_later_is_kept():
    rng = np.random.default_rng(0)
    ops = [Linear(i, make_weight(rng, 9, 9, 0.5), np.zeros(9)) for i in range(3)]
    places, size = place_values(
        Graph(InputStage(9), (*ops, Add((0, 3)), Concat((4, 0))))
    )
    assert len(set(places[:4])) >= 3
    assert places[0] not in places[1:]
    assert size >= 4 * 10


@settings(max_examples=300, deadline=None)
@given(nets())
def test_a_program_points_into_its_own_arrays(graph):
    plan = choose(graph)
    program = make_program(graph, plan)
    rows = place_values(graph)[1]
    assert program.scratch_size >= rows * layout.WIDE
    assert program.lines.dtype == np.int64
    assert program.lines.shape[1] == layout.N_FIELDS
    assert program.floats.ctypes.data % 64 == 0
    head, table = program.lines[0], program.table
    assert head[layout.WIDTH] == graph.stage.width
    for line in program.lines[1:]:
        assert 0 <= line[layout.OUT] <= line[layout.OUT] + line[layout.N_OUT] < rows
        assert 0 <= line[layout.IN] <= line[layout.IN] + line[layout.N_IN] < rows
        if line[layout.KIND] != layout.LINEAR:
            continue
        at, n = line[layout.ENTRIES_AT], line[layout.N_ENTRIES]
        entries = table[at : at + 4 * n].reshape(-1, 4).astype(np.int64)
        shared = entries[:, 2] & layout.SHARED > 0
        fours = np.where(entries[:, 2] & layout.GROUPED > 0, 4, 1)
        n_columns = (entries[:, 1] * ~shared).sum()
        n_weights = (entries[:, 1] * fours).sum()
        assert (entries[:, 0] + fours <= line[layout.N_OUT]).all()
        assert line[layout.TILE_WEIGHTS] + n_weights <= len(program.floats)
        assert line[layout.TILE_COLUMNS] + n_columns <= len(program.columns)
        order_at = line[layout.ORDER_AT]
        order = table[order_at : order_at + 16 * line[layout.N_SLICES]]
        assert ((order >= 0) & (order <= line[layout.N_OUT])).all()


@pytest.mark.parametrize("n", [1, 15, 16, 17, 1000])
@pytest.mark.parametrize("dtype", [np.float32, np.int32, np.uint16])
def test_arrays_begin_at_a_multiple_of_64_bytes(n, dtype):
    array = aligned(n, dtype)
    assert array.shape == (n,)
    assert array.dtype == dtype
    assert array.ctypes.data % 64 == 0
    assert not array.any()


def test_what_pays_is_chosen():
    rng = np.random.default_rng(0)

    def choice(weight):
        bias = np.zeros(weight.shape[0])
        graph = Graph(InputStage(weight.shape[1]), (Linear(0, weight, bias),))
        return choose(graph).choices[0]

    dense = choice(make_weight(rng, 64, 128, 1, "dense"))
    sparse = choice(make_weight(rng, 64, 128, 0.05))
    blocks = choice(make_weight(rng, 64, 128, 0.1, "blocks"))
    assert dense.dense_limit == 32
    assert dense.grouped.all()
    assert sparse.dense_limit == 0
    assert not sparse.grouped.any()
    assert blocks.grouped.all()


def test_a_layer_too_wide_for_slices_runs_no_row_by_itself():
    rng = np.random.default_rng(0)
    weight = wide_weight(rng, 20, 70_000, 30)
    graph = Graph(InputStage(70_000), (Linear(0, weight, np.zeros(20)),))
    program = make_program(graph, choose(graph))
    assert program.lines[0, layout.SINGLE_LIMIT] == 0


def test_a_dense_layer_beside_one_too_wide_for_slices():
    # All tiles are then 64 wide, and the dense kernel has scratch for half of that.
    rng = np.random.default_rng(0)
    wide = sparse.random_array((64, 70_000), density=1e-4, format="csr", rng=rng)
    full = rng.standard_normal((40_000, 64)).astype(np.float32)
    layers = (
        Linear(0, wide.astype(np.float32), np.zeros(64)),
        Linear(1, sparse.csr_array(full), np.zeros(len(full))),
    )
    graph = Graph(InputStage(70_000), layers)
    assert choose(graph).choices[1].dense_limit >= 8
    X = rng.standard_normal((8, 70_000)).astype(np.float32)
    expected = X @ wide.toarray().T.astype(np.float32) @ full.T
    outputs = SparseModel(graph).forward(X)
    np.testing.assert_allclose(outputs, expected, rtol=0, atol=1e-3)


def test_with_choice_changes_one_layer_alone():
    graph = make_graph(picker(3), n_ops=4)
    while len(graph.layers) < 2:
        graph = make_graph(picker(len(graph.layers) + 11), n_ops=6)
    plan = choose(graph)
    other = plan.with_choice(1, panel=5)
    assert other.choices[1].panel == 5
    assert other.choices[1].dense_limit == plan.choices[1].dense_limit
    assert other.choices[0] is plan.choices[0]
    assert plan.choices[1].panel != 5


@explore
@given(nets())
def test_the_columns_of_four_rows_are_counted_once(graph):
    for op in graph.layers:
        starts = op.weight.indptr[::4]
        expected = [
            len(np.unique(op.weight.indices[start:end]))
            for start, end in pairwise(starts)
        ]
        firsts = np.arange(op.weight.shape[0] // 4) * 4
        assert _shared_columns(op.weight, firsts).tolist() == expected[: len(firsts)]
