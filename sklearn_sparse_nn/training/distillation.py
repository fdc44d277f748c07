"""Knowledge distillation: the outputs of a teacher net as soft targets."""

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from skorch import NeuralNet, NeuralNetClassifier
from torch import Tensor, nn
from torch.nn import functional

from sklearn_sparse_nn.nets.copies import copy_module
from sklearn_sparse_nn.nets.host import original

__all__ = ["Distill", "check_distillable", "rehearse_soft"]

_REGRESSIONS = (nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss)
_KNOWN = (nn.CrossEntropyLoss, nn.NLLLoss, nn.BCEWithLogitsLoss, *_REGRESSIONS)


def check_distillable(net: NeuralNet) -> None:
    """Raise an error for a net whose loss has no soft form.

    Parameters
    ----------
    net : skorch.NeuralNet
        An initialized net.

    Raises
    ------
    TypeError
        The loss is none of the known ones, or has ``reduction="none"``.
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


def rehearse_soft(
    net: NeuralNet,
    batches: Iterable[tuple[Any, Any, int]],
    weight: float,
    temperature: float,
) -> None:
    """Compute the mixed loss of a few rows, to refuse before training what cannot be.

    Parameters
    ----------
    net : skorch.NeuralNet
        A private copy of an initialized net.
    batches : iterable of (inputs, targets, number of rows)
        The rows.
    weight, temperature : float
        The parameters of `Distill`.

    Raises
    ------
    ValueError
        The outputs have no distance to those of a teacher.
    """
    try:
        with torch.no_grad(), Distill(net, weight, temperature):
            for X, y, _ in batches:
                net.get_loss(net.infer(X), y, X=X, training=True)
    except Exception as error:  # the outputs may be anything
        reason = (str(error).splitlines() or [""])[0]
        raise ValueError(
            f"distill and the outputs of {type(net.module_).__name__} do not go "
            f"together ({type(error).__name__}: {reason}): soft targets are known for "
            "a tensor of outputs, or a tuple whose first item is one. Use distill=0."
        ) from error


class Distill:
    """Mix a net's training loss with its distance to a teacher's outputs.

    The loss is ``(1 - weight) * loss + weight * T ** 2 * KL(teacher || student)`` of
    the probabilities at temperature T. For regression, the distance is the net's own
    loss with the teacher's outputs as targets.

    A context manager for training; afterwards the net has its own loss again.

    Parameters
    ----------
    net : skorch.NeuralNet
        An initialized net. The teacher is a copy of its module as it is now.
    weight : float in [0, 1]
        The weight of the soft targets.
    temperature : float
        The temperature T, positive; a higher one gives softer targets.

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
        self._teacher: nn.Module = copy_module(original(net.module_))
        self._teacher.eval().requires_grad_(False)

    def __enter__(self) -> "Distill":
        # Set on the object, because the class may be a user's.
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
        """Compute the mixed loss in training, the net's own loss otherwise."""
        net = self._net
        hard = self._hard(y_pred, y_true, X, *args, training=training, **kwargs)
        if not training:
            return hard
        own = net.module_
        net.__dict__["module_"] = self._teacher
        try:
            with torch.no_grad():
                target = net.infer(X)
        finally:
            net.__dict__["module_"] = own
        soft = self._distance(_first(y_pred), _first(target))
        return (1 - self._weight) * hard + self._weight * soft

    def _distance(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Compute the distance of outputs to those of the teacher."""
        criterion, T = _criterion(self._net), self._temperature
        reduction = criterion.reduction
        if isinstance(criterion, _REGRESSIONS):
            return criterion(outputs, target)
        if isinstance(criterion, nn.BCEWithLogitsLoss):
            entropy = partial(
                functional.binary_cross_entropy_with_logits, reduction=reduction
            )
            soft = torch.sigmoid(target / T)
            return T**2 * (entropy(outputs / T, soft) - entropy(target / T, soft))
        probabilities = isinstance(self._net, NeuralNetClassifier)
        if isinstance(criterion, nn.NLLLoss) and probabilities:
            eps = torch.finfo(outputs.dtype).eps
            outputs, target = (outputs + eps).log(), (target + eps).log()
        student = functional.log_softmax(outputs / T, dim=1)
        teacher = functional.log_softmax(target / T, dim=1)
        if student.ndim > 2:  # an output for every position
            student, teacher = (
                student.flatten(2).mT.flatten(0, 1),
                teacher.flatten(2).mT.flatten(0, 1),
            )
        reduction = "batchmean" if reduction == "mean" else reduction
        kl = functional.kl_div(student, teacher, log_target=True, reduction=reduction)
        return T**2 * kl


def _criterion(net: NeuralNet) -> Any:
    """Return the loss, uncompiled: skorch's ``compile=True`` compiles it, too."""
    return original(net.criterion_)


def _first(outputs: Any) -> Tensor:
    """Return the first output of a module that may return several."""
    return outputs[0] if isinstance(outputs, tuple) else outputs
