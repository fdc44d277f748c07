"""A training run of a skorch net, one epoch at a time.

skorch's ``fit`` runs all epochs in one call, swallows Ctrl-C, and ends as soon as a
callback asks for a stop. Pruning acts between epochs of *one* run (a new
``partial_fit`` would restart the learning-rate schedule), and has to tell a
callback's request to stop from Ctrl-C.
"""

from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from skorch import NeuralNet
from skorch.callbacks import Checkpoint, EarlyStopping
from torch.utils.data import Dataset

from sklearn_sparse_nn.exceptions import DivergedTrainingError
from sklearn_sparse_nn.nets.batches import BatchIterator
from sklearn_sparse_nn.nets.host import drop_optimizers
from sklearn_sparse_nn.training.forgetting import forget_best
from sklearn_sparse_nn.training.interruption import InterruptWatch

__all__ = [
    "ChunkRun",
    "TrainingRun",
    "begin_training",
    "drop_training_state",
    "refuse_restoring",
    "split_by_net",
]

#: What divides training data: ``(net, X, y) -> train, valid``.
Split = Callable[[NeuralNet, Any, Any], tuple[Dataset[Any], Dataset[Any] | None]]


def begin_training(net: NeuralNet, X: Any, y: Any) -> None:
    """Notify a net and its callbacks that training begins.

    Callbacks may replace the module now, as skorch's ``InputShapeSetter`` does. So look
    at layers, outputs and types afterwards.

    Parameters
    ----------
    net : skorch.NeuralNet
        An initialized net.
    X, y : arrays
        The training data.

    Raises
    ------
    TypeError
        The net overrides a method that trains all epochs.
    """
    for method in ("fit", "fit_loop", "partial_fit"):
        if not getattr(type(net), method).__module__.startswith("skorch."):
            raise TypeError(
                f"{type(net).__name__} overrides {method}, which a pruner does not "
                "call: it drives the epochs itself. Override train_step, "
                "train_step_single or run_single_epoch instead."
            )
    net.check_training_readiness()
    net.notify("on_train_begin", X=X, y=y)


def split_by_net(
    net: NeuralNet, X: Any, y: Any
) -> tuple[Dataset[Any], Dataset[Any] | None]:
    """Divide training data by the net's own `train_split`.

    Parameters
    ----------
    net : skorch.NeuralNet
        The net.
    X, y : arrays
        The data.

    Returns
    -------
    train, valid : Dataset, Dataset or None
    """
    parts: tuple[Dataset[Any], Dataset[Any] | None] = net.get_split_datasets(X, y)
    return parts


