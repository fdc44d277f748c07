"""The rules of which parts do not go together: one table for code and docs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from numbers import Integral

from sklearn_sparse_nn.core.allocation import global_, uniform
from sklearn_sparse_nn.core.granularity import NM, Neuron
from sklearn_sparse_nn.core.importance import IMPORTANCES, declares, statistics_of
from sklearn_sparse_nn.core.method import PruningMethod
from sklearn_sparse_nn.core.plan import Event

__all__ = ["RULES", "NetFacts", "Rule", "check_parts", "compatibility_table"]


@dataclass(frozen=True, kw_only=True)
class NetFacts:
    """The facts of a net that the rules read.

    Parameters
    ----------
    n_weights : mapping of layer name to int
        The number of weights of every layer to prune.
    not_linear : tuple of str
        The names of these layers that are not Linear.
    frozen : bool
        Whether the net comes trained, in a FrozenEstimator.
    events : tuple of Event
        The pruning events, in order; empty when there is nothing to prune.
    """

    n_weights: Mapping[str, int] = field(default_factory=dict)
    not_linear: tuple[str, ...] = ()
    frozen: bool = False
    events: tuple[Event, ...] = ()


Pair = tuple[str, str] | None


@dataclass(frozen=True)
class Rule:
    """Two parts that do not go together.

    Parameters
    ----------
    first, second : str
        The parts, for the table.
    why : str
        The reason, and the remedy; one sentence or more.
    broken : callable
        A function of a `PruningMethod`, with its epochs and layers those of a net, and
        of that net's `NetFacts`. It returns the two parts as they were given, or None.
    """

    first: str
    second: str
    why: str
    broken: Callable[[PruningMethod, NetFacts], Pair]


def _says(method: PruningMethod, name: str) -> str:
    """Write a parameter as it was given, such as ``"importance='apoz'"``."""
    value = getattr(method, name)
    if name == "granularity":
        word = getattr(type(value), "__name__", value).lower()
        value = f"{value.n}:{value.m}" if isinstance(value, NM) else word
    elif name == "importance":
        named = (key for key, part in IMPORTANCES.items() if part is value)
        value = next(named, method.given.get(name, value))
    elif name == "distill":
        value = value.weight
    elif name in ("allocation", "schedule", "regrow", "rewind"):
        value = method.given.get(name, value)
    return f"{name}={value!r}"


def _says_if(condition: object, method: PruningMethod, name: str) -> str | None:
    return _says(method, name) if condition else None


def _pair(first: str | None, second: str | None) -> Pair:
    return (first, second) if first and second else None


def _threshold(method: PruningMethod) -> str | None:
    return _says_if(method.threshold is not None, method, "threshold")


def _set(method: PruningMethod, name: str) -> str | None:
    """Write a parameter as it was given, unless it is None, empty or 0."""
    return _says_if(getattr(method, name), method, name)


def _pattern(method: PruningMethod) -> str | None:
    return _says_if(isinstance(method.granularity, NM), method, "granularity")


def _own_shares(method: PruningMethod) -> str | None:
    """Write the allocation, if it gives layers different shares."""
    own = method.allocation not in (None, global_, uniform)
    return _says_if(own, method, "allocation")


def _less_than_pattern(method: PruningMethod, net: NetFacts) -> Pair:
    """Find a sparsity below a pattern's own; thirds cannot be written exactly."""
    pattern, size = method.granularity, sum(net.n_weights.values())
    if not isinstance(pattern, NM) or method.threshold is not None or method.budget:
        return None
    sparsity = method.sparsity
    if isinstance(sparsity, Mapping):
        lowest = min((value for value in sparsity.values() if value), default=0.0)
    elif isinstance(sparsity, Integral) and int(sparsity) > 0:
        lowest = 1 - int(sparsity) / size
    else:
        lowest = float(sparsity)
    least = 1 - pattern.n / pattern.m
    if not lowest or lowest >= least - 1e-3:
        return None
    return _says(method, "granularity"), (
        f"{_says(method, 'sparsity')} (at least {least:.4g})"
    )


def _needs(method: PruningMethod, statistic: str) -> str | None:
    """Write the part that needs a statistic."""
    return _says_if(
        statistic in statistics_of(method.importance), method, "importance"
    ) or _says_if(statistic in statistics_of(method.grow), method, "regrow")


