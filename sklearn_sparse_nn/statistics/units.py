"""Statistics of a net's units over a sample of rows: input norms, zeros, uses."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from sklearn_sparse_nn.nets.host import AnyConv, AnyConvTranspose
from sklearn_sparse_nn.nets.layers import (
    PrunableLayer,
    is_prunable,
)
from sklearn_sparse_nn.nets.modules import ELEMENTWISE
from sklearn_sparse_nn.statistics.sampling import Sample, at_least_float32
from sklearn_sparse_nn.statistics.uses import Calls, StatisticError, Uses

__all__ = ["input_gram", "input_norms", "zero_fractions"]

_NO_ACTIVATION = (nn.Dropout, nn.Identity)
_LOOKUPS = (nn.Embedding, nn.EmbeddingBag)


def input_norms(sample: Sample) -> dict[str, Tensor]:
    """Compute the L2 norm of every input of the layers.

    Parameters
    ----------
    sample : Sample
        The net and the rows.

    Returns
    -------
    input_norm : dict of layer name to Tensor of shape (1, in, 1, ...)
        The norms over rows. In a convolution an input is a channel, and the norm is
        also over positions; with groups, the shape is (out, in, ...). An embedding's
        inputs are its entries, with value 1 for each time that they are looked up.
    """
    squares: dict[str, Any] = dict.fromkeys(sample.layers, 0.0)
    for seen in _inputs_of_layers(sample, "input_norm"):
        for name, layer in sample.layers.items():
            for inputs in seen[name]:
                squares[name] = squares[name] + _sum_of_squares(layer, inputs)
    return {
        name: _beside_weight(layer, torch.as_tensor(squares[name]).sqrt())
        for name, layer in sample.layers.items()
    }


def input_gram(sample: Sample) -> dict[str, Tensor]:
    """Compute ``X'X`` of the inputs of the layers, all Linear.

    Parameters
    ----------
    sample : Sample
        The net and the rows.

    Returns
    -------
    hessian : dict of layer name to float64 Tensor of shape (in, in)
        The products, on the CPU.

    Raises
    ------
    ValueError
        A layer is not Linear.
    """
    for name, layer in sample.layers.items():
        if not isinstance(layer.module, nn.Linear):
            raise StatisticError(
                f"The statistic 'hessian' (of importance='obs') is known for Linear "
                f"layers, and {name!r} is {type(layer.module).__name__}. Leave it out "
                "with `layers`, or choose another importance."
            )
    grams: dict[str, Tensor] = {
        name: torch.zeros(2 * layer.weight.shape[1:], dtype=torch.float64)
        for name, layer in sample.layers.items()
    }
    for seen in _inputs_of_layers(sample, "hessian"):
        for name in sample.layers:
            for inputs in seen[name]:
                rows = inputs.flatten(0, -2).double()
                grams[name] += (rows.T @ rows).cpu()
    return grams


def zero_fractions(sample: Sample) -> dict[str, Tensor]:
    """Compute how often the units of the layers are zero after their activation.

    A unit is followed through the next modules (norms, activations). If none of them is
    an activation, as when a function is called, it counts as zero where it is not
    positive, which is right for ReLU.

    Parameters
    ----------
    sample : Sample
        The net and the rows.

    Returns
    -------
    activation_zeros : dict of layer name to Tensor of shape (out, 1, ...)
        The fractions of rows (and positions, in a convolution) that are zero.

    Raises
    ------
    ValueError
        The values of a layer's units cannot be seen.
    """
    zeros: dict[str, Any] = dict.fromkeys(sample.layers, 0.0)
    n_values = dict.fromkeys(sample.layers, 0)
    with _Followed(sample) as followed:
        for X, _, _ in sample.batches():
            followed.units.clear()
            followed.run(X)
            for name, values, activated in followed.units:
                units = _units_last(sample.layers[name], values.detach())
                is_zero = units == 0 if activated else units <= 0
                zeros[name] = zeros[name] + is_zero.sum(0)
                n_values[name] += len(units)
    followed.uses.check("activation_zeros")
    for name in sample.layers:
        if name in followed.uses.without_bias:
            raise StatisticError(
                f"The statistic 'activation_zeros' is not known for layer {name!r}: "
                "its bias is added elsewhere, so its units' values cannot be seen. "
                "Call the layer itself, leave it out with `layers`, or choose an "
                "importance other than 'apoz'."
            )
    return {
        # A unit that no row reaches is never active.
        name: _by_neuron(layer, torch.as_tensor(zeros[name]) / n_values[name])
        if n_values[name]
        else _by_neuron(layer, torch.ones(()))
        for name, layer in sample.layers.items()
    }


def _inputs_of_layers(
    sample: Sample, statistic: str
) -> Iterator[dict[str, list[Tensor]]]:
    """Yield what reaches the layers, batch by batch; refuse what cannot be seen."""
    calls = Calls(sample.layers, apart=True)
    for X, _, _ in sample.batches():
        calls.seen.clear()
        with torch.enable_grad(), calls:
            outputs = sample.net.infer(X)
        calls.check(statistic, outputs)
        with torch.no_grad():
            yield {
                name: [inputs for inputs, _ in calls.seen[name]]
                for name in sample.layers
            }
    calls.check(statistic)


def _sum_of_squares(layer: PrunableLayer, inputs: Tensor) -> Tensor:
    """Sum the squares of every input of a layer, over rows and positions."""
    if isinstance(layer.module, _LOOKUPS):
        n_entries = layer.weight.shape[0]
        counts = torch.bincount(inputs.reshape(-1), minlength=n_entries)
        return counts.to(at_least_float32(layer.weight).dtype)
    inputs = at_least_float32(inputs)
    if isinstance(layer.module, AnyConv):
        return inputs.square().transpose(0, 1).flatten(1).sum(1)
    return inputs.square().flatten(0, -2).sum(0)


def _beside_weight(layer: PrunableLayer, by_input: Tensor) -> Tensor:
    """Reshape values of a layer's inputs to broadcast against its weight."""
    shape = layer.turned(layer.weight).shape
    groups = getattr(layer.module, "groups", 1)
    turned = isinstance(layer.module, AnyConvTranspose)
    if by_input.ndim == 0:  # a layer that was never called
        by_input = by_input.expand(shape[1] * (1 if turned else groups))
    by_group = by_input.reshape(1, -1)
    if groups > 1 and not turned:
        by_group = by_input.reshape(groups, -1)
        by_group = by_group.repeat_interleave(shape[0] // groups, 0)
    return by_group.reshape(*by_group.shape, *[1] * (len(shape) - 2))


def _units_last(layer: PrunableLayer, values: Tensor) -> Tensor:
    """Reshape values to (rows and positions, units)."""
    if isinstance(layer.module, AnyConv):
        return values.transpose(0, 1).flatten(1).T
    return values.flatten(0, -2)


def _by_neuron(layer: PrunableLayer, by_unit: Tensor) -> Tensor:
    """Reshape values of a layer's units to (out, 1, ...)."""
    shape = layer.turned(layer.weight).shape
    # A transposed convolution's groups share the rows of its turned weight.
    by_row = by_unit.expand(1) if by_unit.ndim == 0 else by_unit.reshape(-1, shape[0])
    by_row = by_row.float().mean(0).expand(shape[0])
    return by_row.reshape(-1, *[1] * (len(shape) - 1))


class _Followed:
    """Record outputs of layers after the norms and activations that follow them."""

    def __init__(self, sample: Sample) -> None:
        self.uses = Uses(sample.layers, self._start, apart=True)
        self._net = sample.net
        self._hooks: list[RemovableHandle] = []
        #: A layer's name, the latest values of its units, and whether an activation
        #: was applied to them.
        self.units: list[tuple[str, Tensor, bool]] = []

    def __enter__(self) -> "_Followed":
        for module in self._net.module_.modules():
            if next(module.children(), None) is None:
                hook = module.register_forward_hook(self._follow, with_kwargs=True)
                self._hooks.append(hook)
        return self

    def __exit__(self, *error: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def run(self, X: Any) -> None:
        """Run a batch through the net."""
        with torch.enable_grad(), self.uses:
            outputs = self._net.infer(X)
        self.uses.check("activation_zeros", outputs)

    def _start(self, name: str, inputs: Tensor, output: Tensor) -> Tensor:
        self.units.append((name, output, False))
        return output

    def _follow(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        inputs = args[0] if args else next(iter(kwargs.values()), None)
        for i, (name, values, activated) in enumerate(self.units):
            if values is inputs and torch.is_tensor(output):
                if output.shape == values.shape and not is_prunable(module):
                    self.units[i] = name, output, activated or _activates(module)
                return


def _activates(module: nn.Module) -> bool:
    """Check whether a module is an activation, and no norm, dropout or the like."""
    if isinstance(module, _NO_ACTIVATION):
        return False
    home = type(module).__module__
    if home.startswith("torch.nn.") and not isinstance(module, ELEMENTWISE):
        return home == "torch.nn.modules.activation"
    return not any(True for _ in module.parameters())  # our own module, or a user's