class TrainingRun:
    """A training run of a skorch net on one data set.

    Parameters
    ----------
    net : skorch.NeuralNet
        An initialized net.
    X, y : arrays
        The training data, of the types that `net` takes.
    begun : bool, default=False
        Whether `begin_training` was called for this run already.
    split : callable, default=split_by_net
        What divides them, ``(net, X, y) -> train, valid``.

    Raises
    ------
    TypeError
        The net overrides a method that trains all epochs.
    """

    def __init__(
        self,
        net: NeuralNet,
        X: Any,
        y: Any,
        *,
        begun: bool = False,
        split: Split | None = None,
    ) -> None:
        if not begun:
            begin_training(net, X, y)
        self.net = net
        self._trained = False
        self._data = {"X": X, "y": y}
        self._split = split or split_by_net
        self._load(X, y)

    def _load(self, X: Any, y: Any) -> None:
        """Divide the rows, and set up their batches."""
        net = self.net
        net.check_data(X, y)
        train, valid = self._split(net, X, y)
        self._datasets: dict[str, Any] = {
            "dataset_train": train,
            "dataset_valid": valid,
        }
        self._train = net.get_iterator(train, training=True)
        self._valid = None if valid is None else net.get_iterator(valid, training=False)

    @property
    def training_rows(self) -> Dataset[Any]:
        """The training part of the data, as a dataset."""
        rows: Dataset[Any] = self._datasets["dataset_train"]
        return rows

    @property
    def n_batches(self) -> int:
        """The number of training batches of an epoch."""
        try:
            return len(self._train)
        except TypeError as error:
            raise ValueError(
                f"{type(self._train).__name__} does not know its number of batches, "
                "which a penalty, and more n_steps than prune_epochs, have to know. "
                "Use none of these, or another iterator_train."
            ) from error

    @property
    def least_batches(self) -> int:
        """The number of training batches of an epoch; 1 where it is not known."""
        try:
            return len(self._train)
        except TypeError:
            return 1

    def epoch(
        self, phase: str, before_batch: Callable[[Fraction], None] | None = None
    ) -> bool:
        """Train for one epoch.

        Parameters
        ----------
        phase : str
            The phase that an error message names.
        before_batch : callable, optional
            A function that is called before every batch but the first, with the
            finished fraction of the epoch. The number of batches must be known.

        Returns
        -------
        go_on : bool
            False if a callback has asked for a stop.

        Raises
        ------
        DivergedTrainingError
            The training loss became NaN or infinite.
        KeyboardInterrupt
            A signal such as Ctrl-C has arrived.
        """
        self._trained = True
        with InterruptWatch() as watch:
            try:
                self._run_epoch(phase, before_batch)
            except KeyboardInterrupt:
                if watch.signalled:
                    raise
                return False
            return self._end_epoch(watch)

    def _run_epoch(
        self, phase: str, before_batch: Callable[[Fraction], None] | None
    ) -> None:
        """Run all training batches, then all validation batches."""
        net = self.net
        net.notify("on_epoch_begin", **self._datasets)
        net.run_single_epoch(
            _with_progress(self._train, before_batch),
            training=True,
            prefix="train",
            step_fn=net.train_step,
        )
        self._check_loss(phase)
        net.run_single_epoch(
            self._valid, training=False, prefix="valid", step_fn=net.validation_step
        )

    def _end_epoch(self, watch: InterruptWatch) -> bool:
        """Call every ``on_epoch_end``, also after one of them has asked for a stop.

        A learning-rate schedule would else miss a step of a run that goes on.
        """
        go_on = True
        for listener in (self.net, *(callback for _, callback in self.net.callbacks_)):
            try:
                listener.on_epoch_end(self.net, **self._datasets)
            except KeyboardInterrupt:
                if watch.signalled:
                    raise
                go_on = False
        return go_on

    def restore_best(self) -> None:
        """Restore the weights of the best epoch, where a callback has stored them.

        Only weights are restored: with a checkpoint's optimizer and history, the
        learning-rate schedule would jump back, too.
        """
        for callback in _monitors(self.net):
            if isinstance(callback, EarlyStopping):
                callback.on_train_end(self.net, **self._data)
            elif callback.load_best and callback.monitor is not None:
                params = callback.get_formatted_files(self.net).get("f_params")
                if params is not None:
                    safe = callback.use_safetensors
                    self.net.load_params(f_params=params, use_safetensors=safe)

    def forget_best(self) -> None:
        """Reset what compares epochs with an earlier best, for other masks."""
        forget_best(self.net, **self._data)

    def end(self) -> None:
        """End the run; if any epoch was trained, callbacks may restore weights.

        Raises
        ------
        DivergedTrainingError
            A parameter is NaN or infinite. No loss shows the effect of the last step.
        """
        if self._trained:
            self.net.notify("on_train_end", **self._data)
        for name, parameter in self.net.module_.named_parameters():
            if not torch.isfinite(parameter).all():
                raise DivergedTrainingError(
                    f"Parameter {name!r} is NaN or infinite after training. Lower the "
                    "learning rate."
                )

    def _check_loss(self, phase: str) -> None:
        """Raise an error if a training loss of this epoch is NaN or infinite."""
        batches = self.net.history[-1]["batches"]
        losses = [row["train_loss"] for row in batches if "train_loss" in row]
        if not np.isfinite(losses).all():
            bad = next(loss for loss in losses if not np.isfinite(loss))
            raise DivergedTrainingError(
                f"The training loss became {bad} in epoch {len(self.net.history)}, in "
                f"the {phase} phase. Lower the learning rate, or look for extreme "
                "values in X and y."
            )


