"""The search for a sparsity by cross-validation, and its parameters."""

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, ClassVar, Self

import numpy as np
from joblib import Parallel, delayed
from sklearn import get_config
from sklearn.base import MetaEstimatorMixin, clone, is_classifier
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import check_scoring
from sklearn.model_selection import BaseCrossValidator, check_cv
from sklearn.pipeline import Pipeline
from sklearn.utils import Bunch, column_or_1d, indexable
from sklearn.utils.metadata_routing import (
    MetadataRouter,
    MethodMapping,
    process_routing,
)
from sklearn.utils.validation import check_is_fitted, validate_data
from skorch import NeuralNet

from sklearn_sparse_nn._compat import (
    Integral,
    Interval,
    Real,
    StrOptions,
    check_parameters,
    fit_context,
    has_callbacks,
    with_callbacks,
)
from sklearn_sparse_nn.dense.base import (
    NetRows,
    check_fit,
    refuse_metadata,
)
from sklearn_sparse_nn.dense.pipelines import StepsBefore
from sklearn_sparse_nn.dense.source import is_own_net
from sklearn_sparse_nn.dense.tabular import (
    TabularNet,
)
from sklearn_sparse_nn.export import export_pipeline
from sklearn_sparse_nn.nets.callbacks import clone_net, clone_without
from sklearn_sparse_nn.nets.seeding import as_seed
from sklearn_sparse_nn.pruning.base import BasePruner
from sklearn_sparse_nn.pruning.fitted import PrunedNet
from sklearn_sparse_nn.pruning.progress import fit_task
from sklearn_sparse_nn.pruning.run import FITTED
from sklearn_sparse_nn.runtime import SparseModel
from sklearn_sparse_nn.search.folds import Fold, scored_path
from sklearn_sparse_nn.search.levels import STARTS, Start, fit_levels
from sklearn_sparse_nn.search.path import (
    Scoring,
    as_pruner,
    check_levels,
)
from sklearn_sparse_nn.search.selection import (
    SELECTIONS,
    Selection,
    choose_level,
    cv_results,
    means_of,
)

__all__ = ["BasePrunedCV"]


