"""Edited code is other code: in a user's files, scripts and notebooks."""

import copy
import functools
import importlib
import os
import subprocess
import sys
import threading
from collections import namedtuple
from dataclasses import make_dataclass
from pathlib import Path

import numba
import numpy as np
import pytest
import torch
from torch import nn

from sklearn_sparse_nn.memory.fingerprint import fingerprint
from sklearn_sparse_nn.memory.store import _warned, key_of

ROOT = Path(__file__).parents[2]
FILES = {
    "somebodys": """
        import enum, functools, torch
        import helpers
        import helpers as aid
        from torch import nn
        from helpers import halved
        WIDTHS = (64, 32)
        RATES = [0.1, {"last": 0.2}]
        BY_NAME = {"first": 8, "next": helpers}
        class Kind(enum.Enum):
            ONE = 1
        def kept(function):
            @functools.wraps(function)
            def inner(*args):
                return function(*args) + 1
            return inner
        class Base(nn.Module):
            step = 3
            __hidden__ = 5
            def scaled(self, x):
                return x * 2
        class Net(Base):
            options = {"deep": [1, 2]}
            change = staticmethod(lambda x, by=1: x + by)
            def __init__(self):
                super().__init__()
                self.layers = [nn.Linear(a, b) for a, b in zip(WIDTHS, WIDTHS[1:])]
            @kept
            def forward(self, X):
                X = self.change(self.scaled(X)) * RATES[0]
                return torch.relu(aid.doubled(halved(X))) + BY_NAME["first"]
            def late(self, X):
                from helpers import squared
                return squared(X) if Kind.ONE else X
            def passed(self, X):
                return self.applied(helpers, X)
            def applied(self, place, X):
                return place.cubed(X)
            @torch.no_grad()
            def quiet(self, X):
                return X - 4
    """,
    "helpers": """
        import deeper
        TABLE = {"by": [2]}
        def doubled(x): return x * TABLE["by"][0]
        def halved(x): return deeper.divided(x)
        def squared(x): return x ** 2
        def cubed(x): return x ** 3
    """,
    "deeper": """
        def divided(x): return x / 2
    """,
}
EDITS = {
    "tuple": ("somebodys", "(64, 32)", "(64, 33)"),
    "list": ("somebodys", "[0.1, ", "[0.3, "),
    "dict in a list": ("somebodys", '"last": 0.2', '"last": 0.3'),
    "dict": ("somebodys", '"first": 8', '"first": 9'),
    "decorator": ("somebodys", "(*args) + 1", "(*args) + 2"),
    "attribute of a base": ("somebodys", "step = 3", "step = 4"),
    "attribute with underscores": ("somebodys", "__hidden__ = 5", "__hidden__ = 6"),
    "method of a base": ("somebodys", "x * 2", "x * 3"),
    "list of a class": ("somebodys", "[1, 2]", "[1, 3]"),
    "default of a lambda": ("somebodys", "by=1", "by=2"),
    "lambda": ("somebodys", "x + by", "x - by"),
    "method": ("somebodys", "torch.relu(", "torch.tanh("),
    "method under a library's decorator": ("somebodys", "X - 4", "X - 5"),
    "enum": ("somebodys", "ONE = 1", "ONE = 2"),
    "function of another file": ("helpers", "x * TABLE", "2 * x * TABLE"),
    "value of another file": ("helpers", '{"by": [2]}', '{"by": [3]}'),
    "function of a file behind it": ("deeper", "x / 2", "x / 3"),
    "function imported late": ("helpers", "x ** 2", "x ** 4"),
    "function of a module that is passed on": ("helpers", "x ** 3", "x ** 5"),
}


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Import the files, edited, as another run would."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def imported(place="somebodys", before="", after=""):
        for name, text in FILES.items():
            assert name != place or before in text
            text = text.replace(before, after) if name == place else text
            lines = text.replace("\n        ", "\n")
            (tmp_path / f"{name}.py").write_text(lines)
            sys.modules.pop(name, None)
        importlib.invalidate_caches()
        return importlib.import_module("somebodys")

    yield imported
    for name in FILES:
        sys.modules.pop(name, None)


