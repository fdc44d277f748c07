"""What every scikit-learn estimator around a skorch net shares."""

from typing import Any

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

    A subclass gives ``_fit(X, y) -> dict of fitted attributes``.
    """

    #: What X is converted to: the first, unless it has one of the others already.
    _x_dtypes: Any = np.float32
    #: Whether X may have more than two axes, as images for a convolution do.
    _allow_nd = False

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
        if fit_params:
            names = ", ".join(sorted(fit_params))
            raise TypeError(
                f"{type(self).__name__}.fit does not support {names}. Weights of "
                "samples are not used in training yet, and ignoring them would give "
                "another model than asked for: repeat rows, or leave them out."
            )
        check_parameters(self)
        before = self.__dict__.copy()
        try:
            X, y = self._validate(X, y)
            fitted = self._fit(X, y)
        except BaseException:
            self.__dict__.clear()
            self.__dict__.update(before)
            raise
        self.__dict__.update(fitted)
        return self

    def _validate(self, X: Any, y: Any) -> tuple[Any, np.ndarray]:
        return validate_data(
            self,
            X,
            y,
            accept_sparse=["csr"],
            dtype=self._x_dtypes,
            allow_nd=self._allow_nd,
            y_numeric=self._numeric_y,
        )

    def _validate_X(self, X: Any) -> Any:
        check_is_fitted(self)
        return validate_data(
            self,
            X,
            accept_sparse=["csr"],
            dtype=self._x_dtypes,
            allow_nd=self._allow_nd,
            reset=False,
        )

    def _ask(self, method: str, X: Any) -> np.ndarray:
        """Ask the net, by the name of one of its methods, about validated rows."""
        return getattr(self.net_, method)(as_net_input(X))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.input_tags.three_d_array = self._allow_nd
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
        X = self._validate_X(X)
        return self._ask("predict_proba", X)

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
        X = self._validate_X(X)
        numbers = self._ask("predict", X)
        if numbers.ndim > 1:  # a plain skorch net gives scores, not numbers
            numbers = numbers.argmax(axis=1)
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


def as_net_input(X: Any) -> Any:
    """Give X as skorch takes it: arrays as they are, sparse rows as a csr_matrix."""
    return sparse.csr_matrix(X) if sparse.issparse(X) else X
