"""The one engine: dense phase, pruning events, fine-tuning, in one training run."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from copy import deepcopy
from fractions import Fraction
from functools import partial
from numbers import Real
from typing import Any

import torch
from skorch import NeuralNet
from torch import Tensor

from sklearn_sparse_nn.nets.distillation import Distill
from sklearn_sparse_nn.nets.holding import MaskHolder
from sklearn_sparse_nn.nets.training import TrainingRun
from sklearn_sparse_nn.pruning._plan import Event, Plan
from sklearn_sparse_nn.pruning._request import Request
from sklearn_sparse_nn.pruning._rewind import Beginning
from sklearn_sparse_nn.pruning._surgery import Surgery

__all__ = ["prune"]

Masks = Mapping[str, Tensor]


def prune(
    net: NeuralNet,
    X: Any,
    y: Any,
    *,
    request: Request,
    masks: Masks,
    generator: torch.Generator,
    report: Callable[[dict[str, Any]], None] | None = None,
) -> tuple[Masks, list[dict[str, Any]]]:
    """Train, prune and fine-tune a net in place.

    Parameters
    ----------
    net : skorch.NeuralNet
        Initialized. Without masks left to hold, it is trained as by its own ``fit``.
    X, y : arrays
        As `net` takes them.
    request : Request
        What is pruned, how, how much and when.
    masks : mapping of name to bool Tensor of shape (out, in, ...)
        What lives at the beginning.
    generator : torch.Generator
        Where all that is random in pruning comes from.
    report : callable, optional
        Called with every row of the history.

    Returns
    -------
    masks : mapping of name to bool Tensor
        The final masks; pruned weights are +0.0.
    history : list of dict
        A row for every epoch: phase, epoch, sparsity, and what the net recorded.
    """
    with MaskHolder(net, request.layers, masks) as holder:
        run = TrainingRun(net, X, y)
        with Surgery(net, run, holder, request, generator) as surgery:
            engine = _Engine(net, run, holder, surgery, request, report)
            engine.run()
    return holder.masks, engine.history


class _Engine:
    def __init__(
        self,
        net: NeuralNet,
        run: TrainingRun,
        holder: MaskHolder,
        surgery: Surgery,
        request: Request,
        report: Callable[[dict[str, Any]], None] | None,
    ) -> None:
        self.net = net
        self.training = run
        self.holder = holder
        self.surgery = surgery
        self.request = request
        self.plan: Plan = request.plan
        self.report = report
        self.history: list[dict[str, Any]] = []
        self.beginning: Beginning | None = None
        self.left = list(self.plan.events)

    def run(self) -> None:
        if self.plan.inside_epochs or self.request.penalty:
            self._check_steps()
        if self.plan.events:
            self._dense_phase()
            with self._soft_targets():
                self._pruning_phase()
                self._rewind()
                self._fine_tuning()
        else:
            self._train("dense", self.plan.n_epochs)
        self._finish()

    def _check_steps(self) -> None:
        """Refuse more events than training steps, before any training."""
        n_steps = self.plan.prune_epochs * self.training.n_batches
        ats = [int(event.at * self.training.n_batches) for event in self.left]
        if self.plan.inside_epochs and len(set(ats)) < len(ats):
            raise ValueError(
                f"{len(ats)} pruning events do not fit in {n_steps} training steps "
                f"(prune_epochs={self.plan.prune_epochs}, {self.training.n_batches} "
                "batches each). Lower n_steps, or train for more pruning epochs."
            )

    def _dense_phase(self) -> None:
        for epoch in range(self.plan.dense_epochs):
            self._remember(epoch)
            if not self._epoch("dense"):
                break
        self._remember(None)
        if self.plan.dense_epochs:
            self.training.restore_best()
            self.holder.apply()

    def _remember(self, epoch: int | None) -> None:
        """Keep the epoch that is rewound to; None for the end of the dense phase."""
        rewind = self.request.rewind
        if rewind is None or self.beginning is not None:
            return
        if epoch is None or epoch == rewind.epoch:
            self.beginning = Beginning(self.net)

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

    def _train(self, phase: str, n_epochs: int) -> None:
        for _ in range(n_epochs):
            if not self._epoch(phase):
                break

    def _epoch(
        self, phase: str, before_batch: Callable[[Fraction], None] | None = None
    ) -> bool:
        self.holder.apply()  # a callback may have loaded other weights
        go_on = self.training.epoch(phase, before_batch)
        row = {
            "phase": phase,
            "epoch": len(self.history) + 1,
            "sparsity": self.holder.sparsity(),
        }
        recorded = self.net.history[-1].items()
        row |= {key: value for key, value in recorded if _is_record(key, value)}
        self.history.append(row)
        if self.report:
            self.report(row)
        return go_on


def _is_record(key: str, value: Any) -> bool:
    """Tell scores and losses of an epoch from skorch's bookkeeping."""
    bookkeeping = key == "epoch" or key.endswith("_batch_count")
    return not bookkeeping and isinstance(value, Real) and not isinstance(value, bool)