def same(one, other):
    return fingerprint(one)[0] == fingerprint(other)[0]


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_an_edit_of_what_a_class_uses_counts(files, edit):
    before = fingerprint(files().Net)[0]
    assert fingerprint(files().Net)[0] == before
    assert fingerprint(files(*edit).Net)[0] != before


@pytest.mark.parametrize(
    "edit",
    [
        ("somebodys", "import helpers\n", "# a comment\n\n\nimport helpers\n"),
        ("somebodys", "WIDTHS = (", "OTHER = 3\nWIDTHS = ("),
    ],
    ids=["a comment", "what is not named"],
)
def test_an_edit_of_what_it_does_not_use_does_not_count(files, edit):
    edit = [text.replace("\n", "\n        ") for text in edit]
    assert fingerprint(files().Net)[0] == fingerprint(files(*edit).Net)[0]


def test_what_counts_is_loaded_and_not_what_is_in_the_file(files, tmp_path):
    module = files()
    before = fingerprint(module.Net)[0]
    path = tmp_path / "somebodys.py"
    path.write_text(path.read_text().replace("(64, 32)", "(64, 33)"))
    assert fingerprint(module.Net)[0] == before  # the old code would run
    module.WIDTHS = (64, 33)
    assert fingerprint(module.Net)[0] != before


def test_a_module_that_an_object_holds_counts_as_a_whole(files):
    held = [fingerprint([files(*edit).helpers])[0] for edit in ((), EDITS["enum"])]
    assert held[0] == held[1]
    others = "value of another file", "function of a file behind it"
    assert all(fingerprint([files(*EDITS[o]).helpers])[0] != held[0] for o in others)


