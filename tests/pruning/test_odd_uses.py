"""Uses of a pruner that are unusual, and lawful all the same."""

import pickle
import threading
import tracemalloc

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from skorch.callbacks import Callback, Checkpoint, EpochScoring, LRScheduler
from skorch.dataset import ValidSplit

from sklearn_sparse_nn import PrunedClassifier, TabularNetClassifier
from tests.pruning.nets import Embedded, own_net, small

QUICK = {
    "sparsity": 0.6,
    "allocation": "uniform",
    "n_steps": 2,
    "prune_epochs": 2,
    "finetune_epochs": 1,
    "random_state": 0,
}


def test_transform_in_threads_gives_the_serial_rows(classes):
    X, y = classes
    pruner = PrunedClassifier(small(), **QUICK).fit(X, y)
    blocks = [X[:50], X[50:], -X, np.tile(X, (20, 1))]
    expected = [pruner.transform(block).toarray() for block in blocks]
    wrong = []

    def work(i):
        for _ in range(25):
            if not np.array_equal(pruner.transform(blocks[i]).toarray(), expected[i]):
                wrong.append(i)
            pruner.predict(blocks[i])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_threads_that_predict_and_report_disturb_no_fit(classes):
    """Fits of a user's net in one thread; predictions and reports in others."""
    X, y = classes
    pruner = PrunedClassifier(own_net(), **QUICK).fit(X, y)
    other = PrunedClassifier(small(), **QUICK).fit(X, y)
    expected = pruner.transform()["first"].toarray(), other.predict_proba(X)
    done, errors = threading.Event(), []

    def disturb(of):
        while not done.is_set():
            try:
                of.report()
                of.transform(X[:5])
                if not np.array_equal(other.predict_proba(X), expected[1]):
                    errors.append("other predictions")
                pruner.predict(X[:5])
            except Exception as error:
                errors.append(error)

    threads = [threading.Thread(target=disturb, args=(p,)) for p in (pruner, other)]
    for thread in threads:
        thread.start()
    fits = [PrunedClassifier(own_net(), **QUICK).fit(X, y) for _ in range(5)]
    done.set()
    for thread in threads:
        thread.join()
    assert errors == []
    for fit in fits:
        assert np.array_equal(fit.transform()["first"].toarray(), expected[0])


def test_randomness_in_a_users_function_follows_the_seed(classes):
    def by_chance(weight):
        return torch.rand_like(weight)

    before = torch.random.get_rng_state()
    pruner = PrunedClassifier(small(), importance=by_chance, **QUICK)
    one = pruner.fit(*classes).masks_
    two = pruner.fit(*classes).masks_
    assert all(np.array_equal(one[name], two[name]) for name in one)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_sparse_rows_are_never_dense_as_a_whole():
    n, width = 6000, 8000
    X = sparse.random(n, width, density=1e-3, format="csr", dtype="f4", random_state=0)
    y = np.arange(n) % 2
    net = TabularNetClassifier((4,), max_epochs=1, batch_size=100)
    dense_bytes = 4 * n * width
    tracemalloc.start()
    pruner = PrunedClassifier(net, **QUICK).fit(X, y)
    pruner.predict(X)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # Predictions take 1024 rows at a time; torch's own memory is not traced.
    assert peak < 0.5 * dense_bytes


def test_no_epoch_at_all_with_early_stopping_and_checkpoints(classes, tmp_path):
    X, y = classes
    none = {**QUICK, "n_steps": 1, "prune_epochs": 0, "finetune_epochs": 0}
    fitted = small(early_stopping=True, random_state=0).fit(X, y)
    for sparsity in (0.6, 0):
        pruner = PrunedClassifier(FrozenEstimator(fitted), **none)
        pruner.set_params(sparsity=sparsity).fit(X, y)
        assert pruner.history_ == []
        for name, mask in pruner.masks_.items():
            before = getattr(fitted.net_.module_, name).weight.detach().numpy()
            after = getattr(pruner.net_.module_, name).weight.detach().numpy()
            assert np.array_equal(after, before * mask)
    net = own_net(
        train_split=ValidSplit(4),
        callbacks=[Checkpoint(dirname=tmp_path, load_best=True)],
    )
    assert PrunedClassifier(net, dense_epochs=0, **none).fit(X, y).sparsity_ > 0.5


def test_the_users_callbacks_are_not_written_to(classes):
    class Counts(Callback):
        def __init__(self, n=0):
            self.n = n

        def on_epoch_end(self, net, **kwargs):
            self.n += 1

    counts = Counts()
    TabularNetClassifier((4,), max_epochs=2, callbacks=[counts]).fit(*classes)
    PrunedClassifier(small(callbacks=[counts]), **QUICK).fit(*classes)
    assert counts.n == 0


def test_frozen_nets_know_their_columns(classes):
    X, y = classes
    frame = pd.DataFrame(X, columns=list("abcdefgh"))
    fitted = small(random_state=0).fit(frame, y)
    with pytest.raises(ValueError, match="feature names should match"):
        PrunedClassifier(FrozenEstimator(fitted), **QUICK).fit(
            frame[list("hgfedcba")], y
        )


