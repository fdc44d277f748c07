"""How a net recovers from pruning: what is put back, and whom it learns from."""

from numbers import Integral, Real
from typing import Any, Literal

from sklearn.base import BaseEstimator

from sklearn_sparse_nn._compat import InvalidParameterError

__all__ = [
    "Rewind",
    "RewindName",
    "SoftTargets",
    "resolve_distill",
    "resolve_rewind",
]

RewindName = Literal["weights", "learning_rate"]


class Rewind(BaseEstimator):
    """What is put back before fine-tuning, and to when.

    Parameters
    ----------
    what : {"weights", "learning_rate"}, default="weights"
        Surviving weights, which take the learning rate and its schedule with them, or
        these alone.
    epoch : int, default=0
        Dense epochs that had been trained at the time. 0 is the beginning.

    References
    ----------
    Frankle and Carbin 2019, "The Lottery Ticket Hypothesis" (the beginning); Frankle
    et al. 2020, "Linear Mode Connectivity and the Lottery Ticket Hypothesis" (an early
    epoch); Renda et al. 2020, "Comparing Rewinding and Fine-tuning" (learning rate).

    Examples
    --------
    >>> Rewind("weights", epoch=2)
    Rewind(epoch=2)
    """

    def __init__(self, what: RewindName = "weights", epoch: int = 0) -> None:
        self.what = what
        self.epoch = epoch


class SoftTargets(BaseEstimator):
    """Learning from the dense net's outputs while the net is pruned and fine-tuned.

    Parameters
    ----------
    weight : float in [0, 1], default=0.5
        Weight of the dense net's outputs in the loss; the labels have the rest.
    temperature : float, default=2.0
        Divides the logits of both nets; above 1 the dense net's doubts count for more.
        Not used in regression.

    References
    ----------
    Hinton, Vinyals and Dean 2015, "Distilling the Knowledge in a Neural Network".

    Examples
    --------
    >>> SoftTargets(temperature=4)
    SoftTargets(temperature=4)
    """

    def __init__(self, weight: float = 0.5, temperature: float = 2.0) -> None:
        self.weight = weight
        self.temperature = temperature


def resolve_rewind(rewind: RewindName | Rewind | None) -> Rewind | None:
    """Make a `Rewind` of a name; check its numbers.

    Parameters
    ----------
    rewind : {"weights", "learning_rate"}, Rewind or None
        As given to a pruner.

    Returns
    -------
    rewind : Rewind or None
    """
    if rewind is None:
        return None
    if isinstance(rewind, str):
        return Rewind(rewind)
    whole = isinstance(rewind.epoch, Integral) and not isinstance(rewind.epoch, bool)
    if rewind.what not in ("weights", "learning_rate") or not whole or rewind.epoch < 0:
        raise InvalidParameterError(
            f"The 'rewind' parameter is {rewind!r}: what must be 'weights' or "
            "'learning_rate', and epoch an int of 0 or more."
        )
    return rewind


def resolve_distill(distill: Any) -> SoftTargets:
    """Make `SoftTargets` of a weight; check the numbers.

    Parameters
    ----------
    distill : float or SoftTargets
        As given to a pruner.

    Returns
    -------
    distill : SoftTargets
    """
    if isinstance(distill, Real):
        return SoftTargets(float(distill))
    weight, temperature = distill.weight, distill.temperature
    numbers = isinstance(weight, Real) and isinstance(temperature, Real)
    if not (numbers and 0 <= weight <= 1 and 0 < temperature < float("inf")):
        raise InvalidParameterError(
            f"The 'distill' parameter is {distill!r}: weight must be in [0, 1] and "
            "temperature above 0 and finite."
        )
    checked: SoftTargets = distill
    return checked
