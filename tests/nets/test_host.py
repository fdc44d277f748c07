"""nets/host.py is the only file that touches private parts of torch and skorch."""

import ast
from pathlib import Path

import numpy as np
import pytest
import torch
from skorch import NeuralNetClassifier
from skorch.callbacks import Callback, Checkpoint, EarlyStopping, LRScheduler
from torch import nn

import sklearn_sparse_nn

PACKAGE = Path(sklearn_sparse_nn.__file__).parent
HOSTS = ("torch", "skorch")


def is_private(name):
    return name.startswith("_") and not name.startswith("__")


@pytest.fixture(scope="module")
def host_names():
    """The private names of torch's and skorch's objects, found by looking at them."""
    with torch.random.fork_rng(devices=[]):
        net = NeuralNetClassifier(
            nn.Linear,
            module__in_features=2,
            module__out_features=2,
            criterion=nn.CrossEntropyLoss,
            max_epochs=1,
            verbose=0,
            callbacks=[
                LRScheduler("StepLR", step_size=1),
                EarlyStopping(),
            ],
        ).fit(np.eye(20, 2, dtype="float32"), np.arange(20) % 2)
        optimizer, layer = net.optimizer_, net.module_
        objects = [net, optimizer, optimizer.step, layer, layer.weight, torch.ones(1)]
        objects += [callback for _, callback in net.callbacks_]
        objects += [torch.optim.Adam([layer.weight]), nn.modules.module]
        objects += [torch.compile(layer, backend="eager"), Callback, Checkpoint]
        return {name for thing in objects for name in dir(thing) if is_private(name)}


def defined_names(trees):
    """The private names that our classes, functions and dictionaries define."""
    names = set()
    for tree in trees:
        for node in ast.walk(tree):
            match node:
                case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                    names.add(name)
                case ast.Attribute(_, name, ast.Store()):
                    names.add(name)
                case ast.Dict(keys=keys):
                    names |= {
                        key.value for key in keys if isinstance(key, ast.Constant)
                    }
                case ast.Name(name, ast.Store()) | ast.keyword(arg=str(name)):
                    names.add(name)
    return {name for name in names if isinstance(name, str) and is_private(name)}


def touched(tree, host_names, own_names):
    """The places where a file names a private part of torch or skorch."""
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(ast.Name("self" | "cls"), name):
                private = is_private(name) and name not in own_names
            case ast.Attribute(ast.Name("pickle"), _):  # the standard library's
                continue
            case ast.Attribute(_, name):
                private = name in host_names or (
                    is_private(name) and name not in own_names
                )
            case ast.JoinedStr(values=[ast.Constant(str(name)), *_]):
                private = is_private(name) and any(
                    host_name.startswith(name) for host_name in host_names
                )
            case ast.Constant(str(name)):  # in getattr, vars() and the like
                private = name in host_names
            case ast.ImportFrom(module=str(module), names=names):
                parts = [*module.split("."), *(alias.name for alias in names)]
                private = parts[0] in HOSTS and any(map(is_private, parts))
            case ast.Import(names=names):
                parts = [part for alias in names for part in alias.name.split(".")]
                private = parts[0] in HOSTS and any(map(is_private, parts))
            case _:
                continue
        if private:
            yield f"{node.lineno}: {ast.unparse(node)}"


def test_no_other_file_touches_private_parts(host_names):
    trees = {path: ast.parse(path.read_text()) for path in PACKAGE.rglob("*.py")}
    own_names = defined_names(trees.values())
    found = {
        str(path.relative_to(PACKAGE)): places
        for path, tree in trees.items()
        if path.name != "_compat.py"  # of scikit-learn
        and path.parent.name != "kernels"  # of numba
        and (places := list(touched(tree, host_names, own_names)))
    }
    assert set(found) == {"nets/host.py"}, found


@pytest.mark.parametrize(
    "code",
    [
        "net._criteria",
        "child._parameters['weight']",
        "tensor._version",
        "optimizer._opt_called = True",
        "step._wrapped_by_lr_sched",
        "getattr(module, '_orig_mod', module)",
        "vars(module)['_buffers']",
        "getattr(torch.nn.modules.module, f'_global{name}')",
        "from torch.nn.modules.conv import _ConvNd",
        "import torch._dynamo",
        "torch._C",
        "net._something_of_tomorrow",
    ],
)
def test_a_private_part_is_seen_however_it_is_named(host_names, code):
    assert list(touched(ast.parse(code), host_names, {"_version", "_own"}))


def test_own_private_names_are_no_private_parts_of_others(host_names):
    code = "self._own, other._own, __version__, net.module_"
    assert not list(touched(ast.parse(code), host_names, {"_own"}))
