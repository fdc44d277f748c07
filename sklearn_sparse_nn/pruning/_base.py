"""What the two pruners share: parameters, fit, transform, report."""

from contextlib import nullcontext
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from scipy import sparse
from sklearn.base import (
    ClassNamePrefixFeaturesOutMixin,
    MetaEstimatorMixin,
    TransformerMixin,
)
from sklearn.utils.validation import check_is_fitted
from skorch import NeuralNet

from sklearn_sparse_nn._compat import refuse_dataframe_output
from sklearn_sparse_nn.core.granularity import Block, resolve_granularity
from sklearn_sparse_nn.nets.estimator import NetEstimator, as_net_input
from sklearn_sparse_nn.nets.layers import as_sparse, prunable_layers, zero_mask
from sklearn_sparse_nn.nets.seeding import isolated_rng
from sklearn_sparse_nn.nets.tabular import TabularNet
from sklearn_sparse_nn.nets.training import drop_training_state
from sklearn_sparse_nn.pruning._dense import (
    as_seed,
    dense_net,
    is_own_net,
    own_net_input,
)
from sklearn_sparse_nn.pruning._engine import prune
from sklearn_sparse_nn.pruning._parameters import CONSTRAINTS
from sklearn_sparse_nn.pruning._paths import (
    effective_nonzeros,
    input_importances,
    linear_chain,
)
from sklearn_sparse_nn.pruning._request import resolve_request

__all__ = ["BasePruner"]

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
        allocation: Any = "global",
        schedule: Any = "cubic",
        n_steps: int = 10,
        dense_epochs: int | None = None,
        prune_epochs: int = 10,
        finetune_epochs: int = 10,
        rewind: str | None = None,
        layers: Any = None,
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
        self.layers = layers
        self.memory = memory
        self.random_state = random_state
        self.verbose = verbose

    def _fit(self, X: Any, y: np.ndarray) -> dict[str, Any]:
        seed = as_seed(self.random_state)
        borrowed = isolated_rng(seed) if is_own_net(self.estimator) else nullcontext()
        with borrowed:
            dense = dense_net(
                self.estimator, self._default_estimator, X, y, random_state=seed
            )
            net = dense.net
            layers = prunable_layers(net.module_)
            request = resolve_request(
                self, layers, max_epochs=net.max_epochs, frozen=dense.frozen
            )
            alive = zero_mask(request.layers) if dense.frozen else None
            generator = torch.Generator().manual_seed(seed)
            masks, history = prune(
                net,
                dense.X,
                dense.y,
                layers=request.layers,
                masks=alive or _all_alive(request.layers),
                plan=request.plan,
                decide=partial(request.decide, generator=generator),
                rewind=self.rewind,
                report=_print_row if self.verbose else None,
            )
        drop_training_state(net)
        zeros = {name: int((~mask).sum()) for name, mask in masks.items()}
        sizes = {name: mask.numel() for name, mask in masks.items()}
        return {
            "net_": net,
            "targets_": dense.targets,
            "masks_": {
                name: request.layers[name].turned(mask).numpy().copy()
                for name, mask in masks.items()
            },
            "sparsity_": sum(zeros.values()) / sum(sizes.values()),
            "n_nonzero_": sum(sizes.values()) - sum(zeros.values()),
            "layer_sparsity_": {name: zeros[name] / sizes[name] for name in masks},
            "history_": history,
            "_n_features_out": self._hidden(net, X[:1]).shape[1],
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
        hidden = self._hidden(self.net_, self._validate_X(X))
        return hidden.toarray() if format == "dense" else hidden.asformat(format)

    def report(self) -> Any:
        """Tabulate the net by layer.

        Returns
        -------
        report : pandas.DataFrame
            A row for each prunable layer: shape (out, in, ...), whether it was
            pruned, weights, non-zeros, sparsity, effective sparsity (weights on no
            path from an input to an output count as zero; NaN for nets that are no
            chain of Linear layers), FLOPs of one row (of one position in a
            convolution), and bytes as float32, dense and as CSR with int32 indices.

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
        effective = effective_nonzeros(chain) if chain else {}
        rows = {}
        for name, layer in layers.items():
            weight = layer.turned(layer.weight.detach())
            size, nonzeros = weight.numel(), int(torch.count_nonzero(weight))
            rows[name] = {
                "shape": tuple(weight.shape),
                "pruned": name in self.masks_,
                "weights": size,
                "nonzeros": nonzeros,
                "sparsity": 1 - nonzeros / size,
                "effective_sparsity": 1 - effective.get(name, np.nan) / size,
                "flops": 2 * nonzeros,
                "bytes_dense": 4 * size,
                "bytes_csr": 8 * nonzeros + 4 * (weight.shape[0] + 1),
            }
        report = pandas.DataFrame.from_dict(rows, orient="index")
        return report.rename_axis("layer")

    @property
    def feature_importances_(self) -> np.ndarray:
        """Mass of the surviving paths from each input, adding up to 1.

        The product of the absolute weights along a path, summed over all paths to
        all outputs; exactly 0 for an input that the net does not use. For nets that
        are one chain of Linear layers.
        """
        check_is_fitted(self)
        module = self.net_.module_
        chain = linear_chain(module, prunable_layers(module))
        if chain is None or next(iter(chain.values())).shape[1] != self.n_features_in_:
            raise AttributeError(
                "feature_importances_ follows the paths of a chain of Linear layers, "
                f"and {type(module).__name__} is none."
            )
        return input_importances(chain)

    def _weights(self, format: str) -> dict[str, Any]:
        part = resolve_granularity(self.granularity)
        block = (part.rows, part.columns) if isinstance(part, Block) else None
        layers = prunable_layers(self.net_.module_)
        return {name: as_sparse(layer, format, block) for name, layer in layers.items()}

    def _hidden(self, net: NeuralNet, X: Any) -> sparse.csr_array:
        """Give what reaches the last prunable layer, made sparse batch by batch."""
        if is_own_net(self.estimator):
            X = own_net_input(net.module_, X)
        *_, last = prunable_layers(net.module_).values()
        seen: list[torch.Tensor] = []
        hook = last.module.register_forward_pre_hook(
            lambda _, inputs: seen.append(inputs[0].detach())
        )
        parts = []
        try:
            with torch.random.fork_rng(devices=[]):  # a DataLoader draws from it
                for outputs in net.forward_iter(as_net_input(X)):
                    first = outputs[0] if isinstance(outputs, tuple) else outputs
                    rows = seen.pop()[: len(first)].cpu().flatten(1).numpy()
                    parts.append(sparse.csr_array(rows))
        finally:
            hook.remove()
        return sparse.vstack(parts, format="csr")

    def _ask(self, method: str, X: Any) -> np.ndarray:
        if not is_own_net(self.estimator):
            return super()._ask(method, X)
        X = own_net_input(self.net_.module_, X)
        with torch.random.fork_rng(devices=[]):  # a DataLoader draws from it
            return super()._ask(method, X)

    @property
    def _x_dtypes(self) -> Any:
        if not is_own_net(self.estimator):
            return np.float32
        return [np.float32, np.int64, np.int32, np.int16, np.int8, np.uint8]

    @property
    def _allow_nd(self) -> bool:  # type: ignore[override]
        return is_own_net(self.estimator)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags


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
