"""Regularisers that drive weights to exactly zero while a net trains."""

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from sklearn_sparse_nn.core.granularity import Granularity

__all__ = [
    "PENALTIES",
    "PenaltyName",
    "chance_alive",
    "mean_gate",
    "sample_gate",
    "shrink",
]

PenaltyName = Literal["l1", "l0"]
PENALTIES: tuple[PenaltyName, ...] = get_args(PenaltyName)

# The stretched and tempered concrete distribution of Louizos et al. 2018, section 4.
_BETA, _LOW, _HIGH = 2 / 3, -0.1, 1.1


def shrink(weight: Tensor, threshold: float, granularity: Granularity) -> Tensor:
    """Take a proximal step of the group lasso; of L1 where groups are single weights.

    The penalty of a group is the norm of its weights times the root of their number,
    so that groups of all sizes are shrunk alike.

    Parameters
    ----------
    weight : Tensor of shape (out, in, ...)
        The weights of one layer.
    threshold : float
        Strength times step size: the decrease of a weight's absolute value, or of a
        group's root mean square.
    granularity : Granularity
        The groups.

    Returns
    -------
    weight : Tensor of the same shape
        The shrunk weights; groups below the threshold are exactly zero.

    References
    ----------
    Yuan and Lin 2006, "Model selection and estimation in regression with grouped
    variables"; Parikh and Boyd 2014, "Proximal algorithms", section 6.5.4.

    Examples
    --------
    >>> from sklearn_sparse_nn.core.granularity import Unstructured
    >>> shrink(torch.tensor([[2.0, -0.5]]), 1.0, Unstructured())
    tensor([[1., -0.]])
    """
    size = granularity.pool(weight.square()).sqrt()
    factor = (1 - threshold / size).clamp(min=0)
    factor = torch.where(size > 0, factor, torch.zeros_like(factor))
    return weight * granularity.expand(factor, weight.shape)


def sample_gate(log_alpha: Tensor, uniform: Tensor) -> Tensor:
    """Draw hard concrete gates: exactly 0, exactly 1, or in between.

    Parameters
    ----------
    log_alpha : Tensor
        The location of every gate.
    uniform : Tensor of the same shape, in (0, 1)
        The noise, uniformly distributed.

    Returns
    -------
    gate : Tensor of the same shape, in [0, 1]
        The gates, differentiable with respect to `log_alpha`.

    References
    ----------
    Louizos, Welling and Kingma 2018, "Learning Sparse Neural Networks through L0
    Regularization", equations 10 and 11.

    Examples
    --------
    >>> sample_gate(torch.tensor([9.0, -9.0]), torch.tensor([0.5, 0.5]))
    tensor([1., 0.])
    """
    noise = uniform.log() - (-uniform).log1p()
    stretched = torch.sigmoid((noise + log_alpha) / _BETA) * (_HIGH - _LOW) + _LOW
    return stretched.clamp(0, 1)


def mean_gate(log_alpha: Tensor) -> Tensor:
    """Compute the gates that are used for prediction.

    Parameters
    ----------
    log_alpha : Tensor
        The location of every gate.

    Returns
    -------
    gate : Tensor of the same shape, in [0, 1]

    References
    ----------
    Louizos, Welling and Kingma 2018, equation 13.

    Examples
    --------
    >>> mean_gate(torch.tensor([9.0, -9.0]))
    tensor([1., 0.])
    """
    return (torch.sigmoid(log_alpha) * (_HIGH - _LOW) + _LOW).clamp(0, 1)


def chance_alive(log_alpha: Tensor) -> Tensor:
    """Compute the probability that a gate is not zero; its sum is the L0 penalty.

    Parameters
    ----------
    log_alpha : Tensor
        The location of every gate.

    Returns
    -------
    probability : Tensor of the same shape

    References
    ----------
    Louizos, Welling and Kingma 2018, equation 12.

    Examples
    --------
    >>> chance_alive(torch.tensor([0.0])).round(decimals=3)
    tensor([0.8320])
    """
    return torch.sigmoid(log_alpha - _BETA * math.log(-_LOW / _HIGH))
