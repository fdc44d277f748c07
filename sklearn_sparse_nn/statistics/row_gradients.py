"""Squared gradients of single rows, many rows side by side."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from sklearn_sparse_nn.nets.host import map_tensors
from sklearn_sparse_nn.statistics.sampling import Sample, at_least_float32

__all__ = ["squares_side_by_side"]

_NUMBERS = 2**24  # of all weights, times rows at once: 64 MiB of gradients


class _Loss(nn.Module):
    """The loss of a net as a module, so that weights can be put into it."""

    def __init__(self, sample: Sample) -> None:
        super().__init__()
        self.module = sample.net.module_
        self._sample = sample

    def forward(self, X: Any, y: Any) -> Tensor:
        """Compute the loss of a batch."""
        return self._sample.loss(X, y)


def squares_side_by_side(sample: Sample) -> dict[str, Tensor] | None:
    """Average the squared gradient of each row's own loss, in batches.

    Parameters
    ----------
    sample : Sample
        The net and the rows.

    Returns
    -------
    grad_sq : dict of layer name to Tensor of the weight's shape, or None
        The mean squared gradients; None where torch cannot run the net's rows side by
        side, or the first row alone has another gradient.
    """
    loss = _Loss(sample)
    names = {id(p): name for name, p in loss.named_parameters()}
    weights = {name: layer.weight for name, layer in sample.layers.items()}
    if any(id(weight) not in names for weight in weights.values()):
        return None
    free = {names[id(w)]: w.detach() for w in weights.values()}

    def row_loss(free: dict[str, Tensor], X: Any, y: Any) -> Tensor:
        return functional_call(loss, free, (X, y)).sum()

    size = max(1, _NUMBERS // max(1, sum(w.numel() for w in free.values())))
    by_row = vmap(grad(row_loss), in_dims=(None, 0, 0))
    zeros = {name: at_least_float32(torch.zeros_like(w)) for name, w in free.items()}
    total, n_rows = zeros, 0
    for X, y, n in sample.batches():
        for start in range(0, n, size):
            try:
                rows = [_singles(part, start, start + size) for part in (X, y)]
                found = by_row(free, *rows)
            except Exception:  # data decide in the forward, or torch has no such rule
                return None
            if not n_rows and not _same(sample, X, y, list(weights.values()), found):
                return None
            for name, grads in found.items():
                total[name] += at_least_float32(grads).square().sum(0)
            n_rows += min(size, n - start)
    return {name: total[names[id(w)]] / n_rows for name, w in weights.items()}


def _singles(rows: Any, start: int, stop: int) -> Any:
    """Make batches of one row out of some rows of a batch."""
    return map_tensors(lambda tensor: tensor[start:stop].unsqueeze(1), rows)


def _same(
    sample: Sample, X: Any, y: Any, weights: list[Tensor], found: dict[str, Tensor]
) -> bool:
    """Check the gradients of the first row against those of the row alone."""
    with torch.enable_grad():
        loss = sample.loss(*(map_tensors(lambda x: x[:1], part) for part in (X, y)))
        alone = torch.autograd.grad(loss, weights, allow_unused=True)
    for grads, one in zip(found.values(), alone, strict=True):
        if one is None:  # the weight is not used, or its gradient does not reach it
            return False
        expected = one.to_dense()
        atol = 1e-4 * float(expected.abs().max()) if expected.numel() else 0.0
        if not torch.allclose(grads[0], expected, rtol=1e-3, atol=atol):
            return False
    return True