def _scores_neurons(method: PruningMethod) -> str | None:
    return _says_if(
        declares(method.importance, "scores_neurons"), method, "importance"
    ) or _says_if(declares(method.grow, "scores_neurons"), method, "regrow")


def _trained(method: PruningMethod, net: NetFacts) -> bool:
    return net.frozen or method.dense_epochs != 0


def _untrained(method: PruningMethod, net: NetFacts) -> str | None:
    """Write the reason why the net has no training before its first event."""
    waits = not net.events or net.events[0].at > 0
    if _trained(method, net) or waits:
        return None
    return _says(method, "dense_epochs")


def _ends_at_once(method: PruningMethod, net: NetFacts) -> str | None:
    """Write the schedule, if its last event begins the pruning phase."""
    at_once = net.events and net.events[-1].at <= 0
    return _says_if(at_once, method, "schedule")


def _falls(method: PruningMethod, net: NetFacts) -> str | None:
    """Write the schedule, if it lets weights live again."""
    falls = any(event.share == 0 for event in net.events)
    return _says_if(falls, method, "schedule")


RULES: tuple[Rule, ...] = (
    Rule(
        "granularity='N:M'",
        "threshold",
        "N:M fixes how many weights of a group live. Give a sparsity instead.",
        lambda p, net: _pair(_pattern(p), _threshold(p)),
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
        lambda p, net: _pair(_pattern(p), _own_shares(p)),
    ),
    Rule(
        "granularity='N:M'",
        "regrow",
        "what grows would break the pattern. Use another granularity.",
        lambda p, net: _pair(_pattern(p), _set(p, "regrow")),
    ),
    Rule(
        "importance 'apoz' or 'fpgm'",
        "a granularity other than 'neuron'",
        "it scores whole neurons. Use granularity='neuron', or another importance.",
        lambda p, net: _pair(
            _scores_neurons(p),
            _says_if(not isinstance(p.granularity, Neuron), p, "granularity"),
        ),
    ),
    Rule(
        "importance 'grasp' or 'movement'",
        "allocation='lamp'",
        "LAMP divides by sums of scores, and these have a sign. Use "
        "allocation='global', 'uniform' or 'erk'.",
        lambda p, net: _pair(
            _says_if(declares(p.importance, "signed"), p, "importance"),
            _says_if(declares(p.allocation, "unsigned_only"), p, "allocation"),
        ),
    ),
    Rule(
        "importance='obs', or another that needs 'hessian'",
        "layers that are not Linear",
        "X'X is known for Linear layers. Name these in `layers`, or use another "
        "importance.",
        lambda p, net: _pair(
            _needs(p, "hessian"),
            f"the layers {list(net.not_linear)}" if net.not_linear else None,
        ),
    ),
    Rule(
        "importance='obs', or another that needs 'hessian'",
        "a granularity of your own",
        "it has to know the groups' shape. Use a granularity of this package.",
        lambda p, net: _pair(
            _needs(p, "hessian"),
            _says_if(not hasattr(p.granularity, "group_shape"), p, "granularity"),
        ),
    ),
    Rule(
        "importance='movement', or another that needs 'movement'",
        "no training before the first event",
        "nothing has moved yet. Train first (dense_epochs), or let the schedule begin "
        "later, as Between(schedule, begin=0.2) does.",
        lambda p, net: _pair(_needs(p, "movement"), _untrained(p, net)),
    ),
    Rule(
        "threshold",
        "budget",
        "each says how much is pruned. Give one of them.",
        lambda p, net: _pair(_threshold(p), _set(p, "budget")),
    ),
    Rule(
        "a threshold, or a sparsity by layer",
        "allocation 'erk', 'lamp', an object or a function",
        "nothing is left to share out between layers. Leave allocation='auto', or give "
        "one sparsity for all.",
        lambda p, net: _pair(
            _threshold(p) or _says_if(isinstance(p.sparsity, Mapping), p, "sparsity"),
            None if p.budget else _own_shares(p),
        ),
    ),
    Rule(
        "penalty",
        "threshold",
        "the penalty's strength follows the sparsity that was asked for, and a "
        "threshold asks for none. Give a sparsity.",
        lambda p, net: _pair(_set(p, "penalty"), _threshold(p)),
    ),
    Rule(
        "penalty",
        "a schedule whose last event begins the pruning phase",
        "the penalty works between the beginning and the last event. Use "
        "Between('oneshot', begin=0.9), or a gradual schedule.",
        lambda p, net: _pair(_set(p, "penalty"), _ends_at_once(p, net)),
    ),
    Rule(
        "penalty",
        "regrow",
        "one drives weights to zero and the other away from it. Use one of them.",
        lambda p, net: _pair(_set(p, "penalty"), _set(p, "regrow")),
    ),
    Rule(
        "penalty, or regrow",
        "a schedule that falls (cyclic)",
        "the schedule itself lets every weight live again. Use a rising one.",
        lambda p, net: _pair(_set(p, "penalty") or _set(p, "regrow"), _falls(p, net)),
    ),
    Rule(
        "penalty='l0'",
        "importance='obs', or another that refits weights",
        "gates and refitting both change what lives. Use one of them.",
        lambda p, net: _pair(
            _says_if(p.penalty == "l0", p, "penalty"),
            _says_if(hasattr(p.importance, "update"), p, "importance"),
        ),
    ),
    Rule(
        "regrow",
        "prune_epochs=0",
        "what grows has to be trained. Give it pruning epochs.",
        lambda p, net: _pair(
            _set(p, "regrow"), _says_if(p.prune_epochs == 0, p, "prune_epochs")
        ),
    ),
    Rule(
        "distill",
        "dense_epochs=0, unless the net is frozen",
        "there is no trained dense net to learn from. Train one (dense_epochs), or "
        "give a FrozenEstimator.",
        lambda p, net: _pair(
            _says_if(p.distill.weight, p, "distill"),
            _says_if(not _trained(p, net), p, "dense_epochs"),
        ),
    ),
    Rule(
        "rewind",
        "finetune_epochs=0",
        "what is put back to the beginning has to be trained again. Give it epochs.",
        lambda p, net: _pair(
            _says_if(p.rewind and net.events, p, "rewind"),
            _says_if(p.finetune_epochs == 0, p, "finetune_epochs"),
        ),
    ),
    Rule(
        "Rewind(epoch=k)",
        "dense_epochs below k",
        "rewinding goes back to an epoch of the dense phase. Choose an earlier one.",
        lambda p, net: _pair(
            _set(p, "rewind"),
            _says_if(
                p.rewind and p.rewind.epoch > (p.dense_epochs or 0), p, "dense_epochs"
            ),
        ),
    ),
    Rule(
        "dense_epochs above 0",
        "a FrozenEstimator",
        "a frozen net is trained already. Use dense_epochs=None or 0.",
        lambda p, net: _pair(
            _set(p, "dense_epochs"), "a FrozenEstimator" if net.frozen else None
        ),
    ),
)


def check_parts(method: PruningMethod, net: NetFacts) -> None:
    """Check that the parts of a method go together, and with a net.

    Parameters
    ----------
    method : PruningMethod
        The parts, with the epochs and layers of the net.
    net : NetFacts
        The facts of the net.

    Raises
    ------
    ValueError
        Two parts contradict each other; the message names both.

    Examples
    --------
    >>> from sklearn_sparse_nn.core.method import resolve_method
    >>> check_parts(resolve_method({"importance": "fpgm"}), NetFacts())
    Traceback (most recent call last):
    ValueError: importance='fpgm' and granularity='unstructured' do not go together: ...
    """
    for rule in RULES:
        pair = rule.broken(method, net)
        if pair:
            raise ValueError(f"{pair[0]} and {pair[1]} do not go together: {rule.why}")


def compatibility_table() -> str:
    """Write the rules as a Markdown table.

    Returns
    -------
    table : str
        The table, with a line for each rule.

    Examples
    --------
    >>> print(compatibility_table().splitlines()[0])
    | this | and this | why not |
    """
    lines = ["| this | and this | why not |", "|---|---|---|"]
    lines += [f"| {rule.first} | {rule.second} | {rule.why} |" for rule in RULES]
    return "\n".join(lines)
