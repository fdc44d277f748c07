"""The one engine: pruning events and fine-tuning, in the dense phase's own run."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from copy import deepcopy
from fractions import Fraction
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sklearn_sparse_nn.core.plan import Event, Plan
from sklearn_sparse_nn.pruning.dense_phase import DensePhase, epoch_row
from sklearn_sparse_nn.pruning.events import Surgery
from sklearn_sparse_nn.pruning.progress import PHASES, Progress
from sklearn_sparse_nn.pruning.request import Request
from sklearn_sparse_nn.training.distillation import Distill
from sklearn_sparse_nn.training.holding import MaskHolder
from sklearn_sparse_nn.training.rewinding import Beginning
from sklearn_sparse_nn.training.run import TrainingRun

__all__ = ["check_steps", "prune"]

Masks = Mapping[str, Tensor]


def check_steps(run: TrainingRun, request: Request) -> None:
    """Refuse more events than training steps, before any training.

    Parameters
    ----------
    run : TrainingRun
        Of the net.
    request : Request
        Its plan is checked.

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


def prune(
    phase: DensePhase,
    *,
    request: Request,
    masks: Masks,
    generator: torch.Generator,
    progress: Progress,
) -> tuple[Masks, list[dict[str, Any]]]:
    """Prune and fine-tune a net in place, after its dense phase.

    Parameters
    ----------
    phase : DensePhase
        The net, and the run that goes on. Without masks left to hold, it is trained as
        by its own ``fit``.
    request : Request
        What is pruned, how, how much and when.
    masks : mapping of name to bool Tensor of shape (out, in, ...)
        What lives at the beginning.
    generator : torch.Generator
        Where all that is random in pruning comes from.
    progress : Progress
        Told of every epoch.

    Returns
    -------
    masks : mapping of name to bool Tensor
        The final masks; pruned weights are +0.0.
    history : list of dict
        A row for every epoch: phase, epoch, sparsity, and what the net recorded.
    """
    with (
        MaskHolder(phase.net, request.layers, masks) as holder,
        Surgery(phase, holder, request, generator) as surgery,
    ):
        engine = _Engine(phase, holder, surgery, request, progress)
        engine.run()
    return holder.masks, engine.history


class _Engine:
    def __init__(
        self,
        phase: DensePhase,
        holder: MaskHolder,
        surgery: Surgery,
        request: Request,
        progress: Progress,
    ) -> None:
        self.net = phase.net
        self.training = phase.run
        self.go_on = phase.go_on
        self.history = phase.history
        self.beginning = phase.beginning
        self.holder = holder
        self.surgery = surgery
        self.request = request
        self.plan: Plan = request.plan
        self.progress = progress
        self.left = list(self.plan.events)

    def run(self) -> None:
        if self.plan.events:
            self._end_dense_phase()
            with self._soft_targets():
                with self.progress.phase("prune", self.plan.prune_epochs, self.net):
                    self._pruning_phase()
                self._rewind()
                with self.progress.phase(
                    "finetune", self.plan.finetune_epochs, self.net
                ):
                    self._fine_tuning()
        else:
            for name in PHASES[1:]:
                n_epochs = getattr(self.plan, f"{name}_epochs") if self.go_on else 0
                with self.progress.phase(name, n_epochs, self.net):
                    self.go_on = self._train("dense", n_epochs) and self.go_on
        self._finish()

    def _end_dense_phase(self) -> None:
        if self.request.rewind is not None and self.beginning is None:
            self.beginning = Beginning(self.net)
        if self.plan.dense_epochs:
            self.training.restore_best()
            self.holder.apply()

    def _soft_targets(self) -> Any:
        soft = self.request.distill
        if not soft.weight:
            return nullcontext()
        return Distill(self.net, soft.weight, soft.temperature)

    def _pruning_phase(self) -> None:
        with self.surgery.penalized():
            for epoch in range(self.plan.prune_epochs):
                self._operate(Fraction(epoch))
                # Pruning raises the loss, so a wish to stop is no reason to end here.
                within = partial(self._operate_in, epoch)
                self._epoch("prune", within if self.plan.inside_epochs else None)
            self._operate(Fraction(self.plan.prune_epochs))

    def _operate_in(self, epoch: int, done: Fraction) -> None:
        self._operate(epoch + done)

    def _operate(self, now: Fraction) -> None:
        """Carry out the events that are due after so much of the pruning phase."""
        while self.left and self.left[0].at <= now:
            event = self.left.pop(0)
            following: Event | None = self.left[0] if self.left else None
            self.surgery.operate(event, following)
            if event.share == 1:
                # What was best before these masks is no measure any more.
                self.training.forget_best()

    def _rewind(self) -> None:
        if self.beginning is None or self.request.rewind is None:
            return
        self.beginning.restore_learning_rate()
        if self.request.rewind.what == "weights":
            self.beginning.restore_weights()
            self.holder.apply()

    def _fine_tuning(self) -> None:
        if self.plan.finetune_epochs:
            self.training.forget_best()
            self._train("finetune", self.plan.finetune_epochs)

    def _finish(self) -> None:
        """End the run; callbacks may restore an epoch, but none at other sparsity."""
        kept = None
        if self.plan.events and not self.plan.final_epochs:
            kept = deepcopy(self.net.module_.state_dict())
        self.training.end()
        if kept is not None:
            self.net.module_.load_state_dict(kept)
        self.holder.apply()
        if self.plan.events:
            self.holder.bury()

    def _train(self, phase: str, n_epochs: int) -> bool:
        return all(self._epoch(phase) for _ in range(n_epochs))

    def _epoch(
        self, phase: str, before_batch: Callable[[Fraction], None] | None = None
    ) -> bool:
        self.holder.apply()  # a callback may have loaded other weights
        self.progress.begin_epoch()
        go_on = self.training.epoch(phase, before_batch)
        number = len(self.history) + 1
        row = epoch_row(self.net, phase, number, self.holder.sparsity())
        self.history.append(row)
        return self.progress.end_epoch(row, self.net) and go_on
