"""The layers of a net to prune, and the limits of what may live in them."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from sklearn_sparse_nn._compat import InvalidParameterError, Real
from sklearn_sparse_nn.core.budget import Budget
from sklearn_sparse_nn.core.granularity import Neuron, largest_group
from sklearn_sparse_nn.core.method import PruningMethod
from sklearn_sparse_nn.exceptions import UnknownNameError
from sklearn_sparse_nn.nets.layers import PrunableLayer, match_layers

__all__ = [
    "bind_layers",
    "by_layer",
    "costs_of",
    "counts_to_keep",
    "make_budget",
]

Layers = Mapping[str, PrunableLayer]

#: The units of a budget, with the cost of a weight that is used once for a row.
UNITS = {"nonzeros": 1, "flops": 2, "bytes": 8}


def costs_of(layer: PrunableLayer, n_nonzero: int, uses: int) -> dict[str, int]:
    """Compute what a layer costs, in every unit of a budget.

    Parameters
    ----------
    layer : PrunableLayer
        The layer.
    n_nonzero : int
        The number of its non-zeros.
    uses : int
        The number of times that each weight is used for one row.

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


def bind_layers(
    method: PruningMethod,
    layers: Layers,
    *,
    last: str | None,
    max_epochs: int,
    frozen: bool,
) -> tuple[PruningMethod, dict[str, PrunableLayer]]:
    """Choose the layers to prune, and replace what a method leaves to the net.

    Parameters
    ----------
    method : PruningMethod
        The method as a pruner has it, with patterns of layers.
    layers : mapping of name to PrunableLayer
        Every prunable layer of the net.
    last : str or None
        The layer that gives the outputs. Its neurons are pruned only if it is named.
    max_epochs : int
        The net's own number of epochs.
    frozen : bool
        Whether the net is trained already.

    Returns
    -------
    method : PruningMethod
        The method with names of layers in place of patterns, and a number of dense
        epochs.
    targets : dict of name to PrunableLayer
        The layers to prune.

    Raises
    ------
    ValueError
        A pattern matches no layer, or no layer is left.
    """
    names = _match(method, list(layers), last)
    sparsity = method.sparsity if method.budget is None else 0.0
    if isinstance(sparsity, Mapping):
        sparsity = by_layer(sparsity, names)
        names = tuple(sparsity)
    dense_epochs = method.dense_epochs
    if dense_epochs is None:
        dense_epochs = 0 if frozen else max_epochs
    method = replace(method, layers=names, sparsity=sparsity, dense_epochs=dense_epochs)
    return method, {name: layers[name] for name in names}


def _match(
    method: PruningMethod, names: list[str], last: str | None
) -> tuple[str, ...]:
    if method.layers is not None or not isinstance(method.granularity, Neuron):
        return match_layers(names, method.layers)
    hidden = tuple(name for name in names if name != last)
    if not hidden:
        raise ValueError(
            f"granularity='neuron' prunes hidden neurons, and the net's only layer "
            f"{names[0]!r} gives the outputs. Name it in `layers` to prune it all "
            "the same, or choose another granularity."
        )
    return hidden


def make_budget(
    method: PruningMethod, layers: Layers, targets: Layers, uses: Mapping[str, int]
) -> Budget:
    """Compute the budget of a net, and check that the net can keep to it.

    Parameters
    ----------
    method : PruningMethod
        The method, from `bind_layers`. Its `sparsity`, `threshold`, `budget` and
        `granularity` are read.
    layers, targets : mapping of name to PrunableLayer
        All prunable layers of the net, and those to be pruned.
    uses : mapping of name to int
        The number of times that each weight is used for one row.

    Returns
    -------
    budget : Budget

    Raises
    ------
    ValueError
        The net cannot have that number of non-zeros, or that cost.
    """
    budget = _budget(method, layers, targets, uses)
    _check_reachable(budget, targets, method)
    return budget


def _budget(
    method: PruningMethod, layers: Layers, targets: Layers, uses: Mapping[str, int]
) -> Budget:
    shapes = {
        name: tuple(layer.turned(layer.weight).shape) for name, layer in targets.items()
    }
    n_weights = {name: layer.weight.numel() for name, layer in targets.items()}
    if method.budget is None:
        return Budget(n_weights, method.sparsity, method.threshold, shapes=shapes)
    unit, limit = _checked(method.budget)
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
            f"budget={method.budget!r}: the net has {full} {unit} with all its "
            f"weights, and {fixed} without those of the layers to prune. Give a number "
            "between."
        )
    if len(set(costs.values())) == 1:  # then it is a number of non-zeros
        k = (limit - fixed) // next(iter(costs.values()))
        return Budget(n_weights, k, method.threshold, shapes=shapes)
    left = limit - fixed
    return Budget(n_weights, left, method.threshold, shapes=shapes, costs=costs)


def _checked(budget: Mapping[str, float]) -> tuple[str, int]:
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
    """Return the sparsity of every layer that a pattern matches.

    Parameters
    ----------
    sparsity : mapping of layer pattern to float in [0, 1]
        The sparsity as given to a pruner. The first pattern that matches counts.
    names : iterable of str
        The layers that may be pruned.

    Returns
    -------
    sparsity : dict of layer name to float
        A layer whose sparsity is 0, or that no pattern matches, is left out: it is not
        pruned. If all are 0, all that match stay in.

    Raises
    ------
    InvalidParameterError
        The mapping is empty, or a value is no number in [0, 1].
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


def _check_reachable(budget: Budget, layers: Layers, method: PruningMethod) -> None:
    """Check that the layers can have a number of non-zeros, or a cost."""
    fraction = budget.n_nonzero is None and method.budget is None
    if fraction or budget.threshold is not None:
        return
    k, size = budget.n_nonzero or 0, budget.size()
    given = "sparsity" if method.budget is None else "budget"
    value = k if method.budget is None else method.budget
    unit = "non-zero weights" if budget.costs is None else "of its units"
    if k > size:
        raise ValueError(
            f"{given}={value!r} keeps {k} {unit}, but the layers to prune have only "
            f"{size}. Give at most {size}, or a fraction in [0, 1)."
        )
    needed = sum(
        largest_group(method.granularity, layer.turned(layer.weight).shape)
        * budget.cost(name)
        for name, layer in layers.items()
    )
    if k < needed:
        raise ValueError(
            f"{given}={value!r} keeps {k} {unit}, but one group in each of the "
            f"{len(layers)} layers may need {needed}. Give at least that, a fraction, "
            "or fewer `layers`."
        )


#: The layers that share a number of weights, and the costs that it counts.
Shared = tuple[tuple[str, ...], tuple[tuple[str, int], ...] | None]


def counts_to_keep(budget: Budget) -> dict[Shared, int]:
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
