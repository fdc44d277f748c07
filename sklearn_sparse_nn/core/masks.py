"""The pruning decision: masks from importance, granularity and allocation."""

import warnings
from collections.abc import Iterable, Mapping
from numbers import Integral

import torch
from torch import Tensor

from sklearn_sparse_nn.core.allocation import Allocation, Budget
from sklearn_sparse_nn.core.granularity import Granularity, best, group_sizes
from sklearn_sparse_nn.core.importance import Importance, Statistics, needs
from sklearn_sparse_nn.exceptions import LayerCollapseWarning, NonFiniteScoreError

__all__ = ["pooled_scores", "refit", "select"]


def select(
    weights: Mapping[str, Tensor],
    stats: Statistics,
    *,
    importance: Importance,
    granularity: Granularity,
    allocation: Allocation,
    budget: Budget,
    masks: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Choose the weights that live: a pure function of its arguments.

    Parameters
    ----------
    weights : mapping of layer name to Tensor of shape (out, in, ...)
        The prunable weights.
    stats : mapping of str to (mapping of layer name to Tensor) or object
        The statistics that the importance needs, by name.
    importance : callable
        The function that scores weights; high = keep.
    granularity : Granularity
        The groups of weights that live or die together.
    allocation : callable
        The function that counts the groups to keep in every layer.
    budget : Budget
        The number of weights that may live.
    masks : mapping of layer name to bool Tensor, optional
        The masks so far: pruned weights stay pruned.

    Returns
    -------
    masks : dict of layer name to bool Tensor
        True = the weight lives. On the CPU, of the weights' shapes.

    Raises
    ------
    NonFiniteScoreError
        A layer's scores are NaN or infinite.

    Warns
    -----
    LayerCollapseWarning
        A layer would have lost every weight, which no sparsity by layer demands. Its
        best group was kept, and others pruned in its place where the budget allows.

    Examples
    --------
    >>> import torch
    >>> from sklearn_sparse_nn.core import allocation, granularity, scores
    >>> weights = {"hidden": torch.tensor([[0.1, -2.0], [3.0, 0.2]])}
    >>> select(
    ...     weights,
    ...     {},
    ...     importance=scores.magnitude,
    ...     granularity=granularity.Unstructured(),
    ...     allocation=allocation.global_,
    ...     budget=allocation.Budget({"hidden": 4}, sparsity=0.5),
    ... )
    {'hidden': tensor([[False,  True],
            [ True, False]])}
    """
    alive = {
        name: torch.ones(weight.shape, dtype=torch.bool)
        if masks is None
        else masks[name].cpu()
        for name, weight in weights.items()
    }
    pooled, sizes = pooled_scores(
        weights, stats, alive, importance=importance, granularity=granularity
    )
    costs = {name: size * budget.cost(name) for name, size in sizes.items()}
    preferred = _lift_preferred(pooled, granularity)
    counts = _count(pooled, costs, allocation, budget)
    if budget.share == 1 and budget.kept() < budget.size():
        counts = {name: min(n, preferred.get(name, n)) for name, n in counts.items()}
    return {
        name: granularity.expand(
            granularity.choose(pooled[name], counts[name]), weight.shape
        )
        & alive[name]
        for name, weight in weights.items()
    }


def pooled_scores(
    weights: Mapping[str, Tensor],
    stats: Statistics,
    masks: Mapping[str, Tensor],
    *,
    importance: Importance,
    granularity: Granularity,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Score every group of weights.

    Parameters
    ----------
    weights, stats, importance, granularity
        The arguments of `select`.
    masks : mapping of layer name to bool Tensor
        The living weights, on the CPU.

    Returns
    -------
    pooled : dict of layer name to float64 Tensor
        One score per group; ``-inf`` for a group without living weights.
    sizes : dict of layer name to int64 Tensor
        The number of living weights of every group.

    Raises
    ------
    NonFiniteScoreError
        A layer's scores are NaN or infinite.
    """
    stats = {**stats, "granularity": granularity}
    pooled, sizes = {}, {}
    for name, weight in weights.items():
        scores = _score(name, weight, stats, importance)
        pooled[name], sizes[name] = _pool(scores, masks[name], granularity)
    return pooled, sizes


def refit(
    weights: Mapping[str, Tensor],
    stats: Statistics,
    masks: Mapping[str, Tensor],
    *,
    importance: Importance,
) -> dict[str, Tensor]:
    """Refit the weights that live, by the importance's ``update`` if it has one.

    Parameters
    ----------
    weights, stats, importance
        The arguments of `select`. An update is a method
        ``(weight, mask, *, need1) -> weight``.
    masks : mapping of layer name to bool Tensor
        The masks from `select`.

    Returns
    -------
    weights : dict of layer name to Tensor
        The refitted weights; empty without an update.

    Raises
    ------
    NonFiniteScoreError
        A refitted weight is NaN or infinite.
    """
    update = getattr(importance, "update", None)
    if update is None:
        return {}
    fitted = {}
    for name, weight in weights.items():
        wanted = _wanted(needs(update), stats, name)
        fitted[name] = update(weight.detach().clone(), masks[name], **wanted)
        if not torch.isfinite(fitted[name]).all():
            raise NonFiniteScoreError(
                f"The refitted weights of layer {name!r} contain NaN or infinity; "
                "nothing was pruned. Look for a diverged training, or for statistics "
                "that cannot be inverted."
            )
    return fitted


def _wanted(names: Iterable[str], stats: Statistics, layer: str) -> dict[str, object]:
    """Return the statistics of some names; of one layer, if they come by layer."""
    values = {name: stats[name] for name in names}
    return {
        name: value[layer] if isinstance(value, Mapping) else value
        for name, value in values.items()
    }


def _score(
    name: str, weight: Tensor, stats: Statistics, importance: Importance
) -> Tensor:
    """Score one layer in float64 on the CPU; raise if scores cannot be ranked."""
    wanted = _wanted(needs(importance), stats, name)
    scores = torch.as_tensor(importance(weight.detach().clone(), **wanted))
    if scores.shape != weight.shape:
        raise ValueError(
            f"The importance gave scores of shape {tuple(scores.shape)} for layer "
            f"{name!r}; they must have the weight's shape {tuple(weight.shape)}."
        )
    scores = scores.detach().to("cpu", torch.float64)
    if not torch.isfinite(scores).all():
        raise NonFiniteScoreError(
            f"The scores of layer {name!r} contain NaN or infinity, so its weights "
            "cannot be ranked; nothing was pruned. Look for a diverged training or "
            "a division by zero in the importance."
        )
    return scores


def _pool(
    scores: Tensor, alive: Tensor, granularity: Granularity
) -> tuple[Tensor, Tensor]:
    """Compute every group's score, -inf without living weights, and its size."""
    pooled = granularity.pool(scores.masked_fill(~alive, 0.0)).clone()
    size = group_sizes(granularity, pooled, alive)
    return pooled.masked_fill(size == 0, -torch.inf), size


def _lift_preferred(
    pooled: dict[str, Tensor], granularity: Granularity
) -> dict[str, int]:
    """Rank preferred groups above all others, in all layers alike.

    Scores become ranks, which leave room above them whatever the scores' range.
    Returns the number of such groups per layer, empty if there is no preference.
    """
    prefer = getattr(granularity, "preferred", None)
    if prefer is None:
        return {}
    first = {
        name: prefer(scores) & scores.isfinite() for name, scores in pooled.items()
    }
    flat = torch.cat([scores.reshape(-1) for scores in pooled.values()])
    distinct, ranks = torch.unique(flat, return_inverse=True)
    pieces = ranks.double().split([scores.numel() for scores in pooled.values()])
    for (name, scores), piece in zip(pooled.items(), pieces, strict=True):
        rank = piece.reshape(scores.shape) + len(distinct) * first[name]
        pooled[name] = rank.masked_fill(~scores.isfinite(), -torch.inf)
    return {name: int(marks.sum()) for name, marks in first.items()}


def _count(
    pooled: dict[str, Tensor],
    sizes: dict[str, Tensor],
    allocation: Allocation,
    budget: Budget,
) -> dict[str, int]:
    """Count the groups to keep; no layer loses all, unless a sparsity demands it."""
    counts = _allocate(pooled, sizes, allocation, budget)
    collapsed = [
        name
        for name, n in counts.items()
        if n == 0 and not budget.asks_to_empty(name) and bool((sizes[name] > 0).any())
    ]
    if not collapsed:
        return counts
    asked = ""
    if isinstance(budget.sparsity, Integral):
        asked = f" sparsity={budget.sparsity} is a number of weights to keep."
    warnings.warn(
        f"At this sparsity the layers {collapsed} would lose every weight. The best "
        "group of each was kept; the net may still be too sparse to learn. Ask for "
        f"less, or spare these layers with `layers`.{asked}",
        LayerCollapseWarning,
        stacklevel=2,
    )
    # In all layers: to prune others in their place must not empty another layer.
    for name, scores in pooled.items():
        if not budget.asks_to_empty(name):
            flat = scores.reshape(-1)
            best_group = flat.argmax()
            if flat[best_group] > -torch.inf:
                flat[best_group] = torch.inf
    cost = sum(_cost(pooled, sizes, counts, name) for name in counts)
    counts = _allocate(pooled, sizes, allocation, budget)
    counts = {
        name: max(n, int((pooled[name] == torch.inf).any()))
        for name, n in counts.items()
    }
    if budget.threshold is None and not isinstance(budget.sparsity, Mapping):
        _pay(pooled, sizes, counts, max(cost, budget.kept()))
    return counts


def _cost(
    pooled: Mapping[str, Tensor],
    sizes: Mapping[str, Tensor],
    counts: Mapping[str, int],
    name: str,
) -> int:
    """Compute the cost of the best groups of a layer."""
    keep = best(pooled[name], counts[name])
    return int(sizes[name][keep].sum())


def _pay(
    pooled: Mapping[str, Tensor],
    sizes: Mapping[str, Tensor],
    counts: dict[str, int],
    limit: int,
) -> None:
    """Prune groups of the layers that keep most until all fit in the budget.

    This is for allocations that count each layer by itself.
    """
    costs = {name: _cost(pooled, sizes, counts, name) for name in counts}
    while sum(costs.values()) > limit and max(counts.values()) > 1:
        name = max(counts, key=lambda name: counts[name])
        counts[name] -= 1
        costs[name] = _cost(pooled, sizes, counts, name)


def _allocate(
    pooled: dict[str, Tensor],
    sizes: dict[str, Tensor],
    allocation: Allocation,
    budget: Budget,
) -> dict[str, int]:
    """Call the allocation and check that its answer can be carried out."""
    counts = allocation(pooled, sizes, budget)
    if counts.keys() != pooled.keys():
        raise ValueError(
            f"The allocation answered for layers {sorted(counts)}; it must give the "
            f"number of groups to keep for each of {sorted(pooled)}."
        )
    for name, n in counts.items():
        if not 0 <= n <= int((sizes[name] > 0).sum()):
            raise ValueError(
                f"The allocation keeps {n} groups of layer {name!r}, which has "
                f"{int((sizes[name] > 0).sum())} living ones."
            )
    return counts
