"""The pruning decision under test, with parts given by name."""

import torch

from sklearn_sparse_nn.core.allocation import Budget, resolve_allocation
from sklearn_sparse_nn.core.granularity import resolve_granularity
from sklearn_sparse_nn.core.importance import resolve_importance
from sklearn_sparse_nn.core.masks import select


def n_weights(weights):
    """Count the weights of every layer."""
    return {name: weight.numel() for name, weight in weights.items()}


def decide(
    weights,
    sparsity=0.0,
    *,
    share=1.0,
    threshold=None,
    granularity="unstructured",
    allocation="global",
    importance="magnitude",
    stats=None,
    masks=None,
):
    """Give the masks that the named parts decide on."""
    budget = Budget(n_weights(weights), sparsity, threshold=threshold, share=share)
    return select(
        weights,
        stats or {},
        importance=resolve_importance(importance),
        granularity=resolve_granularity(granularity),
        allocation=resolve_allocation(allocation, budget),
        budget=budget,
        masks=masks,
    )


def n_zeros(masks):
    """Count the zeros of all layers together."""
    return sum(int((~mask).sum()) for mask in masks.values())


def n_zeros_by_layer(masks):
    """Count the zeros of every layer."""
    return {name: int((~mask).sum()) for name, mask in masks.items()}


def n_alive_by_layer(masks):
    """Count the survivors of every layer."""
    return {name: int(mask.sum()) for name, mask in masks.items()}


def as_lists(tensors):
    """Make named tensors comparable with ==."""
    return {name: tensor.tolist() for name, tensor in tensors.items()}


def trained(weights, masks, rng):
    """Give every survivor but the first of a layer a new weight, as training would."""
    after = {}
    for name, weight in weights.items():
        new = torch.as_tensor(rng.integers(-4, 5, weight.shape) / 4)
        new.view(-1)[0] = weight.view(-1)[0]
        after[name] = new.to(weight.dtype) * masks[name]
    return after


def over_schedule(weights, shares, rng, **asked):
    """Yield the masks after every event, the weights changing in between."""
    masks = None
    for share in shares:
        masks = decide(weights, share=share, masks=masks, **asked)
        yield masks
        weights = trained(weights, masks, rng)
