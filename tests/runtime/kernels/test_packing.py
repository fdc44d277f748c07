"""Packed layers hold their weights exactly, in the order of the columns."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from sklearn_sparse_nn.runtime.kernels.layout import (
    ACCUMULATE,
    GROUP,
    GROUPED,
    LANES,
    RELU,
    SHARED,
    SIDE,
)
from sklearn_sparse_nn.runtime.kernels.packing import (
    pack_dense,
    pack_slices,
    pack_tiles,
)
from tests.runtime.graphs import PATTERNS, make_weight, wide_weight

explore = settings(max_examples=400, deadline=None)


@st.composite
def weights(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n_out = draw(st.integers(1, 70))
    if draw(st.integers(0, 9)) == 9:
        n_in = draw(st.sampled_from([65_534, 65_535, 65_536, 70_000, 140_000]))
        return wide_weight(rng, n_out, n_in, 20)
    n_in = draw(st.integers(0, 300))
    density = draw(st.sampled_from([0, 0.02, 0.2, 0.6, 1]))
    pattern = draw(st.sampled_from(PATTERNS)) if n_in else "empty"
    return make_weight(rng, n_out, n_in, density, pattern)


@st.composite
def groups(draw, n_out):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    share = draw(st.sampled_from([0.0, 0.4, 1.0]))
    return rng.random(n_out // GROUP) < share


@st.composite
def weights_and_groups(draw):
    weight = draw(weights())
    return weight, draw(groups(weight.shape[0]))


def read_entries(tiles):
    """Go through the entries as the kernels do: (entry, columns, weights)."""
    at_weight = at_column = 0
    for row, n, flags, base in tiles.entries.tolist():
        n_rows = GROUP if flags & GROUPED else 1
        columns = base + tiles.columns[at_column : at_column + n].astype(np.int64)
        values = tiles.weights[at_weight : at_weight + n * n_rows]
        assert len(columns) == n
        assert len(values) == n * n_rows
        yield (row, flags), columns, values.reshape(n, n_rows).T
        at_weight += n * n_rows
        if not flags & SHARED:
            at_column += n
    assert at_weight == len(tiles.weights)
    assert at_column == len(tiles.columns)


PANELS = st.sampled_from([1, 3, 16, 128, 500, 65_535, 65_536, 2**20])


@explore
@given(weights_and_groups(), PANELS, st.booleans())
def test_tiles_give_back_the_weight(drawn, panel, relu):
    weight, grouped = drawn
    tiles = pack_tiles(weight, panel, grouped, relu=relu)
    found = {}
    for (row, flags), columns, values in read_entries(tiles):
        for r, some in enumerate(values):
            kept = found.setdefault(row + r, ([], []))
            kept[0].extend(columns[some != 0].tolist())
            kept[1].extend(some[some != 0].tolist())
        alone = not flags & GROUPED
        assert alone or (some_in_every_column(values) or weight.shape[1] == 0)
    assert sorted(found) == list(range(weight.shape[0]))
    for row, (columns, values) in found.items():
        span = slice(weight.indptr[row], weight.indptr[row + 1])
        data, indices = weight.data[span], weight.indices[span]
        assert columns == indices[data != 0].tolist()
        assert values == data[data != 0].tolist()


def some_in_every_column(values):
    return bool((values != 0).any(axis=0).all())


@explore
@given(weights_and_groups(), PANELS, st.booleans())
def test_entries_rise_and_say_where_a_row_begins_and_ends(drawn, panel, relu):
    weight, grouped = drawn
    tiles = pack_tiles(weight, panel, grouped, relu=relu)
    assert tiles.entries.dtype == np.int32
    assert tiles.weights.dtype == np.float32
    assert tiles.columns.dtype == np.uint16
    by_row = {}
    for (row, flags), columns, _ in read_entries(tiles):
        by_row.setdefault(row, []).append((flags, columns))
        assert bool(flags & GROUPED) == bool(row // GROUP < len(grouped)
                                             and grouped[row // GROUP])  # fmt: skip
        limit = min(panel, 65_536) if not flags & GROUPED else 65_536
        if len(columns):
            assert columns[-1] - columns[0] < limit
    for entries in by_row.values():
        joined = np.concatenate([columns for _, columns in entries])
        assert (np.diff(joined) > 0).all()
        assert joined.size == 0 or joined[-1] < weight.shape[1]
        starts = [not flags & ACCUMULATE for flags, _ in entries]
        ends = [bool(flags & RELU) for flags, _ in entries]
        assert starts == [True] + [False] * (len(entries) - 1)
        assert ends == [False] * (len(entries) - 1) + [relu]


def test_dense_groups_keep_their_columns_once():
    weight = make_weight(np.random.default_rng(0), 16, 50, 1, "dense")
    tiles = pack_tiles(weight, 128, np.ones(4, dtype=bool), relu=False)
    assert len(tiles.columns) == 50
    assert [bool(flags & SHARED) for flags in tiles.entries[:, 2]] == [True] * 3 + [
        False
    ]


@explore
@given(weights(), st.integers(0, 2**32 - 1))
def test_slices_give_back_the_weight(weight, seed):
    n_out, n_in = weight.shape
    if n_in >= 2**16:
        return
    bias = np.random.default_rng(seed).normal(size=n_out).astype(np.float32)
    slices = pack_slices(weight, bias)
    n_slices = -(-n_out // LANES)
    assert len(slices.counts) == n_slices
    assert len(slices.order) == len(slices.bias) == n_slices * LANES
    assert sorted(slices.order.tolist())[:n_out] == list(range(n_out))
    assert (slices.order[n_out:] == n_out).all()
    assert (np.diff(slices.counts) <= 0).all()
    real = slices.order < n_out
    assert (slices.bias[real] == bias[slices.order[real]]).all()
    assert not slices.bias[~real].any()
    starts = np.concatenate([[0], np.cumsum(slices.counts)]) * LANES
    assert starts[-1] == len(slices.weights) == len(slices.columns)
    for place, row in enumerate(slices.order.tolist()):
        s, lane = divmod(place, LANES)
        span = slice(starts[s] + lane, starts[s + 1], LANES)
        columns, values = slices.columns[span], slices.weights[span]
        n = 0 if row == n_out else int(weight.indptr[row + 1] - weight.indptr[row])
        assert (columns[n:] == n_in).all()  # a zero stands there
        assert not values[n:].any()
        if n:
            first = weight.indptr[row]
            assert (columns[:n] == weight.indices[first : first + n]).all()
            assert (values[:n] == weight.data[first : first + n]).all()


@settings(max_examples=100, deadline=None)
@given(weights())
def test_dense_gives_back_the_weight(weight):
    n_out, n_in = weight.shape
    bias = np.arange(n_out, dtype=np.float32)
    packed, padded = pack_dense(weight, bias)
    n_slices = -(-n_out // SIDE)
    full = packed.reshape(n_slices, n_in, SIDE).transpose(0, 2, 1)
    full = full.reshape(n_slices * SIDE, n_in)
    assert (full[:n_out] == weight.toarray()).all()
    assert not full[n_out:].any()
    assert (padded[:n_out] == bias).all()
    assert not padded[n_out:].any()


def test_no_bias_is_minus_zero():
    weight = sparse.csr_array(np.ones((3, 2), dtype=np.float32))
    bias = np.array([-0.0, 0.0, -1.0], dtype=np.float32)
    for packed in (pack_slices(weight, bias).bias, pack_dense(weight, bias)[1]):
        assert not np.signbit(packed[packed == 0]).any()
        assert packed.min() == -1
