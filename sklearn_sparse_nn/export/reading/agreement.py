"""The comparison of a net of steps with the module that it was made from, on rows.

A recorded forward may be another function than the module: where it asks for the type
of its input, draws random numbers, or keeps count. So both are run on rows, and a net
is trusted only if they agree.
"""

import random
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from scipy import sparse, special
from torch import Tensor, nn

from sklearn_sparse_nn.exceptions import UnsupportedLayerError
from sklearn_sparse_nn.export.steps import Step, in_order
from sklearn_sparse_nn.runtime.reference import activate

__all__ = ["DisagreementError", "Results", "check_agreement"]

#: What modules took and returned, by path, in the order in which they were done.
Results: TypeAlias = Sequence[tuple[str, Any, Any]]

# A share of the largest output in a column. Two right nets in float32 are closer unless
# their sums cancel, and then the rounding below says by how much; a branch not taken or
# a random number is far more.
_RELATIVE = 1e-4
# How often the rounding that float32 does to the steps themselves may be exceeded: the
# order of sums is another, and the largest of a few hundred numbers is a rough measure.
_ROUNDINGS = 32
_LAST_BITS = 2.0**-22
#: Row counts, and the scale of the numbers in them.
_DRAWS = ((33, 1.0), (5, 0.05), (2, 8.0), (1, 1.0))
_LIKELY_ROWS = 9  # around the shift that the net itself subtracts from its columns
_GIVEN_ROWS = 16
_CALLS = 8  # before a module is said to draw random numbers
_JUMPING = "threshold"  # the activation by which rounding alone may change a value
_SCALARS = (bool, int, float, str, type(None))


class DisagreementError(UnsupportedLayerError):
    """A module computes something else than what its forward was recorded as."""


class _Refusal(NamedTuple):
    """The reason of a refusal, the end of a sentence, and rows that show it."""

    reason: str
    rows: np.ndarray


def check_agreement(
    module: nn.Module,
    source: Step,
    output: Step,
    results: Results,
    rows: np.ndarray | None = None,
) -> None:
    """Raise an error unless a module and the steps made from it agree on rows.

    Parameters
    ----------
    module : nn.Module
        The module in evaluation, in float32 on the CPU; a copy that may be changed.
    source, output : Step
        The input and the output of the steps.
    results : sequence of (path, step, step)
        What the modules in it take and return, to find the one that differs.
    rows : ndarray of shape (n_rows, n_features) or None, default=None
        Rows as they will be predicted.

    Raises
    ------
    DisagreementError
        They differ by more than rounding, or the module gives other values when it is
        called again; the message names the part.
    """
    batches = _batches(source, output, rows)
    refusal = _unsteady(module, batches) or _differing(module, source, output, batches)
    if refusal is None:
        return
    blamed = _blamed(module, source, results, refusal.rows)
    child = module.get_submodule(blamed)
    where = f"module {blamed!r}" if blamed else "the module itself"
    raise DisagreementError(
        f"Not supported: {where} ({type(child).__name__}) {refusal.reason}. A module "
        "must compute the same function of its rows at every call."
    )


def _batches(source: Step, output: Step, rows: np.ndarray | None) -> list[np.ndarray]:
    """Draw rows at several scales and counts, and add likely and given ones."""
    rng, width = np.random.default_rng(0), source.width
    batches = [scale * rng.normal(size=(n, width)) for n, scale in _DRAWS]
    for step in in_order(output):
        if step.kind == "affine" and step.inputs[0] is source:
            shift, scale = _centre(step)
            batches.append(shift + scale * rng.normal(size=(_LIKELY_ROWS, width)))
            break
    if rows is not None and rows.shape[0]:
        first: Any = rows[:_GIVEN_ROWS]
        first = first.toarray() if sparse.issparse(first) else first
        batches += [first, first[:1]]
    with np.errstate(over="ignore"):
        narrow = [np.ascontiguousarray(batch, np.float32) for batch in batches]
    return [batch for batch in narrow if np.isfinite(batch).all()]


def _centre(step: Step) -> tuple[Any, Any]:
    """Return where the columns of an affine step's input are likely to lie."""
    if step.divide is not None:
        return step.divide
    scale = np.where(step.weight == 0, 1.0, step.weight)
    return -step.bias / scale, 1 / scale


def _run(module: nn.Module, rows: np.ndarray) -> np.ndarray:
    """Compute a module's outputs; those of a flat one too have two dimensions."""
    # Both contexts are of this thread alone.
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        outputs = module(torch.from_numpy(rows.copy()))
    outputs = outputs[0] if isinstance(outputs, tuple) else outputs
    if not isinstance(outputs, Tensor):
        raise TypeError(f"it gives a {type(outputs).__name__}")
    return outputs.detach().to(torch.float64).numpy().copy()


