"""Fuzz the reader of model files, guided by its coverage: ``make fuzz``.

A file is either refused with `ModelFormatError` or a model that predicts. Most random
bytes end at the checksum, so the mutator takes files apart, changes their description
and arrays, fits the arrays to the description, and seals them again.
"""

import random
import sys
import tempfile
from pathlib import Path

import atheris
import numpy as np

with atheris.instrument_imports(include=["sklearn_sparse_nn.runtime"]):
    from sklearn_sparse_nn.exceptions import ModelFormatError
    from sklearn_sparse_nn.runtime import SparseModel
    from sklearn_sparse_nn.runtime.file import schema
    from sklearn_sparse_nn.runtime.reference import evaluate

from tests.runtime.file.file_models import build, parts

SMALL = 2**20
NUMBERS = [-1, 0, 1, 2, 3, 7, 255, 256, 65536, 65537, 2**24, 2**31, 2**48, 2**63]
VALUES = [*NUMBERS, None, True, False, 0.0, -0.0, 1.5, 1e300, float("nan"), "", "a"]
VALUES += [[], {}, [0], [0, 0], "relu", "softplus", "U1", "object", "F64", "BOOL"]
FLOATS = [0.0, -0.0, 1e-45, 3e38, -3e38, np.nan, np.inf, 1.0]

path = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
path /= "model"


def load_and_predict(data: bytes) -> None:
    """Load bytes as a file; what loads must predict."""
    path.write_bytes(data)
    try:
        model = SparseModel.load(path)
    except ModelFormatError:
        return
    cost = model.cost()
    repr(model), model._repr_html_()
    if cost.peak_activation_bytes < SMALL and model.n_features_in_ < SMALL:
        for n_rows in (1, 17):  # the kernels have a way for each
            rows = np.ones((n_rows, model.n_features_in_), dtype=np.float32)
            rows[:, ::2] = -1e30
            with np.errstate(all="ignore"):
                model.predict(rows)
                evaluate(model.graph, rows[:, :1].repeat(model.graph.widths[0], axis=1))
    model.save(path)
    assert path.read_bytes() == data, "another file gives the same model"


def mutate(data: bytes, max_size: int, seed: int) -> bytes:
    """Change a file, and make it a whole one again, most of the time."""
    rng = random.Random(seed)
    try:
        description, arrays = parts(data)
    except Exception:
        return atheris.Mutate(data, max_size)
    if rng.random() < 0.05:
        return atheris.Mutate(data, max_size)
    for _ in range(rng.choice([1, 1, 2, 4])):
        change = rng.choice(
            [change_value, change_value, add_op, change_bytes, change_classes]
        )
        try:
            change(rng, description, arrays)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError):
            continue  # an earlier change has left nothing to change here
    if rng.random() < 0.9:
        arrays = fitted(description, arrays)
    try:
        made = build(description, arrays)
    except (TypeError, ValueError):
        return data
    return made if len(made) <= max_size else data


def change_value(rng: random.Random, description: dict, arrays: list) -> None:
    """Change, remove or add one value somewhere in the description."""
    place = description
    while True:
        keys = list(place) if isinstance(place, dict) else range(len(place))
        key = rng.choice(list(keys))
        if not isinstance(place[key], (dict, list)) or not place[key]:
            break
        if rng.random() < 0.1:
            break
        place = place[key]
    action = rng.random()
    if action < 0.05 and isinstance(place, dict):
        place[rng.choice(["extra", "nnz", "eps", "log", "width"])] = 1
    elif action < 0.1:
        del place[key]
    elif action < 0.2 and isinstance(place, list):
        place.append(place[key])
    elif action < 0.7 and type(place[key]) is int:
        place[key] += rng.choice([-1, 1])
    elif action < 0.7 and type(place[key]) is float:
        place[key] = rng.choice([-1.0, 0.0, 1e-5, 3e38, 1e39])
    elif action < 0.7 and type(place[key]) is bool:
        place[key] = not place[key]
    elif action < 0.7 and key == "name" and "params" in place:
        place[key] = rng.choice(list(schema.ACTIVATIONS))
        place["params"] = [1.0 for _ in schema.ACTIVATIONS[place[key]].parameters]
    else:
        place[key] = rng.choice(VALUES)


