"""The pruners as scikit-learn citizens: invariants 18 to 22."""

import pickle
import random
from copy import deepcopy

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import save
from scipy import sparse
from sklearn import config_context
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import TransformedTargetRegressor
from sklearn.datasets import load_iris
from sklearn.exceptions import NotFittedError
from sklearn.feature_selection import SelectFromModel
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_sparse_nn import (
    PrunedClassifier,
    PrunedRegressor,
    TabularNetClassifier,
    TabularNetRegressor,
)
from sklearn_sparse_nn.core.schedules import Polynomial
from tests.elsewhere import run_elsewhere
from tests.pruning.nets import own_net, small

QUICK = {"n_steps": 2, "prune_epochs": 2, "finetune_epochs": 1, "random_state": 0}
UNIFORM = {**QUICK, "allocation": "uniform"}


def bits(pruner):
    """Every byte of the weights and masks of a fitted pruner."""
    weights = [p.detach().numpy().tobytes() for p in pruner.net_.module_.parameters()]
    return weights, [mask.tobytes() for mask in pruner.masks_.values()]


def test_fit_twice_is_fit_once(classes):
    pruner = PrunedClassifier(small(), **QUICK)
    assert bits(pruner.fit(*classes)) == bits(pruner.fit(*classes))


def test_a_refit_forgets_the_data_before(classes):
    X, y = classes
    pruner = PrunedClassifier(small(), **QUICK).fit(X[:, :4], y)
    pruner.fit(X, y)
    assert bits(pruner) == bits(PrunedClassifier(small(), **QUICK).fit(X, y))
    assert pruner.n_features_in_ == 8


def test_clone_is_unfitted_and_equal_in_parameters(classes):
    pruner = PrunedClassifier(small(), **QUICK).fit(*classes)
    copy = clone(pruner)
    with pytest.raises(NotFittedError):
        copy.predict(classes[0])
    with pytest.raises(NotFittedError):
        copy.transform()
    assert bits(copy.fit(*classes)) == bits(pruner)


@pytest.mark.parametrize("make", [small, own_net], ids=["TabularNet", "skorch"])
def test_the_users_objects_are_never_changed(classes, make):
    net, X, y = make(), classes[0].copy(), classes[1].copy()
    schedule = Polynomial(2)
    layers = ["*"]
    pruner = PrunedClassifier(net, schedule=schedule, layers=layers, **UNIFORM)
    before = {key: deepcopy(value) for key, value in vars(net).items()}
    parameters = pruner.get_params(deep=False)
    pruner.fit(X, y)
    assert pruner.estimator is net
    assert pruner.get_params(deep=False) == parameters
    assert vars(net).keys() == before.keys()
    for key in before:
        assert repr(vars(net)[key]) == repr(before[key])
    assert np.array_equal(X, classes[0])
    assert np.array_equal(y, classes[1])
    assert layers == ["*"]


def test_a_module_instance_keeps_its_weights(classes):
    module = torch.nn.Sequential(torch.nn.Linear(8, 3))
    before = deepcopy(module.state_dict())
    PrunedClassifier(own_net(module), **QUICK).fit(*classes)
    assert all(torch.equal(before[key], module.state_dict()[key]) for key in before)


@pytest.mark.parametrize("fitted", [False, True])
@pytest.mark.parametrize("make", [small, own_net], ids=["TabularNet", "skorch"])
def test_pickle_joblib_and_deepcopy(classes, tmp_path, make, fitted):
    X, y = classes
    pruner = PrunedClassifier(make(), **UNIFORM)
    if fitted:
        pruner.fit(X, y)
    joblib.dump(pruner, tmp_path / "pruner.joblib")
    copies = [
        pickle.loads(pickle.dumps(pruner)),
        joblib.load(tmp_path / "pruner.joblib"),
        deepcopy(pruner),
    ]
    for copy in copies:
        if not fitted:
            copy.fit(X, y)
            pruner.fit(X, y)
        assert bits(copy) == bits(pruner)
        assert np.array_equal(copy.predict(X), pruner.predict(X))


