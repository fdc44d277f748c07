"""The docstrings of what is public say what the signatures say."""

import ast
import importlib
import inspect
import re
import runpy
from pathlib import Path

import pytest

import sklearn_sparse_nn

ROOT = Path(__file__).parents[1]
FACES = ("", ".inspection", ".parts", ".runtime")


def public_callables():
    """Find every public class and function, and the public methods of the classes."""
    for face in FACES:
        module = importlib.import_module(f"sklearn_sparse_nn{face}")
        for name in module.__all__:
            public = getattr(module, name)
            yield name, public
            if face == ".parts":  # their methods are those of the protocols in core
                continue
            for method, function in inspect.getmembers(public, inspect.isroutine):
                ours = getattr(function, "__module__", "") or ""
                if not method.startswith("_") and ours.startswith("sklearn_sparse_nn"):
                    yield f"{name}.{method}", function


PUBLIC = dict(public_callables())


def said(docstring):
    """Read the parameters of a docstring, and the defaults that it states."""
    _, *found = re.split(r"(?m)^Parameters\n-+\n", inspect.cleandoc(docstring or ""))
    lines = re.split(r"\n\n?(?=[A-Z][\w ]+\n---)", found[0])[0] if found else ""
    parameters = {}
    for names, kind in re.findall(r"(?m)^(\*{0,2}\w+(?:, \w+)*)(?: : (.*))?$", lines):
        _, states, default = kind.partition(", default=")
        for name in names.split(", "):
            parameters[name] = default if states else None
    return parameters


def taken(function):
    """Read the parameters of a signature, and the defaults that they have."""
    parameters = {}
    for parameter in inspect.signature(function).parameters.values():
        name = str(parameter).partition(":")[0].partition("=")[0].strip()
        if name != "self":
            none = parameter.default is inspect.Parameter.empty
            parameters[name] = None if none else repr(parameter.default)
    return parameters


def faults(function, docstring):
    """Compare a docstring with a signature; what differs is a line each."""
    expected, stated = taken(function), said(docstring)
    if list(expected) != list(stated):
        return [f"the signature has {list(expected)}, the docstring {list(stated)}"]
    return [
        f"{name}: the default is {default}, the docstring says {stated[name]}"
        for name, default in expected.items()
        if default != stated[name]
        and (None in (default, stated[name]) or not same(default, stated[name]))
    ]


def same(default, stated):
    """Compare two defaults as values where they are, as ``0.001`` and ``1e-3``."""
    try:
        return ast.literal_eval(default) == ast.literal_eval(stated)
    except (ValueError, SyntaxError):
        return default == stated


@pytest.mark.parametrize("name", PUBLIC)
def test_docstrings_have_the_parameters_of_the_signature(name):
    assert faults(PUBLIC[name], PUBLIC[name].__doc__) == []


def test_a_docstring_that_says_something_else_is_found():
    def grow(size, *, rate=0.1, mode="fast"):
        """Grow.

        Parameters
        ----------
        size : int
            The size.
        rate : float, default=0.1
            The rate.
        mode : str, default="fast"
            The mode.

        Returns
        -------
        size : int
        """

    text = grow.__doc__
    assert faults(grow, text) == []
    for right, wrong in [
        ("rate : float, default=0.1", "rate : float, default=0.2"),
        ("rate : float, default=0.1", "rate : float"),
        ("size : int\n            The", "size : int, default=3\n            The"),
        ('mode : str, default="fast"', 'mood : str, default="fast"'),
        ('        mode : str, default="fast"\n            The mode.\n', ""),
        ("        Returns", "        more : int\n            More.\n\n        Returns"),
    ]:
        assert len(faults(grow, text.replace(right, wrong, 1))) == 1, wrong
    swapped = re.sub(r"(?s)( +size.*?)( +rate.*?0\.1\n.*?\n)", r"\2\1", text, count=1)
    assert len(faults(grow, swapped)) == 1


@pytest.mark.parametrize("name", sklearn_sparse_nn.__all__)
def test_docstrings_are_seen_without_running_the_code(name):
    """Editors read the source: a docstring that is computed is none for them."""
    public = getattr(sklearn_sparse_nn, name)
    file = inspect.getsourcefile(inspect.unwrap(public))
    tree = ast.parse(Path(file).read_text())
    (node,) = [n for n in tree.body if getattr(n, "name", None) == name]
    assert "\nParameters\n----------\n" in ast.get_docstring(node)


def test_shared_texts_are_as_the_script_writes_them():
    """``python docs/docstrings.py`` has been run."""
    script = runpy.run_path(str(ROOT / "docs" / "docstrings.py"))
    for path, source in script["docstrings"]().items():
        assert path.read_text() == source, path


@pytest.mark.parametrize("kind", ["Parameters", "Attributes"])
def test_every_shared_text_is_used(kind):
    script = runpy.run_path(str(ROOT / "docs" / "docstrings.py"))
    for public, sections in script["CLASSES"].items():
        signature = inspect.signature(getattr(sklearn_sparse_nn, public)).parameters
        names = [n for table in sections[kind] for n in script["TEXTS"][kind][table]]
        if kind == "Parameters":
            assert names == list(signature)
        assert len(names) == len(set(names))
