"""Invariants 1 to 16 for whatever combination the compatibility table allows."""

import warnings
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from sklearn.frozen import FrozenEstimator

from sklearn_sparse_nn import PrunedClassifier
from sklearn_sparse_nn.core.allocation import Bounded, n_pruned
from sklearn_sparse_nn.core.importance import IMPORTANCES
from sklearn_sparse_nn.core.recovery import Rewind, SoftTargets
from sklearn_sparse_nn.core.regrowth import Regrow
from sklearn_sparse_nn.core.schedules import SCHEDULES, Between
from sklearn_sparse_nn.exceptions import LayerCollapseWarning
from tests.pruning.nets import small
from tests.pruning.test_training import AfterEveryStep

SHAPES = {"hidden_0": (16, 8), "hidden_1": (12, 16), "output": (3, 12)}
SIZE = sum(rows * columns for rows, columns in SHAPES.values())
REFUSED = "do not go together|do not fit in|begin and end|at least that"
_CACHE = {}


#: Phases and data, drawn always; and parts, of which some leave their default.
PHASES = {
    "frozen": [False, True],
    "norm": [None, "batch", "layer"],
    "n_steps": [1, 2, 3, 7],
    "dense_epochs": [None, 1, 0],
    "prune_epochs": [3, 1, 0],
    "finetune_epochs": [2, 1, 0],
    "subsample": [50, None],
    "sparsity": [0.6, 0.35, 0.75, 0.9, 60, 0.0],
}
PARTS = {
    "sparsity": [{"hidden_*": 0.7}],
    "threshold": [0.05],
    "budget": [{"nonzeros": 90}, {"flops": 200}, {"bytes": 900}],
    "importance": sorted(set(IMPORTANCES) - {"magnitude"}),
    "granularity": ["neuron", "input", "block:4x1", "block:3x5", "2:4", "1:3"],
    "allocation": ["global", "uniform", "erk", "lamp", Bounded(max_sparsity=0.98)],
    "schedule": [
        *sorted(set(SCHEDULES) - {"cubic"}),
        Between("cubic", begin=0.3, end=0.8),
        Between("oneshot", begin=0.6),
    ],
    "rewind": ["weights", "learning_rate", Rewind("weights", epoch=1)],
    "regrow": ["random", "gradient", Regrow("snip", fraction=0.5)],
    "penalty": ["l1", "l0"],
    "distill": [0.5, SoftTargets(1.0, 4.0)],
}
DEFAULTS = PrunedClassifier().get_params(deep=False)


@st.composite
def combinations(draw):
    """Draw the phases, and up to four parts that are not the default."""
    phases = {name: draw(st.sampled_from(values)) for name, values in PHASES.items()}
    names = draw(st.lists(st.sampled_from(sorted(PARTS)), unique=True, max_size=4))
    parts = {name: draw(st.sampled_from(PARTS[name])) for name in names}
    used = {name: DEFAULTS[name] for name in PARTS if name != "sparsity"}
    return {**used, **phases, **parts}


def frozen_net(classes, norm):
    if norm not in _CACHE:
        _CACHE[norm] = small(norm=norm, random_state=0, max_epochs=2).fit(*classes)
    return FrozenEstimator(_CACHE[norm])


def fit(classes, drawn, watch):
    """Fit what was drawn; None if it was refused, which must be before training."""
    parameters = dict(drawn)
    frozen, norm = parameters.pop("frozen"), parameters.pop("norm")
    if frozen:
        net = frozen_net(classes, norm)
        parameters["dense_epochs"] = None
    else:
        net = small(norm=norm, max_epochs=1, batch_size=40, callbacks=[watch])
    pruner = PrunedClassifier(net, **parameters, random_state=0)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            pruner.fit(*classes)
    except ValueError as error:
        assert any(words in str(error) for words in REFUSED.split("|")), error
        assert watch.steps == 0
        assert not hasattr(pruner, "net_")
        return None
    assert {w.category for w in caught} <= {LayerCollapseWarning}, caught
    return pruner


def expected_kept(pruner):
    """Count, from the parameters alone, the survivors of single weights."""
    sizes = {name: int(np.prod(SHAPES[name])) for name in pruner.masks_}
    size = sum(sizes.values())
    if pruner.budget is not None:
        ((unit, limit),) = pruner.budget.items()
        fixed = 4 * sum(SHAPES[name][0] + 1 for name in sizes) if unit == "bytes" else 0
        return (limit - fixed) // {"nonzeros": 1, "flops": 2, "bytes": 8}[unit]
    if isinstance(pruner.sparsity, dict):
        return sum(n - n_pruned(0.7, n) for n in sizes.values())
    if isinstance(pruner.sparsity, int):
        return pruner.sparsity
    return size - n_pruned(pruner.sparsity, size)