def test_loky_workers_fit_and_predict_the_same(classes):
    X, y = classes
    pruner = PrunedClassifier(small(), **QUICK)
    expected = pruner.fit(X, y).predict_proba(X)
    there = joblib.Parallel(n_jobs=2)(
        joblib.delayed(_fit_and_predict)(pruner, X, y) for _ in range(2)
    )
    for proba in there:
        assert np.array_equal(proba, expected)


def _fit_and_predict(pruner, X, y):
    torch.set_num_threads(1)
    return pruner.fit(X, y).predict_proba(X)


@pytest.mark.parametrize("make", [small, own_net], ids=["TabularNet", "skorch"])
@pytest.mark.parametrize("rewind", [None, "weights"])
def test_a_pickle_holds_no_rows_no_optimizer_and_no_snapshot(classes, make, rewind):
    X, y = np.tile(classes[0], (50, 1)), np.tile(classes[1], 50)
    X[:, 0] = 1234.5678  # a value to look for
    pruner = PrunedClassifier(make(), rewind=rewind, **UNIFORM).fit(X, y)
    dumped = pickle.dumps(pruner)
    assert dumped.count(np.float32(1234.5678).tobytes()) < 10
    assert len(dumped) < X.nbytes / 2
    assert pruner.net_.optimizer_ is None


@pytest.mark.parametrize("rewind", [None, "weights"])
def test_a_pickle_is_no_larger_for_early_stopping_and_rewinding(classes, rewind):
    net = small(hidden_layer_sizes=(64, 64))
    plain = PrunedClassifier(net, **UNIFORM).fit(*classes)
    stopping = net.set_params(early_stopping=True)
    pruner = PrunedClassifier(stopping, rewind=rewind, **UNIFORM).fit(*classes)
    weights = sum(p.nbytes for p in pruner.net_.module_.parameters())
    in_memory = [
        value
        for _, callback in pruner.net_.callbacks_
        for value in vars(callback).values()
        if isinstance(value, dict) and any(map(torch.is_tensor, value.values()))
    ]
    assert in_memory == []
    assert len(pickle.dumps(pruner)) < len(pickle.dumps(plain)) + weights / 2


@pytest.fixture(scope="module")
def grid():
    return {
        "prunedclassifier__sparsity": [0.3, 0.6, 0.8],
        "prunedclassifier__schedule": ["linear", "cubic"],
        "prunedclassifier__granularity": ["unstructured", "neuron"],
    }


def test_grid_search_in_two_workers_equals_one(classes, grid):
    X, y = classes
    pipe = make_pipeline(StandardScaler(), PrunedClassifier(small(), **UNIFORM))
    results = []
    for n_jobs in (1, 2):
        search = GridSearchCV(pipe, grid, cv=3, n_jobs=n_jobs).fit(X, y)
        results.append(search)
    one, two = results
    assert len(one.cv_results_["params"]) == 12
    assert one.best_params_ == two.best_params_
    for key in (f"split{i}_test_score" for i in range(3)):
        assert np.array_equal(one.cv_results_[key], two.cv_results_[key])
    assert bits(one.best_estimator_[-1]) == bits(two.best_estimator_[-1])


def test_nested_parameters_are_searched(classes):
    pruner = PrunedClassifier(small(), schedule=Polynomial(), **UNIFORM)
    search = GridSearchCV(
        pruner, {"estimator__lr": [1e-3, 0.05], "schedule__power": [1, 3]}, cv=2
    ).fit(*classes)
    assert set(search.best_params_) == {"estimator__lr", "schedule__power"}
    assert search.best_params_["estimator__lr"] == 0.05
    own = PrunedClassifier(own_net(), **UNIFORM).set_params(
        estimator__lr=0.5, estimator__module__width=6
    )
    assert own.fit(*classes).net_.module_.first.weight.shape == (6, 8)


@pytest.mark.parametrize("make", [small, own_net], ids=["TabularNet", "skorch"])
def test_global_random_state_is_as_before(classes, make):
    def state():
        return (
            random.getstate(),
            pickle.dumps(np.random.get_state()),  # noqa: NPY002
            torch.random.get_rng_state().tolist(),
        )

    before = state()
    PrunedClassifier(make(), **{**UNIFORM, "random_state": None}).fit(*classes)
    assert state() == before


