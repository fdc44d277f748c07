"""The methods of a fitted pruner: weights, predictions, report, export."""

from typing import Any

import numpy as np
import torch
from sklearn.base import (
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    is_classifier,
)
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from sklearn_sparse_nn._compat import CallbackSupportMixin, refuse_dataframe_output
from sklearn_sparse_nn.dense.base import (
    FLOAT_ROWS,
    OWN_ROWS,
    MatrixLike,
    NetRows,
    check_rows,
)
from sklearn_sparse_nn.dense.nested import NestedDefault
from sklearn_sparse_nn.dense.source import net_rows
from sklearn_sparse_nn.export import export_pruner, predicting_model
from sklearn_sparse_nn.nets.connectivity import (
    effective_nonzeros,
    input_importances,
    linear_chain,
)
from sklearn_sparse_nn.nets.layers import as_sparse, prunable_layers, unprunable_weights
from sklearn_sparse_nn.nets.seeding import plain_torch
from sklearn_sparse_nn.pruning.limits import costs_of
from sklearn_sparse_nn.runtime import SparseModel
from sklearn_sparse_nn.statistics.activations import hidden_activations

__all__ = ["PrunedNet"]

_FORMATS = ("csr", "csc", "coo", "bsr", "dense")


# Wrapping `transform` for DataFrames would ask for an X that it does not need, so it
# is switched off here, where `transform` is defined, and handled in `transform`.
class PrunedNet(
    CallbackSupportMixin,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    NestedDefault,
    auto_wrap_output_keys=None,  # type: ignore[call-arg]
):
    """An estimator whose net is sparse once it is fitted; not for use by itself."""

    def _has_own_net(self) -> bool:
        """Check whether the net to prune is a user's own, before it is fitted."""
        raise NotImplementedError

    def transform(self, X: MatrixLike | None = None, *, format: str = "csr") -> Any:
        """Return the sparse weights; or, for rows `X`, the last hidden activations.

        Parameters
        ----------
        X : {array-like, sparse matrix, DataFrame} or None, default=None
            Rows of shape (n_samples, n_features); None for the weights.
        format : {"csr", "csc", "coo", "bsr", "dense"}, default="csr"
            scipy.sparse format of what is given, ``"dense"`` for ndarrays.

        Returns
        -------
        weights : dict of layer name to csr_array of shape (out, in)
            Without `X`: every prunable layer's weight, float32. Convolutions count as
            (out, in * kernel), embeddings as (dim, entries).
        activations : csr_array of shape (n_samples, n_hidden)
            With `X`: what reaches the last layer, float32.

        Raises
        ------
        ValueError
            `format` is none of these, or a DataFrame was asked for by ``set_output``.
        """
        check_is_fitted(self)
        if format not in _FORMATS:
            raise ValueError(
                f"format must be one of {', '.join(map(repr, _FORMATS))}; got "
                f"{format!r}."
            )
        if X is None:
            return self._weights(format)
        if format != "dense":
            refuse_dataframe_output(self)
        rows = net_rows(self._rows(X), self._own_dtype)
        own = self._own_dtype is not None
        with plain_torch(own_net=own, autocast=own):
            hidden = hidden_activations(self.net_, rows)
        return hidden.toarray() if format == "dense" else hidden.asformat(format)

    def export(self) -> SparseModel:
        """Make a sparse model, which predicts without torch and is saved as one file.

        Returns
        -------
        model : SparseModel
            With the same predictions, within float32 rounding: pruned weights, dead
            units and unused inputs are not part of it.

        Raises
        ------
        UnsupportedLayerError
            The net has a part that the sparse runtime does not know; names it.
        sklearn.exceptions.NotFittedError
            The pruner is not fitted.
        """
        return export_pruner(self)

    def report(self) -> Any:
        """Tabulate the net by layer.

        Returns
        -------
        report : pandas.DataFrame
            A row for each prunable layer: shape (out, in, ...), whether it was
            pruned, weights, non-zeros, sparsity, effective sparsity (weights on no
            path from an input to an output count as zero; NaN for nets that are no
            nn.Sequential of Linear layers), FLOPs of one row, and bytes as float32,
            dense and as CSR with int32 indices.

        Raises
        ------
        ImportError
            pandas is not installed.
        """
        check_is_fitted(self)
        try:
            import pandas  # an extra
        except ImportError as error:
            raise ImportError(
                f"{type(self).__name__}.report gives a pandas DataFrame: install "
                "pandas, or sklearn-sparse-nn[pandas]."
            ) from error
        layers = prunable_layers(self.net_.module_)
        chain = linear_chain(self.net_.module_, layers)
        effective = effective_nonzeros(chain) if chain and not chain.mixes else {}
        rows = {}
        for name, layer in layers.items():
            weight = layer.turned(layer.weight.detach())
            size, nonzeros = weight.numel(), int(torch.count_nonzero(weight))
            costs = costs_of(layer, nonzeros, self._uses[name])
            rows[name] = {
                "shape": tuple(weight.shape),
                "pruned": name in self.masks_,
                "weights": size,
                "nonzeros": nonzeros,
                "sparsity": 1 - nonzeros / size,
                "effective_sparsity": 1 - effective.get(name, np.nan) / size,
                "flops": costs["flops"],
                "bytes_dense": 4 * size,
                "bytes_csr": costs["bytes"],
            }
        for name, weight in unprunable_weights(self.net_.module_):
            rows[name] = _row_of_unprunable(weight)
        report = pandas.DataFrame.from_dict(rows, orient="index")
        return report.rename_axis("layer")

    @property
    def feature_importances_(self) -> np.ndarray:
        """Mass of the surviving paths from each input, adding up to 1.

        The product of the absolute weights along a path, summed over all paths to
        all outputs; exactly 0 for an input that the net does not use. For modules
        that are an ``nn.Sequential`` of Linear layers, activations and norms, as a
        TabularNet's is: of another module's forward, nothing is known.
        """
        check_is_fitted(self)
        module = self.net_.module_
        chain = linear_chain(module, prunable_layers(module))
        if chain is None or len(chain.input_scale) != self.n_features_in_:
            raise AttributeError(
                "feature_importances_ follows the paths through an nn.Sequential of "
                f"Linear layers, and {type(module).__name__} is none."
            )
        return input_importances(chain)

    def _weights(self, format: str) -> dict[str, object]:
        layers = prunable_layers(self.net_.module_)
        return {
            name: as_sparse(layer, format, self._block)
            for name, layer in layers.items()
        }

    def _row_rules(self, own_net: bool) -> dict[str, Any]:
        """Return what X may be."""
        return dict(OWN_ROWS if own_net else FLOAT_ROWS)

    def _rows(self, X: MatrixLike) -> Any:
        check_is_fitted(self)
        return check_rows(self, X, self._row_rules(self._own_dtype is not None))

    def _outputs(self, method: str, X: NetRows) -> np.ndarray:
        model = None
        if X.ndim == 2 and X.dtype.kind == "f":
            model = predicting_model(self, X)
        if model is None:
            own = self._own_dtype is not None
            with plain_torch(own_net=own, autocast=own):
                return getattr(self.net_, method)(net_rows(X, self._own_dtype))
        if not is_classifier(self):
            return model.forward(X)
        if model.output == "identity":
            proba = model.forward(X)
        else:
            proba = model.predict_proba(X)
        return proba if method == "predict_proba" else proba.argmax(axis=1)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = self._has_own_net()
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags


def _row_of_unprunable(weight: Tensor) -> dict[str, object]:
    """Build the row of a report for a weight that no layer prunes."""
    size, nonzeros = weight.numel(), int(torch.count_nonzero(weight))
    return {
        "shape": tuple(weight.shape),
        "pruned": False,
        "weights": size,
        "nonzeros": nonzeros,
        "sparsity": 1 - nonzeros / size,
        "effective_sparsity": np.nan,
        "flops": np.nan,
        "bytes_dense": 4 * size,
        "bytes_csr": 4 * size,
    }
