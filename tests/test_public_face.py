"""What importing the package does, and what it offers."""

import pickle
import subprocess
import sys

import pytest

import sklearn_sparse_nn
from sklearn_sparse_nn.exceptions import UnknownNameError


def loaded_by(statement):
    script = f"import sys; {statement}; print(*sorted(sys.modules))"
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return set(run.stdout.split())


def test_importing_the_package_loads_no_torch_and_no_sklearn():
    heavy = {"torch", "skorch", "sklearn", "numpy", "scipy", "numba", "pandas"}
    assert not heavy & loaded_by("import sklearn_sparse_nn")


def test_importing_the_pruners_loads_no_extra():
    loaded = loaded_by("from sklearn_sparse_nn import PrunedClassifier")
    assert not {"matplotlib", "polars", "numba"} & loaded


@pytest.mark.parametrize("name", sklearn_sparse_nn.__all__)
def test_every_public_name_loads_and_is_listed(name):
    assert getattr(sklearn_sparse_nn, name).__name__ == name
    assert name in dir(sklearn_sparse_nn)


def test_other_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="no attribute 'Pruned'"):
        sklearn_sparse_nn.Pruned  # noqa: B018


def test_errors_travel_between_processes():
    error = UnknownNameError("importance", "x", ["magnitude"])
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_the_version_is_the_distributions():
    from importlib.metadata import version

    assert version("sklearn-sparse-nn") == sklearn_sparse_nn.__version__
