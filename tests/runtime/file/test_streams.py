"""The places that a model is saved to and loaded from, and the errors of the others."""

import gzip
import io
import os
import pathlib
import tarfile
import tempfile
import zipfile

import pytest

from sklearn_sparse_nn.exceptions import ModelFormatError
from sklearn_sparse_nn.runtime import SparseModel
from tests.runtime.file.file_models import contents, golden_model

CONTENT = (
    pathlib.Path(__file__).parent / "golden" / "format-1.safetensors"
).read_bytes()


class Slow:
    """Nothing but read and write, a few bytes at a time."""

    def __init__(self, content=b""):
        self.content, self.at = bytearray(content), 0

    def read(self, n):
        piece = bytes(self.content[self.at : self.at + min(n, 7)])
        self.at += len(piece)
        return piece

    def write(self, piece):
        self.content += piece[:7]
        return min(len(piece), 7)


class Whole:
    """A read without a number, and a write without a result."""

    def __init__(self, content=b""):
        self.parts = [content]

    def read(self):
        parts, self.parts = self.parts, []
        return b"".join(parts)

    def write(self, piece):
        self.parts.append(piece)


class Named(os.PathLike):
    def __init__(self, name):
        self.name = name

    def __fspath__(self):
        return self.name


def sound(model):
    return contents(model) == contents(golden_model())


@pytest.mark.parametrize(
    "make",
    [bytes, bytearray, memoryview, io.BytesIO, Slow, Whole],
    ids=lambda make: make.__name__,
)
def test_content_is_loaded_from_memory(make):
    assert sound(SparseModel.load(make(CONTENT)))
    with pytest.raises(ModelFormatError, match=f"A {make.__name__} .*is damaged"):
        SparseModel.load(make(CONTENT[:-1] + b"\1"))


@pytest.mark.parametrize("make", [io.BytesIO, Slow, Whole])
def test_a_file_object_gets_the_whole_content(make):
    file = make()
    golden_model().save(file)
    if make is io.BytesIO:
        assert not file.closed
        file.seek(0)
    read = file.read if make is Whole else lambda: file.read(999)
    assert b"".join(iter(read, b"")) == CONTENT


def test_open_files_are_written_and_read_from_where_they_stand(tmp_path):
    for buffering in (0, -1):
        with open(tmp_path / "m", "w+b", buffering=buffering) as file:
            file.write(b"before")
            golden_model().save(file)
            file.seek(6)
            assert sound(SparseModel.load(file))
            assert not file.closed
    assert (tmp_path / "m").read_bytes() == b"before" + CONTENT


def test_archives_and_pipes_need_no_seek(tmp_path):
    with zipfile.ZipFile(tmp_path / "z", "w") as archive:
        with archive.open("m", "w") as file:
            golden_model().save(file)
        archive.close()
    with zipfile.ZipFile(tmp_path / "z") as archive, archive.open("m") as file:
        assert sound(SparseModel.load(file))
    with tarfile.open(tmp_path / "t", "w") as archive:
        archive.add(tmp_path / "z", "z")
        archive.addfile(info := tarfile.TarInfo("m"), io.BytesIO(b""))
        info.name, info.size = "n", len(CONTENT)
        archive.addfile(info, io.BytesIO(CONTENT))
    with tarfile.open(tmp_path / "t", "r|") as archive:
        member = next(member for member in archive if member.name == "n")
        assert sound(SparseModel.load(archive.extractfile(member)))
    with gzip.open(tmp_path / "g", "wb") as file:
        golden_model().save(file)
    with gzip.open(tmp_path / "g") as file:
        assert sound(SparseModel.load(file))
    ends = os.pipe()
    with os.fdopen(ends[1], "wb", 0) as file:
        golden_model().save(file)
    with os.fdopen(ends[0], "rb", 0) as file:
        assert sound(SparseModel.load(file))
    with tempfile.NamedTemporaryFile() as file:
        golden_model().save(file)
        file.flush()
        assert sound(SparseModel.load(file.name))


def test_names_are_strings_or_paths_and_bytes_only_to_save(tmp_path):
    name = str(tmp_path / "m")
    for path in (name, os.fsencode(name), Named(name), Named(os.fsencode(name))):
        golden_model().save(path)
        if not isinstance(path, bytes):
            assert sound(SparseModel.load(path))
        os.unlink(name)
    with pytest.raises(ModelFormatError, match=r"content, never a name.*os\.fsdecode"):
        SparseModel.load(os.fsencode(name))


