"""A save is whole or nothing, and what is saved is loaded (invariants 25, 27)."""

import errno
import os
import pickle
import stat
import subprocess
import sys
import textwrap
import threading
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from scipy import sparse

from sklearn_sparse_nn.exceptions import ModelFormatError
from sklearn_sparse_nn.runtime import SparseModel
from sklearn_sparse_nn.runtime.file import format
from sklearn_sparse_nn.runtime.graph import Graph, InputStage, Linear
from tests.runtime.file.file_models import contents, golden_model, models, weight


def python(script, *args, **kwargs):
    """Run a script in another process; its last line."""
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, args)],
        capture_output=True,
        text=True,
        **kwargs,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


@settings(max_examples=300, deadline=None)
@given(models())
def test_a_saved_model_is_loaded_bit_for_bit(tmp_path_factory, model):
    path = tmp_path_factory.getbasetemp() / "round.trip"
    model.save(path)
    loaded = SparseModel.load(path, n_threads=2)
    assert contents(loaded) == contents(model)
    assert loaded.n_threads == 2
    X = np.linspace(-2, 2, 3 * model.n_features_in_, dtype=np.float32).reshape(3, -1)
    with np.errstate(all="ignore"):
        assert loaded.forward(X).tobytes() == model.forward(X).tobytes()
    first = path.read_bytes()
    loaded.save(path)
    assert path.read_bytes() == first


