"""What a type checker knows of the public names."""

import re
from pathlib import Path
from typing import get_args

import pytest
from mypy import api

from sklearn_sparse_nn.core import allocation, importance, recovery, regrowth, schedules
from sklearn_sparse_nn.dense import tabular
from sklearn_sparse_nn.nets import modules
from sklearn_sparse_nn.pruning.parameters import CONSTRAINTS

ROOT = Path(__file__).parents[1]

# A line that mypy must refuse ends with "# error", and a revealed type with its name.
CODE = """\
from torch import Tensor, nn
from skorch import NeuralNetClassifier
from sklearn_sparse_nn import (
    PrunedClassifier,
    PrunedClassifierCV,
    PrunedRegressor,
    PrunedRegressorCV,
    TabularNetClassifier,
    TabularNetRegressor,
    pruning_path,
)
from sklearn_sparse_nn.inspection import controls
from sklearn_sparse_nn.parts import NM, OBS, Block, Bounded, Polynomial, Regrow, Rewind

PrunedClassifier(importance=3)  # error
PrunedClassifier(importance="magnitud")  # error
PrunedClassifier(granularity=3)  # error
PrunedClassifier(granularity=["2:4"])  # error
PrunedClassifier(allocation="globe")  # error
PrunedClassifier(schedule=0.5)  # error
PrunedClassifier(sparsity="0.9")  # error
PrunedClassifier(n_steps=2.5)  # error
PrunedClassifier(penalty="l2")  # error
PrunedClassifier(rewind="weight")  # error
PrunedClassifier(regrow=True)  # error
PrunedClassifier(distill="soft")  # error
PrunedClassifier(layers=3)  # error
PrunedClassifier(depth=3)  # error
PrunedRegressor(importance=3)  # error
TabularNetClassifier(activation="tan")  # error
TabularNetClassifier(norm="group")  # error
TabularNetClassifier(batch_size="big")  # error
TabularNetRegressor(optimizer=3)  # error
PrunedClassifierCV(select="worst")  # error
PrunedRegressorCV(start="sparse")  # error
PrunedRegressorCV(sparsities=0.5)  # error


def half(weight: Tensor, *, grad: Tensor) -> Tensor:
    return weight * grad / 2


PrunedClassifier(importance="snip", granularity="2:4", allocation="erk")
PrunedClassifier(importance=half, granularity="block:4x1", schedule=lambda p: p)
PrunedClassifier(importance=OBS(), granularity=Block(4, 1))
PrunedClassifier(granularity=NM(2, 4), allocation=Bounded("global"))
PrunedClassifier(schedule=Polynomial(3), regrow=Regrow(), rewind=Rewind("weights"))
PrunedClassifier(regrow="random", rewind="learning_rate", penalty="l1")
PrunedClassifier(sparsity=100, budget={"bytes": 100}, layers=["hidden_*"])
PrunedClassifier(sparsity={"hidden_*": 0.9}, distill=0.5, memory="store")
PrunedClassifier(NeuralNetClassifier(nn.Linear), random_state=0)
PrunedClassifierCV(PrunedClassifier(), select=lambda results: 0, sparsities=[0.5, 0.9])
TabularNetClassifier((32, 32), norm=None, optimizer="sgd", batch_size=32)

X, y = [[0.0], [1.0]], [0, 1]
reveal_type(PrunedClassifier().fit(X, y))  # PrunedClassifier
reveal_type(PrunedClassifier().partial_fit(X, y, classes=[0, 1]))  # PrunedClassifier
reveal_type(PrunedClassifier().partial_fit(X, y).prune(0.5))  # PrunedClassifier
reveal_type(PrunedRegressor().fit(X, y))  # PrunedRegressor
reveal_type(PrunedRegressor().partial_fit(X, y))  # PrunedRegressor
reveal_type(PrunedClassifierCV().fit(X, y))  # PrunedClassifierCV
reveal_type(PrunedRegressorCV().fit(X, y))  # PrunedRegressorCV
reveal_type(TabularNetClassifier().fit(X, y))  # TabularNetClassifier
reveal_type(TabularNetRegressor().fit(X, y))  # TabularNetRegressor
reveal_type(PrunedClassifier().fit(X, y).export())  # SparseModel
pruning_path(None, X, y, start="sparse")  # error
controls(PrunedClassifier(), X, y, n_repeats="five")  # error
"""


def test_mypy_refuses_what_no_parameter_may_be(tmp_path, monkeypatch):
    path = tmp_path / "user.py"
    path.write_text(CODE)
    monkeypatch.chdir(ROOT)  # where the settings are, and what mypy knows already
    text, problem, _ = api.run([str(path)])
    assert not problem
    found = {}
    for line, kind, message in re.findall(r"user\.py:(\d+): (error|note): (.*)", text):
        revealed = re.search(r'Revealed type is "([\w.]+)"', message)
        if kind == "error" or revealed:
            found[int(line)] = revealed[1].split(".")[-1] if revealed else "error"
    expected = {
        number: line.split("# ")[1]
        for number, line in enumerate(CODE.splitlines(), start=1)
        if "  # " in line
    }
    assert found == expected, text


@pytest.mark.parametrize(
    ("literal", "table"),
    [
        (importance.ImportanceName, importance.IMPORTANCES),
        (allocation.AllocationName, ["auto", *allocation.ALLOCATIONS]),
        (schedules.ScheduleName, schedules.SCHEDULES),
        (regrowth.RegrowName, regrowth.REGROWTHS),
        (recovery.RewindName, CONSTRAINTS["rewind"][0].options),
        (tabular.ActivationName, modules.ACTIVATIONS),
        (tabular.NormName, modules.NORMS),
        (tabular.OptimizerName, tabular._OPTIMIZERS),
    ],
)
def test_names_for_the_type_checker_are_those_of_the_tables(literal, table):
    assert sorted(get_args(literal)) == sorted(table)
