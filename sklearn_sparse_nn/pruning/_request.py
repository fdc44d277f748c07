"""What a pruner was asked for, resolved and checked before any training."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from sklearn_sparse_nn._compat import Integral, InvalidParameterError, Real
from sklearn_sparse_nn.core.allocation import Allocation, Budget, resolve_allocation
from sklearn_sparse_nn.core.compatibility import check_parts
from sklearn_sparse_nn.core.granularity import (
    Granularity,
    Neuron,
    group_sizes,
    resolve_granularity,
)
from sklearn_sparse_nn.core.importance import Importance, resolve_importance
from sklearn_sparse_nn.core.masks import select
from sklearn_sparse_nn.core.schedules import resolve_schedule
from sklearn_sparse_nn.nets.layers import PrunableLayer, match_layers
from sklearn_sparse_nn.pruning._plan import Plan, make_plan

__all__ = ["Request", "resolve_request"]


@dataclass(frozen=True)
class Request:
    """Which weights of a net are pruned, how, how much and when.

    Parameters
    ----------
    layers : mapping of name to PrunableLayer
        The layers to prune.
    importance, granularity, allocation
        The parts.
    budget : Budget
        How many weights may live in the end.
    plan : Plan
        When.
    """

    layers: Mapping[str, PrunableLayer]
    importance: Importance
    granularity: Granularity
    allocation: Allocation
    budget: Budget
    plan: Plan

    def decide(
        self, share: float, masks: Mapping[str, Tensor], generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Make the masks of a pruning event from the weights as they are."""
        return select(
            {
                name: layer.turned(layer.weight.detach())
                for name, layer in self.layers.items()
            },
            {"generator": generator},
            importance=self.importance,
            granularity=self.granularity,
            allocation=self.allocation,
            budget=replace(self.budget, share=share),
            masks=masks,
        )


def resolve_request(
    pruner: Any,
    layers: Mapping[str, PrunableLayer],
    *,
    last: str | None,
    max_epochs: int,
    frozen: bool,
) -> Request:
    """Turn a pruner's parameters into parts that fit each other and the net.

    Parameters
    ----------
    pruner : estimator
        Its parameters are read.
    layers : mapping of name to PrunableLayer
        Every prunable layer of the net.
    last : str or None
        The layer that gives the outputs.
    max_epochs : int
        The net's own number of epochs.
    frozen : bool
        Whether the net is trained already.

    Returns
    -------
    request : Request

    Raises
    ------
    ValueError
        Something does not exist, does not fit, or does not go together.
    """
    importance = resolve_importance(pruner.importance)
    granularity = resolve_granularity(pruner.granularity)
    names = _targets(pruner, list(layers), granularity, last)
    sparsity = pruner.sparsity
    if isinstance(sparsity, Mapping):
        sparsity = _by_layer(sparsity, names)
        names = tuple(sparsity)
    targets = {name: layers[name] for name in names}
    n_weights = {name: layer.weight.numel() for name, layer in targets.items()}
    budget = Budget(n_weights, sparsity, pruner.threshold)
    _check_count(budget, targets, granularity)
    check_parts(
        granularity=granularity,
        sparsity=sparsity,
        threshold=pruner.threshold,
        n_weights=n_weights,
    )
    return Request(
        targets,
        importance,
        granularity,
        resolve_allocation(pruner.allocation, budget),
        budget,
        _plan(pruner, budget, max_epochs=max_epochs, frozen=frozen),
    )


def _targets(
    pruner: Any, names: list[str], granularity: Granularity, last: str | None
) -> tuple[str, ...]:
    """Choose the layers to prune; the outputs are no neurons to do without."""
    if pruner.layers is None and isinstance(granularity, Neuron):
        hidden = tuple(name for name in names if name != last)
        if not hidden:
            raise ValueError(
                f"granularity='neuron' prunes hidden neurons, and the net's only layer "
                f"{names[0]!r} gives the outputs. Name it in `layers` to prune it all "
                "the same, or choose another granularity."
            )
        return hidden
    return match_layers(names, pruner.layers)


def _by_layer(sparsity: Mapping[str, float], names: Iterable[str]) -> dict[str, float]:
    """Give every layer that a pattern matches its sparsity; the first match counts.

    A layer that is given 0 is left alone, as one that no pattern matches.
    """
    found: dict[str, float] = {}
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


def _check_count(
    budget: Budget, layers: Mapping[str, PrunableLayer], granularity: Granularity
) -> None:
    """Refuse a number of non-zeros that the net cannot have."""
    size = sum(budget.n_weights.values())
    counts_nonzeros = isinstance(budget.sparsity, Integral) and budget.sparsity != 0
    if not counts_nonzeros or budget.threshold is not None:
        return
    k = int(budget.sparsity)
    if k > size:
        raise ValueError(
            f"sparsity={k} keeps {k} non-zero weights, but the layers to prune have "
            f"only {size}. Give at most {size}, or a fraction in [0, 1)."
        )
    needed = sum(_largest_group(layer, granularity) for layer in layers.values())
    if k < needed:
        raise ValueError(
            f"sparsity={k} keeps {k} non-zero weights, but one group in each of the "
            f"{len(layers)} layers may need {needed}. Give at least that, a fraction, "
            "or fewer `layers`."
        )


def _largest_group(layer: PrunableLayer, granularity: Granularity) -> int:
    all_alive = torch.ones(layer.turned(layer.weight).shape, dtype=torch.bool)
    pooled = granularity.pool(all_alive.double())
    return int(group_sizes(granularity, pooled, all_alive).max())


def _plan(pruner: Any, budget: Budget, *, max_epochs: int, frozen: bool) -> Plan:
    dense_epochs = pruner.dense_epochs
    if frozen and dense_epochs:
        raise ValueError(
            f"dense_epochs={dense_epochs} and a FrozenEstimator do not go together: a "
            "frozen net is trained already. Use dense_epochs=None or 0."
        )
    if dense_epochs is None:
        dense_epochs = 0 if frozen else max_epochs
    if pruner.rewind is not None and pruner.finetune_epochs == 0:
        raise ValueError(
            f"rewind={pruner.rewind!r} and finetune_epochs=0 do not go together: what "
            "is put back to the beginning has to be trained again."
        )
    plan = make_plan(
        resolve_schedule(pruner.schedule),
        n_steps=pruner.n_steps,
        dense_epochs=dense_epochs,
        prune_epochs=pruner.prune_epochs,
        finetune_epochs=pruner.finetune_epochs,
    )
    size = sum(budget.n_weights.values())
    if budget.threshold is None and budget.kept() == size:
        return replace(plan, events={})
    return plan
