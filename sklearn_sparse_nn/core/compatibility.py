"""Which parts go together: one table, asked before any training and printed in docs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any

from sklearn_sparse_nn.core.allocation import lamp
from sklearn_sparse_nn.core.granularity import (
    NM,
    Block,
    Granularity,
    Input,
    Neuron,
    Unstructured,
)

__all__ = ["BY_NEURON", "RULES", "Parts", "Rule", "check_parts", "compatibility_table"]

#: Importances whose scores have a sign, and those that score whole neurons.
SIGNED = ("grasp", "movement")
BY_NEURON = ("apoz", "fpgm")

_SHAPED = (Unstructured, Neuron, Input, Block, NM)


@dataclass(frozen=True)
class Parts:
    """What a pruner was asked for, as far as the parts depend on each other.

    Parameters
    ----------
    granularity : Granularity
        Resolved.
    sparsity, threshold, budget, importance, allocation, schedule, regrow, penalty
        As given.
    rewind, distill : as given
        The same; `distill` is the weight of the soft targets.
    n_weights : mapping of layer name to int
        Weights of every layer to be pruned.
    not_linear : tuple of str
        Those of them that are not Linear.
    grow : str or None
        The importance by which regrowth grows, if it is one of the package's.
    needs, grow_needs : tuple of str
        Statistics that the importance asks for, and the one of regrowth.
    refits : bool
        Whether the importance has an ``update``.
    falls : bool
        Whether the schedule lets weights live again.
    trained, frozen : bool
        Whether the net is trained before the first event; by somebody else.
    first, last : float
        Epochs of the pruning phase before the first and the last event.
    dense_epochs, prune_epochs, finetune_epochs : int
        Length of the phases.
    rewind_epoch : int
        Where rewinding goes back to.
    """

    granularity: Granularity = field(default_factory=Unstructured)
    sparsity: Any = 0.9
    threshold: float | None = None
    budget: Mapping[str, int] | None = None
    importance: Any = "magnitude"
    allocation: Any = "auto"
    schedule: Any = "cubic"
    regrow: Any = None
    penalty: str | None = None
    rewind: Any = None
    distill: float = 0.0
    n_weights: Mapping[str, int] = field(default_factory=dict)
    not_linear: tuple[str, ...] = ()
    grow: str | None = None
    needs: tuple[str, ...] = ()
    grow_needs: tuple[str, ...] = ()
    refits: bool = False
    falls: bool = False
    trained: bool = True
    frozen: bool = False
    first: float = 0.0
    last: float = 1.0
    dense_epochs: int = 1
    prune_epochs: int = 10
    finetune_epochs: int = 10
    rewind_epoch: int = 0

    def says(self, name: str) -> str:
        """Write a parameter as it was given."""
        value = getattr(self, name)
        if isinstance(value, NM):
            value = f"{value.n}:{value.m}"
        elif name == "granularity":
            value = getattr(type(value), "__name__", value).lower()
        return f"{name}={value!r}"

    @property
    def pattern(self) -> str | None:
        """The N:M pattern as a word, if it is one."""
        return self.says("granularity") if isinstance(self.granularity, NM) else None

    @property
    def shares_out(self) -> str | None:
        """The allocation as a word, if it gives layers different shares."""
        simple = ("auto", "global", "uniform")
        return None if self.allocation in simple else self.says("allocation")


Pair = tuple[str, str] | None


@dataclass(frozen=True)
class Rule:
    """Two parts that do not go together.

    Parameters
    ----------
    first, second : str
        The parts, for the table.
    why : str
        The reason, and what to do instead; a whole sentence or more.
    broken : callable
        `Parts` -> the two as they were given, or None.
    """

    first: str
    second: str
    why: str
    broken: Callable[[Parts], Pair]


def _pair(first: str | None, second: str | bool | None) -> Pair:
    return (first, second) if first and isinstance(second, str) and second else None


def _says_if(parts: Parts, name: str, condition: Any) -> str | None:
    return parts.says(name) if condition else None


def _less_than_pattern(parts: Parts) -> Pair:
    """Find a sparsity that a pattern goes beyond; thirds cannot be written exactly."""
    pattern, size = parts.granularity, sum(parts.n_weights.values())
    if not isinstance(pattern, NM) or parts.threshold is not None or parts.budget:
        return None
    sparsity = parts.sparsity
    if isinstance(sparsity, Mapping):
        asked = min((value for value in sparsity.values() if value), default=0.0)
    elif isinstance(sparsity, Integral) and int(sparsity) > 0:
        asked = 1 - int(sparsity) / size
    else:
        asked = sparsity
    least = 1 - pattern.n / pattern.m
    if not asked or asked >= least - 1e-3:
        return None
    return parts.says("granularity"), f"{parts.says('sparsity')} (at least {least:.4g})"


def _asks(parts: Parts, statistic: str) -> str | None:
    """Word what asks for a statistic."""
    by_importance = _says_if(parts, "importance", statistic in parts.needs)
    return by_importance or _says_if(parts, "regrow", statistic in parts.grow_needs)


def _uses_lamp(allocation: Any) -> bool:
    inner = getattr(allocation, "allocation", None)  # of a Bounded
    return allocation in ("lamp", lamp) or (inner is not None and _uses_lamp(inner))


def _untrained(parts: Parts) -> str | None:
    """Word what leaves the net without training before its first event."""
    if parts.trained or parts.first > 0:
        return None
    return "a FrozenEstimator" if parts.frozen else f"dense_epochs={parts.dense_epochs}"


def _names(value: Any, names: tuple[str, ...]) -> bool:
    return isinstance(value, str) and value in names


RULES: tuple[Rule, ...] = (
    Rule(
        "granularity='N:M'",
        "threshold",
        "N:M fixes how many weights of a group live. Give a sparsity instead.",
        lambda p: _pair(p.pattern, _says_if(p, "threshold", p.threshold is not None)),
    ),
    Rule(
        "granularity='N:M'",
        "a sparsity below 1 - N/M",
        "N of every M weights is a sparsity of 1 - N/M at least. Ask for that or more, "
        "or another granularity.",
        _less_than_pattern,
    ),
    Rule(
        "granularity='N:M'",
        "allocation 'erk', 'lamp', an object or a function",
        "N:M gives every layer the same share. Use allocation='global' or 'uniform', "
        "which decide only what goes beyond the pattern.",
        lambda p: _pair(p.pattern, p.shares_out),
    ),
    Rule(
        "granularity='N:M'",
        "regrow",
        "what grows would break the pattern. Use another granularity.",
        lambda p: _pair(p.pattern, _says_if(p, "regrow", p.regrow)),
    ),
    Rule(
        "importance 'apoz' or 'fpgm'",
        "a granularity other than 'neuron'",
        "it scores whole neurons. Use granularity='neuron', or another importance.",
        lambda p: _pair(
            _says_if(p, "importance", _names(p.importance, BY_NEURON))
            or _says_if(p, "regrow", _names(p.grow, BY_NEURON)),
            _says_if(p, "granularity", not isinstance(p.granularity, Neuron)),
        ),
    ),
    Rule(
        "importance 'grasp' or 'movement'",
        "allocation='lamp'",
        "LAMP divides by sums of scores, and these have a sign. Use "
        "allocation='global', 'uniform' or 'erk'.",
        lambda p: _pair(
            _says_if(p, "importance", _names(p.importance, SIGNED)),
            _says_if(p, "allocation", _uses_lamp(p.allocation)),
        ),
    ),
    Rule(
        "importance='obs', or another that needs 'hessian'",
        "layers that are not Linear",
        "X'X is known for Linear layers. Name these in `layers`, or use another "
        "importance.",
        lambda p: _pair(
            _asks(p, "hessian"),
            f"the layers {list(p.not_linear)}" if p.not_linear else None,
        ),
    ),
    Rule(
        "importance='obs', or another that needs 'hessian'",
        "a granularity of your own",
        "it has to know the groups' shape. Use a granularity of this package.",
        lambda p: _pair(
            _asks(p, "hessian"),
            _says_if(p, "granularity", not isinstance(p.granularity, _SHAPED)),
        ),
    ),
    Rule(
        "importance='movement', or another that needs 'movement'",
        "no training before the first event",
        "nothing has moved yet. Train first (dense_epochs), or let the schedule begin "
        "later, as Between(schedule, begin=0.2) does.",
        lambda p: _pair(_asks(p, "movement"), _untrained(p)),
    ),
    Rule(
        "threshold",
        "budget",
        "each says how much is pruned. Give one of them.",
        lambda p: _pair(
            _says_if(p, "threshold", p.threshold is not None),
            _says_if(p, "budget", p.budget),
        ),
    ),
    Rule(
        "a threshold, or a sparsity by layer",
        "allocation 'erk', 'lamp', an object or a function",
        "nothing is left to share out between layers. Leave allocation='auto', or give "
        "one sparsity for all.",
        lambda p: _pair(
            _says_if(p, "threshold", p.threshold is not None)
            or _says_if(p, "sparsity", isinstance(p.sparsity, Mapping)),
            p.shares_out if not p.budget else None,
        ),
    ),
    Rule(
        "penalty",
        "threshold",
        "the penalty's strength follows the sparsity that was asked for, and a "
        "threshold asks for none. Give a sparsity.",
        lambda p: _pair(
            _says_if(p, "penalty", p.penalty),
            _says_if(p, "threshold", p.threshold is not None),
        ),
    ),
    Rule(
        "penalty",
        "a schedule whose last event begins the pruning phase",
        "the penalty works between the beginning and the last event. Use "
        "Between('oneshot', begin=0.9), or a gradual schedule.",
        lambda p: _pair(
            _says_if(p, "penalty", p.penalty), _says_if(p, "schedule", p.last <= 0)
        ),
    ),
    Rule(
        "penalty",
        "regrow",
        "one drives weights to zero and the other away from it. Use one of them.",
        lambda p: _pair(
            _says_if(p, "penalty", p.penalty), _says_if(p, "regrow", p.regrow)
        ),
    ),
    Rule(
        "penalty, or regrow",
        "a schedule that falls (cyclic)",
        "the schedule itself lets every weight live again. Use a rising one.",
        lambda p: _pair(
            _says_if(p, "penalty", p.penalty) or _says_if(p, "regrow", p.regrow),
            _says_if(p, "schedule", p.falls),
        ),
    ),
    Rule(
        "penalty='l0'",
        "importance='obs', or another that refits weights",
        "gates and refitting both change what lives. Use one of them.",
        lambda p: _pair(
            _says_if(p, "penalty", p.penalty == "l0"),
            _says_if(p, "importance", p.refits),
        ),
    ),
    Rule(
        "regrow",
        "prune_epochs=0",
        "what grows has to be trained. Give it pruning epochs.",
        lambda p: _pair(
            _says_if(p, "regrow", p.regrow),
            _says_if(p, "prune_epochs", not p.prune_epochs),
        ),
    ),
    Rule(
        "distill",
        "dense_epochs=0, unless the net is frozen",
        "there is no trained dense net to learn from. Train one (dense_epochs), or "
        "give a FrozenEstimator.",
        lambda p: _pair(
            _says_if(p, "distill", p.distill),
            None if p.trained else f"dense_epochs={p.dense_epochs}",
        ),
    ),
    Rule(
        "rewind",
        "finetune_epochs=0",
        "what is put back to the beginning has to be trained again. Give it epochs.",
        lambda p: _pair(
            _says_if(p, "rewind", p.rewind and p.sparsity != 0),
            _says_if(p, "finetune_epochs", not p.finetune_epochs),
        ),
    ),
    Rule(
        "Rewind(epoch=k)",
        "dense_epochs below k",
        "rewinding goes back to an epoch of the dense phase. Choose an earlier one.",
        lambda p: _pair(
            _says_if(p, "rewind", p.rewind),
            _says_if(p, "dense_epochs", p.rewind_epoch > p.dense_epochs),
        ),
    ),
    Rule(
        "dense_epochs above 0",
        "a FrozenEstimator",
        "a frozen net is trained already. Use dense_epochs=None or 0.",
        lambda p: _pair(
            _says_if(p, "dense_epochs", p.dense_epochs),
            "a FrozenEstimator" if p.frozen else None,
        ),
    ),
)


def check_parts(parts: Parts) -> None:
    """Refuse parts that cannot work together, naming both.

    Parameters
    ----------
    parts : Parts
        What was asked for.

    Raises
    ------
    ValueError
        Two parts contradict each other.

    Examples
    --------
    >>> check_parts(Parts(importance="fpgm"))
    Traceback (most recent call last):
    ValueError: importance='fpgm' and granularity='unstructured' do not go together: ...
    """
    for rule in RULES:
        pair = rule.broken(parts)
        if pair:
            raise ValueError(f"{pair[0]} and {pair[1]} do not go together: {rule.why}")


def compatibility_table() -> str:
    """Write the rules as a Markdown table.

    Returns
    -------
    table : str
        A line for each rule.

    Examples
    --------
    >>> print(compatibility_table().splitlines()[0])
    | this | and this | why not |
    """
    lines = ["| this | and this | why not |", "|---|---|---|"]
    lines += [f"| {rule.first} | {rule.second} | {rule.why} |" for rule in RULES]
    return "\n".join(lines)
