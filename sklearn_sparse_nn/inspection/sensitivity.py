"""The sensitivity of layers: the score with one of them pruned at a time."""

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
import torch
from sklearn.base import is_classifier
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import (
    check_consistent_length,
    check_is_fitted,
    column_or_1d,
)
from torch import Tensor, nn

from sklearn_sparse_nn._compat import as_python
from sklearn_sparse_nn.core.allocation import uniform
from sklearn_sparse_nn.core.budget import Budget
from sklearn_sparse_nn.core.compatibility import NetFacts, check_parts
from sklearn_sparse_nn.core.granularity import Granularity, Neuron, resolve_granularity
from sklearn_sparse_nn.core.importance import (
    Importance,
    ImportanceName,
    resolve_importance,
    statistics_of,
)
from sklearn_sparse_nn.core.masks import refit, select
from sklearn_sparse_nn.core.method import PruningMethod
from sklearn_sparse_nn.dense.base import (
    NET_ESTIMATORS,
    NetClassifierMixin,
    NetRegressorMixin,
)
from sklearn_sparse_nn.dense.pipelines import StepsBefore
from sklearn_sparse_nn.dense.source import DenseNet, dense_net, is_own_net
from sklearn_sparse_nn.dense.tabular import TabularNetClassifier, TabularNetRegressor
from sklearn_sparse_nn.exceptions import LayerCollapseWarning
from sklearn_sparse_nn.inspection.scoring import one_score, pandas_for, resolve_scorer
from sklearn_sparse_nn.nets.copies import private_twin
from sklearn_sparse_nn.nets.layers import PrunableLayer, prunable_layers, zero_mask
from sklearn_sparse_nn.nets.seeding import as_seed, isolated_rng, plain_torch
from sklearn_sparse_nn.statistics.gathering import GATHERED, gather
from sklearn_sparse_nn.statistics.shape import shape_of

__all__ = ["layer_sensitivity"]

#: Statistics that only training gives.
_FROM_TRAINING = ("initial", "movement")


