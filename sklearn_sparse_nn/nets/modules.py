"""The default module: a multilayer perceptron that standardises its inputs."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

__all__ = [
    "ACTIVATIONS",
    "ELEMENTWISE",
    "NORMS",
    "OUTPUTS",
    "Standardize",
    "TabularModule",
]

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "softsign": nn.Softsign,
}
NORMS: dict[str, type[nn.Module]] = {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm}
#: Modules that act on every unit alone.
ELEMENTWISE: tuple[type[nn.Module], ...] = (
    *ACTIVATIONS.values(),
    nn.Dropout,
    nn.Identity,
    nn.SELU,
    nn.Mish,
    nn.Sigmoid,
    nn.Softplus,
    nn.Hardtanh,
)
#: Modules that only change the form of the outputs.
OUTPUTS: tuple[type[nn.Module], ...] = (nn.Softmax, nn.LogSoftmax)


class Standardize(nn.Module):
    """Subtract a column's mean and divide by its scale, both fixed.

    Parameters
    ----------
    mean, scale : array of shape (n_inputs,)
        The mean and the scale of every column of the training data.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, mean: np.ndarray, scale: np.ndarray) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32))
        self.register_buffer("scale", torch.tensor(scale, dtype=torch.float32))

    def forward(self, X: Tensor) -> Tensor:
        """Standardise rows of shape (n, n_inputs)."""
        return (X - self.mean) / self.scale


class SeededDropout(nn.Dropout):
    """Dropout that draws from its own generator, not from torch's global one.

    Parameters
    ----------
    p : float in [0, 1)
        The probability that an activation is zeroed in training.
    seed : int
        The seed of the generator, which is on the device of the activations.
    """

    def __init__(self, p: float, seed: int) -> None:
        super().__init__(p)
        self.seed = seed
        self.generator: torch.Generator | None = None

    def forward(self, X: Tensor) -> Tensor:
        """Zero activations at random and scale up the rest, in training only."""
        if not self.training or self.p == 0:
            return X
        if self.generator is None or self.generator.device != X.device:
            self.generator = torch.Generator(X.device).manual_seed(self.seed)
        keep = torch.empty_like(X).bernoulli_(1 - self.p, generator=self.generator)
        return X * keep / (1 - self.p)


class TabularModule(nn.Sequential):
    """Multilayer perceptron: standardise, hidden layers, linear output.

    Layers are called ``hidden_0``, ``hidden_1``, ... and ``output``.

    Parameters
    ----------
    mean, scale : array of shape (n_inputs,)
        The mean and the scale of every column of the training data.
    n_outputs : int
        The number of classes, or of targets.
    hidden_layer_sizes : sequence of int, default=(256, 256, 256)
        The width of every hidden layer; empty for a linear model.
    activation : str, default="relu"
        The name of an activation in `ACTIVATIONS`.
    dropout : float in [0, 1), default=0.0
        The probability of dropout after every activation.
    norm : {"batch", "layer"} or None, default=None
        The norm between a linear map and its activation.
    seed : int, default=0
        The seed of the initial weights and of dropout.
    """

    def __init__(
        self,
        mean: np.ndarray,
        scale: np.ndarray,
        n_outputs: int,
        hidden_layer_sizes: Sequence[int] = (256, 256, 256),
        activation: str = "relu",
        dropout: float = 0.0,
        norm: str | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.add_module("standardize", Standardize(mean, scale))
        width = len(mean)
        for i, size in enumerate(hidden_layer_sizes):
            self.add_module(f"hidden_{i}", _linear(width, size, generator))
            if norm is not None:
                self.add_module(f"norm_{i}", NORMS[norm](size))
            self.add_module(f"activation_{i}", ACTIVATIONS[activation]())
            if dropout:
                layer_seed = int(torch.randint(2**31, (1,), generator=generator))
                self.add_module(f"dropout_{i}", SeededDropout(dropout, layer_seed))
            width = size
        self.add_module("output", _linear(width, n_outputs, generator))


def _linear(n_inputs: int, n_outputs: int, generator: torch.Generator) -> nn.Linear:
    """Build a linear layer with torch's initial distribution and this generator."""
    layer = nn.utils.skip_init(nn.Linear, n_inputs, n_outputs)
    bound = n_inputs**-0.5
    with torch.no_grad():
        layer.weight.uniform_(-bound, bound, generator=generator)
        layer.bias.uniform_(-bound, bound, generator=generator)
    return layer
