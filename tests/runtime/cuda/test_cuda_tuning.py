"""Every way to multiply by a sparse weight in torch, and how one is chosen."""

import inspect
import warnings
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import sparse

from sklearn_sparse_nn.runtime import SparseModel
from sklearn_sparse_nn.runtime.cuda import capture as cuda_capture
from sklearn_sparse_nn.runtime.cuda.capture import Capture, Stream, measure
from sklearn_sparse_nn.runtime.cuda.device import PRECISIONS
from sklearn_sparse_nn.runtime.cuda.net import _is_right
from sklearn_sparse_nn.runtime.cuda.products import (
    candidates,
    is_two_of_four,
    multiply,
)
from sklearn_sparse_nn.runtime.graph import (
    Graph,
    InputStage,
)
from tests.runtime.cuda.cuda_models import (
    CPU,
    LAYERS,
    PER_NAME,
    UNIT,
    classifier,
    layer,
    on_devices,
    rows,
    there_of,
    two_of_four,
)


@on_devices
@pytest.mark.parametrize("mask", LAYERS)
@pytest.mark.parametrize("n_rows", [1, 3, 32, 100])
def test_every_way_to_multiply_is_right(device, mask, n_rows):
    op = layer(LAYERS[mask])
    x = rows(n_rows, op.weight.shape[1])
    exact = x.astype("f8") @ op.weight.toarray().astype("f8").T + op.bias
    size = np.abs(x) @ abs(op.weight.toarray()).T + np.abs(op.bias)
    for name in candidates(op, device, "bf16"):
        try:
            with torch.no_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # betas and prototypes
                product = multiply(op, name, device)
                out = product(torch.from_numpy(x).to(device)).cpu().double().numpy()
        except RuntimeError:
            # MKL has no blocks of bfloat16.
            assert "bsr" in name and "bf16" in name and device == CPU
            continue
        share = (x.shape[1] + 8) * UNIT + PER_NAME.get(name.split()[-1], 0)
        assert (np.abs(out - exact) <= share * size + 1e-30).all(), name


def test_a_mask_and_a_precision_decide_what_is_tried():
    def names(mask, precision, device=CPU):
        return candidates(layer(LAYERS[mask]), device, precision)

    gpu = torch.device("cuda")  # a name only
    assert names("unstructured", "float32") == ["dense", "csr"]
    assert names("unstructured", "tf32") == ["dense tf32", "dense", "csr"]
    assert names("dense", "bf16", gpu) == ["dense bf16", "dense", "dense tf32"]
    assert names("empty", "float32") == ["dense"]
    assert names("blocks of 16", "float32") == ["dense", "csr", "bsr 16"]
    assert "bsr 16 bf16" in names("blocks of 16", "bf16")
    assert {"bsr 16", "bsr 32", "bsr 64"} < set(names("blocks of 64", "float32"))
    assert "2:4 bf16" in names("2:4", "bf16", gpu)
    assert "2:4 bf16" not in names("2:4", "bf16", CPU)
    assert "2:4 bf16" not in names("2:4", "tf32", gpu)
    assert not any("16" in name for name in names("odd", "float32"))


def test_two_of_four_needs_the_mask_and_the_shape():
    assert is_two_of_four(two_of_four())
    assert not is_two_of_four(two_of_four(33, 128))
    assert not is_two_of_four(two_of_four(32, 96))
    assert not is_two_of_four(LAYERS["dense"])
    across = np.zeros((32, 64), dtype=np.float32)
    across[5, 2:6] = 1  # four in a row, but two in each group
    assert is_two_of_four(sparse.csr_array(across))
    across[5, 6] = 1
    assert not is_two_of_four(sparse.csr_array(across))


@on_devices
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_whole_net_keeps_to_its_precision(device, precision):
    model, X = classifier(), rows(100)
    there = there_of(model, device, precision)
    exact = model.forward(X)
    bound = {"float32": 1e-5, "tf32": 1e-2, "bf16": 6e-2}[precision]
    for _ in range(2):
        error = np.abs(there.forward(X) - exact).max()
        assert error <= bound * np.abs(exact).max()
        there.tune(X)


class FakeTimer:
    """A clock that says what it is told, and what it was asked for."""

    def __init__(self, **times):
        self.times, self.asked = times, []

    def __call__(self, bodies):
        self.asked.append(list(bodies))
        for body in bodies.values():
            assert torch.isfinite(body()).all()
        return {name: self.times[name] for name in bodies}


