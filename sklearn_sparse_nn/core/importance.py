"""Which weights matter: scores of a weight tensor, high = keep.

An importance is a function ``(weight, *, need1, need2) -> scores``. Its keyword-only
names are its needs: only the statistics that it names are gathered and passed.
"""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

import torch
from torch import Tensor

from sklearn_sparse_nn.exceptions import UnknownNameError

__all__ = [
    "IMPORTANCES",
    "STATISTICS",
    "Importance",
    "magnitude",
    "magnitude_l2",
    "needs",
    "random",
    "resolve_importance",
]

Importance = Callable[..., Tensor]

#: The statistics that an importance may ask for by a keyword-only name.
STATISTICS: tuple[str, ...] = ("generator",)


def magnitude(weight: Tensor) -> Tensor:
    """Score weights by their absolute value (L1).

    Pooled over a group this is the mean absolute value of its weights.

    Parameters
    ----------
    weight : Tensor of shape (out, in, ...)
        The weights of one layer.

    Returns
    -------
    scores : Tensor of the same shape
        ``|w|``.

    References
    ----------
    Han et al. 2015, "Learning both Weights and Connections", section 3.

    Examples
    --------
    >>> import torch
    >>> magnitude(torch.tensor([[-2.0, 0.5]]))
    tensor([[2.0000, 0.5000]])
    """
    return weight.abs()


def magnitude_l2(weight: Tensor) -> Tensor:
    """Score weights by their square (L2).

    Single weights rank as under `magnitude`; groups rank by their mean square, so one
    large weight saves its group more easily.

    Parameters
    ----------
    weight : Tensor of shape (out, in, ...)
        The weights of one layer.

    Returns
    -------
    scores : Tensor of the same shape
        ``w ** 2``.

    Examples
    --------
    >>> import torch
    >>> magnitude_l2(torch.tensor([[-2.0, 0.5]]))
    tensor([[4.0000, 0.2500]])
    """
    return weight.square()


def random(weight: Tensor, *, generator: torch.Generator) -> Tensor:
    """Score weights by chance: the control that every importance has to beat.

    Parameters
    ----------
    weight : Tensor of shape (out, in, ...)
        The weights of one layer; only shape, dtype and device are used.
    generator : torch.Generator
        The pruner's own generator, on the CPU.

    Returns
    -------
    scores : Tensor of the same shape
        Uniform in [0, 1).

    Examples
    --------
    >>> import torch
    >>> scores = random(torch.ones(3, 2), generator=torch.Generator().manual_seed(0))
    >>> tuple(scores.shape)
    (3, 2)
    """
    return torch.rand(weight.shape, generator=generator).to(weight.device)


IMPORTANCES: Mapping[str, Importance] = MappingProxyType(
    {"magnitude": magnitude, "magnitude_l2": magnitude_l2, "random": random}
)


def resolve_importance(importance: str | Importance) -> Importance:
    """Turn a name into its function and check what a function asks for.

    Parameters
    ----------
    importance : str or callable
        A name in `IMPORTANCES` or a function of that form.

    Returns
    -------
    importance : callable

    Raises
    ------
    UnknownNameError
        The name does not exist, or the function needs an unknown statistic.

    Examples
    --------
    >>> resolve_importance("magnitude").__name__
    'magnitude'
    """
    if isinstance(importance, str):
        if importance not in IMPORTANCES:
            raise UnknownNameError("importance", importance, IMPORTANCES)
        importance = IMPORTANCES[importance]
    needs(importance)
    return importance


def needs(importance: Importance) -> tuple[str, ...]:
    """Name the statistics that an importance asks for.

    Parameters
    ----------
    importance : callable
        Its keyword-only parameters are its needs. One with a default that is no
        statistic, or that a ``functools.partial`` has bound, is left alone.

    Returns
    -------
    names : tuple of str
        A subset of `STATISTICS`.

    Raises
    ------
    UnknownNameError
        A required keyword-only parameter is not in `STATISTICS`.

    Examples
    --------
    >>> needs(random)
    ('generator',)
    """
    try:
        parameters = inspect.signature(importance).parameters.values()
    except ValueError:  # torch.abs and others written in C say nothing
        return ()
    bound = importance.keywords if isinstance(importance, partial) else {}
    wanted = []
    for parameter in parameters:
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
            continue
        if parameter.name in bound:
            continue
        if parameter.name in STATISTICS:
            wanted.append(parameter.name)
        elif parameter.default is inspect.Parameter.empty:
            raise UnknownNameError(
                "statistic asked for by the importance", parameter.name, STATISTICS
            )
    return tuple(wanted)