def add_op(rng: random.Random, description: dict, arrays: list) -> None:
    """Add an operation at the end; its arrays are made to fit later."""
    ops = description["ops"]
    n = len(ops)
    kind = rng.choice(
        ["linear", "affine", "layer_norm", "add", "multiply", "concat", "softmax"]
    )
    op = {"kind": kind}
    width = rng.choice([0, 1, 2, 3, 4, 65536, 65537])
    if kind in ("add", "multiply", "concat"):
        op["inputs"] = [rng.randrange(n + 1) for _ in range(2)]
        op["inputs"] *= rng.choice([1, 1, 1, 50]) if kind == "concat" else 1
    else:
        op["input"] = rng.randrange(n + 1)
    if kind not in ("concat", "softmax"):
        op["activation"] = {"name": "identity", "params": []}
    if kind == "linear":
        op |= {"name": "n", "nnz": 0, "shape": [rng.randrange(5), width]}
    elif kind in ("affine", "layer_norm"):
        op["width"] = width
    if kind == "layer_norm":
        op["eps"] = rng.choice([0.0, 1e-5])
    if kind == "softmax":
        op["log"] = rng.random() < 0.5
    ops.append(op)
    if rng.random() < 0.7:
        description["classes"] = None


def change_classes(rng: random.Random, description: dict, arrays: list) -> None:
    """Give the model other classes, or make it a regressor."""
    n = rng.choice([1, 2, 2, 2, 3])
    code = rng.choice(list(schema.TYPES))
    labels = rng.choice([["a", "b"], ["", "\0"], ["ä" * 9] * n])
    description["classes"] = rng.choice(
        [
            None,
            {"size": n, "type": code},
            {"labels": labels, "type": rng.choice(["U1", "U9", "U4000000", "object"])},
        ]
    )
    description["output"] = rng.choice(["identity", "softmax", "softmax", "sigmoid"])


def change_bytes(rng: random.Random, description: dict, arrays: list) -> None:
    """Change the bytes of one array."""
    i = rng.randrange(len(arrays))
    name, dtype, shape, raw = arrays[i]
    values = bytearray(raw)
    if rng.random() < 0.5:
        values = atheris.Mutate(bytes(values), len(values) or 1)[: len(raw)]
        values += bytes(len(raw) - len(values))
    else:
        kind = np.dtype(schema.TYPES[dtype])
        with np.errstate(all="ignore"):
            new = np.array(rng.choice(FLOATS if kind.kind == "f" else NUMBERS))
            item = new.astype(kind).tobytes()
        at = rng.randrange(len(raw) // len(item)) * len(item)
        values[at : at + len(item)] = item
    arrays[i] = (name, dtype, shape, bytes(values))


def fitted(description: dict, arrays: list) -> list:
    """Cut or fill the arrays to what the description says, if it says anything."""
    try:
        layout = schema.parse(schema.dump(description))[1]
    except (ValueError, TypeError):
        return arrays
    old = {name: raw for name, _, _, raw in arrays}
    sizes = schema.array_bytes(layout)
    if sum(sizes.values()) > SMALL:
        return arrays
    made = []
    for name, (dtype, shape) in layout.items():
        raw = old.get(name, b"")[: sizes[name]]
        if name.endswith(".indptr"):  # keep it at least well-formed in its end
            nnz = layout[name.replace("indptr", "data")][1][0]
            kind = np.dtype(schema.TYPES[dtype])
            starts = np.frombuffer(
                raw[: len(raw) // kind.itemsize * kind.itemsize], kind
            )
            more = np.full(shape[0] - len(starts), nnz)
            starts = np.concatenate([starts, more]).astype(kind)
            starts[-1:] = nnz
            raw = starts.tobytes()
        made.append((name, dtype, list(shape), raw.ljust(sizes[name], b"\0")))
    return made


if __name__ == "__main__":
    # Kernels are compiled here, not in the time of the first file.
    golden = (
        Path(__file__).parents[1] / "tests/runtime/file/golden/format-1.safetensors"
    )
    load_and_predict(golden.read_bytes())
    atheris.Setup(sys.argv, load_and_predict, custom_mutator=mutate)
    atheris.Fuzz()
