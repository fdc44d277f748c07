"""The pruners that choose their sparsity by cross-validation along one path."""

from typing import Any

from sklearn.utils.validation import check_is_fitted

from sklearn_sparse_nn.dense.base import (
    NetClassifierMixin,
    NetRegressorMixin,
)
from sklearn_sparse_nn.dense.tabular import (
    TabularNetClassifier,
    TabularNetRegressor,
)
from sklearn_sparse_nn.pruning.classifier import PrunedClassifier
from sklearn_sparse_nn.pruning.regressor import PrunedRegressor
from sklearn_sparse_nn.search.base import BasePrunedCV

__all__ = ["PrunedClassifierCV", "PrunedRegressorCV"]


class _ScorerMixin:
    """The score of a search: the one that has chosen the level."""

    scorer_: Any
    best_estimator_: Any
    _decided_by: str

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Score by the score that has chosen the level.

        Parameters
        ----------
        X : {array-like, sparse matrix, DataFrame} of shape (n_samples, n_features)
            The rows to score on.
        y : array-like of shape (n_samples,)
            The labels or values of the rows.
        sample_weight : array-like of shape (n_samples,) or None, default=None
            The weights of the rows, where `scoring` can take them.

        Returns
        -------
        score : float
            The score named by `select_by`, where there are several. Accuracy or R2 for
            ``scoring=None``.
        """
        check_is_fitted(self)
        weights = {} if sample_weight is None else {"sample_weight": sample_weight}
        given = self.scorer_(self.best_estimator_, X, y, **weights)
        return float(given[self._decided_by] if isinstance(given, dict) else given)


class PrunedClassifierCV(_ScorerMixin, NetClassifierMixin, BasePrunedCV):
    """A `PrunedClassifier` that chooses its sparsity by cross-validation.

    Parameters
    ----------
    estimator : pruner, TabularNet, skorch net, Pipeline or None, default=None
        The pruner to fit at every level; its `sparsity` is not used. A net, frozen or
        not, stands for a pruner around it with defaults. Or a Pipeline that ends with
        one of these: its other steps are fitted in each fold, and rows are what the
        pipeline takes. It is never changed.
    sparsities : sequence of float or of int, or None, default=None
        The levels to choose from: fractions of zeros, or numbers of non-zeros to keep.
        None for ten levels whose densities are spaced evenly on a log scale, from 50 %
        to 0.5 %.
    start : {"previous", "dense"}, default="previous"
        The net that a level is pruned from, as in `pruning_path`: that of the level
        before it, or the dense net. With ``"dense"``, scores are those of a
        GridSearchCV over the pruner's sparsity, bit for bit, where the pruner has a
        seed; so is the winner, but for levels with equal scores.
    select : {"best", "one_se", "tolerance"} or callable, default="best"
        The rule that chooses the level. ``"best"``: the highest mean score; of equal
        ones the sparsest. ``"one_se"``: the sparsest within one standard error of the
        best. ``"tolerance"``: the sparsest that is not surely worse than the dense net
        by more than `tolerance`; see Notes. Or a function of ``cv_results_`` that
        returns an index.
    tolerance : float, default=0.01
        The loss of score that is allowed, as a fraction of the dense net's score. Used
        only with ``select="tolerance"``.
    scoring : str, callable, list, tuple, dict or None, default=None
        One score or several, as in scikit-learn; None for the pruner's own.
    select_by : str or None, default=None
        The name of the score that decides, where there are several.
    cv : int, cross-validation generator, iterable or None, default=None
        The folds, as in scikit-learn; None for five folds, stratified for a classifier.
    n_jobs : int or None, default=None
        The number of folds that run at once, by joblib.
    random_state : int, RandomState instance or None, default=None
        The seed for a pruner that has none of its own.
    verbose : int, default=0
        The amount of output: 1 prints a line for every fold and level.

    Attributes
    ----------
    net_ : skorch net
        The trained net, without its optimizer. Its pruned weights are exactly zero.
    classes_ : ndarray of shape (n_classes,)
        The class labels.
    best_params_ : dict
        The chosen level, as ``{"sparsity": level}``.
    best_estimator_ : PrunedClassifier or PrunedRegressor
        The pruner of that level, fitted on all rows. `net_` and the other fitted
        attributes here are its own.
    best_index_ : int
        The index of the chosen level in ``cv_results_``.
    best_score_ : float
        The mean score of the chosen level over the folds.
    cv_results_ : dict of ndarrays
        A row for every level, in the form of GridSearchCV's: ``params``,
        ``param_sparsity``, ``mean_test_score`` and so on. ``mean_fit_time`` is the time
        of a level alone, without the levels before it.
    dense_score_ : float, or dict of float for several scores
        The mean score of the dense nets over the same folds.
    path_ : Bunch
        The path on all rows: ``sparsities``, ``sparsity`` and ``n_nonzero`` of every
        level up to the chosen one, or of that alone if levels start from the dense net.
    scorer_ : callable
        The scorer that was used.
    n_splits_ : int
        The number of folds.
    masks_ : dict of layer name to bool ndarray of the weight's shape
        The masks: True where a weight is kept.
    sparsity_ : float
        The fraction of the weights of the layers to prune that are zero.
    n_nonzero_ : int
        The number of weights of these layers that are kept.
    layer_sparsity_ : dict of layer name to float
        The fraction of zeros in each of these layers.
    history_ : list of dict
        A row for every epoch: phase, epoch, sparsity, losses and scores.
    feature_importances_ : ndarray of shape (n_features_in_,)
        The mass of the paths of non-zero weights from each input; for an
        ``nn.Sequential`` of Linear layers, as a TabularNet's module is.
    n_features_in_ : int
        The number of columns seen in fit.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        The names of the columns, if X was a DataFrame with string names.

    See Also
    --------
    pruning_path : The path itself.

    Notes
    -----
    In each fold the dense net is trained once and then pruned to one level after the
    other, as by `pruning_path`; then the same is done on all rows, up to the chosen
    level.

    ``"tolerance"`` compares every level with the dense net fold by fold. Let d be the
    mean of score - dense score, and e its standard error over the folds. The sparsest
    level with ``d - e >= -tolerance * abs(dense_score_)`` is taken, so that the promise
    is kept on other rows, too, and not by luck on these; if there is none, the best.

    References
    ----------
    Breiman, Friedman, Olshen and Stone 1984, "Classification and Regression Trees",
    section 3.4.3 (the rule of one standard error).

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn_sparse_nn import PrunedClassifierCV, TabularNetClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> net = TabularNetClassifier((16,), lr=0.01, max_epochs=10)
    >>> search = PrunedClassifierCV(net, sparsities=[0.5, 0.9], cv=2, random_state=0)
    >>> search.fit(X, y).cv_results_["mean_test_score"].shape
    (2,)
    """

    _default_estimator = TabularNetClassifier
    _pruner_class = PrunedClassifier


class PrunedRegressorCV(_ScorerMixin, NetRegressorMixin, BasePrunedCV):
    """A `PrunedRegressor` that chooses its sparsity by cross-validation.

    Parameters
    ----------
    estimator : pruner, TabularNet, skorch net, Pipeline or None, default=None
        The pruner to fit at every level; its `sparsity` is not used. A net, frozen or
        not, stands for a pruner around it with defaults. Or a Pipeline that ends with
        one of these: its other steps are fitted in each fold, and rows are what the
        pipeline takes. It is never changed.
    sparsities : sequence of float or of int, or None, default=None
        The levels to choose from: fractions of zeros, or numbers of non-zeros to keep.
        None for ten levels whose densities are spaced evenly on a log scale, from 50 %
        to 0.5 %.
    start : {"previous", "dense"}, default="previous"
        The net that a level is pruned from, as in `pruning_path`: that of the level
        before it, or the dense net. With ``"dense"``, scores are those of a
        GridSearchCV over the pruner's sparsity, bit for bit, where the pruner has a
        seed; so is the winner, but for levels with equal scores.
    select : {"best", "one_se", "tolerance"} or callable, default="best"
        The rule that chooses the level. ``"best"``: the highest mean score; of equal
        ones the sparsest. ``"one_se"``: the sparsest within one standard error of the
        best. ``"tolerance"``: the sparsest that is not surely worse than the dense net
        by more than `tolerance`; see Notes. Or a function of ``cv_results_`` that
        returns an index.
    tolerance : float, default=0.01
        The loss of score that is allowed, as a fraction of the dense net's score. Used
        only with ``select="tolerance"``.
    scoring : str, callable, list, tuple, dict or None, default=None
        One score or several, as in scikit-learn; None for the pruner's own.
    select_by : str or None, default=None
        The name of the score that decides, where there are several.
    cv : int, cross-validation generator, iterable or None, default=None
        The folds, as in scikit-learn; None for five folds, stratified for a classifier.
    n_jobs : int or None, default=None
        The number of folds that run at once, by joblib.
    random_state : int, RandomState instance or None, default=None
        The seed for a pruner that has none of its own.
    verbose : int, default=0
        The amount of output: 1 prints a line for every fold and level.

    Attributes
    ----------
    net_ : skorch net
        The trained net, without its optimizer. Its pruned weights are exactly zero.
    best_params_ : dict
        The chosen level, as ``{"sparsity": level}``.
    best_estimator_ : PrunedClassifier or PrunedRegressor
        The pruner of that level, fitted on all rows. `net_` and the other fitted
        attributes here are its own.
    best_index_ : int
        The index of the chosen level in ``cv_results_``.
    best_score_ : float
        The mean score of the chosen level over the folds.
    cv_results_ : dict of ndarrays
        A row for every level, in the form of GridSearchCV's: ``params``,
        ``param_sparsity``, ``mean_test_score`` and so on. ``mean_fit_time`` is the time
        of a level alone, without the levels before it.
    dense_score_ : float, or dict of float for several scores
        The mean score of the dense nets over the same folds.
    path_ : Bunch
        The path on all rows: ``sparsities``, ``sparsity`` and ``n_nonzero`` of every
        level up to the chosen one, or of that alone if levels start from the dense net.
    scorer_ : callable
        The scorer that was used.
    n_splits_ : int
        The number of folds.
    masks_ : dict of layer name to bool ndarray of the weight's shape
        The masks: True where a weight is kept.
    sparsity_ : float
        The fraction of the weights of the layers to prune that are zero.
    n_nonzero_ : int
        The number of weights of these layers that are kept.
    layer_sparsity_ : dict of layer name to float
        The fraction of zeros in each of these layers.
    history_ : list of dict
        A row for every epoch: phase, epoch, sparsity, losses and scores.
    feature_importances_ : ndarray of shape (n_features_in_,)
        The mass of the paths of non-zero weights from each input; for an
        ``nn.Sequential`` of Linear layers, as a TabularNet's module is.
    n_features_in_ : int
        The number of columns seen in fit.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        The names of the columns, if X was a DataFrame with string names.

    See Also
    --------
    pruning_path : The path itself.

    Notes
    -----
    In each fold the dense net is trained once and then pruned to one level after the
    other, as by `pruning_path`; then the same is done on all rows, up to the chosen
    level.

    ``"tolerance"`` compares every level with the dense net fold by fold. Let d be the
    mean of score - dense score, and e its standard error over the folds. The sparsest
    level with ``d - e >= -tolerance * abs(dense_score_)`` is taken, so that the promise
    is kept on other rows, too, and not by luck on these; if there is none, the best.

    References
    ----------
    Breiman, Friedman, Olshen and Stone 1984, "Classification and Regression Trees",
    section 3.4.3 (the rule of one standard error).

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn_sparse_nn import PrunedRegressorCV, TabularNetRegressor
    >>> X, y = load_diabetes(return_X_y=True)
    >>> net = TabularNetRegressor((16,), lr=0.01, max_epochs=10)
    >>> search = PrunedRegressorCV(net, sparsities=[0.5, 0.9], cv=2, random_state=0)
    >>> search.fit(X, y).cv_results_["mean_test_score"].shape
    (2,)
    """

    _default_estimator = TabularNetRegressor
    _pruner_class = PrunedRegressor
