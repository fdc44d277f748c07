"""The description and the arrays of a model, and the model from them."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from scipy import sparse

from sklearn_sparse_nn.runtime.file.schema import (
    CODES,
    FORMAT,
    NEEDS,
    NO_CHECKSUM,
    TYPES,
    Layout,
    dump,
    parse,
)
from sklearn_sparse_nn.runtime.graph import (
    Activation,
    Add,
    Affine,
    Concat,
    Csr,
    Graph,
    InputStage,
    Ints,
    LayerNorm,
    Linear,
    Multiply,
    Op,
    Softmax,
    check_csr,
)
from sklearn_sparse_nn.runtime.head import Head, Labels

__all__ = ["assemble", "describe", "describe_op", "describe_stage"]

_Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]
#: Arrays by name.
_Arrays: TypeAlias = dict[str, _Array]
#: An object of a description, parsed from JSON.
_Json: TypeAlias = dict[str, Any]
#: The function that takes an array out of those that were read, by its short name.
_Take: TypeAlias = Callable[[str], _Array]


def describe(
    graph: Graph, head: Head, feature_names: Iterable[str] | None
) -> tuple[_Json, Layout, _Arrays]:
    """Describe a model as JSON and arrays.

    Parameters
    ----------
    graph : Graph
        The operations of the model.
    head : Head
        The meaning of its outputs.
    feature_names : iterable of str or None
        The names of the columns of X.

    Returns
    -------
    description : dict
        The description of docs/format.md, with a checksum of zeros.
    layout : dict of str to (str, tuple of int)
        The type and shape of every array, in the order of the file.
    arrays : dict of str to ndarray
        The arrays, C-contiguous and little-endian.

    Raises
    ------
    ValueError
        The model has a part that a file cannot hold.
    """
    arrays: _Arrays = {}
    ops = []
    for i, op in enumerate(graph.ops):
        described, own = describe_op(op)
        ops.append(described)
        arrays.update({f"{i}.{name}": array for name, array in own.items()})
    stage = graph.stage
    for name in ("columns", "fill", "scale", "shift"):
        if getattr(stage, name) is not None:
            arrays[f"stage.{name}"] = getattr(stage, name)
    arrays.update({f"stage.step_{i}": v for i, (_, v) in enumerate(stage.steps)})
    description = {
        "checksum": NO_CHECKSUM,
        "classes": _describe_classes(head.classes, arrays),
        "feature_names": _strings(feature_names, "feature name"),
        "format": FORMAT,
        "needs": NEEDS,
        "ops": ops,
        "output": head.output,
        "stage": describe_stage(stage),
        "target_mean": head.target_mean,
        "target_scale": head.target_scale,
    }
    # What could not be read again is refused here, by the reader's own rules.
    layout = parse(dump(description))[1]
    for name, (code, shape) in layout.items():
        array = np.ascontiguousarray(arrays[name], dtype=TYPES[code])
        if array.shape != shape:  # pragma: no cover - a mistake in this file
            raise AssertionError(f"{name}: {array.shape} instead of {shape}")
        arrays[name] = array
    return description, layout, arrays


def describe_stage(stage: InputStage) -> _Json:
    """Describe an input stage."""
    steps = [name for name, _ in stage.steps]
    return {
        **({"steps": steps} if steps else {}),
        "columns": None if stage.columns is None else len(stage.columns),
        "fill": stage.fill is not None,
        "n_features": int(stage.n_features),
        "scale": stage.scale is not None,
        "wide": bool(stage.wide),
    }


def describe_op(op: Op) -> tuple[_Json, _Arrays]:
    """Describe an operation; return its arrays, too, by their short names."""
    found: _Json = {"kind": op.kind}
    arrays: _Arrays = {}
    if isinstance(op, (Add, Multiply, Concat)):
        found["inputs"] = [int(v) for v in op.inputs]
    else:
        found["input"] = int(op.input)
    if not isinstance(op, (Concat, Softmax)):
        found["activation"] = {
            "name": op.activation.name,
            "params": list(op.activation.params),
        }
    if isinstance(op, Linear):
        weight = op.weight
        found["name"] = str(op.name)
        found["nnz"] = len(weight.data)
        found["shape"] = [int(n) for n in weight.shape]
        arrays["bias"] = op.bias
        for part in ("data", "indices", "indptr"):
            arrays[part] = getattr(weight, part)
    elif isinstance(op, Affine):
        found["width"] = len(op.scale)
        arrays.update(scale=op.scale, shift=op.shift)
    elif isinstance(op, LayerNorm):
        found["width"] = len(op.weight)
        found["eps"] = float(op.eps)
        arrays.update(weight=op.weight, bias=op.bias)
    elif isinstance(op, Softmax):
        found["log"] = bool(op.log)
    return found, arrays


def _strings(values: Iterable[object] | None, what: str) -> list[str] | None:
    """Return a list of strings, after a check that all are strings."""
    if values is None:
        return None
    strings = []
    for value in values:
        if not isinstance(value, str):
            raise ValueError(
                f"A {what} must be a string to be saved; got {value!r:.60}."
            )
        strings.append(str(value))
    return strings


def _describe_classes(classes: Labels | None, arrays: _Arrays) -> _Json | None:
    """Describe the classes; put those that are no strings into the arrays."""
    if classes is None:
        return None
    if classes.dtype.kind == "U" and classes.dtype.isnative:
        kind = f"U{classes.dtype.itemsize // 4}"
        return {"labels": [str(label) for label in classes], "type": kind}
    if classes.dtype == object:
        return {"labels": _strings(classes, "class of dtype object"), "type": "object"}
    if classes.dtype not in CODES:
        raise ValueError(
            f"Classes of dtype {classes.dtype} cannot be saved: they may be bools, "
            "integers, floats or strings, in the machine's byte order. Give the model "
            "classes of such a dtype."
        )
    if classes.dtype.kind == "f" and not np.isfinite(classes).all():
        raise ValueError("A class is NaN or infinite, so it cannot be saved.")
    arrays["classes"] = classes
    return {"size": len(classes), "type": CODES[classes.dtype]}


def assemble(
    description: _Json, arrays: _Arrays
) -> tuple[Graph, Head, list[str] | None]:
    """Build the graph and the head of a model; return them and the feature names.

    Parameters
    ----------
    description : dict
        The description, as `parse` returns it.
    arrays : dict of str to ndarray
        The arrays of its layout, read-only. They are taken out one by one, so that the
        raw arrays and the graph's own are never all in memory at once.

    Raises
    ------
    ValueError
        The graph or the head refuses what the file says.
    """
    described = description["stage"]
    columns = arrays.pop("stage.columns", None)
    if columns is not None:
        columns = _frozen(columns.astype(np.int64))
    stage = InputStage(
        described["n_features"],
        columns=columns,
        fill=arrays.pop("stage.fill", None),
        shift=arrays.pop("stage.shift", None),
        scale=arrays.pop("stage.scale", None),
        wide=described["wide"],
        steps=tuple(
            (name, arrays.pop(f"stage.step_{i}"))
            for i, name in enumerate(described.get("steps", ()))
        ),
    )
    del columns
    ops = [
        _assemble_op(op, partial(_taken, arrays, i))
        for i, op in enumerate(description["ops"])
    ]
    graph = Graph(stage, tuple(ops))
    head = Head(
        graph.n_outputs,
        output=description["output"],
        classes=_assemble_classes(description["classes"], arrays),
        target_mean=description["target_mean"],
        target_scale=description["target_scale"],
    )
    return graph, head, description["feature_names"]


def _frozen(array: Ints) -> Ints:
    """Make an array read-only."""
    array.setflags(write=False)
    return array


def _taken(arrays: _Arrays, i: int, name: str) -> _Array:
    """Take an array of operation `i` out of those that were read."""
    return arrays.pop(f"{i}.{name}")


def _assemble_op(op: _Json, take: _Take) -> Op:
    """Build an operation from its description."""
    kind = op["kind"]
    if kind == "concat":
        return Concat(tuple(op["inputs"]))
    if kind == "softmax":
        return Softmax(op["input"], op["log"])
    params = tuple(op["activation"]["params"])
    activation = Activation(op["activation"]["name"], params)
    if kind in ("add", "multiply"):
        first, second = op["inputs"]
        return (Add if kind == "add" else Multiply)((first, second), activation)
    if kind == "affine":
        return Affine(op["input"], take("scale"), take("shift"), activation)
    if kind == "layer_norm":
        eps = op["eps"]
        return LayerNorm(op["input"], take("weight"), take("bias"), eps, activation)
    weight = _assemble_weight(op, take)
    return Linear(op["input"], weight, take("bias"), activation, op["name"])


def _assemble_weight(op: _Json, take: _Take) -> Csr:
    """Build a checked weight from its description."""
    shape = (op["shape"][0], op["shape"][1])
    data, indices, indptr = take("data"), take("indices"), take("indptr")
    # Before scipy has it, which cuts the values after the end of the last row.
    check_csr(data, indices, indptr, shape)
    if indices.dtype.itemsize == 2:
        indices = _frozen(indices.astype(np.int32))
    return sparse.csr_array((data, indices, indptr), shape=shape)


def _assemble_classes(classes: _Json | None, arrays: _Arrays) -> Labels | None:
    """Build the classes from their description."""
    if classes is None:
        return None
    if "labels" in classes:
        kind = object if classes["type"] == "object" else f"<{classes['type']}"
        return np.array(classes["labels"], dtype=kind)
    found = arrays.pop("classes")
    if found.dtype.kind == "b" and np.any(found.view(np.uint8) > 1):
        raise ValueError("A class is neither true nor false.")
    if found.dtype.kind == "f" and not np.isfinite(found).all():
        raise ValueError("A class is NaN or infinite.")
    return found
