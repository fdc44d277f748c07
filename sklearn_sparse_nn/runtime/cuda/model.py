"""A sparse model on a GPU."""

import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from sklearn_sparse_nn.runtime.cuda.capture import Capture, Stream, Timer, measure
from sklearn_sparse_nn.runtime.cuda.net import Net
from sklearn_sparse_nn.runtime.display import as_text
from sklearn_sparse_nn.runtime.graph import Floats, Graph
from sklearn_sparse_nn.runtime.head import Functions, Head, Labels
from sklearn_sparse_nn.runtime.inputs import (
    Names,
    Rows,
    Table,
    check_rows,
    chunks,
    is_wide,
    refuse_nonfinite,
)

__all__ = ["BUCKETS", "CudaModel", "Host"]

#: Batch sizes that graphs are captured for: padding costs less than a factor of two.
BUCKETS = tuple(2**i for i in range(17))
_MOST_NUMBERS = 2**28  # activations of one bucket, a gibibyte in float32
_TORCH: Functions[Tensor] = Functions(
    torch.sigmoid, partial(torch.softmax, dim=1), partial(torch.cat, dim=1)
)
#: Checked rows, or a tensor of rows on the model's device.
_Rows: TypeAlias = Rows | Tensor


class Host(Protocol):
    """The model on the CPU that a `CudaModel` comes from."""

    def to(self, device: object, *, precision: str = "float32") -> Any:
        """Return the model on another device."""


