"""Compiled code on disk: damaged files are replaced, and read-only ones are used."""

import os
import pickle
import shutil
import threading
import warnings

import pytest

from tests.runtime.graphs import kernels_only

pytestmark = kernels_only


def _make(digest):
    def add(x):
        digest  # noqa: B018
        return x + 1

    return add


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Let numba keep code in folders of this test only, and return the first."""
    from numba.core import caching, config

    tree = caching.InTreeCacheLocator
    monkeypatch.setattr(tree, "get_cache_path", lambda self: str(tmp_path / "tree"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def no_other(monkeypatch):
    """Let there be no folder but the one that is asked for."""
    from numba.core import caching

    kinds = [caching.UserProvidedCacheLocator]
    monkeypatch.setattr(caching.CacheImpl, "_locator_classes", kinds)


def from_disk():
    """Compile a function as another process would; was it on the disk?"""
    from numba import types

    from sklearn_sparse_nn.runtime.kernels.compiling import compiled

    found = compiled(_make, types.int64(types.int64))
    assert found(2) == 3
    return bool(sum(found.stats.cache_hits.values()))


def files(folder, ending):
    return sorted(folder.rglob(f"*.{ending}"))


def only(folder, ending):
    (path,) = files(folder, ending)
    return path


class Bomb:
    """A pickle that does something when it is read."""

    def __reduce__(self):
        return os.mkdir, (os.environ["BOMB"],)


def cut(n):
    return lambda raw: raw[:n] if n >= 0 else raw[: len(raw) + n]


DAMAGE = {
    "empty": lambda raw: b"",
    "garbage": lambda raw: bytes(range(256)) * 9,
    "zeros": lambda raw: bytes(len(raw)),
    "another pickle": lambda raw: pickle.dumps({"a": 1}),
    "a pickle that acts": lambda raw: pickle.dumps(Bomb()),
    "one bit": lambda raw: raw[:-9] + bytes([raw[-9] ^ 4]) + raw[-8:],
    "more": lambda raw: raw + b"\0",
    **{f"cut at {n}": cut(n) for n in (1, 20, 59, 60, 61, 100, -1)},
}


@pytest.mark.parametrize("ending", ["nbi", "nbc"])
@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_file_is_not_executed_and_is_replaced(
    folder, monkeypatch, tmp_path, ending, how
):
    monkeypatch.setenv("BOMB", str(tmp_path / "bomb"))
    assert [from_disk(), from_disk()] == [False, True]
    path = only(folder, ending)
    good = path.read_bytes()
    path.write_bytes(DAMAGE[how](good))
    assert [from_disk(), from_disk()] == [False, True]
    assert path.read_bytes()[:28] == good[:28]
    assert not (tmp_path / "bomb").exists()
    assert len(files(folder, "*")) == 2  # no temporary file is left


def test_an_index_cut_anywhere_is_as_none(folder):
    from sklearn_sparse_nn.runtime.kernels.cache import _read

    from_disk()
    path = only(folder, "nbi")
    whole = path.read_bytes()
    assert _read(str(path)) is not None
    for n in range(len(whole)):
        path.write_bytes(whole[:n])
        assert _read(str(path)) is None, n


def test_files_that_are_missing_or_no_files_are_passed_over(folder):
    assert [from_disk(), from_disk()] == [False, True]
    only(folder, "nbc").unlink()
    assert [from_disk(), from_disk()] == [False, True]
    path = only(folder, "nbi")
    path.unlink()
    assert [from_disk(), from_disk()] == [False, True]
    path.unlink()
    path.mkdir()
    with pytest.warns(UserWarning, match="could not be kept"):
        assert not from_disk()


def test_code_for_another_machine_under_the_same_name_is_not_run(folder):
    """Two machines may write an index at once, and each its code as number 1."""
    from sklearn_sparse_nn.runtime.kernels.cache import KernelCache

    from_disk()
    cache = KernelCache(_make(0))
    (_, kept), *_ = cache._files
    key = next(iter(kept._load_index()))
    name = kept._load_index()[key]
    kept._save_data(name, (("another", *key[1:]), kept._load_data(name)[1]))
    assert [from_disk(), from_disk()] == [False, True]


def test_threads_that_mend_at_once_leave_a_sound_file(folder):
    from_disk()
    for path in [only(folder, "nbi"), only(folder, "nbc")]:
        path.write_bytes(b"")
    threads = [threading.Thread(target=from_disk) for _ in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert from_disk()
    assert len(files(folder, "*")) == 2


def read_only(monkeypatch, folder):
    """Refuse to write into a folder, as the system does; root may write anywhere."""
    import tempfile

    def refuse(*args, dir=None, **kwargs):
        raise PermissionError(13, "Permission denied", dir)

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)


def test_good_code_in_a_folder_that_cannot_be_written_is_used(folder, monkeypatch):
    from_disk()
    read_only(monkeypatch, folder)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert from_disk()


def test_a_folder_that_cannot_be_written_and_is_empty_is_named_once(
    folder, monkeypatch, no_other
):
    read_only(monkeypatch, folder)
    with pytest.warns(UserWarning) as caught:
        assert not from_disk()
    (said,) = [str(warning.message) for warning in caught]
    assert str(folder) in said
    assert "NUMBA_CACHE_DIR" in said
    assert "Every process" in said


@pytest.mark.parametrize("deeper", ["", "deeper"])
def test_a_file_in_the_place_of_the_folder_is_named_once(folder, no_other, deeper):
    from numba.core import config

    folder.write_text("in the way")
    config.CACHE_DIR = str(folder / deeper)
    with pytest.warns(UserWarning) as caught:
        assert not from_disk()
    assert len(caught) == 1
    assert folder.read_text() == "in the way"


def test_another_folder_is_used_and_named_where_the_first_cannot_be(
    folder, tmp_path, monkeypatch
):
    from numba.core import caching

    kinds = [caching.UserProvidedCacheLocator, caching.UserWideCacheLocator]
    monkeypatch.setattr(caching.CacheImpl, "_locator_classes", kinds)
    folder.write_text("in the way")
    with pytest.warns(UserWarning, match=f"kept in {tmp_path / 'home'}.* instead"):
        assert not from_disk()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert from_disk()
    folder.unlink()
    assert [from_disk(), from_disk()] == [False, True]  # in the one that is asked for


def test_a_full_disk_is_named_once_and_leaves_nothing(folder, monkeypatch, no_other):
    from sklearn_sparse_nn.runtime.kernels.cache import _SealedFiles

    def full(self, path, content):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(_SealedFiles, "_write", full)
        with pytest.warns(UserWarning, match="No space left on device") as caught:
            assert not from_disk()
    assert len(caught) == 1
    assert not files(folder, "nb*")
    assert [from_disk(), from_disk()] == [False, True]


def test_a_copy_of_the_folder_is_as_good(folder, tmp_path):
    from numba.core import config

    from_disk()
    shutil.copytree(folder, tmp_path / "copy")
    config.CACHE_DIR = str(tmp_path / "copy")
    assert from_disk()


def test_functions_are_compiled_where_no_folder_of_numba_can_be_written(
    folder, tmp_path, monkeypatch
):
    """Neither the one that is asked for, nor the package's, nor the user's."""
    from numba.core import caching

    def refuse(self):
        raise OSError(30, "Read-only file system", self.get_cache_path())

    monkeypatch.setattr(caching._CacheLocator, "ensure_cache_path", refuse)
    with pytest.warns(UserWarning, match="Read-only file system") as caught:
        assert not from_disk()
    assert len(caught) == 1
    assert not list(tmp_path.rglob("*.nb?"))
