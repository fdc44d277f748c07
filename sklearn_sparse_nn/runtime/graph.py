"""The graph of a sparse model: a short list of operations on rows of numbers.

Value 0 is the input after its stage; operation i computes value i + 1. The last value
is the output. Everything is checked on construction, so that no kernel gets a wrong
index.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import sparse

from sklearn_sparse_nn.runtime.activations import ACTIVATIONS
from sklearn_sparse_nn.runtime.limits import check_eps, check_parameters
from sklearn_sparse_nn.runtime.row_steps import Steps, check_steps

__all__ = [
    "Activation",
    "Add",
    "Affine",
    "Concat",
    "Csr",
    "Floats",
    "Graph",
    "InputStage",
    "LayerNorm",
    "Linear",
    "Multiply",
    "Op",
    "Sealed",
    "Softmax",
    "check_csr",
]

Floats: TypeAlias = np.ndarray[Any, np.dtype[np.float32]]
#: Floats of any precision, which a graph keeps as float32.
Vector: TypeAlias = np.ndarray[Any, np.dtype[np.floating[Any]]]
#: Numbers of an input stage.
Doubles: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]
#: Columns, and the starts of rows.
Ints: TypeAlias = np.ndarray[Any, np.dtype[np.integer[Any]]]
#: A sparse weight, or sparse rows.
Csr: TypeAlias = sparse.csr_array

MAX_WIDTH = 2**24
_PIECE = 2**20


@dataclass(frozen=True)
class Activation:
    """A function of every number alone.

    Parameters
    ----------
    name : str
        A key of `activations.ACTIVATIONS`; the formulas are torch's.
    params : tuple of float, default=()
        The values of the parameters that `ACTIVATIONS` names, in that order.

    Examples
    --------
    >>> Activation("leaky_relu", (0.01,)).name
    'leaky_relu'
    """

    name: str = "identity"
    params: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.name not in ACTIVATIONS:
            raise ValueError(
                f"Unknown activation {self.name!r}; known: {', '.join(ACTIVATIONS)}."
            )
        n_params = len(ACTIVATIONS[self.name].parameters)
        if len(self.params) != n_params:
            raise ValueError(
                f"Activation {self.name!r} has {n_params} parameters; "
                f"got {len(self.params)}."
            )
        check_parameters(self.name, self.params)
        object.__setattr__(self, "params", tuple(float(p) for p in self.params))


def check_csr(
    data: Floats, indices: Ints, indptr: Ints, shape: tuple[int, int]
) -> None:
    """Check that a weight is canonical CSR with finite float32 values.

    Parameters
    ----------
    data : ndarray of shape (nnz,), float32
        The values.
    indices : ndarray of shape (nnz,), integers
        The columns, ascending within a row, none twice.
    indptr : ndarray of shape (n_rows + 1,), integers
        The starts of the rows.
    shape : (int, int)
        The numbers of rows and columns.

    Raises
    ------
    ValueError
        A rule is broken; the message names the first one.
    """
    n_rows, n_columns = shape
    if not (0 < n_rows <= MAX_WIDTH and 0 <= n_columns <= MAX_WIDTH):
        raise ValueError(f"A weight has shape {shape}; allowed are 1 to {MAX_WIDTH}.")
    if data.dtype != np.float32 or data.ndim != 1:
        raise ValueError("The values of a weight must be a float32 vector.")
    if indices.dtype.kind not in "iu" or indptr.dtype.kind not in "iu":
        raise ValueError("The indices of a weight must be integers.")
    if indptr.shape != (n_rows + 1,) or indices.shape != data.shape:
        raise ValueError(
            f"A weight of shape {shape} has {indptr.shape} row starts, "
            f"{indices.shape} columns and {data.shape} values."
        )
    if indptr[0] != 0 or indptr[-1] != len(data) or np.any(indptr[1:] < indptr[:-1]):
        raise ValueError("Row starts must rise from 0 to the number of values.")
    if len(data):
        if int(indices.min()) < 0 or int(indices.max()) >= n_columns:
            raise ValueError(f"A column is outside of 0 to {n_columns - 1}.")
        rises = np.ones(len(data) + 1, dtype=bool)
        np.greater(indices[1:], indices[:-1], out=rises[1:-1])
        for start in range(0, len(indptr), _PIECE):  # row starts need not be copied
            rises[indptr[start : start + _PIECE]] = True  # between rows it may fall
        if not rises.all():
            raise ValueError("Columns must be sorted and unique within a row.")
        if not np.isfinite(data).all():
            raise ValueError("A weight has a value that is NaN or infinite.")


def _own(values: npt.ArrayLike, dtype: npt.DTypeLike) -> np.ndarray[Any, np.dtype[Any]]:
    """Return a read-only array that no one else can write to."""
    owner = getattr(values, "base", None)
    owner = values if owner is None else owner
    if (
        type(values) is type(owner) is np.ndarray
        and owner.base is None
        and not (owner.flags.writeable or values.flags.writeable)
        and values.flags.c_contiguous
        and values.dtype == dtype
    ):
        return values  # from a file's reader: a model is not in memory twice
    with np.errstate(over="ignore"):  # infinity is refused later
        array = np.array(values, dtype=dtype, order="C")
    array.setflags(write=False)
    return array


def _vector(values: npt.ArrayLike, n: int, what: str) -> Floats:
    """Return a read-only float32 vector of a known length, all finite."""
    vector: Floats = _own(values, np.float32)
    if vector.shape != (n,):
        raise ValueError(f"{what} must have shape ({n},); got {vector.shape}.")
    if not np.isfinite(vector).all():
        raise ValueError(f"{what} has a value that is NaN or infinite.")
    return vector


class Sealed:
    """An object whose arrays stay read-only in copies and pickles."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        for value in state.values():
            parts = [value]
            if isinstance(value, tuple):  # the steps of an input stage
                parts = [part for pair in value if type(pair) is tuple for part in pair]
            if sparse.issparse(value):
                parts = [value.data, value.indices, value.indptr]
            for part in parts:
                if isinstance(part, np.ndarray):
                    part.setflags(write=False)
        self.__dict__.update(state)


