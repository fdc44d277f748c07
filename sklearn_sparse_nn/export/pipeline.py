"""Sparse models, made from pipelines of scalers, imputers and a net."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from sklearn.impute import SimpleImputer
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import (
    MaxAbsScaler,
    MinMaxScaler,
    RobustScaler,
    StandardScaler,
)
from sklearn.utils.validation import check_is_fitted

from sklearn_sparse_nn.dense.base import NET_ESTIMATORS
from sklearn_sparse_nn.exceptions import UnsupportedLayerError
from sklearn_sparse_nn.export.graphs import Rows, emit
from sklearn_sparse_nn.export.model import as_steps, head_of
from sklearn_sparse_nn.export.steps import Step, in_order, replace
from sklearn_sparse_nn.runtime import SparseModel
from sklearn_sparse_nn.runtime.graph import Activation, Graph

__all__ = ["export_pipeline"]

#: Shifts up to here, in units of what comes out, cost float32 less than 2e-6.
_FAR = 32.0
_ALLOWED = (
    "Allowed before the net are StandardScaler, MinMaxScaler, RobustScaler, "
    "MaxAbsScaler, SimpleImputer of numbers with missing_values=nan and "
    "add_indicator=False, and 'passthrough'."
)


def export_pipeline(pipe: Pipeline) -> SparseModel:
    """Make one sparse model of a pipeline of scalers, imputers and a net.

    The steps before the net are composed in float64 and become the input stage of the
    model: rows of float64 are scaled in float64, as in the pipeline.

    Parameters
    ----------
    pipe : sklearn.pipeline.Pipeline
        A fitted pipeline, or a fitted search such as GridSearchCV, of which the
        ``best_estimator_`` is taken. Its last step is a pruner or a TabularNet; the
        others are StandardScaler, MinMaxScaler, RobustScaler, MaxAbsScaler,
        SimpleImputer of numbers, ``"passthrough"``, or pipelines of these. It is not
        changed.

    Returns
    -------
    model : SparseModel
        A model for the same rows as the pipeline, of shape (n_rows, n_features).

    Raises
    ------
    UnsupportedLayerError
        A step is of another kind, or an imputer fills with a value that a clipped
        scaler before it never returns; the message names the step.
    TypeError
        `pipe` is no Pipeline, or ends with something else.
    sklearn.exceptions.NotFittedError
        A step is not fitted.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from sklearn_sparse_nn import PrunedClassifier, export_pipeline
    >>> X, y = load_iris(return_X_y=True)
    >>> pipe = make_pipeline(StandardScaler(), PrunedClassifier(random_state=0))
    >>> model = export_pipeline(pipe.fit(X, y))
    >>> bool((model.predict(X) == pipe.predict(X)).all())
    True
    """
    steps = list(_steps(pipe))
    _, net = steps.pop()
    if not isinstance(net, NET_ESTIMATORS):
        raise TypeError(
            "The pipeline's last step must be a pruner or a TabularNet; it is a "
            f"{type(net).__name__}."
        )
    first = steps[0][1] if steps else net
    for name, step in steps:  # first of all: the others may have no columns
        _refuse_unknown(name, step)
        check_is_fitted(step)
    check_is_fitted(first)
    before = _Before(first.n_features_in_)
    for name, step in steps:
        before.add(name, step)
    output = as_steps(net)
    graph = before.graph(output)
    names = getattr(first, "feature_names_in_", None)
    return SparseModel(graph, feature_names=names, **head_of(net))


def _steps(pipe: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """List the steps that change values, also those of pipelines in pipelines."""
    pipe = _chosen(pipe)
    if not isinstance(pipe, Pipeline):
        raise TypeError(
            f"export_pipeline takes a Pipeline; got a {type(pipe).__name__}. A pruner "
            "alone has a method export."
        )
    for name, given in pipe.steps:
        step = _chosen(given)
        if isinstance(step, Pipeline):
            yield from _steps(step, f"{prefix}{name}__")
        elif step is not None and not isinstance(step, str):
            yield prefix + name, step


def _chosen(estimator: Any) -> Any:
    """Return the best estimator of a search, and anything else as it is.

    A search of our own is a net itself, unless it is one for a whole pipeline.
    """
    if isinstance(found := getattr(estimator, "best_estimator_", None), Pipeline):
        return found
    if isinstance(estimator, NET_ESTIMATORS) or not hasattr(estimator, "refit"):
        return estimator
    check_is_fitted(estimator)
    if not hasattr(estimator, "best_estimator_"):
        raise TypeError(
            f"This {type(estimator).__name__} has no best_estimator_ to export: fit it "
            f"with refit=True instead of refit={estimator.refit!r}."
        )
    return estimator.best_estimator_


def _standard(scaler: StandardScaler) -> tuple[Any, Any]:
    return scaler.mean_ if scaler.with_mean else None, scaler.scale_


def _min_max(scaler: MinMaxScaler) -> tuple[Any, Any]:
    return -scaler.min_ / scaler.scale_, 1 / scaler.scale_


def _robust(scaler: RobustScaler) -> tuple[Any, Any]:
    return (
        scaler.center_ if scaler.with_centering else None,
        scaler.scale_ if scaler.with_scaling else None,
    )


def _max_abs(scaler: MaxAbsScaler) -> tuple[Any, Any]:
    return None, scaler.scale_


#: What a scaler subtracts, and divides by after that; None for nothing. Subclasses
#: may do something else, so they are not looked up here.
_SCALERS: dict[type, Callable[[Any], tuple[Any, Any]]] = {
    StandardScaler: _standard,
    MinMaxScaler: _min_max,
    RobustScaler: _robust,
    MaxAbsScaler: _max_abs,
}


#: The parameters of the scalers; what another one does is not known.
_PARAMETERS = frozenset(
    (
        *("clip", "copy", "feature_range", "quantile_range", "unit_variance"),
        *("with_centering", "with_mean", "with_scaling", "with_std"),
    )
)
#: The scalers that clip, and the limits.
_CLIPPING: dict[type, Callable[[Any], tuple[float, float]]] = {
    MinMaxScaler: lambda scaler: scaler.feature_range,
    MaxAbsScaler: lambda scaler: (-1.0, 1.0),
}


def _refuse_unknown(name: str, step: Any) -> None:
    """Raise an error for a step that is not known, or has an option that is not."""
    if type(step) not in (*_SCALERS, SimpleImputer):
        raise UnsupportedLayerError(
            f"Step {name!r} of the pipeline is a {type(step).__name__}. {_ALLOWED}"
        )
    if type(step) is SimpleImputer:
        return
    given = step.get_params(deep=False)
    defaults = type(step)().get_params(deep=False)
    clips = bool(given.get("clip")) and type(step) not in _CLIPPING
    odd = [k for k, v in given.items() if k not in _PARAMETERS and v != defaults[k]]
    for option in [*odd, *(["clip"] if clips else [])]:
        raise UnsupportedLayerError(
            f"Step {name!r} of the pipeline is a {type(step).__name__} with "
            f"{option}={given[option]!r}, which is not known here."
        )


class _Before:
    """The transformers before the net, composed."""

    def __init__(self, n_features: int) -> None:
        self.n_features = n_features
        self.columns = np.arange(n_features)
        self.fill = np.full(n_features, np.nan)
        self.scalings: list[tuple[Any, Any]] = []  # shift and scale, or ...
        self.clips: dict[int, tuple[float, float]] = {}  # ... after which of them
        self.steps: list[tuple[str, Any]] = []  # the same as scikit-learn computes it

    def add(self, name: str, step: Any) -> None:
        """Add a fitted transformer."""
        if type(step) in _SCALERS:
            shift, scale = _SCALERS[type(step)](step)
            width = len(self.columns)
            shift = np.zeros(width) if shift is None else shift
            scale = np.ones(width) if scale is None else scale
            self.scalings.append((shift.astype(np.float64), scale.astype(np.float64)))
            self.steps += _as_computed(step, *self.scalings[-1])
            if getattr(step, "clip", False):
                low, high = _CLIPPING[type(step)](step)
                self.clips[len(self.scalings) - 1] = float(low), float(high)
                self.steps += [
                    ("at_least", np.full(width, float(low))),
                    ("at_most", np.full(width, float(high))),
                ]
        else:
            self._impute(name, step)

    def _impute(self, name: str, step: SimpleImputer) -> None:
        missing = step.missing_values
        is_nan = isinstance(missing, (float, np.floating)) and np.isnan(missing)
        statistics = _as_numbers(step.statistics_)
        if step.add_indicator or not is_nan or statistics is None:
            raise UnsupportedLayerError(
                f"Step {name!r} of the pipeline is a SimpleImputer with "
                f"missing_values={missing!r}, add_indicator={step.add_indicator} and "
                f"values {step.statistics_[:3]}. {_ALLOWED}"
            )
        if len(step.get_feature_names_out()) < len(statistics):
            self._keep(~np.isnan(statistics))  # columns without any value are dropped
            statistics = statistics[~np.isnan(statistics)]
        for shift, scale in self.scalings:
            lost = ~np.isfinite(shift) | ~np.isfinite(scale)
            if lost.any():
                raise UnsupportedLayerError(
                    f"Step {name!r} of the pipeline fills column "
                    f"{self.columns[lost][0]}, of which a scaler before it saw no "
                    "value; put the imputer first, or leave the column out."
                )
        self.steps.append(("fill", statistics))
        raw = self._as_it_was(name, statistics)
        self.fill = np.where(np.isnan(self.fill), raw, self.fill)

    def _keep(self, kept: Any) -> None:
        self.columns, self.fill = self.columns[kept], self.fill[kept]
        self.scalings = [(shift[kept], scale[kept]) for shift, scale in self.scalings]
        self.steps = [(name, values[kept]) for name, values in self.steps]

    def _as_it_was(self, name: str, values: Any) -> Any:
        """Compute the values that scale to these."""
        for i, (shift, scale) in reversed(list(enumerate(self.scalings))):
            low, high = self.clips.get(i, (-np.inf, np.inf))
            outside = np.isnan(self.fill) & ((values < low) | (values > high))
            if outside.any():
                raise UnsupportedLayerError(
                    f"Step {name!r} of the pipeline fills with "
                    f"{values[outside][0]:.6g}, which a scaler before it clips to "
                    f"{low:.6g} to {high:.6g}; put the imputer first."
                )
            values = values * scale + shift
        return values

    def graph(self, output: Step) -> Graph:
        """Make the graph of the pipeline.

        Where columns are far from 0, they go through the steps one by one.
        """
        n, filled = self.n_features, not np.isnan(self.fill).any()
        if self._is_far(output):
            steps = tuple(self.steps)
            return emit(output, Rows(n, self.columns, wide=True, steps=steps))
        fill = self.fill if filled else None
        # Without a scaler, the net itself rounds rows to float32 first.
        rows = Rows(n, self.columns, fill, self._scales())
        return emit(self._put_in_front(output), rows)

    def _scales(self) -> bool:
        """Check whether a scaler changes any value."""
        return any(name != "fill" for name, _ in self.steps)

    def _is_far(self, output: Step) -> bool:
        """Find whether some column's shift is large in units of its deviation."""
        if not self._scales():
            return False
        own = [step for step in in_order(output) if step.kind == "affine"]
        own = [step for step in own if step.inputs[0].kind == "input"]
        parts = [(1 / scale, -shift / scale) for shift, scale in self.scalings]
        parts += [(step.weight, step.bias) for step in own[:1]]
        weight, bias = np.ones(len(self.columns)), np.zeros(len(self.columns))
        for scale, shift in parts:
            weight, bias = weight * scale, bias * scale + shift
            if np.abs(bias).max(initial=0) > _FAR:
                return True
        return False

    def _put_in_front(self, output: Step) -> Step:
        """Put the scaling of columns in front of a net."""
        old = next(step for step in in_order(output) if step.kind == "input")
        step = Step("input", width=old.width)
        for i, (shift, scale) in enumerate(self.scalings):
            step = Step("affine", [step], step.width, 1 / scale, -shift / scale)
            step.divide = (shift, scale)
            if i in self.clips:
                limits = Activation("hardtanh", self.clips[i])
                step = Step("activation", [step], step.width, activation=limits)
        replace(old, step, in_order(output))
        return step if output is old else output


def _as_computed(scaler: Any, shift: Any, scale: Any) -> list[tuple[str, Any]]:
    """List the steps of a scaler as scikit-learn computes them."""
    if type(scaler) is MinMaxScaler:
        return [("multiply", _doubles(scaler.scale_)), ("add", _doubles(scaler.min_))]
    ending = "_rounded" if type(scaler) is StandardScaler else ""
    steps = [(f"subtract{ending}", shift), (f"divide{ending}", scale)]
    return [(name, v) for name, v in steps if (v != (name[0] == "d")).any()]


def _doubles(values: Any) -> Any:
    return np.asarray(values, dtype=np.float64)


def _as_numbers(statistics: Any) -> Any:
    """Convert an imputer's values to float64; None if they are no numbers."""
    try:
        return np.asarray(statistics).astype(np.float64)
    except (TypeError, ValueError):
        return None
