"""Who is told how far a fit has come: a person, and scikit-learn's callbacks."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

from skorch import NeuralNet

from sklearn_sparse_nn.memory.snapshot import global_rng, restore_global_rng

__all__ = ["PHASES", "Progress", "fit_task"]

PHASES = ("dense", "prune", "finetune")

History = list[dict[str, Any]]
Fitted = Callable[[NeuralNet, History], dict[str, Any]]


@contextmanager
def fit_task(estimator: Any, X: Any, y: Any, n_parts: int) -> Iterator[None]:
    """Make a fit a task that callbacks hear of; if one of them fails, it is undone.

    Parameters
    ----------
    estimator : estimator with CallbackSupportMixin
        Fitted inside, which `with_callbacks` is around. Its attribute `_given` has `X`
        and `y` as they are, where ``_fit`` has them validated.
    X, y : arrays
        What ``fit`` was given.
    n_parts : int
        How many tasks there are in it.
    """
    context = estimator._init_callback_context(max_subtasks=n_parts)
    context.call_on_fit_task_begin(estimator=estimator, X=X, y=y)
    before = estimator.__dict__.copy()
    estimator._given = {"X": X, "y": y}
    try:
        yield
        estimator.__dict__.pop("_given", None)
        context.call_on_fit_task_end(
            estimator=estimator, X=X, y=y, reconstruction_attributes=dict
        )
    except BaseException:
        estimator.__dict__.clear()
        estimator.__dict__.update(before)
        raise


class Progress:
    """Prints, and calls scikit-learn's callbacks: a task for every phase and epoch.

    Parameters
    ----------
    verbose : int, default=0
        1 prints a line for every epoch.
    context : sklearn.callback.CallbackContext or None, default=None
        The fit's own task; None if nobody listens.
    estimator : estimator or None, default=None
        The one that is fitted.
    data : mapping of str to object, default={}
        ``X`` and ``y`` as they were given to it.
    fitted : callable or None, default=None
        Net and history -> fitted attributes, as if training stopped now. It is called
        only where a callback asks for them.
    foreign : bool, default=False
        Whether the global generators are part of the training; what callbacks draw
        from them is then put back.
    """

    def __init__(
        self,
        verbose: int = 0,
        context: Any = None,
        estimator: Any = None,
        *,
        data: Mapping[str, Any] | None = None,
        fitted: Fitted | None = None,
        foreign: bool = False,
    ) -> None:
        self.stopped = False  # whether a callback has asked for a stop
        self._verbose = verbose
        self._context = context
        self._told = {"estimator": estimator, **(data or {})}
        self._fitted = fitted
        self._foreign = foreign
        self._history: History = []
        self._phase: Any = None
        self._epoch: Any = None

    @contextmanager
    def phase(self, name: str, n_epochs: int, net: NeuralNet) -> Iterator[None]:
        """Announce a phase of at most so many epochs, and its end."""
        if self._context is None:
            yield
            return
        self._phase = self._begin(self._context, name, n_epochs)
        yield
        self._end(self._phase, net)
        self._phase = None

    def begin_epoch(self) -> None:
        """Tell of an epoch that begins."""
        if self._phase is not None:
            self._epoch = self._begin(self._phase, "epoch", 0)

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
        self._history.append(row)
        if self._verbose:
            _print_row(row)
        if self._phase is None or not self._end(self._epoch, net):
            return True
        self.stopped = True
        return False

    def recalled(self, history: History, net: NeuralNet, place: str) -> None:
        """Tell of a dense phase that was not trained, but is from some place."""
        self._history = list(history)
        if self._verbose:
            print(f"   dense {len(history):>4}  epochs, from {place}")
        with self.phase("dense", 0, net):
            pass

    def _begin(self, parent: Any, name: str, n_epochs: int) -> Any:
        task = parent.subcontext(task_name=name, max_subtasks=n_epochs)
        with self._kept_rng():
            task.call_on_fit_task_begin(**self._told)
        return task

    def _end(self, task: Any, net: NeuralNet) -> bool:
        fitted, history = self._fitted, self._history
        attributes = None if fitted is None else lambda: fitted(net, list(history))
        with self._kept_rng():
            stop = task.call_on_fit_task_end(
                **self._told, reconstruction_attributes=attributes
            )
        return bool(stop)

    def _kept_rng(self) -> Any:
        return _kept_rng() if self._foreign else nullcontext()


@contextmanager
def _kept_rng() -> Iterator[None]:
    state = global_rng()
    yield
    restore_global_rng(state)


def _print_row(row: dict[str, Any]) -> None:
    scores = "  ".join(
        f"{key} {value:.4g}"
        for key, value in row.items()
        if key not in ("phase", "epoch")
    )
    print(f"{row['phase']:>8} {row['epoch']:>4}  {scores}")