@pytest.mark.parametrize("make", [small, own_net], ids=["TabularNet", "skorch"])
def test_global_random_state_does_not_matter(classes, make):
    pruner = PrunedClassifier(make(), importance="random", **UNIFORM)
    first = bits(pruner.fit(*classes))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        assert bits(pruner.fit(*classes)) == first


def file_bytes(importance):
    pruner = PrunedClassifier(
        TabularNetClassifier((16,), max_epochs=2, dropout=0.1),
        importance=importance,
        sparsity=0.7,
        n_steps=2,
        prune_epochs=2,
        random_state=5,
    ).fit(*load_iris(return_X_y=True))
    weights = pruner.transform(format="dense")
    tensors = pruner.masks_ | {f"{name}.weight": weights[name] for name in weights}
    return save(tensors)


@pytest.mark.parametrize("importance", ["magnitude", "random"])
def test_the_same_seed_gives_the_same_file_bytes_in_two_processes(importance):
    assert run_elsewhere(file_bytes, importance) == file_bytes(importance)


@pytest.mark.parametrize("pruner", [PrunedClassifier, PrunedRegressor])
def test_sample_weight_is_refused_by_name(classes, pruner):
    X, y = classes
    with pytest.raises(TypeError, match="does not support sample_weight"):
        pruner().fit(X, y, sample_weight=np.ones(len(y)))


def test_kinds():
    assert is_classifier(PrunedClassifier())
    assert is_regressor(PrunedRegressor())


def test_memory_is_accepted(classes, tmp_path):
    plain = PrunedClassifier(small(), **QUICK).fit(*classes)
    for memory in (str(tmp_path), joblib.Memory(tmp_path, verbose=0)):
        stored = PrunedClassifier(small(), memory=memory, **QUICK).fit(*classes)
        assert bits(stored) == bits(plain)


def test_string_labels_and_data_frames(classes):
    X, y = classes
    frame = pd.DataFrame(X).add_prefix("column ")
    labels = np.array(["red", "green", "blue"])[y]
    pruner = PrunedClassifier(small(max_epochs=20), sparsity=0.5, **UNIFORM)
    pruner.fit(frame, labels)
    assert pruner.classes_.tolist() == ["blue", "green", "red"]
    assert pruner.score(frame, labels) > 0.6
    assert pruner.feature_names_in_.tolist() == frame.columns.tolist()


def test_regression_in_its_own_units(values):
    X, y = values
    pruner = PrunedRegressor(
        TabularNetRegressor((64,), lr=0.01, max_epochs=40), sparsity=0.7, random_state=0
    ).fit(X, y)
    assert pruner.score(X, y) > 0.8
    assert abs(pruner.predict(X).mean() - y.mean()) < y.std() / 4


@pytest.mark.parametrize(
    "make", [sparse.csr_matrix, sparse.csc_array, sparse.coo_array]
)
def test_sparse_rows(classes, make):
    X, y = np.maximum(classes[0], 0), classes[1]
    for net in (small(), own_net()):
        pruner = PrunedClassifier(net, **UNIFORM).fit(make(X), y)
        dense = PrunedClassifier(net, **UNIFORM).fit(X, y)
        assert np.allclose(
            pruner.predict_proba(make(X)), dense.predict_proba(X), atol=1e-4
        )


def test_it_drops_into_other_estimators(classes, values):
    X, y = classes
    pruner = PrunedClassifier(small(max_epochs=10), sparsity=0.5, **UNIFORM)
    as_step = make_pipeline(pruner, LogisticRegression(max_iter=500)).fit(X, y)
    assert as_step.score(X, y) > 0.6
    assert cross_val_score(pruner, X, y, cv=2, scoring="roc_auc_ovr").mean() > 0.6
    assert CalibratedClassifierCV(pruner, cv=2).fit(X, y).score(X, y) > 0.6
    kept = SelectFromModel(pruner, max_features=3).fit(X, y).get_support()
    assert 1 <= kept.sum() <= 3
    regressor = TransformedTargetRegressor(
        PrunedRegressor(TabularNetRegressor((8,), max_epochs=2), **UNIFORM),
        func=np.arcsinh,
        inverse_func=np.sinh,
    )
    assert np.isfinite(regressor.fit(*values).predict(values[0])).all()