@pytest.mark.parametrize("copy", [deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_are_read_only_too(copy):
    model = copy(golden_model())
    assert contents(model) == contents(golden_model())
    for csr in model.weights.values():
        with pytest.raises(ValueError, match="read-only"):
            csr.data[0] = 1
    for op in model.graph.layers:
        with pytest.raises(ValueError, match="read-only"):
            op.bias[0] = 1


def test_wide_layers_have_wide_indices(tmp_path):
    for n_in, code in ((65_536, "U16"), (65_537, "I32")):
        w = sparse.csr_array(
            (np.ones(2, np.float32), np.array([0, n_in - 1]), np.array([0, 2])),
            shape=(1, n_in),
        )
        model = SparseModel(Graph(InputStage(n_in), (Linear(0, w, [0.0]),)))
        path = tmp_path / code
        model.save(path)
        assert f'"0.indices":{{"dtype":"{code}"'.encode() in path.read_bytes()
        assert SparseModel.load(path).forward(np.ones((1, n_in)))[0, 0] == 2


def test_arrays_in_any_layout_are_saved_as_they_read(tmp_path):
    # safetensors saves the memory of an array that is not contiguous
    rng = np.random.default_rng(0)
    stage = InputStage(4, shift=rng.normal(size=8)[::2], scale=np.arange(8, 0, -2.0))
    classes = np.array([5, 9, 7, 9])[::2]
    graph = Graph(stage, (Linear(0, weight(rng, 2, 4), rng.normal(size=4)[::2]),))
    model = SparseModel(graph, classes=classes, output="softmax")
    model.save(tmp_path / "m")
    assert contents(SparseModel.load(tmp_path / "m")) == contents(model)


def test_the_same_model_gives_the_same_bytes_in_another_process(tmp_path):
    golden_model().save(tmp_path / "here")
    script = """
        import sys
        from tests.runtime.file.file_models import golden_model
        golden_model().save(sys.argv[1])
    """
    env = os.environ | {"PYTHONHASHSEED": "7"}
    python(script, tmp_path / "there", env=env)
    assert (tmp_path / "here").read_bytes() == (tmp_path / "there").read_bytes()


def test_strings_and_paths_are_taken(tmp_path):
    golden_model().save(str(tmp_path / "m"))
    SparseModel.load(str(tmp_path / "m"))
    SparseModel.load(os.fsdecode(os.fsencode(tmp_path / "m")))


def test_no_file_and_a_folder_are_the_systems_own_errors(tmp_path):
    with pytest.raises(FileNotFoundError):
        SparseModel.load(tmp_path / "none")
    with pytest.raises(IsADirectoryError):
        SparseModel.load(tmp_path)
    with pytest.raises(FileNotFoundError):
        golden_model().save(tmp_path / "none" / "m")
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        golden_model().save(tmp_path / "folder")
    assert os.listdir(tmp_path) == ["folder"]


def test_a_pipe_does_not_hang_the_reader(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ModelFormatError, match="not a regular file"):
        SparseModel.load(tmp_path / "pipe")


def test_a_bad_number_of_threads_is_not_the_files_fault(tmp_path):
    golden_model().save(tmp_path / "m")
    with pytest.raises(ValueError, match="n_threads") as caught:
        SparseModel.load(tmp_path / "m", n_threads=0)
    assert not isinstance(caught.value, ModelFormatError)


@pytest.mark.parametrize(
    "classes",
    [
        np.array(["2020-01-01", "2020-01-02"], dtype="datetime64[D]"),
        np.array([b"a", b"b"]),
        np.array([1, 2], dtype=">i4"),
        np.array([1, 2], dtype=np.complex64),
        np.array([1, 2], dtype=np.longdouble),
        np.array(["a", 1], dtype=object),
        np.array(["a", "b"], dtype=">U1"),
        np.array(["a", "b"], dtype="U3000000"),
        np.array([0.0, np.nan]),
    ],
    ids=lambda c: f"{c.dtype.kind}{c.dtype.itemsize}{c.dtype.byteorder}",
)
def test_classes_that_a_file_cannot_hold_are_refused_at_save(tmp_path, classes):
    graph = Graph(
        InputStage(2), (Linear(0, weight(np.random.default_rng(0), 2, 2), [0, 0]),)
    )
    model = SparseModel(graph, classes=classes, output="softmax")
    with pytest.raises(ValueError, match=r"[Cc]lass|label"):
        model.save(tmp_path / "m")
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"feature_names": [1, 2]}, "feature name must be a string"),
        ({"feature_names": ["x" * 2**22, ""]}, "more than"),
        ({"feature_names": ["[" * 2**19, ""]}, "brackets"),
    ],
)
def test_what_could_not_be_read_again_is_refused_at_save(tmp_path, change, match):
    graph = Graph(
        InputStage(2), (Linear(0, weight(np.random.default_rng(0), 1, 2), [0]),)
    )
    with pytest.raises(ValueError, match=match):
        SparseModel(graph, **change).save(tmp_path / "m")
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o000])
def test_the_mode_follows_the_umask_not_the_old_file(tmp_path, mask):
    path = tmp_path / "m"
    path.write_bytes(b"old")
    path.chmod(0o600)
    before = os.umask(mask)
    try:
        golden_model().save(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask


@pytest.mark.parametrize("make", ["fifo", "loop", "folder", "slash"])
def test_only_ordinary_files_are_replaced(tmp_path, make):
    path = tmp_path / "model"
    if make == "fifo":
        os.mkfifo(path)
    elif make == "loop":
        path.symlink_to(path)
    elif make == "folder":
        path.mkdir()
    before = os.lstat(path).st_ino if make != "slash" else None
    with pytest.raises(OSError, match=r"A model is saved in an? (ordinary )?file"):
        golden_model().save(f"{path}/" if make == "slash" else path)
    assert (os.lstat(path).st_ino if make != "slash" else None) == before
    assert len(list(tmp_path.iterdir())) == (make != "slash")


def test_a_link_goes_on_pointing_to_the_file(tmp_path):
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")
    golden_model().save(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert contents(SparseModel.load(tmp_path / "real")) == contents(golden_model())


def test_a_name_may_be_as_long_as_names_may_be(tmp_path):
    golden_model().save(tmp_path / ("m" * 255))
    SparseModel.load(tmp_path / ("m" * 255))


@pytest.mark.parametrize(
    ("module", "name", "error"),
    [
        (os, "fsync", OSError(errno.ENOSPC, "No space left on device")),
        (os, "open", PermissionError(errno.EACCES, "Permission denied")),
        (os, "replace", OSError(errno.EIO, "Input/output error")),
        (format, "_write", MemoryError()),
        (format, "_compare", KeyboardInterrupt()),
    ],
    ids=["full", "read-only", "replace", "memory", "interrupted"],
)
def test_a_save_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path, monkeypatch, module, name, error
):
    path = tmp_path / "m"
    golden_model().save(path)
    old = path.read_bytes()

    def fail(*args, **kwargs):
        raise error

    other = golden_model().with_threads(2)
    other.__dict__["head"] = replace(other.head, target_mean=5.0)
    with monkeypatch.context() as patch:
        patch.setattr(module, name, fail)
        with pytest.raises(type(error)):
            other.save(path)
    assert path.read_bytes() == old
    assert os.listdir(tmp_path) == ["m"]


def test_a_limit_on_file_sizes_is_a_full_disk(tmp_path):
    golden_model().save(tmp_path / "m")
    script = """
        import os, resource, signal, sys
        import numpy as np
        from scipy import sparse
        from sklearn_sparse_nn.runtime import SparseModel
        from sklearn_sparse_nn.runtime.graph import Graph, InputStage, Linear

        w = sparse.csr_array(np.ones((200, 200), dtype=np.float32))
        model = SparseModel(Graph(InputStage(200), (Linear(0, w, np.zeros(200)),)))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            model.save(sys.argv[1])
        except OSError as error:
            print(error.errno)
    """
    assert python(script, tmp_path / "m") == str(errno.EFBIG)
    assert contents(SparseModel.load(tmp_path / "m")) == contents(golden_model())
    assert os.listdir(tmp_path) == ["m"]


def test_a_disk_that_loses_a_byte_is_found_out(tmp_path, monkeypatch):
    write = format._write

    def lose(path, start, arrays):
        write(path, start, arrays)
        with open(path, "r+b") as file:
            file.seek(-1, os.SEEK_END)
            file.write(b"\x55")

    monkeypatch.setattr(format, "_write", lose)
    with pytest.raises(OSError, match="does not read as it was written"):
        golden_model().save(tmp_path / "m")
    assert not os.listdir(tmp_path)


KILLS = """
    import os, random, signal, sys, time
    import numpy as np
    from scipy import sparse
    from sklearn_sparse_nn.exceptions import ModelFormatError
    from sklearn_sparse_nn.runtime import SparseModel
    from sklearn_sparse_nn.runtime.graph import Graph, InputStage, Linear

    def model(seed):
        w = np.random.default_rng(seed).normal(size=(60, 60)).astype(np.float32)
        w = sparse.csr_array(w)
        return SparseModel(Graph(InputStage(60), (Linear(0, w, np.zeros(60)),)))

    path, n_kills, how = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    two = [model(0), model(1)]
    expected = []
    for each in two:
        each.save(path)
        expected.append(open(path, "rb").read())

    def save(i):
        if how == "atomic":
            two[i].save(path)
            return
        with open(path, "wb", buffering=0) as file:  # the twin, as many write files
            file.write(expected[i][:1000])
            os.fsync(file.fileno())
            file.write(expected[i][1000:])

    waits, seen, cut, broken = random.Random(0), [0, 0], 0, 0
    for kill in range(n_kills):
        child = os.fork()
        if not child:
            while True:
                save(0)
                save(1)
        time.sleep(waits.uniform(0, 0.03))
        os.kill(child, 9)
        os.waitpid(child, 0)
        try:
            found = SparseModel.load(path).weights["linear_0"].data
        except ModelFormatError:
            broken += 1
            continue
        same = [found.tobytes() == m.weights["linear_0"].data.tobytes() for m in two]
        assert sum(same) == 1, same
        seen[same.index(True)] += 1
        left = [n for n in os.listdir(os.path.dirname(path)) if n.endswith(".tmp")]
        cut += len(left)
        for name in left:  # what only a killed process leaves
            os.unlink(os.path.join(os.path.dirname(path), name))
    print(*seen, cut, broken)
"""


def test_500_kills_leave_the_old_model_or_the_new_one(tmp_path):
    found = python(KILLS, tmp_path / "m", 500, "atomic")
    first, second, cut, broken = map(int, found.split())
    assert broken == 0
    assert first + second == 500
    assert min(first, second) > 10  # it was killed in saves of either,
    assert cut > 10  # and in the midst of them


def test_kills_break_a_file_that_is_written_in_place(tmp_path):
    found = python(KILLS, tmp_path / "m", 100, "in place")
    assert int(found.split()[-1]) > 5


def test_two_threads_save_over_each_other(tmp_path):
    path, errors = tmp_path / "m", []
    one, two = golden_model(), golden_model().with_threads(1)
    two.__dict__["head"] = replace(two.head, target_mean=5.0)

    def save(model):
        try:
            for _ in range(50):
                model.save(path)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=save, args=(m,)) for m in (one, two)]
    [t.start() for t in threads]
    while any(t.is_alive() for t in threads):
        if path.exists():
            SparseModel.load(path)
    [t.join() for t in threads]
    assert not errors
    assert os.listdir(tmp_path) == ["m"]


def test_load_and_predict_leave_the_heavy_packages_alone(tmp_path):
    golden_model().save(tmp_path / "m")
    script = """
        import sys
        import sklearn_sparse_nn.runtime as runtime
        model = runtime.SparseModel.load(sys.argv[1])
        model.predict([[1, 2, 3, 4]]), model.predict_proba([[1, 2, 3, 4]])
        repr(model), model._repr_html_(), model.cost(), model.save(sys.argv[1])
        heavy = {"torch", "skorch", "sklearn", "joblib", "pandas", "safetensors"}
        print(sorted(heavy & set(sys.modules)))
    """
    assert python(script, tmp_path / "m") == "[]"
