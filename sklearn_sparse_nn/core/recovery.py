"""Recovery from pruning: rewinding before fine-tuning, and soft targets."""

from numbers import Integral, Real
from typing import Literal

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
    """Rewinding before fine-tuning, to the beginning or to an early epoch.

    Parameters
    ----------
    what : {"weights", "learning_rate"}, default="weights"
        The things that are set back: the surviving weights with the learning rate and
        its schedule, or the learning rate and its schedule alone.
    epoch : int, default=0
        The number of dense epochs to rewind to. 0 is the beginning.

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
    """Learning from the dense net's outputs, while a net is pruned and fine-tuned.

    Parameters
    ----------
    weight : float in [0, 1], default=0.5
        The weight of the dense net's outputs in the loss; the labels have the rest.
    temperature : float, default=2.0
        The divisor of the logits of both nets. Above 1, the dense net's smaller
        probabilities count for more. Not used in regression.

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
    """Return the `Rewind` of a name, with its numbers checked.

    Parameters
    ----------
    rewind : {"weights", "learning_rate"}, Rewind or None
        The parameter of a pruner.

    Returns
    -------
    rewind : Rewind or None

    Raises
    ------
    InvalidParameterError
        A number makes no sense.
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


def resolve_distill(distill: float | SoftTargets) -> SoftTargets:
    """Return the `SoftTargets` of a weight, with the numbers checked.

    Parameters
    ----------
    distill : float or SoftTargets
        The parameter of a pruner.

    Returns
    -------
    distill : SoftTargets

    Raises
    ------
    InvalidParameterError
        A number makes no sense.
    """
    if not isinstance(distill, SoftTargets):
        return SoftTargets(float(distill))
    weight, temperature = distill.weight, distill.temperature
    numbers = isinstance(weight, Real) and isinstance(temperature, Real)
    if not (numbers and 0 <= weight <= 1 and 0 < temperature < float("inf")):
        raise InvalidParameterError(
            f"The 'distill' parameter is {distill!r}: weight must be in [0, 1] and "
            "temperature above 0 and finite."
        )
    return distill