@pytest.mark.parametrize("n", [0, 1, 7, 8, 100, 1500, len(CONTENT) - 1])
@pytest.mark.parametrize("make", [bytes, io.BytesIO, Slow])
def test_content_that_is_cut_is_refused(make, n):
    with pytest.raises(ModelFormatError, match=r"cut|damaged|is empty"):
        SparseModel.load(make(CONTENT[:n]))


@pytest.mark.parametrize("make", [bytes, io.BytesIO, Slow])
def test_content_that_goes_on_is_refused(make):
    with pytest.raises(ModelFormatError, match="bytes instead of 2058"):
        SparseModel.load(make(CONTENT + b"\0" * 9))


def test_a_stream_without_end_is_not_read_to_its_end():
    class Endless(Slow):
        def read(self, n):
            return super().read(n) or b"\1" * n

    with pytest.raises(ModelFormatError, match="2059 or more bytes"):
        SparseModel.load(Endless(CONTENT))


def test_a_file_that_was_read_or_holds_nothing_is_said_to_be_empty(tmp_path):
    file = io.BytesIO()
    golden_model().save(file)
    with pytest.raises(ModelFormatError, match=r"is empty from where.*seek\(0\)"):
        SparseModel.load(file)
    (tmp_path / "m").touch()
    with pytest.raises(
        ModelFormatError, match=r"m' is no usable model: It is empty\.$"
    ):
        SparseModel.load(tmp_path / "m")


@pytest.mark.parametrize("binary", [False, True])
def test_a_closed_file_is_no_damaged_one(binary):
    file = io.BytesIO(CONTENT) if binary else io.StringIO("x")
    file.close()
    for use in (SparseModel.load, golden_model().save):
        with pytest.raises(ValueError, match="is closed; give one that is open") as got:
            use(file)
        assert not isinstance(got.value, ModelFormatError)


class Texts:
    def read(self, n):
        return "text"

    def write(self, piece):
        raise TypeError("str expected")


@pytest.mark.parametrize("kind", ["StringIO", "open", "temporary", "object"])
def test_a_file_for_text_is_refused_by_that_name(tmp_path, kind):
    (tmp_path / "m").write_bytes(CONTENT + b"\xff")
    file = {
        "StringIO": lambda: io.StringIO("text"),
        "open": lambda: (tmp_path / "m").open("r+", encoding="utf-8"),
        "temporary": lambda: tempfile.NamedTemporaryFile("w+"),  # noqa: SIM115
        "object": Texts,
    }[kind]()
    if kind == "temporary":
        file.write("text")
        file.seek(0)
    for use in (SparseModel.load, golden_model().save):
        with pytest.raises(TypeError, match="binary mode"):
            use(file)
    getattr(file, "close", int)()


@pytest.mark.parametrize("other", [None, 3, ["m"], 1.5])
def test_what_is_no_place_is_refused(other):
    with pytest.raises(TypeError, match=r"loaded from a name .* got a"):
        SparseModel.load(other)
    with pytest.raises(TypeError, match=r"saved to a name .* got a"):
        golden_model().save(other)


def test_a_file_object_of_the_other_direction_is_the_systems_own_error(tmp_path):
    with open(tmp_path / "m", "wb") as file, pytest.raises(io.UnsupportedOperation):
        SparseModel.load(file)
    with open(tmp_path / "m", "rb") as file, pytest.raises(io.UnsupportedOperation):
        golden_model().save(file)


def test_a_file_object_that_takes_no_more_is_an_error():
    class Full(Slow):
        def write(self, piece):
            return 0 if len(self.content) > 500 else super().write(piece)

    with pytest.raises(OSError, match="takes no more bytes"):
        golden_model().save(Full())


@pytest.mark.parametrize("name", ["none/m", "file/m", "m" * 300])
def test_errors_name_the_path_of_the_caller_alone(tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pathlib.Path("file").write_bytes(b"")
    with pytest.raises(OSError, match=f": '{name}'$") as got:
        golden_model().save(name)
    assert got.value.filename == name
    assert os.listdir() == ["file"]
