"""Training by chunks: `partial_fit` and `prune`, and what is kept between the calls."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from sklearn.base import is_classifier
from sklearn.frozen import FrozenEstimator
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets, unique_labels
from sklearn.utils.validation import check_is_fitted, validate_data
from skorch import NeuralNet
from torch import Tensor

from sklearn_sparse_nn._compat import check_parameters
from sklearn_sparse_nn.dense.source import brings_code, dense_net
from sklearn_sparse_nn.memory.kept import Kept, keep
from sklearn_sparse_nn.memory.snapshot import global_rng, restore_global_rng
from sklearn_sparse_nn.nets.copies import spare_global_rng
from sklearn_sparse_nn.nets.layers import prunable_layers, zero_mask
from sklearn_sparse_nn.nets.seeding import as_seed, has_foreign_parts, isolated_rng
from sklearn_sparse_nn.pruning.base import BasePruner, all_alive, count_zeros
from sklearn_sparse_nn.pruning.chunk_training import (
    ChunkRun,
    ChunkTraining,
    asked_to_live,
    own_order,
    prune_now,
    refuse_restoring,
    resolve_now,
    watch,
)
from sklearn_sparse_nn.pruning.dense_phase import epoch_row
from sklearn_sparse_nn.pruning.progress import Progress
from sklearn_sparse_nn.pruning.request import Request
from sklearn_sparse_nn.statistics.activations import last_layer
from sklearn_sparse_nn.statistics.units import uses_per_row
from sklearn_sparse_nn.training.holding import MaskHolder
from sklearn_sparse_nn.training.movement import Movement
from sklearn_sparse_nn.training.run import drop_training_state

__all__ = ["ChunkPruner", "by_chunks"]

# What says when `fit` prunes; here the caller does.
_NOW: dict[str, Any] = {
    "schedule": "oneshot",
    "n_steps": 1,
    "dense_epochs": 1,
    "prune_epochs": 0,
    "finetune_epochs": 0,
}


def _takes_chunks(pruner: Any) -> bool:
    """Tell whether no parameter needs a whole fit; else say which does.

    scikit-learn then takes the method to be missing, as for ``MLPClassifier``.
    """
    for name in ("penalty", "regrow", "rewind", "distill"):
        value = getattr(pruner, name)
        if value is not None and getattr(value, "weight", value) != 0:
            raise AttributeError(
                f"partial_fit and prune do not support {name}={value!r}, which needs a "
                "whole fit. Call fit, or set it back to its default."
            )
    return True


by_chunks = available_if(_takes_chunks)


class ChunkPruner(BasePruner):
    """A pruner that can be trained by chunks, too; not for use by itself."""

    def _fit(self, X: Any, y: np.ndarray) -> dict[str, Any]:
        return {**super()._fit(X, y), "_training": None}

    def _partial_fit(self, X: Any, y: Any, classes: Any, fit_params: Any) -> Any:
        given = sorted(name for name, value in fit_params.items() if value is not None)
        if given:
            why = (
                "Weights of samples are not used in training yet, and ignoring them "
                "would give another model than asked for: repeat rows, or leave them "
                "out."
                if "sample_weight" in given
                else "It takes X and y, and classes where there are any."
            )
            raise TypeError(
                f"{type(self).__name__}.partial_fit does not support "
                f"{', '.join(given)}. {why}"
            )
        check_parameters(self)

        def work() -> dict[str, Any]:
            rows = self._validate_chunk(X, y, classes)
            return self._go_on(rows, classes, self._train_chunk, feed=True)

        return self._in_one_go(work)

    @by_chunks
    def prune(self, sparsity: Any = None, X: Any = None, y: Any = None) -> Any:
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
        check_is_fitted(self)
        if (X is None) != (y is None):
            given, missing = ("X", "y") if y is None else ("y", "X")
            raise ValueError(f"prune got {given} without {missing}; give both or none.")
        check_parameters(self)
        asked = self._asked(sparsity)
        if self._kept_training is None and X is None:
            raise ValueError(
                "prune goes on from partial_fit, and this pruner was fitted by fit. "
                "Give prune some rows X and y for it to set up training again, or call "
                "partial_fit first."
            )

        def work() -> dict[str, Any]:
            rows = None if X is None else self._validate_chunk(X, y, None)

            def act(training: ChunkTraining) -> list[dict[str, Any]]:
                prune_now(training, asked, has_rows=rows is not None)
                return []

            return self._go_on(rows, None, act, feed=False)

        return self._in_one_go(work)

    @property
    def _kept_training(self) -> Kept | None:
        return self.__dict__.get("_training")

    def _in_one_go(self, work: Callable[[], dict[str, Any]]) -> Any:
        """Set fitted attributes all together, or, where that fails, none."""
        before = self.__dict__.copy()
        try:
            fitted = work()
        except BaseException:
            self.__dict__.clear()
            self.__dict__.update(before)
            raise
        self.__dict__.update(fitted)
        return self

    def _asked(self, sparsity: Any = None) -> Any:
        """Give a pruner that says what is pruned now, checked."""
        params = self.get_params(deep=False) | _NOW
        if sparsity is not None:
            params |= {"sparsity": sparsity, "threshold": None, "budget": None}
        asked = type(self)(**params)
        check_parameters(asked)
        return asked

    def _validate_chunk(self, X: Any, y: Any, classes: Any) -> tuple[Any, np.ndarray]:
        """Validate rows by themselves, and against the chunks before them."""
        first = not hasattr(self, "net_")
        if first:
            X, y = self._validate(X, y)
        else:
            rules = self._x_rules(fitted=True)
            X, y = validate_data(
                self, X, y, reset=False, y_numeric=self._numeric_y, **rules
            )
        if is_classifier(self):
            check_classification_targets(y)
            self._check_classes(y, classes, first=first)
        return X, y

    def _check_classes(self, y: np.ndarray, classes: Any, *, first: bool) -> None:
        """Compare the classes with those of the first call, in scikit-learn's words."""
        known: Any = None if first else self.classes_
        if classes is None and first:
            if isinstance(self.estimator, FrozenEstimator):
                return  # it knows them
            raise ValueError("classes must be passed on the first call to partial_fit.")
        if classes is not None:
            given = unique_labels(classes)
            if known is not None and not np.array_equal(known, given):
                raise ValueError(
                    f"`classes={classes!r}` is not the same as on last call to "
                    f"partial_fit, was: {known!r}"
                )
            known = given
        seen = np.unique(y)
        if len(np.setdiff1d(seen, known, assume_unique=True)):
            raise ValueError(
                "`y` has classes not in `self.classes_`. `self.classes_` has "
                f"{known}. 'y' has {seen}."
            )

    def _go_on(
        self,
        rows: tuple[Any, np.ndarray] | None,
        classes: Any,
        act: Callable[[ChunkTraining], list[dict[str, Any]]],
        *,
        feed: bool,
    ) -> dict[str, Any]:
        """Take training up, act on it, and give the fitted attributes."""
        kept = self._kept_training
        training = None if kept is None else kept.copy()
        seed = as_seed(self.random_state) if training is None else training.seed
        foreign = self._draws_globally()
        with isolated_rng(seed) if foreign else nullcontext():
            if training is None:
                training = self._begin(rows, classes, seed)
            elif foreign and training.rng is not None:
                restore_global_rng(training.rng)
            if rows is not None and not (feed and kept is None):
                X, y = training.as_input(rows[0]), training.encode(rows[1])
                (training.run.feed if feed else training.run.show)(X, y)
            training.tell_classes()
            epochs = act(training)
            training.rng = global_rng() if foreign else training.rng
            return self._fitted(training, epochs)

    def _draws_globally(self) -> bool:
        """Tell whether somebody else's code may use the global generators."""
        start = FrozenEstimator(self) if hasattr(self, "net_") else self.estimator
        parts = self.importance, self.allocation, self.granularity
        return brings_code(start) or has_foreign_parts(*parts)

    def _begin(self, rows: Any, classes: Any, seed: int) -> ChunkTraining:
        """Set training up: a new net, or that of an earlier fit."""
        X, y = rows
        fitted = hasattr(self, "net_")
        dense = dense_net(
            FrozenEstimator(self) if fitted else self.estimator,
            self._default_estimator,
            X,
            y,
            random_state=seed,
            classes=None if classes is None else unique_labels(classes),
        )
        net = dense.net
        refuse_restoring(net)
        _check_known(dense.targets, classes)
        last, width = last_layer(net, dense.X) or (None, 0)
        uses = uses_per_row(net, dense.X)
        request = resolve_now(self._asked(), net, last, uses)
        order = own_order(net)
        training = ChunkTraining(
            net,
            ChunkRun(net, dense.X, dense.y),
            dense.targets,
            dense.X.dtype if self._has_own_net() else None,
            dense.y.dtype,
            dense.y.ndim,
            seed,
            order,
            last,
            width,
            uses,
            self._first_masks(net, request, frozen=dense.frozen),
            torch.Generator().manual_seed(seed),
        )
        if fitted:
            training.own_dtype = self._own_dtype
            training.kept = asked_to_live(request.budget)
        watch(training, request.needs)
        return training

    def _first_masks(
        self, net: NeuralNet, request: Request, *, frozen: bool
    ) -> dict[str, Tensor]:
        """Give the masks of an earlier fit, or what a net begins with."""
        if hasattr(self, "masks_"):
            layers = prunable_layers(net.module_)
            return {
                name: layers[name].turned(torch.from_numpy(mask.copy())).contiguous()
                for name, mask in self.masks_.items()
            }
        return zero_mask(request.layers) if frozen else all_alive(request.layers)

    def _train_chunk(self, training: ChunkTraining) -> list[dict[str, Any]]:
        """Train for one epoch under the masks; give its row of the history."""
        layers, phase = training.layers, training.phase
        watched = {name: layers[name] for name in training.movement}
        movement = Movement(watched, training.movement) if watched else None
        holder = MaskHolder(training.net, layers, training.masks)
        with holder, movement or nullcontext():
            training.run.epoch(phase)
            holder.apply()  # a callback may have loaded other weights
        number = len(self.__dict__.get("history_", ())) + 1
        row = epoch_row(training.net, phase, number, holder.sparsity())
        training.run.end_chunk()
        Progress(self.verbose).end_epoch(row, training.net)
        return [row]

    def _fitted(
        self, training: ChunkTraining, epochs: list[dict[str, Any]]
    ) -> dict[str, Any]:
        """Put training away as bytes, and give the net without it."""
        net, layers = training.net, training.layers
        training.run.release()
        try:
            kept = keep(training)
        except Exception as error:
            raise TypeError(
                "Between calls training is kept as bytes, and something in the net or "
                f"its callbacks cannot be pickled: {error}. Take it out, or call fit."
            ) from error
        if training.order is not None:
            net.__dict__["iterator_train__random_state"] = training.order
        drop_training_state(net)
        spare_global_rng(net)
        return {
            "net_": net,
            **count_zeros(layers, training.masks),
            "history_": [*self.__dict__.get("history_", ()), *epochs],
            "targets_": training.targets,
            "_own_dtype": training.own_dtype,
            "_block": training.block,
            "_n_features_out": training.width,
            "_uses": training.uses,
            "_training": kept,
        }


def _check_known(targets: Any, classes: Any) -> None:
    """Compare the classes that were given with those that a frozen net knows."""
    if classes is not None and not np.array_equal(
        targets.classes, unique_labels(classes)
    ):
        raise ValueError(
            f"`classes={classes!r}` is not the same as in the frozen net, was: "
            f"{targets.classes!r}"
        )
