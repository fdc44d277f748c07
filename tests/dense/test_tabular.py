import pickle
import random
from copy import deepcopy

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from sklearn.base import clone
from sklearn.datasets import load_digits, load_iris
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skorch.callbacks import EpochScoring, LRScheduler

from sklearn_sparse_nn import TabularNetClassifier, TabularNetRegressor
from sklearn_sparse_nn.dense.tabular import column_mean_and_scale


def test_learns_digits():
    X, y = load_digits(return_X_y=True)
    X, X_test, y, y_test = train_test_split(X, y, random_state=0)
    net = TabularNetClassifier(random_state=0).fit(X, y)
    assert net.score(X_test, y_test) > 0.95


def test_string_labels_and_data_frames():
    X, y = load_iris(return_X_y=True, as_frame=True)
    labels = np.array(["setosa", "versicolor", "virginica"])[y]
    net = TabularNetClassifier((32,), lr=0.01, random_state=0).fit(X, labels)
    assert net.classes_.tolist() == ["setosa", "versicolor", "virginica"]
    assert net.feature_names_in_.tolist() == X.columns.tolist()
    assert np.mean(net.predict(X) == labels) > 0.9


def test_one_class_is_always_predicted(classes):
    X, _ = classes
    net = TabularNetClassifier((4,), max_epochs=1).fit(X, np.full(len(X), "only"))
    assert set(net.predict(X)) == {"only"}
    assert np.array_equal(net.predict_proba(X), np.ones((len(X), 1)))


def test_targets_come_back_in_their_own_units(values):
    X, y = values
    net = TabularNetRegressor((64,), lr=0.01, max_epochs=60, random_state=0).fit(X, y)
    assert net.score(X, y) > 0.9
    assert net.predict(X).dtype == np.float64


def test_large_offsets_and_scales_of_columns_do_not_matter(classes):
    X, y = classes
    shifted = (X.astype(np.float64) * [1e-4, 1, 1e4, 1, 1, 1, 1, 1]) + np.arange(8)
    plain = TabularNetClassifier((32,), lr=0.01, random_state=0).fit(X, y)
    moved = TabularNetClassifier((32,), lr=0.01, random_state=0).fit(shifted, y)
    assert np.mean(plain.predict(X) == moved.predict(shifted)) > 0.98


def test_standardising_survives_into_predict_and_pickle(classes):
    X, y = classes
    net = TabularNetClassifier((8,), max_epochs=2, random_state=0).fit(X * 100 + 7, y)
    again = pickle.loads(pickle.dumps(net))
    assert np.array_equal(
        again.predict_proba(X * 100 + 7), net.predict_proba(X * 100 + 7)
    )
    assert np.allclose(
        net.net_.module_.standardize.mean, (X * 100 + 7).mean(0), rtol=1e-4
    )


@pytest.mark.parametrize(
    "make", [sparse.csr_matrix, sparse.csc_array, sparse.coo_array]
)
def test_sparse_rows_give_the_dense_rows_model(classes, make):
    X, y = classes
    X = np.where(X > 0, X, 0)
    dense = TabularNetClassifier((8,), max_epochs=3, random_state=0).fit(X, y)
    thin = TabularNetClassifier((8,), max_epochs=3, random_state=0).fit(make(X), y)
    assert np.allclose(dense.predict_proba(X), thin.predict_proba(make(X)), atol=1e-5)


@pytest.mark.parametrize(
    "state", [lambda: 7, lambda: np.random.RandomState(7)], ids=["int", "RandomState"]
)
def test_same_random_state_gives_the_same_bits(classes, state):
    X, y = classes
    nets = [
        TabularNetClassifier((8,), max_epochs=3, dropout=0.3, random_state=state()).fit(
            X, y
        )
        for _ in range(2)
    ]
    assert np.array_equal(nets[0].predict_proba(X), nets[1].predict_proba(X))


def test_other_random_states_give_other_models(classes):
    X, y = classes
    one, two = (
        TabularNetClassifier((8,), max_epochs=1, random_state=s).fit(X, y)
        for s in (0, 1)
    )
    assert not np.array_equal(one.predict_proba(X), two.predict_proba(X))


