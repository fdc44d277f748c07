"""The words of docstrings: plain ones, in the form that readers expect."""

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "sklearn_sparse_nn"

# A module's title is a noun phrase, no clause.
CLAUSE = re.compile(r"(What|How|Who|Whose|Where|Which|Whether|From|When|That|Why)\b")
# A function's summary says what it does, by a verb that has one meaning.
VAGUE = re.compile(
    r"(Ask|Begin|Come|Do|Get|Give|Go|Hear|Let|Look|Say|See|Stand|Tell)s?\b"
)
# A parameter's text is a phrase with its noun.
FRAGMENT = re.compile(
    r"(Of|For (both|all|what|whom)|As (given|asked|for)|Its|So|That)\b"
    r"|(Where|Which|Whose?)\b|The same\.$"
)
# The field has terms for these.
METAPHORS = "surgery|operate[sd]?|bury|buried|buries|heirs?|seats?|hears?|heard|alarms?"
IN_TEXT = re.compile(rf"(?i)\b({METAPHORS})\b")
IN_NAME = re.compile(rf"(?i)(^|_)({METAPHORS}|foreign|walk)(_|$)")

SECTIONS = ("Parameters", "Returns", "Yields", "Attributes")


def entries(docstring):
    """List the names of a docstring's sections with the first line of their texts."""
    parts = re.split(r"(?m)^(\w[\w ]*)\n-{3,}\n", docstring)
    for title, body in zip(parts[1::2], parts[2::2], strict=True):
        if title in SECTIONS:
            yield from re.findall(r"(?m)^(\S.*)\n {4}(?! )(.*)", body)


def faults(source):
    """List what is not plain in a source file, a line each."""
    tree = ast.parse(source)
    found = []
    for node in ast.walk(tree):
        is_module = isinstance(node, ast.Module)
        if not is_module and not isinstance(node, ast.FunctionDef | ast.ClassDef):
            continue
        line = 1 if is_module else node.lineno
        text = ast.get_docstring(node) or ""
        if not is_module and IN_NAME.search(node.name):
            found.append(f"{line}: the name {node.name}")
        if CLAUSE.match(text):
            found.append(f"{line}: no noun phrase: {text.splitlines()[0]}")
        if VAGUE.match(text) and not is_module:
            found.append(f"{line}: no plain verb: {text.splitlines()[0]}")
        if metaphor := IN_TEXT.search(text):
            found.append(f"{line}: a metaphor: {metaphor[0]}")
        for name, first in entries(text):
            if FRAGMENT.match(first):
                found.append(f"{line}: a text without its noun: {name}: {first}")
    return found


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE))
)
def test_docstrings_are_plain(path):
    assert faults(path.read_text()) == []


PLAIN = '''"""The budget of a net: how many weights are kept."""


class Budget:
    """The number of weights to keep."""

    def kept(self, layers, *, generator):
        """Count the weights of a layer that are kept.

        Parameters
        ----------
        layers : dict
            The layers, by name.
        generator : torch.Generator
            The source of random numbers.

        Returns
        -------
        counts : dict
            The number of weights to keep, by layer.
        """
'''


def test_plain_docstrings_have_no_faults():
    assert faults(PLAIN) == []


@pytest.mark.parametrize(
    ("plain", "other"),
    [
        ("The budget of a net: how many", "How many"),
        ("The budget of a net", "What a net may cost"),
        ("The number of weights to keep.", "What is kept."),
        ("Count the weights", "Tell the weights"),
        ("Count the weights", "Give the weights"),
        ("The layers, by name.", "Of every layer."),
        ("The layers, by name.", "As given to a pruner."),
        ("The layers, by name.", "The same."),
        ("The source of random numbers.", "Whose numbers these are."),
        ("The number of weights to keep, by layer.", "For both."),
        ("by layer", "by the heirs of a layer"),
        ("def kept", "def bury"),
        ("class Budget", "class Surgery"),
        ("def kept", "def walk"),
    ],
)
def test_other_words_are_found(plain, other):
    assert plain in PLAIN
    assert len(faults(PLAIN.replace(plain, other, 1))) == 1
