"""Which weights matter: the importances by name, and what each needs to know.

An importance is a function ``(weight, *, need1, need2) -> scores``, high = keep. Its
keyword-only names are its needs: only the statistics that it names are gathered and
passed.
"""

import inspect
from collections.abc import Callable, Mapping
from copy import copy
from functools import partial
from types import MappingProxyType
from typing import Literal

from torch import Tensor

from sklearn_sparse_nn.core import scores
from sklearn_sparse_nn.core.obs import OBS
from sklearn_sparse_nn.exceptions import UnknownNameError

__all__ = [
    "IMPORTANCES",
    "STATISTICS",
    "Importance",
    "ImportanceName",
    "needs",
    "resolve_importance",
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

#: What an importance may ask for by a keyword-only name. Tensors come by layer, turned
#: to (out, in, ...) and broadcasting against the weight; g is the gradient of the mean
#: loss in evaluation mode, over a sample of the training rows.
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
        importance = copy(IMPORTANCES[importance])
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
    >>> needs(scores.wanda)
    ('input_norm',)
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
