"""Nets and uses that are unusual, and lawful all the same."""

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
from sklearn.model_selection import KFold, cross_val_predict
from skorch.callbacks import Callback, Checkpoint, EpochScoring, LRScheduler
from skorch.dataset import ValidSplit
from torch import nn

from sklearn_sparse_nn import PrunedClassifier, PrunedRegressor, TabularNetClassifier
from sklearn_sparse_nn._compat import InvalidParameterError
from tests.pruning.nets import Embedded, Mlp, own_net, own_regressor, small, zeros_of

QUICK = {
    "sparsity": 0.6,
    "allocation": "uniform",
    "n_steps": 2,
    "prune_epochs": 2,
    "finetune_epochs": 1,
    "random_state": 0,
}


class HeadFirst(nn.Module):
    """Lists its last layer first."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(16, 3)
        self.body = nn.Linear(8, 16)

    def forward(self, X):
        return self.head(torch.relu(self.body(X)))


class Helped(nn.Module):
    """Lists a layer last that only training calls."""

    def __init__(self):
        super().__init__()
        self.body = nn.Linear(8, 16)
        self.head = nn.Linear(16, 3)
        self.helper = nn.Linear(16, 3)

    def forward(self, X):
        hidden = torch.relu(self.body(X))
        return self.head(hidden) + (self.helper(hidden) if self.training else 0)


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(8, 8)
        self.last = nn.Linear(8, 3)

    def forward(self, X):
        return self.last(torch.relu(self.first(X)) + X)


@pytest.mark.parametrize("module", [HeadFirst, Helped])
def test_the_last_layer_is_the_one_that_runs_last(classes, module):
    X, y = classes
    pruner = PrunedClassifier(own_net(module), **QUICK).fit(X, y)
    body = pruner.net_.module_.body
    expected = torch.relu(body(torch.from_numpy(X))).detach().numpy()
    assert np.allclose(pruner.transform(X).toarray(), expected, atol=1e-6)
    assert len(pruner.get_feature_names_out()) == 16
    neurons = PrunedClassifier(own_net(module), granularity="neuron", **QUICK)
    assert "head" not in neurons.fit(X, y).masks_


def test_a_layer_called_by_keyword_and_one_that_is_not_called(classes):
    class Odd(Mlp):
        def __init__(self):
            super().__init__()
            self.unused = nn.MultiheadAttention(4, 2)

        def forward(self, X):
            return self.last(input=torch.relu(self.first(X)))

    pruner = PrunedClassifier(own_net(Odd), **QUICK).fit(*classes)
    assert pruner.transform(classes[0]).shape == (120, 16)


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


# torch itself warns about its own parts when the compiler is first loaded.
@pytest.mark.filterwarnings("ignore")
def test_a_compiled_net_transforms_and_refits_after_it_predicted(classes):
    net = own_net(compile=True, compile__backend="eager", max_epochs=1)
    pruner = PrunedClassifier(net, **QUICK).fit(*classes)
    pruner.predict(classes[0])
    assert pruner.transform(classes[0]).shape == (120, 16)
    assert pruner.fit(*classes).transform(classes[0]).shape == (120, 16)


def test_spare_outputs_belong_to_no_class(classes):
    X, y = classes
    order = np.argsort(y, kind="stable")
    pruner = PrunedClassifier(own_net(), **QUICK)
    proba = pruner.fit(X[y < 2], y[y < 2]).predict_proba(X)
    assert proba.shape == (len(X), 2)
    assert np.allclose(proba.sum(1), 1, atol=1e-6)
    assert set(pruner.fit(X[:50], np.full(50, 7)).predict(X)) == {7}
    folds = KFold(3)
    sorted_proba = cross_val_predict(
        pruner, X[order], y[order] % 2, cv=folds, method="predict_proba"
    )
    assert sorted_proba.shape == (len(X), 2)


def test_a_net_that_branches_has_no_path_figures(classes):
    pruner = PrunedClassifier(own_net(Residual), **QUICK).fit(*classes)
    assert not hasattr(pruner, "feature_importances_")
    assert pruner.report()["effective_sparsity"].isna().all()


def test_a_sequential_of_the_user_has_path_figures(classes):
    module = nn.Sequential(
        nn.BatchNorm1d(8),
        nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.1)),
        nn.Linear(16, 3),
    )
    pruner = PrunedClassifier(own_net(module), **QUICK).fit(*classes)
    norm, (body, *_), head = pruner.net_.module_
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    mass = (head.weight.abs() @ body.weight.abs()).sum(0) * scale.abs()
    expected = (mass / mass.sum()).detach().numpy()
    assert np.allclose(pruner.feature_importances_, expected, rtol=1e-5)
    assert pruner.report()["effective_sparsity"].notna().all()


@pytest.mark.parametrize("layer", [nn.LayerNorm(8), nn.Flatten(), nn.Softmax(1)])
def test_steps_that_mix_inputs_have_no_path_figures(classes, layer):
    class Flip(nn.Module):
        def forward(self, X):
            return X.flip(1)

    first = Flip() if isinstance(layer, nn.Softmax) else layer
    module = nn.Sequential(first, nn.Linear(8, 3))
    pruner = PrunedClassifier(own_net(module), **QUICK).fit(*classes)
    assert not hasattr(pruner, "feature_importances_")


def test_a_layer_norm_between_layers_leaves_effective_sparsity_open(classes):
    pruner = PrunedClassifier(small(norm="layer"), **QUICK).fit(*classes)
    assert pruner.feature_importances_.sum() == pytest.approx(1)
    assert pruner.report()["effective_sparsity"].isna().all()


class Remembers(Mlp):
    """Leaves an activation, with its history, in an attribute."""

    def forward(self, X):
        self.hidden = torch.relu(self.first(X))
        return self.last(self.hidden)


def test_a_module_that_keeps_an_activation(classes):
    X, y = classes
    pruner = PrunedClassifier(own_net(Remembers), **QUICK).fit(X, y)
    pruner.report()
    assert pruner.transform(X).shape == (120, 16)
    again = PrunedClassifier(FrozenEstimator(pruner), **QUICK).fit(X, y)
    assert again.sparsity_ == pruner.sparsity_
    assert pickle.loads(pickle.dumps(again)).predict(X).shape == y.shape


def test_a_last_layer_that_sees_no_rows_gives_no_activations(classes):
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.each = nn.Linear(1, 3)

        def forward(self, X):
            return self.each(X.reshape(-1, 1)).reshape(len(X), 8, 3).mean(1)

    pruner = PrunedClassifier(own_net(Tokens), **{**QUICK, "sparsity": 1}).set_params(
        sparsity=0.3
    )
    pruner.fit(*classes)
    with pytest.raises(ValueError, match="960 rows reach it for a batch of 120"):
        pruner.transform(classes[0])


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


def test_a_net_with_a_fit_of_its_own_is_refused(classes):
    class Own(type(own_net())):
        def fit(self, X, y, **kwargs):
            return super().fit(X, y, **kwargs)

    net = Own(Mlp, criterion=nn.CrossEntropyLoss, verbose=0)
    with pytest.raises(TypeError, match="overrides fit,"):
        PrunedClassifier(net, **QUICK).fit(*classes)


def test_a_net_that_stops_itself(classes):
    class Own(type(own_net())):
        def on_epoch_end(self, net, **kwargs):
            super().on_epoch_end(net, **kwargs)
            if len(self.history) == 2:
                raise KeyboardInterrupt

    net = Own(
        Mlp, criterion=nn.CrossEntropyLoss, max_epochs=5, train_split=None, verbose=0
    )
    rows = PrunedClassifier(net, **QUICK).fit(*classes).history_
    assert [row["phase"] for row in rows].count("dense") == 2


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


def test_a_penalty_without_slope_at_zero(classes):
    class GroupLasso(type(own_net())):
        def get_loss(self, y_pred, y_true, *args, **kwargs):
            rows = self.module_.first.weight.square().sum(1).sqrt().sum()
            return super().get_loss(y_pred, y_true, *args, **kwargs) + 0.01 * rows

    net = GroupLasso(
        Mlp, criterion=nn.CrossEntropyLoss, max_epochs=2, train_split=None, verbose=0
    )
    pruner = PrunedClassifier(net, granularity="neuron", **QUICK).fit(*classes)
    assert np.isfinite(pruner.predict_proba(classes[0])).all()
    assert zeros_of(pruner)["first"] >= 0.6 * 128


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


def test_modules_in_double_precision(classes, values):
    class Double(Mlp):
        def __init__(self, n_outputs=3):
            super().__init__(n_outputs=n_outputs)
            self.double()

    pruner = PrunedClassifier(own_net(Double), **QUICK).fit(*classes)
    assert pruner.predict(classes[0]).shape == (120,)
    assert pruner.transform()["first"].dtype == np.float64
    regressor = own_regressor().set_params(module=Double)
    X, y = values
    assert PrunedRegressor(regressor, **QUICK).fit(X, y / y.std()).predict(X).ndim == 1


def test_whole_numbers_of_any_type_reach_an_embedding(classes):
    rng = np.random.default_rng(0)
    X, y = rng.integers(0, 12, size=(60, 4)), rng.integers(0, 3, size=60)
    pruner = PrunedClassifier(own_net(Embedded), **QUICK).fit(X, y)
    expected = pruner.predict_proba(X)
    frame = pd.DataFrame(X).astype("Int64")
    for rows in (X.astype(float), X.astype(np.uint16), X.tolist(), frame):
        again = PrunedClassifier(own_net(Embedded), **QUICK).fit(rows, y)
        assert np.array_equal(again.predict_proba(rows), expected)
        assert np.array_equal(pruner.predict_proba(rows), expected)
    with pytest.raises(ValueError, match="whole numbers"):
        pruner.predict(X + 0.5)


def test_a_module_that_picks_its_entries_out_of_floats(classes):
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(5, 4)
            self.head = nn.Linear(4 + 7, 3)

        def forward(self, X):
            entries = self.table(X[:, 0].long())
            return self.head(torch.cat([entries, X[:, 1:].float()], 1))

    X, y = classes[0].copy(), classes[1]
    X[:, 0] = np.arange(len(X)) % 5
    pruner = PrunedClassifier(own_net(Mixed), **QUICK).fit(X, y)
    assert np.array_equal(pruner.predict(X), pruner.predict(X.astype(float)))
    whole = pd.DataFrame(np.rint(X).astype(int))
    assert pruner.predict(whole).shape == y.shape


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


def test_a_frozen_net_of_a_local_class_with_a_function_inside(classes):
    class Local(Mlp):
        def __init__(self):
            super().__init__()
            self.act = lambda X: X.relu()

        def forward(self, X):
            return self.last(self.act(self.first(X)))

    X, y = classes
    net = own_net(Local).fit(X, y)
    before = net.module_.first.weight.detach().clone()
    pruner = PrunedClassifier(FrozenEstimator(net), **QUICK).fit(X, y)
    assert pruner.sparsity_ == pytest.approx(0.6, abs=0.01)
    assert torch.equal(net.module_.first.weight, before)


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


@pytest.mark.parametrize("sizes", [(0,), (8, -3), (16.5,), "16"])
def test_hidden_layer_sizes_that_cannot_be_built(classes, sizes):
    with pytest.raises(InvalidParameterError, match="'hidden_layer_sizes' parameter"):
        TabularNetClassifier(sizes).fit(*classes)


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
