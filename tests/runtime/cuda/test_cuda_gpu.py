"""What only a GPU can show: captured graphs, streams, its own kernels."""

import numpy as np
import pytest
import torch

from sklearn_sparse_nn.runtime import SparseModel
from sklearn_sparse_nn.runtime.cuda.capture import Capture, Stream, measure
from sklearn_sparse_nn.runtime.cuda.device import PRECISIONS
from sklearn_sparse_nn.runtime.cuda.products import (
    candidates,
)
from sklearn_sparse_nn.runtime.graph import (
    Graph,
    InputStage,
)
from tests.runtime.cuda.cuda_models import (
    GPU,
    LAYERS,
    PER_NAME,
    classifier,
    layer,
    needs_gpu,
    rows,
    there_of,
)
from tests.runtime.file.file_models import weight


@needs_gpu
def test_to_gives_a_model_on_the_gpu():
    model, X = classifier(), rows(100)
    there = model.to("cuda")
    assert there.device == torch.device("cuda", torch.cuda.current_device())
    np.testing.assert_allclose(there.forward(X), model.forward(X), atol=1e-5)
    assert there.to("cpu") is model
    count = torch.cuda.device_count()
    with pytest.raises(ValueError, match=f"there are {count} GPUs"):
        model.to(f"cuda:{count}")


@needs_gpu
def test_graphs_replay_new_rows_in_any_order():
    model = classifier()
    there = model.to("cuda:0")
    sizes = (64, 1, 500, 64, 3, 1, 500, 17, 64)
    for i, n in enumerate(sizes):
        X = rows(n, seed=i)
        np.testing.assert_allclose(there.forward(X), model.forward(X), atol=1e-5)
    assert all(capture._graph is not None for _, capture in there._captures.values())


@needs_gpu
def test_results_outlive_the_next_call():
    there = classifier().to("cuda:0")
    X = [torch.from_numpy(rows(64, seed=seed)).cuda() for seed in range(3)]
    kept = [there.forward(x) for x in X]
    again = [there.forward(x) for x in X]
    for a, b in zip(kept, again, strict=True):
        assert torch.equal(a, b)


@needs_gpu
def test_streams_of_the_caller_are_waited_for():
    there = classifier().to("cuda:0")
    X = torch.from_numpy(rows(4096)).cuda()
    expected = there.forward(X)
    for _ in range(20):
        with torch.cuda.stream(torch.cuda.Stream()):
            torch.cuda._sleep(1_000_000)
            late = X + 0  # not there yet when forward is called
            assert torch.equal(there.forward(late), expected)
        torch.cuda.synchronize()


@needs_gpu
def test_every_candidate_can_be_captured_and_chosen():
    for mask, w in LAYERS.items():
        graph = Graph(InputStage(w.shape[1]), (layer(w),))
        model, X = SparseModel(graph), rows(100, w.shape[1])
        exact = model.forward(X)
        for name in candidates(graph.ops[0], GPU, "bf16"):

            def timer(bodies, name=name):
                assert name in bodies, "wrong, or missing on this GPU"
                return {n: float(n != name) for n in bodies}

            there = there_of(model, GPU, "bf16", timer=timer).tune(X)
            assert there.tuned_[128][0]["choice"] == name, mask
            error = np.abs(there.forward(X) - exact).max()
            share = 1e-5 + 2 * PER_NAME.get(name.split()[-1], 0)
            assert error <= share * np.abs(exact).max(), (mask, name)


@needs_gpu
def test_the_gpus_clock_times_every_candidate():
    there = SparseModel(Graph(InputStage(192), (layer(LAYERS["blocks of 64"]),)))
    there = there.to("cuda", precision="bf16").tune(rows(1024, 192))
    times = there.tuned_[1024][0]["microseconds"]
    assert {"dense bf16", "dense", "csr"} <= set(times)
    assert all(0 < taken < 1e5 for taken in times.values())


@needs_gpu
def test_float32_is_not_tf32_whatever_the_caller_allows():
    rng = np.random.default_rng(0)
    graph = Graph(InputStage(1024), (layer(weight(rng, 1024, 1024, 1)),))
    model, X = SparseModel(graph), rows(256, 1024)
    exact = X.astype("f8") @ graph.ops[0].weight.toarray().astype("f8").T
    exact += graph.ops[0].bias
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        errors = {
            name: np.abs(model.to("cuda", precision=name).forward(X) - exact).max()
            for name in PRECISIONS
        }
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
    assert 20 * errors["float32"] < errors["tf32"] < errors["bf16"]


@needs_gpu
def test_memory_stays_flat():
    there = classifier().to("cuda:0").tune(rows(1000))
    sizes = (1, 7, 100, 1000, 5000)
    batches = [torch.from_numpy(rows(n)).cuda() for n in sizes]
    for x in batches:
        there.forward(x)
    torch.cuda.synchronize()
    before, reserved = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
    for i in range(2000):
        there.forward(batches[i % len(batches)])
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() == before
    assert torch.cuda.memory_reserved() == reserved


@needs_gpu
def test_a_capture_of_what_cannot_be_captured_is_left_out():
    stream = Stream(GPU)
    x = torch.ones(10, device=GPU)
    bodies = {"fine": lambda: x + 1, "syncs": lambda: x * float(x.sum())}
    with stream:
        assert list(measure(stream)(bodies)) == ["fine"]
        assert torch.equal(Capture(lambda: x + 1, stream).replay(), x + 1)
