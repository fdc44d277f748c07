"""The sparse model: a pruned net that predicts without torch."""

from copy import copy
from functools import partial
from typing import Any

import numpy as np
from scipy import sparse, special

from sklearn_sparse_nn.runtime.cost import Cost, cost_of
from sklearn_sparse_nn.runtime.display import as_html, as_text
from sklearn_sparse_nn.runtime.engine import (
    Engine,
    KernelEngine,
    load_threads,
    make_engine,
)
from sklearn_sparse_nn.runtime.file.format import read_model, write_model
from sklearn_sparse_nn.runtime.graph import Floats, Graph, Linear
from sklearn_sparse_nn.runtime.inputs import (
    apply_narrow,
    check_rows,
    chunks,
    is_wide,
)
from sklearn_sparse_nn.runtime.tuning import tuned

__all__ = ["OUTPUTS", "SparseModel"]

#: What makes probabilities of raw outputs.
OUTPUTS = ("identity", "softmax", "sigmoid")
_FLOAT32 = np.dtype(np.float32)
_TUNING_ROWS = 1024
_HIDDEN_NUMBERS = 2**20  # activations that are dense at once


class SparseModel:
    """A pruned net as scipy.sparse weights, for prediction only.

    It never changes, may be used by several threads at once, and is pickled, copied
    and saved as plain arrays. ``PrunedClassifier.export`` and `load` make one.

    Parameters
    ----------
    graph : Graph
        What it computes.
    output : {"identity", "softmax", "sigmoid"}, default="identity"
        What makes probabilities of the raw outputs; ``"sigmoid"`` makes two of one.
    classes : ndarray of shape (n_classes,) or None, default=None
        Labels of a classifier; None for a regressor.
    target_mean, target_scale : float, default=0.0 and 1.0
        A regressor's raw outputs are multiplied by the scale, and the mean is added.
    feature_names : sequence of str or None, default=None
        Names of the columns.
    n_threads : int, default=1
        Own threads, over tiles of rows.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Only of a classifier.
    n_features_in_ : int
        Columns of X.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Only when names are known.
    weights : dict of name to csr_array of shape (out, in)
        Of every layer, as they are left after folding; read-only.

    Examples
    --------
    >>> from sklearn_sparse_nn.runtime.graph import Graph, InputStage, Linear
    >>> weight = sparse.csr_array(np.array([[0.0, 2.0]], dtype=np.float32))
    >>> model = SparseModel(Graph(InputStage(2), (Linear(0, weight, [1.0]),)))
    >>> model.predict([[5.0, 3.0]])
    array([7.])
    """

    graph: Graph
    output: str
    target_mean: float
    target_scale: float
    n_threads: int
    n_features_in_: int
    classes_: Any
    feature_names_in_: Any
    _engine: Engine

    def __init__(
        self,
        graph: Graph,
        *,
        output: str = "identity",
        classes: Any = None,
        target_mean: float = 0.0,
        target_scale: float = 1.0,
        feature_names: Any = None,
        n_threads: int = 1,
    ) -> None:
        if output not in OUTPUTS:
            raise ValueError(f"output must be one of {OUTPUTS}; got {output!r}.")
        if not np.isfinite([target_mean, target_scale]).all():
            raise ValueError(
                "target_mean and target_scale must be finite numbers; got "
                f"{target_mean!r} and {target_scale!r}."
            )
        fields: dict[str, Any] = {
            "graph": graph,
            "output": output,
            "target_mean": float(target_mean),
            "target_scale": float(target_scale),
            "n_threads": _thread_count(n_threads),
            "n_features_in_": graph.stage.n_features,
            "_engine": make_engine(graph),
        }
        if classes is not None:
            fields["classes_"] = _checked_classes(classes, graph.n_outputs, output)
        if feature_names is not None:
            names = np.asarray(list(feature_names), dtype=object)
            if names.shape != (graph.stage.n_features,):
                raise ValueError(
                    f"There are {len(names)} feature names for "
                    f"{graph.stage.n_features} features."
                )
            names.setflags(write=False)
            fields["feature_names_in_"] = names
        self.__dict__.update(fields)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(
            f"A SparseModel never changes, so {name!r} cannot be set; with_threads "
            "gives another one."
        )

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"A SparseModel never changes; {name!r} stays.")

    def __reduce__(self) -> Any:
        return partial(type(self), **self._arguments()), (self.graph,)

    def _arguments(self) -> dict[str, Any]:
        """Give what the constructor takes beside the graph."""
        return {
            "output": self.output,
            "classes": getattr(self, "classes_", None),
            "target_mean": self.target_mean,
            "target_scale": self.target_scale,
            "feature_names": getattr(self, "feature_names_in_", None),
            "n_threads": self.n_threads,
        }

    def with_threads(self, n_threads: int) -> "SparseModel":
        """Give the same model with another number of threads.

        Parameters
        ----------
        n_threads : int
            At least 1. Not more are used than ``NUMBA_NUM_THREADS`` says, where
            that is set, as joblib does in its workers.

        Returns
        -------
        model : SparseModel
            It shares all arrays with this one.
        """
        other = copy_shallow(self)
        other.__dict__["n_threads"] = _thread_count(n_threads)
        return other

    def to(self, device: Any, *, precision: str = "float32") -> Any:
        """Give the model on another device. Torch is loaded here, for a GPU only.

        Parameters
        ----------
        device : str or torch.device
            ``"cpu"``, ``"cuda"`` or ``"cuda:<index>"``.
        precision : {"float32", "tf32", "bf16"}, default="float32"
            What a GPU may compute with: outputs within rounding of the CPU's, or
            faster ones of TF32's or bfloat16's accuracy.

        Returns
        -------
        model : SparseModel or CudaModel
            On the CPU this model itself; on a GPU one with ``forward``, ``predict``,
            ``predict_proba`` and ``tune``, which docs/gpu.md describes.

        Raises
        ------
        ImportError
            A GPU is asked for and torch is not installed.
        RuntimeError
            There is no GPU, or torch was built without CUDA.
        ValueError
            Another device, or another precision.
        """
        from sklearn_sparse_nn.runtime.cuda.device import move

        return move(self, device, precision)

    def cost(self) -> Cost:
        """Count what the model costs.

        Returns
        -------
        cost : Cost
            Non-zeros, FLOPs for one row, bytes of the arrays, peak bytes of activations
            for one row, and the same of every layer.
        """
        return cost_of(self.graph)

    def __repr__(self) -> str:
        return as_text(self)

    def _repr_html_(self) -> str:
        return as_html(self)

    def save(self, path: Any) -> None:
        """Write the model to one file, which `load` reads.

        The file is complete or not there: whatever goes wrong, an older one stays as
        it was. The same model gives the same bytes. ``n_threads`` is not saved.

        Parameters
        ----------
        path : str or path-like
            The file; docs/format.md describes it.

        Raises
        ------
        ValueError
            The model has what a file cannot hold, such as classes of dates.
        OSError
            The file cannot be written.
        """
        write_model(path, self.graph, self._arguments())

    @classmethod
    def load(cls, path: Any, n_threads: int = 1) -> "SparseModel":
        """Read a model that `save` wrote.

        Nothing from the file is executed, and everything in it is checked first;
        SECURITY.md says what that promises.

        Parameters
        ----------
        path : str or path-like
            The file.
        n_threads : int, default=1
            Own threads of the model.

        Returns
        -------
        model : SparseModel

        Raises
        ------
        ModelFormatError
            The file is damaged, needs a newer version, or is no model file.
        OSError
            It cannot be opened; ``FileNotFoundError`` if there is none.
        """
        make = partial(cls, n_threads=_thread_count(n_threads))
        return read_model(path, make)

    @property
    def weights(self) -> dict[str, Any]:
        """Sparse weights by layer, csr_arrays of shape (out, in), read-only."""
        found: dict[str, Any] = {}
        for i, op in enumerate(self.graph.layers):
            name, n = op.name or f"linear_{i}", 1
            while name in found:  # a layer that the net uses again
                n += 1
                name = f"{op.name}_{n}"
            found[name] = op.weight
        return found

    def tune(self, X: Any) -> "SparseModel":
        """Measure how rows like these are predicted fastest, and remember it.

        Parameters
        ----------
        X : {array-like, sparse matrix, DataFrame} of shape (n_rows, n_features)
            As many rows as are predicted at once, at most 1024 of which are used.

        Returns
        -------
        self : SparseModel
            Outputs stay the same, bit for bit. Takes seconds for large nets.
        """
        if isinstance(self._engine, KernelEngine):
            X = check_rows(X, self.n_features_in_, self._names())[:_TUNING_ROWS]
            rows = np.ascontiguousarray(
                X.toarray() if sparse.issparse(X) else X, _FLOAT32
            )
            self._engine.use(tuned(self._engine, rows))
        return self

    def forward(self, X: Any, out: Any = None) -> Floats:
        """Compute the raw outputs.

        Parameters
        ----------
        X : {array-like, sparse matrix, DataFrame} of shape (n_rows, n_features)
            Numbers. A C-contiguous float32 array goes straight to the kernels.
        out : ndarray of shape (n_rows, n_outputs), float32, default=None
            Where to write, C-contiguous; None for a new array.

        Returns
        -------
        out : ndarray of shape (n_rows, n_outputs), float32

        Raises
        ------
        ValueError
            X has NaN, infinite values, or another shape than the model expects.
        """
        raw: Floats = self._run(X, out, proba=False)
        return raw

    def predict_proba(self, X: Any) -> Floats:
        """Estimate class probabilities.

        Parameters
        ----------
        X : {array-like, sparse matrix, DataFrame} of shape (n_rows, n_features)
            Rows to predict.

        Returns
        -------
        proba : ndarray of shape (n_rows, n_classes), float32
            Columns in the order of ``classes_``.
        """
        classes = self._classes()
        if self.output == "sigmoid":
            positive = special.expit(self._run(X, None, proba=False))
            return np.concatenate([1 - positive, positive], axis=1)
        if self.graph.n_outputs > len(classes):  # outputs for classes not seen in fit
            return self._proba_of_seen(X, len(classes))
        proba: Floats = self._run(X, None, proba=self.output == "softmax")
        return proba

    def _proba_of_seen(self, X: Any, n_classes: int) -> Floats:
        """Estimate probabilities where there are more outputs than classes."""
        raw = self._run(X, None, proba=False)[:, :n_classes]
        proba: Floats = special.softmax(raw, axis=1)  # others may be far above
        return proba if self.output == "softmax" else _shares(raw)

    def predict(self, X: Any) -> Any:
        """Predict labels, or values.

        Parameters
        ----------
        X : {array-like, sparse matrix, DataFrame} of shape (n_rows, n_features)
            Rows to predict.

        Returns
        -------
        y : ndarray of shape (n_rows,) or (n_rows, n_outputs)
            A classifier's most probable labels, the first of equal ones; a regressor's
            values, float64, in the units of its training targets.
        """
        if "classes_" in self.__dict__:
            return self.classes_[self.predict_proba(X).argmax(axis=1)]
        raw = self._run(X, None, proba=False).astype(np.float64)
        values = raw * self.target_scale + self.target_mean
        return values[:, 0] if values.shape[1] == 1 else values

    def transform(self, X: Any) -> Any:
        """Compute what reaches the last layer.

        Parameters
        ----------
        X : {array-like, sparse matrix, DataFrame} of shape (n_rows, n_features)
            Rows.

        Returns
        -------
        hidden : csr_array of shape (n_rows, n_hidden), float32
            Of the units that are left: dead ones are not part of the model.
        """
        reads = [op.input for op in self.graph.ops if isinstance(op, Linear)]
        upto = max(reads, default=0)
        if upto == 0:
            checked = check_rows(X, self.n_features_in_, self._names())
            parts = [
                rows
                if is_wide(checked, self.graph.stage)
                else apply_narrow(rows, self.graph.stage)
                for _, rows in chunks(checked, self.graph.stage)
            ]
            empty = np.zeros((0, self.graph.widths[0]), dtype=np.float32)
            return sparse.csr_array(np.concatenate([empty, *parts]))
        below = Graph(self.graph.stage, self.graph.ops[:upto])
        names = self._names()
        hidden = SparseModel(below, feature_names=names, n_threads=self.n_threads)
        size = max(1, _HIDDEN_NUMBERS // below.n_outputs)
        checked = check_rows(X, self.n_features_in_, names)
        starts = range(0, checked.shape[0], size)
        parts = [hidden.forward(checked[start : start + size]) for start in starts]
        empty = np.zeros((0, below.n_outputs), dtype=np.float32)
        return sparse.vstack([sparse.csr_array(p) for p in [empty, *parts]], "csr")

    def _run(self, X: Any, out: Any, *, proba: bool) -> Any:
        n_outputs = self.graph.widths[-1]
        direct = (
            type(X) is np.ndarray
            and X.dtype is _FLOAT32
            and X.ndim == 2
            and X.shape[1] == self.n_features_in_
            and (flags := X.flags).c_contiguous
            and flags.aligned
        )
        if not direct:
            X = check_rows(X, self.n_features_in_, self._names())
        if out is None:
            out = np.empty((X.shape[0], n_outputs), _FLOAT32)
        else:
            _check_out(out, (X.shape[0], n_outputs))
            if isinstance(X, np.ndarray) and np.may_share_memory(X, out):
                X = X.copy()  # rows are read after others have been written
        run = self._engine.run
        if direct:
            run(X, out, proba=proba, staged=False, n_threads=self.n_threads)
            return out
        staged = is_wide(X, self.graph.stage)
        for start, rows in chunks(X, self.graph.stage):
            part = out[start : start + len(rows)]
            run(rows, part, proba=proba, staged=staged, n_threads=self.n_threads)
        return out

    def _names(self) -> Any:
        return self.__dict__.get("feature_names_in_")

    def _classes(self) -> Any:
        if "classes_" not in self.__dict__:
            raise AttributeError(
                "This model is a regressor: it has no classes, so use predict or "
                "forward."
            )
        return self.classes_


def copy_shallow(model: SparseModel) -> SparseModel:
    """Make a second model around the same arrays."""
    other = object.__new__(type(model))
    other.__dict__.update(copy(model.__dict__))
    return other


def _shares(proba: Floats) -> Floats:
    """Let every row add up to 1; rows of zeros become equal shares."""
    total = proba.sum(axis=1, keepdims=True)
    equal = np.float32(1 / proba.shape[1])
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(total > 0, proba / total, equal)


def _thread_count(n_threads: Any) -> int:
    is_int = isinstance(n_threads, (int, np.integer))
    if isinstance(n_threads, bool) or not is_int or n_threads < 1:
        raise ValueError(f"n_threads must be an int of at least 1; got {n_threads!r}.")
    if n_threads > 1:
        load_threads()
    return int(n_threads)


def _checked_classes(classes: Any, n_outputs: int, output: str) -> Any:
    """Give the labels, read-only, if there are enough outputs for them."""
    classes = np.array(classes)
    n_given = 2 if output == "sigmoid" else n_outputs
    fits = classes.ndim == 1 and 1 <= len(classes) <= n_given
    if not fits or (output == "sigmoid" and (n_outputs != 1 or len(classes) != 2)):
        raise ValueError(
            f"There are classes of shape {classes.shape} for {n_outputs} outputs with "
            f"output={output!r}."
        )
    classes.setflags(write=False)
    return classes


def _check_out(out: Any, shape: tuple[int, int]) -> None:
    fits = isinstance(out, np.ndarray) and out.dtype == _FLOAT32 and out.shape == shape
    if not fits or not out.flags.c_contiguous or not out.flags.writeable:
        raise ValueError(
            f"out must be a writeable, C-contiguous float32 array of shape {shape}; "
            f"got {getattr(out, 'dtype', type(out))} of shape "
            f"{getattr(out, 'shape', None)}."
        )