@pytest.mark.parametrize("early_stopping", [False, True])
def test_global_random_state_is_neither_read_nor_changed(classes, early_stopping):
    X, y = classes
    net = TabularNetClassifier(
        (8,), max_epochs=2, dropout=0.5, early_stopping=early_stopping, random_state=0
    )
    first = net.fit(X, y).predict_proba(X)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(99)
        np.random.seed(99)  # noqa: NPY002
        before = random.getstate(), pickle.dumps(np.random.get_state())  # noqa: NPY002
        torch_before = torch.random.get_rng_state()
        second = net.fit(X, y).predict_proba(X)
        assert random.getstate() == before[0]
        assert pickle.dumps(np.random.get_state()) == before[1]  # noqa: NPY002
        assert torch.equal(torch.random.get_rng_state(), torch_before)
    assert np.array_equal(first, second)


def test_early_stopping_stops_and_restores_the_best_epoch(classes):
    X, y = classes
    net = TabularNetClassifier(
        (64,), lr=0.05, max_epochs=200, early_stopping=True, patience=3, random_state=0
    ).fit(X, y)
    losses = net.net_.history[:, "valid_loss"]
    assert len(losses) < 200
    assert int(np.argmin(losses)) < len(losses) - 1
    held_out = net.net_.train_split(np.empty(len(X)), net.targets_.encode(y))[1].indices
    proba = net.predict_proba(X[held_out])
    loss = -np.mean(np.log(proba[np.arange(len(held_out)), y[held_out]]))
    assert loss == pytest.approx(min(losses), rel=1e-4)


def test_early_stopping_with_a_class_of_one_row():
    X = np.random.default_rng(0).normal(size=(30, 3))
    y = np.array([0] * 29 + [1])
    net = TabularNetClassifier((4,), max_epochs=2, early_stopping=True).fit(X, y)
    assert net.predict(X).shape == (30,)


def test_callbacks_of_the_user_run(classes):
    X, y = classes
    callbacks = [
        EpochScoring(
            "accuracy", name="train_acc", on_train=True, lower_is_better=False
        ),
        LRScheduler(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.5),
    ]
    net = TabularNetClassifier((8,), max_epochs=3, callbacks=callbacks).fit(X, y)
    assert net.net_.history[:, "event_lr"] == [1e-3, 5e-4, 2.5e-4]
    assert len(net.net_.history[:, "train_acc"]) == 3


@pytest.mark.parametrize("optimizer", ["adam", "sgd", torch.optim.RMSprop])
def test_other_optimizers(classes, optimizer):
    X, y = classes
    net = TabularNetClassifier((8,), optimizer=optimizer, max_epochs=2).fit(X, y)
    assert np.isfinite(net.predict_proba(X)).all()


@pytest.mark.parametrize(
    "activation", ["leaky_relu", "elu", "gelu", "silu", "tanh", "softsign"]
)
@pytest.mark.parametrize("norm", [None, "batch", "layer"])
def test_activations_and_norms(classes, activation, norm):
    X, y = classes
    net = TabularNetClassifier((16, 8), lr=0.02, activation=activation, norm=norm)
    assert net.set_params(random_state=0).fit(X, y).score(X, y) > 0.6


def test_batch_norm_refuses_one_row():
    with pytest.raises(ValueError, match="1 sample"):
        TabularNetClassifier(norm="batch").fit([[1.0, 2.0]], [0])


def test_no_hidden_layer_is_a_linear_model(classes):
    X, y = classes
    net = TabularNetClassifier((), max_epochs=1).fit(X, y)
    assert net.net_.module_.output.weight.shape == (3, 8)


@pytest.mark.parametrize("hidden", [(), (16, 12), (100, 77), (256, 256, 256)])
def test_a_rows_prediction_hardly_depends_on_its_batch(values, hidden):
    X, y = values
    net = TabularNetRegressor(hidden, max_epochs=2, random_state=0).fit(X, y)
    whole = net.predict(X)
    for size in (1, 2, 3, 5, 17, 64):
        parts = [net.predict(X[i : i + size]) for i in range(0, len(X), size)]
        assert np.abs(np.concatenate(parts) - whole).max() < 5e-7 * y.std()


