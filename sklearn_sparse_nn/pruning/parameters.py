"""The constraints on the parameters of the pruners."""

from typing import Any

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
from sklearn_sparse_nn.core.penalties import PENALTIES
from sklearn_sparse_nn.core.recovery import Rewind, SoftTargets
from sklearn_sparse_nn.core.regrowth import Regrow
from sklearn_sparse_nn.dense.tabular import TabularNet

__all__ = ["CONSTRAINTS"]

_COUNT = Interval(Integral, 0, None, closed="left")

CONSTRAINTS: dict[str, list[Any]] = {
    "estimator": [NeuralNet, TabularNet, FrozenEstimator, None],
    "sparsity": [Interval(RealNotInt, 0, 1, closed="left"), _COUNT, dict],
    "threshold": [Interval(Real, None, None, closed="neither"), None],
    "importance": [str, callable],
    "granularity": [str, HasMethods(["pool", "choose", "expand"])],
    "allocation": [str, callable],
    "schedule": [str, callable],
    "n_steps": [Interval(Integral, 1, None, closed="left")],
    "dense_epochs": [_COUNT, None],
    "prune_epochs": [_COUNT],
    "finetune_epochs": [_COUNT],
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
