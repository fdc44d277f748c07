"""The schema of a model's description, and the arrays that a description implies.

The description (JSON) determines the name, type and shape of every array, so that the
table of arrays in a file can be compared with the only one that is right.
"""

import json
import math
from collections.abc import Callable
from typing import Any, NoReturn, TypeAlias

import numpy as np

from sklearn_sparse_nn.runtime.activations import ACTIVATIONS
from sklearn_sparse_nn.runtime.graph import MAX_WIDTH
from sklearn_sparse_nn.runtime.head import OUTPUTS
from sklearn_sparse_nn.runtime.row_steps import MAX_STEPS, ROW_STEPS

__all__ = ["CODES", "FORMAT", "TYPES", "Layout", "array_bytes", "dump", "parse"]

#: The format that is written.
FORMAT = 1
#: What reads it; a reader of another format tells a person what to install.
NEEDS = "sklearn-sparse-nn 0.1"
NO_CHECKSUM = "0" * 64
MAX_OPS = 4096
#: Parsing takes up to about 15 times the text, so this bounds it by 64 MB. It is room
#: for the names of 200,000 features.
MAX_TEXT = 4 * 2**20
#: Brackets are what costs most (72 bytes each); names may have them, too.
MAX_BRACKETS = 2**18
_MAX_LABEL_CHARACTERS = 2**22

#: safetensors' names of types, in the order in which it lays arrays out.
TYPES: dict[str, str] = {
    "U64": "<u8",
    "I64": "<i8",
    "F64": "<f8",
    "F32": "<f4",
    "U32": "<u4",
    "I32": "<i4",
    "F16": "<f2",
    "U16": "<u2",
    "I16": "<i2",
    "I8": "|i1",
    "U8": "|u1",
    "BOOL": "|b1",
}
CODES = {np.dtype(dtype): code for code, dtype in TYPES.items()}

#: Type and shape of every array, by name.
Layout: TypeAlias = dict[str, tuple[str, tuple[int, ...]]]
Rule: TypeAlias = Callable[[object, str], None]
#: An object that JSON can write.
Json: TypeAlias = dict[str, Any]


def dump(description: Json) -> str:
    """Write JSON in the one way that is accepted.

    Raises
    ------
    ValueError
        A number is NaN or infinite.
    """
    return json.dumps(
        description, sort_keys=True, separators=(",", ":"), allow_nan=False
    )


def parse(text: str) -> tuple[Json, Layout]:
    """Read and check a description.

    Parameters
    ----------
    text : str
        JSON as `dump` writes it.

    Returns
    -------
    description : dict
        The description of docs/format.md.
    layout : dict of str to (str, tuple of int)
        The arrays that the description implies.

    Raises
    ------
    ValueError
        The description is wrong, or a newer version is needed.
    """
    if len(text) > MAX_TEXT:
        raise ValueError(f"The description has more than {MAX_TEXT} characters.")
    if text.count("{") + text.count("[") > MAX_BRACKETS:
        raise ValueError(f"The description has more than {MAX_BRACKETS} brackets.")
    try:
        description = json.loads(text)
    except RecursionError:
        raise ValueError("The description is nested too deep.") from None
    except ValueError as error:
        raise ValueError(f"The description is not JSON: {error}.") from None
    _check_format(description)
    _check_schema(description, "model")
    if dump(description) != text:  # keys twice, white space, another spelling
        raise ValueError("The description is not written in the canonical way.")
    return description, _layout(description)


def _check_format(description: object) -> None:
    """Check that this version reads the format."""
    fields: Json = description if isinstance(description, dict) else {}
    found = fields.get("format")
    if type(found) is not int or found < 1:
        raise ValueError("The description has no format number.")
    if found > FORMAT:
        needs = fields.get("needs")
        needed = f"{needs!r:.60}" if type(needs) is str else "a newer version"
        raise ValueError(
            f"The file has format {found!s:.20}, which needs {needed}; this version "
            f"reads formats 1 to {FORMAT}."
        )


# The schema. A rule raises ValueError with the place of the value that breaks it.


def _fail(where: str, expected: str, value: object) -> NoReturn:
    """Raise the error of a broken rule."""
    raise ValueError(f"{where} must be {expected}; got {value!r:.60}.")


def _is(kind: type, expected: str) -> Rule:
    def rule(value: object, where: str) -> None:
        if type(value) is not kind:  # a bool is no int
            _fail(where, expected, value)

    return rule


def _count(limit: int) -> Rule:
    def rule(value: object, where: str) -> None:
        if type(value) is not int or not 0 <= value <= limit:
            _fail(where, f"an integer of 0 to {limit}", value)

    return rule


def _one_of(*allowed: object) -> Rule:
    def rule(value: object, where: str) -> None:
        if type(value) is not type(allowed[0]) or value not in allowed:
            _fail(where, f"one of {allowed}", value)

    return rule


def _maybe(inner: Rule) -> Rule:
    def rule(value: object, where: str) -> None:
        if value is not None:
            inner(value, where)

    return rule


def _list(item: Rule, low: int, high: int) -> Rule:
    def rule(value: object, where: str) -> None:
        if type(value) is not list or not low <= len(value) <= high:
            _fail(where, f"a list of {low} to {high} items", value)
        for i, part in enumerate(value):
            item(part, f"{where}[{i}]")

    return rule


def _record(rules: dict[str, Rule]) -> Rule:
    def rule(value: object, where: str) -> None:
        if type(value) is not dict or value.keys() != rules.keys():
            _fail(where, f"an object with the keys {', '.join(rules)}", value)
        for key, inner in rules.items():
            inner(value[key], f"{where}.{key}")

    return rule