def test_wide_data_and_one_row():
    X = np.random.default_rng(0).normal(size=(10, 617))
    net = TabularNetRegressor((8,), max_epochs=1).fit(X, np.arange(10))
    assert net.predict(X[:1]).shape == (1,)


def test_fit_leaves_its_parameters_and_data_alone(classes):
    X, y = (a.copy() for a in classes)
    before = X.copy(), y.copy()
    net = TabularNetClassifier([8, 8], max_epochs=1, callbacks=[])
    parameters = deepcopy(net.get_params())
    net.fit(X, y)
    assert net.get_params() == parameters
    assert np.array_equal(X, before[0])
    assert np.array_equal(y, before[1])


def test_grid_search_in_a_pipeline(classes):
    X, y = classes
    pipe = make_pipeline(StandardScaler(), TabularNetClassifier((8,), max_epochs=2))
    search = GridSearchCV(pipe, {"tabularnetclassifier__lr": [1e-3, 1e-2]}, cv=2)
    assert search.fit(X, y).best_score_ > 0


def test_clone_pickle_joblib_deepcopy(classes, tmp_path):
    X, y = classes
    net = TabularNetClassifier((8,), dropout=0.2, max_epochs=2, random_state=0).fit(
        X, y
    )
    expected = net.predict_proba(X)
    joblib.dump(net, tmp_path / "net.joblib")
    copies = [
        pickle.loads(pickle.dumps(net)),
        joblib.load(tmp_path / "net.joblib"),
        deepcopy(net),
    ]
    for copy in copies:
        assert np.array_equal(copy.predict_proba(X), expected)
    with pytest.raises(NotFittedError):
        clone(net).predict(X)


def test_the_fitted_net_keeps_no_optimizer_and_no_rows(classes):
    X, y = classes
    big = np.tile(X, (50, 1))
    net = TabularNetClassifier((8,), max_epochs=1).fit(big, np.tile(y, 50))
    assert net.net_.optimizer_ is None
    assert len(pickle.dumps(net)) < big.nbytes / 4


def test_sample_weight_is_refused(classes):
    X, y = classes
    with pytest.raises(TypeError, match="sample_weight"):
        TabularNetClassifier().fit(X, y, sample_weight=np.ones(len(y)))


def test_a_data_frame_with_other_columns_is_refused(classes):
    X, y = classes
    frame = pd.DataFrame(X).add_prefix("c")
    net = TabularNetClassifier((4,), max_epochs=1).fit(frame, y)
    with pytest.raises(ValueError, match="feature names"):
        net.predict(frame.rename(columns={"c0": "other"}))


@given(
    st.integers(1, 300),
    st.floats(-1e6, 1e6, width=32),
    st.floats(2**-10, 2**10, width=32),
    st.booleans(),
)
@settings(deadline=None, max_examples=50)
def test_mean_and_scale_equal_numpys(n, centre, spread, thin):
    X = np.random.default_rng(n).normal(centre, spread, size=(n, 3)).astype("float32")
    X[:, 2] = centre
    mean, scale = column_mean_and_scale(sparse.csr_matrix(X) if thin else X)
    exact = X.astype(np.float64)
    assert np.allclose(mean, exact.mean(0), rtol=1e-5, atol=1e-6)
    assert scale[2] == 1
    varied = exact[:, :2].std(0) > 1e-3 * abs(exact[:, :2].mean(0))
    assert np.allclose(scale[:2][varied], exact[:, :2].std(0)[varied], rtol=1e-3)


def test_random_state_none_differs_and_leaves_numpys_state_alone(classes):
    X, y = classes
    before = pickle.dumps(np.random.get_state())  # noqa: NPY002
    one, two = (TabularNetClassifier((4,), max_epochs=1).fit(X, y) for _ in range(2))
    assert pickle.dumps(np.random.get_state()) == before  # noqa: NPY002
    assert not np.array_equal(one.predict_proba(X), two.predict_proba(X))
