"""What the pruners that choose their sparsity say of themselves, once for both."""

from sklearn_sparse_nn.pruning.parameters import ATTRIBUTES

__all__ = ["CV_ATTRIBUTES", "NOTES", "PARAMETERS"]

PARAMETERS = """\
    Parameters
    ----------
    estimator : pruner, TabularNet, skorch net or None, default=None
        How to prune; its `sparsity` is not used. A net, frozen or not, stands for the
        pruner around it as it comes. Never changed.
    sparsities : sequence of float or of int, or None, default=None
        The levels to choose from: fractions of zeros, or non-zeros to keep. None for
        ten whose densities are spaced evenly on a log scale, from 50 % to 0.5 %.
    start : {"previous", "dense"}, default="previous"
        What a level is pruned from, as in `pruning_path`: the level before it, or the
        dense net. With ``"dense"`` scores are those of a GridSearchCV over the
        pruner's sparsity, bit for bit, where the pruner has a seed; so is the winner,
        but for levels with equal scores.
    select : {"best", "one_se", "tolerance"} or callable, default="best"
        Which level is taken. ``"best"``: the highest mean score, of equal ones the
        sparsest. ``"one_se"``: the sparsest within one standard error of the best.
        ``"tolerance"``: the sparsest that is not surely worse than the dense net by
        more than `tolerance`; see Notes. Or a function of ``cv_results_`` that gives
        an index.
    tolerance : float, default=0.01
        Only with ``select="tolerance"``: what may be lost, as a fraction of the dense
        net's score.
    scoring : str, callable, list, tuple, dict or None, default=None
        As scikit-learn takes it, for one score or several; None for the pruner's own.
    select_by : str or None, default=None
        The score that decides, where there are several.
    cv : int, cross-validation generator, iterable or None, default=None
        As scikit-learn takes it; None for five folds, stratified for a classifier.
    n_jobs : int or None, default=None
        Folds that run at once, by joblib.
    random_state : int, RandomState instance or None, default=None
        For a pruner that has none of its own.
    verbose : int, default=0
        1 prints a line for every fold and level.
"""

CV_ATTRIBUTES = f"""\
    best_params_ : dict
        ``{{"sparsity": the chosen level}}``.
    best_estimator_ : PrunedClassifier or PrunedRegressor
        The pruner of that level, fitted on all rows; `net_` and what else is fitted
        here are its own.
    best_index_ : int
        Its place in ``cv_results_``.
    best_score_ : float
        Its mean score over the folds.
    cv_results_ : dict of ndarrays
        A row for every level, in the form of GridSearchCV's: ``params``,
        ``param_sparsity``, ``mean_test_score`` and so on. ``mean_fit_time`` is of a
        level alone, without those before it.
    dense_score_ : float, or dict of float for several scores
        Mean score of the dense nets over the same folds.
    path_ : Bunch
        What the path on all rows went through: ``sparsities``, ``sparsity`` and
        ``n_nonzero`` of every level up to the chosen one, or of that alone if levels
        start from the dense net.
    scorer_ : callable
        What scored.
    n_splits_ : int
        Number of folds.
{ATTRIBUTES}"""

NOTES = """\
    Notes
    -----
    In each fold the dense net is trained once and then pruned to one level after the
    other, as by `pruning_path`; then the same on all rows, up to the chosen level.

    ``"tolerance"`` compares every level with the dense net fold by fold. Let d be the
    mean of score - dense score, and e its standard error over the folds. The sparsest
    level with ``d - e >= -tolerance * abs(dense_score_)`` is taken, so that the promise
    is kept on other rows, too, and not by luck on these; if there is none, the best.

    References
    ----------
    Breiman, Friedman, Olshen and Stone 1984, "Classification and Regression Trees",
    section 3.4.3 (the rule of one standard error).
"""
