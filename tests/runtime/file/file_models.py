"""Models to save, and files with anything in them under a valid checksum."""

import hashlib
import json

import numpy as np
from hypothesis import strategies as st
from scipy import sparse

from sklearn_sparse_nn.runtime import SparseModel
from sklearn_sparse_nn.runtime.activations import ACTIVATIONS
from sklearn_sparse_nn.runtime.graph import (
    Activation,
    Add,
    Affine,
    Concat,
    Graph,
    InputStage,
    LayerNorm,
    Linear,
    Multiply,
    Softmax,
)

PREFIX = b'{"__metadata__":{"sklearn_sparse_nn":"{\\"checksum\\":\\"'


def weight(rng, n_out, n_in, density=0.5):
    dense = rng.normal(size=(n_out, n_in)) * (rng.random((n_out, n_in)) < density)
    return sparse.csr_array(dense.astype(np.float32))


def golden_model():
    """One of everything, from numbers that no generator has to reproduce."""
    first = np.array([[0.5, 0, -1.25], [0, 0, 0], [2, 0.125, 0], [0, -3, 1]])
    second = np.array([[1, 0, 0, -0.5], [0, 0.75, 0, 0]])
    stage = InputStage(
        4, columns=[0, 1, 3], fill=[1, -1, 0.5], shift=[0.1, 0, 2], scale=[2, 1, 0.25]
    )
    ops = (
        Linear(
            0,
            sparse.csr_array(first.astype(np.float32)),
            [0.25, -1, 0, 3],
            Activation("leaky_relu", (0.01,)),
            "net.0",
        ),
        LayerNorm(1, [1, 2, 0.5, 1], [0, 0.5, 0, -0.5]),
        Add((1, 2), Activation("relu")),
        Linear(3, sparse.csr_array(second.astype(np.float32)), [0, 0.5], name="net.3"),
    )
    return SparseModel(
        Graph(stage, ops),
        output="softmax",
        classes=np.array(["no", "yes"]),
        feature_names=["age", "größe", "x", "y"],
    )


def parts(raw):
    """Take a file apart: its description, its arrays as (name, type, shape, bytes)."""
    size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + size])
    description = json.loads(header.pop("__metadata__")["sklearn_sparse_nn"])
    arrays = []
    for name, entry in header.items():
        start, end = (8 + size + at for at in entry["data_offsets"])
        arrays.append((name, entry["dtype"], entry["shape"], raw[start:end]))
    return description, arrays


def build(description, arrays, *, text=None, seal=True):
    """Put a file together and give it a valid checksum, whatever is in it."""
    if text is None:
        text = json.dumps(
            description | {"checksum": "0" * 64}, sort_keys=True, separators=(",", ":")
        )
    header = {"__metadata__": {"sklearn_sparse_nn": text}}
    start = 0
    for name, dtype, shape, data in arrays:
        end = start + len(data)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
        start = end
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    raw = len(head).to_bytes(8, "little") + head + b"".join(a[3] for a in arrays)
    return sealed(raw) if seal else raw


def sealed(raw):
    """Give a file a valid checksum."""
    at = 8 + len(PREFIX)
    blank = raw[:at] + b"0" * 64 + raw[at + 64 :]
    return raw[:at] + hashlib.sha256(blank).hexdigest().encode() + raw[at + 64 :]


def contents(model):
    """Give all that a model is, comparable bit for bit."""
    found = [repr(model.graph.widths), model.output]
    found += [repr((model.target_mean, model.target_scale))]
    for part in (model.graph.stage, *model.graph.ops):
        for name, value in vars(part).items():
            if sparse.issparse(value):
                found.append((name, value.shape))
                for array in (value.data, value.indices, value.indptr):
                    found.append((array.dtype.str, array.tobytes()))
            elif isinstance(value, np.ndarray):
                found.append((name, value.dtype.str, value.shape, value.tobytes()))
            else:
                found.append((name, type(value).__name__, repr(value)))
    for name in ("classes_", "feature_names_in_"):
        array = getattr(model, name, None)
        if array is not None:
            found.append((name, array.dtype.str, repr(array.tolist())))
    return found


