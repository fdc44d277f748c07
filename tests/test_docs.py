"""The tables of the documentation say what the code does."""

import runpy
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"


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