@dataclass(frozen=True, eq=False)
class InputStage(Sealed):
    """The stage before the first operation: NaN are filled, and columns scaled.

    First NaN are filled, then ``shift`` is subtracted, then the result is divided by
    ``scale``.

    Parameters
    ----------
    n_features : int
        The number of columns of X.
    columns : array of int of shape (n_kept,) or None, default=None
        The columns that the net uses, ascending; None for all. The arrays below have
        one number for each of them.
    fill : array of shape (n_kept,) or None, default=None
        The numbers that replace NaN, float64; with None, NaN are refused.
    shift, scale : array of shape (n_kept,) or None, default=None
        The shift and the scale, float64; both or neither are there.
    wide : bool, default=False
        Whether rows of float64 are filled, shifted and scaled in float64, and rounded
        to float32 after that; otherwise they are rounded first.
    steps : tuple of (str, array of shape (n_kept,)), default=()
        Steps of `row_steps.ROW_STEPS`, which all rows go through one by one, float32
        rows in float32. There is nothing else to fill, shift or scale then.
    """

    n_features: int
    columns: Ints | None = None
    fill: Doubles | None = None
    shift: Doubles | None = None
    scale: Doubles | None = None
    wide: bool = False
    steps: Steps = ()

    def __post_init__(self) -> None:
        n = self.n_features
        if isinstance(n, bool) or not isinstance(n, int) or not 0 < n <= MAX_WIDTH:
            raise ValueError(f"A model has 1 to {MAX_WIDTH} features.")
        if self.columns is not None:
            columns = np.asarray(self.columns)
            if columns.dtype.kind not in "iu" or columns.ndim != 1:
                raise ValueError("The used columns must be a vector of integers.")
            columns = _own(columns, np.int64)
            inside = (columns >= 0) & (columns < self.n_features)
            if not inside.all() or np.any(columns[1:] <= columns[:-1]):
                raise ValueError("The used columns must exist, sorted and unique.")
            object.__setattr__(self, "columns", columns)
        if (self.shift is None) != (self.scale is None):
            raise ValueError("An input stage has both a shift and a scale, or neither.")
        for name in ("fill", "shift", "scale"):
            numbers = getattr(self, name)
            if numbers is not None:
                array = _own(numbers, np.float64)
                # Rows of float32 are computed with what these are in float32.
                with np.errstate(over="ignore"):
                    narrow = array.astype(np.float32)
                if array.shape != (self.width,) or not np.isfinite(narrow).all():
                    raise ValueError(
                        f"The input's {name} must be {self.width} finite numbers, in "
                        "float32 too."
                    )
                if name == "scale" and np.any(narrow == 0):
                    raise ValueError("The input's scale must not be 0, in float32 too.")
                object.__setattr__(self, name, array)
        if self.steps:
            if self.fill is not None or self.scale is not None:
                raise ValueError("An input stage has steps, or a fill and a scale.")
            own = tuple((name, _own(v, np.float64)) for name, v in self.steps)
            check_steps(own, self.width)
            object.__setattr__(self, "steps", own)

    @property
    def width(self) -> int:
        """The number of columns that the net uses."""
        return self.n_features if self.columns is None else len(self.columns)


