"""The engine: pruning events and fine-tuning, in the dense phase's own run."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from fractions import Fraction
from functools import partial

from sklearn_sparse_nn.core.plan import Event, Plan
from sklearn_sparse_nn.pruning.progress import PHASES, Progress
from sklearn_sparse_nn.pruning.request import Request
from sklearn_sparse_nn.pruning.run import PruningRun
from sklearn_sparse_nn.training.distillation import Distill
from sklearn_sparse_nn.training.rates import scale_learning_rates
from sklearn_sparse_nn.training.rewinding import Beginning
from sklearn_sparse_nn.training.run import TrainingRun

__all__ = ["check_steps", "prune"]


def check_steps(run: TrainingRun, request: Request) -> None:
    """Refuse more events than training steps, before any training.

    Parameters
    ----------
    run : TrainingRun
        The training run of the net.
    request : Request
        The request whose plan is checked.

    Raises
    ------
    ValueError
        Two events fall on one step, or the number of steps is not known.
    """
    plan = request.plan
    if not (plan.inside_epochs or request.penalty):
        return
    n_steps = plan.prune_epochs * run.n_batches
    ats = [int(event.at * run.n_batches) for event in plan.events]
    if plan.inside_epochs and len(set(ats)) < len(ats):
        raise ValueError(
            f"{len(ats)} pruning events do not fit in {n_steps} training steps "
            f"(prune_epochs={plan.prune_epochs}, {run.n_batches} batches each). Lower "
            "n_steps, or train for more pruning epochs."
        )


def prune(run: PruningRun, request: Request, progress: Progress) -> None:
    """Prune and fine-tune a net in place, after its dense phase.

    Parameters
    ----------
    run : PruningRun
        The run after its dense phase. Without masks left to hold, its net is trained
        as by its own ``fit``. Pruned weights are +0.0 in the end.
    request : Request
        What is pruned, how, how much and when.
    progress : Progress
        Reports every epoch.
    """
    with run.pruning(request):
        _Engine(run, request, progress).run_phases()


class _Engine:
    def __init__(self, run: PruningRun, request: Request, progress: Progress) -> None:
        self.run = run
        self.request = request
        self.plan: Plan = request.plan
        self.progress = progress
        self.left = list(self.plan.events)

    def run_phases(self) -> None:
        if self.plan.events:
            self._end_dense_phase()
            with self._soft_targets():
                with self._phase("prune", self.plan.prune_epochs):
                    self._pruning_phase()
                self._rewind()
                with self._phase("finetune", self.plan.finetune_epochs):
                    self._fine_tuning()
        else:
            go_on = self.run.go_on
            for name in PHASES[1:]:
                n_epochs = getattr(self.plan, f"{name}_epochs") if go_on else 0
                with self._phase(name, n_epochs):
                    go_on = self._train("dense", n_epochs) and go_on
        self._finish()

    def _phase(self, name: str, n_epochs: int) -> AbstractContextManager[None]:
        return self.progress.phase(name, n_epochs, self.run.net)

    def _end_dense_phase(self) -> None:
        run = self.run
        if self.request.rewind is not None and run.beginning is None:
            run.beginning = Beginning(run.net)
        if self.plan.dense_epochs:
            run.training.restore_best()
            run.apply_masks()

    def _soft_targets(self) -> AbstractContextManager[object]:
        soft = self.request.distill
        if not soft.weight:
            return nullcontext()
        return Distill(self.run.net, soft.weight, soft.temperature)

    def _pruning_phase(self) -> None:
        with self.run.penalized():
            for epoch in range(self.plan.prune_epochs):
                self._carry_out(Fraction(epoch))
                # Pruning raises the loss, so a wish to stop is no reason to end here.
                within = partial(self._carry_out_in, epoch)
                self._epoch("prune", within if self.plan.inside_epochs else None)
            self._carry_out(Fraction(self.plan.prune_epochs))

    def _carry_out_in(self, epoch: int, done: Fraction) -> None:
        self._carry_out(epoch + done)

    def _carry_out(self, now: Fraction) -> None:
        """Carry out the events that are due after so much of the pruning phase."""
        while self.left and self.left[0].at <= now:
            event = self.left.pop(0)
            following: Event | None = self.left[0] if self.left else None
            self.run.prune(event, following)

    def _rewind(self) -> None:
        beginning = self.run.beginning
        if beginning is None or self.request.rewind is None:
            return
        beginning.restore_learning_rate()
        if self.request.rewind.what == "weights":
            beginning.restore_weights()
            self.run.apply_masks()

    def _fine_tuning(self) -> None:
        if self.plan.finetune_epochs:
            self.run.training.forget_best()
            scale_learning_rates(self.run.net, self.request.method.given["finetune_lr"])
            self._train("finetune", self.plan.finetune_epochs)

    def _finish(self) -> None:
        """End the run; callbacks may restore an epoch, but none at other sparsity."""
        unlike = bool(self.plan.events) and not self.plan.final_epochs
        self.run.end(keep_weights=unlike)

    def _train(self, phase: str, n_epochs: int) -> bool:
        return all(self._epoch(phase) for _ in range(n_epochs))

    def _epoch(
        self, phase: str, before_batch: Callable[[Fraction], None] | None = None
    ) -> bool:
        self.progress.begin_epoch()
        row = self.run.train(phase, before_batch)
        return self.progress.end_epoch(row, self.run.net) and self.run.go_on