def test_a_file_that_has_the_name_of_pythons_own_is_the_users(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.delitem(sys.modules, "sched", raising=False)
    found = []
    for number in (1, 2):
        (tmp_path / "sched.py").write_text(f"def f(x):\n    return x + {number}\n")
        importlib.invalidate_caches()
        monkeypatch.delitem(sys.modules, "sched", raising=False)
        found.append(fingerprint(importlib.import_module("sched").f)[0])
    assert found[0] != found[1]


def cell(text, name="f", **values):
    """Run code as a notebook does."""
    exec(text, values)
    return values[name]


def test_code_without_a_module_is_told_apart():
    # Its classes say that they are from `builtins`.
    text = "class f:\n    def g(self):\n        return {}"
    assert same(cell(text.format(1)), cell(text.format(1)))
    assert not same(cell(text.format(1)), cell(text.format(2)))
    made = [make_dataclass("Config", [("width", int, w)]) for w in (1, 1, 2)]
    assert same(made[0], made[1])
    assert not same(made[0], made[2])
    pairs = [namedtuple("Pair", names) for names in ("a b", "a b", "a c")]
    assert same(pairs[0], pairs[1])
    assert not same(pairs[0](1, 2), pairs[2](1, 2))


@pytest.mark.parametrize(
    "values",
    [((1, 2), (1, 3)), ([1], [2]), ({"a": 1}, {"a": 2}), ({"a"}, {"b"})],
    ids=["tuple", "list", "dict", "set"],
)
def test_values_that_a_cell_names_count(values):
    one, again, other = (
        cell("def f(x):\n    return V", V=value, __name__="__main__")
        for value in (values[0], values[0], values[1])
    )
    assert same(one, again)
    assert not same(one, other)
    for text in ("f = lambda x, v=V: x", "def h(v):\n    return lambda: v\nf = h(V)"):
        made = [cell(text, V=value) for value in (values[0], *values)]
        assert same(made[0], made[1])
        assert not same(made[0], made[2])


def test_attributes_of_functions_and_metaclasses_count():
    def make(n):
        class Meta(type):
            def called(cls):
                return n

        class Thing(metaclass=Meta):
            pass

        def function():
            return function.n

        function.n = n
        return Thing, function

    for one, again, other in zip(make(1), make(1), make(2), strict=True):
        assert same(one, again)
        assert not same(one, other)


class Remembers:
    def __init__(self, value):
        self.value = value

    def __call__(self, x):
        return x


def test_objects_partials_and_methods_count_with_their_state():
    for hold in (
        lambda v: Remembers(v),
        lambda v: Remembers(v).__call__,
        lambda v: functools.partial(Remembers(v), 1),
        lambda v: functools.partial(max, key=Remembers(v)),
        lambda v: {"callbacks": [("one", Remembers([v]))]},
    ):
        assert same(hold(1), hold(1))
        assert not same(hold(1), hold(2))


def test_use_of_a_class_does_not_count():
    class Thing:
        pass

    before = fingerprint(Thing)[0]
    copy.copy(Thing())  # python notes its slots in the class
    assert fingerprint(Thing)[0] == before


def test_functions_that_numba_compiles_count_by_their_code():
    text = "def f(x):\n    return x + {} * V"
    one, again, code, value = (
        numba.njit(cell(text.format(n), V=v))
        for n, v in [(1, 1), (1, 1), (2, 1), (1, 2)]
    )
    assert same(one, again)
    assert not same(one, code)
    assert not same(one, value)
    assert not same(one, numba.njit(fastmath=True)(one.py_func))


def test_one_layer_twice_is_not_two_equal_layers():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        one = nn.Linear(3, 3)
        tied = nn.Sequential(one, nn.Linear(3, 3))
        tied[1].weight = one.weight
        loose = nn.Sequential(one, nn.Linear(3, 3))
        loose[1].weight = nn.Parameter(one.weight.detach().clone())
        loose[1].bias = tied[1].bias
    assert not same(tied, loose)


def test_what_no_digest_can_tell_apart_is_refused():
    class Changes:
        def __getstate__(self):
            return {"drawn": np.random.default_rng().random()}

    lock = threading.Lock()
    for parameter, said in [
        (lock, "cannot pickle"),
        (cell("def f(x):\n    return LOCK", LOCK=lock), "cannot pickle"),
        (cell("def f(x):\n    return eval('x')"), "only its text names"),
        (np.frompyfunc(lambda x: x, 1, 1), "no code or state"),
        (Changes(), "another state each time"),
        ((n for n in ()), "cannot pickle"),
    ]:
        _warned.clear()
        with pytest.warns(UserWarning, match=said):
            assert key_of("store", {"given": parameter}, None, None) is None
    with open(__file__) as file, pytest.warns(UserWarning, match="cannot pickle"):
        _warned.clear()
        assert key_of("store", {"given": file}, None, None) is None


def test_a_file_that_is_only_imported_later_is_refused(tmp_path, monkeypatch):
    (tmp_path / "comes_later.py").write_text("def act(x):\n    return x\n")
    monkeypatch.syspath_prepend(tmp_path)
    function = cell("def f(x):\n    from comes_later import act\n    return act(x)")
    with pytest.raises(TypeError, match=r"comes_later.*at the top of the file"):
        fingerprint(function)
    library = cell("def f(x):\n    import colorsys, missing_altogether\n    return x")
    assert fingerprint(library)


SCRIPT = """
import sys
import joblib
from torch import nn
from sklearn_sparse_nn.memory.fingerprint import fingerprint

NAMES = {{"relu", "tanh", "gelu", "elu"}}
WIDTHS = ({width}, 32)
def helper(x):
    return x if "relu" in NAMES else WIDTHS
class Net(nn.Module):
    names = frozenset(NAMES)
    def scale(self, x):
        return x * self.WIDTHS
    def forward(self, X):
        return helper(X)

if __name__ == "__main__":
    keys = [fingerprint(Net)[0]]
    if sys.argv[1:]:
        tasks = [joblib.delayed(lambda net: fingerprint(net)[0])(Net)] * 2
        keys += joblib.Parallel(2)(tasks)
    assert len(set(keys)) == 1, keys
    print(keys[0])
"""


def test_a_script_has_one_key_in_all_processes_and_another_once_edited(tmp_path):
    found = []
    for width, seed in ((64, "0"), (64, "1"), (65, "1")):
        path = tmp_path / f"run_{len(found)}.py"  # its place does not count
        path.write_text(SCRIPT.format(width=width))
        done = subprocess.run(
            [sys.executable, str(path), *["workers"][len(found) :]],
            capture_output=True,
            check=False,
            cwd=tmp_path,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": seed},
        )
        assert done.returncode == 0, done.stderr
        found.append(done.stdout)
    assert found[0] == found[1] != found[2]