@dataclass(frozen=True, eq=False)
class Linear(Sealed):
    """``activation(x @ weight.T + bias)``.

    Parameters
    ----------
    input : int
        The number of the value that it reads.
    weight : csr_array of shape (n_out, n_in), float32
        The weight in canonical CSR; a copy is kept.
    bias : array of shape (n_out,)
        The bias, float32.
    activation : Activation, default=identity
        The activation of the outputs.
    name : str, default=""
        The path of the layer in the net.
    """

    kind: ClassVar[str] = "linear"
    input: int
    weight: Csr
    bias: Vector
    activation: Activation = Activation()
    name: str = ""

    def __post_init__(self) -> None:
        w = self.weight
        check_csr(w.data, w.indices, w.indptr, w.shape)
        own = sparse.csr_array(w)  # a new object around the same arrays
        own.data = _own(w.data, np.float32)
        own.indices = _own(w.indices, w.indices.dtype)
        own.indptr = _own(w.indptr, w.indptr.dtype)
        object.__setattr__(self, "weight", own)
        bias = _vector(self.bias, w.shape[0], f"The bias of layer {self.name!r}")
        object.__setattr__(self, "bias", bias)


@dataclass(frozen=True, eq=False)
class Affine(Sealed):
    """``activation(x * scale + shift)``, for every column alone.

    Parameters
    ----------
    input : int
        The number of the value that it reads.
    scale, shift : array of shape (n,)
        The factors and the summands, float32.
    activation : Activation, default=identity
        The activation of the outputs.
    """

    kind: ClassVar[str] = "affine"
    input: int
    scale: Vector
    shift: Vector
    activation: Activation = Activation()

    def __post_init__(self) -> None:
        n = np.size(self.scale)
        object.__setattr__(self, "scale", _vector(self.scale, n, "A scale"))
        object.__setattr__(self, "shift", _vector(self.shift, n, "A shift"))


@dataclass(frozen=True, eq=False)
class LayerNorm(Sealed):
    """Layer normalisation of every row (Ba et al. 2016), then an activation.

    Parameters
    ----------
    input : int
        The number of the value that it reads.
    weight, bias : array of shape (n,)
        The factors and the summands after normalisation, float32.
    eps : float, default=1e-5
        The number that is added to the variance; at least 0, and finite in float32.
    activation : Activation, default=identity
        The activation of the outputs.
    """

    kind: ClassVar[str] = "layer_norm"
    input: int
    weight: Vector
    bias: Vector
    eps: float = 1e-5
    activation: Activation = Activation()

    def __post_init__(self) -> None:
        n = np.size(self.weight)
        object.__setattr__(self, "weight", _vector(self.weight, n, "A norm's weight"))
        object.__setattr__(self, "bias", _vector(self.bias, n, "A norm's bias"))
        check_eps(self.eps)


@dataclass(frozen=True)
class Add:
    """``activation(a + b)`` of two values of one width.

    Parameters
    ----------
    inputs : (int, int)
        The numbers of the values that it reads; both may be the same.
    activation : Activation, default=identity
        The activation of the outputs.
    """

    kind: ClassVar[str] = "add"
    inputs: tuple[int, int]
    activation: Activation = Activation()


@dataclass(frozen=True)
class Multiply:
    """``activation(a * b)`` of two values of the same width, number by number.

    Parameters
    ----------
    inputs : (int, int)
        The numbers of the values that it reads.
    activation : Activation, default=identity
        The activation of the product.
    """

    kind: ClassVar[str] = "multiply"
    inputs: tuple[int, int]
    activation: Activation = Activation()


