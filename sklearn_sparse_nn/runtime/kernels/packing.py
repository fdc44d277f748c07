"""The packing of CSR weights: entries for tiles, slices for single rows."""

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from sklearn_sparse_nn.runtime.graph import Floats
from sklearn_sparse_nn.runtime.kernels.layout import (
    ACCUMULATE,
    GROUP,
    GROUPED,
    LANES,
    RELU,
    SHARED,
    SIDE,
)

__all__ = [
    "Slices",
    "Tiles",
    "pack_dense",
    "pack_slices",
    "pack_tiles",
]

Ints: TypeAlias = NDArray[np.integer[Any]]
_NARROW = 2**16  # columns within a panel are uint16


@dataclass(frozen=True)
class Tiles:
    """A layer packed for tiles of rows.

    Parameters
    ----------
    entries : ndarray of shape (n_entries, 4), int32
        The output row, number of columns, flags, and first column of the panel.
    weights : ndarray, float32
        The weights by entry, then by column; four together in groups.
    columns : ndarray, uint16
        The columns by entry, counted from the panel's first.
    """

    entries: Ints
    weights: Floats
    columns: Ints


@dataclass(frozen=True)
class Slices:
    """A layer packed for single rows and narrow tiles: 16 outputs interleaved.

    Parameters
    ----------
    counts : ndarray of shape (n_slices,), int
        The number of steps of every slice, the longest first.
    weights : ndarray of shape (n_steps * 16,), float32
        The weights by step; 0 where an output has no more columns.
    columns : ndarray of shape (n_steps * 16,), uint16
        The columns of the weights; where there is none, the number of inputs, where a
        zero stands.
    order : ndarray of shape (n_slices * 16,), int
        The output of every place; the number of outputs for none.
    bias : ndarray of shape (n_slices * 16,), float32
        The bias in that order.
    """

    counts: Ints
    weights: Floats
    columns: Ints
    order: Ints
    bias: Floats


def pack_tiles(
    weight: csr_array, panel: int, grouped: NDArray[np.bool_], *, relu: bool
) -> Tiles:
    """Cut a weight into panels of columns, and those into entries.

    Parameters
    ----------
    weight : csr_array of shape (n_out, n_in), float32
        The weight in canonical form.
    panel : int
        The number of columns of a panel, at least 1, so few that a panel's part of the
        tile stays in L1.
    grouped : ndarray of shape (n_out // 4,), bool
        The fours of rows that share their columns.
    relu : bool
        Whether the last entry of a row clips at zero.

    Returns
    -------
    tiles : Tiles
        The packed weight; a row's columns rise from entry to entry.
    """
    alone = np.ones(weight.shape[0], dtype=bool)
    alone[: len(grouped) * GROUP] = np.repeat(~grouped, GROUP)
    parts = [
        _group_entries(weight, np.flatnonzero(grouped), relu),
        _row_entries(weight, np.flatnonzero(alone), min(panel, _NARROW), relu),
    ]
    return Tiles(
        np.concatenate([p.entries for p in parts]).astype(np.int32),
        np.concatenate([p.weights for p in parts]).astype(np.float32),
        np.concatenate([p.columns for p in parts]).astype(np.uint16),
    )


def _row_entries(weight: csr_array, members: Ints, panel: int, relu: bool) -> Tiles:
    """Build entries of one output row each, panel by panel."""
    if len(members) < weight.shape[0]:
        weight = weight[members]
    panels = weight.indices // panel
    entries, order = _entries(weight.indptr, panels, members, panel, relu)
    columns = weight.indices - panels * panel
    return Tiles(entries, weight.data[order], columns[order])


def _entries(
    indptr: Ints, panels: Ints, members: Ints, panel: int, relu: bool
) -> tuple[Ints, Ints]:
    """Count the columns of every unit by panel; mark its first and last entry.

    Return the order of the columns, too: by panel, then by unit. The columns of a unit
    in a panel stand side by side already, so whole runs are put in order.
    """
    begins = np.empty(len(panels), dtype=bool)
    np.not_equal(panels[1:], panels[:-1], out=begins[1:])
    begins[indptr[:-1][indptr[:-1] < indptr[1:]]] = True
    starts = np.flatnonzero(begins)
    lengths = np.diff(starts, append=len(panels))
    units = np.searchsorted(indptr, starts, side="right") - 1
    n_panels = int(panels.max(initial=0)) + 1
    counts = np.zeros((n_panels, len(members)), dtype=np.int64)
    counts[panels[starts], units] = lengths
    any_before = np.cumsum(counts, axis=0) - counts > 0
    any_after = counts.sum(axis=0) - np.cumsum(counts, axis=0) > 0
    flags = ACCUMULATE * any_before + RELU * relu * ~any_after
    present = counts > 0
    present[0] |= counts.sum(axis=0) == 0  # a unit without columns has its bias
    p, m = np.nonzero(present)
    entries = np.stack([members[m], counts[p, m], flags[p, m], p * panel], axis=1)
    runs = np.argsort(panels[starts], kind="stable")
    lengths = lengths[runs]
    order = np.arange(len(panels))
    order += np.repeat(starts[runs] - (np.cumsum(lengths) - lengths), lengths)
    return entries, order


