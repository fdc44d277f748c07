"""Where the kernels cannot run or be kept, and what is imported when."""

import inspect
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import sklearn_sparse_nn
from tests.runtime.graphs import kernels_only

ROOT = Path(__file__).parents[2]
NET = """
import sys
import numpy as np
from sklearn_sparse_nn.runtime import SparseModel
from sklearn_sparse_nn.runtime.graph import *
from scipy import sparse
rng = np.random.default_rng(0)
ops = []
for n_in, n_out in ((9, 70), (70, 5)):
    dense = rng.integers(-3, 4, (n_out, n_in)) * (rng.random((n_out, n_in)) < 0.3)
    weight = sparse.csr_array(dense.astype(np.float32))
    ops.append(Linear(len(ops), weight, np.ones(n_out), Activation("relu")))
graph = Graph(InputStage(9), tuple(ops))
X = rng.integers(-3, 4, (130, 9)).astype(np.float32)
expected = X.T
for op in ops:
    expected = np.maximum(op.weight @ expected + 1, 0)
def check():
    model = SparseModel(graph)
    assert model.with_threads(2).forward(X).tolist() == expected.T.tolist()
    assert model.forward(X[:1]).tolist() == expected.T[:1].tolist()
    assert f"engine={model.engine!r}" in repr(model)
    return type(model._engine).__name__, model.engine
"""


def python(text, cwd=ROOT, warnings="error", **env):
    """Run Python, where warnings are errors unless told else; give what it printed."""
    settings = {k: v for k, v in os.environ.items() if not k.startswith("NUMBA_")}
    done = subprocess.run(
        [sys.executable, "-W", warnings, "-c", text],
        cwd=cwd,
        env=settings | env,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.split()


def test_importing_loads_no_compiler_and_no_torch():
    text = (
        "import sys, sklearn_sparse_nn.runtime\n"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    loaded = python(text)
    assert "scipy" in loaded
    assert not {"numba", "llvmlite", "torch", "sklearn", "skorch", "pandas"} & {*loaded}


def test_predicting_loads_no_torch_and_no_scikit_learn():
    text = (
        f"{NET}\nprint(*check())\nprint(*{{n.partition('.')[0] for n in sys.modules}})"
    )
    assert not {"torch", "sklearn", "skorch", "pandas", "joblib"} & {*python(text)}


@kernels_only
def test_the_kernels_run_where_there_is_a_compiler():
    assert python(f"{NET}\nprint(*check())") == ["KernelEngine", "kernel"]


def test_without_the_compiler_scipy_predicts():
    assert python(f"{NET}\nprint(*check())", NUMBA_DISABLE_JIT="1") == [
        "ReferenceEngine",
        "scipy",
    ]


BLOCK = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("numba", "llvmlite"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
"""


def test_without_numba_scipy_predicts():
    found = python(f"{BLOCK}\n{NET}\nprint(*check())\nprint('numba' in sys.modules)")
    assert found == ["ReferenceEngine", "scipy", "False"]


BROKEN = """
import sys
class Broken:
    def find_spec(self, name, path=None, target=None):
        if name == "numba":
            raise ImportError("Numba needs NumPy 2.3 or less.")
sys.meta_path.insert(0, Broken())
"""


def test_with_a_numba_that_does_not_fit_numpy_scipy_predicts():
    assert python(f"{BROKEN}\n{NET}\nprint(*check())") == ["ReferenceEngine", "scipy"]


@kernels_only
@pytest.mark.parametrize("deeper", ["", "deeper"])
def test_a_cache_folder_that_cannot_be_made_is_passed_over(deeper, tmp_path):
    (tmp_path / "cache").write_text("in the way")
    env = {"NUMBA_CACHE_DIR": str(tmp_path / "cache" / deeper)}
    # A warning where it is compiled, and kept elsewhere: kernels/test_cache.py.
    found = python(f"{NET}\nprint(*check())", warnings="default", **env)
    assert found == ["KernelEngine", "kernel"]


@kernels_only
def test_the_compiled_kernels_are_kept_and_found_again(tmp_path):
    """One run of all of them; kernels/test_cache.py damages a small function."""
    text = (
        f"{NET}\nprint(*check())\n"
        "from sklearn_sparse_nn.runtime.kernels import predict\n"
        "print(sum(predict.run.stats.cache_hits.values()))"
    )
    # Optimised no more than the cache needs, to compile in less time.
    quick = {"NUMBA_OPT": "1", "NUMBA_LOOP_VECTORIZE": "0", "NUMBA_SLP_VECTORIZE": "0"}
    env = {"NUMBA_CACHE_DIR": str(tmp_path), **quick}
    assert python(text, **env) == ["KernelEngine", "kernel", "0"]
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.nb?")}
    assert kept
    assert python(text, **env) == ["KernelEngine", "kernel", "1"]
    assert kept == {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.nb?")}


@kernels_only
def test_an_edit_of_any_source_of_the_runtime_is_another_cache_key(tmp_path):
    from sklearn_sparse_nn.runtime.kernels.compiling import sources_digest

    folder = tmp_path / "runtime"
    home = Path(sklearn_sparse_nn.__file__).parent / "runtime"
    shutil.copytree(home, folder, ignore=shutil.ignore_patterns("__pycache__"))
    assert sources_digest(folder) == sources_digest(home)
    for path in folder.rglob("*.py"):
        before = sources_digest(folder)
        path.write_text(f"{path.read_text()}\n")
        assert sources_digest(folder) != before, path


@kernels_only
def test_the_kernels_have_a_branch_for_every_activation():
    """Numbers cannot disagree: they are names of one table in the kernels' source."""
    from sklearn_sparse_nn.runtime.activations import ACTIVATIONS
    from sklearn_sparse_nn.runtime.kernels import elementwise

    branches = re.findall(r"code == Code\.(\w+)", inspect.getsource(elementwise))
    assert sorted(branches) == sorted(ACTIVATIONS)
