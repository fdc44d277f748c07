"""The sparse model: a pruned net that predicts without torch."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from sklearn_sparse_nn.runtime.cost import Cost, cost_of
from sklearn_sparse_nn.runtime.display import as_html, as_text
from sklearn_sparse_nn.runtime.engine import (
    Engine,
    KernelEngine,
    make_engine,
)
from sklearn_sparse_nn.runtime.file.format import read_model, write_model
from sklearn_sparse_nn.runtime.file.streams import Source, Target
from sklearn_sparse_nn.runtime.graph import Csr, Floats, Graph, Linear
from sklearn_sparse_nn.runtime.head import Head, Labels
from sklearn_sparse_nn.runtime.inputs import (
    Names,
    Table,
    apply_narrow,
    check_rows,
    chunks,
    is_wide,
)
from sklearn_sparse_nn.runtime.limits import check_unique, thread_count
from sklearn_sparse_nn.runtime.tuning import tuned

if TYPE_CHECKING:
    from sklearn_sparse_nn.runtime.cuda.model import CudaModel

__all__ = ["SparseModel"]

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
        The operations of the net.
    output : {"identity", "softmax", "sigmoid"}, default="identity"
        The function that makes probabilities of the raw outputs; ``"sigmoid"`` makes
        two of one.
    classes : ndarray of shape (n_classes,) or None, default=None
        The labels of a classifier; None for a regressor.
    target_mean : float, default=0.0
        The value that is added to a regressor's scaled outputs.
    target_scale : float, default=1.0
        The factor by which a regressor's raw outputs are multiplied.
    feature_names : sequence of str or None, default=None
        The names of the columns of X.
    n_threads : int, default=1
        The number of the model's own threads, which share tiles of rows.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The labels; only a classifier has them.
    n_features_in_ : int
        The number of columns of X.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        The names of the columns; only where they are known.
    engine : {"kernel", "scipy"}
        The name of what predicts: the compiled kernels, or scipy where there is no
        numba. A model on a GPU says ``"torch"``.
    weights : dict of name to csr_array of shape (out, in)
        The weights of every layer after folding; read-only.

    Examples
    --------
    >>> from sklearn_sparse_nn.runtime.graph import Graph, InputStage, Linear
    >>> weight = sparse.csr_array(np.array([[0.0, 2.0]], dtype=np.float32))
    >>> model = SparseModel(Graph(InputStage(2), (Linear(0, weight, [1.0]),)))
    >>> model.predict([[5.0, 3.0]])
    array([7.])
    """

    graph: Graph
    head: Head
    n_threads: int
    n_features_in_: int
    feature_names_in_: Names
    _engine: Engine

    def __init__(
        self,
        graph: Graph,
        *,
        output: str = "identity",
        classes: npt.ArrayLike | None = None,
        target_mean: float = 0.0,
        target_scale: float = 1.0,
        feature_names: Iterable[str] | None = None,
        n_threads: int = 1,
    ) -> None:
        head = Head(
            graph.n_outputs,
            output=output,
            classes=classes,  # type: ignore[arg-type]
            target_mean=target_mean,
            target_scale=target_scale,
        )
        self._set(graph, head, feature_names, n_threads)

    @classmethod
    def _with_head(
        cls,
        graph: Graph,
        *,
        head: Head,
        feature_names: Iterable[str] | None,
        n_threads: int,
    ) -> "SparseModel":
        """Build a model around a head that is there already."""
        model = object.__new__(cls)
        model._set(graph, head, feature_names, n_threads)
        return model

    def _set(
        self,
        graph: Graph,
        head: Head,
        feature_names: Iterable[str] | None,
        n_threads: int,
    ) -> None:
        """Set all attributes, once."""
        fields: dict[str, Any] = {
            "graph": graph,
            "head": head,
            "n_threads": thread_count(n_threads),
            "n_features_in_": graph.stage.n_features,
            "_engine": make_engine(graph),
        }
        if feature_names is not None:
            if isinstance(feature_names, str):
                raise ValueError(
                    "feature_names must be a sequence of names; got one string, "
                    f"{feature_names!r:.60}."
                )
            names = np.asarray(list(feature_names), dtype=object)
            if names.shape != (graph.stage.n_features,):
                raise ValueError(
                    f"There are {len(names)} feature names for "
                    f"{graph.stage.n_features} features."
                )
            check_unique(names.tolist(), "feature name")
            names.setflags(write=False)
            fields["feature_names_in_"] = names
        self.__dict__.update(fields)

    @property
    def engine(self) -> str:
        """The name of what predicts: ``"kernel"`` or ``"scipy"``."""
        return self._engine.name

    @property
    def output(self) -> str:
        """The function that makes probabilities of the raw outputs."""
        return self.head.output

    @property
    def target_mean(self) -> float:
        """The mean that is added to a regressor's scaled outputs."""
        return self.head.target_mean

    @property
    def target_scale(self) -> float:
        """The scale that a regressor's outputs are multiplied by."""
        return self.head.target_scale

    @property
    def classes_(self) -> Labels:
        """The labels of a classifier; a regressor has none."""
        return self.head.known_classes

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(
            f"A SparseModel never changes, so {name!r} cannot be set; with_threads "
            "gives another one."
        )

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"A SparseModel never changes; {name!r} stays.")

    def __reduce__(self) -> tuple[Callable[..., "SparseModel"], tuple[Graph]]:
        arguments: dict[str, Any] = {
            "output": self.output,
            "classes": self.head.classes,
            "target_mean": self.target_mean,
            "target_scale": self.target_scale,
            "feature_names": self._names(),
            "n_threads": self.n_threads,
        }
        return partial(type(self), **arguments), (self.graph,)

    def with_threads(self, n_threads: int) -> "SparseModel":
        """Return the same model with another number of threads.

        Parameters
        ----------
        n_threads : int
            1 to 1024. Not more are used than ``NUMBA_NUM_THREADS`` says, where that
            is set, as joblib does in its workers.

        Returns
        -------
        model : SparseModel
            A model that shares all arrays with this one.
        """
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__, n_threads=thread_count(n_threads))
        return other

    def to(
        self, device: object, *, precision: str = "float32"
    ) -> "SparseModel | CudaModel":
        """Return the model on another device. Torch is loaded here, for a GPU only.

        Parameters
        ----------
        device : str or torch.device
            ``"cpu"``, ``"cuda"`` or ``"cuda:<index>"``.
        precision : {"float32", "tf32", "bf16"}, default="float32"
            The lowest precision that a GPU may compute with: outputs within rounding
            of the CPU's, or faster ones of TF32's or bfloat16's accuracy.

        Returns
        -------
        model : SparseModel or CudaModel
            On the CPU this model itself; on a GPU one with ``forward``, ``predict``,
            ``predict_proba`` and ``tune``, which docs/gpu.md describes.

        Raises
        ------
        ImportError
            A GPU is named and torch is not installed.
        RuntimeError
            There is no GPU, or torch was built without CUDA.
        ValueError
            Another device, or another precision.
        """
        from sklearn_sparse_nn.runtime.cuda.device import find_device

        place = find_device(device, precision)
        if place is None:
            return self
        from sklearn_sparse_nn.runtime.cuda.model import CudaModel

        names = self._names()
        return CudaModel(
            self.graph, self.head, place, precision, feature_names=names, host=self
        )

    def cost(self) -> Cost:
        """Count the cost of the model.

        Returns
        -------
        cost : Cost
            Non-zeros, FLOPs for one row, bytes of the arrays, peak bytes of activations
            for one row, and the cost of every layer.
        """
        return cost_of(self.graph)

    def __repr__(self) -> str:
        return as_text(self.graph, self.head, self.engine)

    def _repr_html_(self) -> str:
        return as_html(self.graph, self.head, self.engine)

    def save(self, path: Target) -> None:
        """Write the model to one file, which `load` reads.

        The file is complete or not there: if anything fails, an older file stays as
        it was. The same model gives the same bytes. ``n_threads`` is not saved.

        Parameters
        ----------
        path : str, bytes, path-like or file object
            The name of the file, or an object with ``write`` that takes bytes, which
            gets the whole content and stays open; docs/format.md describes it.

        Raises
        ------
        ValueError
            The model has a part that a file cannot hold, such as classes of dates.
        OSError
            The file cannot be written.
        TypeError
            `path` is something else, or a file that is open for text.
        """
        write_model(path, self.graph, self.head, self._names())

    @classmethod
    def load(cls, path: Source, n_threads: int = 1) -> "SparseModel":
        """Read a model that `save` wrote.

        Nothing from the file is executed, and everything in it is checked first;
        SECURITY.md says what that promises.

        Parameters
        ----------
        path : str, path-like, bytes-like or file object
            The name of the file, its content, or an object with ``read`` that gives
            bytes. Bytes are always content, never a name.
        n_threads : int, default=1
            The number of the model's own threads.

        Returns
        -------
        model : SparseModel

        Raises
        ------
        ModelFormatError
            The file is damaged, needs a newer version, or is no model file.
        OSError
            It cannot be opened; ``FileNotFoundError`` if there is none.
        TypeError
            `path` is something else, or a file that is open for text.
        """
        make = partial(cls._with_head, n_threads=thread_count(n_threads))
        return read_model(path, make)

    @property
    def weights(self) -> dict[str, Csr]:
        """Sparse weights by layer, csr_arrays of shape (out, in), read-only."""
        found: dict[str, Csr] = {}
        for i, op in enumerate(self.graph.layers):
            name, n = op.name or f"linear_{i}", 1
            while name in found:  # a layer that the net uses again
                n += 1
                name = f"{op.name}_{n}"
            found[name] = op.weight
        return found

    def tune(self, X: Table) -> "SparseModel":
        """Measure the fastest way to predict rows like these, and use it from now on.

        Parameters
        ----------
        X : {array-like, sparse matrix, DataFrame} of shape (n_rows, n_features)
            As many rows as are predicted at once, at most 1024 of which are used.

        Returns
        -------
        self : SparseModel
            The same model, whose outputs stay the same, bit for bit. Tuning takes
            seconds for large nets.
        """
        if isinstance(self._engine, KernelEngine):
            checked = check_rows(X, self.n_features_in_, self._names())[:_TUNING_ROWS]
            rows = checked if isinstance(checked, np.ndarray) else checked.toarray()
            if self.graph.stage.steps:  # which fill NaN before the kernels see them
                rows = np.nan_to_num(rows)
            self._engine.use(tuned(self._engine, np.ascontiguousarray(rows, _FLOAT32)))
        return self

    def forward(self, X: Table, out: Floats | None = None) -> Floats:
        """Compute the raw outputs.

        Parameters
        ----------
        X : {array-like, sparse matrix, DataFrame} of shape (n_rows, n_features)
            Numbers. A C-contiguous float32 array goes straight to the kernels.
        out : ndarray of shape (n_rows, n_outputs), float32, default=None
            A C-contiguous array for the outputs; None for a new one.

        Returns
        -------
        out : ndarray of shape (n_rows, n_outputs), float32

        Raises
        ------
        ValueError
            X has NaN, infinite values, or another shape than the model expects.
        """
        return self._run(X, out, proba=False)

    def predict_proba(self, X: Table) -> Floats:
        """Estimate class probabilities.

        Parameters
        ----------
        X : {array-like, sparse matrix, DataFrame} of shape (n_rows, n_features)
            The rows to predict.

        Returns
        -------
        proba : ndarray of shape (n_rows, n_classes), float32
            The probabilities, columns in the order of ``classes_``.
        """
        if self.head.is_plain_softmax:  # which the kernels compute
            return self._run(X, None, proba=True)
        return self.head.probabilities(self._run(X, None, proba=False))

    def predict(self, X: Table) -> Labels:
        """Predict labels, or values.

        Parameters
        ----------
        X : {array-like, sparse matrix, DataFrame} of shape (n_rows, n_features)
            The rows to predict.

        Returns
        -------
        y : ndarray of shape (n_rows,) or (n_rows, n_outputs)
            A classifier's most probable labels, the first of equal ones; a regressor's
            values, float64, in the units of its training targets.
        """
        if self.head.classes is None:
            return self.head.values(self._run(X, None, proba=False))
        if self.head.output == "identity":  # the largest score, whatever it is
            raw = self._run(X, None, proba=False)
            return self.head.labels(raw[:, : len(self.head.known_classes)])
        return self.head.labels(self.predict_proba(X))

    def transform(self, X: Table) -> Csr:
        """Compute the inputs of the last layer.

        Parameters
        ----------
        X : {array-like, sparse matrix, DataFrame} of shape (n_rows, n_features)
            The rows.

        Returns
        -------
        hidden : csr_array of shape (n_rows, n_hidden), float32
            The activations of the units; dead units are not part of the model.
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

    def _run(self, X: Table, out: Floats | None, *, proba: bool) -> Floats:
        """Compute raw outputs, or their softmax."""
        n_outputs = self.graph.widths[-1]
        direct = (
            type(X) is np.ndarray
            and X.dtype is _FLOAT32
            and X.ndim == 2
            and X.shape[1] == self.n_features_in_
            and (flags := X.flags).c_contiguous
            and flags.aligned
            and not self.graph.stage.steps
        )
        checked: Any = X
        if not direct:
            checked = check_rows(X, self.n_features_in_, self._names())
        if out is None:
            out = np.empty((checked.shape[0], n_outputs), _FLOAT32)
        else:
            _check_out(out, (checked.shape[0], n_outputs))
            if isinstance(checked, np.ndarray) and np.may_share_memory(checked, out):
                checked = checked.copy()  # rows are read after others are written
        run = self._engine.run
        if direct:
            run(checked, out, proba=proba, staged=False, n_threads=self.n_threads)
            return out
        staged = is_wide(checked, self.graph.stage)
        for start, rows in chunks(checked, self.graph.stage):
            part = out[start : start + len(rows)]
            run(rows, part, proba=proba, staged=staged, n_threads=self.n_threads)
        return out

    def _names(self) -> Names | None:
        return self.__dict__.get("feature_names_in_")


def _check_out(out: Floats, shape: tuple[int, int]) -> None:
    fits = isinstance(out, np.ndarray) and out.dtype == _FLOAT32 and out.shape == shape
    if not fits or not out.flags.c_contiguous or not out.flags.writeable:
        raise ValueError(
            f"out must be a writeable, C-contiguous float32 array of shape {shape}; "
            f"got {getattr(out, 'dtype', type(out))} of shape "
            f"{getattr(out, 'shape', None)}."
        )
