"""Importances, allocations, granularities and schedules of a user's own."""

import numpy as np
import pytest
import torch

from sklearn_sparse_nn.core.allocation import uniform
from sklearn_sparse_nn.core.granularity import Granularity, best
from sklearn_sparse_nn.core.schedules import event_shares
from tests.core.decision import (
    as_lists,
    decide,
    n_alive_by_layer,
    n_zeros,
    over_schedule,
)


def test_a_users_importance_decides():
    masks = decide(
        {"layer": torch.tensor([[-5.0, 1.0, 3.0]])}, 1, importance=lambda weight: weight
    )
    assert masks["layer"].tolist() == [[False, False, True]]


def test_a_users_importance_may_answer_with_numpy():
    def by_numpy(weight):
        return np.abs(weight.numpy())

    weight = torch.nn.Parameter(torch.tensor([[-5.0, 1.0]]))
    masks = decide({"layer": weight}, 1, importance=by_numpy)
    assert masks["layer"].tolist() == [[True, False]]


def test_a_users_importance_is_given_only_what_it_asks_for():
    asked = []

    def noisy(weight, *, generator, amount=0.0):
        asked.append((generator, amount))
        return weight

    stats = {"generator": torch.Generator(), "unasked": object()}
    decide({"layer": torch.ones(1, 2)}, 1, importance=noisy, stats=stats)
    assert asked == [(stats["generator"], 0.0)]


def test_a_statistic_by_layer_is_given_layer_by_layer():
    scores = {"a": torch.tensor([[1.0, 2.0]]), "b": torch.tensor([[4.0, 3.0]])}

    def looked_up(weight, *, generator):
        return generator

    weights = {name: torch.ones(1, 2) for name in scores}
    masks = decide(
        weights,
        2,
        importance=looked_up,
        allocation="uniform",
        stats={"generator": scores},
    )
    assert as_lists(masks) == {"a": [[False, True]], "b": [[True, False]]}


@pytest.mark.parametrize(
    "shape", [(), (3,), (3, 2), (2, 3, 1)], ids=lambda shape: f"{len(shape)}d-{shape}"
)
def test_scores_of_another_shape_are_refused_naming_the_layer(shape):
    with pytest.raises(ValueError, match=r"layer 'hidden'.*shape \(2, 3\)"):
        decide(
            {"hidden": torch.ones(2, 3)}, 0.5, importance=lambda w: torch.ones(shape)
        )


def test_a_users_allocation_decides():
    def one_each(pooled, sizes, budget):
        return dict.fromkeys(pooled, 1)

    weights = {"a": torch.ones(2, 3), "b": torch.ones(4, 4)}
    masks = decide(weights, 0.5, allocation=one_each)
    assert n_alive_by_layer(masks) == {"a": 1, "b": 1}


def test_a_users_allocation_sees_living_groups_and_their_sizes():
    seen = {}

    def spy(pooled, sizes, budget):
        seen.update(sizes=as_lists(sizes), scores=as_lists(pooled))
        return uniform(pooled, sizes, budget)

    before = {"a": torch.tensor([[True, False], [True, True], [False, False]])}
    weights = {"a": torch.tensor([[2.0, 9.0], [1.0, 3.0], [9.0, 9.0]])}
    decide(weights, 0.0, granularity="neuron", allocation=spy, masks=before)
    assert seen == {"sizes": {"a": [1, 2, 0]}, "scores": {"a": [1.0, 2.0, -np.inf]}}


@pytest.mark.parametrize("n", [-1, 4, 7])
def test_an_allocation_of_groups_that_do_not_live_is_refused(n):
    before = {"hidden": torch.tensor([[True, True, True, False, False, False]])}
    with pytest.raises(ValueError, match=f"keeps {n} groups of layer 'hidden'.* 3 liv"):
        decide(
            {"hidden": torch.ones(1, 6)},
            0.5,
            allocation=lambda pooled, sizes, budget: {"hidden": n},
            masks=before,
        )


@pytest.mark.parametrize("answer", [{}, {"a": 1}, {"a": 1, "b": 1, "c": 1}])
def test_an_allocation_for_other_layers_is_refused(answer):
    with pytest.raises(ValueError, match=r"for each of \['a', 'b'\]"):
        decide(
            {"a": torch.ones(2, 2), "b": torch.ones(2, 2)},
            0.5,
            allocation=lambda pooled, sizes, budget: answer,
        )


class Halves:
    """The left and the right half of a layer live or die together."""

    def pool(self, scores):
        return torch.stack([half.mean() for half in scores.tensor_split(2, 1)])

    def choose(self, pooled, n):
        return best(pooled, n)

    def expand(self, values, shape):
        left, right = torch.empty(shape).tensor_split(2, 1)
        return torch.cat(
            [values[0].expand(left.shape), values[1].expand(right.shape)], 1
        )


def test_a_users_granularity_follows_the_protocol():
    assert isinstance(Halves(), Granularity)


def test_a_users_granularity_decides():
    masks = decide(
        {"layer": torch.tensor([[9.0, 1.0, 4.0, 4.0], [1.0, 1.0, 4.0, 4.0]])},
        0.5,
        granularity=Halves(),
    )
    assert masks["layer"].tolist() == [[False, False, True, True]] * 2


def test_a_users_schedule_is_followed():
    shares = event_shares(lambda progress: progress**2, 4)
    weights = {"layer": torch.arange(1.0, 161.0).reshape(16, 10)}
    rng = np.random.default_rng(0)
    zeros = [n_zeros(m) for m in over_schedule(weights, shares, rng, sparsity=0.5)]
    assert zeros == [5, 20, 45, 80]
