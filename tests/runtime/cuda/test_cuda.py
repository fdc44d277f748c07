"""A sparse model in torch: the same outputs on a GPU as on the CPU.

Everything but captured graphs and 2:4 runs in torch's CPU kernels, too, so that most
of it is tested where there is no GPU; with one, the same tests run on both.
"""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from sklearn_sparse_nn.runtime import SparseModel
from sklearn_sparse_nn.runtime.cuda.model import BUCKETS
from sklearn_sparse_nn.runtime.graph import (
    Activation,
    Affine,
    Graph,
    InputStage,
    LayerNorm,
    Linear,
    Softmax,
    inputs_of,
)
from sklearn_sparse_nn.runtime.inputs import apply_narrow, check_rows, chunks
from sklearn_sparse_nn.runtime.reference import activate, apply
from tests.runtime.cuda.cuda_models import (
    CPU,
    UNIT,
    classifier,
    on_devices,
    rows,
    there_of,
)
from tests.runtime.file.file_models import graphs, models


def lipschitz(activation):
    return max(2.0, *(abs(p) for p in activation.params), 0.0)


def rounding(op, values, result):
    """Bound the error of one operation in float32, from its inputs in float64."""
    x = values[0]
    if isinstance(op, Softmax):
        return 64 * UNIT * (np.ptp(x, axis=0) + np.abs(x).max(axis=0) + len(x))
    if not hasattr(op, "activation"):  # concat copies
        return np.zeros_like(result)
    if isinstance(op, Linear):
        size = abs(op.weight) @ np.abs(x) + np.abs(op.bias)[:, None]
        size *= op.weight.shape[1] + 2
    elif isinstance(op, Affine):
        size = 3 * (np.abs(x * op.scale[:, None]) + np.abs(op.shift)[:, None])
    elif isinstance(op, LayerNorm):
        # Centring cancels: its error is the values', and the deviation divides it.
        with np.errstate(divide="ignore", invalid="ignore"):
            size = np.abs(x).max(axis=0) / np.sqrt(x.var(axis=0) + op.eps)
            size = 8 * (len(x) + 2) * (size + size**2) * np.abs(op.weight)[:, None]
        size = size + np.abs(op.bias)[:, None]
    else:
        size = np.abs(x) + np.abs(values[1])
    bend = lipschitz(op.activation)
    # The formulas themselves take some ten roundings of numbers of these sizes;
    # softplus divides by its first parameter, at least 1/8 here.
    return 16 * UNIT * bend * (size + np.abs(result) + 8)


@on_devices
@settings(max_examples=400, deadline=None)
@given(graph=graphs(), seed=st.integers(0, 99))
def test_every_operation_is_the_references_up_to_rounding(device, graph, seed):
    rng = np.random.default_rng(seed)
    X = rng.normal(scale=3, size=(5, graph.stage.n_features))
    if graph.stage.fill is not None:
        X[rng.random(X.shape) < 0.2] = np.nan
    values = [staged(X, graph.stage)]
    for i, op in enumerate(graph.ops):
        below = SparseModel(Graph(graph.stage, graph.ops[: i + 1]))
        found = there_of(below, device).forward(X).astype(np.float64)
        reads = [values[v].T for v in inputs_of(op)]
        if not all(np.isfinite(read).all() for read in reads):
            break  # a zero times NaN is NaN in a dense weight, nothing in a sparse one
        with np.errstate(all="ignore"):
            exact = apply(op, reads)
            bound = rounding(op, reads, exact)
        good = np.isfinite(bound) & np.isfinite(exact)  # 0/0 of a norm without eps
        error = np.abs(found.T - exact)
        assert (error <= bound)[good].all(), (op, error[good].max())
        values.append(found)


def staged(X, stage):
    """Give what the first operation reads, as the CPU model rounds it."""
    checked = check_rows(X, stage.n_features, None)
    parts = [
        r if stage.wide else apply_narrow(r, stage) for _, r in chunks(checked, stage)
    ]
    return np.concatenate(parts).astype(np.float64)


@pytest.mark.parametrize(
    "name", ["hardtanh", "softplus", "gelu_tanh", "elu", "mish", "softsign"]
)
def test_activations_bend_where_the_references_do(name):
    params = {"hardtanh": (1.0, -1.0), "softplus": (2.0, 3.0), "elu": (0.5,)}
    activation = Activation(name, params.get(name, ()))
    x = np.float32([-100, -20, -1, -1e-3, 0, 1e-3, 1, 1.5, 1.6, 20, 100])
    graph = Graph(InputStage(11), (Affine(0, np.ones(11), np.zeros(11), activation),))
    found = there_of(SparseModel(graph), CPU).forward(x[None])[0]
    exact = activate(x.astype(np.float64), activation)
    np.testing.assert_allclose(found, exact, rtol=2e-6, atol=1e-7)


