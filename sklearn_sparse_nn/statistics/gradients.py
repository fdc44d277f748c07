"""Gradients of the loss with respect to the weights, over a sample of rows."""

from typing import Any

import torch
from torch import Tensor, nn

from sklearn_sparse_nn.statistics.sampling import Calls, Sample

__all__ = ["mean_gradient", "mean_hessian_gradient", "mean_squared_gradient"]


def mean_gradient(sample: Sample) -> dict[str, Tensor]:
    """Average the gradient of the loss over all rows.

    Parameters
    ----------
    sample : Sample
        The net and the rows.

    Returns
    -------
    grad : dict of layer name to Tensor of the weight's shape
        The mean gradients.
    """
    total, n_rows = _zeros(sample), 0
    with torch.enable_grad():
        for X, y, n in sample.batches():
            for name, grad in _gradients(sample, sample.loss(X, y)).items():
                total[name] += (n if sample.averages else 1) * grad
            n_rows += n
    return {name: value / n_rows for name, value in total.items()}


def mean_hessian_gradient(sample: Sample) -> dict[str, Tensor]:
    """Compute the Hessian of the mean loss times its gradient.

    It is the gradient of ``<g, v>`` for a constant ``v = g``, summed over batches.

    Parameters
    ----------
    sample : Sample
        The net and the rows. Its activations must have second derivatives.

    Returns
    -------
    hessian_grad : dict of layer name to Tensor of the weight's shape
        The products of Hessian and gradient.
    """
    fixed = mean_gradient(sample)
    total, n_rows = _zeros(sample), 0
    with torch.enable_grad():
        for X, y, n in sample.batches():
            grads = _gradients(sample, sample.loss(X, y), create_graph=True)
            product = torch.stack(
                [(g * fixed[name]).sum() for name, g in grads.items()]
            )
            if product.requires_grad:
                for name, value in _gradients(sample, product.sum()).items():
                    total[name] += (n if sample.averages else 1) * value
            n_rows += n
    return {name: value / n_rows for name, value in total.items()}


def mean_squared_gradient(sample: Sample) -> dict[str, Tensor]:
    """Average the squared gradient of each row's own loss.

    If all layers are Linear and see each row once, and the loss has no weights or terms
    of its own, a row's gradient is the outer product of output gradients and inputs, so
    whole batches are squared at once. Otherwise rows are run one by one.

    Parameters
    ----------
    sample : Sample
        The net and the rows.

    Returns
    -------
    grad_sq : dict of layer name to Tensor of the weight's shape
        The mean squared gradients.
    """
    at_once = _squares_of_outer_products(sample)
    if at_once is not None:
        return at_once
    total, n_rows = _zeros(sample), 0
    with torch.enable_grad():
        for X, y, n in sample.batches(size=1):
            for name, grad in _gradients(sample, sample.loss(X, y)).items():
                total[name] += grad.square()
            n_rows += n
    return {name: value / n_rows for name, value in total.items()}


def _squares_of_outer_products(sample: Sample) -> dict[str, Tensor] | None:
    """Average squared gradients in whole batches; return None where it is not exact."""
    if not _separable(sample):
        return None
    total, n_rows = _zeros(sample), 0
    with torch.enable_grad(), Calls(sample.net.module_, sample.layers) as calls:
        for X, y, n in sample.batches():
            calls.seen.clear()
            loss = sample.loss(X, y)
            if not all(_by_row(calls.seen[name], n) for name in sample.layers):
                return None
            inputs, outputs = zip(
                *[calls.seen[name][0] for name in sample.layers], strict=True
            )
            if not n_rows and not _explained(sample, loss, inputs, outputs):
                return None
            output_grads = torch.autograd.grad(loss, outputs, allow_unused=True)
            scale = n if sample.averages else 1
            for name, x, grad in zip(sample.layers, inputs, output_grads, strict=True):
                if grad is not None:
                    total[name] += (scale * grad).square().T @ x.square()
            n_rows += n
    return {name: value / n_rows for name, value in total.items()}


def _separable(sample: Sample) -> bool:
    """Check whether a batch's loss is known to be a mean or sum over its rows."""
    criterion = sample.net.criterion_
    plain = type(sample.net).get_loss.__module__.startswith("skorch.")
    plain = plain and type(criterion).__module__.startswith("torch.nn.")
    by_row = getattr(criterion, "reduction", "mean") in ("mean", "sum")
    weighted = getattr(criterion, "weight", None) is not None
    modules = [layer.module for layer in sample.layers.values()]
    linear = all(isinstance(module, nn.Linear) for module in modules)
    return linear and plain and by_row and not weighted


def _explained(
    sample: Sample,
    loss: Tensor,
    inputs: tuple[Tensor, ...],
    outputs: tuple[Tensor, ...],
) -> bool:
    """Check whether the recorded calls explain the whole gradient of the weights."""
    output_grads = torch.autograd.grad(
        loss, outputs, allow_unused=True, retain_graph=True
    )
    whole = _gradients(sample, loss, retain_graph=True).values()
    for x, output_grad, grad in zip(inputs, output_grads, whole, strict=True):
        found = torch.zeros_like(grad) if output_grad is None else output_grad.T @ x
        if not torch.allclose(
            found, grad, rtol=1e-3, atol=1e-4 * float(grad.abs().max())
        ):
            return False
    return True


def _by_row(calls: list[tuple[Tensor, Tensor]], n_rows: int) -> bool:
    """Check whether a layer was called once, with one input for each row."""
    return len(calls) == 1 and calls[0][0].shape[:-1] == (n_rows,)


def _zeros(sample: Sample) -> dict[str, Tensor]:
    """Return zeros of the shape of every weight."""
    return {
        name: torch.zeros_like(layer.weight, requires_grad=False)
        for name, layer in sample.layers.items()
    }


def _gradients(sample: Sample, loss: Tensor, **options: Any) -> dict[str, Tensor]:
    """Compute gradients of the weights, 0 for a layer that the loss does not use."""
    weights = [layer.weight for layer in sample.layers.values()]
    grads = torch.autograd.grad(loss, weights, allow_unused=True, **options)
    return {
        name: torch.zeros_like(weight) if grad is None else grad.to_dense()
        for name, weight, grad in zip(sample.layers, weights, grads, strict=True)
    }