def test_pandas_output_is_refused_for_sparse_activations_alone(classes):
    X, y = classes
    pipe = make_pipeline(StandardScaler(), PrunedClassifier(small(), **QUICK))
    pipe.set_output(transform="pandas").fit(X, y)
    assert pipe.predict(X).shape == y.shape
    with pytest.raises(ValueError, match="does not support sparse"):
        pipe[-1].transform(pd.DataFrame(X, columns=pipe[:-1].get_feature_names_out()))
    with config_context(transform_output="pandas"):
        assert list(pipe[-1].transform()) == ["hidden_0", "hidden_1", "output"]


def test_verbatim_representation_shows_only_what_was_changed():
    assert repr(PrunedClassifier(sparsity=0.5)) == "PrunedClassifier(sparsity=0.5)"
    assert repr(TabularNetClassifier(lr=0.1)) == "TabularNetClassifier(lr=0.1)"


@pytest.fixture(scope="module")
def fitted(classes):
    return small(max_epochs=10, random_state=0).fit(*classes)


def test_frozen_the_dense_phase_is_skipped(classes, fitted):
    pruner = PrunedClassifier(FrozenEstimator(fitted), **QUICK).fit(*classes)
    assert {row["phase"] for row in pruner.history_} == {"prune", "finetune"}
    assert pruner.history_[0]["train_loss"] < 0.8


def test_frozen_the_frozen_net_is_never_changed(classes, fitted):
    before = pickle.dumps(fitted)
    PrunedClassifier(FrozenEstimator(fitted), **QUICK).fit(*classes)
    assert pickle.dumps(fitted) == before


def test_frozen_its_labels_are_known(classes):
    X, y = classes
    labels = np.array(["a", "b", "c"])[y]
    fitted = small(random_state=0).fit(X, labels)
    two = labels != "c"
    pruner = PrunedClassifier(FrozenEstimator(fitted), **QUICK)
    pruner.fit(X[two], labels[two])
    assert pruner.classes_.tolist() == ["a", "b", "c"]
    with pytest.raises(ValueError, match=r"labels \['z'\]"):
        pruner.fit(X, np.where(labels == "c", "z", labels))


def test_frozen_another_width_is_refused(classes, fitted):
    X, y = classes
    with pytest.raises(ValueError, match="X has 5 features"):
        PrunedClassifier(FrozenEstimator(fitted), **QUICK).fit(X[:, :5], y)


def test_frozen_dense_epochs_do_not_go_with_it(classes, fitted):
    pruner = PrunedClassifier(FrozenEstimator(fitted), dense_epochs=3)
    with pytest.raises(ValueError, match=r"dense_epochs=3 and a FrozenEstimator"):
        pruner.fit(*classes)


def test_frozen_an_unfitted_one_is_refused(classes):
    with pytest.raises(NotFittedError):
        PrunedClassifier(FrozenEstimator(small())).fit(*classes)
    with pytest.raises(NotFittedError):
        PrunedClassifier(FrozenEstimator(own_net())).fit(*classes)


def test_frozen_a_raw_skorch_net(classes):
    X, y = classes
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = own_net(max_epochs=20).fit(X, y)
    before = deepcopy(net.module_.state_dict())
    pruner = PrunedClassifier(FrozenEstimator(net), sparsity=0.5, **UNIFORM)
    assert pruner.fit(X, y).score(X, y) > 0.7
    after = net.module_.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert net.optimizer_ is not None


def test_frozen_a_pruned_one_of_a_users_net(classes):
    once = PrunedClassifier(own_net(), sparsity=0.5, **UNIFORM).fit(*classes)
    twice = PrunedClassifier(FrozenEstimator(once), sparsity=0.5, **UNIFORM)
    assert twice.fit(*classes).sparsity_ == 0.5


def test_frozen_a_regressor(values):
    X, y = values
    fitted = TabularNetRegressor((32,), lr=0.01, max_epochs=30, random_state=0)
    pruner = PrunedRegressor(FrozenEstimator(fitted.fit(X, y)), sparsity=0.5, **QUICK)
    assert pruner.fit(X, y).score(X, y) > 0.7
