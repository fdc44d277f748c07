"""Optimal brain surgeon: remove the weights of least effect, refit the others."""

import torch
from sklearn.base import BaseEstimator
from torch import Tensor

from sklearn_sparse_nn.core.granularity import NM, Granularity

__all__ = ["OBS"]

#: Groups that are removed between two matrix products, and bytes of inverses at once.
_AT_ONCE = 32
_CHUNK_BYTES = 2**27


class OBS(BaseEstimator):
    """Exact optimal brain surgeon for the squared error of a linear layer's output.

    Groups are removed greedily, one at a time in every band of rows: each time the one
    that raises ``||X W' - X W_new'||^2`` least when all remaining weights are refitted.
    A group's score is that rise, made increasing along the order of removal, so that
    every row's survivors are those of the greedy search, however many the allocation
    keeps. `update` then refits the survivors.

    Parameters
    ----------
    damping : float, default=0.01
        Added to the diagonal of ``X'X``, as a fraction of its mean. Must be positive.

    References
    ----------
    Hassibi and Stork 1992, "Second order derivatives for network pruning"; Frantar,
    Singh and Alistarh 2022, "Optimal Brain Compression", section 4 and algorithm 1
    (rows), equation 6 (blocks).

    Examples
    --------
    Of two inputs that are always equal, one is enough:

    >>> hessian = torch.tensor([[1.0, 1.0], [1.0, 1.0]])
    >>> obs, weight = OBS(damping=1e-6), torch.tensor([[1.0, 2.0]])
    >>> keep = torch.tensor([[False, True]])
    >>> obs.update(weight, keep, hessian=hessian).round(decimals=3)
    tensor([[0., 3.]])
    """

    def __init__(self, damping: float = 0.01) -> None:
        self.damping = damping

    def __call__(
        self, weight: Tensor, *, hessian: Tensor, granularity: Granularity
    ) -> Tensor:
        """Score a layer's weights.

        Parameters
        ----------
        weight : Tensor of shape (out, in)
            The weights of one linear layer.
        hessian : Tensor of shape (in, in)
            ``X'X`` over rows.
        granularity : Granularity
            The groups; the object must have ``group_shape``, as those of this package.

        Returns
        -------
        scores : float64 Tensor of shape (out, in)
            The rise of the squared error, the same for all weights of a group.
        """
        n_rows, n_columns = weight.shape
        tall, wide = _group_shape(granularity, weight)
        pad_rows, pad_columns = -n_rows % tall, -n_columns % wide
        padded = torch.nn.functional.pad(
            weight.double().cpu(), (0, pad_columns, 0, pad_rows)
        )
        damped = torch.eye(n_columns + pad_columns, dtype=torch.float64)
        damped[:n_columns, :n_columns] = self._damped(hessian)
        bands = padded.reshape(-1, tall, padded.shape[1] // wide, wide)
        if bands.shape[2] == 1:  # whole neurons: a removed one leaves nothing to refit
            by_row = ((padded @ damped) * padded).sum(1)
            rises = [by_row.reshape(-1, tall).sum(1, keepdim=True)]
        else:
            rises = self._greedy(bands, damped, granularity)
        scores = torch.cat(rises).repeat_interleave(tall, 0).repeat_interleave(wide, 1)
        return scores[:n_rows, :n_columns]

    def _greedy(
        self, bands: Tensor, damped: Tensor, granularity: Granularity
    ) -> list[Tensor]:
        """Search each band, some of them at once; return the groups' rises."""
        inverse = torch.linalg.inv(damped)
        at_once = max(1, _CHUNK_BYTES // (8 * inverse.numel()))
        pattern = granularity if isinstance(granularity, NM) else None
        parts = torch.split(bands, at_once)
        try:
            return [_remove_all(part, inverse, pattern) for part in parts]
        except torch.linalg.LinAlgError as error:
            raise ValueError(
                f"OBS(damping={self.damping!r}): the inputs of a layer depend on each "
                "other so much that X'X cannot be inverted. Use more damping, such as "
                "the default 0.01."
            ) from error

    def update(self, weight: Tensor, mask: Tensor, *, hessian: Tensor) -> Tensor:
        """Refit the weights that live so that the layer's output changes least.

        Parameters
        ----------
        weight : Tensor of shape (out, in)
            The weights before pruning.
        mask : bool Tensor of shape (out, in)
            True = the weight lives.
        hessian : Tensor of shape (in, in)
            ``X'X`` over rows.

        Returns
        -------
        weight : Tensor of the same shape, dtype and device
            Zero outside the mask.
        """
        damped, mask = self._damped(hessian), mask.cpu()
        wanted = weight.double().cpu() @ damped
        fitted = torch.zeros_like(wanted)
        patterns, owner = torch.unique(mask, dim=0, return_inverse=True)
        for i, keep in enumerate(patterns):
            if keep.any():
                rows = (owner == i).nonzero().reshape(-1, 1)
                columns = keep.nonzero().reshape(-1)
                factor = torch.linalg.cholesky(damped[columns][:, columns])
                solved = torch.cholesky_solve(wanted[rows, columns].T, factor)
                fitted[rows, columns] = solved.T
        return fitted.to(weight)

    def _damped(self, hessian: Tensor) -> Tensor:
        if not self.damping > 0:
            raise ValueError(
                f"OBS(damping={self.damping!r}): damping must be greater than 0, so "
                "that inputs that are always zero leave the problem solvable."
            )
        hessian = hessian.double().cpu()
        mean = float(hessian.diagonal().mean())
        shift = self.damping * mean if mean > 0 else 1.0
        return hessian + shift * torch.eye(len(hessian), dtype=torch.float64)


def _group_shape(granularity: Granularity, weight: Tensor) -> tuple[int, int]:
    """Return the number of rows and of columns in a group."""
    group_shape = getattr(granularity, "group_shape", None)
    if group_shape is not None:
        n_rows, n_columns = group_shape(weight.shape)
        return n_rows, n_columns
    raise ValueError(
        f"importance='obs' and granularity={granularity!r} do not go together: it has "
        "to know the groups' shape. Use a granularity of this package."
    )


def _remove_all(bands: Tensor, inverse: Tensor, pattern: NM | None) -> Tensor:
    """Remove all groups of every band, greedily; return the rise that each made.

    A band of weights has shape (tall, groups, wide). The removals since the last matrix
    product are kept as factors ``V``: the inverse is ``inverse - V' V``.
    """
    n_bands, _, n_groups, wide = bands.shape
    weights = bands.clone()
    inverses = inverse.expand(n_bands, *inverse.shape).clone()
    left = torch.arange(n_groups).expand(n_bands, n_groups)
    rises = torch.zeros(n_bands, n_groups, dtype=torch.float64)
    last = torch.zeros(n_bands, dtype=torch.float64)
    quota = _Quota(pattern, n_bands, n_groups)
    while n_left := left.shape[1]:
        steps = min(_AT_ONCE, n_left)
        blocks = inverses.reshape(n_bands, n_left, wide, n_left, wide)
        blocks = blocks.diagonal(dim1=1, dim2=3).permute(0, 3, 1, 2).contiguous()
        factors = inverses.new_zeros(n_bands, steps * wide, n_left * wide)
        gone = torch.zeros(n_bands, n_left, dtype=torch.bool)
        for step in range(steps):
            rise = _rise(weights, blocks).masked_fill(gone, torch.inf)
            pick = quota.choose(rise, left, gone)
            # Strictly increasing, so that the order of removal is the scores' order.
            floor = torch.nextafter(last, torch.full_like(last, torch.inf))
            last = torch.maximum(rise.gather(1, pick[:, None])[:, 0], floor)
            rises.scatter_(1, left.gather(1, pick[:, None]), last[:, None])
            _remove(pick, weights, blocks, inverses, factors, step)
            gone.scatter_(1, pick[:, None], True)
        stay = (~gone).nonzero()[:, 1].reshape(n_bands, n_left - steps)
        inverses.baddbmm_(factors.transpose(1, 2), factors, alpha=-1)
        left = left.gather(1, stay)
        weights = _take(weights, stay, 2)
        columns = (stay[..., None] * wide + torch.arange(wide)).flatten(1)
        inverses = _take(_take(inverses, columns, 1), columns, 2)
    return rises


def _rise(weights: Tensor, blocks: Tensor) -> Tensor:
    """Compute the squared error that the removal of each group would add."""
    if blocks.shape[-1] == 1:
        squares: Tensor = weights.square().sum((1, 3))
        return squares / blocks[..., 0, 0]
    by_group = weights.transpose(1, 2)
    solved = torch.linalg.solve(blocks, by_group.transpose(2, 3)).transpose(2, 3)
    rise: Tensor = (by_group * solved).sum((2, 3))
    return rise


def _remove(
    pick: Tensor,
    weights: Tensor,
    blocks: Tensor,
    inverses: Tensor,
    factors: Tensor,
    step: int,
) -> None:
    """Remove one group from every band, in place."""
    n_bands, _, n_groups, wide = weights.shape
    band = torch.arange(n_bands)
    columns = pick[:, None] * wide + torch.arange(wide)
    done = factors[:, : step * wide]
    rows = inverses[band[:, None], columns]
    rows = rows - _take(done, columns, 2).transpose(1, 2) @ done
    lower = torch.linalg.cholesky(blocks[band, pick])
    factor = torch.linalg.solve_triangular(lower, rows, upper=False)
    factors[:, step * wide : (step + 1) * wide] = factor
    removed = weights[band, :, pick].transpose(1, 2)
    share = torch.linalg.solve_triangular(lower, removed, upper=False)
    weights -= (share.transpose(1, 2) @ factor).reshape(weights.shape)
    weights[band, :, pick] = 0.0
    pieces = factor.reshape(n_bands, wide, n_groups, wide).permute(0, 2, 3, 1)
    blocks -= pieces @ pieces.transpose(2, 3)
    blocks[band, pick] = torch.eye(wide, dtype=blocks.dtype)


def _take(values: Tensor, index: Tensor, axis: int) -> Tensor:
    """Take other entries along an axis for every band."""
    shape = [1] * values.ndim
    shape[0], shape[axis] = index.shape
    sizes = list(values.shape)
    sizes[axis] = index.shape[1]
    return values.gather(axis, index.reshape(shape).expand(sizes))


class _Quota:
    """The number of weights that each group of N:M can still lose.

    When no group can lose more, all may.
    """

    def __init__(self, pattern: NM | None, n_bands: int, n_columns: int) -> None:
        self.pattern = pattern
        if pattern is not None:
            starts = torch.arange(0, n_columns, pattern.m)
            sizes = (n_columns - starts).clamp(max=pattern.m)
            self.spare = (sizes - pattern.n).clamp(min=0).repeat(n_bands, 1)

    def choose(self, rise: Tensor, left: Tensor, gone: Tensor) -> Tensor:
        """Pick the group of least rise in every band."""
        if self.pattern is None:
            return rise.argmin(1)
        group = left // self.pattern.m
        full = self.spare.gather(1, group) <= 0
        free = ~gone & ~full
        held = full & free.any(1, keepdim=True)
        pick = rise.masked_fill(held, torch.inf).argmin(1)
        picked = group.gather(1, pick[:, None])
        self.spare.scatter_add_(1, picked, -torch.ones_like(picked))
        return pick