def may_be_zero(pruner):
    """Tell whether a weight may live at zero, and so counts as dead in the end."""
    return bool(pruner.regrow or pruner.penalty or pruner.schedule == "cyclic")


def check_counts(pruner):
    kept = expected_kept(pruner)
    living = sum(int(mask.sum()) for mask in pruner.masks_.values())
    exact = pruner.granularity in ("unstructured", "2:4", "1:3")
    layered = pruner.allocation in ("uniform",) or (
        pruner.allocation == "auto" and pruner.importance in ("apoz", "fpgm")
    )
    if pruner.threshold is not None:
        return
    if exact and not layered and pruner.sparsity:
        assert living == kept or (may_be_zero(pruner) and living < kept)
    elif layered:  # rounded layer by layer
        assert living <= kept + len(SHAPES) or pruner.sparsity == 0.0
    elif pruner.sparsity:  # whole groups, and one group in every layer at least
        most = max(rows * columns for rows, columns in SHAPES.values())
        assert living <= kept + 3 * most


def check_structure(pruner):
    if may_be_zero(pruner):
        return  # a single weight of a living group may be zero in the end
    for name, mask in pruner.masks_.items():
        assert mask.any(), name
        if pruner.granularity == "neuron":
            assert (mask.all(1) | ~mask.any(1)).all()
        elif pruner.granularity == "input":
            assert (mask.all(0) | ~mask.any(0)).all()
        elif ":" in pruner.granularity and pruner.granularity[0].isdigit():
            if pruner.sparsity == 0.0 and pruner.budget is None:
                continue  # nothing to prune: dense, so no pattern either
            n, m = map(int, pruner.granularity.split(":"))
            for start in range(0, mask.shape[1], m):
                assert (mask[:, start : start + m].sum(1) <= n).all()
        elif pruner.granularity.startswith("block"):
            tall, wide = map(int, pruner.granularity[6:].split("x"))
            for row in range(0, mask.shape[0], tall):
                for column in range(0, mask.shape[1], wide):
                    block = mask[row : row + tall, column : column + wide]
                    assert block.all() or not block.any()


def check_weights(pruner, watch):
    weights = dict(pruner.net_.module_.named_modules())
    for name, mask in pruner.masks_.items():
        weight = weights[name].weight.detach().numpy()
        assert not weight[~mask].view(np.int32).any()  # +0.0, not -0.0
        assert np.isfinite(weight).all()
        if pruner.sparsity or pruner.budget or pruner.threshold:
            assert np.array_equal(weight != 0, mask)
    assert watch.revived == watch.remembered == 0
    assert pruner.n_nonzero_ == sum(int(m.sum()) for m in pruner.masks_.values())


def check_history(pruner):
    sparsities = [row["sparsity"] for row in pruner.history_]
    grows = pruner.schedule != "cyclic"
    if pruner.regrow and pruner.granularity == "block:3x5":
        grows = False  # blocks of other sizes may take the place of those that died
    if grows:
        assert all(before <= after for before, after in pairwise(sparsities))
    if pruner.finetune_epochs and sparsities:
        assert sparsities[-1] <= pruner.sparsity_ + 1e-12
        if not may_be_zero(pruner):
            assert sparsities[-1] == pytest.approx(pruner.sparsity_, abs=1e-12)


def check_nothing_left(pruner):
    net = pruner.net_
    assert "get_loss" not in net.__dict__
    names = {name for name, _ in net.callbacks_}
    assert not names & {"masks", "penalty", "movement"}
    for module in net.module_.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
    estimator = pruner.estimator
    plain = estimator.estimator.net_ if hasattr(estimator, "estimator") else None
    if plain is not None:
        assert list(net.module_.state_dict()) == list(plain.module_.state_dict())


@settings(
    max_examples=300,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],  # shrinking takes minutes of training
    suppress_health_check=[HealthCheck.too_slow],
)
@given(drawn=combinations())
def test_invariants_hold_for_every_allowed_combination(classes, drawn):
    class Watch(AfterEveryStep):
        pass

    state = torch.random.get_rng_state()
    pruner = fit(classes, drawn, Watch)
    assert torch.equal(state, torch.random.get_rng_state())
    if pruner is None:
        return
    check_counts(pruner)
    check_structure(pruner)
    check_weights(pruner, Watch)
    check_history(pruner)
    check_nothing_left(pruner)
    assert np.isfinite(pruner.predict_proba(classes[0])).all()
    assert pruner.transform(classes[0]).shape == (120, 12)


def test_most_combinations_are_allowed_and_some_are_not(classes):
    """The test above would be empty if nearly all that it draws were refused."""
    allowed = []

    @settings(
        max_examples=60,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(drawn=combinations())
    def draw(drawn):
        class Watch(AfterEveryStep):
            pass

        allowed.append(fit(classes, drawn, Watch) is not None)

    draw()
    assert 0.2 < np.mean(allowed) < 0.95
