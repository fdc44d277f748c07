"""The path from dense to sparse: one dense training, then level after level."""

from collections.abc import Callable, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
from sklearn.base import clone, is_regressor
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import check_scoring
from sklearn.pipeline import Pipeline
from sklearn.utils import Bunch
from sklearn.utils.validation import check_consistent_length
from skorch import NeuralNet

from sklearn_sparse_nn._compat import InvalidParameterError, as_python
from sklearn_sparse_nn.dense.pipelines import StepsBefore
from sklearn_sparse_nn.dense.tabular import TabularNet
from sklearn_sparse_nn.nets.callbacks import clone_net
from sklearn_sparse_nn.pruning.base import BasePruner
from sklearn_sparse_nn.pruning.classifier import PrunedClassifier
from sklearn_sparse_nn.pruning.regressor import PrunedRegressor
from sklearn_sparse_nn.search.levels import STARTS, Start, fit_levels

__all__ = ["Scoring", "as_pruner", "check_levels", "pruning_path", "scores_of"]

Scoring = str | Callable[..., Any] | list[str] | tuple[str, ...] | dict[str, Any] | None

_N_LEVELS, _DENSEST, _SPARSEST = 10, 0.5, 0.005  # fractions of the weights that live


def pruning_path(
    estimator: BasePruner | TabularNet | NeuralNet | FrozenEstimator | Pipeline | None,
    X: Any,
    y: Any,
    *,
    sparsities: Sequence[float] | np.ndarray | None = None,
    X_val: Any = None,
    y_val: Any = None,
    scoring: Scoring = None,
    start: Start = "previous",
    on_level: Callable[[float, Any, Any], object] | None = None,
) -> Bunch:
    """Prune a net to one sparsity after the other, each from the one before.

    The dense net is trained once. Every level starts from the net of the level before,
    and is pruned and fine-tuned as the pruner says, for its `prune_epochs` and
    `finetune_epochs`: what was zero stays zero, unless the pruner regrows.

    Parameters
    ----------
    estimator : PrunedClassifier, PrunedRegressor, TabularNet, skorch net or None
        The pruner; its `sparsity` is not used. A net stands for a pruner of its kind
        with defaults, None for ``PrunedClassifier()``. Or a Pipeline that ends with
        one of these: its other steps are fitted once, on `X`, and models are
        pipelines. Clones are fitted; it is not changed.
    X : {array-like, sparse matrix, DataFrame} of shape (n_samples, n_features)
        The rows to train on.
    y : array-like of shape (n_samples,)
        The labels or values of these rows.
    sparsities : sequence of float or of int, or None, default=None
        The levels: fractions of zeros in [0, 1), or numbers of non-zeros to keep; taken
        from the densest to the sparsest. None for ten levels whose densities are spaced
        evenly on a log scale, from 50 % to 0.5 %.
    X_val : {array-like, sparse matrix, DataFrame} or None, default=None
        The rows to score every level on.
    y_val : array-like or None, default=None
        The labels or values of the rows to score on.
    scoring : str, callable, list, tuple, dict or None, default=None
        One score or several, as in scikit-learn; None for the pruner's own.
    start : {"previous", "dense"}, default="previous"
        The net that a level is pruned from. ``"previous"``: that of the level before
        it, so that sparser levels are trained for longer, and are often better for it.
        ``"dense"``: the dense net; a level is then, bit for bit, the pruner fitted with
        this sparsity alone.
    on_level : callable or None, default=None
        A function that is called after every level with the sparsity, the fitted pruner
        and its score (None without `X_val`), first for the dense net, as sparsity 0.0.
        It may raise to end the path.

    Returns
    -------
    path : sklearn.utils.Bunch
        ``sparsities`` : list of float or of int
            The requested levels, densest first.
        ``models`` : list of PrunedClassifier or PrunedRegressor
            The fitted pruner of every level.
        ``dense`` : PrunedClassifier or PrunedRegressor
            The dense net, as a pruner fitted at sparsity 0.
        ``sparsity`` : ndarray of shape (n_levels,)
            The sparsity that was reached.
        ``n_nonzero`` : ndarray of shape (n_levels,), int
            The number of weights that are kept.
        ``scores`` : ndarray of shape (n_levels,), dict of these, or None
            The scores on the validation data; a dict by name for several scores.
        ``dense_score`` : float, dict or None
            The score of the dense net.
        ``fit_time`` : ndarray of shape (n_levels,)
            The seconds that every level took, without the levels before it.

    Raises
    ------
    InvalidParameterError
        A level is out of range, levels are of two kinds, or `start` is unknown.
    ValueError
        Only one of `X_val` and `y_val` is given, or the pruner has a `threshold` or a
        `budget`, which say how much to prune in another way.

    See Also
    --------
    PrunedClassifierCV : Chooses the level by cross-validation.

    References
    ----------
    Han et al. 2015, "Learning both Weights and Connections for Efficient Neural
    Networks" (iterative pruning); Friedman, Hastie and Tibshirani 2010,
    "Regularization Paths for Generalized Linear Models via Coordinate Descent" (warm
    starts along a path).

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn_sparse_nn import PrunedClassifier, TabularNetClassifier
    >>> from sklearn_sparse_nn import pruning_path
    >>> X, y = load_iris(return_X_y=True)
    >>> net = TabularNetClassifier((8,), lr=0.01, max_epochs=5, random_state=0)
    >>> pruner = PrunedClassifier(net, prune_epochs=2, finetune_epochs=2)
    >>> path = pruning_path(pruner, X, y, sparsities=[0.25, 0.5, 0.75])
    >>> path.n_nonzero.tolist()
    [42, 28, 14]
    """
    if (X_val is None) != (y_val is None):
        given, missing = ("X_val", "y_val") if y_val is None else ("y_val", "X_val")
        raise ValueError(
            f"{given} was given without {missing}. Give both, or neither for a path "
            "without scores."
        )
    if start not in STARTS:
        raise InvalidParameterError(
            f"The 'start' parameter must be one of {STARTS}. Got {start!r} instead."
        )
    before, _ = StepsBefore.of(estimator)
    pruner = as_pruner(estimator)
    levels = check_levels(sparsities)
    scorer = check_scoring(before.around(pruner), scoring=scoring)
    if X_val is not None:
        check_consistent_length(X_val, y_val)
        _check_width(X, X_val)
    if on_level is not None and not callable(on_level):
        raise TypeError(f"on_level must be a function or None. Got {on_level!r}.")
    before, rows = before.fit(X, y)
    pruners, models, scores, times = [], [], [], []
    for level, pruned, seconds in fit_levels(pruner, rows, y, levels, start=start):
        model = before.around(pruned)
        score = None if X_val is None else scorer(model, X_val, y_val)
        pruners.append(pruned)
        models.append(model)
        scores.append(score)
        times.append(seconds)
        if on_level is not None:
            on_level(level, model, score)
    return Bunch(
        sparsities=levels,
        models=models[1:],
        dense=models[0],
        sparsity=np.array([pruned.sparsity_ for pruned in pruners[1:]]),
        n_nonzero=np.array([pruned.n_nonzero_ for pruned in pruners[1:]]),
        scores=None if X_val is None else _stacked(scores[1:]),
        dense_score=scores[0],
        fit_time=np.array(times[1:]),
    )


