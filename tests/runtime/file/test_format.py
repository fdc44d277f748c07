"""A damaged or future file is refused or is the same model (invariant 26)."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import numpy as safetensors
from safetensors import safe_open

from sklearn_sparse_nn.exceptions import ModelFormatError
from sklearn_sparse_nn.runtime import SparseModel
from sklearn_sparse_nn.runtime.activations import ACTIVATIONS
from sklearn_sparse_nn.runtime.file import format, schema
from sklearn_sparse_nn.runtime.graph import (
    MAX_WIDTH,
)
from tests.runtime.file.file_models import (
    contents,
    golden_model,
    models,
    parts,
    sealed,
)

GOLDEN = Path(__file__).parent / "golden" / "format-1.safetensors"


def test_the_first_format_is_read_for_ever():
    assert GOLDEN.stat().st_size < 3000
    model = SparseModel.load(GOLDEN)
    assert contents(model) == contents(golden_model())
    X = [[1, 2, 3, 4], [np.nan, 0, 0, -1]]
    expected = [[-3.09130168, 0.5], [17.20403862, 0.5]]
    np.testing.assert_allclose(model.forward(X), expected, rtol=1e-5)
    assert model.predict(X).tolist() == ["yes", "no"]


def test_it_is_written_now_as_it_was_then(tmp_path):
    golden_model().save(tmp_path / "m")
    assert (tmp_path / "m").read_bytes() == GOLDEN.read_bytes()


@settings(max_examples=50, deadline=None)
@given(models())
def test_the_bytes_are_those_that_safetensors_would_write(tmp_path_factory, model):
    path = tmp_path_factory.getbasetemp() / "oracle"
    model.save(path)
    arrays = safetensors.load_file(path)
    with safe_open(path, framework="np") as file:
        metadata = file.metadata()
    assert safetensors.save(arrays, metadata) == path.read_bytes()


def test_a_file_cut_at_any_byte_is_refused(load):
    raw = GOLDEN.read_bytes()
    for n in range(len(raw)):
        with pytest.raises(ModelFormatError):
            load(raw[:n])
    with pytest.raises(ModelFormatError):
        load(raw + b"\0")


def test_a_file_with_any_bit_flipped_is_refused(load):
    raw = bytearray(GOLDEN.read_bytes())
    for i in range(len(raw)):
        for bit in range(8):
            raw[i] ^= 1 << bit
            with pytest.raises(ModelFormatError):
                load(bytes(raw))
            raw[i] ^= 1 << bit


def test_any_byte_changed_under_a_valid_checksum_is_refused_or_a_sound_model(load):
    # The header is determined by what it says, so only the arrays may change.
    raw = bytearray(GOLDEN.read_bytes())
    rng = np.random.default_rng(0)
    loaded = 0
    for i in range(len(raw)):
        old = raw[i]
        for new in {0, 0x7F, 0x80, 0xFF, old ^ 1, int(rng.integers(256))} - {old}:
            raw[i] = new
            try:
                model = load(sealed(bytes(raw)))
            except ModelFormatError:
                continue
            loaded += 1
            with np.errstate(all="ignore"):
                model.predict(np.zeros((1, 4)))
        raw[i] = old
    assert loaded > 50


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_noise_is_refused(tmp_path_factory, noise):
    path = tmp_path_factory.getbasetemp() / "noise"
    for raw in (noise, GOLDEN.read_bytes()[:60] + noise):
        path.write_bytes(raw)
        with pytest.raises(ModelFormatError):
            SparseModel.load(path)


def test_pickles_and_other_safetensors_files_are_refused(tmp_path, refuses):
    import pickle

    refuses(pickle.dumps(golden_model()), "does not begin as a model file")
    refuses(safetensors.save({"a": np.zeros(9)}, {"a": "b" * 99}), "not a model file")


# The documentation is about the file that is there.


DOCS = (Path(__file__).parents[3] / "docs" / "format.md").read_text()


def block(language):
    """Give the first block of code of a language in the documentation."""
    return DOCS.split(f"```{language}\n")[1].split("```")[0]


def test_the_documented_example_is_the_golden_file():
    description, arrays = parts(GOLDEN.read_bytes())
    assert json.loads(block("json")) == description
    table = DOCS.split("Its arrays:\n\n```\n")[1].split("```")[0]
    assert table.splitlines() == [
        f"{name:14} {code:4} {shape!s:4} "
        f"{np.frombuffer(raw, schema.TYPES[code]).tolist()}"
        for name, code, shape, raw in arrays
    ]
    assert "2,058 bytes" in DOCS
    assert GOLDEN.stat().st_size == 2058
    assert GOLDEN.read_bytes()[62:126].decode() == description["checksum"]


def test_the_documented_reader_reads():
    found = {"path": GOLDEN}
    exec(block("python"), found)
    assert found["model"]["needs"] == "sklearn-sparse-nn 0.1"
    assert found["indptr"].tolist() == [0, 2, 2, 4, 6]


def test_the_documented_limits_and_names_are_those_of_the_code():
    for limit in (
        schema.MAX_TEXT,
        schema.MAX_BRACKETS,
        schema.MAX_OPS,
        MAX_WIDTH,
        format._MAX_HEADER,
    ):
        assert f"{limit:,}" in DOCS
    for name in (*ACTIVATIONS, *schema._OPS, *schema.TYPES):
        assert name in DOCS
    assert ", ".join(schema.TYPES) in " ".join(DOCS.split())
    for key in parts(GOLDEN.read_bytes())[0]:
        assert f"`{key}`" in DOCS
