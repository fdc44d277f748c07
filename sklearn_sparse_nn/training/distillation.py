"""Soft targets: a net learns from another's outputs, beside the labels."""

from functools import partial
from typing import Any

import torch
from skorch import NeuralNet, NeuralNetClassifier
from torch import Tensor, nn
from torch.nn import functional

from sklearn_sparse_nn.nets.copies import copy_module
from sklearn_sparse_nn.nets.host import original

__all__ = ["Distill", "check_distillable"]

_REGRESSIONS = (nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss)
_KNOWN = (nn.CrossEntropyLoss, nn.NLLLoss, nn.BCEWithLogitsLoss, *_REGRESSIONS)


def check_distillable(net: NeuralNet) -> None:
    """Refuse a net whose loss has no soft form.

    Parameters
    ----------
    net : skorch.NeuralNet
        Initialized.

    Raises
    ------
    TypeError
        The loss is of another kind than the usual ones.
    """
    criterion = _criterion(net)
    if not isinstance(criterion, _KNOWN) or criterion.reduction == "none":
        known = ", ".join(kind.__name__ for kind in _KNOWN)
        raise TypeError(
            f"distill and criterion {type(criterion).__name__} with reduction="
            f"{getattr(criterion, 'reduction', None)!r} do not go together: soft "
            f"targets are known for {known}, with the mean or the sum over rows. Use "
            "distill=0."
        )


class Distill:
    """Mixes a net's training loss with its distance to a teacher's outputs.

    The loss is ``(1 - weight) * loss + weight * T ** 2 * KL(teacher || student)`` of
    the probabilities at temperature T. Regression takes the net's own loss with the
    teacher's outputs as targets.

    Use as a context manager around training; the net's loss is its own afterwards.

    Parameters
    ----------
    net : skorch.NeuralNet
        Initialized. The teacher is its module as it is now.
    weight : float in [0, 1]
        Weight of the soft targets.
    temperature : float
        Positive; above 1 the teacher's doubts count for more.

    References
    ----------
    Hinton, Vinyals and Dean 2015, "Distilling the Knowledge in a Neural Network",
    section 2.
    """

    def __init__(self, net: NeuralNet, weight: float, temperature: float) -> None:
        check_distillable(net)
        self._net = net
        self._weight = weight
        self._temperature = temperature
        self._teacher: Any = copy_module(original(net.module_))
        self._teacher.eval().requires_grad_(False)

    def __enter__(self) -> "Distill":
        # On the object, not the class: `get_loss` may be anybody's.
        self._before = self._net.__dict__.get("get_loss")
        self._hard = self._net.get_loss
        self._net.__dict__["get_loss"] = self._loss
        return self

    def __exit__(self, *error: object) -> None:
        self._net.__dict__.pop("get_loss", None)
        if self._before is not None:
            self._net.__dict__["get_loss"] = self._before

    def _loss(
        self,
        y_pred: Any,
        y_true: Any,
        X: Any = None,
        *args: Any,
        training: bool = False,
        **kwargs: Any,
    ) -> Tensor:
        net = self._net
        hard = self._hard(y_pred, y_true, X, *args, training=training, **kwargs)
        if not training:
            return hard
        own = net.module_
        net.__dict__["module_"] = self._teacher
        try:
            with torch.no_grad():
                wanted = net.infer(X)
        finally:
            net.__dict__["module_"] = own
        soft = self._distance(_first(y_pred), _first(wanted))
        return (1 - self._weight) * hard + self._weight * soft

    def _distance(self, given: Tensor, wanted: Tensor) -> Tensor:
        criterion, T = _criterion(self._net), self._temperature
        reduction = criterion.reduction
        if isinstance(criterion, _REGRESSIONS):
            return criterion(given, wanted)
        if isinstance(criterion, nn.BCEWithLogitsLoss):
            entropy = partial(
                functional.binary_cross_entropy_with_logits, reduction=reduction
            )
            target = torch.sigmoid(wanted / T)
            own = entropy(wanted / T, target)
            return T**2 * (entropy(given / T, target) - own)
        probabilities = isinstance(self._net, NeuralNetClassifier)
        if isinstance(criterion, nn.NLLLoss) and probabilities:
            eps = torch.finfo(given.dtype).eps
            given, wanted = (given + eps).log(), (wanted + eps).log()
        student = functional.log_softmax(given / T, dim=1)
        teacher = functional.log_softmax(wanted / T, dim=1)
        if student.ndim > 2:  # an output for every position
            student, teacher = (
                student.flatten(2).mT.flatten(0, 1),
                teacher.flatten(2).mT.flatten(0, 1),
            )
        reduction = "batchmean" if reduction == "mean" else reduction
        kl = functional.kl_div(student, teacher, log_target=True, reduction=reduction)
        return T**2 * kl


def _criterion(net: NeuralNet) -> Any:
    """Give the loss; skorch's ``compile=True`` compiles it too."""
    return original(net.criterion_)


def _first(outputs: Any) -> Tensor:
    return outputs[0] if isinstance(outputs, tuple) else outputs
