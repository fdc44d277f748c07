"""The arms of a controlled comparison: unfitted estimators made from one pruner."""

from bisect import bisect_right
from fractions import Fraction
from glob import escape
from itertools import pairwise
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from skorch import NeuralNet

from sklearn_sparse_nn.core.granularity import NM, resolve_granularity
from sklearn_sparse_nn.core.importance import declares, resolve_importance
from sklearn_sparse_nn.dense.tabular import TabularNet
from sklearn_sparse_nn.nets.callbacks import clone_net
from sklearn_sparse_nn.nets.layers import prunable_layers

__all__ = [
    "counts",
    "dense_same_epochs",
    "random_mask",
    "scaled_widths",
    "seeded",
    "shuffled_mask",
    "small_dense",
    "untrained_net",
]


def seeded(pruner: Any, seed: int) -> Any:
    """Clone a pruner, and set one seed for it and for the net that it trains.

    Parameters
    ----------
    pruner : PrunedClassifier or PrunedRegressor
        The pruner; it is not changed.
    seed : int
        The seed of the pruner and of its net.

    Returns
    -------
    pruner : the same class
        An unfitted clone. A frozen net stays as it is.
    """
    pruner = clone(pruner).set_params(random_state=seed)
    if isinstance(pruner.estimator, TabularNet):
        pruner.estimator.set_params(random_state=seed)
    return pruner


def random_mask(pruner: Any, pruned: Any) -> Any:
    """Build the arm that prunes as `pruner` does, but by random scores.

    Parameters
    ----------
    pruner : PrunedClassifier or PrunedRegressor
        The pruner, seeded and unfitted.
    pruned : PrunedClassifier or PrunedRegressor
        The same pruner, fitted.

    Returns
    -------
    arm : the same class
        An unfitted pruner.
    """
    arm = clone(pruner).set_params(importance="random")
    by_neuron = declares(resolve_importance(pruner.importance), "scores_neurons")
    if pruner.allocation == "auto" and by_neuron:
        arm.set_params(allocation="uniform")  # what "auto" stands for there
    if pruner.threshold is not None:  # it means nothing for other scores
        arm.set_params(threshold=None, sparsity=pruned.sparsity_)
    return arm


def shuffled_mask(pruner: Any, pruned: Any) -> Any:
    """Build the arm with as many non-zeros in each layer, at random places.

    Parameters
    ----------
    pruner : PrunedClassifier or PrunedRegressor
        The pruner, seeded and unfitted.
    pruned : PrunedClassifier or PrunedRegressor
        The same pruner, fitted.

    Returns
    -------
    arm : the same class
        An unfitted pruner.
    """
    sparsity = {escape(name): s for name, s in pruned.layer_sparsity_.items()}
    part = resolve_granularity(pruner.granularity)
    if isinstance(part, NM):
        # A ragged last group may leave a layer with fewer zeros than the pattern has.
        least = 1 - part.n / part.m
        sparsity = {name: s and max(s, least) for name, s in sparsity.items()}
    return clone(pruner).set_params(
        importance="random",
        sparsity=sparsity,
        allocation="auto",
        threshold=None,
        budget=None,
        regrow=None,  # what grows by a score is not at random places
    )


def untrained_net(pruner: Any) -> Any | None:
    """Return the unfitted net that a pruner starts from.

    Parameters
    ----------
    pruner : PrunedClassifier or PrunedRegressor
        The pruner; it is not changed.

    Returns
    -------
    net : TabularNet or skorch.NeuralNet, or None
        The net; None for a frozen pruner, whose own net was sparse.
    """
    net = pruner.estimator
    if net is None:
        return pruner._default_estimator()
    if isinstance(net, FrozenEstimator):
        net = net.estimator
    return clone_net(net) if isinstance(net, (TabularNet, NeuralNet)) else None


