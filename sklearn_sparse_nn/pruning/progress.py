"""Reports of a fit's progress: to a person, and to scikit-learn's callbacks."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator
from skorch import NeuralNet

from sklearn_sparse_nn._compat import has_callbacks
from sklearn_sparse_nn.dense.base import MatrixLike, transaction
from sklearn_sparse_nn.nets.seeding import GlobalState

__all__ = ["PHASES", "FitTask", "History", "Progress", "Row", "fit_task"]

PHASES = ("dense", "prune", "finetune")

Row = dict[str, float | str]
History = list[Row]
Fitted = Callable[[NeuralNet, History], dict[str, object]]


@dataclass(frozen=True)
class FitTask:
    """A fit as scikit-learn's callbacks see it.

    Parameters
    ----------
    estimator : estimator
        The one that is fitted.
    context : sklearn.callback.CallbackContext
        The task of its fit.
    X, y : arrays
        What ``fit`` was called with, as it was.
    """

    estimator: BaseEstimator
    context: Any
    X: MatrixLike
    y: ArrayLike

    def arguments(self) -> Mapping[str, object]:
        """Return what callbacks are called with."""
        return {"estimator": self.estimator, "X": self.X, "y": self.y}


@contextmanager
def fit_task(
    estimator: BaseEstimator, X: MatrixLike, y: ArrayLike, n_parts: int
) -> Iterator[FitTask]:
    """Make a fit a task that callbacks see; undo it if it, or one of them, fails.

    Parameters
    ----------
    estimator : estimator with CallbackSupportMixin
        The one that is fitted inside, within `with_callbacks`.
    X, y : arrays
        What ``fit`` was called with.
    n_parts : int
        The number of its subtasks.
    """
    context = estimator._init_callback_context(max_subtasks=n_parts)
    task = FitTask(estimator, context, X, y)
    context.call_on_fit_task_begin(**task.arguments())
    with transaction(estimator):
        yield task
        context.call_on_fit_task_end(**task.arguments(), reconstruction_attributes=dict)


class Progress:
    """Prints, and calls scikit-learn's callbacks: a task for every phase and epoch.

    Parameters
    ----------
    verbose : int, default=0
        1 prints a line for every epoch.
    task : FitTask or None, default=None
        The fit's own task; None where no callback follows it.
    fitted : callable or None, default=None
        Net and history -> fitted attributes, as if training stopped now. It is called
        only where a callback asks for them.
    global_state : GlobalState or None, default=None
        The global generators, as far as the run uses them: what callbacks draw from
        them is then put back.
    """

    def __init__(
        self,
        verbose: int = 0,
        task: FitTask | None = None,
        *,
        fitted: Fitted | None = None,
        global_state: GlobalState | None = None,
    ) -> None:
        self.stopped = False  # whether a callback has asked for a stop
        self._verbose = verbose
        follows = task is not None and has_callbacks(task.estimator)
        self._task = task if follows else None
        self._fitted = fitted
        self._global_state = global_state
        self._history: History = []
        self._phase: Any = None
        self._epoch: Any = None

    @contextmanager
    def phase(self, name: str, n_epochs: int, net: NeuralNet) -> Iterator[None]:
        """Report a phase of at most so many epochs, and its end."""
        if self._task is None:
            yield
            return
        self._phase = self._begin(self._task.context, name, n_epochs)
        yield
        self._end(self._phase, net)
        self._phase = None

    def begin_epoch(self) -> None:
        """Report an epoch that begins."""
        if self._phase is not None:
            self._epoch = self._begin(self._phase, "epoch", 0)

    def end_epoch(self, row: Row, net: NeuralNet) -> bool:
        """Report an epoch that has ended.

        Parameters
        ----------
        row : dict
            The epoch's row of the history.
        net : skorch.NeuralNet
            The net as it is now.

        Returns
        -------
        go_on : bool
            False when a callback asked for a stop.
        """
        self._history.append(row)
        if self._verbose:
            _print_row(row)
        if self._phase is None or not self._end(self._epoch, net):
            return True
        self.stopped = True
        return False

    def recalled(self, history: History, net: NeuralNet, place: str) -> None:
        """Report a dense phase that was not trained here, and its place."""
        self._history = list(history)
        if self._verbose:
            print(f"   dense {len(history):>4}  epochs, from {place}")
        with self.phase("dense", 0, net):
            pass

    def _begin(self, parent: Any, name: str, n_epochs: int) -> Any:
        context = parent.subcontext(task_name=name, max_subtasks=n_epochs)
        with self._preserved():
            context.call_on_fit_task_begin(**self._arguments())
        return context

    def _end(self, context: Any, net: NeuralNet) -> bool:
        fitted, history = self._fitted, self._history
        attributes = None if fitted is None else lambda: fitted(net, list(history))
        with self._preserved():
            stop = context.call_on_fit_task_end(
                **self._arguments(), reconstruction_attributes=attributes
            )
        return bool(stop)

    def _arguments(self) -> Mapping[str, object]:
        return {} if self._task is None else self._task.arguments()

    def _preserved(self) -> AbstractContextManager[None]:
        state = self._global_state
        return nullcontext() if state is None else state.preserved()


def _print_row(row: Row) -> None:
    scores = "  ".join(
        f"{key} {value:.4g}"
        for key, value in row.items()
        if key not in ("phase", "epoch")
    )
    print(f"{row['phase']:>8} {row['epoch']:>4}  {scores}")
