"""What a net is trained on: class numbers or scaled values, and the way back."""

from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Labels", "Values"]


@dataclass(frozen=True)
class Labels:
    """Class labels of any type, as class numbers.

    Parameters
    ----------
    classes : ndarray of shape (n_classes,)
        The sorted labels.
    """

    classes: np.ndarray

    @property
    def n_outputs(self) -> int:
        """Outputs that a net for these targets has."""
        return len(self.classes)

    @classmethod
    def of(cls, y: np.ndarray) -> "Labels":
        """Learn the classes of `y`."""
        return cls(np.unique(y))

    def encode(self, y: np.ndarray) -> np.ndarray:
        """Give class numbers, int64 of shape (n,); unknown labels are an error."""
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
        """Give the labels of class numbers."""
        return self.classes[numbers]


@dataclass(frozen=True)
class Values:
    """Values to regress on, shifted and scaled for training.

    Parameters
    ----------
    mean, scale : float
        What training subtracts and divides by; 0 and 1 leave the values alone.
    """

    mean: float = 0.0
    scale: float = 1.0

    @property
    def n_outputs(self) -> int:
        """Outputs that a net for these targets has."""
        return 1

    @classmethod
    def of(cls, y: np.ndarray) -> "Values":
        """Learn mean and standard deviation of `y`; a constant has scale 1."""
        mean, scale = float(np.mean(y)), float(np.std(y))
        varies = scale > 10 * np.finfo(np.float64).eps * abs(mean)
        return cls(mean, scale if varies else 1.0)

    def encode(self, y: np.ndarray) -> np.ndarray:
        """Give standardised values, float32 of shape (n, 1)."""
        return ((y - self.mean) / self.scale).astype(np.float32).reshape(-1, 1)

    def decode(self, outputs: Any) -> np.ndarray:
        """Give values in their own units, float64 of shape (n,)."""
        return (
            np.asarray(outputs, dtype=np.float64).reshape(-1) * self.scale + self.mean
        )