@pytest.mark.parametrize("make", [small, own_net], ids=["TabularNet", "skorch"])
def test_duplicate_entries_of_sparse_rows_add_up(classes, make):
    X, y = classes[0].copy(), classes[1]
    X[:, 0] = 2.0
    coo = sparse.coo_array(X)
    twice = sparse.csr_matrix(X.shape, dtype=np.float32)
    rows, columns = coo.coords
    data = np.repeat(coo.data / 2, 2)
    indptr = np.concatenate([[0], np.cumsum(2 * np.bincount(rows, minlength=len(X)))])
    twice = sparse.csr_matrix((data, np.repeat(columns, 2), indptr), shape=X.shape)
    assert not twice.has_canonical_format
    n_stored = twice.nnz
    plain = PrunedClassifier(make(), **QUICK).fit(sparse.csr_matrix(X), y)
    pruner = PrunedClassifier(make(), **QUICK).fit(twice, y)
    assert np.array_equal(pruner.predict_proba(twice), plain.predict_proba(X))
    assert twice.nnz == n_stored


def test_a_fitted_pruner_does_not_follow_changed_parameters():
    rng = np.random.default_rng(0)
    X, y = rng.integers(0, 12, size=(60, 4)), rng.integers(0, 3, size=60)
    pruner = PrunedClassifier(own_net(Embedded), **QUICK).fit(X, y)
    expected = pruner.predict_proba(X)
    pruner.set_params(estimator=None, granularity="block:2x2", sparsity=0.1)
    assert np.array_equal(pruner.predict_proba(X), expected)
    assert list(pruner.transform(format="bsr")) == ["table", "head"]
    assert pruner.transform(X).shape == (60, 5)


@pytest.mark.parametrize("verbose", [True, False])
def test_verbose_may_be_a_bool(classes, capsys, verbose):
    PrunedClassifier(small(verbose=verbose), verbose=verbose, **QUICK).fit(*classes)
    assert bool(capsys.readouterr().out) is verbose


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"layers": []}, "one or more patterns such as 'hidden_0'; got"),
        ({"layers": [0]}, "one or more patterns such as 'hidden_0'; got"),
        ({"sparsity": {}}, "at least one layer pattern"),
        ({"sparsity": {0: 0.5}}, "one or more patterns"),
    ],
)
def test_no_layer_or_no_pattern(classes, parameters, message):
    with pytest.raises(ValueError, match=message):
        PrunedClassifier(small(), **{**QUICK, **parameters}).fit(*classes)


def test_a_checkpoint_does_not_bend_the_learning_rate(classes, tmp_path):
    net = own_net(
        lr=1.0,
        max_epochs=4,
        optimizer=torch.optim.SGD,
        train_split=ValidSplit(4),
        callbacks=[
            Checkpoint(dirname=tmp_path, load_best=True),
            LRScheduler(torch.optim.lr_scheduler.ExponentialLR, gamma=0.5),
        ],
    )
    pruner = PrunedClassifier(net, **QUICK).fit(*classes)
    assert [row["event_lr"] for row in pruner.history_] == [0.5**i for i in range(7)]


class Pickles(Callback):
    def __init__(self, path):
        self.path = path

    def on_epoch_end(self, net, **kwargs):
        self.path.write_bytes(pickle.dumps(net))


def test_a_checkpoint_of_the_whole_net_while_masks_are_held(classes, tmp_path):
    net = own_net(callbacks=[Pickles(tmp_path / "net.pkl")])
    PrunedClassifier(net, **QUICK).fit(*classes)
    loaded = pickle.loads((tmp_path / "net.pkl").read_bytes())
    assert int((loaded.module_.first.weight == 0).sum()) == 77
    loaded.partial_fit(*classes)


def test_a_frozen_something_else_is_refused(classes):
    X, y = classes
    with pytest.raises(TypeError, match="FrozenEstimator around a LogisticRegression"):
        PrunedClassifier(FrozenEstimator(LogisticRegression().fit(X, y))).fit(X, y)


def test_an_importance_that_writes_to_the_weight_changes_nothing(classes):
    plain = PrunedClassifier(small(), **QUICK).fit(*classes)
    writing = PrunedClassifier(small(), importance=lambda w: w.abs_(), **QUICK)
    assert np.array_equal(
        writing.fit(*classes).predict_proba(classes[0]),
        plain.predict_proba(classes[0]),
    )


def test_sample_weight_none_is_no_weight(classes):
    X, y = classes
    assert TabularNetClassifier((4,), max_epochs=1).fit(X, y, sample_weight=None)


def test_a_callback_that_stops_through_a_helper(classes):
    def stop():
        raise KeyboardInterrupt

    class Stops(Callback):
        def on_epoch_end(self, net, **kwargs):
            if len(net.history) == 1:
                stop()

    pruner = PrunedClassifier(own_net(callbacks=[Stops]), **QUICK).fit(*classes)
    assert [row["phase"] for row in pruner.history_].count("dense") == 1


def test_scores_of_any_numeric_type_are_recorded(classes):
    class Records(Callback):
        def on_epoch_end(self, net, **kwargs):
            net.history.record("single", np.float32(0.5))
            net.history.record("my_best", 3)

    scoring = EpochScoring("accuracy", name="acc", on_train=True, lower_is_better=False)
    pruner = PrunedClassifier(own_net(callbacks=[Records, scoring]), **QUICK)
    for row in pruner.fit(*classes).history_:
        assert row["single"] == 0.5
        assert row["my_best"] == 3
        assert 0 <= row["acc"] <= 1
        assert "acc_best" not in row
