"""How much is pruned: what was asked for, as a budget that the net can keep to."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from sklearn_sparse_nn._compat import Integral, InvalidParameterError, Real
from sklearn_sparse_nn.core.budget import Budget
from sklearn_sparse_nn.core.granularity import Granularity, group_sizes
from sklearn_sparse_nn.exceptions import UnknownNameError
from sklearn_sparse_nn.nets.layers import PrunableLayer, match_layers

__all__ = ["asked_to_live", "by_layer", "check_budget", "costs_of", "make_budget"]

Layers = Mapping[str, PrunableLayer]

#: What a budget can be in: cost of a weight that is used once for a row.
UNITS = {"nonzeros": 1, "flops": 2, "bytes": 8}


def costs_of(layer: PrunableLayer, n_nonzero: int, uses: int) -> dict[str, int]:
    """Give what a layer costs, in every unit of a budget.

    Parameters
    ----------
    layer : PrunableLayer
        The layer.
    n_nonzero : int
        Its non-zeros.
    uses : int
        How often each weight is used for one row.

    Returns
    -------
    costs : dict of unit to int
        Non-zeros; FLOPs for one row, two for each use of a non-zero; bytes as CSR
        with float32 values and int32 indices.
    """
    n_rows = layer.turned(layer.weight).shape[0]
    return {
        "nonzeros": n_nonzero,
        "flops": UNITS["flops"] * uses * n_nonzero,
        "bytes": UNITS["bytes"] * n_nonzero + 4 * (n_rows + 1),
    }


def make_budget(
    pruner: Any, sparsity: Any, layers: Layers, targets: Layers, uses: Mapping[str, int]
) -> Budget:
    """Turn what was asked for into a budget.

    Parameters
    ----------
    pruner : estimator
        Its `threshold` and `budget` are read.
    sparsity : float, int or mapping of layer name to float
        Instead of these.
    layers, targets : mapping of name to PrunableLayer
        All prunable layers of the net, and those to be pruned.
    uses : mapping of name to int
        How often each weight is used for one row.

    Returns
    -------
    budget : Budget
    """
    shapes = {
        name: tuple(layer.turned(layer.weight).shape) for name, layer in targets.items()
    }
    n_weights = {name: layer.weight.numel() for name, layer in targets.items()}
    if pruner.budget is None:
        return Budget(n_weights, sparsity, pruner.threshold, shapes=shapes)
    unit, limit = _checked(pruner.budget)
    costs = {
        name: UNITS[unit] * (uses[name] if unit == "flops" else 1) for name in targets
    }
    fixed = sum(
        costs_of(layer, 0 if name in targets else layer.weight.numel(), uses[name])[
            unit
        ]
        for name, layer in layers.items()
    )
    full = fixed + sum(n_weights[name] * costs[name] for name in targets)
    if not fixed < limit <= full:
        raise ValueError(
            f"budget={pruner.budget!r}: the net has {full} {unit} with all its "
            f"weights, and {fixed} without those of the layers to prune. Give a number "
            "between."
        )
    if len(set(costs.values())) == 1:  # then it is a number of non-zeros
        k = (limit - fixed) // next(iter(costs.values()))
        return Budget(n_weights, k, pruner.threshold, shapes=shapes)
    left = limit - fixed
    return Budget(n_weights, left, pruner.threshold, shapes=shapes, costs=costs)


def _checked(budget: Any) -> tuple[str, int]:
    if not isinstance(budget, Mapping) or len(budget) != 1:
        raise InvalidParameterError(
            f"The 'budget' parameter must be a dict of one unit to a number, such as "
            f"{{'bytes': 20_000}}. Got {budget!r} instead."
        )
    ((unit, limit),) = budget.items()
    if unit not in UNITS:
        raise UnknownNameError("unit of a budget", str(unit), UNITS)
    number = isinstance(limit, Real) and not isinstance(limit, bool)
    if not number or not float(limit) > 0:
        raise InvalidParameterError(
            f"The 'budget' parameter must give a number above 0. Got {limit!r} instead."
        )
    return unit, int(min(float(limit), 2.0**62))


def by_layer(sparsity: Mapping[str, float], names: Iterable[str]) -> dict[str, float]:
    """Give every layer that a pattern matches its sparsity; the first match counts.

    Parameters
    ----------
    sparsity : mapping of layer pattern to float in [0, 1]
        As given.
    names : iterable of str
        The layers that may be pruned.

    Returns
    -------
    sparsity : dict of layer name to float
        A layer that is given 0 is left alone, as one that no pattern matches.
    """
    found: dict[str, float] = {}
    names = list(names)
    if not sparsity:
        raise InvalidParameterError(
            "The 'sparsity' parameter is an empty dict; it must give a fraction for at "
            "least one layer pattern."
        )
    for pattern, value in sparsity.items():
        number = isinstance(value, Real) and not isinstance(value, bool)
        if not (number and 0 <= value <= 1):
            raise InvalidParameterError(
                f"The 'sparsity' parameter has {value!r} for the layer pattern "
                f"{pattern!r}; by layer it must be a float in the range [0.0, 1.0]."
            )
        for name in match_layers(names, [pattern]):
            found.setdefault(name, float(str(value)))
    chosen = {name: found[name] for name in names if name in found}
    return {name: value for name, value in chosen.items() if value} or chosen


def check_budget(
    budget: Budget, layers: Layers, granularity: Granularity, asked: Any
) -> None:
    """Refuse a number of non-zeros, or a cost, that the net cannot have.

    Parameters
    ----------
    budget : Budget
        Made by `make_budget`.
    layers : mapping of name to PrunableLayer
        The layers to prune.
    granularity : Granularity
        What lives together.
    asked : dict or None
        The budget as given; None when a sparsity was.
    """
    counts = isinstance(budget.sparsity, Integral) and budget.sparsity != 0
    if budget.threshold is not None or (asked is None and not counts):
        return
    k, size = int(budget.sparsity), budget.size()
    said = f"sparsity={k}" if asked is None else f"budget={asked!r}"
    unit = "non-zero weights" if budget.costs is None else "of its units"
    if k > size:
        raise ValueError(
            f"{said} keeps {k} {unit}, but the layers to prune have only {size}. Give "
            f"at most {size}, or a fraction in [0, 1)."
        )
    needed = sum(
        _largest_group(layer, granularity) * budget.cost(name)
        for name, layer in layers.items()
    )
    if k < needed:
        raise ValueError(
            f"{said} keeps {k} {unit}, but one group in each of the {len(layers)} "
            f"layers may need {needed}. Give at least that, a fraction, or fewer "
            "`layers`."
        )


def _largest_group(layer: PrunableLayer, granularity: Granularity) -> int:
    all_alive = torch.ones(layer.turned(layer.weight).shape, dtype=torch.bool)
    pooled = granularity.pool(all_alive.double())
    return int(group_sizes(granularity, pooled, all_alive).max())


def asked_to_live(budget: Budget) -> dict[tuple[Any, ...], int]:
    """Count the weights that may live, by the layers that share them and their unit.

    Parameters
    ----------
    budget : Budget
        The budget of a request.

    Returns
    -------
    counts : dict of (layer names, unit) to int
        Empty for a threshold, which counts nothing.
    """
    if budget.threshold is not None:
        return {}
    names = tuple(budget.n_weights)
    unit = None if budget.costs is None else tuple(budget.costs.items())
    if isinstance(budget.sparsity, Mapping):
        return {((name,), unit): budget.kept(name) for name in names}
    return {(names, unit): budget.kept()}
