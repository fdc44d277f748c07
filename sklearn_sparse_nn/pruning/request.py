"""The request of a pruner: its method, bound to the layers of a net."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from sklearn.base import BaseEstimator
from torch import Tensor, nn

from sklearn_sparse_nn.core.allocation import Allocation, resolve_allocation
from sklearn_sparse_nn.core.budget import Budget
from sklearn_sparse_nn.core.compatibility import NetFacts, check_parts
from sklearn_sparse_nn.core.granularity import Granularity
from sklearn_sparse_nn.core.importance import Importance, Statistics
from sklearn_sparse_nn.core.masks import refit, select
from sklearn_sparse_nn.core.method import PruningMethod, resolve_method
from sklearn_sparse_nn.core.plan import Plan
from sklearn_sparse_nn.core.recovery import Rewind, SoftTargets
from sklearn_sparse_nn.core.regrowth import swap
from sklearn_sparse_nn.nets.layers import PrunableLayer
from sklearn_sparse_nn.pruning.limits import bind_layers, make_budget

__all__ = ["Request", "resolve_request"]


@dataclass(frozen=True)
class Request:
    """A pruning method, bound to the layers of a net.

    Parameters
    ----------
    method : PruningMethod
        The parts, with the epochs and layers of the net. A parameter that is passed on
        as it is can be read from ``method.given``.
    layers : mapping of name to PrunableLayer
        The layers to prune, by name.
    budget : Budget
        The number of weights that may live in the end, or their cost.
    allocation : callable
        The allocation of that budget.
    plan : Plan
        The epochs of the phases, and the pruning events.
    """

    method: PruningMethod
    layers: Mapping[str, PrunableLayer]
    budget: Budget
    allocation: Allocation
    plan: Plan

    @property
    def importance(self) -> Importance:
        """The importance of the method."""
        return self.method.importance

    @property
    def granularity(self) -> Granularity:
        """The granularity of the method."""
        return self.method.granularity

    @property
    def penalty(self) -> Literal["l1", "l0"] | None:
        """The penalty of the method."""
        return self.method.penalty

    @property
    def rewind(self) -> Rewind | None:
        """The rewinding of the method."""
        return self.method.rewind

    @property
    def distill(self) -> SoftTargets:
        """The soft targets of the method; their weight may be 0."""
        return self.method.distill

    @property
    def subsample(self) -> int | None:
        """The number of rows that statistics are gathered over; None for all."""
        return self.method.subsample

    @property
    def needs(self) -> tuple[str, ...]:
        """The statistics that importance and regrowth need."""
        return self.method.needs

    @property
    def weights(self) -> dict[str, Tensor]:
        """The weights as they are, turned to (out, in, ...)."""
        return {
            name: layer.turned(layer.weight.detach())
            for name, layer in self.layers.items()
        }

    def decide(
        self, share: float, masks: Mapping[str, Tensor], stats: Statistics
    ) -> dict[str, Tensor]:
        """Compute the masks of a pruning event from the weights as they are."""
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
        self, masks: Mapping[str, Tensor], stats: Statistics
    ) -> dict[str, Tensor]:
        """Refit the weights that live, if the importance has an ``update``."""
        return refit(self.weights, stats, masks, importance=self.importance)

    def swap(
        self,
        share: float,
        masks: Mapping[str, Tensor],
        stats: Statistics,
        n_alive: Mapping[str, int],
    ) -> dict[str, Tensor]:
        """Drop a share of the living groups of every layer, and grow as many."""
        grow = self.method.grow
        if grow is None:
            return dict(masks)
        return swap(
            self.weights,
            stats,
            masks,
            importance=self.importance,
            grow=grow,
            granularity=self.granularity,
            share=share,
            n_alive=n_alive,
        )

    def zeros_at(self, share: float) -> float:
        """Compute the fraction of zeros when a share of the pruning is due."""
        due = replace(self.budget, share=share)
        return 1 - due.kept() / due.size()


def resolve_request(
    pruner: BaseEstimator,
    layers: Mapping[str, PrunableLayer],
    *,
    last: str | None,
    uses: Mapping[str, int],
    max_epochs: int,
    frozen: bool,
    n_batches: int | None = None,
) -> Request:
    """Resolve a pruner's parameters, and bind them to the layers of a net.

    Parameters
    ----------
    pruner : estimator
        The pruner; only its parameters are read.
    layers : mapping of name to PrunableLayer
        Every prunable layer of the net.
    last : str or None
        The layer that gives the outputs.
    uses : mapping of name to int
        The number of times that each weight is used for one row: more than once in a
        convolution.
    max_epochs : int
        The net's own number of epochs.
    frozen : bool
        Whether the net is trained already.
    n_batches : int or None, default=None
        The number of training steps of an epoch, if it is known.

    Returns
    -------
    request : Request

    Raises
    ------
    ValueError
        A name does not exist, a part does not fit the net, or two parts do not go
        together.
    """
    method = resolve_method(pruner.get_params(deep=False))
    method, targets = bind_layers(
        method, layers, last=last, max_epochs=max_epochs, frozen=frozen
    )
    budget = make_budget(method, layers, targets, uses)
    plan = method.plan(budget, frozen=frozen, n_batches=n_batches)
    trained = frozen or plan.dense_epochs > 0
    allocation = resolve_allocation(method.allocation_for(trained=trained), budget)
    others = [
        name
        for name, layer in targets.items()
        if not isinstance(layer.module, nn.Linear)
    ]
    net = NetFacts(
        n_weights=budget.n_weights,
        not_linear=tuple(others),
        frozen=frozen,
        events=plan.events,
    )
    check_parts(method, net)
    return Request(method, targets, budget, allocation, plan)
