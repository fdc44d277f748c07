"""What the two pruners share: parameters and fit."""

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.base import MetaEstimatorMixin
from sklearn.frozen import FrozenEstimator

from sklearn_sparse_nn._compat import fit_context, has_callbacks, with_callbacks
from sklearn_sparse_nn.core.granularity import Block
from sklearn_sparse_nn.dense.base import NetEstimator
from sklearn_sparse_nn.dense.source import (
    DenseNet,
    brings_code,
    dense_net,
    is_own_net,
)
from sklearn_sparse_nn.dense.tabular import TabularNet
from sklearn_sparse_nn.memory.store import key_of
from sklearn_sparse_nn.nets.copies import copy_module, private_twin, spare_global_rng
from sklearn_sparse_nn.nets.layers import prunable_layers, zero_mask
from sklearn_sparse_nn.nets.seeding import as_seed, has_foreign_parts, isolated_rng
from sklearn_sparse_nn.pruning.dense_phase import (
    DensePhase,
    OnPath,
    shared_dense,
    train_dense,
)
from sklearn_sparse_nn.pruning.engine import check_steps, prune
from sklearn_sparse_nn.pruning.fitted import PrunedNet
from sklearn_sparse_nn.pruning.parameters import CONSTRAINTS
from sklearn_sparse_nn.pruning.progress import PHASES, Progress, fit_task
from sklearn_sparse_nn.pruning.request import Request, resolve_request
from sklearn_sparse_nn.statistics.activations import last_layer
from sklearn_sparse_nn.statistics.units import uses_per_row
from sklearn_sparse_nn.training.distillation import check_distillable
from sklearn_sparse_nn.training.run import TrainingRun, drop_training_state

__all__ = ["BasePruner", "all_alive", "count_zeros"]


