"""The parts of scikit-learn's contract that every estimator around a net shares."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike
from scipy import sparse
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from skorch import NeuralNet, NeuralNetBinaryClassifier, NeuralNetClassifier

from sklearn_sparse_nn.nets.targets import Labels, Values
from sklearn_sparse_nn.runtime.columns import (
    check_names,
    check_numbers,
    column_names,
    without_masks,
)
from sklearn_sparse_nn.runtime.head import refuse_other_than_probabilities, shares

__all__ = [
    "FLOAT_ROWS",
    "NET_ESTIMATORS",
    "OWN_ROWS",
    "MatrixLike",
    "NetClassifierMixin",
    "NetRegressorMixin",
    "NetRows",
    "as_net_input",
    "check_fit",
    "check_rows",
    "refuse_dicts",
    "refuse_metadata",
    "transaction",
]

#: An X or y as users have them: arrays, lists, DataFrames, sparse matrices.
MatrixLike: TypeAlias = ArrayLike | sparse.sparray | sparse.spmatrix
#: Rows as a net takes them.
NetRows: TypeAlias = np.ndarray | sparse.csr_matrix

#: skorch's own ways to probabilities; a net with another says itself what it gives.
_SKORCH_PROBA = (
    NeuralNet.predict_proba,
    NeuralNetClassifier.predict_proba,
    NeuralNetBinaryClassifier.predict_proba,
)
#: What X may be, and what it is converted to, for a net that takes floats.
FLOAT_ROWS: Mapping[str, Any] = {"accept_sparse": ["csr"], "dtype": np.float32}
_INTEGERS = (np.int64, np.int32, np.int16, np.int8, np.uint32, np.uint16, np.uint8)
#: The same for a user's own net, which may take shaped rows, or integers.
OWN_ROWS: Mapping[str, Any] = {
    **FLOAT_ROWS,
    "dtype": [np.float32, *_INTEGERS],
    "allow_nd": True,
}


@contextmanager
def transaction(estimator: BaseEstimator) -> Iterator[None]:
    """Restore every attribute of an estimator if the code inside fails.

    Parameters
    ----------
    estimator : estimator
        The one that is fitted inside.
    """
    before = vars(estimator).copy()
    try:
        yield
    except BaseException:
        vars(estimator).clear()
        vars(estimator).update(before)
        raise


def refuse_metadata(
    estimator: BaseEstimator, method: str, metadata: Mapping[str, object], takes: str
) -> None:
    """Refuse metadata that a method would have to ignore.

    Parameters
    ----------
    estimator : estimator
        The one whose method was called.
    method : str
        Name of the method.
    metadata : mapping of str to object
        Keyword arguments that are not parameters of the method.
    takes : str
        What the method takes, for the message.

    Raises
    ------
    TypeError
        One of them is not None.
    """
    names = sorted(name for name, value in metadata.items() if value is not None)
    if not names:
        return
    why = f"It takes {takes}."
    if "sample_weight" in names:
        why = (
            "Weights of samples are not used in training yet, and ignoring them would "
            "give another model than asked for: repeat rows, or leave them out."
        )
    raise TypeError(
        f"{type(estimator).__name__}.{method} does not support {', '.join(names)}. "
        f"{why}"
    )


def refuse_dicts(X: object) -> None:
    """Raise an error that says what to give instead of dicts.

    Parameters
    ----------
    X : object
        Rows, as they were given.

    Raises
    ------
    TypeError
        `X` is a dict, or a list or array of dicts.
    """
    if sparse.issparse(X):  # one format of scipy is a dict
        return
    first = X[0] if isinstance(X, (list, tuple, np.ndarray)) and len(X) else None
    if not isinstance(X, Mapping) and not isinstance(first, Mapping):
        return
    given, names = "a list of dicts", first
    if isinstance(X, Mapping):
        given, names = f"a dict ({type(X).__name__})", X
    raise TypeError(
        f"X is {given} with the keys {', '.join(map(repr, list(names or ())[:5]))}; it "
        "must be one array, sparse matrix or DataFrame of shape (n_samples, "
        "n_features). Put the columns together, as in numpy.column_stack, and let a "
        "module with several inputs take them apart in its forward."
    )


def check_fit(
    estimator: BaseEstimator,
    X: MatrixLike,
    y: ArrayLike,
    rules: Mapping[str, Any],
    *,
    reset: bool = True,
) -> tuple[Any, np.ndarray]:
    """Check training data by scikit-learn's rules, and convert them.

    Parameters
    ----------
    estimator : estimator
        The one that is fitted; with `reset` it remembers the columns.
    X : {array-like, sparse matrix, DataFrame} of shape (n_samples, n_features)
        Rows.
    y : array-like of shape (n_samples,)
        Their targets.
    rules : mapping of str to object
        Arguments of ``validate_data`` about X.
    reset : bool, default=True
        Whether columns are learned; else they are compared with those of before.

    Returns
    -------
    X : ndarray or csr array of shape (n_samples, n_features)
    y : ndarray of shape (n_samples,)
    """
    refuse_dicts(X)
    numeric = isinstance(estimator, RegressorMixin)
    X, names = _columns(X)
    try:
        rows, targets = validate_data(
            estimator, X, y, reset=reset, y_numeric=numeric, **rules
        )
    except (TypeError, ValueError) as error:
        value = _first_not_number(y) if numeric and y is not None else None
        if value is None or "NaN" in str(error):
            raise
        raise _not_numbers(value) from error
    if numeric:
        targets = _as_numbers(targets)
    _check_names(estimator, names, reset)
    return _canonical(rows), targets


def _as_numbers(targets: np.ndarray) -> np.ndarray:
    """Return targets to regress on, in floats that can hold their sums."""
    value = _first_not_number(targets)
    if value is not None:
        raise _not_numbers(value)
    is_half = targets.dtype.kind == "f" and targets.dtype.itemsize < 4
    return targets.astype(np.float64) if is_half else targets


def _first_not_number(y: ArrayLike) -> object:
    """Return the first target that is no number; None if all are."""
    values = np.asarray(y).ravel()
    if values.dtype.kind in "biufc":
        return None
    if values.dtype.kind != "O":
        return values[0] if len(values) else None
    for value in values:
        try:
            float(value)
        except (TypeError, ValueError):
            return value
    return None


def _not_numbers(value: object) -> ValueError:
    return ValueError(
        f"y has targets such as {str(value)[:40]!r}, of type "
        f"{type(value).__name__}; a regressor needs numbers. "
        "Convert them, as by numpy.asarray(y, dtype=float)."
    )


def check_rows(
    estimator: BaseEstimator, X: MatrixLike, rules: Mapping[str, Any]
) -> Any:
    """Check rows to predict, and convert them.

    Parameters
    ----------
    estimator : estimator
        A fitted one.
    X : {array-like, sparse matrix, DataFrame} of shape (n_samples, n_features)
        Rows.
    rules : mapping of str to object
        Arguments of ``validate_data`` about X.

    Returns
    -------
    X : ndarray or csr array of shape (n_samples, n_features)

    Raises
    ------
    sklearn.exceptions.NotFittedError
        The estimator is not fitted.
    """
    check_is_fitted(estimator)
    refuse_dicts(X)
    X, names = _columns(X)
    rows = validate_data(estimator, X, reset=False, **rules)
    _check_names(estimator, names, False)
    return _canonical(rows)


class NetClassifierMixin(ClassifierMixin):
    """A net's outputs as class labels and probabilities.

    The estimator has ``_rows(X)``, which checks rows, and ``_outputs(method, X)``,
    which calls a method of its net for checked rows.
    """

    def _learn_targets(self, y: np.ndarray) -> Labels:
        check_classification_targets(y)
        return Labels.of(y)

    def __sklearn_tags__(self) -> Any:
        return _net_tags(super().__sklearn_tags__())

    @property
    def classes_(self) -> np.ndarray:
        """The class labels, sorted."""
        check_is_fitted(self)
        return self.targets_.classes

    def predict_proba(self, X: MatrixLike) -> np.ndarray:
        """Estimate class probabilities.

        Parameters
        ----------
        X : {array-like, sparse matrix, DataFrame} of shape (n_samples, n_features)
            The rows to predict.

        Returns
        -------
        proba : ndarray of shape (n_samples, n_classes), float32
            The probabilities; columns in the order of ``classes_``.

        Raises
        ------
        ValueError
            The net has a loss of which skorch knows no function that makes
            probabilities, and its outputs are none.
        """
        proba = self._outputs("predict_proba", self._rows(X))
        n_classes = self.targets_.n_outputs
        if proba.shape[1] > n_classes:  # outputs for classes that y did not have
            proba = shares(proba[:, :n_classes])
        net = self.net_
        plain = type(net).predict_proba in _SKORCH_PROBA
        if plain and net.predict_nonlinearity in ("auto", None):
            refuse_other_than_probabilities(proba)
        return proba

    def predict_log_proba(self, X: MatrixLike) -> np.ndarray:
        """Estimate logarithms of class probabilities.

        Parameters
        ----------
        X : {array-like, sparse matrix, DataFrame} of shape (n_samples, n_features)
            The rows to predict.

        Returns
        -------
        log_proba : ndarray of shape (n_samples, n_classes), float32
            The logarithms of what ``predict_proba`` returns; of 0 it is -inf.
        """
        with np.errstate(divide="ignore"):
            logs: np.ndarray = np.log(self.predict_proba(X))
        return logs

    def predict(self, X: MatrixLike) -> np.ndarray:
        """Predict class labels.

        Parameters
        ----------
        X : {array-like, sparse matrix, DataFrame} of shape (n_samples, n_features)
            The rows to predict.

        Returns
        -------
        y : ndarray of shape (n_samples,)
            The most probable label; of equal ones the first in ``classes_``.
        """
        rows = self._rows(X)
        numbers = self._outputs("predict", rows)
        if numbers.ndim > 1 or numbers.max(initial=0) >= self.targets_.n_outputs:
            # A plain skorch net gives scores; one with spare outputs may choose them.
            scores = self._outputs("predict_proba", rows)
            numbers = scores[:, : self.targets_.n_outputs].argmax(axis=1)
        return self.targets_.decode(numbers)


class NetRegressorMixin(RegressorMixin):
    """A net's outputs as values in the units of the targets.

    The estimator has ``_rows(X)``, which checks rows, and ``_outputs(method, X)``,
    which calls a method of its net for checked rows.
    """

    def _learn_targets(self, y: np.ndarray) -> Values:
        return Values.of(y)

    def __sklearn_tags__(self) -> Any:
        return _net_tags(super().__sklearn_tags__())

    def predict(self, X: MatrixLike) -> np.ndarray:
        """Predict values.

        Parameters
        ----------
        X : {array-like, sparse matrix, DataFrame} of shape (n_samples, n_features)
            The rows to predict.

        Returns
        -------
        y : ndarray of shape (n_samples,), float64
            The values, in the units of the training targets.
        """
        outputs = self._outputs("predict", self._rows(X))
        return self.targets_.decode(outputs)


#: The mixins, one of which every estimator of this package has.
NET_ESTIMATORS = (NetClassifierMixin, NetRegressorMixin)


def _net_tags(tags: Any) -> Any:
    tags.input_tags.sparse = True
    tags.target_tags.required = True
    return tags


def _columns(X: Any) -> tuple[Any, list[Any] | None]:
    """Check that X holds numbers, and find the names of its columns.

    scikit-learn would make numbers of dates and text.
    """
    if type(X) is np.ndarray and X.dtype.kind in "fiub":
        return X, None
    array = X = without_masks(X)
    names = column_names(X)
    if names is None and not sparse.issparse(X):
        try:
            array = np.asarray(X)
        except Exception:  # such as ragged rows, which scikit-learn refuses
            return X, None
    check_numbers(array)
    return X, names


def _check_names(
    estimator: BaseEstimator, given: list[Any] | None, reset: bool
) -> None:
    """Compare names of columns that scikit-learn does not see, such as pyarrow's."""
    known = getattr(estimator, "feature_names_in_", None)
    if known is not None:
        check_names(given, known.tolist())
    elif reset and given and all(isinstance(name, str) for name in given):
        estimator.feature_names_in_ = np.asarray(given, dtype=object)


def _canonical(X: Any) -> Any:
    """Add up duplicate entries of sparse rows, in a copy."""
    if sparse.issparse(X) and not X.has_canonical_format:
        X = X.copy()
        X.sum_duplicates()
    return X


def as_net_input(X: Any) -> NetRows:
    """Return X as skorch takes it: arrays as they are, sparse rows as a csr_matrix."""
    return sparse.csr_matrix(X) if sparse.issparse(X) else X
