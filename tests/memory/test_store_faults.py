"""Stores that are damaged, full, read-only or cut short."""

import errno
import os
import threading
import warnings

import joblib
import pytest
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from skorch.callbacks import Callback

from sklearn_sparse_nn import (
    PrunedClassifier,
)
from sklearn_sparse_nn.exceptions import DivergedTrainingError
from tests.memory.dense_phases import QUICK, bits, outputs
from tests.pruning.nets import small


@pytest.mark.parametrize("damage", ["truncated", "empty", "flipped", "other"])
def test_a_damaged_value_is_trained_anew_with_one_warning(
    classes, tmp_path, trained, damage
):
    pruner = PrunedClassifier(small(), memory=str(tmp_path), **QUICK)
    expected = bits(pruner.fit(*classes))
    (path,) = outputs(tmp_path)
    data = path.read_bytes()
    if damage == "other":
        joblib.dump("something", path)
    else:
        middle = len(data) // 2
        flipped = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
        cut = {"truncated": data[:middle], "empty": b"", "flipped": flipped}
        path.write_bytes(cut[damage])
    with pytest.warns(UserWarning, match="could not be shared") as caught:
        assert bits(pruner.fit(*classes)) == expected
    assert len(caught) == 1
    assert len(trained) == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert bits(pruner.fit(*classes)) == expected  # it was stored again
    assert len(trained) == 2


def test_a_store_that_cannot_be_made_is_warned_of_once(classes, tmp_path, trained):
    (tmp_path / "file").write_text("in the way")
    pruner = PrunedClassifier(small(), **QUICK)
    expected = bits(pruner.fit(*classes))
    pruner.set_params(memory=str(tmp_path / "file" / "store"))
    with pytest.warns(UserWarning, match="could not be shared") as caught:
        for _ in range(3):
            assert bits(pruner.fit(*classes)) == expected
    assert len(caught) == 1
    assert len(trained) == 4


def test_a_full_disk_is_warned_of_once(classes, tmp_path, trained, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    pruner = PrunedClassifier(small(), **QUICK)
    expected = bits(pruner.fit(*classes))
    monkeypatch.setattr("joblib.numpy_pickle.dump", full)
    pruner.set_params(memory=str(tmp_path))
    with pytest.warns(UserWarning, match="No space left") as caught:
        for _ in range(2):
            assert bits(pruner.fit(*classes)) == expected
    assert len(caught) == 1
    assert len(trained) == 3
    monkeypatch.undo()


def test_a_read_only_store_is_read_and_not_written(
    classes, tmp_path, trained, monkeypatch
):
    def refuse(*args, **kwargs):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    pruner = PrunedClassifier(small(), memory=str(tmp_path), **QUICK)
    expected = bits(pruner.fit(*classes))
    # Root may write anywhere, so it is joblib that is kept from it.
    backend = "joblib._store_backends.FileSystemStoreBackend"
    monkeypatch.setattr(f"{backend}.create_location", refuse)
    monkeypatch.setattr("joblib.numpy_pickle.dump", refuse)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert bits(pruner.fit(*classes)) == expected
    assert len(trained) == 1
    with pytest.warns(UserWarning, match="could not be shared") as caught:
        for seed in (5, 6):
            pruner.set_params(random_state=seed).fit(*classes)
    assert len(caught) == 1
    assert len(trained) == 3
    assert len(outputs(tmp_path)) == 1


def test_what_cannot_be_pickled_is_warned_of_once(classes, tmp_path, trained):
    class Begins(Callback):
        def on_train_begin(self, net, **kwargs):
            self.lock = threading.Lock()

    pruner = PrunedClassifier(small(callbacks=[("lock", Begins())]), **QUICK)
    expected = bits(pruner.fit(*classes))
    pruner.set_params(memory=str(tmp_path))
    with pytest.warns(UserWarning, match="could not be shared") as caught:
        for _ in range(2):
            assert bits(pruner.fit(*classes)) == expected
    assert len(caught) == 1
    assert len(trained) == 3


class TrainedOnce(Callback):
    count = 0

    def on_train_begin(self, net, **kwargs):
        type(self).count += 1


def test_an_error_of_training_reaches_the_caller_at_once(classes, tmp_path):
    TrainedOnce.count = 0
    net = small(lr=1e30, callbacks=[("once", TrainedOnce())])
    pruner = PrunedClassifier(net, memory=str(tmp_path), **QUICK)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(DivergedTrainingError, match="in the dense phase"):
            pruner.fit(*classes)
    assert TrainedOnce.count == 1
    assert not outputs(tmp_path)


class Interrupts(Callback):
    def on_epoch_end(self, net, **kwargs):
        if len(net.history) == 2:
            os.kill(os.getpid(), 2)


@pytest.mark.skipif(os.name != "posix", reason="sends a signal")
def test_an_interrupted_dense_phase_is_not_stored(classes, tmp_path):
    net = small(callbacks=[("stop", Interrupts())])
    pruner = PrunedClassifier(net, memory=str(tmp_path), **QUICK)
    with pytest.raises(KeyboardInterrupt):
        pruner.fit(*classes)
    assert not outputs(tmp_path)
