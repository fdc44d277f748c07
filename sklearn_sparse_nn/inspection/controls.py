"""The comparison of a pruner with simpler estimators, on the same data and seeds."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from numbers import Integral
from typing import Any

import numpy as np
import torch
from joblib import Parallel, delayed
from sklearn.base import clone, is_classifier
from sklearn.model_selection import train_test_split
from sklearn.pipeline import Pipeline
from sklearn.utils import Bunch, check_random_state

from sklearn_sparse_nn.dense.pipelines import StepsBefore
from sklearn_sparse_nn.dense.tabular import TabularNet
from sklearn_sparse_nn.exceptions import LayerCollapseWarning
from sklearn_sparse_nn.inspection.controlled_fits import (
    counts,
    dense_same_epochs,
    random_mask,
    seeded,
    shuffled_mask,
    small_dense,
    untrained_net,
)
from sklearn_sparse_nn.inspection.scoring import one_score, pandas_for, resolve_scorer
from sklearn_sparse_nn.nets.seeding import as_seed
from sklearn_sparse_nn.pruning.base import BasePruner

__all__ = ["controls"]

#: The arms that pruning is compared with, and how a sentence calls them.
_CONTROLS: Mapping[str, str] = {
    "random mask": "the random mask",
    "shuffled mask": "the shuffled mask",
    "small dense": "the small dense net",
    "dense, same epochs": "the dense net trained as long",
}
_N_STD_ERRORS = 2.0  # about the 95 % of a normal distribution
_MISSING = {"weights": np.nan, "sparsity": np.nan, "effective_sparsity": np.nan}

Result = dict[str, dict[str, float]]


def controls(
    pruner: BasePruner | Pipeline,
    X: Any,
    y: Any,
    *,
    X_test: Any = None,
    y_test: Any = None,
    test_size: float = 0.25,
    n_repeats: int = 5,
    scoring: str | Callable[..., Any] | None = None,
    random_state: int | np.random.RandomState | None = 0,
    n_jobs: int | None = None,
) -> Bunch:
    """Compare a pruner with simpler estimators, over paired repeats.

    If a random mask, or a small dense net with as many weights, does as well, then the
    importance has brought nothing. In each repeat these arms are fitted to the same
    rows with the same seed, and scored on the same other rows:

    - ``"pruned"``: the pruner itself.
    - ``"random mask"``: the same, with ``importance="random"``. A `threshold` is
      replaced by the sparsity that it led to. With `regrow`, groups grow by the same
      scores as in the pruner.
    - ``"shuffled mask"``: as many non-zeros in each layer as the pruned net has, at
      random places, and no regrowth.
    - ``"small dense"``: a dense net with at most as many weights as the sparse one
      has non-zeros: all hidden widths are scaled by one factor, as large as fits, and
      are at least 1. It is trained for as many epochs as the sparse one.
    - ``"dense, same epochs"``: the dense net trained for as many epochs as the
      sparse one, pruning and fine-tuning included.

    Parameters
    ----------
    pruner : PrunedClassifier, PrunedRegressor or Pipeline
        The pruner, fitted or not: clones are fitted, and it is not changed. Of a
        Pipeline that ends with one, the other steps are fitted to the training rows of
        each repeat, for all arms: give the pipeline, not its last step, to whom the
        rows would come untransformed. With a
        ``FrozenEstimator`` inside, the masks all start from that net, and the two
        dense nets are trained from scratch, for its own ``max_epochs`` and those of
        pruning and fine-tuning. Rows that the frozen net was trained on are no test
        of it: pass `X_test`.
    X : {array-like, sparse matrix, DataFrame} of shape (n_samples, n_features)
        The rows to train on, and without `X_test` to test on.
    y : array-like of shape (n_samples,)
        The labels or values of the rows.
    X_test : {array-like, sparse matrix, DataFrame} or None, default=None
        The rows to score on. None: each repeat draws its own split of `X`, stratified
        for a classifier.
    y_test : array-like or None, default=None
        The labels or values of these rows.
    test_size : float or int, default=0.25
        The size of the test part of a split, as for ``train_test_split``.
    n_repeats : int, default=5
        The number of repeats, each with its own seed and split.
    scoring : str, callable or None, default=None
        One score, as in scikit-learn; None for the pruner's own.
    random_state : int, RandomState instance or None, default=0
        The source of the seeds of the repeats; random states of the pruner and of its
        net are not used.
    n_jobs : int or None, default=None
        The number of repeats that run at once, by joblib. Each has as many torch
        threads as the caller, so that the result is the same bit for bit: with several
        workers, ``torch.set_num_threads(1)`` before is fastest.

    Returns
    -------
    bunch : sklearn.utils.Bunch
        ``table`` : pandas.DataFrame
            A row for each arm. ``score``, its mean over the repeats, and ``std``
            (ddof=1); ``difference``, the mean of the paired differences pruned - arm,
            and ``difference_std_error``; ``wins``, the number of repeats in which
            pruning had the higher score; means of ``weights``, the non-zeros of all
            prunable layers, of their ``sparsity``, and of ``effective_sparsity``, for
            which weights on no path from an input to an output count as zero (NaN for
            nets that are no ``nn.Sequential`` of Linear layers). Standard deviations
            and errors of one repeat are NaN.
        ``scores`` : dict of arm to ndarray of shape (n_repeats,)
            The single scores.
        ``sentence`` : str
            The result in words. Pruning "beat" an arm if the mean difference is more
            than 2 standard errors above zero, "lost to" it if more than 2 below, and
            "tied with" it otherwise.

        There is no small version of a net of your own, and no dense net of a frozen
        pruner: such rows are NaN, and the sentence says so.

    Raises
    ------
    TypeError
        `pruner` is no pruner.
    ValueError
        A parameter is out of range, or only one of `X_test` and `y_test` is given.
    ImportError
        pandas is not installed.

    Notes
    -----
    Counts of the shuffled mask are equal in every layer, except where groups are of
    unequal size, as blocks at the edge of a weight, or where an N:M pattern does not
    divide the inputs: then they may differ by a group or so, and `weights` shows it.

    References
    ----------
    Frankle et al. 2021, "Pruning Neural Networks at Initialization: Why Are We Missing
    the Mark?"; Liu et al. 2019, "Rethinking the Value of Network Pruning"; Su et al.
    2020, "Sanity-Checking Pruning Methods: Random Tickets can Win the Jackpot".

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn_sparse_nn import PrunedClassifier, TabularNetClassifier
    >>> from sklearn_sparse_nn.inspection import controls
    >>> X, y = load_iris(return_X_y=True)
    >>> net = TabularNetClassifier((8,), lr=0.01, max_epochs=5)
    >>> pruner = PrunedClassifier(net, sparsity=0.5, prune_epochs=5, finetune_epochs=5)
    >>> bunch = controls(pruner, X, y, n_repeats=2)
    >>> bunch.table["weights"].tolist()
    [28.0, 28.0, 28.0, 28.0, 56.0]
    >>> bunch.sentence[:23]
    'At sparsity 0.500 pruni'
    """
    pandas = pandas_for("controls")
    before, last = StepsBefore.of(pruner)
    _check(before, last, X_test, y_test, n_repeats)
    scorer = resolve_scorer(pruner, scoring)
    seeds = check_random_state(as_seed(random_state)).randint(2**31 - 1, size=n_repeats)
    unfitted = clone(last)  # workers need no fitted net
    n_threads = torch.get_num_threads()
    before = StepsBefore.of(clone(pruner))[0]
    results: list[Result] = Parallel(n_jobs=n_jobs)(
        delayed(_repeat)(
            unfitted,
            (X, y),
            (X_test, y_test),
            test_size,
            scorer,
            int(seed),
            n_threads,
            before=before,
        )
        for seed in seeds
    )
    scores = {
        arm: np.array([result[arm]["score"] for result in results])
        for arm in results[0]
    }
    rows = {arm: _row(arm, scores, results) for arm in scores}
    table = pandas.DataFrame.from_dict(rows, orient="index").rename_axis("arm")
    table["wins"] = table["wins"].astype("Int64")
    sentence = _sentence(table, n_repeats)
    return Bunch(table=table, sentence=sentence, scores=scores)


def _check(
    before: StepsBefore, pruner: Any, X_test: Any, y_test: Any, n_repeats: Any
) -> None:
    if not isinstance(pruner, BasePruner):
        raise TypeError(
            "controls takes a PrunedClassifier or PrunedRegressor, or a Pipeline that "
            f"ends with one; got {before.kind(pruner)}. Of a search take its "
            "best_estimator_."
        )
    if (X_test is None) != (y_test is None):
        given, missing = ("X_test", "y_test")
        if X_test is None:
            given, missing = missing, given
        raise ValueError(
            f"{given} was given without {missing}. Give both, or neither for a split "
            "of X and y."
        )
    counted = isinstance(n_repeats, Integral) and not isinstance(n_repeats, bool)
    if not counted or n_repeats < 1:
        raise ValueError(f"n_repeats must be an int of 1 or more; got {n_repeats!r}.")


def _repeat(
    pruner: Any,
    data: tuple[Any, Any],
    test: tuple[Any, Any],
    test_size: Any,
    scorer: Callable[..., Any],
    seed: int,
    n_threads: int,
    *,
    before: StepsBefore,
) -> Result:
    """Fit and score every arm once, with one seed and on one split."""
    X, y = data
    if test[0] is None:
        stratify = y if is_classifier(pruner) else None
        X, X_test, y, y_test = train_test_split(
            X, y, test_size=test_size, stratify=stratify, random_state=seed
        )
        test = X_test, y_test
    with _threads(n_threads):
        before, rows = before.fit(X, y)
        pruner = seeded(pruner, seed)
        pruned = seeded(pruner, seed).fit(rows, y)
        arms = _arms(pruner, pruned)
        result = {"pruned": _measured(before, pruned, scorer, test)}
        for name in _CONTROLS:
            arm = arms.get(name)
            if arm is None:
                result[name] = {"score": np.nan, **_MISSING}
            else:
                with warnings.catch_warnings():
                    # Of a random mask it is no news, and "ask for less" no advice.
                    warnings.simplefilter("ignore", LayerCollapseWarning)
                    arm.fit(rows, y)
                result[name] = _measured(before, arm, scorer, test)
    return result


@contextmanager
def _threads(n: int) -> Iterator[None]:
    """Set the number of torch threads, and restore it afterwards."""
    before = torch.get_num_threads()
    if n == before:
        yield
        return
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _arms(pruner: Any, pruned: Any) -> dict[str, Any]:
    """Build the arms that can be made for this net, unfitted."""
    arms = {
        "random mask": random_mask(pruner, pruned),
        "shuffled mask": shuffled_mask(pruner, pruned),
    }
    net = untrained_net(pruner)
    if isinstance(net, TabularNet):
        arms["small dense"] = small_dense(pruner, pruned, net)
    if net is not None:
        arms["dense, same epochs"] = dense_same_epochs(pruner, net)
    return arms


def _measured(
    before: StepsBefore, fitted: Any, scorer: Callable[..., Any], test: Any
) -> dict[str, float]:
    score = one_score(scorer, before.around(fitted), *test)
    return {"score": score, **counts(fitted)}


def _row(
    arm: str, scores: Mapping[str, np.ndarray], results: Sequence[Result]
) -> dict[str, Any]:
    """Compute an arm's row of the table; the pruned one is compared with itself."""
    values, n_repeats = scores[arm], len(results)
    differences = scores["pruned"] - values
    known = not np.isnan(values).any()
    return {
        "score": values.mean(),
        "std": _std(values),
        "difference": differences.mean(),
        "difference_std_error": _std(differences) / np.sqrt(n_repeats),
        "wins": int((differences > 0).sum()) if known else None,
        **{
            name: float(np.mean([result[arm][name] for result in results]))
            for name in _MISSING
        },
    }