_FLOATS = st.floats(-100, 100, width=32)


@st.composite
def activations(draw):
    name = draw(st.sampled_from(sorted(ACTIVATIONS)))
    params = st.floats(0.125, 4, width=32)
    return Activation(name, tuple(draw(params) for _ in ACTIVATIONS[name].parameters))


@st.composite
def stages(draw):
    n = draw(st.integers(1, 6))
    columns = None
    if draw(st.booleans()):
        columns = sorted(draw(st.sets(st.integers(0, n - 1), min_size=1)))
    kept = n if columns is None else len(columns)
    vector = st.lists(_FLOATS, min_size=kept, max_size=kept)
    fill = draw(st.none() | vector)
    shift = draw(st.none() | vector)
    scale = None if shift is None else [draw(st.floats(0.1, 10)) for _ in range(kept)]
    return InputStage(n, columns, fill, shift, scale, draw(st.booleans()))


@st.composite
def graphs(draw):
    stage = draw(stages())
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    widths, ops = [stage.width], []
    for i in range(draw(st.integers(1, 6))):
        source = draw(st.integers(0, i))
        width = widths[source]
        kind = draw(st.integers(0, 5))
        made = width
        if kind == 0:
            made = draw(st.integers(1, 6))
            w = weight(rng, made, width, draw(st.sampled_from([0, 0.3, 1])))
            bias, name = rng.normal(size=made), draw(st.text(max_size=5))
            op = Linear(source, w, bias, draw(activations()), name)
        elif kind == 1:
            scale, shift = rng.normal(size=(2, width))
            op = Affine(source, scale, shift, draw(activations()))
        elif kind == 2:
            scale, shift = rng.normal(size=(2, width))
            eps = draw(st.sampled_from([1e-5, 0.0, 1.0]))
            op = LayerNorm(source, scale, shift, eps, draw(activations()))
        elif kind == 3:
            same = [v for v, n in enumerate(widths) if n == width]
            join = draw(st.sampled_from([Add, Multiply]))
            op = join((source, draw(st.sampled_from(same))), draw(activations()))
        elif kind == 4:
            reads = draw(st.lists(st.integers(0, i), min_size=1, max_size=3))
            op = Concat(tuple(reads))
            made = sum(widths[v] for v in reads)
        else:
            op = Softmax(source, draw(st.booleans()))
        ops.append(op)
        widths.append(made)
    return Graph(stage, tuple(ops))


_NUMBERS = (
    "bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64"
)


@st.composite
def labels(draw, n):
    kind = draw(st.sampled_from([*_NUMBERS.split(), "U", "U9", "object"]))
    if kind == "bool":
        return np.array([False, True][:n])
    if kind in ("U", "U9", "object"):
        texts = st.text(st.characters(exclude_characters="\0"), max_size=9)
        return np.array(
            draw(st.lists(texts, min_size=n, max_size=n, unique=True)), dtype=kind
        )
    return np.arange(n).astype(kind)


@st.composite
def models(draw):
    graph = draw(graphs())
    n_outputs = graph.n_outputs
    output, classes = draw(st.sampled_from(["identity", "softmax"])), None
    if draw(st.booleans()):
        if n_outputs == 1 and draw(st.booleans()):
            output, classes = "sigmoid", draw(labels(2))
        else:
            classes = draw(labels(min(n_outputs, draw(st.integers(1, 3)))))
            classes = classes[:n_outputs]
    names = st.lists(
        st.text(max_size=5),
        min_size=graph.stage.n_features,
        max_size=graph.stage.n_features,
        unique=True,
    )
    return SparseModel(
        graph,
        output=output,
        classes=classes,
        target_mean=draw(_FLOATS),
        target_scale=draw(_FLOATS.filter(bool)),
        feature_names=draw(st.none() | names),
    )
