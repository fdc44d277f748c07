"""What a model on a GPU refuses, and what of torch it leaves alone."""

import pickle
import subprocess
import sys
import threading

import numpy as np
import pandas as pd
import pytest
import torch

from sklearn_sparse_nn.runtime import SparseModel
from sklearn_sparse_nn.runtime.cuda.device import PRECISIONS
from sklearn_sparse_nn.runtime.cuda.products import (
    float32_products,
)
from tests.runtime.cuda.cuda_models import (
    CPU,
    HAS_GPU,
    classifier,
    net,
    on_devices,
    rows,
    there_of,
)


@on_devices
def test_bad_rows_are_refused_in_the_cpu_models_words(device):
    filled = SparseModel(net(fill=np.zeros(64)), feature_names=map(str, range(64)))
    wide = classifier(shift=np.zeros(64), scale=np.ones(64), wide=True)
    good, nan, inf = rows(5), rows(5), rows(5)
    nan[2, 3], inf[4, 5] = np.nan, -np.inf
    frame = pd.DataFrame(good, columns=[f"x{i}" for i in range(64)])
    bad = [nan, inf, nan.astype("f8"), 1e300 * good.astype("f8")]
    bad += [good[:, :3], good[0]]
    bad += [good + 1j, frame, [["a"] * 64], good[:, :0], good[None]]
    for model in (classifier(), filled, wide):
        there = there_of(model, device, buckets=(2,))
        for X in bad:
            assert answer(there.forward, X) == answer(model.forward, X)
            if isinstance(X, np.ndarray):
                tensor = torch.from_numpy(X).to(device)
                assert answer(there.forward, tensor) == answer(model.forward, X)
        there.forward(good)  # no flag is left


def answer(function, X):
    try:
        with np.errstate(all="ignore"):
            function(X)
    except Exception as error:
        return type(error), str(error)
    return None


def test_more_that_is_refused():
    there = there_of(classifier(), CPU)
    with pytest.raises(ValueError, match=r"X is on meta and the model on cpu: move X"):
        there.forward(torch.empty(2, 64, device="meta"))
    with pytest.raises(ValueError, match="dense tensor"):
        there.forward(torch.zeros(2, 64).to_sparse())
    with pytest.raises(ValueError, match="one row or more"):
        there.tune(rows(0))
    regressor = there_of(SparseModel(net()), CPU)
    with pytest.raises(AttributeError, match="no classes"):
        regressor.predict_proba(rows(2))


def test_devices_by_name():
    model = classifier()
    assert model.to("cpu") is model.to(CPU) is model
    for device in ("gpu", "cuda:", "cuda:-1", "cuda:01", "CUDA", "mps", ""):
        with pytest.raises(ValueError, match='device must be "cpu", "cuda" or'):
            model.to(device)
    with pytest.raises(ValueError, match="precision must be one of"):
        model.to("cpu", precision="float16")
    with pytest.raises(ValueError, match="On the CPU a model computes in float32"):
        model.to("cpu", precision="tf32")
    there = there_of(model, CPU, "bf16")
    assert there.to("cpu") is model
    assert "precision='bf16'" in repr(there)
    assert pickle.loads(pickle.dumps(there_of(model, CPU))).forward(rows(1)).shape == (
        1,
        3,
    )


@pytest.mark.skipif(HAS_GPU, reason="for machines without a GPU")
def test_without_a_gpu_it_says_so():
    message = (
        r'to\("cuda:1"\) needs a CUDA GPU and a torch build with CUDA; torch .* none'
    )
    with pytest.raises(RuntimeError, match=message):
        classifier().to("cuda:1")


LAZY = """
import sys
import numpy as np
from scipy import sparse
from sklearn_sparse_nn.runtime import SparseModel
from sklearn_sparse_nn.runtime.graph import Graph, InputStage, Linear
w = sparse.csr_array(np.ones((1, 2), dtype=np.float32))
model = SparseModel(Graph(InputStage(2), (Linear(0, w, [0.0]),)))
assert model.to("cpu") is model
try:
    model.to("tpu")
except ValueError:
    pass
assert not [m for m in sys.modules if m.split(".")[0] == "torch"]
if {without}:
    sys.modules["torch"] = None
try:
    model.to("cuda:999")
except {error} as error:
    print(error)
"""


@pytest.mark.parametrize("without", [True, False])
def test_torch_is_loaded_for_a_gpu_only(without):
    error = "ImportError" if without else "(RuntimeError, ValueError)"
    code = LAZY.format(without=without, error=error)
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert ("install" if without else "GPU") in run.stdout


def switches():
    """Read all of torch's switches of float32's products that can be read."""
    found = [torch.is_grad_enabled(), torch.get_default_dtype()]
    found.append(torch.backends.cuda.matmul.fp32_precision)
    for read in (
        lambda: torch.backends.cuda.matmul.allow_tf32,
        torch.get_float32_matmul_precision,
    ):
        try:
            found.append(read())
        except RuntimeError:  # the user mixes torch's old and new switches
            found.append("mixed")
    return found


def old_switch(value):
    torch.backends.cuda.matmul.allow_tf32 = value


def new_switch(value):
    torch.backends.cuda.matmul.fp32_precision = value


def general_switch(value):
    torch.backends.fp32_precision = value


SETTINGS = [(old_switch, True), (old_switch, False)]
if hasattr(torch.backends, "fp32_precision"):
    SETTINGS += [(new_switch, "tf32"), (new_switch, "ieee"), (new_switch, "none")]
    SETTINGS += [(general_switch, "tf32"), (general_switch, "ieee")]


@on_devices
@pytest.mark.skipif(len(SETTINGS) == 2, reason="torch 2.9 has the switches read here")
@pytest.mark.parametrize("switch, value", SETTINGS)
def test_switches_of_torch_stay_as_they_were(device, switch, value):
    model, X = classifier(), rows(20)
    try:
        switch(value)
        before = switches()
        for precision in PRECISIONS:
            there_of(model, device, precision).tune(X).forward(X)
            assert switches() == before
        for tf32 in (True, False):
            with pytest.raises(ZeroDivisionError), float32_products(tf32=tf32):
                found = torch.backends.cuda.matmul.fp32_precision
                assert (found == "tf32") is tf32
                raise ZeroDivisionError
            assert switches() == before
        if switch is general_switch:  # it is followed as before
            switch("ieee" if value == "tf32" else "tf32")
            assert torch.backends.cuda.matmul.fp32_precision != value
    finally:
        old_switch(False)
        if len(SETTINGS) > 2:
            general_switch("none")
            new_switch("none")


@on_devices
def test_the_callers_switches_do_not_reach_the_model(device):
    there, X = there_of(classifier(), device), rows(20)
    expected = there.forward(X)
    torch.set_default_dtype(torch.float64)
    try:
        with torch.autocast(device.type, dtype=torch.bfloat16):
            found = there_of(classifier(), device).tune(X).forward(X)
    finally:
        torch.set_default_dtype(torch.float32)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@on_devices
def test_threads_take_turns(device):
    model = classifier()
    there = there_of(model, device, buckets=(1, 8, 64))
    failures = []

    def work(seed):
        X = rows(3 + 7 * seed, seed=seed)
        expected = model.forward(X)
        for x in (X, torch.from_numpy(X).to(device)) * 10:
            out = there.forward(x)
            out = out if x is X else out.cpu().numpy()
            if np.abs(out - expected).max() > 1e-5:
                failures.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
