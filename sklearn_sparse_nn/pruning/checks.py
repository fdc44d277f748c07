"""Checks of a request against a net that is about to be trained."""

from sklearn_sparse_nn.pruning.engine import check_steps
from sklearn_sparse_nn.pruning.request import Request
from sklearn_sparse_nn.pruning.run import PruningRun
from sklearn_sparse_nn.statistics.gathering import GATHERED, rehearse
from sklearn_sparse_nn.statistics.sampling import few_rows
from sklearn_sparse_nn.training.distillation import check_distillable, rehearse_soft
from sklearn_sparse_nn.training.rates import check_schedules

__all__ = ["check_requests"]


def check_requests(run: PruningRun, requests: list[Request]) -> None:
    """Start training; refuse what cannot be done, now or later on a path.

    Parameters
    ----------
    run : PruningRun
        A run whose training has not begun.
    requests : list of Request
        What is asked of its net.

    Raises
    ------
    ValueError, TypeError
        Something would fail after the dense phase.
    """
    if any(request.distill.weight for request in requests):
        check_distillable(run.net)
    run.start_training()
    for request in requests:
        check_steps(run.training, request)
        _check_schedules(run, request)
        with run.global_state.preserved():
            _rehearse(run, request)


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
