"""Labels, probabilities and values from raw outputs, the same in numpy and in torch."""

import pickle
from copy import deepcopy
from functools import partial

import numpy as np
import pytest
import torch
from scipy import special

from sklearn_sparse_nn.runtime.head import OUTPUTS, Functions, Head, shares

TORCH = Functions(
    torch.sigmoid, partial(torch.softmax, dim=1), partial(torch.cat, dim=1)
)
RAW = np.float32([[0.5, 2, -1], [0, 0, 7], [3, 1, 0.25]])
PROBA = special.softmax(RAW, axis=1)
#: Every output, with and without an output that has no class.
HEADS = [
    Head(3, output="softmax", classes=["a", "b", "c"]),
    Head(3, output="softmax", classes=["a", "b"]),
    Head(3, output="identity", classes=[4, 5, 6]),
    Head(3, output="identity", classes=[4, 5]),
    Head(1, output="sigmoid", classes=[False, True]),
]


@pytest.mark.parametrize("head", HEADS)
def test_torch_and_numpy_give_the_same_probabilities(head):
    plain = head.output == "identity" and len(head.classes) == head.n_outputs
    raw = PROBA if plain else RAW[:, : head.n_outputs]
    here = head.probabilities(raw)
    there = head.probabilities(torch.from_numpy(raw), TORCH)
    assert here.dtype == np.float32 and there.dtype == torch.float32
    assert here.shape == there.shape == (3, len(head.classes))
    np.testing.assert_allclose(here, there.numpy(), rtol=1e-6)
    assert head.labels(here).tolist() == head.labels(there.numpy()).tolist()


def test_an_output_without_a_class_is_left_out():
    all_three, two = HEADS[0].probabilities(RAW), HEADS[1].probabilities(RAW)
    assert (all_three == special.softmax(RAW, axis=1)).all()
    assert (two == special.softmax(RAW[:, :2], axis=1)).all()
    assert HEADS[3].probabilities(RAW)[1].tolist() == [0.5, 0.5]  # only the other is
    assert HEADS[2].probabilities(PROBA) is PROBA  # the net gives probabilities


@pytest.mark.parametrize("raw", [RAW, abs(RAW), PROBA / 2, -PROBA, np.log(PROBA)])
def test_outputs_that_are_no_probabilities_are_refused(raw):
    with pytest.raises(ValueError, match=r"outputs are no probabilities: .*softmax"):
        HEADS[2].probabilities(raw.astype(np.float32))


@pytest.mark.parametrize("array", [np.array, torch.tensor])
def test_shares_of_nothing_are_equal(array):
    proba = array([[0.25, 0.75, 0], [0, 0, 0], [1, 1, 2]])
    found = shares(proba)
    assert found[0].tolist() == [0.25, 0.75, 0] and found[2].tolist() == [
        0.25,
        0.25,
        0.5,
    ]
    assert found[1].tolist() == array([1 / 3] * 3).tolist()
    assert proba[1].tolist() == [0, 0, 0]  # the caller's own is not changed


def test_values_are_in_the_targets_units():
    head = Head(1, target_mean=3, target_scale=2)
    assert head.values(RAW[:, :1]).tolist() == [4.0, 3.0, 9.0]
    assert Head(3).values(RAW).dtype == np.float64
    assert Head(3).values(RAW).shape == (3, 3)


def test_the_first_of_equal_labels_is_taken():
    head = Head(3, classes=["x", "y", "z"])
    assert head.labels(np.float32([[0.2, 0.4, 0.4]])).tolist() == ["y"]


def test_classes_are_read_only_and_stay_so_in_copies():
    given = np.array([1, 2])
    head = Head(2, classes=given)
    given[0] = 7
    for one in (head, deepcopy(head), pickle.loads(pickle.dumps(head))):
        assert one.classes.tolist() == [1, 2]
        with pytest.raises(ValueError, match="read-only"):
            one.classes[0] = 3


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("n_outputs", [1, 2, 3])
@pytest.mark.parametrize("n_classes", [0, 1, 2, 3, 4])
def test_classes_that_do_not_fit_are_refused(output, n_outputs, n_classes):
    if output == "sigmoid":
        fits = (n_outputs, n_classes) == (1, 2)
    else:
        fits = 1 <= n_classes <= n_outputs
    if fits:
        Head(n_outputs, output=output, classes=range(n_classes))
        return
    with pytest.raises(ValueError, match="There are classes of shape"):
        Head(n_outputs, output=output, classes=range(n_classes))


def test_what_else_is_refused():
    with pytest.raises(ValueError, match="output must be one of"):
        Head(2, output="relu")
    with pytest.raises(ValueError, match="must be finite numbers"):
        Head(2, target_scale=np.inf)
    with pytest.raises(AttributeError, match="no classes"):
        Head(2).probabilities(RAW)
