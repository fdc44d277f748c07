"""A sparse model on a GPU."""

import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from sklearn_sparse_nn.runtime.cuda.capture import Capture, Stream, Timer, measure
from sklearn_sparse_nn.runtime.cuda.device import move
from sklearn_sparse_nn.runtime.cuda.net import Net
from sklearn_sparse_nn.runtime.inputs import (
    check_rows,
    chunks,
    is_wide,
    refuse_nonfinite,
)

if TYPE_CHECKING:
    from sklearn_sparse_nn.runtime.model import SparseModel

__all__ = ["BUCKETS", "CudaModel"]

#: Batch sizes that graphs are captured for: padding costs less than a factor of two.
BUCKETS = tuple(2**i for i in range(17))
_MOST_NUMBERS = 2**28  # activations of one bucket, a gibibyte in float32


class CudaModel:
    """A sparse model on a GPU, for prediction only; `SparseModel.to` makes it.

    Every batch is padded to the next of `BUCKETS`, whose CUDA graph is captured at its
    first use; larger batches go in chunks. Buffers are shared, so threads take turns.

    Parameters
    ----------
    model : SparseModel
        The model on the CPU.
    device : torch.device
        Where to predict. Anything but a GPU runs without graphs, for tests.
    precision : {"float32", "tf32", "bf16"}, default="float32"
        What the layers may be computed with.
    buckets : tuple of int, default=BUCKETS
        Batch sizes, ascending.
    timer : callable or None, default=None
        What `tune` measures with; None for CUDA events.

    Attributes
    ----------
    device : torch.device
    precision : str
    classes_, n_features_in_, feature_names_in_
        As of the `SparseModel`.
    tuned_ : dict of int to list of dict
        What `tune` found, by batch size: for every layer its ``name``, the ``choice``
        and ``microseconds`` of all that were measured.
    """

    def __init__(
        self,
        model: "SparseModel",
        device: torch.device,
        precision: str = "float32",
        *,
        buckets: tuple[int, ...] = BUCKETS,
        timer: Timer | None = None,
    ) -> None:
        self._model, self.device, self.precision = model, device, precision
        self.n_features_in_ = model.n_features_in_
        for name in ("classes_", "feature_names_in_"):
            if hasattr(model, name):
                setattr(self, name, getattr(model, name))
        graph = model.graph
        rows = _MOST_NUMBERS // (sum(graph.widths) + graph.stage.n_features)
        self._buckets = tuple(b for b in buckets if b <= rows) or buckets[:1]
        self._lock = threading.Lock()
        self._stream = Stream(device)
        self._timer = timer or measure(self._stream)
        self._net = Net(graph, device, precision)
        self._captures: dict[tuple[int, bool], tuple[Tensor, Capture]] = {}
        self.tuned_: dict[int, list[dict[str, Any]]] = {}

    def __reduce__(self) -> Any:
        return move, (self._model, str(self.device), self.precision)

    def __repr__(self) -> str:
        return f"{self._model!r}\non {self.device}, precision={self.precision!r}"

    def to(self, device: Any, *, precision: str | None = None) -> Any:
        """Give the model on another device; see `SparseModel.to`."""
        if precision is None:
            precision = "float32" if str(device) == "cpu" else self.precision
        return move(self._model, device, precision)

    def forward(self, X: Any) -> Any:
        """Compute the raw outputs.

        Parameters
        ----------
        X : {Tensor, array-like, sparse matrix, DataFrame} of shape (n_rows, n_features)
            Numbers; a tensor must be on the model's device.

        Returns
        -------
        out : Tensor or ndarray of shape (n_rows, n_outputs), float32
            A tensor on the device for a tensor.

        Raises
        ------
        ValueError
            X has NaN, infinite values, or another shape than the model expects, or it
            is a tensor of another device.
        """
        out = self._run(X)
        return out if isinstance(X, Tensor) else out.cpu().numpy()

    def predict_proba(self, X: Any) -> Any:
        """Estimate class probabilities.

        Parameters
        ----------
        X : {Tensor, array-like, sparse matrix, DataFrame} of shape (n_rows, n_features)
            As for `forward`.

        Returns
        -------
        proba : Tensor or ndarray of shape (n_rows, n_classes), float32
            Columns in the order of ``classes_``; a tensor for a tensor.
        """
        classes = self._model._classes()
        proba = self._run(X)
        if self._model.output == "sigmoid":
            proba = torch.sigmoid(proba)
            proba = torch.cat([1 - proba, proba], dim=1)
        spare = proba.shape[1] > len(classes)  # outputs for classes not seen in fit
        proba = proba[:, : len(classes)]
        if self._model.output == "softmax":
            proba = torch.softmax(proba, dim=1)  # of these alone, as on the CPU
        elif spare:
            total = proba.sum(dim=1, keepdim=True)
            proba = torch.where(total > 0, proba / total, 1 / len(classes))
        return proba if isinstance(X, Tensor) else proba.cpu().numpy()

    def predict(self, X: Any) -> Any:
        """Predict labels, or values.

        Parameters
        ----------
        X : {Tensor, array-like, sparse matrix, DataFrame} of shape (n_rows, n_features)
            As for `forward`.

        Returns
        -------
        y : ndarray of shape (n_rows,) or (n_rows, n_outputs)
            As of `SparseModel.predict`, for a tensor too: labels may be text.
        """
        if hasattr(self, "classes_"):
            proba = self.predict_proba(X)
            proba = proba.cpu().numpy() if isinstance(X, Tensor) else proba
            return self.classes_[proba.argmax(axis=1)]
        raw = self._run(X).cpu().numpy().astype(np.float64)
        values = raw * self._model.target_scale + self._model.target_mean
        return values[:, 0] if values.shape[1] == 1 else values

    def tune(self, X: Any) -> "CudaModel":
        """Measure how every layer is computed fastest for batches of this size.

        A way whose outputs are off by more than rounding is never taken. What was found
        is remembered in ``tuned_``; a batch size is measured once.

        Parameters
        ----------
        X : {Tensor, array-like, sparse matrix, DataFrame} of shape (n_rows, n_features)
            As many rows as are predicted at once, one or more.

        Returns
        -------
        self : CudaModel
        """
        X = self._checked(X)
        if X.shape[0] == 0:
            raise ValueError("tune needs one row or more; got none.")
        rows = X[: self._buckets[-1]]
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

    def _checked(self, X: Any) -> Any:
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

    def _pieces(self, X: Any) -> Any:
        """Give checked rows as float32 pieces, and whether the stage is behind them."""
        stage = self._model.graph.stage
        if isinstance(X, Tensor):
            if stage.wide and X.dtype != torch.float32:
                X = _as_array(X)  # float64 is staged as it is on the CPU
            else:
                yield X.float(), False
                return
        if not sparse.issparse(X) and X.dtype == np.float32:
            yield X, False
            return
        staged = is_wide(X, stage)
        for _, rows in chunks(X, stage):
            yield rows, staged

    def _run(self, X: Any) -> Tensor:
        """Give raw outputs on the device."""
        X = self._checked(X)
        n_rows, start, step = X.shape[0], 0, self._buckets[-1]
        out = self._zeros(n_rows, self._model.graph.n_outputs)
        with self._lock, self._stream:
            self._net.bad.zero_()
            for rows, staged in self._pieces(X):
                for first in range(0, len(rows), step):
                    part = rows[first : first + step]
                    self._run_bucket(part, staged, out[start : start + len(part)])
                    start += len(part)
            bad = n_rows > 0 and bool(self._net.bad)
        if bad:
            self._refuse(X)
        return out

    def _run_bucket(self, rows: Any, staged: bool, out: Tensor) -> None:
        n_rows = len(rows)
        static, capture = self._capture(self._bucket(n_rows), staged)
        static[:n_rows] = _as_tensor(rows)
        static[n_rows:] = 0
        out.copy_(capture.replay()[:n_rows])

    def _refuse(self, X: Any) -> None:
        """Say what is wrong with rows that have values that are not finite."""
        for rows, staged in self._pieces(X):
            allow_nan = self._model.graph.stage.fill is not None and not staged
            refuse_nonfinite(_as_array(rows), allow_nan=allow_nan)

    def _bucket(self, n_rows: int) -> int:
        return next(b for b in self._buckets if b >= n_rows)

    def _zeros(self, *shape: int) -> Tensor:
        return torch.zeros(shape, dtype=torch.float32, device=self.device)

    def _choices(self, bucket: int) -> list[str]:
        """Give how every layer is multiplied in batches of this size."""
        found = self.tuned_.get(bucket)
        return [layer["choice"] for layer in found] if found else self._net.usual

    def _capture(self, bucket: int, staged: bool) -> tuple[Tensor, Capture]:
        """Give the input buffer and graph of a batch size, made at its first use."""
        if (bucket, staged) not in self._captures:
            width = self._model.graph.widths[0] if staged else self.n_features_in_
            static, choices = self._zeros(bucket, width), self._choices(bucket)

            def body() -> Tensor:
                return self._net.run(static, staged, choices)

            capture = Capture(body, self._stream, self._stream.pool)
            self._captures[bucket, staged] = static, capture
        return self._captures[bucket, staged]


def _as_tensor(rows: Any) -> Tensor:
    """Give rows of float32 as a tensor, without a copy where torch takes them."""
    if isinstance(rows, Tensor):
        return rows
    return torch.from_numpy(np.require(rows, np.float32, ["C", "A", "W"]))


def _as_array(rows: Any) -> Any:
    """Give a tensor as an array on the CPU; numpy has no bfloat16."""
    if not isinstance(rows, Tensor):
        return rows
    return (rows.float() if rows.dtype == torch.bfloat16 else rows).cpu().numpy()
