"""The parts that have parameters, in one place.

Each can be given to a pruner where its name, a string, can be; and its parameters can
be searched, as in ``schedule__end`` or ``allocation__max_sparsity``.
"""

from sklearn_sparse_nn.core.allocation import Bounded
from sklearn_sparse_nn.core.granularity import NM, Block
from sklearn_sparse_nn.core.obs import OBS
from sklearn_sparse_nn.core.recovery import Rewind, SoftTargets
from sklearn_sparse_nn.core.regrowth import Regrow
from sklearn_sparse_nn.core.schedules import Between, Cyclic, Exponential, Polynomial

__all__ = [
    "NM",
    "OBS",
    "Between",
    "Block",
    "Bounded",
    "Cyclic",
    "Exponential",
    "Polynomial",
    "Regrow",
    "Rewind",
    "SoftTargets",
]