def _unsteady(module: nn.Module, batches: list[np.ndarray]) -> _Refusal | None:
    """Find whether a module fails, draws random numbers, or remembers its calls."""
    for rows in batches:
        try:
            before, drawn = _run(module, rows), _random_state()
            counts = _scalars(module)
            again = _run(module, rows)
        except Exception as error:  # a user's own code
            n = len(rows)
            return _Refusal(f"raises an error for {n} rows of float32: {error}", rows)
        if not _same_state(drawn, _random_state()) and _draws(module, rows):
            return _Refusal("draws random numbers in evaluation", rows)
        changed = [k for k, v in _scalars(module).items() if counts.get(k) != v]
        if changed:
            path, _, name = changed[0].rpartition(".")
            at = f"{path}." if path else ""
            return _Refusal(f"changes '{at}{name}' at every call", rows)
        if not _close(before, again, 1e-5):
            return _Refusal(
                "gives other values when it is called again with the same rows, by "
                "random numbers or by what it remembers",
                rows,
            )
    return None


def _draws(module: nn.Module, rows: np.ndarray) -> bool:
    """Check whether every call moves a global generator.

    Other threads may move one now and then, as those of a dask worker do.
    """
    for _ in range(_CALLS):
        before = _random_state()
        _run(module, rows)
        if _same_state(before, _random_state()):
            return False
    return True


def _close(one: np.ndarray, two: np.ndarray, share: float) -> bool:
    if one.shape != two.shape:
        return False
    with np.errstate(invalid="ignore"):
        off = np.abs(one - two) > share * np.abs(one).max(initial=0)
    return not (off & (one != two) & ~(np.isnan(one) & np.isnan(two))).any()


def _random_state() -> tuple[Any, ...]:
    numpy_state: Any = np.random.get_state()  # noqa: NPY002
    return random.getstate(), *numpy_state[1:], torch.get_rng_state()


def _same_state(one: tuple[Any, ...], two: tuple[Any, ...]) -> bool:
    return one[0] == two[0] and all(
        np.array_equal(a, b) for a, b in zip(one[1:], two[1:], strict=True)
    )


def _scalars(module: nn.Module) -> dict[str, str]:
    """Collect the plain numbers and texts that modules hold, as texts."""
    return {
        f"{path}.{name}": repr(value)
        for path, child in module.named_modules()
        for name, value in vars(child).items()
        if type(value) in _SCALARS
    }


def _differing(
    module: nn.Module, source: Step, output: Step, batches: list[np.ndarray]
) -> _Refusal | None:
    """Find whether a module and its steps differ by more than rounding."""
    rows = np.concatenate(batches)
    exact = _evaluate(source, output, rows, np.float64)
    rounding = np.abs(_evaluate(source, output, rows, np.float32) - exact)
    moved = _evaluate(source, output, rows, np.float64, moved=_LAST_BITS)
    rounding += np.abs(moved - exact)
    start, jumps = 0, any(s.activation.name == _JUMPING for s in in_order(output))
    for batch in batches:
        part = slice(start, start + len(batch))
        start += len(batch)
        found = _run(module, batch)
        shape = (len(batch),) if output.flat else (len(batch), output.width)
        if found.shape != shape:
            return _Refusal(
                f"gives outputs of shape {found.shape} for {len(batch)} rows, where "
                f"its recorded calls give {shape}",
                batch,
            )
        off = _distance(found.reshape(len(batch), -1), exact[part], rounding[part])
        if off.any() and not (jumps and off.any(axis=1).mean() < 0.1):
            worst = np.nanmax(np.abs(found.reshape(off.shape) - exact[part])[off])
            return _Refusal(
                f"is off its recorded calls by {worst:.2g} for {len(batch)} rows: its "
                "forward asks for something that the recording does not have, such as "
                "the type of its input",
                batch,
            )
    return None


def _distance(found: Any, exact: Any, rounding: Any) -> Any:
    """Find the outputs that are off by more than rounding; not those that overflow."""
    with np.errstate(invalid="ignore", over="ignore"):
        scale = np.where(np.isfinite(exact), np.abs(exact), 0).max(axis=0)
        noise = np.where(np.isfinite(rounding), rounding, 0).max(axis=0)
        room = _RELATIVE * scale + _ROUNDINGS * noise + np.finfo(np.float32).tiny
        off = ~(np.abs(found - exact) <= room)
    return off & np.isfinite(exact) & np.isfinite(rounding)


