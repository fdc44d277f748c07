"""Dynamic sparse training: some living groups are dropped, others grow."""

import math
from collections.abc import Mapping
from numbers import Real
from types import MappingProxyType
from typing import Literal

import torch
from sklearn.base import BaseEstimator
from torch import Tensor

from sklearn_sparse_nn.core.budget import n_pruned
from sklearn_sparse_nn.core.granularity import Granularity, best
from sklearn_sparse_nn.core.importance import Importance, Statistics, resolve_importance
from sklearn_sparse_nn.core.masks import pooled_scores
from sklearn_sparse_nn.exceptions import UnknownNameError

__all__ = ["REGROWTHS", "Regrow", "RegrowName", "resolve_regrow", "swap"]

RegrowName = Literal["random", "gradient"]


class Regrow(BaseEstimator):
    """The number of groups that are swapped at an event, and which of them grow.

    The share falls along a half cosine and is 0 from `stop` on, so that the last part
    of the pruning phase trains one topology.

    Parameters
    ----------
    grow : str or callable, default="gradient"
        The importance by which dead groups grow: ``"gradient"`` (RigL), ``"random"``
        (SET), or any other.
    fraction : float in (0, 1), default=0.3
        The share of a layer's living groups that is swapped at first.
    stop : float in (0, 1], default=0.75
        The progress of the pruning phase from which on nothing is swapped.

    References
    ----------
    Mocanu et al. 2018, "Scalable training of artificial neural networks with adaptive
    sparse connectivity" (SET); Evci et al. 2020, "Rigging the Lottery", section 3,
    equation 1.

    Examples
    --------
    >>> Regrow(fraction=0.3).share(0.0)
    0.3
    >>> Regrow(fraction=0.3).share(0.8)
    0.0
    """

    def __init__(
        self,
        grow: str | Importance = "gradient",
        fraction: float = 0.3,
        stop: float = 0.75,
    ) -> None:
        self.grow = grow
        self.fraction = fraction
        self.stop = stop

    def share(self, progress: float) -> float:
        """Compute the share of a layer's living groups to swap at `progress`."""
        numbers = isinstance(self.fraction, Real) and isinstance(self.stop, Real)
        if not (numbers and 0 < self.fraction < 1 and 0 < self.stop <= 1):
            raise ValueError(
                f"Regrow(fraction={self.fraction!r}, stop={self.stop!r}): fraction "
                "must be in (0, 1) and stop in (0, 1]."
            )
        if progress >= self.stop:
            return 0.0
        return self.fraction / 2 * (1 + math.cos(math.pi * progress / self.stop))


REGROWTHS: Mapping[str, Regrow] = MappingProxyType(
    {"random": Regrow("random"), "gradient": Regrow("gradient")}
)


def resolve_regrow(regrow: str | Regrow | None) -> tuple[Regrow, Importance] | None:
    """Return the regrowth of a name, and the importance that it grows by.

    Parameters
    ----------
    regrow : str, Regrow or None
        A name in `REGROWTHS`, or an object with ``grow`` and ``share(progress)``.

    Returns
    -------
    regrow, grow : Regrow and callable, or None

    Raises
    ------
    UnknownNameError
        A name does not exist.

    Examples
    --------
    >>> resolve_regrow("random")[0]
    Regrow(grow='random')
    """
    if regrow is None:
        return None
    if isinstance(regrow, str):
        if regrow not in REGROWTHS:
            raise UnknownNameError("regrow", regrow, REGROWTHS)
        regrow = REGROWTHS[regrow]
    regrow.share(0.0)  # bad numbers are refused before any training
    return regrow, resolve_importance(regrow.grow)


def swap(
    weights: Mapping[str, Tensor],
    stats: Statistics,
    masks: Mapping[str, Tensor],
    *,
    importance: Importance,
    grow: Importance,
    granularity: Granularity,
    share: float,
    n_alive: Mapping[str, int] | None = None,
) -> dict[str, Tensor]:
    """Drop the least important living groups of every layer and grow as many others.

    Parameters
    ----------
    weights : mapping of layer name to Tensor of shape (out, in, ...)
        The prunable weights.
    stats : mapping of str to (mapping of layer name to Tensor) or object
        The statistics that both importances need.
    masks : mapping of layer name to bool Tensor
        The weights that live now.
    importance, grow : callable
        The importance of which the lowest groups are dropped, and the one of which the
        highest grow. A group that was just dropped may grow again.
    granularity : Granularity
        The groups of weights that live or die together.
    share : float in [0, 1]
        The share of every layer's living groups to swap, rounded half up.
    n_alive : mapping of layer name to int, optional
        The number of weights of every layer that may live afterwards; None for as many
        as before.

    Returns
    -------
    masks : dict of layer name to bool Tensor
        The new masks, with as many living weights in every layer as may live. Where
        groups differ in size there may be fewer, by less than a group.

    Examples
    --------
    >>> from sklearn_sparse_nn.core.granularity import Unstructured
    >>> from sklearn_sparse_nn.core.scores import gradient, magnitude
    >>> swap(
    ...     {"a": torch.tensor([[3.0, 0.1, 0.0, 0.0]])},
    ...     {"grad": {"a": torch.tensor([[0.0, 0.0, 1.0, 2.0]])}},
    ...     {"a": torch.tensor([[True, True, False, False]])},
    ...     importance=magnitude,
    ...     grow=gradient,
    ...     granularity=Unstructured(),
    ...     share=0.5,
    ... )
    {'a': tensor([[ True, False, False,  True]])}
    """
    pooled, sizes = pooled_scores(
        weights, stats, masks, importance=importance, granularity=granularity
    )
    everywhere = {name: torch.ones_like(mask) for name, mask in masks.items()}
    wanted, full = pooled_scores(
        weights, stats, everywhere, importance=grow, granularity=granularity
    )
    swapped = {}
    for name, scores in pooled.items():
        n_living = int((sizes[name] > 0).sum())
        n = min(n_pruned(share, n_living), scores.numel() - n_living)
        keep = best(scores, n_living - n)
        may_live = int(sizes[name].sum()) if n_alive is None else n_alive[name]
        room = may_live - int(sizes[name][keep].sum())
        grown = _best_that_fit(
            wanted[name].masked_fill(keep, -torch.inf), full[name], room
        )
        shape = weights[name].shape
        stay = granularity.expand(keep, shape) & masks[name]
        swapped[name] = stay | granularity.expand(grown, shape)
    return swapped


def _best_that_fit(scores: Tensor, sizes: Tensor, room: int) -> Tensor:
    """Mark the best groups whose weights fit in `room`; too large ones are left out."""
    size = int(sizes.max())
    if int(sizes.min()) == size:
        return best(scores, room // size)
    marks = torch.zeros(scores.numel(), dtype=torch.bool)
    order = scores.reshape(-1).sort(descending=True, stable=True).indices
    for group in order.tolist():
        if scores.reshape(-1)[group] > -torch.inf and sizes.reshape(-1)[group] <= room:
            marks[group] = True
            room -= int(sizes.reshape(-1)[group])
    return marks.reshape(scores.shape)
