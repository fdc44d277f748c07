"""The head of a model: labels, probabilities and values from raw outputs."""

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from functools import partial
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar

import numpy as np
from scipy import special

from sklearn_sparse_nn.runtime.graph import Floats, Sealed
from sklearn_sparse_nn.runtime.limits import check_targets, check_unique

__all__ = [
    "NUMPY",
    "OUTPUTS",
    "Functions",
    "Head",
    "Labels",
    "refuse_other_than_probabilities",
    "shares",
]

Array = TypeVar("Array")
#: Labels of any type, and the values that a regressor predicts.
Labels: TypeAlias = np.ndarray[Any, np.dtype[Any]]

_SLACK = 1e-3  # by which probabilities may miss 1, as those of low precision do
#: The functions that turn raw outputs into probabilities.
OUTPUTS = ("identity", "softmax", "sigmoid")


class Functions(NamedTuple, Generic[Array]):
    """The functions of one library that probabilities are made with.

    Parameters
    ----------
    sigmoid : callable
        The logistic function of every number.
    softmax : callable
        The softmax of every row.
    join : callable
        The concatenation of a list of arrays, column by column.
    """

    sigmoid: Callable[[Array], Array]
    softmax: Callable[[Array], Array]
    join: Callable[[list[Array]], Array]


NUMPY: Functions[Floats] = Functions(
    special.expit,
    partial(special.softmax, axis=1),
    partial(np.concatenate, axis=1),
)


@dataclass(frozen=True, eq=False)
class Head(Sealed):
    """The meaning of a net's raw outputs.

    Parameters
    ----------
    n_outputs : int
        The columns of the raw outputs.
    output : {"identity", "softmax", "sigmoid"}, default="identity"
        The function that makes probabilities of raw outputs; ``"sigmoid"`` makes two of
        one.
    classes : array-like of shape (n_classes,) or None, default=None
        The labels of a classifier; None for a regressor. There may be fewer labels than
        outputs: the last outputs are then spare. A read-only copy is kept.
    target_mean, target_scale : float, default=0.0 and 1.0
        A regressor's raw outputs are multiplied by the scale, and the mean is added.

    Raises
    ------
    ValueError
        An unknown output, targets that are not finite or a scale of 0, classes that do
        not fit the outputs, or a class twice.

    Examples
    --------
    >>> head = Head(2, output="softmax", classes=["no", "yes"])
    >>> head.labels(head.probabilities(np.array([[1.0, 2.0]], dtype=np.float32)))
    array(['yes'], dtype='<U3')
    """

    n_outputs: int
    _: KW_ONLY
    output: str = "identity"
    classes: Labels | None = None
    target_mean: float = 0.0
    target_scale: float = 1.0

    def __post_init__(self) -> None:
        if self.output not in OUTPUTS:
            raise ValueError(f"output must be one of {OUTPUTS}; got {self.output!r}.")
        check_targets(self.target_mean, self.target_scale)
        object.__setattr__(self, "target_mean", float(self.target_mean))
        object.__setattr__(self, "target_scale", float(self.target_scale))
        if self.classes is not None:
            object.__setattr__(self, "classes", self._checked_classes())

    def _checked_classes(self) -> Labels:
        """Return the labels, read-only, if there are enough outputs for them."""
        classes = np.array(self.classes)
        is_sigmoid = self.output == "sigmoid"
        most = 2 if is_sigmoid else self.n_outputs
        fits = classes.ndim == 1 and 1 <= len(classes) <= most
        if not fits or (is_sigmoid and (self.n_outputs != 1 or len(classes) != 2)):
            raise ValueError(
                f"There are classes of shape {classes.shape} for {self.n_outputs} "
                f"outputs with output={self.output!r}."
            )
        check_unique(classes.tolist(), "class")
        classes.setflags(write=False)
        return classes

    @property
    def known_classes(self) -> Labels:
        """The labels.

        Raises
        ------
        AttributeError
            The model is a regressor.
        """
        if self.classes is None:
            raise AttributeError(
                "This model is a regressor: it has no classes, so use predict or "
                "forward."
            )
        return self.classes

    @property
    def is_plain_softmax(self) -> bool:
        """Return whether probabilities are the softmax of all raw outputs."""
        return self.output == "softmax" and self.n_outputs == len(self.known_classes)

    def probabilities(
        self,
        raw: Array,
        functions: Functions[Array] = NUMPY,  # type: ignore[assignment]
    ) -> Array:
        """Compute class probabilities.

        Parameters
        ----------
        raw : array or tensor of shape (n_rows, n_outputs), float32
            The raw outputs.
        functions : Functions, default=NUMPY
            The functions of the library that `raw` belongs to.

        Returns
        -------
        proba : array or tensor of shape (n_rows, n_classes), float32

        Raises
        ------
        AttributeError
            The model is a regressor.
        ValueError
            The net has no function that makes probabilities, and its outputs are none.
        """
        n_classes, rows = len(self.known_classes), raw
        if self.output == "sigmoid":
            positive: Any = functions.sigmoid(rows)
            return functions.join([1 - positive, positive])
        seen: Any = rows
        seen = seen[:, :n_classes]  # the others may be far above
        if self.output == "softmax":
            return functions.softmax(seen)
        found = shares(seen) if self.n_outputs > n_classes else raw
        if isinstance(found, np.ndarray):
            refuse_other_than_probabilities(found)
        return found

    def labels(self, proba: Floats) -> Labels:
        """Return the most probable label of every row, the first of equal ones.

        Parameters
        ----------
        proba : ndarray of shape (n_rows, n_classes)
            The class probabilities.

        Returns
        -------
        y : ndarray of shape (n_rows,)
        """
        found: Labels = self.known_classes[proba.argmax(axis=1)]
        return found

    def values(self, raw: Floats) -> Labels:
        """Compute a regressor's values in the units of its training targets.

        Parameters
        ----------
        raw : ndarray of shape (n_rows, n_outputs), float32
            The raw outputs.

        Returns
        -------
        y : ndarray of shape (n_rows,) or (n_rows, n_outputs), float64
        """
        values = raw.astype(np.float64) * self.target_scale + self.target_mean
        return values[:, 0] if values.shape[1] == 1 else values


