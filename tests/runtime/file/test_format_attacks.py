"""A hostile file under a valid checksum is refused, in little memory (invariant 26)."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from scipy import sparse

from sklearn_sparse_nn.exceptions import ModelFormatError
from sklearn_sparse_nn.runtime import SparseModel
from sklearn_sparse_nn.runtime.graph import (
    Graph,
    InputStage,
    Linear,
)
from tests.runtime.file.file_models import (
    build,
    golden_model,
    parts,
    sealed,
)

GOLDEN = Path(__file__).parent / "golden" / "format-1.safetensors"


def changed(where, value):
    """Give the golden file with one thing in its description changed."""
    description, arrays = parts(GOLDEN.read_bytes())
    *path, last = where
    place = description
    for key in path:
        place = place[key]
    if value is REMOVED:
        del place[last]
    else:
        place[last] = value
    return build(description, arrays)


REMOVED = object()
SOFTPLUS = {"name": "softplus"}


def test_putting_together_what_was_taken_apart_changes_nothing():
    assert build(*parts(GOLDEN.read_bytes())) == GOLDEN.read_bytes()


@pytest.mark.parametrize(
    ("where", "value", "match"),
    [
        (["format"], 2, "format 2, which needs 'sklearn-sparse-nn 0.1'"),
        (["format"], 10**30, "format 1000"),
        (["format"], 0, "no format number"),
        (["format"], True, "no format number"),
        (["format"], 1.0, "no format number"),
        (["format"], REMOVED, "no format number"),
        (["needs"], "b", "needs must be one of"),
        (["extra"], 1, "object with the keys"),
        (["output"], REMOVED, "object with the keys"),
        (["output"], "exp", "output must be one of"),
        (["output"], ["softmax"], "output must be one of"),
        (["output"], "sigmoid", "classes of shape"),
        (["target_mean"], 1, "target_mean must be a float"),
        (["target_mean"], float("nan"), "not JSON compliant"),
        (["target_scale"], float("inf"), "not JSON compliant"),
        (["target_scale"], 0.0, "target_scale must not be 0"),
        (["target_scale"], -0.0, "target_scale must not be 0"),
        (["target_scale"], 1e308, "finite in float64"),
        (["classes", "labels"], ["a"] * 3, "classes of shape"),
        (["classes", "labels"], ["a", "a"], "'a' is there more than once"),
        (["classes", "labels"], [], "list of 1 to"),
        (["classes", "labels"], ["a", 1], "must be a string"),
        (["classes", "labels"], ["a", "yess"], "not of type U3"),
        (["classes", "labels"], ["a", "b\0"], "not of type U3"),
        (["classes", "type"], "U999999999", "not allowed"),
        (["classes", "type"], "U0", "not allowed"),
        (["classes", "type"], "U03", "not allowed"),
        (["classes", "type"], "U٣", "not allowed"),
        (["classes", "type"], "U9999999999999", "'object', or 'U'"),
        (["classes", "type"], "O", "'object', or 'U'"),
        (["classes"], {"size": 2, "type": "I64"}, "table of arrays"),
        (["classes"], {"size": 2, "type": "datetime64"}, "one of"),
        (["classes"], 3, "object with the keys"),
        (["feature_names"], ["a"], "1 feature names for 4 features"),
        (["feature_names"], "abcd", "must be a list"),
        (["feature_names"], [*"abca"], "'a' is there more than once"),
        (["stage", "n_features"], 2**24 + 1, "n_features must be an integer"),
        (["stage", "n_features"], -1, "n_features must be an integer"),
        (["stage", "n_features"], 0, "1 to 16777216 features"),
        (["stage", "n_features"], 3, "used columns must exist"),
        (["stage", "n_features"], True, "n_features must be an integer"),
        (["stage", "columns"], 2, "table of arrays"),
        (["stage", "columns"], None, "table of arrays"),
        (["stage", "fill"], False, "table of arrays"),
        (["stage", "scale"], 1, "scale must be a bool"),
        (["ops"], [], "list of 1 to 4096"),
        (["ops"], [{"input": 0, "kind": "softmax", "log": False}] * 4097, "4096 items"),
        (["ops", 0], 1, "must be an operation"),
        (["ops", 0, "kind"], "conv", "must be an operation"),
        (["ops", 0, "kind"], [1], "must be an operation"),
        (["ops", 0, "kind"], "affine", "object with the keys"),
        (["ops", 0, "input"], 1, "Operation 0 .linear. reads .1,.; there are values"),
        (["ops", 0, "input"], -1, "input must be an integer"),
        (["ops", 0, "input"], False, "input must be an integer"),
        (["ops", 0, "name"], None, "name must be a string"),
        (["ops", 0, "nnz"], 7, "table of arrays"),
        (["ops", 0, "nnz"], 2**48, "table of arrays"),
        (["ops", 0, "nnz"], 2**49, "nnz must be an integer"),
        (["ops", 0, "nnz"], 6.0, "nnz must be an integer"),
        (["ops", 0, "shape"], [4, 2], "A column is outside"),
        (["ops", 0, "shape"], [4, 4], "Operation 0 .linear. needs 4 columns"),
        (["ops", 0, "shape"], [4, 2**17], "table of arrays"),
        (["ops", 0, "shape"], [5, 3], "table of arrays"),
        (["ops", 0, "shape"], [2**40, 3], "must be an integer"),
        (["ops", 0, "shape"], [4], "list of 2 to 2"),
        (["ops", 0, "activation"], "relu", "object with the keys"),
        (["ops", 0, "activation", "name"], "exec", "must be one of"),
        (["ops", 0, "activation", "params"], [], "has 1 parameters; got 0"),
        (["ops", 0, "activation", "params"], [1], "must be a float"),
        (["ops", 0, "activation", "params"], [1e39], "finite numbers in float32"),
        (["ops", 0, "activation", "params"], [float("inf")], "not JSON compliant"),
        (["ops", 1, "eps"], -1.0, "eps must be at least 0"),
        (["ops", 1, "eps"], 1e39, "eps must be at least 0, and finite in float32"),
        (["ops", 1, "eps"], 1e300, "eps must be at least 0, and finite in float32"),
        (["ops", 0, "activation"], SOFTPLUS | {"params": [0.0, 1.0]}, "must not be 0"),
        (["ops", 0, "activation"], SOFTPLUS | {"params": [1e-45, 1.0]}, "inverse inf"),
        (["ops", 0, "activation"], SOFTPLUS | {"params": [1.0, 1e39]}, "in float32"),
        (["ops", 1, "width"], 3, "table of arrays"),
        (["ops", 1, "input"], 0, "needs 4 columns"),
        (["ops", 2, "inputs"], [1], "list of 2 to 2"),
        (["ops", 2, "inputs"], [1, 3], "there are values 0 to 2"),
        (["ops", 2, "inputs"], [0, 1], "needs 3 columns"),
        (["ops", 3, "input"], 2**63, "must be an integer"),
    ],
)
def test_descriptions_that_break_a_rule(refuses, where, value, match):
    refuses(changed(where, value), match)


def array(name, values):
    """Give the golden file with other values in an array."""
    description, arrays = parts(GOLDEN.read_bytes())
    for i, (found, dtype, shape, data) in enumerate(arrays):
        if found == name:
            raw = values.tobytes()
            assert len(raw) == len(data), (len(raw), dtype, shape)
            arrays[i] = (found, dtype, shape, raw)
    return build(description, arrays)


F4, F8, I4, U2 = (np.dtype(x).type for x in ("<f4", "<f8", "<i4", "<u2"))


@pytest.mark.parametrize(
    ("name", "values", "match"),
    [
        # the golden first layer: indices [0, 2 | | 0, 1 | 1, 2], indptr 0 2 2 4 6
        ("0.indices", U2([2, 0, 0, 1, 1, 2]), "sorted and unique"),
        ("0.indices", U2([0, 0, 0, 1, 1, 2]), "sorted and unique"),
        ("0.indices", U2([0, 2, 0, 1, 1, 3]), "outside of 0 to 2"),
        ("0.indices", U2([0, 2, 0, 1, 1, 65535]), "outside of 0 to 2"),
        ("0.indptr", I4([0, 2, 1, 4, 6]), "must rise"),
        ("0.indptr", I4([1, 2, 2, 4, 6]), "must rise"),
        ("0.indptr", I4([0, 2, 2, 4, 5]), "must rise"),
        ("0.indptr", I4([0, 2, 2, 4, 7]), "must rise"),
        ("0.indptr", I4([0, -2, 2, 4, 6]), "must rise"),
        ("0.indptr", I4([0, 7, 7, 7, 6]), "must rise"),
        ("0.indptr", I4([0, 0, 0, 0, 6]), "sorted and unique"),
        ("0.indptr", I4([0, 2**31 - 1, 2, 4, 6]), "must rise"),
        ("0.data", F4([1, 2, 3, 4, 5, np.nan]), "NaN or infinite"),
        ("0.data", F4([np.inf, 2, 3, 4, 5, 6]), "NaN or infinite"),
        ("0.bias", F4([0, np.nan, 0, 0]), "NaN or infinite"),
        ("1.weight", F4([0, 0, 0, -np.inf]), "NaN or infinite"),
        ("stage.columns", I4([0, 3, 1]), "sorted and unique"),
        ("stage.columns", I4([0, 1, 1]), "sorted and unique"),
        ("stage.columns", I4([-1, 1, 3]), "sorted and unique"),
        ("stage.columns", I4([0, 1, 4]), "sorted and unique"),
        ("stage.fill", F8([0, np.nan, 0]), "finite numbers"),
        ("stage.shift", F8([0, 1e39, 0]), "finite numbers"),
        ("stage.scale", F8([1, 0, 1]), "must not be 0"),
        ("stage.scale", F8([1, 1e-60, 1]), "must not be 0"),
        ("stage.scale", F8([1, 1e300, 1]), "finite numbers"),
    ],
)
def test_arrays_that_break_a_rule(refuses, name, values, match):
    refuses(array(name, values), match)


def test_tables_of_arrays_that_do_not_fit(refuses):
    description, arrays = parts(GOLDEN.read_bytes())
    extra = ("zzz", "F32", [1], bytes(4))
    renamed = [("0.dat", *a[1:]) if a[0] == "0.data" else a for a in arrays]
    retyped = [(a[0], "I32", *a[2:]) if a[0] == "0.data" else a for a in arrays]
    reshaped = [(*a[:2], [2, 3], a[3]) if a[0] == "0.data" else a for a in arrays]
    huge = [(*a[:2], [2**62], a[3]) if a[0] == "0.data" else a for a in arrays]
    for table in (
        [*arrays, extra],
        arrays[:-1],
        arrays[::-1],
        renamed,
        retyped,
        reshaped,
        huge,
        [*arrays, arrays[-1]],
    ):
        refuses(build(description, table), "table of arrays")


def test_values_that_numpy_has_no_meaning_for_are_refused(load, refuses, tmp_path):
    description, arrays = parts(GOLDEN.read_bytes())
    description["classes"] = {"size": 2, "type": "BOOL"}
    good = build(description, [*arrays, ("classes", "BOOL", [2], b"\0\1")])
    assert load(good).classes_.tolist() == [False, True]
    bad = build(description, [*arrays, ("classes", "BOOL", [2], b"\0\2")])
    refuses(bad, "neither true nor false")
    description["classes"] = {"size": 2, "type": "F64"}
    nan = np.array([0, np.nan]).tobytes()
    refuses(build(description, [("classes", "F64", [2], nan), *arrays]), "NaN")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ('{"checksum":"%s",', "not JSON"),
        ('{"checksum":"%s"}', "no format number"),
        ('{"checksum":"%s","format":1}', "object with the keys"),
        ('{"checksum":"%s","a":' + "[" * 100_000, "nested too deep"),
        ('{"checksum":"%s","a":' + "[" * 300_000, "brackets"),
        ('{"checksum":"%s","a":' + "1" * 100_000 + "}", "not JSON"),
        ('{"checksum":"%s","a":"' + "x" * 2**22 + '"}', "characters"),
        ('{"checksum":"%s","format":2}', "needs a newer version"),
        ('{"checksum":"%s","format":3,"needs":"0.9"}', "needs '0.9'"),
    ],
)
def test_texts_that_break_a_limit(refuses, text, match):
    refuses(build(None, [], text=text % ("0" * 64)), match)


def test_other_spellings_of_the_same_description_are_refused(refuses):
    description, arrays = parts(GOLDEN.read_bytes())
    text = json.dumps(
        description | {"checksum": "0" * 64}, sort_keys=True, separators=(",", ":")
    )
    for old, new in (
        ('"target_mean":0.0', '"target_mean":0.00'),
        ('"target_mean":0.0', '"target_mean":0e0'),
        ('"target_mean":0.0', '"target_mean":1.0,"target_mean":0.0'),
        ('"target_mean":0.0', '"target_mean": 0.0'),
        ('"name":"net.0"', '"name":"\\u006eet.0"'),
    ):
        assert old in text
        refuses(build(None, arrays, text=text.replace(old, new)), "canonical")


def test_a_checksum_of_another_form_is_refused(refuses):
    raw = GOLDEN.read_bytes()
    right = parts(raw)[0]["checksum"]
    for checksum in ("0" * 64, right.upper(), right[:-1] + " "):
        refuses(raw.replace(right.encode(), checksum.encode()), "checksum is wrong")
    for checksum in ("", right[1:], right + "0"):
        text = json.dumps(
            parts(raw)[0] | {"checksum": checksum},
            sort_keys=True,
            separators=(",", ":"),
        )
        refuses(build(None, parts(raw)[1], text=text, seal=False), "checksum is wrong")


def test_header_lengths_that_lie_are_refused(refuses):
    raw = GOLDEN.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    for lie in (0, 1, size - 8, size + 8, len(raw), 2**32, 2**63 - 1, 2**64 - 1):
        refuses(lie.to_bytes(8, "little") + raw[8:])


def test_columns_of_a_sum_over_the_limit_are_refused(refuses):
    stage = {"columns": None, "fill": False, "n_features": 2**20, "scale": False}
    description, _ = parts(GOLDEN.read_bytes())
    description |= {
        "classes": None,
        "feature_names": None,
        "ops": [{"inputs": [0] * 17, "kind": "concat"}],
        "stage": stage | {"wide": False},
    }
    refuses(build(description, []), "columns wide")


def test_a_file_cut_while_it_is_read_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "m"
    golden_model().save(path)
    fstat = os.fstat

    def then_cut(handle):
        status = fstat(handle)
        os.truncate(path, 2000)
        return status

    monkeypatch.setattr(os, "fstat", then_cut)
    with pytest.raises(ModelFormatError, match="cut while it was read"):
        SparseModel.load(path)


PEAK = """
    import re, sys
    from sklearn_sparse_nn.exceptions import ModelFormatError
    from sklearn_sparse_nn.runtime.file.format import read_model

    def memory(what):  # not ru_maxrss: it begins with the parent's peak
        status = open("/proc/self/status").read()
        return 1024 * int(re.search(what + r":\\s+(\\d+) kB", status)[1])

    def keep(graph, **arguments):  # the reader alone: kernels pack a copy of their own
        return graph

    read_model(sys.argv[1], keep)  # what the first load imports is not the file's
    open("/proc/self/clear_refs", "w").write("5")  # forget the peak until now
    before = memory("VmRSS")
    try:
        model = read_model(sys.argv[2], keep)
        found = "loaded"
    except ModelFormatError:
        found = "refused"
    print(found, memory("VmHWM") - before)
