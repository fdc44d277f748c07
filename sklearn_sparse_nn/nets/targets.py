"""Training targets: class numbers or scaled values, and their inverse."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["Labels", "Values"]


@dataclass(frozen=True)
class Labels:
    """Class labels of any type, encoded as class numbers.

    Parameters
    ----------
    classes : ndarray of shape (n_classes,)
        The distinct labels, sorted.
    """

    classes: np.ndarray

    @property
    def n_outputs(self) -> int:
        """The number of outputs of a net for these targets."""
        return len(self.classes)

    @classmethod
    def of(cls, y: np.ndarray) -> "Labels":
        """Find the classes of `y`."""
        return cls(np.unique(y))

    def encode(self, y: np.ndarray) -> np.ndarray:
        """Return class numbers, int64 of shape (n,); unknown labels are an error."""
        numbers = np.searchsorted(self.classes, y)
        numbers = np.minimum(numbers, len(self.classes) - 1)
        unknown = self.classes[numbers] != y
        if np.any(unknown):
            raise ValueError(
                f"y has labels {np.unique(y[unknown]).tolist()} that the net was not "
                f"built for; it knows {self.classes.tolist()}."
            )
        return numbers.astype(np.int64)

    def decode(self, numbers: np.ndarray) -> np.ndarray:
        """Return the labels of class numbers."""
        return self.classes[numbers]


@dataclass(frozen=True)
class Values:
    """Values to regress on, shifted and scaled for training.

    Parameters
    ----------
    mean, scale : float
        The values that training subtracts and divides by; with 0 and 1, targets are
        not changed.
    """

    mean: float = 0.0
    scale: float = 1.0

    @property
    def n_outputs(self) -> int:
        """The number of outputs of a net for these targets."""
        return 1

    @classmethod
    def of(cls, y: np.ndarray) -> "Values":
        """Compute mean and standard deviation of `y`; a constant has scale 1.

        Raises
        ------
        ValueError
            The values are too large to be squared.
        """
        with np.errstate(over="ignore", invalid="ignore"):
            mean, scale = float(np.mean(y)), float(np.std(y))
        if not np.isfinite([mean, scale]).all():
            raise ValueError(
                f"y has values up to {np.abs(y).max():.3g}, and their squares are too "
                "large for float64. Divide y by a constant."
            )
        varies = scale > 10 * np.finfo(np.float64).eps * abs(mean)
        return cls(mean, scale if varies else 1.0)

    def encode(self, y: np.ndarray) -> np.ndarray:
        """Return standardised values, float32 of shape (n, 1)."""
        return ((y - self.mean) / self.scale).astype(np.float32).reshape(-1, 1)

    def decode(self, outputs: ArrayLike) -> np.ndarray:
        """Return values in their own units, float64 of shape (n,)."""
        return (
            np.asarray(outputs, dtype=np.float64).reshape(-1) * self.scale + self.mean
        )
