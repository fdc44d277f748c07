"""Which parts go together: one checker, asked before any training."""

from collections.abc import Mapping
from numbers import Integral

from sklearn_sparse_nn.core.granularity import NM, Granularity

__all__ = ["check_parts"]


def check_parts(
    *,
    granularity: Granularity,
    sparsity: float | int | Mapping[str, float],
    threshold: float | None,
    n_weights: Mapping[str, int],
) -> None:
    """Refuse parts that cannot work together, naming both.

    Parameters
    ----------
    granularity : Granularity
        Which weights live or die together.
    sparsity : float, int or mapping of layer name to float
        What was asked for, by layer name where by layer.
    threshold : float or None
        What was asked for instead.
    n_weights : mapping of layer name to int
        Weights of every layer to be pruned.

    Raises
    ------
    ValueError
        Two parts contradict each other.

    Examples
    --------
    >>> from sklearn_sparse_nn.core.granularity import NM
    >>> check_parts(
    ...     granularity=NM(2, 4), sparsity=0.5, threshold=None, n_weights={"a": 8}
    ... )
    """
    if not isinstance(granularity, NM):
        return
    pattern = f"{granularity.n}:{granularity.m}"
    if threshold is not None:
        raise ValueError(
            f"granularity={pattern!r} and threshold={threshold!r} do not go together: "
            "N:M fixes how many weights of a group live. Give a sparsity instead."
        )
    size = sum(n_weights.values())
    least = 1 - granularity.n / granularity.m
    if isinstance(sparsity, Mapping):
        asked = min((value for value in sparsity.values() if value), default=0.0)
    elif isinstance(sparsity, Integral) and sparsity > 0:
        asked = 1 - sparsity / size
    else:
        asked = sparsity
    # Thirds cannot be written exactly: 0.666 is meant to fit 1:3. The pattern wins.
    if asked and asked < least - 1e-3:
        raise ValueError(
            f"granularity={pattern!r} and sparsity={sparsity!r} do not go together: "
            f"{granularity.n} of every {granularity.m} weights is a sparsity of at "
            f"least {least:.4g}. Ask for that or more, or another granularity."
        )
