"""Write the parts of docstrings that several classes share.

The texts are in ``docs/docstrings.toml``; the defaults come from the signatures. Run
with::

    python docs/docstrings.py
"""

import inspect
import json
import re
import textwrap
import tomllib
from importlib import import_module
from pathlib import Path
from typing import Literal, get_args, get_origin

import sklearn_sparse_nn

ROOT = Path(__file__).parents[1]
TEXTS = tomllib.loads((ROOT / "docs" / "docstrings.toml").read_text())

# Every section that is written, and the tables of texts that it is made of. Entries of
# a section that no table has, as `classes_`, are left in front.
_NET = {"Parameters": ["net"], "Attributes": ["columns"]}
_PRUNER = {
    "Parameters": ["pruner"],
    "Attributes": ["pruner", "columns"],
    "References": ["pruner"],
}
_CV = {
    "Parameters": ["cv"],
    "Attributes": ["cv", "pruner", "columns"],
    "Notes": ["cv"],
    "References": ["cv"],
}
CLASSES = {
    "TabularNetClassifier": _NET,
    "TabularNetRegressor": _NET,
    "PrunedClassifier": _PRUNER,
    "PrunedRegressor": _PRUNER,
    "PrunedClassifierCV": _CV,
    "PrunedRegressorCV": _CV,
}


def wrapped(text, indent):
    """Wrap paragraphs to the 88 columns of a source file, and no piece of code."""
    text = re.sub(r"``.*?``", lambda code: re.sub(r"\s+", "\0", code[0]), text)
    paragraphs = [
        textwrap.fill(
            " ".join(paragraph.split()),
            width=88,
            initial_indent=indent,
            subsequent_indent=indent,
            break_long_words=False,
            break_on_hyphens=False,
        )
        for paragraph in text.strip().split("\n\n")
    ]
    return "\n\n".join(paragraphs).replace("\0", " ")


def default_of(parameter):
    """Write the default of a parameter as docstrings have it."""
    value = parameter.default
    if value is inspect.Parameter.empty:
        return ""
    return f', default="{value}"' if isinstance(value, str) else f", default={value!r}"


def names_of(annotation):
    """Write the names that a ``Literal`` allows, alone or in a union."""
    literals = [annotation, *get_args(annotation)]
    (literal,) = [kind for kind in literals if get_origin(kind) is Literal]
    return f"{{{', '.join(json.dumps(name) for name in get_args(literal))}}}"


def entry(name, text, signature):
    """Write the lines of one parameter or attribute."""
    kind, _, text = text.strip().partition("\n")
    if "{names}" in kind:
        kind = kind.replace("{names}", names_of(signature[name].annotation))
    default = default_of(signature[name]) if name in signature else ""
    return f"    {name} : {kind}{default}\n{wrapped(text, ' ' * 8)}\n"


def body(title, tables, found, signature):
    """Write what a section says, from its tables of texts and what it said before."""
    texts = [TEXTS[title][table] for table in tables]
    if isinstance(texts[0], str):
        return wrapped("\n\n".join(texts), " " * 4) + "\n"
    shared = {name: text for table in texts for name, text in table.items()}
    own = []
    if title == "Attributes":
        entries = re.findall(r"(?m)^    \w+ : .*\n(?: {8}.*\n)+", found)
        own = [lines for lines in entries if lines.split()[0] not in shared]
    written = [entry(name, text, signature) for name, text in shared.items()]
    return "".join([*own, *written])


def with_sections(docstring, tables, signature):
    """Replace the shared sections of a docstring, as it stands in its source file."""
    head, *rest = re.split(r"(?m)^    ([A-Z][\w ]+)\n    -+\n", docstring)
    bodies = dict(zip(rest[::2], rest[1::2], strict=True))
    for title, names in tables.items():
        bodies[title] = body(title, names, bodies[title], signature) + "\n"
    sections = [f"    {t}\n    {'-' * len(t)}\n{text}" for t, text in bodies.items()]
    return head + "".join(sections)


def docstrings():
    """Write every source file that has shared sections.

    Returns
    -------
    sources : dict of Path to str
    """
    sources = {}
    for name, tables in CLASSES.items():
        public = getattr(sklearn_sparse_nn, name)
        path = Path(import_module(public.__module__).__file__)
        source = sources.get(path) or path.read_text()
        found = re.search(rf'(?s)\nclass {name}\(.*?"""(.*?)"""', source)
        signature = inspect.signature(public).parameters
        new = with_sections(found[1], tables, signature)
        sources[path] = source.replace(found[0], found[0].replace(found[1], new))
    return sources


def main():
    for path, source in docstrings().items():
        path.write_text(source)


if __name__ == "__main__":
    main()