class CudaModel:
    """A sparse model on a GPU, for prediction only; `SparseModel.to` builds it.

    Every batch is padded to the next of `BUCKETS`, whose CUDA graph is captured at its
    first use; larger batches go in chunks. Buffers are shared, so threads take turns.

    Parameters
    ----------
    graph : Graph
        The operations of the net.
    head : Head
        The meaning of the net's outputs.
    device : torch.device
        The device to predict on. Anything but a GPU runs without graphs, for tests.
    precision : {"float32", "tf32", "bf16"}, default="float32"
        The lowest precision that the layers may be computed with.
    host : Host
        The model on the CPU, for `to` and for pickles.
    feature_names : ndarray of str or None, default=None
        The names of the columns of X.
    buckets : tuple of int, default=BUCKETS
        The batch sizes, ascending.
    timer : callable or None, default=None
        The timer that `tune` measures with; None for CUDA events.

    Attributes
    ----------
    device : torch.device
        The device.
    precision : str
        The lowest precision.
    classes_, n_features_in_, feature_names_in_
        The same as those of the `SparseModel`.
    tuned_ : dict of int to list of dict
        The results of `tune`, by batch size: for every layer its ``name``, the
        ``choice``, and the ``microseconds`` of all ways that were measured.
    """

    def __init__(
        self,
        graph: Graph,
        head: Head,
        device: torch.device,
        precision: str = "float32",
        *,
        host: Host,
        feature_names: Names | None = None,
        buckets: tuple[int, ...] = BUCKETS,
        timer: Timer | None = None,
    ) -> None:
        self.graph, self.head, self._host = graph, head, host
        self.device, self.precision = device, precision
        self.n_features_in_ = graph.stage.n_features
        if feature_names is not None:
            self.feature_names_in_ = feature_names
        rows = _MOST_NUMBERS // (sum(graph.widths) + graph.stage.n_features)
        self._buckets = tuple(b for b in buckets if b <= rows) or buckets[:1]
        self._lock = threading.Lock()
        self._stream = Stream(device)
        self._timer = timer or measure(self._stream)
        self._net = Net(graph, device, precision)
        self._captures: dict[tuple[int, bool], tuple[Tensor, Capture]] = {}
        self.tuned_: dict[int, list[dict[str, Any]]] = {}

    @property
    def engine(self) -> str:
        """The name of what predicts."""
        return "torch"

    @property
    def classes_(self) -> Labels:
        """The labels of a classifier; a regressor has none."""
        return self.head.known_classes

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Host, str, str]]:
        return _moved, (self._host, str(self.device), self.precision)

    def __repr__(self) -> str:
        text = as_text(self.graph, self.head, self.engine)
        return f"{text}\non {self.device}, precision={self.precision!r}"

    def to(self, device: object, *, precision: str | None = None) -> Any:
        """Return the model on another device; see `SparseModel.to`."""
        if precision is None:
            precision = "float32" if str(device) == "cpu" else self.precision
        return self._host.to(device, precision=precision)

    def forward(self, X: Table | Tensor) -> Floats | Tensor:
        """Compute the raw outputs.

        Parameters
        ----------
        X : {Tensor, array-like, sparse matrix, DataFrame} of shape (n_rows, n_features)
            The rows, numbers; a tensor must be on the model's device.

        Returns
        -------
        out : Tensor or ndarray of shape (n_rows, n_outputs), float32
            The raw outputs; a tensor on the device for a tensor.

        Raises
        ------
        ValueError
            X has NaN, infinite values, or another shape than the model expects, or it
            is a tensor of another device.
        """
        out = self._run(X)
        return out if isinstance(X, Tensor) else out.cpu().numpy()

    def predict_proba(self, X: Table | Tensor) -> Floats | Tensor:
        """Estimate class probabilities.

        Parameters
        ----------
        X : {Tensor, array-like, sparse matrix, DataFrame} of shape (n_rows, n_features)
            The rows, as for `forward`.

        Returns
        -------
        proba : Tensor or ndarray of shape (n_rows, n_classes), float32
            The probabilities, columns in the order of ``classes_``; a tensor for a
            tensor.
        """
        self.head.known_classes  # noqa: B018, raises before anything is computed
        proba = self.head.probabilities(self._run(X), _TORCH)
        return proba if isinstance(X, Tensor) else proba.cpu().numpy()

    def predict(self, X: Table | Tensor) -> Labels:
        """Predict labels, or values.

        Parameters
        ----------
        X : {Tensor, array-like, sparse matrix, DataFrame} of shape (n_rows, n_features)
            The rows, as for `forward`.

        Returns
        -------
        y : ndarray of shape (n_rows,) or (n_rows, n_outputs)
            Labels or values, as those of `SparseModel.predict`; an array for a tensor,
            too, because labels may be text.
        """
        if self.head.classes is None:
            return self.head.values(self._run(X).cpu().numpy())
        proba = self.predict_proba(X)
        return self.head.labels(
            proba.cpu().numpy() if isinstance(proba, Tensor) else proba
        )

    def tune(self, X: Table | Tensor) -> "CudaModel":
        """Measure the fastest way to compute every layer for batches of this size.

        A way whose outputs are off by more than rounding is never taken. The results
        are kept in ``tuned_``; a batch size is measured once.

        Parameters
        ----------
        X : {Tensor, array-like, sparse matrix, DataFrame} of shape (n_rows, n_features)
            One row or more: as many as are predicted at once.

        Returns
        -------
        self : CudaModel
        """
        rows = self._checked(X)[: self._buckets[-1]]
        if rows.shape[0] == 0:
            raise ValueError("tune needs one row or more; got none.")
        bucket = self._bucket(rows.shape[0])
        self._run(rows)  # refuses what is not finite
        with self._lock, self._stream:
            if bucket in self.tuned_:
                return self
            piece, staged = next(iter(self._pieces(rows)))
            values = self._zeros(bucket, piece.shape[1])
            values[: len(piece)] = _as_tensor(piece)
            self.tuned_[bucket] = self._net.tune(values, staged, self._timer)
            for key in [key for key in self._captures if key[0] == bucket]:
                del self._captures[key]
            buckets = [self._choices(bucket) for bucket in self.tuned_]
            self._net.keep([self._net.usual, *buckets])
        return self

    def _checked(self, X: Table | Tensor) -> _Rows:
        """Check X as `SparseModel` does; a tensor stays one."""
        names = getattr(self, "feature_names_in_", None)
        if not isinstance(X, Tensor):
            return check_rows(X, self.n_features_in_, names)
        if X.device != self.device:
            raise ValueError(
                f"X is on {X.device} and the model on {self.device}: move X with "
                f'X.to("{self.device}"), or pass a numpy array.'
            )
        X = X.detach()
        if X.ndim != 2 or X.shape[1] != self.n_features_in_ or X.is_complex():
            check_rows(_as_array(X), self.n_features_in_, names)  # has the sentences
        if X.layout != torch.strided:
            raise ValueError(f"X must be a dense tensor; got layout {X.layout}.")
        return X

    def _pieces(self, X: _Rows) -> Iterator[tuple[Floats | Tensor, bool]]:
        """Yield checked rows as float32 pieces, and whether the stage was applied."""
        stage = self.graph.stage
        if isinstance(X, Tensor):
            if stage.steps or (stage.wide and X.dtype != torch.float32):
                X = _as_array(X)  # float64 is staged as it is on the CPU
            else:
                yield X.float(), False
                return
        if not sparse.issparse(X) and X.dtype == np.float32 and not stage.steps:
            yield X, False
            return
        staged = is_wide(X, stage)
        for _, rows in chunks(X, stage):
            yield rows, staged

    def _run(self, X: Table | Tensor) -> Tensor:
        """Compute raw outputs on the device."""
        checked = self._checked(X)
        n_rows, start, step = checked.shape[0], 0, self._buckets[-1]
        out = self._zeros(n_rows, self.graph.n_outputs)
        with self._lock, self._stream:
            self._net.bad.zero_()
            for rows, staged in self._pieces(checked):
                for first in range(0, len(rows), step):
                    part = rows[first : first + step]
                    self._run_bucket(part, staged, out[start : start + len(part)])
                    start += len(part)
            bad = n_rows > 0 and bool(self._net.bad)
        if bad:
            self._refuse(checked)
        return out

    def _run_bucket(self, rows: Floats | Tensor, staged: bool, out: Tensor) -> None:
        """Compute the outputs of a batch through the graph of its bucket."""
        n_rows = len(rows)
        static, capture = self._capture(self._bucket(n_rows), staged)
        static[:n_rows] = _as_tensor(rows)
        static[n_rows:] = 0
        out.copy_(capture.replay()[:n_rows])

    def _refuse(self, X: _Rows) -> None:
        """Raise the error of rows that have values that are not finite."""
        for rows, staged in self._pieces(X):
            allow_nan = self.graph.stage.fill is not None and not staged
            refuse_nonfinite(_as_array(rows), allow_nan=allow_nan)

    def _bucket(self, n_rows: int) -> int:
        return next(b for b in self._buckets if b >= n_rows)

    def _zeros(self, *shape: int) -> Tensor:
        return torch.zeros(shape, dtype=torch.float32, device=self.device)

    def _choices(self, bucket: int) -> list[str]:
        """Return the way to multiply of every layer in batches of this size."""
        found = self.tuned_.get(bucket)
        return [layer["choice"] for layer in found] if found else self._net.usual

    def _capture(self, bucket: int, staged: bool) -> tuple[Tensor, Capture]:
        """Return the input buffer and graph of a batch size, built at its first use."""
        if (bucket, staged) not in self._captures:
            width = self.graph.widths[0] if staged else self.n_features_in_
            static, choices = self._zeros(bucket, width), self._choices(bucket)

            def body() -> Tensor:
                return self._net.run(static, staged, choices)

            capture = Capture(body, self._stream, self._stream.pool)
            self._captures[bucket, staged] = static, capture
        return self._captures[bucket, staged]


def _moved(host: Host, device: str, precision: str) -> Any:
    """Build a pickled model again."""
    return host.to(device, precision=precision)


def _as_tensor(rows: Floats | Tensor) -> Tensor:
    """Return rows of float32 as a tensor, without a copy where torch takes them."""
    if isinstance(rows, Tensor):
        return rows
    return torch.from_numpy(np.require(rows, np.float32, ["C", "A", "W"]))


def _as_array(rows: Floats | Tensor) -> Floats:
    """Return a tensor as an array on the CPU; numpy has no bfloat16."""
    if not isinstance(rows, Tensor):
        return rows
    return (rows.float() if rows.dtype == torch.bfloat16 else rows).cpu().numpy()
