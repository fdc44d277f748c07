"""The default dense nets: scikit-learn estimators that build and own a skorch net."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from scipy import sparse
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.sparsefuncs import mean_variance_axis
from skorch import NeuralNetClassifier, NeuralNetRegressor
from skorch.callbacks import EarlyStopping, EpochScoring, PassthroughScoring, PrintLog
from skorch.dataset import ValidSplit
from skorch.utils import noop

from sklearn_sparse_nn._compat import (
    Integral,
    Interval,
    InvalidParameterError,
    Real,
    StrOptions,
    as_python,
    check_parameters,
)
from sklearn_sparse_nn.dense.base import (
    FLOAT_ROWS,
    NetClassifierMixin,
    NetRegressorMixin,
    as_net_input,
    check_fit,
    check_rows,
    refuse_metadata,
    transaction,
)
from sklearn_sparse_nn.nets.batches import BatchIterator
from sklearn_sparse_nn.nets.callbacks import (
    clone_without,
    copy_callbacks,
    refuse_to_pickle,
)
from sklearn_sparse_nn.nets.modules import ACTIVATIONS, NORMS, TabularModule
from sklearn_sparse_nn.nets.seeding import (
    GlobalState,
    as_seed,
    is_ours,
    plain_torch,
)
from sklearn_sparse_nn.nets.targets import Labels, Values
from sklearn_sparse_nn.training.run import TrainingRun, drop_training_state

__all__ = ["TabularNet", "TabularNetClassifier", "TabularNetRegressor"]

ActivationName = Literal[
    "relu", "leaky_relu", "elu", "gelu", "silu", "tanh", "softsign"
]
NormName = Literal["batch", "layer"]
OptimizerName = Literal["adamw", "adam", "sgd"]

_OPTIMIZERS: dict[str, tuple[type[torch.optim.Optimizer], dict[str, Any]]] = {
    # The fused step takes a fifth off a training step of the default net on a CPU.
    "adam": (torch.optim.Adam, {"fused": True}),
    "adamw": (torch.optim.AdamW, {"fused": True}),
    "sgd": (torch.optim.SGD, {"momentum": 0.9, "nesterov": True, "fused": True}),
}
_POSITIVE = Interval(Integral, 1, None, closed="left")
_PREDICT_ROWS = 1024  # a batch of activations of the default net then fits in L2


class _TabularNeuralNet:
    """The base of the two skorch nets below: few callbacks, a short history."""

    rows_at_once = 16

    train_split: Any
    verbose: Any
    history: Any
    module_: Any

    @property
    def _default_callbacks(self) -> list[tuple[str, Any]]:
        callbacks = [("train_loss", PassthroughScoring("train_loss", on_train=True))]
        if self.train_split is not None:
            callbacks.append(("valid_loss", PassthroughScoring("valid_loss")))
            callbacks += self._valid_scores
        if self.verbose:
            callbacks.append(("print_log", PrintLog()))
        return callbacks

    @property
    def _valid_scores(self) -> list[tuple[str, Any]]:
        return []

    def on_epoch_begin(self, net: Any, **kwargs: Any) -> None:
        """Delete the batches of the last epoch: its means are in the history."""
        if self.history:
            self.history[-1]["batches"].clear()
        super().on_epoch_begin(net, **kwargs)  # type: ignore[misc]

    def infer(self, x: torch.Tensor, **fit_params: Any) -> torch.Tensor:
        """Run the module; outside training, on batches filled up with empty rows.

        BLAS adds a row's products in another order when there are only a few rows, so
        a row's outputs would depend on the other rows. They still may, by rounding,
        but for most widths they do not.
        """
        n_rows = len(x)
        if not self.module_.training:
            x = torch.nn.functional.pad(x, (0, 0, 0, -n_rows % self.rows_at_once))
        return super().infer(x, **fit_params)[:n_rows]  # type: ignore[misc]


class _TabularNeuralNetClassifier(_TabularNeuralNet, NeuralNetClassifier):
    @property
    def _valid_scores(self) -> list[tuple[str, Any]]:
        score = EpochScoring("accuracy", name="valid_acc", lower_is_better=False)
        return [("valid_acc", score)]


class _TabularNeuralNetRegressor(_TabularNeuralNet, NeuralNetRegressor):
    pass


class TabularNet(BaseEstimator):
    """The base of the classifier and the regressor; not for use by itself."""

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "hidden_layer_sizes": [
            "array-like",
            Interval(Integral, 1, None, closed="left"),
        ],
        "activation": [StrOptions(set(ACTIVATIONS))],
        "dropout": [Interval(Real, 0, 1, closed="left")],
        "norm": [StrOptions(set(NORMS)), None],
        "optimizer": [StrOptions(set(_OPTIMIZERS)), callable],
        "lr": [Interval(Real, 0, None, closed="neither")],
        "weight_decay": [Interval(Real, 0, None, closed="left")],
        "batch_size": [
            Interval(Integral, 1, None, closed="left"),
            StrOptions({"auto"}),
        ],
        "max_epochs": [_POSITIVE],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "patience": [_POSITIVE],
        "callbacks": [list, None],
        "device": [str],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        hidden_layer_sizes: Sequence[int] | int = (256, 256, 256),
        *,
        activation: ActivationName = "relu",
        dropout: float = 0.0,
        norm: NormName | None = None,
        optimizer: OptimizerName | Callable[..., torch.optim.Optimizer] = "adamw",
        lr: float = 1e-3,
        weight_decay: float = 1e-4,
        batch_size: int | Literal["auto"] = "auto",
        max_epochs: int = 20,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        patience: int = 5,
        callbacks: list[Any] | None = None,
        device: str = "cpu",
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
    ) -> None:
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.dropout = dropout
        self.norm = norm
        self.optimizer = optimizer
        self.lr = lr
        self.weight_decay = weight_decay
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.callbacks = callbacks
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: Any, y: Any, **fit_params: Any) -> Self:
        """Train a dense net.

        Parameters
        ----------
        X : {array-like, sparse matrix, DataFrame} of shape (n_samples, n_features)
            Numbers, converted to float32. Sparse rows are made dense batch by batch.
        y : array-like of shape (n_samples,)
            Labels of any type for a classifier, numbers for a regressor.
        **fit_params
            None are supported; `sample_weight` is refused rather than ignored.

        Returns
        -------
        self : object
            A failed or interrupted fit leaves an earlier one as it was.
        """
        refuse_metadata(self, "fit", fit_params, "X and y")
        check_parameters(self)
        with transaction(self):
            X, y = check_fit(self, X, y, FLOAT_ROWS)
            targets = self._learn_targets(y)
            with self._global_state().isolated():
                net = self.build_net(X, y, targets).initialize()
                run = TrainingRun(net, as_net_input(X), targets.encode(y))
                for _ in range(net.max_epochs):
                    if not run.epoch("dense"):
                        break
                run.end()
            drop_training_state(net)
            self.net_, self.targets_ = net, targets
        return self

    def __sklearn_clone__(self) -> Self:
        plain = super().__sklearn_clone__
        return clone_without(self, "callbacks", plain, copy_callbacks)

    def __getstate__(self) -> Any:
        refuse_to_pickle(type(self).__name__, getattr(self, "net_", None), self)
        return super().__getstate__()

    def _global_state(self) -> GlobalState:
        used = not is_ours(self.optimizer, self.callbacks)
        return GlobalState(as_seed(self.random_state) if used else 0, used)

    def _rows(self, X: Any) -> Any:
        return check_rows(self, X, FLOAT_ROWS)

    def _outputs(self, method: str, X: Any) -> np.ndarray:
        with plain_torch():
            return getattr(self.net_, method)(as_net_input(X))

    def build_net(self, X: Any, y: np.ndarray, targets: Labels | Values) -> Any:
        """Build the skorch net for validated data, seeded but not initialized.

        Parameters
        ----------
        X : ndarray or csr matrix of shape (n_samples, n_features), float32
            The rows; their columns are standardised inside the net.
        y : ndarray of shape (n_samples,)
            The targets, for a stratified validation split.
        targets : Labels or Values
            The meaning of the outputs.

        Returns
        -------
        net : skorch.NeuralNet
        """
        sizes = self._checked_sizes(X.shape[0])
        seeds = check_random_state(as_seed(self.random_state)).randint(
            2**31 - 1, size=3
        )
        module_seed, order_seed, split_seed = map(int, seeds)
        batch_size = as_python(self.batch_size)
        if batch_size == "auto":
            batch_size = min(256, max(16, X.shape[0] // 64))
        mean, scale = column_mean_and_scale(X)
        optimizer: Any = self.optimizer
        optimizer, options = _OPTIMIZERS.get(optimizer, (optimizer, {}))
        return self._net_class(
            TabularModule,
            module__mean=mean,
            module__scale=scale,
            module__n_outputs=targets.n_outputs,
            module__hidden_layer_sizes=sizes,
            module__activation=self.activation,
            module__dropout=as_python(self.dropout),
            module__norm=self.norm,
            module__seed=module_seed,
            criterion=self._criterion,
            optimizer=optimizer,
            optimizer__weight_decay=as_python(self.weight_decay),
            **{f"optimizer__{name}": value for name, value in options.items()},
            lr=as_python(self.lr),
            batch_size=batch_size,
            max_epochs=as_python(self.max_epochs),
            iterator_train=BatchIterator,
            iterator_train__shuffle=True,
            iterator_train__random_state=order_seed,
            iterator_valid=BatchIterator,
            iterator_valid__batch_size=max(batch_size, _PREDICT_ROWS),
            train_split=self._split(y, split_seed),
            callbacks=self._callbacks(),
            device=self.device,
            verbose=self.verbose,
        )

    def _checked_sizes(self, n_samples: int) -> tuple[int, ...]:
        """Return the widths; raise if they cannot be built or trained."""
        sizes = tuple(np.atleast_1d(self.hidden_layer_sizes).tolist())
        if not all(isinstance(size, int) and size > 0 for size in sizes):
            raise InvalidParameterError(
                f"The 'hidden_layer_sizes' parameter of {type(self).__name__} must be "
                f"positive ints, one for every layer. Got {self.hidden_layer_sizes!r} "
                "instead."
            )
        if self.early_stopping:
            n_samples -= int(np.ceil(self.validation_fraction * n_samples))
        if self.norm == "batch" and (self.batch_size == 1 or n_samples < 2):
            raise ValueError(
                "norm='batch' cannot train on batches of 1 sample; use norm=None or "
                "'layer', or give it more."
            )
        return sizes

    def _callbacks(self) -> list[Any]:
        callbacks = copy_callbacks(list(self.callbacks or []))
        if self.early_stopping:
            stopping = EarlyStopping(
                patience=as_python(self.patience), load_best=True, sink=noop
            )
            callbacks.append(("early_stopping", stopping))
        return callbacks

    def _split(self, y: np.ndarray, seed: int) -> ValidSplit | None:
        """Hold out a fraction for early stopping, stratified where classes allow."""
        if not self.early_stopping:
            return None
        stratified = False
        if isinstance(self, NetClassifierMixin):
            n_valid = int(np.ceil(self.validation_fraction * len(y)))
            _, counts = np.unique(y, return_counts=True)
            room = min(n_valid, len(y) - n_valid)
            stratified = bool(counts.min() >= 2 and len(counts) <= room)
        return ValidSplit(
            as_python(self.validation_fraction),
            stratified=stratified,
            random_state=seed,
        )


class TabularNetClassifier(NetClassifierMixin, TabularNet):
    """A dense neural net for tabular data: what a pruner starts from.

    A multilayer perceptron trained on cross-entropy. Columns are standardised in its
    first stage, so raw features may be passed. It is an ordinary scikit-learn
    estimator; the skorch net that it builds is in ``net_``.

    Parameters
    ----------
    hidden_layer_sizes : sequence of int or int, default=(256, 256, 256)
        The number of neurons of every hidden layer; ``()`` for a linear model.
    activation : str, default="relu"
        The activation function after every hidden layer: ``"relu"``, ``"leaky_relu"``,
        ``"elu"``, ``"gelu"``, ``"silu"``, ``"tanh"`` or ``"softsign"``.
    dropout : float in [0, 1), default=0.0
        The probability that a hidden activation is set to zero in a training step.
    norm : {"batch", "layer"} or None, default=None
        The normalisation before every activation. docs/defaults.md has what it brings.
    optimizer : {"adamw", "adam", "sgd"} or callable, default="adamw"
        The optimizer. ``"sgd"`` has Nesterov momentum 0.9. A callable is a torch
        optimizer class that takes `lr` and `weight_decay`.
    lr : float, default=0.001
        The learning rate.
    weight_decay : float, default=0.0001
        The decay of the weights, as `optimizer` defines it.
    batch_size : int or "auto", default="auto"
        The number of rows in a training step. ``"auto"`` takes a 64th of the rows, at
        least 16 and at most 256: a small set needs many small steps to recover from
        pruning.
    max_epochs : int, default=20
        The number of passes over the training data.
    early_stopping : bool, default=False
        Whether to hold out `validation_fraction` of the rows, to stop when their loss
        has not improved for `patience` epochs, and to restore the best epoch.
    validation_fraction : float in (0, 1), default=0.1
        The fraction of the rows to hold out. Used only with `early_stopping`.
    patience : int, default=5
        The number of epochs without improvement before training stops. Used only with
        `early_stopping`.
    callbacks : list or None, default=None
        The skorch callbacks to add to the net's own.
    device : str, default="cpu"
        The torch device to train and predict on.
    random_state : int, RandomState instance or None, default=None
        The seed of the initial weights, the order of rows, dropout and the validation
        split. No global random state is read or changed.
    verbose : int, default=0
        The amount of output: 1 prints a line for every epoch.

    Attributes
    ----------
    net_ : skorch.NeuralNetClassifier
        The trained net, without its optimizer.
    classes_ : ndarray of shape (n_classes,)
        The class labels.
    n_features_in_ : int
        The number of columns seen in fit.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        The names of the columns, if X was a DataFrame with string names.

    See Also
    --------
    PrunedClassifier : Makes such a net sparse.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn_sparse_nn import TabularNetClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> net = TabularNetClassifier((32,), lr=0.01, random_state=0).fit(X, y)
    >>> bool(net.score(X, y) > 0.9)
    True
    """

    _net_class = _TabularNeuralNetClassifier
    _criterion = torch.nn.CrossEntropyLoss


class TabularNetRegressor(NetRegressorMixin, TabularNet):
    """A dense neural net for tabular data: what a pruner starts from.

    A multilayer perceptron trained on squared error. Columns are standardised in its
    first stage and targets before training, so raw units may be passed and come back.

    Parameters
    ----------
    hidden_layer_sizes : sequence of int or int, default=(256, 256, 256)
        The number of neurons of every hidden layer; ``()`` for a linear model.
    activation : str, default="relu"
        The activation function after every hidden layer: ``"relu"``, ``"leaky_relu"``,
        ``"elu"``, ``"gelu"``, ``"silu"``, ``"tanh"`` or ``"softsign"``.
    dropout : float in [0, 1), default=0.0
        The probability that a hidden activation is set to zero in a training step.
    norm : {"batch", "layer"} or None, default=None
        The normalisation before every activation. docs/defaults.md has what it brings.
    optimizer : {"adamw", "adam", "sgd"} or callable, default="adamw"
        The optimizer. ``"sgd"`` has Nesterov momentum 0.9. A callable is a torch
        optimizer class that takes `lr` and `weight_decay`.
    lr : float, default=0.001
        The learning rate.
    weight_decay : float, default=0.0001
        The decay of the weights, as `optimizer` defines it.
    batch_size : int or "auto", default="auto"
        The number of rows in a training step. ``"auto"`` takes a 64th of the rows, at
        least 16 and at most 256: a small set needs many small steps to recover from
        pruning.
    max_epochs : int, default=20
        The number of passes over the training data.
    early_stopping : bool, default=False
        Whether to hold out `validation_fraction` of the rows, to stop when their loss
        has not improved for `patience` epochs, and to restore the best epoch.
    validation_fraction : float in (0, 1), default=0.1
        The fraction of the rows to hold out. Used only with `early_stopping`.
    patience : int, default=5
        The number of epochs without improvement before training stops. Used only with
        `early_stopping`.
    callbacks : list or None, default=None
        The skorch callbacks to add to the net's own.
    device : str, default="cpu"
        The torch device to train and predict on.
    random_state : int, RandomState instance or None, default=None
        The seed of the initial weights, the order of rows, dropout and the validation
        split. No global random state is read or changed.
    verbose : int, default=0
        The amount of output: 1 prints a line for every epoch.

    Attributes
    ----------
    net_ : skorch.NeuralNetRegressor
        The trained net, without its optimizer; its outputs are standardised.
    n_features_in_ : int
        The number of columns seen in fit.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        The names of the columns, if X was a DataFrame with string names.

    See Also
    --------
    PrunedRegressor : Makes such a net sparse.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn_sparse_nn import TabularNetRegressor
    >>> X, y = load_diabetes(return_X_y=True)
    >>> net = TabularNetRegressor((32,), lr=0.01, random_state=0).fit(X, y)
    >>> bool(net.score(X, y) > 0.4)
    True
    """

    _net_class = _TabularNeuralNetRegressor
    _criterion = torch.nn.MSELoss


def column_mean_and_scale(X: Any) -> tuple[np.ndarray, np.ndarray]:
    """Compute the mean and standard deviation of every column, in float64.

    Parameters
    ----------
    X : ndarray or csr matrix of shape (n_samples, n_features), float32
        The rows, read in chunks, so that memory stays bounded.

    Returns
    -------
    mean, scale : ndarray of shape (n_features,), float64
        The mean and the scale of every column; the scale of a constant column is 1.

    Examples
    --------
    >>> import numpy as np
    >>> column_mean_and_scale(np.array([[0.0, 5.0], [2.0, 5.0]], dtype="float32"))
    (array([1., 5.]), array([1., 1.]))
    """
    if sparse.issparse(X):
        mean, variance = mean_variance_axis(X, axis=0)
        mean, variance = mean.astype(np.float64), variance.astype(np.float64)
    else:
        chunks = np.array_split(X, max(1, X.size // 2**22))
        mean = sum(c.sum(axis=0, dtype=np.float64) for c in chunks) / len(X)
        squares = (((c - mean) ** 2).sum(axis=0, dtype=np.float64) for c in chunks)
        variance = sum(squares) / len(X)
    scale = np.sqrt(variance)
    # Below float32's resolution a spread is rounding, not information.
    constant = scale <= np.finfo(np.float32).eps * np.abs(mean)
    return mean, np.where(constant, 1.0, scale)
