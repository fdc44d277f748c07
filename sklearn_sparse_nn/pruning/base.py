"""The parameters of the two pruners, and their fit."""

from typing import Any, ClassVar, Self

import numpy as np
from joblib import Memory
from numpy.typing import ArrayLike
from sklearn.base import MetaEstimatorMixin, clone
from sklearn.frozen import FrozenEstimator
from skorch import NeuralNet

from sklearn_sparse_nn._compat import check_parameters, with_callbacks
from sklearn_sparse_nn.core.allocation import Allocation, AllocationName
from sklearn_sparse_nn.core.budget import Sparsity
from sklearn_sparse_nn.core.granularity import Granularity
from sklearn_sparse_nn.core.importance import Importance, ImportanceName
from sklearn_sparse_nn.core.penalties import PenaltyName
from sklearn_sparse_nn.core.recovery import Rewind, RewindName, SoftTargets
from sklearn_sparse_nn.core.regrowth import Regrow, RegrowName
from sklearn_sparse_nn.core.schedules import Schedule, ScheduleName
from sklearn_sparse_nn.dense.base import (
    NET_ESTIMATORS,
    MatrixLike,
    check_fit,
    refuse_metadata,
)
from sklearn_sparse_nn.dense.source import dense_net, is_own_net, may_draw
from sklearn_sparse_nn.dense.tabular import TabularNet
from sklearn_sparse_nn.nets.callbacks import (
    clone_net,
    clone_without,
    refuse_to_pickle,
)
from sklearn_sparse_nn.nets.seeding import GlobalState, as_seed, is_ours
from sklearn_sparse_nn.pruning import chunks
from sklearn_sparse_nn.pruning.checks import (
    check_requests,
    warn_of_counts,
    warn_of_sparser_nets,
    warn_of_unpruned_weights,
)
from sklearn_sparse_nn.pruning.dense_phase import ALONE, OnPath, dense_phase
from sklearn_sparse_nn.pruning.engine import prune
from sklearn_sparse_nn.pruning.fitted import PrunedNet
from sklearn_sparse_nn.pruning.parameters import CONSTRAINTS
from sklearn_sparse_nn.pruning.progress import PHASES, FitTask, Progress, fit_task
from sklearn_sparse_nn.pruning.request import Request
from sklearn_sparse_nn.pruning.run import PruningRun
from sklearn_sparse_nn.training.run import begin_training

__all__ = ["BasePruner"]