def layer_sensitivity(
    estimator: NetClassifierMixin | NetRegressorMixin | Pipeline,
    X: Any,
    y: Any,
    *,
    sparsities: Iterable[float] = (0.5, 0.8, 0.9, 0.95, 0.98, 0.99),
    importance: ImportanceName | Importance = "magnitude",
    granularity: str | Granularity = "unstructured",
    scoring: str | Callable[..., Any] | None = None,
    random_state: int | np.random.RandomState | None = 0,
) -> Any:
    """Score a fitted net with one layer at a time pruned, and nothing retrained.

    Where the score drops early, prune that layer less, with `layers` or a `sparsity` by
    layer. The table does not show how far training makes up for a drop.

    Parameters
    ----------
    estimator : PrunedClassifier, PrunedRegressor, TabularNet or Pipeline
        A fitted estimator, also around a net of your own, or a fitted Pipeline that
        ends with one. It is not changed. Weights that are zero already stay zero, and
        count.
    X : {array-like, sparse matrix, DataFrame} of shape (n_samples, n_features)
        The rows to score on. The statistics of the importance are computed from all of
        them, once, on the net as it is.
    y : array-like of shape (n_samples,)
        The labels or values of the rows.
    sparsities : iterable of float, default=(0.5, 0.8, 0.9, 0.95, 0.98, 0.99)
        The sparsities of each layer, in [0, 1), rounded as in a pruner. 0 is always
        added.
    importance : str or callable, default="magnitude"
        The scores that decide which weights to keep, as in a pruner; but none that
        needs training, such as ``"movement"``.
    granularity : str or object, default="unstructured"
        The groups of weights that are kept or pruned together, as in a pruner. With
        ``"neuron"`` the layer of the outputs is left out.
    scoring : str, callable or None, default=None
        One score, as in scikit-learn; None for the estimator's own.
    random_state : int, RandomState instance or None, default=0
        The seed of a random importance.

    Returns
    -------
    table : pandas.DataFrame
        A row for each layer and sparsity: ``layer``, the requested ``sparsity``,
        ``n_nonzero`` of that layer, ``score``, and ``drop``, the estimator's own score
        minus this one. At sparsity 0 the score is the estimator's own.

    Raises
    ------
    TypeError
        `estimator` is of another kind.
    ValueError
        A name does not exist, parts do not go together, a sparsity is out of range,
        or the importance needs training.
    sklearn.exceptions.NotFittedError
        `estimator` is not fitted.
    ImportError
        pandas is not installed.

    Notes
    -----
    At least one weight or group of a layer is kept, whatever the sparsity.

    References
    ----------
    Han et al. 2015, "Learning both Weights and Connections for Efficient Neural
    Networks", figure 6; Li et al. 2017, "Pruning Filters for Efficient ConvNets",
    section 3.2.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn_sparse_nn import TabularNetClassifier
    >>> from sklearn_sparse_nn.inspection import layer_sensitivity
    >>> X, y = load_iris(return_X_y=True)
    >>> net = TabularNetClassifier((8,), lr=0.01, random_state=0).fit(X, y)
    >>> table = layer_sensitivity(net, X, y, sparsities=[0.5, 0.9])
    >>> table[["layer", "sparsity", "n_nonzero"]].values.tolist()[:3]
    [['hidden_0', 0.0, 32], ['hidden_0', 0.5, 16], ['hidden_0', 0.9, 3]]
    """
    pandas = pandas_for("layer_sensitivity")
    before, last = StepsBefore.of(estimator)
    if not isinstance(last, NET_ESTIMATORS):
        raise TypeError(
            "layer_sensitivity takes a fitted PrunedClassifier, PrunedRegressor, "
            "TabularNetClassifier or TabularNetRegressor, or a Pipeline that ends with "
            f"one; got {before.kind(last)}. A net of your own goes into a pruner as "
            "FrozenEstimator(net), with sparsity=0 and no epochs."
        )
    check_is_fitted(last)
    asked = _checked(sparsities)
    part = resolve_granularity(granularity)
    scorer = resolve_scorer(estimator, scoring)
    seed = as_seed(random_state)
    # A net, an importance or a score of the user's may draw from global generators.
    own = is_own_net(last)
    with plain_torch(own_net=own, autocast=own), isolated_rng(seed):
        twin: Any = object.__new__(type(last))
        vars(twin).update(vars(last))
        twin.net_ = private_twin(last.net_, share_weights=False)
        whole = before.around(twin)
        dense = _fed(twin, before.rows(X), y, seed)
        layers = _targets(twin, dense, part)
        score = resolve_importance(importance)
        _check_importance(importance, score, part, layers, asked)
        pruning = _Pruning(score, part, _statistics(dense, layers, score), seed)
        rows = _rows(layers, pruning, asked, lambda: one_score(scorer, whole, X, y))
    return pandas.DataFrame(rows)


def _checked(sparsities: Iterable[float]) -> list[float]:
    asked = [as_python(value) for value in sparsities]
    for value in asked:
        number = isinstance(value, Real) and not isinstance(value, bool)
        if not number or not 0 <= value < 1:
            raise ValueError(
                f"sparsities must be floats in the range [0.0, 1.0); got {value!r}."
            )
    if not asked:
        raise ValueError("sparsities is empty; give at least one, such as [0.9].")
    return sorted({0.0, *map(float, asked)})


def _fed(estimator: Any, X: Any, y: Any, seed: int) -> DenseNet:
    """Copy a fitted net, and convert the rows to what its loss takes."""
    rows = estimator._rows(X)
    y = column_or_1d(y)
    check_consistent_length(rows, y)
    kind = TabularNetClassifier if is_classifier(estimator) else TabularNetRegressor
    # A search for a pipeline has a net that takes what comes out of its other steps.
    _, found = StepsBefore.of(getattr(estimator, "best_estimator_", estimator))
    return dense_net(FrozenEstimator(found), kind, rows, y, random_state=seed)


