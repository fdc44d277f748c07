"""A private copy of a net and rows to run through it, for looking at it only."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from skorch import NeuralNet
from skorch.dataset import unpack_data
from torch import Tensor, nn

from sklearn_sparse_nn.nets.copies import private_twin
from sklearn_sparse_nn.nets.host import own_parameters
from sklearn_sparse_nn.nets.layers import PrunableLayer, prunable_layers

__all__ = ["Calls", "Sample", "sample_rows", "sharing"]


class Sample:
    """A net in evaluation mode, sharing another's weights, and a sample of rows.

    Nothing of the other net changes: no gradient, hook or running mean.

    Parameters
    ----------
    net : skorch.NeuralNet
        Initialized.
    rows : Dataset
        What `net` takes batches from.
    layers : mapping of name to PrunableLayer
        The layers that are looked at.

    Attributes
    ----------
    layers : dict of name to PrunableLayer
        The same layers in the private copy; their weights are the same tensors.
    """

    def __init__(
        self, net: NeuralNet, rows: Any, layers: Mapping[str, PrunableLayer]
    ) -> None:
        self.net = private_twin(net)
        self.net.__dict__["rows_at_once"] = 1  # no empty rows in sums
        self.net.module_.eval()
        _unfreeze(self.net.module_)
        own = prunable_layers(self.net.module_)
        self.layers = {name: own[name] for name in layers}
        self._rows = rows

    @property
    def averages(self) -> bool:
        """Whether the loss of a batch is the mean over its rows, and not the sum."""
        return getattr(self.net.criterion_, "reduction", "mean") == "mean"

    def batches(self, size: int | None = None) -> Iterator[tuple[Any, Any, int]]:
        """Give inputs, targets and number of rows of each batch."""
        given = {} if size is None else {"iterator_valid__batch_size": size}
        settings = self.net.__dict__
        before = settings.copy()
        settings.update(given)
        iterator = self.net.get_iterator(self._rows, training=False)
        for name in given:
            settings.pop(name)
        settings.update({name: before[name] for name in given if name in before})
        for batch in iterator:
            X, y = unpack_data(batch)
            yield X, y, len(y)

    def loss(self, X: Any, y: Any) -> Tensor:
        """Compute the net's own loss of a batch."""
        return self.net.get_loss(self.net.infer(X), y, X=X, training=False)


class Calls:
    """Hears what the layers of a sample are called with, and what they give.

    Parameters
    ----------
    module : nn.Module
        A private copy.
    layers : mapping of name to PrunableLayer
        Layers of it. A layer of the same kind that shares a weight is heard under the
        name of the first.

    Attributes
    ----------
    seen : dict of name to list of (inputs, outputs)
        A pair for each call since it was last cleared.
    last : Tensor
        What the layer that was called last gave.
    """

    def __init__(self, module: nn.Module, layers: Mapping[str, PrunableLayer]) -> None:
        self._names = sharing(module, layers)
        self._hooks: list[Any] = []
        self.seen: dict[str, list[tuple[Tensor, Tensor]]] = defaultdict(list)

    def __enter__(self) -> "Calls":
        for module, name in self._names.items():

            def hear(
                _: Any, args: Any, kwargs: Any, output: Tensor, name: str = name
            ) -> Tensor:
                inputs = args[0] if args else next(iter(kwargs.values()))
                self.seen[name].append((inputs.detach(), output))
                self.last = output
                # An activation that works in place shall not change what was heard.
                return output.clone()

            hook = module.register_forward_hook(hear, with_kwargs=True)
            self._hooks.append(hook)
        return self

    def __exit__(self, *error: object) -> None:
        for hook in self._hooks:
            hook.remove()


def sharing(
    module: nn.Module, layers: Mapping[str, PrunableLayer]
) -> dict[nn.Module, str]:
    """Find the modules that use the layers' weights: more than one where it is tied.

    Parameters
    ----------
    module : nn.Module
        The whole net.
    layers : mapping of name to PrunableLayer
        Some of its layers.

    Returns
    -------
    names : dict of module to layer name
        Modules of the same kind that share a weight have one name.
    """
    names = {
        (type(layer.module), id(layer.weight)): name for name, layer in layers.items()
    }
    found = {}
    for child in module.modules():
        weight = own_parameters(child).get("weight")
        name = names.get((type(child), id(weight)))
        if name is not None:
            found[child] = name
    return found


def _unfreeze(module: nn.Module) -> None:
    """Let every weight of a private copy have a slope, sharing what is in it."""
    free: dict[int, nn.Parameter] = {}
    for child in module.modules():
        parameters = own_parameters(child)
        for name, parameter in parameters.items():
            if parameter is not None and not parameter.requires_grad:
                twin = free.setdefault(id(parameter), nn.Parameter(parameter.detach()))
                parameters[name] = twin


def sample_rows(dataset: Any, n_rows: int | None, generator: torch.Generator) -> Any:
    """Choose rows of a dataset at random, in the order that they have there.

    Parameters
    ----------
    dataset : Dataset
        What to choose from.
    n_rows : int or None
        How many; None, or more than there are, for all.
    generator : torch.Generator
        Where the choice comes from; drawn from even if all are taken.

    Returns
    -------
    rows : Dataset
    """
    order = torch.randperm(len(dataset), generator=generator)
    if n_rows is None or n_rows >= len(dataset):
        return dataset
    return torch.utils.data.Subset(dataset, order[:n_rows].sort().values.tolist())
