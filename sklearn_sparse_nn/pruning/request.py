"""What a pruner was asked for, resolved and checked before any training."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from sklearn_sparse_nn.core.allocation import Allocation, resolve_allocation
from sklearn_sparse_nn.core.budget import Budget
from sklearn_sparse_nn.core.compatibility import BY_NEURON, Parts, check_parts
from sklearn_sparse_nn.core.granularity import Granularity, Neuron, resolve_granularity
from sklearn_sparse_nn.core.importance import (
    IMPORTANCES,
    Importance,
    needs,
    resolve_importance,
)
from sklearn_sparse_nn.core.masks import refit, select
from sklearn_sparse_nn.core.plan import Plan, make_plan
from sklearn_sparse_nn.core.recovery import (
    Rewind,
    SoftTargets,
    resolve_distill,
    resolve_rewind,
)
from sklearn_sparse_nn.core.regrowth import Regrow, resolve_regrow, swap
from sklearn_sparse_nn.core.schedules import resolve_schedule
from sklearn_sparse_nn.nets.layers import PrunableLayer, match_layers
from sklearn_sparse_nn.pruning.limits import by_layer, check_budget, make_budget

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
    grow : callable or None
        The importance by which dead groups grow, if they do.
    penalty : {"l1", "l0"} or None
        What drives weights to zero between events.
    rewind : Rewind or None
        What is put back before fine-tuning.
    distill : SoftTargets
        What the dense net's outputs weigh after the dense phase.
    subsample : int or None
        Rows that statistics are gathered over.
    """

    layers: Mapping[str, PrunableLayer]
    importance: Importance
    granularity: Granularity
    allocation: Allocation
    budget: Budget
    plan: Plan
    grow: Importance | None
    penalty: str | None
    rewind: Rewind | None
    distill: SoftTargets
    subsample: int | None

    @property
    def needs(self) -> tuple[str, ...]:
        """The statistics that importance and regrowth ask for."""
        return statistics_of(self.importance, self.grow)

    @property
    def weights(self) -> dict[str, Tensor]:
        """The weights as they are, turned to (out, in, ...)."""
        return {
            name: layer.turned(layer.weight.detach())
            for name, layer in self.layers.items()
        }

    def decide(
        self, share: float, masks: Mapping[str, Tensor], stats: Mapping[str, Any]
    ) -> dict[str, Tensor]:
        """Make the masks of a pruning event from the weights as they are."""
        return select(
            self.weights,
            stats,
            importance=self.importance,
            granularity=self.granularity,
            allocation=self.allocation,
            budget=replace(self.budget, share=share),
            masks=masks,
        )

    def refit(
        self, masks: Mapping[str, Tensor], stats: Mapping[str, Any]
    ) -> dict[str, Tensor]:
        """Refit what lives under these masks, where the importance does."""
        return refit(self.weights, stats, masks, importance=self.importance)

    def swap(
        self,
        share: float,
        masks: Mapping[str, Tensor],
        stats: Mapping[str, Any],
        n_alive: Mapping[str, int],
    ) -> dict[str, Tensor]:
        """Let a share of what lives die and as much grow, in every layer."""
        if self.grow is None:
            return dict(masks)
        return swap(
            self.weights,
            stats,
            masks,
            importance=self.importance,
            grow=self.grow,
            granularity=self.granularity,
            share=share,
            n_alive=n_alive,
        )

    def zeros_at(self, share: float) -> float:
        """Give the fraction of zeros that a share of the final sparsity means."""
        due = replace(self.budget, share=share)
        return 1 - due.kept() / due.size()


