"""The only file that touches scikit-learn's private parts.

They are private but old: parameter validation since 1.2, output containers since 1.2.
"""

from collections.abc import Callable, Mapping
from numbers import Integral, Real
from typing import Any, TypeVar

import numpy as np
from sklearn.utils._param_validation import (
    HasMethods,
    Interval,
    InvalidParameterError,
    RealNotInt,
    StrOptions,
    validate_parameter_constraints,
)
from sklearn.utils._set_output import _get_output_config

Method = TypeVar("Method", bound=Callable[..., Any])

try:
    from sklearn.callback import CallbackSupportMixin
    from sklearn.callback import with_callbacks as _with_callbacks
except ImportError:  # before scikit-learn 1.9

    class _NoContext:
        """A task without callbacks."""

        def __getattr__(self, name: str) -> Any:
            return lambda **kwargs: False

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """A mixin in place of scikit-learn's, which this version does not have."""

        def _init_callback_context(self, **kwargs: Any) -> Any:
            return _NoContext()

    def _with_callbacks(method: Any) -> Any:
        """Return a method as it is."""
        return method


__all__ = [
    "CallbackSupportMixin",
    "HasMethods",
    "Integral",
    "Interval",
    "InvalidParameterError",
    "Real",
    "RealNotInt",
    "StrOptions",
    "as_python",
    "check_parameters",
    "fit_context",
    "has_callbacks",
    "refuse_dataframe_output",
    "with_callbacks",
]


def with_callbacks(method: Method) -> Method:
    """Connect a ``fit`` to scikit-learn's callbacks; its type stays what it is.

    Parameters
    ----------
    method : function
        The ``fit`` of an estimator.

    Returns
    -------
    method : function
    """
    return _with_callbacks(method)


def fit_context(estimator: Any) -> Any:
    """Return the task of a fit that is under way.

    Parameters
    ----------
    estimator : estimator
        In its ``fit``.

    Returns
    -------
    context : sklearn.callback.CallbackContext or None
        None where scikit-learn has no callbacks.
    """
    return getattr(estimator, "_callback_fit_ctx", None)


def has_callbacks(estimator: Any) -> bool:
    """Check whether callbacks were set on an estimator, or passed down to it.

    Parameters
    ----------
    estimator : estimator
    """
    return bool(getattr(estimator, "_skl_callbacks", None))


def check_parameters(estimator: Any) -> None:
    """Check constructor parameters against ``_parameter_constraints``.

    A bool passes scikit-learn's own integer intervals; here it does not, because
    ``sparsity=True`` would quietly keep one single weight. A float32 of numpy does not
    pass as a float there; here it does.

    Parameters
    ----------
    estimator : estimator
        An estimator whose class has ``_parameter_constraints``.

    Raises
    ------
    InvalidParameterError
        In scikit-learn's wording: the parameter, what is allowed, what was given.
    """
    constraints: Mapping[str, Any] = estimator._parameter_constraints
    params = estimator.get_params(deep=False).items()
    given = {name: as_python(value) for name, value in params}
    checked = {
        name: _Bool(value)
        if isinstance(value, bool) and not _allows_bool(constraints[name])
        else value
        for name, value in given.items()
    }
    validate_parameter_constraints(
        constraints, checked, caller_name=type(estimator).__name__
    )


def as_python(value: Any) -> Any:
    """Return a number or text of numpy as Python's own, with the digits that it shows.

    Parameters
    ----------
    value : object
        Any value; what is no scalar of numpy is returned as it is.

    Returns
    -------
    value : object

    Examples
    --------
    >>> as_python(np.float32(0.9)), float(np.float32(0.9))
    (0.9, 0.8999999761581421)
    """
    if isinstance(value, np.floating):
        return float(str(value))
    return value.item() if isinstance(value, np.generic) else value


def _allows_bool(constraints: Any) -> bool:
    return any(word in ("boolean", "verbose") for word in constraints)


class _Bool:
    """A bool where none is allowed: of no valid type, with the same repr."""

    def __init__(self, value: bool) -> None:
        self.value = value

    def __repr__(self) -> str:
        return repr(self.value)


def refuse_dataframe_output(estimator: Any) -> None:
    """Raise an error if a DataFrame was requested where the output is sparse.

    Parameters
    ----------
    estimator : estimator
        A transformer; ``set_output`` or scikit-learn's configuration may request one.

    Raises
    ------
    ValueError
        With scikit-learn's own sentence for transformers with sparse output.
    """
    container = _get_output_config("transform", estimator)["dense"]
    if container != "default":
        raise ValueError(
            f"{container.capitalize()} output does not support sparse data. The "
            "transformer outputs a scipy sparse matrix. Disable "
            f"{container} output with set_output(transform='default')."
        )