def _check_width(X: Any, X_val: Any) -> None:
    """Raise if the validation rows have another number of features."""
    shapes = np.shape(X), np.shape(X_val)
    if all(len(shape) == 2 for shape in shapes) and shapes[0][1] != shapes[1][1]:
        raise ValueError(
            f"X_val has {shapes[1][1]} features, but X has {shapes[0][1]}; they must "
            "have the same."
        )


def as_pruner(estimator: Any, kind: type[BasePruner] | None = None) -> BasePruner:
    """Build an unfitted pruner from an estimator that stands for one.

    Parameters
    ----------
    estimator : pruner, TabularNet, skorch.NeuralNet, FrozenEstimator, Pipeline or None
        The estimator; it is not changed. Of a Pipeline its last step counts.
    kind : type or None, default=None
        The pruner for a net; None to choose it by the kind of the net.

    Returns
    -------
    pruner : PrunedClassifier or PrunedRegressor
    """
    before, estimator = StepsBefore.of(estimator)
    if isinstance(estimator, BasePruner):
        for name in ("threshold", "budget"):
            if getattr(estimator, name) is not None:
                raise ValueError(
                    f"{name}={getattr(estimator, name)!r} and a path do not go "
                    f"together: each says how much to prune. Use {name}=None."
                )
        return clone(estimator)
    kinds = (TabularNet, NeuralNet, FrozenEstimator, type(None))
    if not isinstance(estimator, kinds):
        raise TypeError(
            "A path takes a PrunedClassifier or PrunedRegressor, a net for one, or a "
            f"Pipeline that ends with one of these; got {before.kind(estimator)}. "
            "Of a search take its best_estimator_."
        )
    inner = estimator
    if isinstance(estimator, FrozenEstimator):
        inner = estimator.estimator
    if kind is None or isinstance(inner, TabularNet):
        kind = PrunedRegressor if is_regressor(inner) else PrunedClassifier
    return kind(clone_net(estimator))


