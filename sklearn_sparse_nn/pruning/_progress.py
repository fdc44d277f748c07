"""Who is told how far a fit has come: a person, and scikit-learn's callbacks."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from skorch import NeuralNet

__all__ = ["PHASES", "Progress"]

PHASES = ("dense", "prune", "finetune")

Fitted = Callable[[NeuralNet], dict[str, Any]]


class Progress:
    """Prints, and calls scikit-learn's callbacks: a task for every phase and epoch.

    Parameters
    ----------
    verbose : int, default=0
        1 prints a line for every epoch.
    context : sklearn.callback.CallbackContext or None, default=None
        The fit's own task.
    estimator : estimator or None, default=None
        The one that is fitted.
    fitted : callable or None, default=None
        Net -> fitted attributes, as if training stopped now.
    """

    def __init__(
        self,
        verbose: int = 0,
        context: Any = None,
        estimator: Any = None,
        fitted: Fitted | None = None,
    ) -> None:
        self._verbose = verbose
        self._context = context
        self._estimator = estimator
        self._fitted = fitted
        self._phase: Any = None
        self._epoch: Any = None

    @contextmanager
    def phase(self, name: str, n_epochs: int, net: NeuralNet) -> Iterator[None]:
        """Announce a phase of at most so many epochs, and its end."""
        if self._context is None:
            yield
            return
        self._phase = self._context.subcontext(task_name=name, max_subtasks=n_epochs)
        self._phase.call_on_fit_task_begin(estimator=self._estimator)
        yield
        self._end(self._phase, net)
        self._phase = None

    def begin_epoch(self) -> None:
        """Tell of an epoch that begins."""
        if self._phase is not None:
            self._epoch = self._phase.subcontext(task_name="epoch")
            self._epoch.call_on_fit_task_begin(estimator=self._estimator)

    def end_epoch(self, row: dict[str, Any], net: NeuralNet) -> bool:
        """Tell of an epoch that has ended.

        Parameters
        ----------
        row : dict
            Of the history.
        net : skorch.NeuralNet
            As it is now.

        Returns
        -------
        go_on : bool
            False when a callback asked for a stop.
        """
        if self._verbose:
            _print_row(row)
        return self._phase is None or not self._end(self._epoch, net)

    def recalled(self, history: list[dict[str, Any]], net: NeuralNet) -> None:
        """Tell of a dense phase that was in the store."""
        if self._verbose:
            print(f"   dense {len(history):>4}  epochs, from memory")
        with self.phase("dense", 0, net):
            pass

    def _end(self, task: Any, net: NeuralNet) -> bool:
        fitted = self._fitted
        attributes = None if fitted is None else lambda: fitted(net)
        return bool(
            task.call_on_fit_task_end(
                estimator=self._estimator, reconstruction_attributes=attributes
            )
        )


def _print_row(row: dict[str, Any]) -> None:
    scores = "  ".join(
        f"{key} {value:.4g}"
        for key, value in row.items()
        if key not in ("phase", "epoch")
    )
    print(f"{row['phase']:>8} {row['epoch']:>4}  {scores}")