"""


def peak_of(path):
    """Load a file in a process of its own; what happened, and the memory it took."""
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PEAK), str(GOLDEN), str(path)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    found, peak = run.stdout.split()
    if os.environ.get("SHOW"):
        print(found, int(peak) / path.stat().st_size, path.stat().st_size)
    return found, int(peak)


def big(n_out, n_in, per_row):
    columns = np.tile(np.arange(per_row, dtype=np.int32), n_out)
    starts = np.arange(n_out + 1, dtype=np.int32) * per_row
    data = np.ones(n_out * per_row, dtype=np.float32)
    w = sparse.csr_array((data, columns, starts), shape=(n_out, n_in))
    return SparseModel(Graph(InputStage(n_in), (Linear(0, w, np.zeros(n_out)),)))


@pytest.mark.parametrize(
    ("n_out", "n_in", "per_row"),
    [(1000, 8000, 8000), (100, 70_000, 60_000), (6_000_000, 3, 0), (2_500_000, 3, 1)],
    ids=["U16", "I32", "starts", "short rows"],
)
def test_loading_takes_less_than_twice_the_file(tmp_path, n_out, n_in, per_row):
    path = tmp_path / "m"
    big(n_out, n_in, per_row).save(path)
    size = path.stat().st_size
    assert 30e6 < size < 80e6
    found, peak = peak_of(path)
    assert (found, peak < 2 * size) == ("loaded", True), peak / size
    raw = bytearray(path.read_bytes())
    for seal in (False, True):  # the last column of the last row, or the last start
        at = -2 if n_in <= 2**16 and per_row else -1
        raw[at] ^= 0x40
        path.write_bytes(sealed(bytes(raw)) if seal else raw)
        found, peak = peak_of(path)
        assert (found, peak < 2 * size) == ("refused", True), peak / size
        raw[at] ^= 0x40


def test_an_input_stage_takes_less_than_twice_the_file(tmp_path):
    n = 1_500_000
    vector = np.ones(n)
    stage = InputStage(n, np.arange(n), vector, vector, vector)
    w = sparse.csr_array((1, n), dtype=np.float32)
    path = tmp_path / "m"
    SparseModel(Graph(stage, (Linear(0, w, [0.0]),))).save(path)
    found, peak = peak_of(path)
    size = path.stat().st_size
    assert (found, peak < 2 * size) == ("loaded", True), peak / size


@pytest.mark.parametrize("part", ["[],", "{},", '"ab",', "0.1,", "1234,"])
def test_text_takes_bounded_memory(tmp_path, part):
    room = 2**22 - 100
    n = min(room // len(part), 250_000 if part[0] in "[{" else room)
    text = '{"checksum":"' + "0" * 64 + '","format":[' + part * (n - 1) + "1]}"
    path = tmp_path / "m"
    path.write_bytes(build(None, [], text=text))
    found, peak = peak_of(path)
    assert (found, peak < 120e6) == ("refused", True), peak


def test_lengths_that_lie_allocate_nothing(tmp_path):
    path = tmp_path / "m"
    raw = GOLDEN.read_bytes()
    path.write_bytes((2**40).to_bytes(8, "little") + raw[8:])
    assert peak_of(path)[1] < 2e6
    path.write_bytes(changed(["ops", 0, "nnz"], 2**40))
    assert peak_of(path)[1] < 2e6