@on_devices
@settings(max_examples=100, deadline=None)
@given(model=models())
def test_predictions_are_the_cpu_models(device, model):
    # Norms without eps of equal values are 0/0 or nearly so: anybody's guess.
    if any(isinstance(op, LayerNorm) and op.eps < 0.1 for op in model.graph.ops):
        return
    X = np.random.default_rng(0).normal(size=(7, model.n_features_in_))
    there = there_of(model, device)
    assert there.n_features_in_ == model.n_features_in_
    raw = model.forward(X)
    scale = max(1.0, float(np.abs(raw).max(initial=0)))
    np.testing.assert_allclose(there.forward(X), raw, rtol=1e-4, atol=1e-4 * scale)
    if not hasattr(model, "classes_"):
        expected = model.predict(X)
        atol = 1e-4 * scale * abs(model.target_scale) + 1e-9
        np.testing.assert_allclose(there.predict(X), expected, rtol=1e-4, atol=atol)
        return
    with np.errstate(all="ignore"):  # classes that were not seen may have all the mass
        try:
            expected = model.predict_proba(X)
        except ValueError as error:  # a head without a function, after any layers
            assert "outputs are no probabilities" in str(error)
            assert model.output == "identity"
            return
        proba = there.predict_proba(X)
        assert there.predict(X).dtype == model.predict(X).dtype
    assert proba.dtype == np.float32 and proba.shape == expected.shape
    if model.output == "sigmoid" or len(model.classes_) == raw.shape[1]:
        np.testing.assert_allclose(proba, expected, rtol=1e-4, atol=3e-4 * scale)


@on_devices
def test_tensors_give_tensors(device):
    model = classifier()
    there, X = there_of(model, device), rows(10)
    tensor = torch.from_numpy(X).to(device)
    for x in (
        tensor,
        tensor.double(),
        tensor.t().contiguous().t(),
        tensor.requires_grad_(),
    ):
        out = there.forward(x)
        assert out.device == device and out.dtype == torch.float32
        assert not out.requires_grad
        np.testing.assert_array_equal(out.cpu().numpy(), there.forward(X))
    proba = there.predict_proba(tensor)
    assert proba.device == device
    np.testing.assert_array_equal(proba.cpu().numpy(), there.predict_proba(X))
    np.testing.assert_allclose(
        there.predict_proba(X), model.predict_proba(X), atol=1e-6
    )
    assert there.predict(tensor).tolist() == model.predict(X).tolist()
    assert there.forward(tensor[:0]).shape == (0, 3)


@on_devices
@pytest.mark.parametrize("kind", [np.float64, np.int64, np.float16, ">f4", "F"])
def test_any_numbers_may_be_passed(device, kind):
    stage = {"shift": np.full(64, 0.1), "scale": np.full(64, 0.3), "wide": True}
    model = classifier(**stage)
    X = np.round(4 * rows(9))
    X = np.asfortranarray(X) if kind == "F" else X.astype(kind)
    there, expected = there_of(model, device), model.forward(X)
    for x in (X, sparse.csr_array(X.astype("f8")) if kind != "F" else X):
        np.testing.assert_allclose(there.forward(x), expected, rtol=1e-4, atol=1e-4)
    if kind in (np.float64, np.int64):
        out = there.forward(torch.from_numpy(X).to(device))
        np.testing.assert_allclose(out.cpu().numpy(), expected, rtol=1e-4, atol=1e-4)
    read_only = rows(3)
    read_only.setflags(write=False)
    there.forward(read_only)


@on_devices
def test_batches_are_padded_and_cut(device):
    model = classifier()
    there = there_of(model, device, buckets=(1, 4, 16))
    for n in (0, 1, 2, 4, 5, 16, 17, 33, 100):
        X = rows(n, seed=n)
        expected = model.forward(X)
        np.testing.assert_allclose(there.forward(X), expected, atol=1e-5)
        tensor = torch.from_numpy(X).to(device)
        out = there.forward(tensor).cpu().numpy()
        np.testing.assert_allclose(out, expected, atol=1e-5)
    assert {bucket for bucket, _ in there._captures} == {1, 4, 16}


def test_padding_never_reaches_the_outputs():
    there = there_of(classifier(), CPU, buckets=(8,))
    first = there.forward(rows(3))
    with pytest.raises(ValueError, match="infinity"):
        there.forward(np.full((8, 64), np.inf, dtype=np.float32))
    np.testing.assert_array_equal(there.forward(rows(3)), first)  # nothing is left over


def test_wide_nets_have_smaller_buckets():
    n = 2**15
    graph = Graph(InputStage(n), (Affine(0, np.ones(n), np.zeros(n)),))
    there = there_of(SparseModel(graph), CPU)
    assert BUCKETS[-1] == 65536
    assert max(there._buckets) * 3 * n <= 2**28 < 2 * max(there._buckets) * 3 * n