def dense_same_epochs(pruner: Any, net: Any) -> Any:
    """Build the arm that trains a dense net for as many epochs as the sparse one.

    Parameters
    ----------
    pruner : PrunedClassifier or PrunedRegressor
        The pruner, seeded and unfitted.
    net : TabularNet or skorch.NeuralNet
        The unfitted net to train.

    Returns
    -------
    arm : the class of `pruner`
        An unfitted pruner.
    """
    arm = clone(pruner)
    if isinstance(pruner.estimator, FrozenEstimator):
        arm.set_params(dense_epochs=None)  # it was trained for its own epochs
    if isinstance(net, TabularNet):
        net = clone(net).set_params(random_state=pruner.random_state)
    return arm.set_params(
        estimator=net,
        sparsity=0.0,
        allocation="auto",  # bounds may forbid a dense net
        threshold=None,
        budget=None,
    )


def small_dense(pruner: Any, pruned: Any, net: Any) -> Any:
    """Build the arm of a dense net with at most as many weights as the sparse one.

    Parameters
    ----------
    pruner : PrunedClassifier or PrunedRegressor
        The pruner, seeded and unfitted.
    pruned : PrunedClassifier or PrunedRegressor
        The same pruner, fitted.
    net : TabularNet
        The net that was pruned, unfitted.

    Returns
    -------
    arm : the class of `pruner`
        An unfitted pruner.
    """
    weights = [layer.weight for layer in prunable_layers(pruned.net_.module_).values()]
    widths = scaled_widths(
        [weight.shape[0] for weight in weights[:-1]],
        sum(int(weight.count_nonzero()) for weight in weights),
        n_inputs=weights[0].shape[1],
        n_outputs=weights[-1].shape[0],
    )
    net = clone(net).set_params(hidden_layer_sizes=widths)
    return dense_same_epochs(pruner, net)


def scaled_widths(
    widths: list[int], n_weights: int, *, n_inputs: int, n_outputs: int
) -> tuple[int, ...]:
    """Scale all widths by one factor, the largest at which the net fits.

    Parameters
    ----------
    widths : list of int
        The widths of the hidden layers.
    n_weights : int
        The number of weights that the net may have.
    n_inputs, n_outputs : int
        The numbers of inputs and outputs of the net.

    Returns
    -------
    widths : tuple of int
        The scaled widths, rounded down, but at least 1, even if the net then does not
        fit.

    Examples
    --------
    >>> scaled_widths([256, 128], 1000, n_inputs=20, n_outputs=3)
    (28, 14)
    >>> 20 * 28 + 28 * 14 + 14 * 3, 20 * 29 + 29 * 14 + 14 * 3
    (994, 1028)
    """

    def scaled(factor: Fraction) -> tuple[int, ...]:
        return tuple(max(1, int(factor * width)) for width in widths)

    def size(factor: Fraction) -> int:
        sizes = [n_inputs, *scaled(factor), n_outputs]
        return sum(a * b for a, b in pairwise(sizes))

    # Between these factors no width changes.
    factors = sorted({Fraction(n, w) for w in set(widths) for n in range(1, w + 1)})
    n_fitting = bisect_right(factors, n_weights, key=size)
    return scaled(factors[n_fitting - 1] if n_fitting else Fraction(0))


def counts(fitted: Any) -> dict[str, float]:
    """Count the weights of a fitted pruner over all its prunable layers.

    Parameters
    ----------
    fitted : PrunedClassifier or PrunedRegressor
        A fitted pruner.

    Returns
    -------
    counts : dict
        The number of ``weights`` that are not zero, the ``sparsity``, and the
        ``effective_sparsity`` (NaN where paths are unknown).
    """
    report = fitted.report()
    size, n_nonzero = int(report["weights"].sum()), int(report["nonzeros"].sum())
    # Whole numbers again, so that rounding makes no sparsity look smaller.
    on_paths = np.round((1 - report["effective_sparsity"]) * report["weights"])
    effective = 1 - on_paths.sum(skipna=False) / size
    return {
        "weights": n_nonzero,
        "sparsity": 1 - n_nonzero / size,
        "effective_sparsity": float(effective),
    }