def _evaluate(
    source: Step, output: Step, rows: Any, dtype: Any, *, moved: float = 0.0
) -> Any:
    """Compute the values of a step for rows, in one precision.

    With `moved`, inputs and activations are moved by such a share of their size, up or
    down: no two libraries compute a function with the same last bits.
    """
    rng = np.random.default_rng(1)
    with np.errstate(all="ignore"):
        x = rows.T.astype(dtype)
        if moved:
            x = x * (1 + moved * rng.choice([-1, 1], x.shape))
        values = {source: x}
        for step in in_order(output):
            if step is source:
                continue
            inputs = [values[s] for s in step.inputs]
            y = values[step] = _value(step, inputs, dtype)
            if moved and step.kind in ("activation", "softmax", "layer_norm"):
                size = np.abs(inputs[0]) + np.abs(y)
                if step.kind != "activation":  # every column counts for every other
                    size = size.max(axis=0)
                values[step] = y + moved * rng.choice([-1, 1], y.shape) * size
    return values[output].T.astype(np.float64)


def _value(step: Step, inputs: list[Any], dtype: Any) -> Any:
    x = inputs[0]
    if step.kind == "affine" and step.divide is not None:
        shift, scale = (v.astype(dtype)[:, None] for v in step.divide)
        return (x - shift) / scale
    if step.kind in ("linear", "affine", "layer_norm"):
        bias = step.bias.astype(dtype)[:, None]
        weight = step.weight.astype(dtype)
    if step.kind == "linear":
        return weight @ x + bias
    if step.kind == "affine":
        return x * weight[:, None] + bias
    if step.kind == "layer_norm":
        centred = x - x.mean(axis=0)
        scale = np.sqrt((centred**2).mean(axis=0) + dtype(step.eps))
        return centred / scale * weight[:, None] + bias
    if step.kind == "add":
        return x + inputs[1]
    if step.kind == "multiply":
        return x * inputs[1]
    if step.kind == "concat":
        return np.concatenate(inputs)
    if step.kind == "softmax":
        return (special.log_softmax if step.log else special.softmax)(x, axis=0)
    return activate(x, step.activation)


class _Call(NamedTuple):
    """A call of a module inside: its input, its output, its use of random numbers."""

    taken: Any
    returned: Any
    draws: bool


def _blamed(module: nn.Module, source: Step, results: Results, rows: np.ndarray) -> str:
    """Find the first module inside that differs; an empty path for none."""
    once, twice = (_calls_inside(module, rows) for _ in range(2))
    done: dict[str, int] = defaultdict(int)
    for path, *steps in results:
        call = done[path]
        done[path] += 1
        if len(once[path]) <= call or len(twice[path]) <= call:
            continue
        one, two = once[path][call], twice[path][call]
        if one.draws or (
            _close(one.taken, two.taken, 1e-5)
            and not _close(one.returned, two.returned, 1e-5)
        ):
            return path
        exact = [
            _evaluate(source, step, rows, np.float64)
            if isinstance(step, Step)
            else np.zeros(0)
            for step in steps
        ]
        if _close(exact[0], one.taken, 1e-2) and not _close(
            exact[1], one.returned, 1e-2
        ):
            return path
    return ""


def _calls_inside(module: nn.Module, rows: np.ndarray) -> dict[str, list[_Call]]:
    """Run a module once; collect the calls of the modules in it."""
    found: dict[str, list[_Call]] = defaultdict(list)
    entered: dict[str, Any] = {}
    handles = []

    def watch(path: str, child: nn.Module) -> None:
        def before(child: nn.Module, args: Any) -> None:
            entered[path] = _random_state(), _numbers(args[0] if args else None)

        def after(child: nn.Module, args: Any, result: Any) -> None:
            state, taken = entered[path]
            draws = not _same_state(state, _random_state())
            found[path].append(_Call(taken, _numbers(result), draws))

        handles.append(child.register_forward_pre_hook(before))
        handles.append(child.register_forward_hook(after))

    try:
        for path, child in module.named_modules():
            watch(path, child)
        _run(module, rows)
    except Exception:  # which the error to be raised tells
        found.clear()
    finally:
        for handle in handles:
            handle.remove()
    return found


def _numbers(value: Any) -> np.ndarray:
    """Copy a tensor to two dimensions; nothing of another object."""
    if not isinstance(value, Tensor):
        return np.zeros(0)
    return value.detach().to(torch.float64).reshape(len(value), -1).numpy().copy()
