"""Refusals and warnings about a request, before its net is trained."""

import warnings
from collections.abc import Callable, Mapping
from numbers import Integral

from torch import Tensor, nn

from sklearn_sparse_nn.exceptions import UnprunedWeightsWarning
from sklearn_sparse_nn.nets.layers import unprunable_weights
from sklearn_sparse_nn.pruning.engine import check_steps
from sklearn_sparse_nn.pruning.limits import counts_to_keep
from sklearn_sparse_nn.pruning.request import Request
from sklearn_sparse_nn.pruning.run import PruningRun
from sklearn_sparse_nn.statistics.gathering import GATHERED, rehearse
from sklearn_sparse_nn.statistics.sampling import few_rows
from sklearn_sparse_nn.training.distillation import check_distillable, rehearse_soft
from sklearn_sparse_nn.training.rates import check_schedules

__all__ = [
    "check_requests",
    "warn_of_counts",
    "warn_of_sparser_nets",
    "warn_of_unpruned_weights",
]

_MANY = 1000  # weights: with fewer, a count up to 100 is no slip of a per cent sign
_ROUNDING = 0.01  # groups that live together may leave a little less than was allowed


def check_requests(run: PruningRun, requests: Callable[[], list[Request]]) -> Request:
    """Start training; refuse what cannot be done, now or later on a path.

    Parameters
    ----------
    run : PruningRun
        A run whose training has not begun.
    requests : callable
        The function that resolves what is asked of its net: now, and on later levels.

    Returns
    -------
    request : Request
        What is asked now, resolved with the number of batches of the training.

    Raises
    ------
    ValueError, TypeError
        Something would fail after the dense phase.
    """
    if any(request.distill.weight for request in requests()):
        check_distillable(run.net)
    run.start_training()
    found = requests()
    for request in found:
        check_steps(run.training, request)
        _check_schedules(run, request)
        with run.global_state.preserved():
            _rehearse(run, request)
    return found[0]


def _check_schedules(run: PruningRun, request: Request) -> None:
    plan, rewind = request.plan, request.rewind
    before = plan.dense_epochs + plan.prune_epochs
    n_epochs, said = before + plan.finetune_epochs, ""
    if rewind is not None:
        n_epochs = max(before, min(rewind.epoch, before) + plan.finetune_epochs)
        said = f" (rewound to epoch {rewind.epoch})"
    said = (
        f"{plan.dense_epochs} + {plan.prune_epochs} + {plan.finetune_epochs} epochs "
        f"(dense_epochs, prune_epochs, finetune_epochs){said}"
    )
    try:
        n_batches = run.training.n_batches
    except ValueError:  # its iterator does not know
        n_batches = None
    check_schedules(run.net, n_epochs, n_batches, said)


def _rehearse(run: PruningRun, request: Request) -> None:
    rows = run.training.training_rows
    names = [name for name in request.needs if name in GATHERED]
    said = f"importance={request.method.given['importance']!r}"
    if request.method.grow is not None:
        said += f" or regrow={request.method.given['regrow']!r}"
    if names and request.plan.events:
        rehearse(run.net, rows, request.layers, names, said)
    soft = request.distill
    sample = few_rows(run.net, rows, {}) if soft.weight else None
    if sample is not None:
        rehearse_soft(sample.net, sample.batches(), soft.weight, soft.temperature)


def warn_of_unpruned_weights(module: nn.Module, request: Request) -> None:
    """Warn of weights that stay dense, though all were meant.

    Parameters
    ----------
    module : nn.Module
        The whole net.
    request : Request
        What is pruned. Nothing is said where its layers were chosen.

    Warns
    -----
    UnprunedWeightsWarning
        The net has weights in other modules than Linear, Conv and Embedding layers.
    """
    if not request.plan.events or request.method.given["layers"] is not None:
        return
    dense = {name: weight.numel() for name, weight in unprunable_weights(module)}
    if not dense:
        return
    total = sum(dense.values()) + sum(request.budget.n_weights.values())
    warnings.warn(
        f"{sum(dense.values())} of the net's {total} weights are not pruned, since "
        f"they are in no Linear, Conv or Embedding layer: {', '.join(dense)}. "
        "sparsity_ is of the pruned layers; report() lists all.",
        UnprunedWeightsWarning,
        stacklevel=2,
    )


def warn_of_sparser_nets(masks: Mapping[str, Tensor], request: Request) -> None:
    """Warn that a frozen net is sparser than it is asked to be.

    Parameters
    ----------
    masks : mapping of layer name to bool Tensor
        The weights that live now.
    request : Request
        What is asked for.
    """
    budget = request.budget
    if not request.plan.events:
        return
    for (names, _), kept in counts_to_keep(budget).items():
        alive = sum(int(masks[name].sum()) * budget.cost(name) for name in names)
        size = sum(budget.size(name) for name in names)
        if kept - alive > _ROUNDING * size:
            warnings.warn(
                f"The frozen net has a sparsity of {1 - alive / size:.4g} in "
                f"{', '.join(names)} already, more than the {1 - kept / size:.4g} that "
                "was asked for. What is zero stays zero. Ask for more, or give a "
                "denser net.",
                UserWarning,
                stacklevel=2,
            )


def warn_of_counts(request: Request) -> None:
    """Warn of a number of weights that looks like a percentage.

    Parameters
    ----------
    request : Request
        What is asked for.
    """
    kept, size = request.budget.sparsity, sum(request.budget.n_weights.values())
    if isinstance(kept, Mapping) or not isinstance(kept, Integral):
        return
    if 0 < int(kept) <= 100 and size >= _MANY and request.budget.costs is None:
        warnings.warn(
            f"sparsity={kept} keeps {kept} weights of {size}, since an int counts the "
            f"weights that stay. For {kept} % zeros, ask for "
            f"sparsity={int(kept) / 100}.",
            UserWarning,
            stacklevel=2,
        )