def _std(values: np.ndarray) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else np.nan


def _sentence(table: Any, n_repeats: int) -> str:
    """Write the result of the table as a sentence."""
    pruned = table.loc["pruned"]
    known = [arm for arm in _CONTROLS if not np.isnan(table.loc[arm, "score"])]
    called = {arm: f"{_CONTROLS[arm]} ({table.loc[arm, 'score']:.4f})" for arm in known}
    start = f"At sparsity {pruned['sparsity']:.3f} pruning ({pruned['score']:.4f})"
    if n_repeats == 1:
        said = (
            f"{start} stands beside {_listed(list(called.values()))}. That is one "
            "repeat, and one repeat decides nothing: ask for n_repeats=5 or more."
        )
    else:
        by_verdict: dict[str, list[str]] = {"beat": [], "tied with": [], "lost to": []}
        for arm in known:
            by_verdict[_verdict(table.loc[arm])].append(called[arm])
        parts = [f"{verb} {_listed(arms)}" for verb, arms in by_verdict.items() if arms]
        if parts[1:]:
            parts[-1] = f"and {parts[-1]}"
        said = f"{start} {', '.join(parts)}, over {n_repeats} repeats."
    return " ".join([said, *_remarks(table)])


def _verdict(row: Any) -> str:
    margin = _N_STD_ERRORS * row["difference_std_error"]
    if row["difference"] > margin:
        return "beat"
    return "lost to" if row["difference"] < -margin else "tied with"


def _listed(words: list[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if words[1:] else words)


def _remarks(table: Any) -> list[str]:
    """List what is missing from the comparison, or not quite fair in it."""
    remarks = []
    small, sparse = table.loc[["small dense", "pruned"], "weights"]
    if np.isnan(table.loc["dense, same epochs", "weights"]):
        remarks.append(
            "There are no dense nets beside it: a frozen pruner has none to train."
        )
    elif np.isnan(small):
        remarks.append(
            "There is no small dense net beside it: the widths of a net of your own "
            "cannot be scaled."
        )
    elif small > sparse:
        remarks.append(
            f"The small dense net has {small:.0f} weights and the sparse one "
            f"{sparse:.0f}: it gets no smaller."
        )
    return remarks