def _group_entries(weight: csr_array, groups: Ints, relu: bool) -> Tiles:
    """Build entries of four output rows each, with the columns that any of them has."""
    n_in = weight.shape[1]
    if not len(groups):
        none = np.zeros(0, dtype=np.int64)
        return Tiles(none.reshape(0, 4), np.zeros(0, dtype=np.float32), none)
    fours = [weight[groups * GROUP + i] for i in range(GROUP)]
    a, b, c, d = (_with_data(w, np.ones(w.nnz, dtype=np.int64)) for w in fours)
    either = (a + b) + (c + d)
    either = _with_data(either, np.arange(1, either.nnz + 1))  # 0 would be left out
    weights = np.zeros((either.nnz, GROUP), dtype=np.float32)
    for i, (w, ones) in enumerate(zip(fours, (a, b, c, d), strict=True)):
        weights[either.multiply(ones).data - 1, i] = w.data
    panels = either.indices // _NARROW
    entries, order = _entries(either.indptr, panels, groups, _NARROW, relu)
    entries[:, 0] *= GROUP
    entries[:, 2] |= GROUPED
    columns = (either.indices - panels * _NARROW)[order]
    # Dense layers: where all entries have all columns, they are kept once.
    if len(groups) > 1 and either.nnz == len(groups) * n_in and n_in <= _NARROW:
        entries[:, 2] |= SHARED
        entries[-1, 2] ^= SHARED
        columns = columns[:n_in]
    return Tiles(entries, weights[order].ravel(), columns)


def _with_data(weight: csr_array, data: Ints) -> csr_array:
    """Return other numbers in the places of a weight."""
    return csr_array((data, weight.indices, weight.indptr), shape=weight.shape)


def pack_slices(weight: csr_array, bias: Floats) -> Slices:
    """Interleave a layer's outputs by sixteen (SELL-16).

    Parameters
    ----------
    weight : csr_array of shape (n_out, n_in), float32
        The weight in canonical form, with fewer than 65,536 columns.
    bias : ndarray of shape (n_out,), float32
        The numbers that sums start from.

    Returns
    -------
    slices : Slices

    References
    ----------
    Kreutzer et al. 2014, "A unified sparse matrix data format" (SELL-C-sigma), with
    C = 16 and sigma = the number of rows.
    """
    n_out, n_in = weight.shape
    n_slices = -(-n_out // LANES)
    counts = np.diff(weight.indptr).astype(np.int64)
    order = np.full(n_slices * LANES, n_out, dtype=np.int64)
    order[:n_out] = np.argsort(-counts, kind="stable")
    place = np.empty(n_out, dtype=np.int64)
    place[order[:n_out]] = np.arange(n_out)
    steps = counts[order[:n_out:LANES]]  # the longest of every slice
    starts = np.concatenate([[0], np.cumsum(steps)])
    first = starts[place // LANES] * LANES + place % LANES
    slot = np.arange(weight.nnz) * LANES
    slot += np.repeat(first - weight.indptr[:-1].astype(np.int64) * LANES, counts)
    weights = np.zeros(starts[-1] * LANES, dtype=np.float32)
    columns = np.full(starts[-1] * LANES, n_in, dtype=np.uint16)
    weights[slot] = weight.data
    columns[slot] = weight.indices
    return Slices(steps, weights, columns, order, _padded(bias[order[:n_out]], LANES))


def pack_dense(weight: csr_array, bias: Floats) -> tuple[Floats, Floats]:
    """Store all of a layer's weights for single rows, 64 outputs together.

    Parameters
    ----------
    weight : csr_array of shape (n_out, n_in), float32
        The weight in canonical form.
    bias : ndarray of shape (n_out,), float32
        The numbers that sums start from.

    Returns
    -------
    weights : ndarray of shape (n_slices * n_in * 64,), float32
        The weights by column; 0 for outputs beyond the last.
    bias : ndarray of shape (n_slices * 64,), float32
        The bias, with zeros behind it.
    """
    n_out, n_in = weight.shape
    n_slices = -(-n_out // SIDE)
    full = np.zeros((n_slices * SIDE, n_in), dtype=np.float32)
    weight.toarray(out=full[:n_out])
    turned = full.reshape(n_slices, SIDE, n_in).transpose(0, 2, 1)
    return turned.ravel(), _padded(bias, SIDE)


def _padded(bias: Floats, side: int) -> Floats:
    """Append zeros; turn -0 into 0, as adding a padded zero would."""
    padded = np.zeros(-(-len(bias) // side) * side, dtype=np.float32)
    padded[: len(bias)] = bias
    return padded + np.float32(0)