class BasePruner(MetaEstimatorMixin, PrunedNet):
    """The meta-estimator around a skorch net; not for use by itself."""

    _default_estimator: ClassVar[type[TabularNet]]

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = CONSTRAINTS

    def __init__(
        self,
        estimator: Any = None,
        *,
        sparsity: Any = 0.9,
        threshold: float | None = None,
        importance: Any = "magnitude",
        granularity: Any = "unstructured",
        allocation: Any = "auto",
        schedule: Any = "cubic",
        n_steps: int = 10,
        dense_epochs: int | None = None,
        prune_epochs: int = 10,
        finetune_epochs: int = 10,
        rewind: Any = None,
        regrow: Any = None,
        penalty: str | None = None,
        budget: Any = None,
        layers: Any = None,
        distill: Any = 0.0,
        subsample: int | None = 2048,
        memory: Any = None,
        random_state: Any = None,
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

    def _has_own_net(self) -> bool:
        return is_own_net(self.estimator)

    def _validate(self, X: Any, y: Any) -> tuple[Any, np.ndarray]:
        if isinstance(self.estimator, FrozenEstimator):
            inner = self.estimator.estimator
            if isinstance(inner, NetEstimator):
                inner._validate_X(X)  # names and number of columns, in its words
        return super()._validate(X, y)

    @with_callbacks
    def fit(self, X: Any, y: Any, **fit_params: Any) -> "BasePruner":
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
        with fit_task(self, X, y, len(PHASES)):
            super().fit(X, y, **fit_params)
        return self

    def _fit(self, X: Any, y: np.ndarray) -> dict[str, Any]:
        path = self.__dict__.pop("_path", OnPath())  # left there by `walk`
        seed = as_seed(self.random_state)
        # What someone else wrote may draw from the global generators.
        parts = [self.importance, self.allocation, self.schedule]
        parts += [self.granularity, self.regrow]
        foreign = brings_code(self.estimator) or has_foreign_parts(*parts)
        with isolated_rng(seed) if foreign else nullcontext():
            dense = dense_net(
                self.estimator, self._default_estimator, X, y, random_state=seed
            )
            return self._prune(dense, seed, foreign, path)

    def _prune(
        self, dense: DenseNet, seed: int, foreign: bool, path: OnPath
    ) -> dict[str, Any]:
        """Prune a dense net in place; give the fitted attributes that come of it.

        Those with an underscore in front are what later calls need, so that changed
        parameters change no fitted net.
        """
        last, width = last_layer(dense.net, dense.X) or (None, 0)
        uses = uses_per_row(dense.net, dense.X)
        resolve = partial(
            resolve_request, last=last, uses=uses, max_epochs=dense.net.max_epochs
        )
        request, run = self._checked_request(dense, resolve, path)
        part = request.granularity
        known = {
            "targets_": dense.targets,
            "_own_dtype": dense.X.dtype if is_own_net(self.estimator) else None,
            "_block": (part.rows, part.columns) if isinstance(part, Block) else None,
            "_n_features_out": width,
            "_uses": uses,
        }
        progress = Progress(
            self.verbose,
            fit_context(self) if has_callbacks(self) else None,
            self,
            data=self.__dict__.pop("_given", None),
            fitted=partial(_so_far, known, tuple(request.layers)),
            foreign=foreign,
        )
        phase = self._dense_phase(
            dense, run, request, seed, foreign=foreign, progress=progress, path=path
        )
        net = phase.net
        if net is not dense.net:  # it was trained elsewhere
            request = resolve(self, prunable_layers(net.module_), frozen=dense.frozen)
        alive = zero_mask(request.layers) if dense.frozen else None
        masks, history = prune(
            phase,
            request=request,
            masks=alive or all_alive(request.layers),
            generator=torch.Generator().manual_seed(seed),
            progress=progress,
        )
        drop_training_state(net)
        spare_global_rng(net)
        return {
            **known,
            "net_": net,
            **count_zeros(request.layers, masks),
            "history_": history,
        }

    def _checked_request(
        self, dense: DenseNet, resolve: Callable[..., Request], path: OnPath
    ) -> tuple[Request, TrainingRun]:
        """Resolve what is asked for; refuse what cannot be, here or later on a path."""
        layers = prunable_layers(dense.net.module_)
        request = resolve(self, layers, frozen=dense.frozen)
        later = [
            resolve(heir, layers, frozen=dense.frozen or trained)
            for heir, trained in path.heirs
        ]
        if any(asked.distill.weight for asked in (request, *later)):
            check_distillable(dense.net)
        run = TrainingRun(dense.net, dense.X, dense.y)
        for asked in (request, *later):
            check_steps(run, asked)
        return request, run

    def _dense_phase(
        self,
        dense: DenseNet,
        run: TrainingRun,
        request: Request,
        seed: int,
        *,
        foreign: bool,
        progress: Progress,
        path: OnPath,
    ) -> DensePhase:
        """Train the epochs before the first event, or take them from elsewhere."""
        train = partial(
            train_dense,
            dense.net,
            run,
            n_epochs=request.plan.dense_epochs,
            rewind_epoch=request.rewind.epoch if request.rewind else None,
            layers=request.layers,
            needs=request.needs,
            progress=progress,
        )
        return shared_dense(
            self.memory,
            self._dense_key(dense, request, seed, foreign),
            train,
            dense,
            foreign=foreign,
            progress=progress,
            kept=path.dense if request.plan.dense_epochs else None,
        )

    def _dense_key(
        self, dense: DenseNet, request: Request, seed: int, foreign: bool
    ) -> tuple[str, tuple[Any, ...]] | None:
        """Make a key of what the dense phase depends on, and of nothing else."""
        if self.memory is None or not request.plan.dense_epochs:
            return None
        estimator = self.estimator or self._default_estimator()
        watched = [name for name in ("initial", "movement") if name in request.needs]
        drawn: Any = None
        if foreign or estimator.random_state is None:
            # Without a seed any dense net will do, so the one that is there.
            drawn = "any" if self.random_state is None else seed
        return key_of(
            self.memory,
            estimator,
            dense.X,
            dense.y,
            seed=(drawn, foreign),
            epochs=request.plan.dense_epochs,
            rewind=request.rewind and request.rewind.epoch,
            watched=watched and (watched, sorted(request.layers)),
        )


def _so_far(
    known: dict[str, Any], names: tuple[str, ...], net: Any, history: Any
) -> dict[str, Any]:
    """Give the fitted attributes as if training stopped now; the net is copied."""
    twin = private_twin(net)
    twin.__dict__["module_"] = copy_module(twin.module_)
    layers = prunable_layers(twin.module_)
    masks = {
        name: (layers[name].turned(layers[name].weight.detach()) != 0).cpu()
        for name in names
    }
    return {
        **known,
        "net_": twin,
        **count_zeros(layers, masks),
        "history_": history,
    }


def count_zeros(layers: Any, masks: Any) -> dict[str, Any]:
    """Give the fitted attributes that say what was pruned."""
    zeros = {name: int((~mask).sum()) for name, mask in masks.items()}
    sizes = {name: mask.numel() for name, mask in masks.items()}
    return {
        "masks_": {
            name: layers[name].turned(mask).numpy().copy()
            for name, mask in masks.items()
        },
        "sparsity_": sum(zeros.values()) / sum(sizes.values()),
        "n_nonzero_": sum(sizes.values()) - sum(zeros.values()),
        "layer_sparsity_": {name: zeros[name] / sizes[name] for name in masks},
    }


def all_alive(layers: Any) -> dict[str, torch.Tensor]:
    """Give masks under which everything lives."""
    return {
        name: torch.ones(layer.turned(layer.weight).shape, dtype=torch.bool)
        for name, layer in layers.items()
    }