@dataclass(frozen=True)
class Concat:
    """Values side by side.

    Parameters
    ----------
    inputs : tuple of int
        The numbers of the values that it reads, one or more.
    """

    kind: ClassVar[str] = "concat"
    inputs: tuple[int, ...]


@dataclass(frozen=True)
class Softmax:
    """Softmax over the columns of every row, or its logarithm.

    Parameters
    ----------
    input : int
        The number of the value that it reads.
    log : bool, default=False
        Whether to take the logarithm.
    """

    kind: ClassVar[str] = "softmax"
    input: int
    log: bool = False


Op: TypeAlias = Linear | Affine | LayerNorm | Add | Multiply | Concat | Softmax
Kind: TypeAlias = Literal[
    "linear", "affine", "layer_norm", "add", "multiply", "concat", "softmax"
]


def inputs_of(op: Op) -> tuple[int, ...]:
    """Return the numbers of the values that an operation reads."""
    return op.inputs if isinstance(op, (Add, Multiply, Concat)) else (op.input,)


@dataclass(frozen=True, eq=False)
class Graph:
    """The operations of a whole net.

    Parameters
    ----------
    stage : InputStage
        The stage that computes value 0 from the rows of X.
    ops : tuple of operations
        The operations, one or more; each reads values that exist already.

    Attributes
    ----------
    widths : tuple of int
        The number of columns of every value, the input's first.

    Examples
    --------
    >>> weight = sparse.csr_array(np.array([[0.0, 2.0]], dtype=np.float32))
    >>> Graph(InputStage(2), (Linear(0, weight, [1.0]),)).widths
    (2, 1)
    """

    stage: InputStage
    ops: tuple[Op, ...]
    widths: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "ops", tuple(self.ops))
        if not self.ops:
            raise ValueError("A model needs one operation or more.")
        widths = [self.stage.width]
        for i, op in enumerate(self.ops):
            reads = inputs_of(op)
            if not reads or not all(isinstance(v, int) and 0 <= v <= i for v in reads):
                raise ValueError(
                    f"Operation {i} ({op.kind}) reads {reads}; there are values 0 to "
                    f"{i}."
                )
            widths.append(_width_after(i, op, [widths[v] for v in reads]))
        object.__setattr__(self, "widths", tuple(widths))

    @property
    def n_outputs(self) -> int:
        """The number of columns of the output."""
        return self.widths[-1]

    @property
    def layers(self) -> tuple[Linear, ...]:
        """The linear operations, in order."""
        return tuple(op for op in self.ops if isinstance(op, Linear))

    def last_uses(self) -> list[int]:
        """Find the operation that reads a value last, for every value.

        Returns
        -------
        last : list of int
            The number of the operation. It is the count of all operations for the
            output, and -1 for a value that no operation reads.
        """
        last = [-1] * len(self.widths)
        for i, op in enumerate(self.ops):
            for v in inputs_of(op):
                last[v] = i
        last[-1] = len(self.ops)
        return last


def _width_after(i: int, op: Op, widths: list[int]) -> int:
    """Return the width of an operation's result, if its inputs fit."""
    if isinstance(op, Linear):
        n_out, n_in = op.weight.shape
        needed = n_in
    elif isinstance(op, Concat):
        total = sum(widths)
        if total > MAX_WIDTH:
            raise ValueError(f"Operation {i} ({op.kind}) is {total} columns wide.")
        return total
    elif isinstance(op, (Affine, LayerNorm)):
        n_out = needed = len(op.scale if isinstance(op, Affine) else op.weight)
    elif isinstance(op, (Add, Multiply)) and len(widths) != 2:
        raise ValueError(
            f"Operation {i} ({op.kind}) reads {len(widths)} values, not 2."
        )
    else:
        n_out = needed = widths[0]
    if isinstance(op, (LayerNorm, Softmax)) and n_out == 0:
        raise ValueError(f"Operation {i} ({op.kind}) reads a value without columns.")
    if any(width != needed for width in widths):
        raise ValueError(
            f"Operation {i} ({op.kind}) needs {needed} columns and reads {widths}."
        )
    return int(n_out)
