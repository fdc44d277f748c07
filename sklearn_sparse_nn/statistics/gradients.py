"""Gradients of the loss with respect to the weights, over a sample of rows."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from sklearn_sparse_nn.statistics.row_gradients import squares_side_by_side
from sklearn_sparse_nn.statistics.sampling import Sample, at_least_float32
from sklearn_sparse_nn.statistics.uses import Calls, StatisticError, Uses, graph_nodes

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

    Raises
    ------
    ValueError
        A weight is used, and no gradient reaches it.
    """
    found = _Mean(sample)
    with torch.enable_grad():
        for X, y, n in sample.batches():
            grads = found.gradients(X, y)
            found.add(grads, n if sample.averages else 1, n)
    return found.mean("grad")


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
    found = _Mean(sample)
    # The fused attention of torch has no second derivative; the plain one has.
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        for X, y, n in sample.batches():
            grads = found.gradients(X, y, create_graph=True)
            product = torch.stack(
                [(g * fixed[name]).sum() for name, g in grads.items()]
            ).sum()
            _check_differentiable(sample, product)
            values = _zeros(sample)
            if product.requires_grad:
                values = _or_zeros(sample, _gradients(sample, product))
            found.add(values, n if sample.averages else 1, n)
    return found.mean("hessian_grad")


def _check_differentiable(sample: Sample, product: Tensor) -> None:
    """Refuse a derivative without one of its own, which would count as constant."""
    if any(node.name().endswith("::Error") for node in graph_nodes(product)):
        raise StatisticError(
            "The statistic 'hessian_grad' is not known for "
            f"{type(sample.net.module_).__name__}: a function in it has no second "
            "derivative (it is marked as once_differentiable). Choose an importance "
            "other than 'grasp'."
        )


def mean_squared_gradient(sample: Sample) -> dict[str, Tensor]:
    """Average the squared gradient of each row's own loss.

    If all layers are Linear and see each row once, and the loss has no weights or terms
    of its own, a row's gradient is the outer product of output gradients and inputs, so
    whole batches are squared at once. Otherwise torch differentiates the rows of a
    batch side by side; where it cannot, they are run one by one.

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
    if at_once is None:
        at_once = squares_side_by_side(sample)
    if at_once is not None:
        return at_once
    found = _Mean(sample)
    with torch.enable_grad():
        for X, y, n in sample.batches(size=1):
            grads = found.gradients(X, y)
            found.add({name: grad.square() for name, grad in grads.items()}, 1, n)
    return found.mean("grad_sq")


def _squares_of_outer_products(sample: Sample) -> dict[str, Tensor] | None:
    """Average squared gradients in whole batches; return None where it is not exact."""
    if not _separable(sample):
        return None
    total, n_rows = _zeros(sample), 0
    with torch.enable_grad(), Calls(sample.layers) as calls:
        for X, y, n in sample.batches():
            calls.seen.clear()
            loss = sample.loss(X, y)
            by_row = all(_by_row(calls.seen[name], n) for name in sample.layers)
            if calls.other or not by_row:
                return None
            inputs, outputs = zip(
                *[calls.seen[name][0] for name in sample.layers], strict=True
            )
            if not all(values.requires_grad for values in outputs):
                return None
            if not n_rows and not _explained(sample, loss, inputs, outputs):
                return None
            output_grads = torch.autograd.grad(loss, outputs, allow_unused=True)
            scale = n if sample.averages else 1
            for name, x, grad in zip(sample.layers, inputs, output_grads, strict=True):
                if grad is not None:
                    grad, x = at_least_float32(grad), at_least_float32(x)
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
        if grad is None:
            return False
        found = torch.zeros_like(grad)
        if output_grad is not None:
            found = at_least_float32(output_grad.T) @ at_least_float32(x)
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
        name: at_least_float32(torch.zeros_like(layer.weight, requires_grad=False))
        for name, layer in sample.layers.items()
    }


def _gradients(
    sample: Sample, loss: Tensor, **options: Any
) -> dict[str, Tensor | None]:
    """Compute gradients of the weights, None for a layer that the loss does not use."""
    weights = [layer.weight for layer in sample.layers.values()]
    grads = torch.autograd.grad(loss, weights, allow_unused=True, **options)
    return {
        name: None if grad is None else at_least_float32(grad.to_dense())
        for name, grad in zip(sample.layers, grads, strict=True)
    }


def _or_zeros(sample: Sample, grads: dict[str, Tensor | None]) -> dict[str, Tensor]:
    zeros = _zeros(sample)
    return {name: zeros[name] if grad is None else grad for name, grad in grads.items()}


class _Mean:
    """The mean of gradients over rows, for layers that gradients reach."""

    def __init__(self, sample: Sample) -> None:
        self._sample = sample
        self._uses = Uses(sample.layers, lambda name, inputs, output: output)
        self._reached: set[str] = set()
        self._total, self._n_rows = _zeros(sample), 0

    def gradients(self, X: Any, y: Any, **options: Any) -> dict[str, Tensor]:
        """Compute the gradients of a batch's loss."""
        with self._uses:
            loss = self._sample.loss(X, y)
        if not loss.requires_grad:
            return _zeros(self._sample)
        grads = _gradients(self._sample, loss, **options)
        self._reached |= {name for name, grad in grads.items() if grad is not None}
        return _or_zeros(self._sample, grads)

    def add(self, values: dict[str, Tensor], factor: int, n_rows: int) -> None:
        """Add the values of a batch."""
        for name, value in values.items():
            self._total[name] += factor * value
        self._n_rows += n_rows

    def mean(self, statistic: str) -> dict[str, Tensor]:
        """Divide by the rows; refuse zeros of weights that no gradient reaches."""
        for name in self._sample.layers:
            if name in self._uses.used and name not in self._reached:
                raise StatisticError(
                    f"The statistic {statistic!r} is not known for layer {name!r}: its "
                    "weight is used, but no gradient of the loss reaches it (as inside "
                    "of torch.no_grad, or after detach). Leave it out with `layers`, "
                    "or choose an importance that asks for no gradients."
                )
        return {name: value / self._n_rows for name, value in self._total.items()}
