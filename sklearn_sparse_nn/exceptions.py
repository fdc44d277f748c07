"""Errors and warnings that this package raises beyond scikit-learn's own."""

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = [
    "DivergedTrainingError",
    "LayerCollapseWarning",
    "ModelFormatError",
    "NonFiniteScoreError",
    "UnknownNameError",
    "UnprunedWeightsWarning",
    "UnsupportedLayerError",
]


class UnknownNameError(ValueError):
    """A name or pattern matches nothing; the message lists what would match.

    Parameters
    ----------
    kind : str
        What was named, such as ``"importance"``.
    given : str
        The name that was given.
    valid : iterable of str
        The names that exist.
    """

    def __init__(self, kind: str, given: str, valid: Iterable[str]) -> None:
        self.kind = kind
        self.given = given
        self.valid = list(valid)
        close = get_close_matches(given, self.valid, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        listed = ", ".join(map(repr, self.valid))
        super().__init__(f"Unknown {kind} {given!r}.{hint} Valid: {listed}.")

    def __reduce__(self) -> tuple[type, tuple[str, str, list[str]]]:
        return type(self), (self.kind, self.given, self.valid)


class NonFiniteScoreError(ValueError):
    """An importance gave NaN or infinite scores; the message names the layer."""


class DivergedTrainingError(ArithmeticError):
    """The loss or the weights became NaN or infinite; names epoch and phase."""


class LayerCollapseWarning(UserWarning):
    """A layer would have lost every weight, so its best group was kept."""


class UnprunedWeightsWarning(UserWarning):
    """Weights of a net stay dense, since they are in no layer that can be pruned."""


class ModelFormatError(ValueError):
    """A model file is damaged, of an unknown version, or no model file at all."""


class UnsupportedLayerError(TypeError):
    """The sparse runtime does not know a part of the net; names its module path."""