class BasePrunedCV(MetaEstimatorMixin, PrunedNet):
    """The base of the two searches; not for use by itself."""

    _default_estimator: ClassVar[type[TabularNet]]
    _pruner_class: ClassVar[type[BasePruner]]
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "estimator": [
            BasePruner,
            TabularNet,
            NeuralNet,
            FrozenEstimator,
            Pipeline,
            None,
        ],
        "sparsities": ["array-like", None],
        "start": [StrOptions(set(STARTS))],
        "select": [StrOptions(set(SELECTIONS)), callable],
        "tolerance": [Interval(Real, 0, None, closed="left")],
        "scoring": [str, callable, list, tuple, dict, None],
        "select_by": [str, None],
        "cv": ["cv_object"],
        "n_jobs": [Integral, None],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }
    # With metadata routing, groups come in unless `set_fit_request` says otherwise.
    __metadata_request__fit: ClassVar[dict[str, bool]] = {"groups": True}

    def __init__(
        self,
        estimator: BasePruner
        | TabularNet
        | NeuralNet
        | FrozenEstimator
        | Pipeline
        | None = None,
        *,
        sparsities: Sequence[float] | np.ndarray | None = None,
        start: Start = "previous",
        select: Selection | Callable[[dict[str, Any]], int] = "best",
        tolerance: float = 0.01,
        scoring: Scoring = None,
        select_by: str | None = None,
        cv: int | BaseCrossValidator | Iterable[Any] | None = None,
        n_jobs: int | None = None,
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
    ) -> None:
        self.estimator = estimator
        self.sparsities = sparsities
        self.start = start
        self.select = select
        self.tolerance = tolerance
        self.scoring = scoring
        self.select_by = select_by
        self.cv = cv
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose

    def __sklearn_clone__(self) -> Self:
        plain = super().__sklearn_clone__
        return clone_without(self, "estimator", plain, clone_net)

    @with_callbacks
    def fit(self, X: Any, y: Any, *, groups: Any = None, **fit_params: Any) -> Self:
        """Choose the sparsity by cross-validation, and prune a net on all rows to it.

        Parameters
        ----------
        X : {array-like, sparse matrix, DataFrame} of shape (n_samples, n_features)
            The rows; numbers, converted to float32.
        y : array-like of shape (n_samples,)
            The labels, of any type, for a classifier; numbers for a regressor.
        groups : array-like of shape (n_samples,) or None, default=None
            The group of every row, for a splitter that keeps groups together. With
            scikit-learn's metadata routing it is routed to `cv`.
        **fit_params
            No other parameters; `sample_weight` is refused rather than ignored.

        Returns
        -------
        self : object
            The fitted estimator. A failed or interrupted fit leaves an earlier one as
            it was.
        """
        with fit_task(self, X, y, 2):
            refuse_metadata(self, "fit", fit_params, "X, y and groups")
            if groups is not None and get_config()["enable_metadata_routing"]:
                routed = process_routing(self, "fit", groups=groups)
                groups = routed.splitter.split.get("groups")
            check_parameters(self)
            if isinstance(self.estimator, Pipeline):  # its steps may take any table
                validate_data(self, X, skip_check_array=True)
                targets = column_or_1d(y, warn=True)
            else:
                rules = self._row_rules(self._has_own_net())
                _, targets = check_fit(self, X, y, rules)
            # Splitters and scorers get what was given, as from scikit-learn's searches.
            X, y = indexable(X, y)
            y = y if np.ndim(y) == 1 else targets  # a column is warned of once
            self.__dict__.update(self._search(X, y, groups))
        return self

    def get_metadata_routing(self) -> MetadataRouter:
        """Return what is routed where: groups go to the splitter.

        Returns
        -------
        routing : sklearn.utils.metadata_routing.MetadataRouter
        """
        mapping = MethodMapping().add(caller="fit", callee="split")
        router = MetadataRouter(owner=self).add_self_request(self)
        return router.add(splitter=self.cv, method_mapping=mapping)

    def _search(self, X: Any, y: Any, groups: Any) -> dict[str, Any]:
        """Choose a level, and prune to it; return the fitted attributes."""
        before, _ = StepsBefore.of(self.estimator)
        pruner = self._pruner()
        levels = check_levels(self.sparsities)
        scorer = check_scoring(before.around(pruner), scoring=self.scoring)
        self._check_deciding()
        cv = check_cv(self.cv, y, classifier=is_classifier(self))
        splits = list(cv.split(X, y, groups))
        folds = self._folds(before, pruner, X, y, splits, levels, scorer)
        results = cv_results(levels, [fold for _, fold in folds])
        dense = means_of([fold for fold, _ in folds])
        name = self._deciding(dense)
        best = choose_level(
            results,
            [fold["scores"][name] for fold, _ in folds],
            name,
            select=self.select,
            tolerance=self.tolerance,
        )
        fitted, path = self._refit(
            before,
            pruner,
            X,
            y,
            levels[best if self.start == "dense" else 0 : best + 1],
        )
        return {
            **fitted,
            "cv_results_": results,
            "dense_score_": dense if len(dense) > 1 else dense[name],
            "best_index_": best,
            "best_score_": float(results[f"mean_test_{name}"][best]),
            "best_params_": results["params"][best],
            "path_": path,
            "scorer_": scorer,
            "_decided_by": name,
            "n_splits_": len(splits),
        }

    def _pruner(self) -> Any:
        """Build the pruner of a path, with a seed."""
        estimator = self.estimator
        if estimator is None:
            estimator = self._default_estimator()
        pruner = as_pruner(estimator, self._pruner_class)
        if is_classifier(pruner) != is_classifier(self):
            raise TypeError(
                f"{type(self).__name__} was given a {type(pruner).__name__}; use the "
                "other of the two, or another estimator."
            )
        if pruner.random_state is None:
            pruner.set_params(random_state=as_seed(self.random_state))
        return pruner

    def _folds(
        self,
        before: StepsBefore,
        pruner: Any,
        X: Any,
        y: Any,
        splits: Any,
        levels: Any,
        scorer: Any,
    ) -> list[Fold]:
        """Fit and score the path in every fold."""
        context = fit_context(self)
        if context is not None:
            context = context.subcontext(
                task_name="folds", max_subtasks=len(splits), sequential_subtasks=False
            )
            context.call_on_fit_task_begin(estimator=self)
        tasks = [
            context and context.subcontext("fold", k, max_subtasks=len(levels) + 1)
            for k in range(len(splits))
        ]
        caller = clone(self) if self.n_jobs not in (None, 1) else self
        folds: list[Fold] = Parallel(n_jobs=self.n_jobs)(
            delayed(scored_path)(
                before, clone(pruner), X, y, split, levels, scorer,
                start=self.start, number=k, task=task, caller=caller,
                verbose=self.verbose,
            )
            for k, (split, task) in enumerate(zip(splits, tasks, strict=True))
        )  # fmt: skip
        if context is not None:
            context.call_on_fit_task_end(estimator=self)
        return folds

    def _check_deciding(self) -> None:
        """Raise if `select_by` names no score, where the names are known already."""
        if self.scoring is None or isinstance(self.scoring, str):
            self._deciding(["score"])
        elif not callable(self.scoring):
            self._deciding(list(self.scoring))

    def _deciding(self, names: Collection[str]) -> str:
        """Return the name of the score that decides."""
        if self.select_by is None and len(names) == 1:
            return next(iter(names))
        if self.select_by not in names:
            raise ValueError(
                f"select_by={self.select_by!r}, but there are several scores, and it "
                f"must name the one that decides: {', '.join(map(repr, names))}."
                if len(names) > 1
                else f"select_by={self.select_by!r} is no score; there is "
                f"{next(iter(names))!r} only, which decides."
            )
        return str(self.select_by)

    def _refit(
        self, before: StepsBefore, pruner: Any, X: Any, y: Any, levels: list[Any]
    ) -> tuple[dict[str, Any], Bunch]:
        """Fit the path on all rows; return the fitted attributes of its last level."""
        task = fit_context(self)
        if task is not None:
            task = task.subcontext(task_name="refit", max_subtasks=len(levels) + 1)
            task.call_on_fit_task_begin(estimator=self, X=X, y=y)
        reached, alive = [], []
        before, rows = before.fit(X, y)
        for _, model, _ in fit_levels(
            pruner, rows, y, levels, start=self.start, context=task, caller=self
        ):
            reached.append(model.sparsity_)
            alive.append(model.n_nonzero_)
        if task is not None:
            task.call_on_fit_task_end(estimator=self, X=X, y=y)
        path = Bunch(
            sparsities=levels,
            sparsity=np.array(reached[1:]),
            n_nonzero=np.array(alive[1:]),
        )
        if has_callbacks(model):  # the pruner's own, which are not this estimator's
            model.set_callbacks()
        fitted = {name: getattr(model, name) for name in FITTED}
        return {**fitted, "best_estimator_": before.around(model)}, path

    def _defaults(self) -> list[Any]:
        return [self._pruner_class(), self._default_estimator()]

    def export(self) -> SparseModel:
        """Make a sparse model, which predicts without torch and is saved as one file.

        Returns
        -------
        model : SparseModel
            With the same predictions, within float32 rounding; of a Pipeline with the
            steps before its last one, as `export_pipeline` does.

        Raises
        ------
        UnsupportedLayerError
            The net, or a step before it, is not known to the sparse runtime.
        sklearn.exceptions.NotFittedError
            The search is not fitted.
        """
        check_is_fitted(self)
        found = self.best_estimator_
        return export_pipeline(found) if isinstance(found, Pipeline) else found.export()

    @property
    def feature_importances_(self) -> np.ndarray:
        """Mass of the surviving paths from each input of the net, adding up to 1.

        With a Pipeline the inputs are the columns that reach its last step.
        """
        check_is_fitted(self)
        importances: np.ndarray = self._found().feature_importances_
        return importances

    def _found(self) -> Any:
        """Return the pruner that was found; of a pipeline its last step."""
        return StepsBefore.of(self.best_estimator_)[1]

    def _rows(self, X: Any) -> Any:
        check_is_fitted(self)
        before, found = StepsBefore.of(self.best_estimator_)
        if before.pipe is None:
            return super()._rows(X)
        validate_data(self, X, reset=False, skip_check_array=True)
        return found._rows(before.rows(X))

    def _outputs(self, method: str, X: NetRows) -> np.ndarray:
        outputs: np.ndarray = self._found()._outputs(method, X)
        return outputs

    def _has_own_net(self) -> bool:
        _, inner = StepsBefore.of(self.estimator)
        return is_own_net(inner.estimator if isinstance(inner, BasePruner) else inner)
