"""The tables of the documentation say what the code does."""

import ast
import re
import runpy
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS, PACKAGE = ROOT / "docs", ROOT / "sklearn_sparse_nn"


@pytest.mark.parametrize("name", ["parts", "compatibility"])
def test_tables_are_as_the_code_writes_them(name):
    written = runpy.run_path(str(DOCS / "tables.py"))[name]()
    assert (DOCS / f"{name}.md").read_text() == written


def test_every_name_of_a_part_has_a_line():
    from sklearn_sparse_nn.core.allocation import ALLOCATIONS
    from sklearn_sparse_nn.core.importance import IMPORTANCES, STATISTICS
    from sklearn_sparse_nn.core.schedules import SCHEDULES

    text = (DOCS / "parts.md").read_text()
    for name in (*ALLOCATIONS, *IMPORTANCES, *STATISTICS, *SCHEDULES):
        assert f"| `{name}` | " in text


def section(title):
    """Read the rows of the table below a title of CONTRIBUTING."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    part = text.split(f"## {title}\n")[1].split("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in part.splitlines() if "|" in line]
    return dict(rows[2:])


def file(name):
    path = ROOT / name if name.startswith(("docs/", "tests/")) else PACKAGE / name
    assert path.exists(), name
    return path


def test_the_map_of_the_house_has_every_room():
    named = {name.strip("`") for name in section("The map of the house")}
    folders = {path.parent for path in PACKAGE.rglob("__init__.py")} - {PACKAGE}
    rooms = {f"{folder.relative_to(PACKAGE)}/" for folder in folders}
    files = {path.name for path in PACKAGE.glob("*.py")} - {"__init__.py"}
    assert named == rooms | files


def test_the_map_has_the_floors_in_their_order():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    contract = settings["tool"]["importlinter"]["contracts"][0]
    floors = [re.findall(r"\w+", layer) for layer in contract["layers"]]
    floor = {name: i for i, names in enumerate(floors) for name in names}
    named = [re.match(r"`(\w+)", name)[1] for name in section("The map of the house")]
    assert [floor[name] for name in named] == sorted(floor[name] for name in named)


def test_the_files_of_a_recipe_have_what_is_to_be_changed():
    for text in section("Recipes").values():
        changes = re.findall(r"`([\w/]+(?:/|\.\w+))`(?: \(([^)]*)\))?", text)
        assert changes
        for name, inside in changes:
            source = "" if file(name).is_dir() else file(name).read_text()
            for word in re.findall(r"`([\w.]+)`", inside):
                assert re.search(rf"\b{word}\b", source), (name, word)


def test_the_files_for_a_new_activation_hold_those_that_there_are():
    recipes = section("Recipes")
    for recipe in ("an activation", "an activation of the TabularNet"):
        for name in re.findall(r"`([\w/]+\.py)`", recipes[recipe]):
            assert re.search(r"(?i)gelu", file(name).read_text()), name


def test_the_files_for_a_new_part_hold_those_that_there_are():
    """Every file of the recipe names a part of its kind, so that none is forgotten."""
    recipes = section("Recipes")
    kinds = {"importance": "magnitude_l2", "allocation": "erk", "schedule": "cosine"}
    for kind, part in kinds.items():
        article = "an" if kind[0] in "aio" else "a"
        for name in re.findall(
            r"`([\w/]+\.(?:py|toml))`", recipes[f"{article} {kind}"]
        ):
            assert part in file(name).read_text(), (name, part)


def test_links_lead_to_files():
    for path in [*ROOT.glob("*.md"), *DOCS.glob("*.md")]:
        for link in re.findall(r"\]\(([^)#\s]+)\)", path.read_text()):
            if "://" not in link:
                assert (path.parent / link).exists(), (path.name, link)


def test_scripts_import_names_that_exist():
    """No test runs the benchmarks, so a name that has moved would not show."""
    folders = [ROOT / name for name in ("benchmarks", "docs", "examples", "fuzz")]
    for path in [path for folder in folders for path in folder.glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            module = node.module if isinstance(node, ast.ImportFrom) else None
            if module and module.split(".")[0] == "sklearn_sparse_nn":
                home = import_module(module)
                for alias in node.names:
                    if not hasattr(home, alias.name):
                        import_module(f"{module}.{alias.name}")
