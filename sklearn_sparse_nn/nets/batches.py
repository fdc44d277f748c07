"""Mini-batches as slices of arrays, instead of single rows that are stacked."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch.utils.data import Dataset, Subset, TensorDataset

__all__ = ["BatchIterator", "unwrap"]


class BatchIterator:
    """Mini-batches of an in-memory dataset, cut by slicing.

    It replaces torch's ``DataLoader`` in any skorch net whose data are arrays. It
    takes a whole batch with one indexing call; a ``DataLoader`` takes every row alone
    and stacks them.

    Parameters
    ----------
    dataset : skorch.dataset.Dataset, TensorDataset or Subset of one
        The data, with rows along the first axis. `X` may be a numpy array
        (also a read-only or memory-mapped one), a tensor, a DataFrame of numbers or a
        scipy.sparse matrix, of which one batch at a time is made dense.
    batch_size : int, default=128
        The number of rows in a batch. A last batch of one row joins the batch
        before it, because batch norm cannot train on one row.
    shuffle : bool, default=False
        Whether each pass takes the rows in a new random order.
    drop_last : bool, default=False
        Whether to leave out a last batch that is not full.
    random_state : int, torch.Generator or None, default=None
        The seed or generator of the order. None uses torch's global generator, as a
        ``DataLoader`` does.

    Examples
    --------
    >>> import numpy as np
    >>> from skorch.dataset import Dataset
    >>> data = Dataset(np.eye(5, dtype="float32"), np.arange(5))
    >>> [len(y) for X, y in BatchIterator(data, batch_size=2)]
    [2, 3]

    With a skorch net of your own::

        NeuralNetClassifier(
            MyModule,
            iterator_train=BatchIterator,
            iterator_train__shuffle=True,
            iterator_valid=BatchIterator,
        )
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        batch_size: int = 128,
        *,
        shuffle: bool = False,
        drop_last: bool = False,
        random_state: int | torch.Generator | None = None,
    ) -> None:
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.drop_last = drop_last
        if isinstance(random_state, (int, np.integer)):
            random_state = torch.Generator().manual_seed(int(random_state))
        self.generator = random_state
        data, self._rows = unwrap(dataset)
        self._X, self._y = map(_as_sliceable, _arrays(data))
        self._n = self._X.shape[0] if self._rows is None else len(self._rows)

    def __len__(self) -> int:
        return len(self._starts())

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        order = self._rows
        if self.shuffle:
            shuffled = torch.randperm(self._n, generator=self.generator).numpy()
            order = shuffled if order is None else order[shuffled]
        starts = self._starts()
        ends = [*starts[1:], self._n]
        if self.drop_last:
            ends = [min(start + self.batch_size, self._n) for start in starts]
        for start, end in zip(starts, ends, strict=True):
            rows = slice(start, end) if order is None else order[start:end]
            y = torch.zeros(end - start) if self._y is None else _take(self._y, rows)
            yield _take(self._X, rows), y

    def _starts(self) -> list[int]:
        """Compute the first row of every batch, in the order of a pass."""
        starts = list(range(0, self._n, self.batch_size))
        left_over = self._n % self.batch_size
        if left_over and self.drop_last:
            return starts[:-1]
        if left_over == 1 and len(starts) > 1:
            return starts[:-1]
        return starts


def unwrap(dataset: Dataset[Any]) -> tuple[Dataset[Any], np.ndarray | None]:
    """Return the data inside nested subsets, and the rows that they select.

    Parameters
    ----------
    dataset : Dataset
        Any dataset.

    Returns
    -------
    data : Dataset
        The innermost dataset; `dataset` itself if it is no Subset.
    rows : ndarray of int or None
        The places in it; None for all.
    """
    rows = None
    while isinstance(dataset, Subset):
        indices = np.asarray(dataset.indices)
        rows = indices if rows is None else indices[rows]
        dataset = dataset.dataset
    return dataset, rows


def _arrays(dataset: Dataset[Any]) -> tuple[Any, Any]:
    """Return `X` and `y` of a dataset of arrays."""
    if isinstance(dataset, TensorDataset) and len(dataset.tensors) == 2:
        X, y = dataset.tensors
        return X, y
    if hasattr(dataset, "X") and hasattr(dataset, "y"):
        return dataset.X, dataset.y
    raise TypeError(
        f"BatchIterator slices arrays, and {type(dataset).__name__} shows none: give "
        "a skorch Dataset (what a net makes of arrays), a TensorDataset of X and y, "
        "or a Subset of one; for other datasets keep torch's DataLoader."
    )


def _as_sliceable(data: Any) -> Any:
    """Return rows as a tensor, an ndarray or a CSR matrix; None stays None."""
    if data is None or isinstance(data, (torch.Tensor, np.ndarray)):
        return data
    if sparse.issparse(data):
        return data.tocsr()
    if isinstance(data, dict):
        raise TypeError(
            "BatchIterator slices one array of rows and X is a dict; keep torch's "
            "DataLoader for modules with several inputs."
        )
    return np.asarray(data)


def _take(data: Any, rows: slice | np.ndarray) -> torch.Tensor:
    """Return some rows as a dense tensor."""
    if isinstance(data, torch.Tensor):
        return data[rows if isinstance(rows, slice) else torch.from_numpy(rows)]
    part = data[rows]
    if sparse.issparse(part):
        part = part.toarray()
    if not part.flags.writeable:  # torch warns about memory it must not write
        part = part.copy()
    return torch.from_numpy(np.ascontiguousarray(part))
