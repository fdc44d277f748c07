"""A skorch training run that is driven an epoch at a time.

skorch's ``fit`` runs all its epochs in one call, swallows Ctrl-C, and ends at the
first callback that asks for a stop. Pruning needs to act between epochs of *one* run
(a new ``partial_fit`` would restart the learning-rate schedule), and needs to tell a
callback's wish from a person's.
"""

import dis
from typing import Any

import numpy as np
from skorch import NeuralNet
from skorch.callbacks import Checkpoint, EarlyStopping

from sklearn_sparse_nn.exceptions import DivergedTrainingError

__all__ = ["TrainingRun", "drop_training_state"]


class TrainingRun:
    """One run of a skorch net over one data set, with its own split and iterators.

    Parameters
    ----------
    net : skorch.NeuralNet
        Initialized.
    X, y : arrays
        As `net` takes them.
    """

    def __init__(self, net: NeuralNet, X: Any, y: Any) -> None:
        for method in ("fit_loop", "partial_fit"):
            if getattr(type(net), method) is not getattr(NeuralNet, method):
                raise TypeError(
                    f"{type(net).__name__} overrides {method}, which a pruner does not "
                    "call: it drives the epochs itself. Override train_step, "
                    "train_step_single or run_single_epoch instead."
                )
        self.net = net
        self._data = {"X": X, "y": y}
        net.check_training_readiness()
        net.notify("on_train_begin", **self._data)
        net.check_data(X, y)
        train, valid = net.get_split_datasets(X, y)
        self._datasets = {"dataset_train": train, "dataset_valid": valid}
        self._train = net.get_iterator(train, training=True)
        self._valid = None if valid is None else net.get_iterator(valid, training=False)

    def epoch(self, phase: str) -> bool:
        """Train for one epoch.

        Parameters
        ----------
        phase : str
            For the error message.

        Returns
        -------
        go_on : bool
            False when a callback asked for a stop.

        Raises
        ------
        DivergedTrainingError
            The training loss became NaN or infinite.
        KeyboardInterrupt
            A person's, at once; one that a callback raises ends in False instead.
        """
        net = self.net
        try:
            net.notify("on_epoch_begin", **self._datasets)
            net.run_single_epoch(
                self._train, training=True, prefix="train", step_fn=net.train_step
            )
            self._check_loss(phase)
            net.run_single_epoch(
                self._valid, training=False, prefix="valid", step_fn=net.validation_step
            )
            net.notify("on_epoch_end", **self._datasets)
        except KeyboardInterrupt as stop:
            if not _asked_by_callback(stop, net):
                raise
            return False
        return True

    def restore_best(self) -> None:
        """Let callbacks that remember the best epoch put it back, mid-run."""
        for callback in _monitors(self.net):
            callback.on_train_end(self.net, **self._data)

    def forget_best(self) -> None:
        """Make callbacks that watch a score start anew, as if no epoch had been."""
        for _, callback in self.net.callbacks_:
            if hasattr(callback, "best_score_"):
                better_low = getattr(callback, "lower_is_better", True)
                callback.best_score_ = np.inf if better_low else -np.inf
        for callback in _monitors(self.net):
            callback.on_train_begin(self.net, **self._data)

    def end(self) -> None:
        """Close the run; callbacks may restore weights here."""
        self.net.notify("on_train_end", **self._data)

    def _check_loss(self, phase: str) -> None:
        batches = self.net.history[-1]["batches"]
        losses = [row["train_loss"] for row in batches if "train_loss" in row]
        if not np.isfinite(losses).all():
            bad = next(loss for loss in losses if not np.isfinite(loss))
            raise DivergedTrainingError(
                f"The training loss became {bad} in epoch {len(self.net.history)}, in "
                f"the {phase} phase. Lower the learning rate, or look for extreme "
                "values in X and y."
            )


def _monitors(net: NeuralNet) -> list[Any]:
    return [
        callback
        for _, callback in net.callbacks_
        if isinstance(callback, (EarlyStopping, Checkpoint))
    ]


def _asked_by_callback(stop: KeyboardInterrupt, net: NeuralNet) -> bool:
    """Tell a ``raise KeyboardInterrupt`` in a callback from a real Ctrl-C.

    A signal arrives between instructions, wherever the interpreter is. A callback's
    stop ends in a raise instruction inside one of its own methods.
    """
    last = stop.__traceback__
    if last is None:
        return False
    while last.tb_next is not None:
        last = last.tb_next
    frame = last.tb_frame
    instruction = dis.opname[frame.f_code.co_code[last.tb_lasti]]
    owner = frame.f_locals.get("self")
    owned = owner is net or any(owner is callback for _, callback in net.callbacks_)
    return instruction == "RAISE_VARARGS" and owned


def drop_training_state(net: NeuralNet) -> None:
    """Let go of what only training needs: optimizers and best-epoch snapshots.

    Parameters
    ----------
    net : skorch.NeuralNet
        Fitted. It still predicts; train it further through ``FrozenEstimator``, or
        call its ``initialize_optimizer()`` first.
    """
    for name in net._optimizers:
        setattr(net, f"{name}_", None)
    for _, callback in net.callbacks_:
        if isinstance(callback, EarlyStopping):
            callback.best_model_weights_ = None
        if hasattr(callback, "lr_scheduler_"):
            callback.lr_scheduler_ = None  # it holds the optimizer
    net.module_.zero_grad(set_to_none=True)
    net.module_.eval()
