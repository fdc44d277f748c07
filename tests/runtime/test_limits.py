"""What no model may hold is refused where one is made, not only where it is saved."""

import numpy as np
import pytest
from scipy import sparse

from sklearn_sparse_nn.runtime import SparseModel
from sklearn_sparse_nn.runtime.graph import (
    Activation,
    Graph,
    InputStage,
    LayerNorm,
    Linear,
)


def model(**kwargs):
    weight = sparse.csr_array(np.eye(2, dtype=np.float32))
    return SparseModel(Graph(InputStage(2), (Linear(0, weight, [0, 0]),)), **kwargs)


@pytest.mark.parametrize("eps", [1e300, 3.5e38, -1e-9, np.nan, np.inf, True])
def test_an_eps_that_is_no_number_in_float32(eps):
    with pytest.raises(ValueError, match="at least 0, and finite in float32 too; got"):
        LayerNorm(0, [1, 1], [0, 0], eps)


def test_an_eps_of_zero_is_torchs_own():
    assert LayerNorm(0, [1, 1], [0, 0], 0.0).eps == 0


@pytest.mark.parametrize(
    ("name", "params", "match"),
    [
        ("softplus", (0.0, 20.0), "beta of activation 'softplus'"),
        ("softplus", (-0.0, 20.0), "beta of activation 'softplus'"),
        ("softplus", (1e-40, 20.0), "beta of activation 'softplus'"),
        ("softplus", (1.0, 1e39), "finite numbers in float32"),
        ("leaky_relu", (1e300,), "finite numbers in float32"),
        ("leaky_relu", (np.nan,), "finite numbers in float32"),
        ("hardtanh", (-np.inf, 1.0), "finite numbers in float32"),
        ("elu", (True,), "finite numbers in float32"),
    ],
)
def test_parameters_that_make_no_function_of_float32(name, params, match):
    with pytest.raises(ValueError, match=match):
        Activation(name, params)


@pytest.mark.parametrize(
    ("mean", "scale", "match"),
    [
        (0.0, 0.0, "must not be 0"),
        (0.0, -0.0, "must not be 0"),
        (0.0, 1e308, "finite in float64"),
        (0.0, -1e300, "finite in float64"),
        (1.5e308, 3e269, "finite in float64"),
        (np.nan, 1.0, "finite numbers"),
        (0.0, np.inf, "finite numbers"),
    ],
)
def test_units_in_which_values_would_be_equal_or_infinite(mean, scale, match):
    with pytest.raises(ValueError, match=match):
        model(target_mean=mean, target_scale=scale)


def test_values_in_large_and_small_units_are_finite():
    for scale in (1e200, 5e-324, -2.0):
        values = model(target_scale=scale).predict([[3e38, -3e38]])
        assert np.isfinite(values).all()


@pytest.mark.parametrize(
    "classes",
    [["a", "a"], [1, 1], [2.5, 2.5], np.array([1, True], dtype=object)],
    ids=str,
)
def test_a_class_twice(classes):
    with pytest.raises(ValueError, match=r"class must be there once; .* more"):
        model(classes=classes, output="softmax")


def test_a_name_twice_and_names_in_one_string():
    with pytest.raises(ValueError, match="feature name must be there once; 'a'"):
        model(feature_names=["a", "a"])
    with pytest.raises(ValueError, match="sequence of names; got one string, 'ab'"):
        model(feature_names="ab")


@pytest.mark.parametrize("n", [0, -1, 1025, 10**9, 10**30, 2.0, "2", True, None])
def test_numbers_of_threads_that_no_machine_has(tmp_path, n):
    model().save(tmp_path / "m")
    for use in (
        lambda: model(n_threads=n),
        lambda: model().with_threads(n),
        lambda: SparseModel.load(tmp_path / "m", n_threads=n),
    ):
        with pytest.raises(ValueError, match="int of at least 1 and at most 1024"):
            use()


def test_numpys_ints_are_numbers_of_threads():
    assert model(n_threads=np.int8(3)).n_threads == 3
