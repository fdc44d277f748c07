"""What every scikit-learn estimator around a skorch net shares."""

from typing import Any, ClassVar

import numpy as np
from scipy import sparse
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from sklearn_sparse_nn._compat import check_parameters
from sklearn_sparse_nn.nets.targets import Labels, Values

__all__ = ["NetClassifierMixin", "NetEstimator", "NetRegressorMixin"]


class NetEstimator(BaseEstimator):
    """Validation, transactional fit and tags for an estimator that owns a net.

    A subclass gives ``_fit(X, y) -> dict of fitted attributes``, and may name what else
    ``fit`` takes in `_fit_takes`.
    """

    _fit_takes: ClassVar[tuple[str, ...]] = ()

    def fit(self, X: Any, y: Any, **fit_params: Any) -> "NetEstimator":
        """Fit to training data.

        Parameters
        ----------
        X : {array-like, sparse matrix, DataFrame} of shape (n_samples, n_features)
            Numbers, converted to float32. Sparse rows are made dense batch by batch.
        y : array-like of shape (n_samples,)
            Labels of any type for a classifier, numbers for a regressor.
        **fit_params
            None are supported; `sample_weight` is refused rather than ignored.

        Returns
        -------
        self : object
            A failed or interrupted fit leaves an earlier one as it was.
        """
        given = sorted(
            name
            for name, value in fit_params.items()
            if value is not None and name not in self._fit_takes
        )
        if given:
            names = ", ".join(given)
            raise TypeError(
                f"{type(self).__name__}.fit does not support {names}. Weights of "
                "samples are not used in training yet, and ignoring them would give "
                "another model than asked for: repeat rows, or leave them out."
            )
        check_parameters(self)
        before = self.__dict__.copy()
        try:
            X, y = self._validate(X, y)
            taken = {name: fit_params.get(name) for name in self._fit_takes}
            fitted = self._fit(X, y, **taken)
        except BaseException:
            self.__dict__.clear()
            self.__dict__.update(before)
            raise
        self.__dict__.update(fitted)
        return self

    def _validate(self, X: Any, y: Any) -> tuple[Any, np.ndarray]:
        X, y = validate_data(self, X, y, y_numeric=self._numeric_y, **self._x_rules())
        return _canonical(X), y

    def _validate_X(self, X: Any) -> Any:
        check_is_fitted(self)
        rules = self._x_rules(fitted=True)
        return _canonical(validate_data(self, X, reset=False, **rules))

    def _x_rules(self, *, fitted: bool = False) -> dict[str, Any]:
        """Say what X may be, and what it is converted to, in fit and afterwards."""
        return {"accept_sparse": ["csr"], "dtype": np.float32}

    def _ask(self, method: str, X: Any) -> np.ndarray:
        """Ask the net, by the name of one of its methods, about validated rows."""
        return getattr(self.net_, method)(self._net_input(X))

    def _net_input(self, X: Any) -> Any:
        """Turn validated rows into what the fitted net takes."""
        return as_net_input(X)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.target_tags.required = True
        return tags


class NetClassifierMixin(ClassifierMixin):
    """Labels in, labels and probabilities out."""

    _numeric_y = False

    def _learn_targets(self, y: np.ndarray) -> Labels:
        check_classification_targets(y)
        return Labels.of(y)

    @property
    def classes_(self) -> np.ndarray:
        """The class labels, sorted."""
        check_is_fitted(self)
        return self.targets_.classes

    def predict_proba(self, X: Any) -> np.ndarray:
        """Estimate class probabilities.

        Parameters
        ----------
        X : {array-like, sparse matrix, DataFrame} of shape (n_samples, n_features)
            Rows to predict.

        Returns
        -------
        proba : ndarray of shape (n_samples, n_classes), float32
            Columns in the order of ``classes_``.
        """
        proba = self._ask("predict_proba", self._validate_X(X))
        n_classes = self.targets_.n_outputs
        if proba.shape[1] > n_classes:  # outputs for classes that y did not have
            proba = proba[:, :n_classes]
            total = proba.sum(axis=1, keepdims=True)
            with np.errstate(divide="ignore", invalid="ignore"):
                shares = proba / total
            # Where only the others are probable, nothing tells the classes apart.
            proba = np.where(total > 0, shares, proba.dtype.type(1 / n_classes))
        return proba

    def predict(self, X: Any) -> np.ndarray:
        """Predict class labels.

        Parameters
        ----------
        X : {array-like, sparse matrix, DataFrame} of shape (n_samples, n_features)
            Rows to predict.

        Returns
        -------
        y : ndarray of shape (n_samples,)
            The most probable label; of equal ones the first in ``classes_``.
        """
        numbers = self._ask("predict", self._validate_X(X))
        if numbers.ndim > 1 or numbers.max(initial=0) >= self.targets_.n_outputs:
            # A plain skorch net gives scores; one with spare outputs may choose them.
            numbers = self.predict_proba(X).argmax(axis=1)
        return self.targets_.decode(numbers)


class NetRegressorMixin(RegressorMixin):
    """Values in, values out."""

    _numeric_y = True

    def _learn_targets(self, y: np.ndarray) -> Values:
        return Values.of(y)

    def predict(self, X: Any) -> np.ndarray:
        """Predict values.

        Parameters
        ----------
        X : {array-like, sparse matrix, DataFrame} of shape (n_samples, n_features)
            Rows to predict.

        Returns
        -------
        y : ndarray of shape (n_samples,), float64
            In the units of the training targets.
        """
        X = self._validate_X(X)
        return self.targets_.decode(self._ask("predict", X))


def _canonical(X: Any) -> Any:
    """Add up duplicate entries of sparse rows, in a copy."""
    if sparse.issparse(X) and not X.has_canonical_format:
        X = X.copy()
        X.sum_duplicates()
    return X


def as_net_input(X: Any) -> Any:
    """Give X as skorch takes it: arrays as they are, sparse rows as a csr_matrix."""
    return sparse.csr_matrix(X) if sparse.issparse(X) else X
