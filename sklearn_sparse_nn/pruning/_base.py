"""What the two pruners share: parameters, fit, transform, report."""

import inspect
from contextlib import nullcontext
from numbers import Real
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.base import (
    ClassNamePrefixFeaturesOutMixin,
    MetaEstimatorMixin,
    TransformerMixin,
    is_classifier,
)
from sklearn.frozen import FrozenEstimator
from sklearn.utils.validation import check_is_fitted

from sklearn_sparse_nn._compat import refuse_dataframe_output
from sklearn_sparse_nn.core.granularity import Block
from sklearn_sparse_nn.export import export_pruner, predicting_model
from sklearn_sparse_nn.nets.activations import (
    hidden_activations,
    last_layer,
    spare_global_rng,
)
from sklearn_sparse_nn.nets.distillation import check_distillable
from sklearn_sparse_nn.nets.estimator import NetEstimator, as_net_input
from sklearn_sparse_nn.nets.layers import as_sparse, prunable_layers, zero_mask
from sklearn_sparse_nn.nets.seeding import as_seed, isolated_rng
from sklearn_sparse_nn.nets.tabular import TabularNet
from sklearn_sparse_nn.nets.training import drop_training_state
from sklearn_sparse_nn.nets.units import uses_per_row
from sklearn_sparse_nn.pruning._budget import costs_of
from sklearn_sparse_nn.pruning._dense import (
    DenseNet,
    as_dtype,
    dense_net,
    is_own_net,
)
from sklearn_sparse_nn.pruning._engine import prune
from sklearn_sparse_nn.pruning._parameters import CONSTRAINTS
from sklearn_sparse_nn.pruning._paths import (
    effective_nonzeros,
    input_importances,
    linear_chain,
)
from sklearn_sparse_nn.pruning._request import resolve_request
from sklearn_sparse_nn.runtime import SparseModel

__all__ = ["BasePruner"]

_INTEGERS = (np.int64, np.int32, np.int16, np.int8, np.uint32, np.uint16, np.uint8)
_FORMATS = ("csr", "csc", "coo", "bsr", "dense")


