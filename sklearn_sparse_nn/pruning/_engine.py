"""The one engine: dense phase, pruning events, fine-tuning, in one training run."""

from collections.abc import Callable, Mapping
from copy import deepcopy
from numbers import Real
from typing import Any

from skorch import NeuralNet
from torch import Tensor

from sklearn_sparse_nn.nets.holding import MaskHolder
from sklearn_sparse_nn.nets.layers import PrunableLayer
from sklearn_sparse_nn.nets.training import TrainingRun
from sklearn_sparse_nn.pruning._plan import Plan
from sklearn_sparse_nn.pruning._rewind import Beginning

__all__ = ["prune"]

Masks = Mapping[str, Tensor]
#: Share of the final sparsity and masks so far -> new masks.
Decide = Callable[[float, Masks], Masks]


def prune(
    net: NeuralNet,
    X: Any,
    y: Any,
    *,
    layers: Mapping[str, PrunableLayer],
    masks: Masks,
    plan: Plan,
    decide: Decide,
    rewind: str | None = None,
    report: Callable[[dict[str, Any]], None] | None = None,
) -> tuple[Masks, list[dict[str, Any]]]:
    """Train, prune and fine-tune a net in place.

    Parameters
    ----------
    net : skorch.NeuralNet
        Initialized. Without masks left to hold, it is trained as by its own ``fit``.
    X, y : arrays
        As `net` takes them.
    layers : mapping of name to PrunableLayer
        The layers to prune.
    masks : mapping of name to bool Tensor of shape (out, in, ...)
        What lives at the beginning.
    plan : Plan
        Epochs and events.
    decide : callable
        Makes the masks of an event.
    rewind : {"weights", "learning_rate"} or None
        What is put back to the beginning before fine-tuning. Weights take the
        learning rate with them.
    report : callable, optional
        Called with every row of the history.

    Returns
    -------
    masks : mapping of name to bool Tensor
        The final masks; pruned weights are +0.0.
    history : list of dict
        A row for every epoch: phase, epoch, sparsity, and what the net recorded.
    """
    with MaskHolder(net, layers, masks) as holder:
        engine = _Engine(net, TrainingRun(net, X, y), holder, plan, decide, report)
        engine.run(rewind)
    return holder.masks, engine.history


class _Engine:
    def __init__(
        self,
        net: NeuralNet,
        run: TrainingRun,
        holder: MaskHolder,
        plan: Plan,
        decide: Decide,
        report: Callable[[dict[str, Any]], None] | None,
    ) -> None:
        self.net = net
        self.training = run
        self.holder = holder
        self.plan = plan
        self.decide = decide
        self.report = report
        self.history: list[dict[str, Any]] = []

    def run(self, rewind: str | None) -> None:
        beginning = Beginning(self.net) if rewind else None
        if self.plan.events:
            self._dense_phase()
            self._pruning_phase()
            if beginning:
                self._rewind(beginning, rewind)
            self._fine_tuning()
        else:
            self._train("dense", self.plan.n_epochs)
        self._finish()

    def _dense_phase(self) -> None:
        if self.plan.dense_epochs:
            self._train("dense", self.plan.dense_epochs)
            self.training.restore_best()
            self.holder.apply()

    def _pruning_phase(self) -> None:
        for epoch in range(max(self.plan.prune_epochs, 1)):
            if epoch in self.plan.events:
                share = self.plan.events[epoch]
                self.holder.hold(self.decide(share, self.holder.masks))
                if share == 1:
                    # What was best before this sparsity is no measure any more.
                    self.training.forget_best()
            if self.plan.prune_epochs:
                # Pruning raises the loss, so a wish to stop is no reason to end here.
                self._epoch("prune")

    def _rewind(self, beginning: Beginning, rewind: str | None) -> None:
        beginning.restore_learning_rate()
        if rewind == "weights":
            beginning.restore_weights()
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

    def _train(self, phase: str, n_epochs: int) -> None:
        for _ in range(n_epochs):
            if not self._epoch(phase):
                break

    def _epoch(self, phase: str) -> bool:
        self.holder.apply()  # a callback may have loaded other weights
        go_on = self.training.epoch(phase)
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
