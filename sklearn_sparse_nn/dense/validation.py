"""The parts of a net's own split, in the format that the net takes.

A net's `train_split` may return data of the user's own, with labels and types as the
user has them. A split of our rows is in the net's format already.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.utils import _safe_indexing, column_or_1d
from sklearn.utils.validation import assert_all_finite
from skorch import NeuralNet
from skorch.dataset import Dataset as Arrays
from skorch.utils import to_numpy
from torch.utils.data import (
    ConcatDataset,
    Dataset,
    IterableDataset,
    TensorDataset,
)

from sklearn_sparse_nn.dense.base import OWN_ROWS, check_rows
from sklearn_sparse_nn.dense.source import NetFormat
from sklearn_sparse_nn.nets.batches import unwrap
from sklearn_sparse_nn.nets.targets import Labels

__all__ = ["split_datasets"]

AnyDataset = Dataset[Any]


def split_datasets(
    format: NetFormat, net: NeuralNet, X: Any, y: np.ndarray
) -> tuple[AnyDataset, AnyDataset | None]:
    """Split training data as a net does, and convert what is not of these data.

    Parameters
    ----------
    format : NetFormat
        How the net takes rows and targets.
    net : skorch.NeuralNet
        The net; its `train_split`, or its own ``get_split_datasets``, divides the data.
    X, y : arrays
        The training data in this format.

    Returns
    -------
    train, valid : Dataset, Dataset or None
        Parts of `X` and `y` are as the net has made them. Of other data, arrays are
        converted here and other datasets row by row, when they are read.

    Raises
    ------
    ValueError
        Data of the user's own cannot be converted: a label is unknown, say.
    """
    with _datasets_of(net) as ours:
        train, valid = net.get_split_datasets(X, y)
    if _is_of(train, ours) and (valid is None or _is_of(valid, ours)):
        return train, valid
    split = _Conversion(format, ours, _has_numbers(train, ours, format))
    train = split.converted(train, "training")
    return train, None if valid is None else split.converted(valid, "validation")


@contextmanager
def _datasets_of(net: NeuralNet) -> Iterator[list[AnyDataset]]:
    """Collect the datasets that a net makes of the arrays that it is given."""
    made: list[AnyDataset] = []
    settings, make = vars(net), net.get_dataset
    own = {name: settings[name] for name in ("get_dataset",) if name in settings}

    def get_dataset(*args: Any, **kwargs: Any) -> Any:
        dataset = make(*args, **kwargs)
        if dataset is not settings.get("dataset"):  # the user's own, in place of ours
            made.append(dataset)
        return dataset

    settings["get_dataset"] = get_dataset
    try:
        yield made
    finally:
        del settings["get_dataset"]
        settings.update(own)


def _is_of(dataset: Any, ours: Iterable[AnyDataset]) -> bool:
    """Check whether a dataset is one of ours, or shows rows of ours alone."""
    if any(dataset is known for known in ours):
        return True
    if isinstance(dataset, ConcatDataset):
        return all(_is_of(part, ours) for part in dataset.datasets)
    inner = getattr(dataset, "dataset", None)
    return isinstance(inner, Dataset) and _is_of(inner, ours)


def _has_numbers(
    train: AnyDataset, ours: Iterable[AnyDataset], format: NetFormat
) -> bool:
    """Check whether a split has copied our class numbers into datasets of its own."""
    targets = format.targets
    numbers = np.arange(targets.n_outputs)
    if _is_of(train, ours) or not isinstance(targets, Labels):
        return False
    if np.array_equal(targets.classes, numbers):
        return False  # numbers and labels are the same
    labels = _targets_of(train)
    are_labels = _all_in(labels, targets.classes)
    are_numbers = _all_in(labels, numbers)
    if are_labels and are_numbers:
        raise ValueError(
            f"The net's own split returned training data with the labels "
            f"{np.unique(labels).tolist()}, which may be labels in y, or the class "
            f"numbers that stand for {targets.classes.tolist()}. Return a "
            "torch.utils.data.Subset of the dataset that the split is given."
        )
    return are_numbers


def _all_in(values: np.ndarray, known: np.ndarray) -> bool:
    """Check whether all values are known; text is no number."""
    if (values.dtype.kind in "US") != (known.dtype.kind in "US"):
        known = known.astype(object)
    return bool(np.isin(values, known).all())


def _targets_of(dataset: AnyDataset) -> np.ndarray:
    """Read the targets of a dataset of any kind."""
    arrays = _arrays(dataset)
    if arrays is not None:
        return column_or_1d(arrays[1])
    rows = cast(Iterable[Any], _in_order(dataset))
    return np.array([_one(_pair(row)[1]) for row in rows])


def _in_order(dataset: Any) -> Iterator[Any]:
    if isinstance(dataset, IterableDataset):
        yield from dataset
    else:
        for i in range(len(dataset)):
            yield dataset[i]


def _arrays(dataset: Any) -> tuple[Any, Any] | None:
    """Return X and y of a dataset that holds them and changes nothing in them."""
    dataset, rows = unwrap(dataset)
    if type(dataset) is TensorDataset and len(dataset.tensors) == 2:
        X, y = dataset.tensors
    elif type(dataset) is Arrays and dataset.y is not None:
        X, y = dataset.X, dataset.y
    else:
        return None
    if isinstance(X, (dict, list, tuple)):
        return None
    X, y = (_as_array(part) for part in (X, y))
    if rows is None:
        return X, y
    return _safe_indexing(X, rows), _safe_indexing(y, rows)


def _as_array(value: Any) -> Any:
    """Return a tensor as an array, and all else as it is."""
    if not isinstance(value, torch.Tensor):
        return value
    return to_numpy(value.float() if value.dtype is torch.bfloat16 else value)


def _pair(row: Any) -> tuple[Any, Any]:
    if not isinstance(row, (tuple, list)) or len(row) != 2:
        raise ValueError("every row must be a pair of X and y")
    return row[0], row[1]


def _one(target: Any) -> Any:
    value = np.asarray(_as_array(target))
    if value.size != 1:
        raise ValueError(f"a target has shape {value.shape}; it must be one value")
    return value.reshape(-1)[0]


class TrainingRows(BaseEstimator):
    """The columns of the training data, for scikit-learn to compare others with."""

    def __init__(self, n_features: int, names: np.ndarray | None) -> None:
        self.n_features_in_ = n_features
        if names is not None:
            self.feature_names_in_ = names

    def fit(self, X: Any) -> None:
        """Set nothing: by this method scikit-learn knows an estimator."""


@dataclass(frozen=True)
class _Conversion:
    """The conversion of a user's own datasets to a net's format.

    Parameters
    ----------
    format : NetFormat
        How the net takes rows and targets.
    ours : list of Dataset
        Datasets in this format.
    numbers : bool
        Whether the targets are class numbers already.
    """

    format: NetFormat
    ours: list[AnyDataset]
    numbers: bool

    def converted(self, dataset: AnyDataset, name: str) -> AnyDataset:
        """Convert a dataset, unless it is ours; name it in errors."""
        if _is_of(dataset, self.ours):
            return dataset
        if type(dataset) is ConcatDataset:
            parts = [self.converted(part, name) for part in dataset.datasets]
            return ConcatDataset(parts)
        with _named(name):
            return self._converted(dataset, name)

    def _converted(self, dataset: Any, name: str) -> AnyDataset:
        arrays = _arrays(dataset)
        if arrays is not None:
            X, y = arrays
            return Arrays(self._rows(X), self._encoded(y))
        convert = partial(self.row, name=name)
        if isinstance(dataset, IterableDataset):
            return _ConvertedRows(dataset, convert)
        if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
            raise TypeError(f"a {type(dataset).__name__} is no dataset")
        if len(dataset):
            self.row(dataset[0], name=name)
        if isinstance(self.format.targets, Labels):
            self._encoded(_targets_of(dataset))  # an unknown label, before training
        return _Converted(dataset, convert)

    def row(self, row: Any, *, name: str) -> tuple[Any, Any]:
        """Convert one row of a dataset, and its target."""
        with _named(name):
            X, y = _pair(row)
            X = np.asarray(_as_array(X))
            if X.shape != self.format.row_shape:
                raise ValueError(
                    f"a row has the shape {X.shape}; the rows of X have the shape "
                    f"{self.format.row_shape}"
                )
            assert_all_finite(X, input_name="X")
            encoded = self._encoded(np.array([_one(y)]))
            return self.format.rows(X[None])[0], encoded[0]

    def _rows(self, X: Any) -> Any:
        columns = TrainingRows(self.format.row_shape[0], self.format.names)
        rows = check_rows(columns, X, OWN_ROWS)
        if rows.shape[1:] != self.format.row_shape:
            raise ValueError(
                f"its rows have the shape {rows.shape[1:]}; the rows of X have the "
                f"shape {self.format.row_shape}"
            )
        return self.format.rows(rows)

    def _encoded(self, y: Any) -> np.ndarray:
        y = column_or_1d(y)
        assert_all_finite(y, input_name="y")
        if self.numbers:
            return y.astype(self.format.y_dtype)
        return self.format.encode(y)


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Raise errors that name the data they are about."""
    try:
        yield
    except _OwnDataError:
        raise
    except (ValueError, TypeError) as error:
        raise _OwnDataError(
            f"The {name} data of the net's own split cannot be converted to what the "
            f"net takes: {error}"
        ) from error


class _OwnDataError(ValueError):
    """A user's own data cannot be converted; it says which."""


Convert = Callable[[Any], tuple[Any, Any]]


class _Converted(Dataset[Any]):
    """A dataset that converts every row when it is read."""

    def __init__(self, dataset: Any, convert: Convert) -> None:
        self.dataset, self.convert = dataset, convert

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, i: Any) -> tuple[Any, Any]:
        return self.convert(self.dataset[i])


class _ConvertedRows(IterableDataset[Any]):
    """A dataset without places that converts every row when it is read."""

    def __init__(self, dataset: Any, convert: Convert) -> None:
        self.dataset, self.convert = dataset, convert

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        return map(self.convert, self.dataset)
