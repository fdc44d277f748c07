"""The importances by name, and what each of them needs.

An importance is a function ``(weight, *, need1, need2) -> scores``, high = keep. Its
keyword-only names are its needs: only the statistics that it names are gathered and
passed. Its attributes may declare facts about its scores.
"""

import inspect
from collections.abc import Callable, Mapping
from copy import copy
from functools import partial
from types import MappingProxyType
from typing import Literal

import torch
from torch import Tensor

from sklearn_sparse_nn.core import scores
from sklearn_sparse_nn.core.granularity import Granularity
from sklearn_sparse_nn.core.obs import OBS
from sklearn_sparse_nn.exceptions import UnknownNameError

__all__ = [
    "FACTS",
    "IMPORTANCES",
    "STATISTICS",
    "Importance",
    "ImportanceName",
    "Statistics",
    "declares",
    "needs",
    "resolve_importance",
    "statistics_of",
]

Importance = Callable[..., Tensor]
ImportanceName = Literal[
    "magnitude",
    "magnitude_l2",
    "random",
    "gradient",
    "snip",
    "taylor",
    "grasp",
    "synflow",
    "movement",
    "fisher",
    "wanda",
    "apoz",
    "obs",
    "fpgm",
]

#: Statistics by name: tensors by layer, or one object for all layers.
Statistics = Mapping[str, Mapping[str, Tensor] | torch.Generator | Granularity]

#: The statistics that an importance may need, by keyword-only name. Tensors come by
#: layer, turned to (out, in, ...) and broadcasting against the weight; g is the
#: gradient of the mean loss in evaluation mode, over a sample of the training rows.
STATISTICS: Mapping[str, str] = MappingProxyType(
    {
        "grad": "g, of the weight's shape",
        "grad_sq": "mean over rows of the squared gradient of a row's loss",
        "hessian_grad": "the loss's Hessian times g",
        "input_norm": "L2 norm over rows of each input, (1, in, ...)",
        "hessian": "X'X of a Linear layer's inputs, (in, in)",
        "activation_zeros": "fraction of rows on which a unit is zero, (out, 1, ...)",
        "path_grad": "slope of the mass of all paths by a weight's absolute value",
        "initial": "the weights before any training",
        "movement": "sum of -g * w over the training steps so far",
        "generator": "the pruner's own torch.Generator",
        "granularity": "the granularity object",
    }
)

#: The facts that an importance may declare, as an attribute that is True.
FACTS: Mapping[str, str] = MappingProxyType(
    {
        "signed": 'scores may be negative; `allocation="lamp"` is refused',
        "scores_neurons": "whole neurons are scored; a granularity other than "
        '`"neuron"` is refused, and `allocation="auto"` is `"uniform"`',
    }
)

IMPORTANCES: Mapping[str, Importance] = MappingProxyType(
    {
        "magnitude": scores.magnitude,
        "magnitude_l2": scores.magnitude_l2,
        "random": scores.random,
        "gradient": scores.gradient,
        "snip": scores.snip,
        "taylor": scores.taylor,
        "grasp": scores.grasp,
        "synflow": scores.synflow,
        "movement": scores.movement,
        "fisher": scores.fisher,
        "wanda": scores.wanda,
        "apoz": scores.apoz,
        "obs": OBS(),
        "fpgm": scores.fpgm,
    }
)


def resolve_importance(importance: str | Importance) -> Importance:
    """Return the importance of a name, and check that its needs exist.

    Parameters
    ----------
    importance : str or callable
        A name in `IMPORTANCES` or a function of that form.

    Returns
    -------
    importance : callable
        A function or object ``(weight, *, need1, need2) -> scores``.

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
        importance = copy(IMPORTANCES[importance])
    needs(importance)
    return importance


def needs(importance: Importance) -> tuple[str, ...]:
    """Return the names of the statistics that an importance needs.

    Parameters
    ----------
    importance : callable
        The function, whose keyword-only parameters are its needs. A parameter that is
        no statistic and has a default, or that a ``functools.partial`` has bound, is
        not one.

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
    >>> needs(scores.wanda)
    ('input_norm',)
    """
    try:
        parameters = inspect.signature(importance).parameters.values()
    except ValueError:  # torch.abs and others written in C have none
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


def statistics_of(*importances: Importance | None) -> tuple[str, ...]:
    """Return the names of the statistics that importances and their updates need.

    Parameters
    ----------
    *importances : callable or None
        The importances; None needs nothing.

    Returns
    -------
    names : tuple of str
        A subset of `STATISTICS`, each name once.

    Examples
    --------
    >>> statistics_of(scores.snip, None, scores.gradient)
    ('grad',)
    """
    names: dict[str, None] = {}
    for importance in importances:
        if importance is not None:
            names |= dict.fromkeys(needs(importance))
            update = getattr(importance, "update", None)
            names |= dict.fromkeys(needs(update) if update else ())
    return tuple(names)


def declares(part: Callable[..., object] | None, fact: str) -> bool:
    """Check whether a part declares a fact, as an attribute that is True.

    Parameters
    ----------
    part : callable or None
        An importance or an allocation, the package's or a user's; of a
        ``functools.partial``, the function inside counts, too.
    fact : str
        The name of the attribute.

    Returns
    -------
    declared : bool

    Examples
    --------
    >>> declares(scores.fpgm, "scores_neurons"), declares(scores.snip, "signed")
    (True, False)
    """
    if isinstance(part, partial) and not hasattr(part, fact):
        return declares(part.func, fact)
    return bool(getattr(part, fact, False))