def _targets(
    estimator: Any, dense: DenseNet, granularity: Granularity
) -> dict[str, PrunableLayer]:
    """Choose the layers to prune; neurons of the outputs are never pruned."""
    layers = prunable_layers(estimator.net_.module_)
    if isinstance(granularity, Neuron):
        last = shape_of(dense.net, dense.X).last
        layers = {name: layer for name, layer in layers.items() if name != last}
    return layers


def _check_importance(
    asked: Any,
    importance: Importance,
    granularity: Granularity,
    layers: Mapping[str, PrunableLayer],
    sparsities: list[float],
) -> None:
    """Raise if an importance needs training, or parts do not go together."""
    needed = statistics_of(importance)
    missing = [name for name in _FROM_TRAINING if name in needed]
    if missing:
        raise ValueError(
            f"importance={asked!r} needs {missing[0]!r}, which only training gives, "
            "and nothing is trained here. Choose another, such as 'magnitude'."
        )
    check_parts(
        PruningMethod(
            granularity=granularity,
            importance=importance,
            sparsity=min(filter(None, sparsities), default=0.0),
            dense_epochs=0,
            given={"importance": asked},
        ),
        NetFacts(
            n_weights={name: layer.weight.numel() for name, layer in layers.items()},
            not_linear=tuple(
                name
                for name, layer in layers.items()
                if not isinstance(layer.module, nn.Linear)
            ),
            frozen=True,
        ),
    )


def _statistics(
    dense: DenseNet, layers: Mapping[str, PrunableLayer], importance: Importance
) -> dict[str, dict[str, Tensor]]:
    names = [name for name in statistics_of(importance) if name in GATHERED]
    if not names:
        return {}
    own = prunable_layers(dense.net.module_)
    rows = dense.net.get_dataset(dense.X, dense.y)
    return gather(dense.net, rows, {name: own[name] for name in layers}, names)


@dataclass(frozen=True)
class _Pruning:
    """The way in which single layers are pruned."""

    importance: Importance
    granularity: Granularity
    statistics: Mapping[str, Mapping[str, Tensor]]
    seed: int

    def pruned(self, layer: PrunableLayer, sparsity: float) -> Tensor:
        """Compute a layer's weight at a sparsity, turned to (out, in, ...)."""
        name = layer.name
        weights = {name: layer.turned(layer.weight.detach())}
        # Seeded anew: a higher sparsity then prunes more, and not something else.
        generator = torch.Generator().manual_seed(self.seed)
        stats: dict[str, Any] = {**self.statistics, "generator": generator}
        budget = Budget({name: layer.weight.numel()}, {name: sparsity})
        with warnings.catch_warnings():
            # To be expected here, and to be seen in n_nonzero.
            warnings.simplefilter("ignore", LayerCollapseWarning)
            masks = select(
                weights,
                stats,
                importance=self.importance,
                granularity=self.granularity,
                allocation=uniform,
                budget=budget,
                masks=zero_mask({name: layer}),
            )
        fitted = refit(weights, stats, masks, importance=self.importance)
        weight = fitted.get(name, weights[name])
        return weight.masked_fill(~masks[name].to(weight.device), 0.0)


def _rows(
    layers: Mapping[str, PrunableLayer],
    pruning: _Pruning,
    sparsities: list[float],
    score: Callable[[], float],
) -> list[dict[str, Any]]:
    """Prune the layers of a net one at a time, score it, and undo the change."""
    own_score = score()
    rows = []
    for name, layer in layers.items():
        weight = layer.weight
        before = weight.detach().clone()
        for sparsity in sparsities:
            if sparsity:
                new = layer.turned(pruning.pruned(layer, sparsity))
                with torch.no_grad():
                    weight.copy_(new)
            value = score() if sparsity else own_score
            rows.append(
                {
                    "layer": name,
                    "sparsity": sparsity,
                    "n_nonzero": int(torch.count_nonzero(weight)),
                    "score": value,
                    "drop": own_score - value,
                }
            )
            with torch.no_grad():
                weight.copy_(before)
    return rows
