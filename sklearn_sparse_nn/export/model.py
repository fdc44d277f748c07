"""Sparse models, made from modules and fitted estimators."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils.validation import check_is_fitted
from skorch import NeuralNetBinaryClassifier
from torch import nn

from sklearn_sparse_nn.dense.base import NET_ESTIMATORS
from sklearn_sparse_nn.exceptions import UnsupportedLayerError
from sklearn_sparse_nn.export.graphs import emit
from sklearn_sparse_nn.export.reading.convert import convert
from sklearn_sparse_nn.export.skorch_nets import output_of, refuse_unknown_net
from sklearn_sparse_nn.export.steps import PLAIN, Step
from sklearn_sparse_nn.nets.seeding import plain_torch
from sklearn_sparse_nn.nets.targets import Values
from sklearn_sparse_nn.runtime import SparseModel

__all__ = ["as_steps", "export_module", "export_pruner", "head_of"]


def export_module(
    module: nn.Module,
    *,
    n_features: int | None = None,
    output: str = "identity",
    classes: ArrayLike | None = None,
    target_mean: float = 0.0,
    target_scale: float = 1.0,
    feature_names: Sequence[str] | None = None,
) -> SparseModel:
    """Make a sparse model of a torch module, as it is in evaluation mode.

    Batch norms are folded into the layers beside them in float64. Dropout, stored
    zeros, and units that are constant or that no output depends on are removed.
    The values are those of the module within float32 rounding.

    Parameters
    ----------
    module : nn.Module
        A module with one input of shape (n_rows, n_features), made of known layers,
        functions, residual additions and concatenations. If it returns a tuple, the
        first entry counts. Weights of another dtype are converted to float32. The
        module may be on any device and in any mode, and is not changed: a copy of it,
        with the same parameters, is run on placeholders and on drawn rows.
    n_features : int or None, default=None
        The number of columns of the input; None to take it from the first layer.
    output : {"identity", "softmax", "sigmoid"}, default="identity"
        The function that turns the module's outputs into probabilities.
    classes : array-like of shape (n_classes,) or None, default=None
        The labels of a classifier; None for a regressor.
    target_mean : float, default=0.0
        The value that is added to a regressor's scaled outputs.
    target_scale : float, default=1.0
        The factor by which a regressor's outputs are multiplied.
    feature_names : sequence of str or None, default=None
        The names of the columns.

    Returns
    -------
    model : SparseModel

    Raises
    ------
    UnsupportedLayerError
        A part of the module is not known, or the module computes something else than
        what was read from its forward, which is tried on drawn rows: it asks for the
        type of its input, draws random numbers, or counts its calls. The message names
        the part.
    ValueError
        A weight is NaN or infinite, or widths do not fit.

    Examples
    --------
    >>> from torch import nn
    >>> from sklearn_sparse_nn import export_module
    >>> net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Dropout(), nn.Linear(4, 2))
    >>> model = export_module(net)
    >>> model.forward([[1.0, 2.0, 3.0]]).shape
    (1, 2)
    """
    with plain_torch(own_net=True):
        graph = emit(convert(module, n_features))
    return SparseModel(
        graph,
        output=output,
        classes=classes,
        target_mean=target_mean,
        target_scale=target_scale,
        feature_names=feature_names,
    )


def export_pruner(estimator: Any, rows: np.ndarray | None = None) -> SparseModel:
    """Make a sparse model of a fitted pruner, or of a TabularNet.

    Parameters
    ----------
    estimator : PrunedClassifier, PrunedRegressor or TabularNet
        A fitted estimator. It is not changed.
    rows : ndarray of shape (n_rows, n_features) or None, default=None
        Rows to compare the net with the model on, besides drawn ones.

    Returns
    -------
    model : SparseModel
        A model with the estimator's labels or units, and the names of its features.

    Raises
    ------
    UnsupportedLayerError
        The net has an unknown layer, or predicts in an unknown way.
    sklearn.exceptions.NotFittedError
        `estimator` is not fitted.
    """
    with plain_torch(own_net=True):
        graph = emit(as_steps(estimator, rows))
    return SparseModel(
        graph,
        feature_names=getattr(estimator, "feature_names_in_", None),
        **head_of(estimator),
    )


def as_steps(estimator: Any, rows: np.ndarray | None = None) -> Step:
    """Convert the net of a fitted estimator to steps.

    Parameters
    ----------
    estimator : pruner or TabularNet
        A fitted estimator.
    rows : ndarray of shape (n_rows, n_features) or None, default=None
        Rows to compare the net with the steps on, besides drawn ones.

    Returns
    -------
    output : Step
        The step that computes its raw outputs.
    """
    if not isinstance(estimator, NET_ESTIMATORS):
        raise TypeError(
            "Fitted pruners and TabularNets can be exported; got a "
            f"{type(estimator).__name__}. A module of your own goes to export_module."
        )
    check_is_fitted(estimator)
    net = estimator.net_
    refuse_unknown_net(net)
    with plain_torch(own_net=True):
        steps = convert(net.module_, estimator.n_features_in_, rows)
    while steps.kind == "activation" and steps.activation == PLAIN:  # made flat
        steps = steps.inputs[0]
    if output_of(net) == "probability":
        if steps.kind != "activation" or steps.activation.name != "sigmoid":
            raise UnsupportedLayerError(
                "A net trained on BCELoss must end with a Sigmoid to be exported."
            )
        steps = steps.inputs[0]
    if isinstance(net, NeuralNetBinaryClassifier) and steps.width != 1:
        raise UnsupportedLayerError(
            f"A {type(net).__name__} gives one output, and this one gives "
            f"{steps.width}."
        )
    return steps


def head_of(estimator: Any) -> dict[str, Any]:
    """Find how a fitted estimator turns raw outputs into predictions.

    Parameters
    ----------
    estimator : pruner or TabularNet
        A fitted estimator.

    Returns
    -------
    arguments : dict
        The arguments of SparseModel that say so.
    """
    targets = estimator.targets_
    if isinstance(targets, Values):
        return {"target_mean": targets.mean, "target_scale": targets.scale}
    output = output_of(estimator.net_)
    output = "sigmoid" if output == "probability" else output
    return {"output": output, "classes": estimator.classes_}
