"""Write the tables of the documentation that come from the code itself.

``docs/parts.md`` lists the parts by name, ``docs/compatibility.md`` the pairs that do
not go together. Run with::

    python docs/tables.py
"""

import inspect
from pathlib import Path

from sklearn_sparse_nn.core.allocation import ALLOCATIONS
from sklearn_sparse_nn.core.compatibility import compatibility_table
from sklearn_sparse_nn.core.importance import FACTS, IMPORTANCES, STATISTICS, needs
from sklearn_sparse_nn.core.regrowth import REGROWTHS, Regrow
from sklearn_sparse_nn.core.schedules import SCHEDULES

DOCS = Path(__file__).parent


def documented(part):
    """Return the owner of the docstring: a function itself, an object's class."""
    return part if inspect.isfunction(part) else type(part)


def summary(part):
    """Return the first sentence of a part's docstring."""
    return inspect.getdoc(documented(part)).splitlines()[0]


def source(part):
    """Return a part's references, or an empty string."""
    _, found, references = inspect.getdoc(documented(part)).partition("References\n")
    if not found:
        return ""
    lines = references.splitlines()[1:]
    text = " ".join(lines[: lines.index("")] if "" in lines else lines)
    return text.rstrip(".")


def table(head, rows):
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def parts():
    importances = [
        (f"`{name}`", summary(part), ", ".join(needs(part)), source(part))
        for name, part in IMPORTANCES.items()
    ]
    statistics, facts = (
        [(f"`{name}`", text) for name, text in texts.items()]
        for texts in (STATISTICS, FACTS)
    )
    allocations, schedules = (
        [(f"`{name}`", summary(part), source(part)) for name, part in parts.items()]
        for parts in (ALLOCATIONS, SCHEDULES)
    )
    regrowths = [
        (f"`{name}`", f"`{part!r}`", summary(IMPORTANCES[part.grow]))
        for name, part in REGROWTHS.items()
    ]
    return f"""# The parts by name

Written by `python docs/tables.py` from the code. A name can be replaced by a function
or an object of the same form; those with parameters are in `sklearn_sparse_nn.parts`.

## `importance`: which weights matter

{table(("name", "what it does", "needs", "source"), importances)}

A function of your own takes the weight of a layer, of shape (out, in, ...), and by
keyword-only names the statistics that it needs, gathered once at each event:

{table(("name", "what it is"), statistics)}

An object may have a method `update(weight, mask, *, ...) -> weight` that refits the
living weights, as `obs` does.

A function or object may declare facts about its scores, as attributes that are True:
`my_importance.scores_neurons = True`. The rules for `grasp`, `movement`, `apoz` and
`fpgm`, which declare them, then hold for yours.

{table(("name", "what it means"), facts)}

## `allocation`: how the budget is split over layers

{table(("name", "what it does", "source"), allocations)}

An allocation of your own that has no use for scores below 0 may declare
`unsigned_only = True`, as `lamp` does.

## `schedule`: when how much is pruned

{table(("name", "what it does", "source"), schedules)}

## `regrow`: what grows for what dies

{table(("name", "what it is", "what grows first"), regrowths)}

{source(Regrow())}.
"""


def compatibility():
    return f"""# What does not go together

Written by `python docs/tables.py` from the rules that the code checks. Each pair is
refused before any training, with an error that names both. All other pairs may be
combined, as far as the net allows: soft targets want one of the usual losses, and a
penalty an iterator that knows its number of batches.

{compatibility_table()}
"""


def main():
    (DOCS / "parts.md").write_text(parts())
    (DOCS / "compatibility.md").write_text(compatibility())


if __name__ == "__main__":
    main()