def check_levels(sparsities: Sequence[float] | np.ndarray | None) -> list[float]:
    """Check the levels of a path, and sort them from the densest to the sparsest.

    Parameters
    ----------
    sparsities : sequence of float or of int, or None
        The levels, as passed to `pruning_path`.

    Returns
    -------
    levels : list

    Examples
    --------
    >>> check_levels(None)[:3], check_levels(None)[-1]
    ([0.5, 0.7003, 0.8203], 0.995)
    >>> check_levels([100, 5000])
    [5000, 100]
    """
    if sparsities is None:
        densities = np.geomspace(_DENSEST, _SPARSEST, _N_LEVELS)
        return [round(1 - float(density), 4) for density in densities]
    given = np.asarray(sparsities, dtype=object)
    levels = [as_python(level) for level in sparsities] if given.ndim == 1 else []
    counts = [_is_count(level) for level in levels]
    fractions = [_is_fraction(level) for level in levels]
    if not levels or not (all(counts) or all(fractions)):
        raise InvalidParameterError(
            "The 'sparsities' parameter must be floats in the range [0.0, 1.0), or "
            f"ints of 1 or more: non-zeros to keep. Got {sparsities!r} instead."
        )
    return sorted(set(levels), reverse=all(counts))


def _is_count(level: Any) -> bool:
    return isinstance(level, Integral) and level is not True and int(level) > 0


def _is_fraction(level: Any) -> bool:
    is_number = isinstance(level, Real) and not isinstance(level, Integral)
    return is_number and 0 <= level < 1


def _stacked(scores: list[Any]) -> Any:
    if scores and isinstance(scores[0], dict):
        return {name: np.array([s[name] for s in scores]) for name in scores[0]}
    return np.array(scores, dtype=np.float64)


def scores_of(
    scorer: Callable[..., Any], model: Any, X: Any, y: Any
) -> dict[str, float]:
    """Score a model by one score or several.

    Parameters
    ----------
    scorer : callable
        A scorer from ``check_scoring``.
    model : estimator
        A fitted estimator.
    X, y : arrays
        The rows to score on, and their labels or values.

    Returns
    -------
    scores : dict of name to float
        The scores; a single one is called ``"score"``.
    """
    given = scorer(model, X, y)
    named = given if isinstance(given, dict) else {"score": given}
    scores = {}
    for name, value in named.items():
        score = value.item() if getattr(value, "ndim", None) == 0 else value
        if not isinstance(score, Real):
            raise ValueError(f"scoring must give numbers; {name!r} is {value!r}.")
        scores[name] = float(score)
    return scores
