"""The tables of the documentation say what the code does."""

import re
import runpy
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


def test_the_files_for_a_new_activation_hold_those_that_there_are():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    recipe = re.search(r"A new activation.*?have it\.", text, re.DOTALL)
    files = re.findall(r"`([\w/]+\.py)`", recipe[0])
    assert len(files) >= 4
    for name in files:
        assert re.search(r"(?i)gelu", (PACKAGE / name).read_text()), name
