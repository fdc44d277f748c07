"""The parameters of the pruners: their constraints, and what functions read of them."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Protocol

import numpy as np
from sklearn.frozen import FrozenEstimator
from skorch import NeuralNet

from sklearn_sparse_nn._compat import (
    HasMethods,
    Integral,
    Interval,
    Real,
    RealNotInt,
    StrOptions,
)
from sklearn_sparse_nn.core.granularity import Granularity
from sklearn_sparse_nn.core.penalties import PENALTIES
from sklearn_sparse_nn.core.recovery import Rewind, SoftTargets
from sklearn_sparse_nn.core.regrowth import Regrow
from sklearn_sparse_nn.dense.tabular import TabularNet
from sklearn_sparse_nn.memory.snapshot import Snapshot

__all__ = ["CONSTRAINTS", "Pruner"]

_COUNT = Interval(Integral, 0, None, closed="left")

CONSTRAINTS: dict[str, list[Any]] = {
    "estimator": [NeuralNet, TabularNet, FrozenEstimator, None],
    "sparsity": [Interval(RealNotInt, 0, 1, closed="left"), _COUNT, dict],
    "threshold": [Interval(Real, None, None, closed="neither"), None],
    "importance": [str, callable],
    "granularity": [str, HasMethods(["pool", "choose", "expand"])],
    "allocation": [str, callable],
    "schedule": [str, callable],
    "n_steps": [Interval(Integral, 1, None, closed="left"), None],
    "dense_epochs": [_COUNT, None],
    "prune_epochs": [_COUNT],
    "finetune_epochs": [_COUNT],
    "finetune_lr": [Interval(Real, 0, None, closed="neither")],
    "rewind": [StrOptions({"weights", "learning_rate"}), Rewind, None],
    "regrow": [str, Regrow, None],
    "penalty": [StrOptions(set(PENALTIES)), None],
    "budget": [dict, None],
    "layers": [str, list, tuple, None],
    "distill": [Interval(Real, 0, 1, closed="both"), SoftTargets],
    "subsample": [Interval(Integral, 1, None, closed="left"), None],
    "memory": [str, HasMethods("cache"), None],
    "random_state": ["random_state"],
    "verbose": ["verbose"],
}


class Pruner(Protocol):
    """The parameters and fitted attributes of a pruner that functions read.

    Most parameters are read by `resolve_method` alone, from ``get_params``.
    """

    estimator: NeuralNet | TabularNet | FrozenEstimator | None
    importance: str | Callable[..., object]
    allocation: str | Callable[..., object]
    granularity: str | Granularity
    memory: object
    random_state: int | np.random.RandomState | None
    verbose: int
    net_: NeuralNet
    classes_: np.ndarray
    masks_: Mapping[str, np.ndarray]
    history_: list[dict[str, float | str]]
    _own_dtype: np.dtype | None
    _snapshot: Snapshot | None
    _default_estimator: ClassVar[type[TabularNet]]

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the parameters by name."""

    def _row_rules(self, own_net: bool) -> Mapping[str, Any]: ...