class BasePruner(MetaEstimatorMixin, PrunedNet):
    """The meta-estimator around a skorch net; not for use by itself."""

    _default_estimator: ClassVar[type[TabularNet]]

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = CONSTRAINTS

    def __init__(
        self,
        estimator: NeuralNet | TabularNet | FrozenEstimator | None = None,
        *,
        sparsity: float | dict[str, float] = 0.9,
        threshold: float | None = None,
        importance: ImportanceName | Importance = "magnitude",
        granularity: str | Granularity = "unstructured",
        allocation: AllocationName | Allocation = "auto",
        schedule: ScheduleName | Schedule = "cubic",
        n_steps: int | None = None,
        dense_epochs: int | None = None,
        prune_epochs: int = 10,
        finetune_epochs: int = 10,
        finetune_lr: float = 1.0,
        rewind: RewindName | Rewind | None = None,
        regrow: RegrowName | Regrow | None = None,
        penalty: PenaltyName | None = None,
        budget: dict[str, int] | None = None,
        layers: str | list[str] | tuple[str, ...] | None = None,
        distill: float | SoftTargets = 0.0,
        subsample: int | None = 2048,
        memory: str | Memory | None = None,
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
    ) -> None:
        self.estimator = estimator
        self.sparsity = sparsity
        self.threshold = threshold
        self.importance = importance
        self.granularity = granularity
        self.allocation = allocation
        self.schedule = schedule
        self.n_steps = n_steps
        self.dense_epochs = dense_epochs
        self.prune_epochs = prune_epochs
        self.finetune_epochs = finetune_epochs
        self.finetune_lr = finetune_lr
        self.rewind = rewind
        self.regrow = regrow
        self.penalty = penalty
        self.budget = budget
        self.layers = layers
        self.distill = distill
        self.subsample = subsample
        self.memory = memory
        self.random_state = random_state
        self.verbose = verbose

    def __sklearn_clone__(self) -> Self:
        plain = super().__sklearn_clone__
        return clone_without(self, "estimator", plain, clone_net)

    def __getstate__(self) -> Any:
        nets = getattr(self, "net_", None), self.estimator
        refuse_to_pickle(type(self).__name__, *nets)
        return super().__getstate__()

    @with_callbacks
    def fit(self, X: MatrixLike, y: ArrayLike, **fit_params: object) -> Self:
        """Train a dense net, prune it and fine-tune what is left.

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
        with fit_task(self, X, y, len(PHASES)) as task:
            refuse_metadata(self, "fit", fit_params, "X and y")
            self._fit(X, y, task, ALONE)
        return self

    @with_callbacks
    def _fit_on_path(self, X: MatrixLike, y: ArrayLike, path: OnPath) -> Self:
        """Fit as one of the fits of a path; see `fit`."""
        with fit_task(self, X, y, len(PHASES)) as task:
            self._fit(X, y, task, path)
        return self

    def _fit(self, X: MatrixLike, y: ArrayLike, task: FitTask, path: OnPath) -> None:
        check_parameters(self)
        source = self.estimator if path.source is None else path.source
        inner = source.estimator if isinstance(source, FrozenEstimator) else None
        if isinstance(inner, NET_ESTIMATORS):
            inner._rows(X)  # names and number of columns, in its words
        X, y = check_fit(self, X, y, self._row_rules(is_own_net(source)))
        # What someone else wrote may draw from the global generators.
        parts: list[Any] = [self.importance, self.allocation, self.schedule]
        parts += [self.granularity, self.regrow]
        used = may_draw(source) or not is_ours(*parts)
        state = GlobalState(
            as_seed(self.random_state), used, own_net=is_own_net(source)
        )
        with state.isolated():
            dense = dense_net(
                source,
                self._default_estimator,
                X,
                y,
                random_state=state.seed,
                begin=begin_training,
                names=getattr(self, "feature_names_in_", None),
            )
            run = PruningRun.begin(dense, state)
            self._prune(run, task, path)
        self.__dict__.update(run.fitted())

    def _prune(self, run: PruningRun, task: FitTask, path: OnPath) -> None:
        """Take a run from its dense net to its sparse one."""
        params = self
        if path.source is not None:  # the net of the level before: its dense phase
            params = clone(self).set_params(dense_epochs=None)

        def requests() -> list[Request]:
            later = [
                run.request(pruner, trained=run.frozen or trained)
                for pruner, trained in path.later
            ]
            return [run.request(params), *later]

        request = check_requests(run, requests)
        run.start_masks(request)
        if path.source is None:
            _warn(run, request)
        progress = Progress(
            self.verbose,
            task,
            fitted=run.fitted_so_far,
            global_state=run.global_state,
        )
        net = run.net
        dense_phase(self, run, request, progress, path.dense)
        if run.net is not net or run.replaced(request.layers):
            request = run.look_again(params)
        prune(run, request, progress)

    @chunks.by_chunks
    def prune(
        self,
        sparsity: Sparsity | None = None,
        X: MatrixLike | None = None,
        y: ArrayLike | None = None,
    ) -> Self:
        """Prune now, between two chunks.

        What is zero stays zero in later calls of ``partial_fit``, which fine-tune the
        rest. Importance, granularity, allocation and layers are the estimator's, as
        they are now. Epochs, `schedule` and `n_steps` are of ``fit`` alone: here you
        say when.

        Parameters
        ----------
        sparsity : float, int, dict or None, default=None
            As the parameter of the estimator, in place of it, its `threshold` and its
            `budget`; None for these. It counts all zeros, those from earlier calls
            included: a second request for 0.5 changes nothing.
        X : {array-like, sparse matrix, DataFrame} or None, default=None
            Rows of shape (n_samples, n_features), for importances that ask what rows do
            in the net (``"wanda"``, ``"gradient"``, ...); a chunk, or some of its rows.
            `subsample` of them are used. Not looked at otherwise.
        y : array-like of shape (n_samples,) or None, default=None
            Their labels or values.

        Returns
        -------
        self : object
            A failed or interrupted call leaves everything as it was.

        Raises
        ------
        AttributeError
            A parameter needs a whole fit: `penalty`, `regrow`, `rewind` or `distill`.
        ValueError
            It is less than what is pruned already; or rows are needed, or training
            should have been watched, for the importance.
        InvalidParameterError
            `sparsity` is none, in scikit-learn's wording.
        sklearn.exceptions.NotFittedError
            There is no net yet.
        """
        chunks.prune(self, sparsity, X, y)
        return self

    def _defaults(self) -> list[Any]:
        return [self._default_estimator()]

    def _has_own_net(self) -> bool:
        return is_own_net(self.estimator)


def _warn(run: PruningRun, request: Request) -> None:
    """Warn of what the net will not be, or what may be a slip."""
    warn_of_counts(request)
    warn_of_unpruned_weights(run.net.module_, request)
    if run.frozen:
        warn_of_sparser_nets(run.masks, request)
