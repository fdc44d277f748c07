"""From CSR to what the kernels read: entries for tiles, slices for single rows."""

from dataclasses import dataclass
from typing import Any

import numpy as np

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

_NARROW = 2**16  # columns within a panel are uint16


@dataclass(frozen=True)
class Tiles:
    """A layer for tiles of rows.

    Parameters
    ----------
    entries : ndarray of shape (n_entries, 4), int32
        Output row, number of columns, flags, first column of the panel.
    weights : ndarray, float32
        Entry by entry, column by column; four together in groups.
    columns : ndarray, uint16
        Entry by entry, counted from the panel's first.
    """

    entries: Any
    weights: Any
    columns: Any


@dataclass(frozen=True)
class Slices:
    """A layer for single rows and narrow tiles: 16 outputs interleaved.

    Parameters
    ----------
    counts : ndarray of shape (n_slices,), int
        Steps of every slice, the longest first.
    weights : ndarray of shape (n_steps * 16,), float32
        Step by step; 0 where an output has no more columns.
    columns : ndarray of shape (n_steps * 16,), uint16
        Beside them; the number of inputs, where a zero stands, for no more.
    order : ndarray of shape (n_slices * 16,), int
        Output of every place; the number of outputs for none.
    bias : ndarray of shape (n_slices * 16,), float32
        In that order.
    """

    counts: Any
    weights: Any
    columns: Any
    order: Any
    bias: Any


def pack_tiles(weight: Any, panel: int, grouped: Any, *, relu: bool) -> Tiles:
    """Cut a weight into panels of columns, and those into entries.

    Parameters
    ----------
    weight : csr_array of shape (n_out, n_in), float32
        Canonical.
    panel : int
        Columns of a panel, at least 1: a panel's slice of the tile stays in L1.
    grouped : ndarray of shape (n_out // 4,), bool
        Which fours of rows share their columns.
    relu : bool
        Whether the last entry of a row clips at zero.

    Returns
    -------
    tiles : Tiles
        Every row's columns rise from entry to entry.
    """
    n_out, n_in = weight.shape
    rows = np.repeat(np.arange(n_out), np.diff(weight.indptr))
    in_group = np.zeros(n_out, dtype=bool)
    in_group[: len(grouped) * GROUP] = np.repeat(grouped, GROUP)
    of_group = in_group[rows]
    columns = weight.indices.astype(np.int64)
    parts = [
        _group_entries(
            rows[of_group],
            columns[of_group],
            weight.data[of_group],
            grouped,
            n_in,
            relu,
        ),
        _row_entries(
            rows[~of_group],
            columns[~of_group],
            weight.data[~of_group],
            np.flatnonzero(~in_group),
            min(panel, _NARROW),
            relu,
        ),
    ]
    return Tiles(
        np.concatenate([p.entries for p in parts]).astype(np.int32),
        np.concatenate([p.weights for p in parts]).astype(np.float32),
        np.concatenate([p.columns for p in parts]).astype(np.uint16),
    )


def _row_entries(
    rows: Any, columns: Any, data: Any, members: Any, panel: int, relu: bool
) -> Tiles:
    """Make entries of one output row each, panel by panel."""
    panels = columns // panel
    order = np.argsort(panels, kind="stable")
    entries = _entries(rows, panels, members, panel, relu)
    return Tiles(entries, data[order], columns[order] - panels[order] * panel)


def _entries(units: Any, panels: Any, members: Any, panel: int, relu: bool) -> Any:
    """Count the columns of every unit in every panel; say which come first and last."""
    n_panels = int(panels.max(initial=0)) + 1
    place = np.zeros(int(members.max(initial=-1)) + 1, dtype=np.int64)
    place[members] = np.arange(len(members))
    counts = np.bincount(
        panels * len(members) + place[units], minlength=n_panels * len(members)
    ).reshape(n_panels, -1)
    any_before = np.cumsum(counts, axis=0) - counts > 0
    any_after = counts.sum(axis=0) - np.cumsum(counts, axis=0) > 0
    flags = ACCUMULATE * any_before + RELU * relu * ~any_after
    present = counts > 0
    present[0] |= counts.sum(axis=0) == 0  # a unit without columns has its bias
    p, m = np.nonzero(present)
    return np.stack([members[m], counts[p, m], flags[p, m], p * panel], axis=1)


def _group_entries(
    rows: Any, columns: Any, data: Any, grouped: Any, n_in: int, relu: bool
) -> Tiles:
    """Make entries of four output rows each, with the columns that any of them has."""
    groups = np.flatnonzero(grouped)
    if not len(groups):
        none = np.zeros(0, dtype=np.int64)
        return Tiles(np.zeros((0, 4), dtype=np.int64), none, none)
    keys, place = np.unique(rows // GROUP * n_in + columns, return_inverse=True)
    weights = np.zeros((len(keys), GROUP), dtype=np.float32)
    weights[place, rows % GROUP] = data
    units, columns = keys // n_in, keys % n_in
    panels = columns // _NARROW
    order = np.argsort(panels, kind="stable")
    entries = _entries(units, panels, groups, _NARROW, relu)
    entries[:, 0] *= GROUP
    entries[:, 2] |= GROUPED
    columns = (columns - panels * _NARROW)[order]
    # Dense layers: where all entries have all columns, they are kept once.
    if len(groups) > 1 and len(keys) == len(groups) * n_in and n_in <= _NARROW:
        entries[:, 2] |= SHARED
        entries[-1, 2] ^= SHARED
        columns = columns[:n_in]
    return Tiles(entries, weights[order].ravel(), columns)


def pack_slices(weight: Any, bias: Any) -> Slices:
    """Interleave a layer's outputs by sixteen (SELL-16).

    Parameters
    ----------
    weight : csr_array of shape (n_out, n_in), float32
        Canonical, with fewer than 65,536 columns.
    bias : ndarray of shape (n_out,), float32
        Where sums start.

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
    rows = np.repeat(np.arange(n_out), counts)
    within = np.arange(len(rows)) - np.repeat(
        weight.indptr[:-1].astype(np.int64), counts
    )
    slot = (starts[place[rows] // LANES] + within) * LANES + place[rows] % LANES
    weights = np.zeros(starts[-1] * LANES, dtype=np.float32)
    columns = np.full(starts[-1] * LANES, n_in, dtype=np.uint16)
    weights[slot] = weight.data
    columns[slot] = weight.indices
    return Slices(steps, weights, columns, order, _padded(bias[order[:n_out]], LANES))


def pack_dense(weight: Any, bias: Any) -> tuple[Any, Any]:
    """Store all of a layer's weights for single rows, 64 outputs together.

    Parameters
    ----------
    weight : csr_array of shape (n_out, n_in), float32
        Canonical.
    bias : ndarray of shape (n_out,), float32
        Where sums start.

    Returns
    -------
    weights : ndarray of shape (n_slices * n_in * 64,), float32
        Column by column; 0 for outputs that there are not.
    bias : ndarray of shape (n_slices * 64,), float32
    """
    n_out, n_in = weight.shape
    n_slices = -(-n_out // SIDE)
    full = np.zeros((n_slices * SIDE, n_in), dtype=np.float32)
    full[:n_out] = weight.toarray()
    turned = full.reshape(n_slices, SIDE, n_in).transpose(0, 2, 1)
    return turned.ravel(), _padded(bias, SIDE)


def _padded(bias: Any, side: int) -> Any:
    """Fill up with zeros; -0 becomes 0, since adding a padded zero would do so too."""
    padded = np.zeros(-(-len(bias) // side) * side, dtype=np.float32)
    padded[: len(bias)] = bias
    return padded + np.float32(0)