def resolve_request(
    pruner: Any,
    layers: Mapping[str, PrunableLayer],
    *,
    last: str | None,
    uses: Mapping[str, int],
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
    uses : mapping of name to int
        How often each weight is used for one row: more than once in a convolution.
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
    if pruner.budget is not None:
        sparsity = 0.0
    if isinstance(sparsity, Mapping):
        sparsity = by_layer(sparsity, names)
        names = tuple(sparsity)
    targets = {name: layers[name] for name in names}
    budget = make_budget(pruner, sparsity, layers, targets, uses)
    regrow = resolve_regrow(pruner.regrow)
    plan = _plan(pruner, budget, regrow, max_epochs=max_epochs, frozen=frozen)
    request = Request(
        targets,
        importance,
        granularity,
        resolve_allocation(_allocation(pruner, plan, frozen), budget),
        budget,
        plan,
        grow=regrow[1] if regrow else None,
        penalty=pruner.penalty,
        rewind=resolve_rewind(pruner.rewind),
        distill=resolve_distill(pruner.distill),
        subsample=pruner.subsample,
    )
    check_parts(_parts(pruner, request, sparsity, frozen))
    check_budget(budget, targets, granularity, pruner.budget)
    return request


def statistics_of(*importances: Importance | None) -> tuple[str, ...]:
    """Name the statistics that some importances, and their updates, ask for.

    Parameters
    ----------
    *importances : callable or None
        None asks for nothing.

    Returns
    -------
    names : tuple of str
        Each once.
    """
    names: dict[str, None] = {}
    for importance in importances:
        if importance is not None:
            names |= dict.fromkeys(needs(importance))
            update = getattr(importance, "update", None)
            names |= dict.fromkeys(needs(update) if update else ())
    return tuple(names)


def _allocation(pruner: Any, plan: Plan, frozen: bool) -> Any:
    """Give what "auto" stands for, as the papers have it.

    ERK where a sparse net is trained from scratch; every layer alike for scores of
    neurons, which mean nothing across layers; else one ranking of all.
    """
    if pruner.allocation != "auto":
        return pruner.allocation
    if pruner.regrow is not None and not plan.dense_epochs and not frozen:
        return "erk"
    by_neuron = isinstance(pruner.importance, str) and pruner.importance in BY_NEURON
    return "uniform" if by_neuron else "global"


def _named(importance: Importance | None, given: Any) -> Any:
    """Give an importance's name where it is one of the package's, however given."""
    names = (name for name, part in IMPORTANCES.items() if part is importance)
    return next(names, given)


def _parts(pruner: Any, request: Request, sparsity: Any, frozen: bool) -> Parts:
    """Gather what the compatibility rules look at."""
    plan = request.plan
    layers = request.layers.items()
    return Parts(
        granularity=request.granularity,
        sparsity=sparsity,
        threshold=pruner.threshold,
        budget=pruner.budget,
        importance=_named(request.importance, pruner.importance),
        grow=_named(request.grow, None),
        allocation=pruner.allocation,
        schedule=pruner.schedule,
        regrow=pruner.regrow,
        penalty=pruner.penalty,
        rewind=pruner.rewind,
        distill=request.distill.weight,
        n_weights=request.budget.n_weights,
        refits=hasattr(request.importance, "update"),
        not_linear=tuple(
            name for name, layer in layers if not isinstance(layer.module, nn.Linear)
        ),
        needs=statistics_of(request.importance),
        grow_needs=statistics_of(request.grow),
        falls=plan.falls,
        trained=frozen or plan.dense_epochs > 0,
        frozen=frozen,
        first=float(plan.events[0].at) if plan.events else 1.0,
        last=float(plan.events[-1].at) if plan.events else 1.0,
        dense_epochs=pruner.dense_epochs or 0 if frozen else plan.dense_epochs,
        prune_epochs=plan.prune_epochs,
        finetune_epochs=plan.finetune_epochs,
        rewind_epoch=request.rewind.epoch if request.rewind else 0,
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


def _plan(
    pruner: Any,
    budget: Budget,
    regrow: tuple[Regrow, Importance] | None,
    *,
    max_epochs: int,
    frozen: bool,
) -> Plan:
    dense_epochs = pruner.dense_epochs
    if dense_epochs is None or frozen:
        dense_epochs = 0 if frozen else max_epochs
    plan = make_plan(
        resolve_schedule(pruner.schedule),
        n_steps=pruner.n_steps,
        dense_epochs=dense_epochs,
        prune_epochs=pruner.prune_epochs,
        finetune_epochs=pruner.finetune_epochs,
        regrow=regrow[0] if regrow else None,
    )
    if budget.threshold is None and budget.kept() == budget.size():
        return replace(plan, events=())
    return plan