class ChunkRun(TrainingRun):
    """One training run whose rows are exchanged.

    Callbacks are told of one beginning, of every epoch and of no end, so that a
    learning-rate schedule goes on from chunk to chunk.

    Parameters
    ----------
    net : skorch.NeuralNet
        An initialized net.
    X, y : arrays
        The first chunk, as `net` takes it.
    begun : bool, default=False
        Whether `begin_training` was called for this run already.
    split : callable, default=split_by_net
        What divides every chunk.
    """

    def __init__(
        self,
        net: NeuralNet,
        X: Any,
        y: Any,
        *,
        begun: bool = False,
        split: Split | None = None,
    ) -> None:
        self._order = _one_order(net)
        super().__init__(net, X, y, begun=begun, split=split)

    def feed(self, X: Any, y: Any) -> None:
        """Train on these rows from now on."""
        self._load(X, y)
        self._data = {"X": X, "y": y}

    def show(self, X: Any, y: Any) -> None:
        """Gather statistics over all of these rows from now on."""
        self._datasets = {"dataset_train": self.net.get_dataset(X, y)}

    def release(self) -> None:
        """Drop the rows, and what an epoch has left."""
        self._data, self._datasets = {}, {}
        self._train = self._valid = None
        self.net.module_.zero_grad(set_to_none=True)

    def end_chunk(self) -> None:
        """Refuse parameters that are NaN; drop the batches, but not their means."""
        self._trained = False  # callbacks are told of no end
        self.end()
        self.net.history[-1]["batches"].clear()

    def restore_order(self) -> None:
        """Set the seed of the order of rows again, in a net that is given away."""
        if self._order is not None:
            self.net.__dict__["iterator_train__random_state"] = self._order


def _one_order(net: NeuralNet) -> int | None:
    """Take the order of rows from one generator for all chunks; return its seed.

    A `BatchIterator` with a seed would begin anew at every chunk.
    """
    iterator = net.iterator_train
    seed = net.__dict__.get("iterator_train__random_state")
    cuts = isinstance(iterator, type) and issubclass(iterator, BatchIterator)
    if not cuts or not isinstance(seed, (int, np.integer)):
        return None
    generator = torch.Generator().manual_seed(int(seed))
    net.__dict__["iterator_train__random_state"] = generator
    return int(seed)


def refuse_restoring(net: NeuralNet) -> None:
    """Refuse callbacks that compare epochs, which here have different rows.

    Parameters
    ----------
    net : skorch.NeuralNet
        An initialized net.

    Raises
    ------
    ValueError
        A callback goes back to a best epoch.
    """
    for name, callback in net.callbacks_:
        restores = isinstance(callback, Checkpoint) and callback.load_best
        if restores or isinstance(callback, EarlyStopping):
            raise ValueError(
                "partial_fit does not support early_stopping=True, nor other "
                f"callbacks that go back to a best epoch ({name!r}): every chunk has "
                "rows of its own, so their scores cannot be compared."
            )


def _with_progress(
    batches: Any, before_batch: Callable[[Fraction], None] | None
) -> Iterable[Any]:
    """Return batches; a function is called with the finished fraction before each."""
    if before_batch is None:
        return batches

    def iterate() -> Iterator[Any]:
        for i, batch in enumerate(batches):
            if i:
                before_batch(Fraction(i, len(batches)))
            yield batch

    return iterate()


def _monitors(net: NeuralNet) -> list[Any]:
    """Return skorch's callbacks that store the best epoch."""
    return [
        callback
        for _, callback in net.callbacks_
        if isinstance(callback, (EarlyStopping, Checkpoint))
    ]


def drop_training_state(net: NeuralNet) -> None:
    """Remove what only training needs: optimizers and weights of the best epoch.

    Parameters
    ----------
    net : skorch.NeuralNet
        A fitted net, which is changed. It still predicts. To train it further, wrap it
        in ``FrozenEstimator``, or call its ``initialize_optimizer()`` first.
    """
    drop_optimizers(net)
    for _, callback in net.callbacks_:
        if isinstance(callback, EarlyStopping):
            callback.best_model_weights_ = None
        if hasattr(callback, "lr_scheduler_"):
            callback.lr_scheduler_ = None  # it holds the optimizer
    net.module_.zero_grad(set_to_none=True)
    net.module_.eval()