# Wrapping `transform` for DataFrames would ask for an X that it does not need, so it
# is switched off here, where `transform` is defined, and handled in `transform`.
class BasePruner(
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    MetaEstimatorMixin,
    NetEstimator,
    auto_wrap_output_keys=None,  # type: ignore[call-arg]
):
    """The meta-estimator around a skorch net; not for use by itself."""

    _default_estimator: ClassVar[type[TabularNet]]

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = CONSTRAINTS

    def __init__(
        self,
        estimator: Any = None,
        *,
        sparsity: Any = 0.9,
        threshold: float | None = None,
        importance: Any = "magnitude",
        granularity: Any = "unstructured",
        allocation: Any = "auto",
        schedule: Any = "cubic",
        n_steps: int = 10,
        dense_epochs: int | None = None,
        prune_epochs: int = 10,
        finetune_epochs: int = 10,
        rewind: Any = None,
        regrow: Any = None,
        penalty: str | None = None,
        budget: Any = None,
        layers: Any = None,
        distill: Any = 0.0,
        subsample: int | None = 2048,
        memory: Any = None,
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.estimator = estimator
        self.sparsity = sparsity
        self.threshold = threshold
        self.importance = importance
        self.granularity = granularity
        self.allocation = allocation
        self.schedule = schedule
        self.n_steps = n_steps
        self.dense_epochs = dense_epochs
        self.prune_epochs = prune_epochs
        self.finetune_epochs = finetune_epochs
        self.rewind = rewind
        self.regrow = regrow
        self.penalty = penalty
        self.budget = budget
        self.layers = layers
        self.distill = distill
        self.subsample = subsample
        self.memory = memory
        self.random_state = random_state
        self.verbose = verbose

    def _validate(self, X: Any, y: Any) -> tuple[Any, np.ndarray]:
        if isinstance(self.estimator, FrozenEstimator):
            inner = self.estimator.estimator
            if isinstance(inner, NetEstimator):
                inner._validate_X(X)  # names and number of columns, in its words
        return super()._validate(X, y)

    def _fit(self, X: Any, y: np.ndarray) -> dict[str, Any]:
        seed = as_seed(self.random_state)
        own = is_own_net(self.estimator)
        # What someone else wrote may draw from the global generators.
        parts = [self.importance, self.allocation, self.schedule]
        parts += [self.granularity, self.regrow]
        foreign = own or not all(map(_is_ours, parts))
        with isolated_rng(seed) if foreign else nullcontext():
            dense = dense_net(
                self.estimator, self._default_estimator, X, y, random_state=seed
            )
            fitted = self._prune(dense, seed)
        return {
            **fitted,
            "targets_": dense.targets,
            "_own_dtype": dense.X.dtype if own else None,
        }

    def _prune(self, dense: DenseNet, seed: int) -> dict[str, Any]:
        """Prune a dense net in place; give the fitted attributes that come of it.

        Those with an underscore in front are what later calls need, so that changed
        parameters change no fitted net.
        """
        net = dense.net
        last, width = last_layer(net, dense.X) or (None, 0)
        uses = uses_per_row(net, dense.X)
        request = resolve_request(
            self,
            prunable_layers(net.module_),
            last=last,
            uses=uses,
            max_epochs=net.max_epochs,
            frozen=dense.frozen,
        )
        if request.distill.weight:
            check_distillable(net)
        alive = zero_mask(request.layers) if dense.frozen else None
        generator = torch.Generator().manual_seed(seed)
        masks, history = prune(
            net,
            dense.X,
            dense.y,
            request=request,
            masks=alive or _all_alive(request.layers),
            generator=generator,
            report=_print_row if self.verbose else None,
        )
        drop_training_state(net)
        spare_global_rng(net)
        part = request.granularity
        return {
            "net_": net,
            **_count(request.layers, masks),
            "history_": history,
            "_block": (part.rows, part.columns) if isinstance(part, Block) else None,
            "_n_features_out": width,
            "_uses": uses,
        }

    def transform(self, X: Any = None, *, format: str = "csr") -> Any:
        """Give the sparse weights; or, for rows `X`, the last hidden activations.

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
        X = self._net_input(self._validate_X(X))
        hidden = hidden_activations(self.net_, X)
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

    def _weights(self, format: str) -> dict[str, Any]:
        layers = prunable_layers(self.net_.module_)
        return {
            name: as_sparse(layer, format, self._block)
            for name, layer in layers.items()
        }

    def _ask(self, method: str, X: Any) -> np.ndarray:
        model = predicting_model(self) if X.ndim == 2 and X.dtype.kind == "f" else None
        if model is None:
            return super()._ask(method, X)
        if not is_classifier(self):
            return model.forward(X)
        proba = model.predict_proba(X)
        return proba if method == "predict_proba" else proba.argmax(axis=1)

    def _net_input(self, X: Any) -> Any:
        if self._own_dtype is not None:
            X = as_dtype(X, self._own_dtype)
        return as_net_input(X)

    def _x_rules(self, *, fitted: bool = False) -> dict[str, Any]:
        rules = super()._x_rules(fitted=fitted)
        own = self._own_dtype is not None if fitted else is_own_net(self.estimator)
        if own:  # shaped rows for a convolution, integers for an embedding
            rules |= {"dtype": [np.float32, *_INTEGERS], "allow_nd": True}
        return rules

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = is_own_net(self.estimator)
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags


def _is_ours(part: Any) -> bool:
    """Tell a part of this package, with all that is in it, from somebody else's."""
    if part is None or isinstance(part, (str, Real)):
        return True
    home = part if inspect.isfunction(part) else type(part)
    nested = part.get_params(deep=False) if hasattr(part, "get_params") else {}
    known = str(home.__module__).startswith("sklearn_sparse_nn.")
    return known and all(map(_is_ours, nested.values()))


def _count(layers: Any, masks: Any) -> dict[str, Any]:
    """Give the fitted attributes that say what was pruned."""
    zeros = {name: int((~mask).sum()) for name, mask in masks.items()}
    sizes = {name: mask.numel() for name, mask in masks.items()}
    return {
        "masks_": {
            name: layers[name].turned(mask).numpy().copy()
            for name, mask in masks.items()
        },
        "sparsity_": sum(zeros.values()) / sum(sizes.values()),
        "n_nonzero_": sum(sizes.values()) - sum(zeros.values()),
        "layer_sparsity_": {name: zeros[name] / sizes[name] for name in masks},
    }


def _all_alive(layers: Any) -> dict[str, torch.Tensor]:
    return {
        name: torch.ones(layer.turned(layer.weight).shape, dtype=torch.bool)
        for name, layer in layers.items()
    }


def _print_row(row: dict[str, Any]) -> None:
    scores = "  ".join(
        f"{key} {value:.4g}"
        for key, value in row.items()
        if key not in ("phase", "epoch")
    )
    print(f"{row['phase']:>8} {row['epoch']:>4}  {scores}")