def refuse_other_than_probabilities(proba: Floats) -> None:
    """Raise an error if rows are not shares of 1.

    Parameters
    ----------
    proba : ndarray of shape (n_rows, n_classes)
        What is to be returned as probabilities.

    Raises
    ------
    ValueError
        A number is negative, or a row does not add up to 1.
    """
    if not len(proba) or proba.ndim != 2:
        return
    sums = proba.sum(axis=1, dtype=np.float64)
    if np.any(proba < 0) or np.any(np.abs(sums - 1) >= _SLACK):  # NaN stays NaN
        raise ValueError(
            "The net's outputs are no probabilities: they go from "
            f"{proba.min():.3g} to {proba.max():.3g}, and a row adds up to "
            f"{sums[np.abs(sums - 1).argmax()]:.3g}. Give export_module output="
            "'softmax', or the skorch net a criterion that skorch knows, or "
            "predict_nonlinearity. predict needs none of this."
        )


def shares(proba: Array) -> Array:
    """Divide every row by its sum; rows of zeros become equal shares.

    These are the probabilities where some outputs have no class, because the training
    data did not have it. Where only such outputs are probable, nothing tells the
    classes apart.

    Parameters
    ----------
    proba : array or tensor of shape (n_rows, n_classes)
        The probabilities of the classes.

    Returns
    -------
    proba : array or tensor of shape (n_rows, n_classes)

    Examples
    --------
    >>> shares(np.array([[0.25, 0.25], [0.0, 0.0]])).tolist()
    [[0.5, 0.5], [0.5, 0.5]]
    """
    rows: Any = proba
    total = rows.sum(axis=1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        found: Any = rows / total
    found[~(total[:, 0] > 0)] = 1 / rows.shape[1]
    return found  # type: ignore[no-any-return]