_bool, _float, _text = _is(bool, "a bool"), _is(float, "a float"), _is(str, "a string")
_width, _value = _count(MAX_WIDTH), _count(MAX_OPS)
_activation = _record(
    {"name": _one_of(*ACTIVATIONS), "params": _list(_float, 0, 2)},
)
_OPS: dict[str, Rule] = {
    kind: _record({"kind": _one_of(kind), **rules})
    for kind, rules in {
        "linear": {
            "activation": _activation,
            "input": _value,
            "name": _text,
            "nnz": _count(2**48),
            "shape": _list(_width, 2, 2),
        },
        "affine": {"activation": _activation, "input": _value, "width": _width},
        "layer_norm": {
            "activation": _activation,
            "eps": _float,
            "input": _value,
            "width": _width,
        },
        "add": {"activation": _activation, "inputs": _list(_value, 2, 2)},
        "multiply": {"activation": _activation, "inputs": _list(_value, 2, 2)},
        "concat": {"inputs": _list(_value, 1, MAX_TEXT)},
        "softmax": {"input": _value, "log": _bool},
    }.items()
}


def _op(value: object, where: str) -> None:
    kind = value.get("kind") if type(value) is dict else None
    if type(kind) is not str or kind not in _OPS:
        _fail(where, f"an operation, one of {', '.join(_OPS)}", value)
    _OPS[str(kind)](value, where)


def _classes(value: object, where: str) -> None:
    if type(value) is dict and "labels" in value:
        _record({"labels": _list(_text, 1, MAX_WIDTH), "type": _label_type})(
            value, where
        )
        _check_label_room(value["labels"], value["type"])
    else:
        _record({"size": _count(MAX_WIDTH), "type": _one_of(*TYPES)})(value, where)


def _label_type(value: object, where: str) -> None:
    text = value if type(value) is str else ""
    known = text == "object" or (text[:1] == "U" and text[1:].isdecimal())
    if not known or len(text) > 10:
        _fail(where, "'object', or 'U' and a number", value)


def _check_label_room(labels: list[str], kind: str) -> None:
    if kind != "object":
        n = int(kind[1:])
        if n == 0 or kind != f"U{n}" or n * len(labels) > _MAX_LABEL_CHARACTERS:
            raise ValueError(f"{len(labels)} labels of type {kind} are not allowed.")
        if any(len(x) > n or x.endswith("\0") for x in labels):
            raise ValueError(f"A label is not of type {kind}.")


_STAGE: dict[str, Rule] = {
    "columns": _maybe(_width),
    "fill": _bool,
    "n_features": _width,
    "scale": _bool,
    "wide": _bool,
}
_steps = _list(_one_of(*ROW_STEPS), 1, MAX_STEPS)


def _stage(value: object, where: str) -> None:
    """Check an input stage, which has steps or no such key."""
    has_steps = type(value) is dict and "steps" in value
    _record(_STAGE | {"steps": _steps} if has_steps else _STAGE)(value, where)


_check_schema = _record(
    {
        "checksum": _text,
        "classes": _maybe(_classes),
        "feature_names": _maybe(_list(_text, 1, MAX_WIDTH)),
        "format": _one_of(FORMAT),
        "needs": _one_of(NEEDS),
        "ops": _list(_op, 1, MAX_OPS),
        "output": _one_of(*OUTPUTS),
        "stage": _stage,
        "target_mean": _float,
        "target_scale": _float,
    }
)


def _layout(description: Json) -> Layout:
    """Return the type and shape of every array, in the order of the file."""
    layout = {f"stage.{k}": v for k, v in stage_layout(description["stage"]).items()}
    classes = description["classes"]
    if classes is not None and "size" in classes:
        layout["classes"] = (classes["type"], (classes["size"],))
    for i, op in enumerate(description["ops"]):
        layout.update({f"{i}.{k}": v for k, v in op_layout(op).items()})
    order = list(TYPES)
    return dict(sorted(layout.items(), key=lambda x: (order.index(x[1][0]), x[0])))


def stage_layout(stage: Json) -> Layout:
    """Return the type and shape of the arrays of a described input stage."""
    layout: Layout = {}
    n = stage["n_features"]
    if stage["columns"] is not None:
        n = stage["columns"]
        layout["columns"] = ("I32", (n,))
    if stage["fill"]:
        layout["fill"] = ("F64", (n,))
    if stage["scale"]:
        layout["scale"] = layout["shift"] = ("F64", (n,))
    for i in range(len(stage.get("steps", ()))):
        layout[f"step_{i}"] = ("F64", (n,))
    return layout


def op_layout(op: Json) -> Layout:
    """Return the type and shape of the arrays of a described operation."""
    if op["kind"] == "linear":
        (n_out, n_in), nnz = op["shape"], op["nnz"]
        return {
            "bias": ("F32", (n_out,)),
            "data": ("F32", (nnz,)),
            "indices": ("U16" if n_in <= 2**16 else "I32", (nnz,)),
            "indptr": ("I32" if nnz < 2**31 else "I64", (n_out + 1,)),
        }
    if op["kind"] == "affine":
        return {"scale": ("F32", (op["width"],)), "shift": ("F32", (op["width"],))}
    if op["kind"] == "layer_norm":
        return {"bias": ("F32", (op["width"],)), "weight": ("F32", (op["width"],))}
    return {}


def array_bytes(layout: Layout) -> dict[str, int]:
    """Return the bytes of every array, as Python's integers, which never overflow."""
    return {
        name: math.prod(shape) * np.dtype(TYPES[code]).itemsize
        for name, (code, shape) in layout.items()
    }