@on_devices
def test_tuning_takes_the_fastest_once_for_every_batch_size(device):
    timer = FakeTimer(dense=10.0, csr=5.0)
    model = classifier()
    there = there_of(model, device, buckets=(1, 8, 64), timer=timer)
    before = there.forward(rows(5))
    assert there.tune(rows(5)) is there
    assert [found["name"] for found in there.tuned_[8]] == [
        "linear_0",
        "second",
        "linear_2",
    ]
    assert [found["choice"] for found in there.tuned_[8]] == ["csr"] * 3
    assert there.tuned_[8][0]["microseconds"] == {"dense": 10.0, "csr": 5.0}
    assert len(timer.asked) == 3
    there.tune(rows(8))  # the same bucket
    assert len(timer.asked) == 3 and list(there.tuned_) == [8]
    np.testing.assert_allclose(there.forward(rows(5)), before, atol=1e-5)
    timer.times["dense"] = 5.1  # within the noise: what is usual stays
    there.tune(torch.from_numpy(rows(200)).to(device))
    assert [found["choice"] for found in there.tuned_[64]] == ["dense"] * 3
    used = {name for _, name in there._net._products}
    assert used == {"dense", "csr"}
    np.testing.assert_allclose(
        there.forward(rows(300)), model.forward(rows(300)), atol=1e-5
    )


def test_only_what_is_chosen_stays_in_memory():
    graph = Graph(InputStage(192), (layer(LAYERS["blocks of 64"]),))
    times = {"dense": 3.0, "csr": 2.0, "bsr 16": 4.0, "bsr 32": 1.0, "bsr 64": 5.0}
    there = there_of(SparseModel(graph), CPU, timer=FakeTimer(**times))
    there.tune(rows(2, 192))
    assert set(there._net._products) == {(0, "dense"), (0, "bsr 32")}
    np.testing.assert_allclose(
        there.forward(rows(2, 192)), SparseModel(graph).forward(rows(2, 192)), atol=1e-4
    )


def test_a_wrong_kernel_is_never_taken(monkeypatch):
    from sklearn_sparse_nn.runtime.cuda import net as cuda_net

    def broken(op, name, device):
        right = multiply(op, name, device)
        return (lambda x: right(x) * 1.001) if name == "csr" else right

    monkeypatch.setattr(cuda_net, "multiply", broken)
    there = there_of(classifier(), CPU, timer=FakeTimer(dense=10.0, csr=1.0)).tune(
        rows(4)
    )
    assert {found["choice"] for found in there.tuned_[4]} == {"dense"}


def test_a_missing_kernel_is_left_out(monkeypatch):
    from sklearn_sparse_nn.runtime.cuda import net as cuda_net

    def missing(op, name, device):
        if name == "csr":
            raise NotImplementedError("no such kernel")
        return multiply(op, name, device)

    monkeypatch.setattr(cuda_net, "multiply", missing)
    there = there_of(classifier(), CPU, timer=FakeTimer(dense=10.0)).tune(rows(4))
    assert [list(found["microseconds"]) for found in there.tuned_[4]] == [["dense"]] * 3


def test_a_way_that_cannot_be_timed_leaves_the_usual_one():
    there = there_of(classifier(), CPU, timer=lambda bodies: {}).tune(rows(4))
    assert {found["choice"] for found in there.tuned_[4]} == {"dense"}


@on_devices
def test_the_clock_orders_work_by_its_size(device):
    small = torch.ones(8, 8, device=device)
    big = torch.ones(2048, 1024, device=device)
    stream = Stream(device)
    with stream:
        times = measure(stream)(
            {"big": lambda: big @ big.t(), "small": lambda: small + 1}
        )
    assert 0 < times["small"] < times["big"]


def test_rounding_tells_precisions_from_errors():
    op = layer(LAYERS["unstructured"])
    x = torch.from_numpy(rows(4, 128))
    exact = multiply(op, "dense", CPU)(x)
    assert _is_right(exact, op, x, "dense")
    assert not _is_right(exact * (1 + 1e-3), op, x, "csr")
    assert _is_right(exact.bfloat16(), op, x, "dense bf16")
    assert not _is_right(exact * 1.1, op, x, "dense bf16")
    assert not _is_right(exact * np.nan, op, x, "dense")


def test_captures_are_ordered_after_and_before_the_callers_work(monkeypatch):
    """What is asked of torch.cuda, written down by a stand-in."""
    log = []

    class Events:
        def __init__(self, name):
            self.name = name

        def wait_stream(self, other):
            log.append(f"{self.name} waits for {other.name}")

        def synchronize(self):
            log.append(f"{self.name} is done")

        def replay(self):
            log.append("replay")

    @contextmanager
    def graph(*args, **kwargs):
        inspect.signature(torch.cuda.graph.__init__).bind(None, *args, **kwargs)
        log.append(f"capture in {kwargs['pool']} on {kwargs['stream'].name}")
        yield

    stand_in = SimpleNamespace(
        Stream=lambda device: Events("own"),
        current_stream=lambda device: Events("the caller"),
        stream=lambda stream: nullcontext(),
        graph_pool_handle=lambda: "the pool",
        CUDAGraph=lambda: Events("graph"),
        graph=graph,
    )
    monkeypatch.setattr(cuda_capture, "_cuda", stand_in)
    stream = Stream(torch.device("cuda"))
    with stream:
        capture = Capture(lambda: log.append("body") or CPU, stream, stream.pool)
        assert capture.replay() is CPU
    assert log == [
        "own waits for the caller",
        *["body"] * 3,
        "own is done",
        "capture in the pool on own",
        "body",
        "replay",
        "the caller waits for own",
    ]
