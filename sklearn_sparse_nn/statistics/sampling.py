"""A private copy of a net, and sample rows."""

from collections.abc import Iterator, Mapping, Sized
from typing import Any, cast

import torch
from skorch import NeuralNet
from skorch.dataset import unpack_data
from skorch.history import History
from torch import Tensor, nn
from torch.utils.data import Dataset, Subset

from sklearn_sparse_nn.nets.copies import private_twin
from sklearn_sparse_nn.nets.host import own_parameters
from sklearn_sparse_nn.nets.layers import PrunableLayer, prunable_layers

__all__ = ["Sample", "at_least_float32", "few_rows", "sample_rows"]


class Sample:
    """A copy of a net in evaluation mode, with the same weights, and a sample of rows.

    The original net is not changed: no gradient, hook or running mean.

    Parameters
    ----------
    net : skorch.NeuralNet
        An initialized net.
    rows : Dataset
        The sample, a dataset that `net` can take batches from.
    layers : mapping of name to PrunableLayer
        The layers whose statistics are computed.

    Attributes
    ----------
    layers : dict of name to PrunableLayer
        The same layers in the copy; their weights are the same tensors.
    """

    def __init__(
        self,
        net: NeuralNet,
        rows: Dataset[Any],
        layers: Mapping[str, PrunableLayer],
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
        """True if the loss of a batch is the mean over its rows, False if the sum."""
        return getattr(self.net.criterion_, "reduction", "mean") == "mean"

    def batches(self, size: int | None = None) -> Iterator[tuple[Any, Any, int]]:
        """Yield inputs, targets and number of rows of each batch."""
        changes = {} if size is None else {"iterator_valid__batch_size": size}
        settings = vars(self.net)
        before = settings.copy()
        settings.update(changes)
        iterator = self.net.get_iterator(self._rows, training=False)
        for name in changes:
            settings.pop(name)
        settings.update({name: before[name] for name in changes if name in before})
        for batch in iterator:
            X, y = unpack_data(batch)
            yield X, y, len(y)

    def loss(self, X: Any, y: Any) -> Tensor:
        """Compute the loss of a batch, as the net does."""
        return self.net.get_loss(self.net.infer(X), y, X=X, training=False)


def few_rows(
    net: NeuralNet, rows: Dataset[Any], layers: Mapping[str, PrunableLayer]
) -> Sample | None:
    """Make a sample of two rows and a net of its own, to try out what comes later.

    Parameters
    ----------
    net : skorch.NeuralNet
        An initialized net, which is not changed: nothing of its module is shared.
    rows : Dataset
        A dataset that `net` can take batches from.
    layers : mapping of name to PrunableLayer
        Layers of its module.

    Returns
    -------
    sample : Sample or None
        None where the loss of these rows cannot be computed yet, as where it needs
        what a callback sets in training.
    """
    twin = private_twin(net, share_weights=False)
    history = History()
    history.new_epoch()
    history.new_batch()
    twin.__dict__["history_"] = history
    few = Subset(rows, range(min(2, len(cast(Sized, rows)))))
    sample = Sample(twin, few, layers)
    try:
        for X, y, _ in sample.batches():
            sample.loss(X, y)
    except Exception:  # a user's loss may raise anything
        return None
    return sample


def _unfreeze(module: nn.Module) -> None:
    """Replace frozen parameters of a copy by trainable ones with the same memory."""
    free: dict[int, nn.Parameter] = {}
    for child in module.modules():
        parameters = own_parameters(child)
        for name, parameter in parameters.items():
            if parameter is not None and not parameter.requires_grad:
                twin = free.setdefault(id(parameter), nn.Parameter(parameter.detach()))
                parameters[name] = twin


def sample_rows(
    dataset: Dataset[Any], n_rows: int | None, generator: torch.Generator
) -> Dataset[Any]:
    """Choose rows of a dataset at random, in the order that they have there.

    Parameters
    ----------
    dataset : Dataset
        The dataset to choose from.
    n_rows : int or None
        The number of rows; None, or more than there are, for all rows.
    generator : torch.Generator
        The generator of the choice. It is used even if all rows are taken.

    Returns
    -------
    rows : Dataset
        The chosen rows.
    """
    n_all = len(cast(Sized, dataset))
    order = torch.randperm(n_all, generator=generator)
    if n_rows is None or n_rows >= n_all:
        return dataset
    return Subset(dataset, order[:n_rows].sort().values.tolist())


def at_least_float32(values: Tensor) -> Tensor:
    """Convert half-precision values to float32, in which sums do not overflow."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
