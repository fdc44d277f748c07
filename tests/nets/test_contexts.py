"""Contexts and global settings of torch around fits, predictions and exports."""

from contextlib import ExitStack, contextmanager

import numpy as np
import pytest
import torch
from torch import nn

from sklearn_sparse_nn import (
    PrunedClassifier,
    PrunedRegressor,
    TabularNetClassifier,
    TabularNetRegressor,
)
from sklearn_sparse_nn.export import export_module
from sklearn_sparse_nn.inspection import layer_sensitivity
from tests.pruning.nets import own_net, small

QUICK = {
    "sparsity": 0.6,
    "allocation": "uniform",
    "n_steps": 2,
    "dense_epochs": 1,
    "prune_epochs": 2,
    "finetune_epochs": 1,
    "random_state": 0,
}


@contextmanager
def setting(set_, get, value):
    before = get()
    set_(value)
    try:
        yield
        assert get() == value
    finally:
        set_(before)


def deterministic(value):
    torch.use_deterministic_algorithms(value)


CONTEXTS = {
    "float64": lambda: setting(
        torch.set_default_dtype, torch.get_default_dtype, torch.float64
    ),
    "bfloat16": lambda: setting(
        torch.set_default_dtype, torch.get_default_dtype, torch.bfloat16
    ),
    "autocast": lambda: torch.autocast("cpu"),
    "inference mode": torch.inference_mode,
    "no_grad": torch.no_grad,
    "grad off": lambda: setting(torch.set_grad_enabled, torch.is_grad_enabled, False),
    "meta": lambda: torch.device("meta"),
    "default meta": lambda: setting(
        torch.set_default_device, lambda: torch.empty(0).device.type, "meta"
    ),
    "deterministic": lambda: setting(
        deterministic, torch.are_deterministic_algorithms_enabled, True
    ),
    "anomalies": lambda: torch.autograd.set_detect_anomaly(True),
    "precision": lambda: setting(
        torch.set_float32_matmul_precision, torch.get_float32_matmul_precision, "medium"
    ),
}


@contextmanager
def all_of_them():
    with ExitStack() as stack:
        for name, context in CONTEXTS.items():
            if name not in ("bfloat16", "default meta"):
                stack.enter_context(context())
        yield


FITS = {
    "plain": {},
    "statistics": {"importance": "fisher", "regrow": "gradient"},
    "units": {"importance": "apoz", "granularity": "neuron"},
    "paths": {"importance": "synflow", "allocation": "erk"},
    "inputs": {"importance": "wanda", "distill": 0.5},
    "refits": {"importance": "obs", "granularity": "block:1x4"},
    "second": {"importance": "grasp", "rewind": "weights"},
    "penalty": {"penalty": "l0"},
    "movement": {"importance": "movement", "penalty": "l1"},
}


def net(**options):
    return small(norm="batch", dropout=0.2, early_stopping=True, **options)


def answers(pruner, X):
    """Everything that a fitted pruner gives."""
    found = [*pruner.masks_.values(), pruner.predict_proba(X)]
    found += [pruner.transform(X).toarray(), pruner.export().predict_proba(X)]
    found += [weight.toarray() for weight in pruner.transform().values()]
    return found


@pytest.fixture(scope="module")
def expected(classes):
    made = {}

    def fit(kind):
        if kind not in made:
            pruner = PrunedClassifier(net(), **{**QUICK, **FITS[kind]}).fit(*classes)
            made[kind] = pruner, answers(pruner, classes[0])
        return made[kind]

    return fit


# torch warns that anomalies are looked for.
@pytest.mark.filterwarnings("ignore:Anomaly Detection")
@pytest.mark.parametrize(
    ("kind", "context"),
    [*(("plain", c) for c in CONTEXTS), *((k, "all") for k in FITS if k != "plain")],
)
def test_our_net_has_the_same_bits_in_every_context(classes, expected, kind, context):
    _, plain = expected(kind)
    with CONTEXTS[context]() if context != "all" else all_of_them():
        pruner = PrunedClassifier(net(), **{**QUICK, **FITS[kind]}).fit(*classes)
        inside = answers(pruner, classes[0])
    for found in (inside, answers(pruner, classes[0])):
        assert all(map(np.array_equal, found, plain))
        assert [a.dtype for a in found] == [a.dtype for a in plain]


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
@pytest.mark.parametrize("context", CONTEXTS)
def test_predictions_chunks_and_dense_nets_in_every_context(
    classes, values, expected, context
):
    X, y = classes

    def run():
        chunks = PrunedClassifier(small(random_state=0), sparsity=0.5, random_state=0)
        chunks.partial_fit(X, y, classes=[0, 1, 2]).prune().partial_fit(X, y)
        dense = TabularNetClassifier((8,), max_epochs=1, random_state=0).fit(X, y)
        regressor = PrunedRegressor(TabularNetRegressor((8,)), **QUICK).fit(*values)
        return [
            chunks.predict_proba(X),
            dense.predict_proba(X),
            regressor.predict(values[0]),
            layer_sensitivity(chunks, X, y, importance="fisher")["score"],
        ]

    pruner, plain = expected("plain")
    outside = run()
    with CONTEXTS[context]():
        assert all(map(np.array_equal, run(), outside))
        assert all(map(np.array_equal, answers(pruner, X), plain))


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
@pytest.mark.parametrize(
    "context", [c for c in CONTEXTS if c not in ("autocast", "bfloat16")]
)
@pytest.mark.parametrize("importance", ["fisher", "wanda"])
def test_a_users_own_net_is_fitted_in_every_context(classes, context, importance):
    X, y = classes
    pruner = PrunedClassifier(own_net(), importance=importance, **QUICK)
    plain = pruner.fit(X, y).predict_proba(X)
    with CONTEXTS[context]():
        inside = pruner.fit(X, y).predict_proba(X)
        hidden = pruner.transform(X)
    dtype = next(pruner.net_.module_.parameters()).dtype
    assert hidden.shape == (len(X), 16)
    if context == "float64":  # as in the net's own fit
        assert dtype is torch.float64
    elif context != "precision":
        assert np.array_equal(inside, plain)


def test_a_users_own_net_under_autocast_and_its_export(classes, tmp_path):
    X, y = classes
    pruner = PrunedClassifier(own_net(), importance="wanda", **QUICK)
    with torch.autocast("cpu"):
        assert pruner.fit(X, y).predict(X).shape == y.shape
    module = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))
    export_module(module).save(tmp_path / "plain")
    expected = (tmp_path / "plain").read_bytes()
    for context in CONTEXTS.values():
        with context():
            export_module(module).save(tmp_path / "inside")
        assert (tmp_path / "inside").read_bytes() == expected
