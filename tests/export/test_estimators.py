"""Pruners that predict through the sparse runtime, and export it."""

import gc
import pickle
import threading

import joblib
import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from skorch import NeuralNetBinaryClassifier, NeuralNetClassifier
from torch import nn

from sklearn_sparse_nn import PrunedClassifier, PrunedRegressor, TabularNetClassifier
from sklearn_sparse_nn.exceptions import UnsupportedLayerError
from sklearn_sparse_nn.export import cache, export_pruner, predicting_model
from sklearn_sparse_nn.export.skorch_nets import refuse_unknown_net
from sklearn_sparse_nn.runtime import SparseModel
from tests.pruning.nets import Conv, Mlp, Tied, own_net, own_regressor, small

QUICK = {"prune_epochs": 1, "finetune_epochs": 1, "n_steps": 1, "random_state": 0}


def pruned(estimator=None, **options):
    estimator = small(max_epochs=2) if estimator is None else estimator
    return PrunedClassifier(estimator, **{"sparsity": 0.5, **QUICK, **options})


def torch_proba(pruner, X):
    return pruner.net_.predict_proba(X)


def assert_close(found, wanted):
    """Probabilities; these nets amplify rounding hardly."""
    np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-6)


NETS = {
    "ours": small,
    "batch norm": lambda: small(norm="batch", activation="gelu", dropout=0.2),
    "layer norm": lambda: small(norm="layer", activation="silu"),
    "own": own_net,
    "tied": lambda: own_net(Tied),
    "own iterator": lambda: own_net(iterator_valid__batch_size=7),
}


@pytest.mark.parametrize("name", NETS)
def test_classifiers_predict_through_the_runtime(classes, name):
    X, y = classes
    labels = np.array(["a", "b", "c"])[y]
    pruner = pruned(NETS[name]()).fit(X, labels)
    model = pruner.export()
    assert isinstance(predicting_model(pruner), SparseModel)
    assert_close(pruner.predict_proba(X), torch_proba(pruner, X))
    assert np.array_equal(pruner.predict_proba(X), model.predict_proba(X))
    assert np.array_equal(pruner.predict(X), model.predict(X))
    assert model.classes_.tolist() == ["a", "b", "c"] and model.n_features_in_ == 8


@pytest.mark.parametrize("own", [False, True])
def test_regressors_predict_through_the_runtime(values, own):
    X, y = values
    y = (y - y.mean()) / y.std() if own else y
    pruner = PrunedRegressor(own_regressor() if own else None, sparsity=0.5, **QUICK)
    pruner.set_params(dense_epochs=1).fit(X, y)
    assert predicting_model(pruner) is not None
    wanted = pruner.targets_.decode(pruner.net_.predict(X))
    atol = 4e-6 * max(1, np.std(y))
    np.testing.assert_allclose(pruner.predict(X), wanted, rtol=0, atol=atol)
    assert np.array_equal(pruner.export().predict(X), pruner.predict(X))


class OneOutput(nn.Module):
    def __init__(self, flat=True, last=nn.Identity):
        super().__init__()
        self.one, self.two, self.last = nn.Linear(8, 9), nn.Linear(9, 1), last()
        self.flat = flat

    def forward(self, X):
        out = self.last(self.two(torch.relu(self.one(X))))
        return out.squeeze(-1) if self.flat else out


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("loss", [nn.BCEWithLogitsLoss, nn.BCELoss])
def test_binary_nets_of_one_output(classes, flat, loss):
    X, y = classes[0], (classes[1] > 0).astype(int)
    last = nn.Sigmoid if loss is nn.BCELoss else nn.Identity
    net = NeuralNetBinaryClassifier(
        OneOutput, module__flat=flat, module__last=last, criterion=loss,
        train_split=None, verbose=0, max_epochs=2,
    )  # fmt: skip
    pruner = pruned(net).fit(X, y)
    assert predicting_model(pruner) is not None
    assert_close(pruner.predict_proba(X), torch_proba(pruner, X))
    assert np.array_equal(pruner.predict(X), pruner.export().predict(X))


def test_outputs_of_classes_that_were_not_seen(classes):
    X, y = classes
    pruner = pruned(own_net(module__n_outputs=5)).fit(X, y)
    wanted = torch_proba(pruner, X)[:, :3]
    wanted = wanted / wanted.sum(1, keepdims=True)
    assert_close(pruner.predict_proba(X), wanted)
    assert np.array_equal(pruner.export().predict(X), pruner.predict(X))


def test_a_tabular_net_can_be_exported(classes):
    X, y = classes
    net = TabularNetClassifier((9,), max_epochs=2, random_state=0).fit(X, y)
    assert_close(export_pruner(net).predict_proba(X), net.predict_proba(X))


class OtherInfer(NeuralNetClassifier):
    def infer(self, x, **fit_params):
        return super().infer(2 * x, **fit_params)


class OtherLoss(NeuralNetClassifier):
    def get_loss(self, y_pred, y_true, *args, **kwargs):
        return 2 * super().get_loss(y_pred, y_true, *args, **kwargs)


def subclassed(kind, **options):
    return kind(
        Mlp, criterion=nn.CrossEntropyLoss, train_split=None, verbose=0, max_epochs=2,
        **options,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("net", "said"),
    [
        (lambda: subclassed(OtherInfer), "OtherInfer, has its own infer"),
        (
            lambda: own_net(predict_nonlinearity=lambda y: y**2),
            "predict_nonlinearity=<function .*>, so what it predicts",
        ),
        (lambda: own_net(iterator_valid__collate_fn=collate), "collate_fn"),
        (lambda: own_net(dataset__length=None), "dataset__length"),
    ],
)
def test_a_net_that_predicts_in_its_own_way_keeps_it(classes, net, said):
    X, y = classes
    pruner = pruned(net()).fit(X, y)
    assert np.array_equal(pruner.predict_proba(X), torch_proba(pruner, X))
    with pytest.raises(UnsupportedLayerError, match=said):
        pruner.export()


def test_a_loss_whose_outputs_are_not_known_is_named():
    net = NeuralNetClassifier(Mlp, criterion=nn.BCEWithLogitsLoss).initialize()
    said = "a NeuralNetClassifier, has the loss BCEWithLogitsLoss, so what it predicts"
    with pytest.raises(UnsupportedLayerError, match=said):
        refuse_unknown_net(net)


def collate(rows):
    return torch.utils.data.default_collate(rows)


def test_a_subclass_that_predicts_as_usual_uses_the_runtime(classes):
    pruner = pruned(subclassed(OtherLoss)).fit(*classes)
    assert predicting_model(pruner) is not None


def test_an_unsupported_net_predicts_through_torch_and_remembers(monkeypatch):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(40, 64)).astype(np.float32), np.arange(40) % 3
    pruner = pruned(own_net(Conv, module__n_outputs=3)).fit(X, y)
    assert np.array_equal(pruner.predict_proba(X), torch_proba(pruner, X))
    calls = []
    monkeypatch.setattr(cache, "export_pruner", lambda *args: calls.append(args))
    pruner.predict(X)
    assert not calls
    with pytest.raises(UnsupportedLayerError, match=r"itself \(Conv\)"):
        pruner.export()


def test_a_net_of_float64_keeps_its_precision(classes):
    X, y = classes
    pruner = pruned(own_net()).fit(X, y)
    pruner.net_.module_.double()
    assert predicting_model(pruner) is None
    model = pruner.export()
    assert all(weight.dtype == np.float32 for weight in model.weights.values())


def write_in_place(module):
    with torch.no_grad():
        module.last.weight.mul_(-1)


def write_data(module):
    module.last.weight.data.mul_(-1)


def write_numpy(module):
    module.last.weight.detach().numpy()[:] *= -1


def swap_rows(module):
    # Their sum stays the same.
    weight = module.last.weight.data
    weight[:] = weight.flip(0).clone()


def write_new(module):
    module.last.weight = nn.Parameter(-module.last.weight.detach())


def write_buffer(module):
    module.norm.running_mean.add_(1)


def write_module(module):
    module.last = nn.Linear(16, 3)


def write_loaded(module):
    module.load_state_dict({k: -v for k, v in module.state_dict().items()})


@pytest.mark.parametrize(
    "write",
    [
        write_in_place,
        write_data,
        write_numpy,
        swap_rows,
        write_new,
        write_buffer,
        write_module,
        write_loaded,
    ],
)
def test_changed_weights_are_noticed(classes, write):
    X, y = classes
    pruner = pruned(own_net()).fit(X, y)
    before = pruner.predict_proba(X)
    assert predicting_model(pruner) is predicting_model(pruner)
    write(pruner.net_.module_)
    assert_close(pruner.predict_proba(X), torch_proba(pruner, X))
    assert not np.allclose(pruner.predict_proba(X), before)


def test_a_changed_setting_is_noticed(classes):
    X, y = classes
    pruner = pruned(own_net()).fit(X, y)
    pruner.predict(X)
    pruner.net_.predict_nonlinearity = None
    assert_close(pruner.net_.forward(X).numpy(), predicting_model(pruner).forward(X))
    pruner.net_.module_.first.register_forward_hook(lambda m, args, out: out * 0)
    assert predicting_model(pruner) is None


def test_the_estimator_holds_no_model(classes):
    X, y = classes
    pruner = pruned(own_net()).fit(X, y)
    size, held = len(pickle.dumps(pruner)), set(vars(pruner))
    held_net = set(vars(pruner.net_))
    pruner.predict(X)
    assert set(vars(pruner)) == held and set(vars(pruner.net_)) == held_net
    assert len(pickle.dumps(pruner)) == size
    again = pickle.loads(pickle.dumps(pruner))
    assert np.array_equal(again.predict_proba(X), pruner.predict_proba(X))


def test_models_go_with_their_estimators(classes):
    pruner = pruned(own_net()).fit(*classes)
    pruner.predict(classes[0])
    gc.collect()
    n_models = len(cache._models)
    del pruner
    gc.collect()
    assert len(cache._models) < n_models


def test_several_threads_predict_at_once(classes):
    X, y = classes
    pruner = pruned(own_net()).fit(X, y)
    wanted, found = pruner.export().predict_proba(X), []

    def predict():
        for _ in range(20):
            found.append(np.array_equal(pruner.predict_proba(X), wanted))

    threads = [threading.Thread(target=predict) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 160 and all(found)


def test_a_row_is_predicted_alike_in_any_company(classes):
    X, y = classes
    pruner = pruned(sparsity=0.9).fit(X, y)
    whole = pruner.predict_proba(X)
    for i in range(0, len(X), 17):
        assert np.array_equal(pruner.predict_proba(X[i : i + 1])[0], whole[i])


@pytest.mark.parametrize("granularity", ["neuron", "input"])
def test_structured_pruning_shrinks_the_model(classes, granularity):
    X, y = classes
    net = small(hidden_layer_sizes=(40, 30))
    pruner = pruned(net, granularity=granularity, sparsity=0.7).fit(X, y)
    model = pruner.export()
    assert_close(model.predict_proba(X), torch_proba(pruner, X))
    first, second = pruner.masks_["hidden_0"], pruner.masks_["hidden_1"]
    alive = first.any(1) & second.any(0)
    assert model.graph.widths[1] == alive.sum()
    assert sum(model.graph.widths[:3]) < 8 + 40 + 30
    assert sum(w.nnz for w in model.weights.values()) <= pruner.n_nonzero_ + 3 * 30


def test_sparse_rows_and_frames(classes):
    X, y = classes
    X = X * (abs(X) > 1)
    pruner = pruned().fit(X, y)
    wanted = pruner.predict_proba(X)
    assert np.array_equal(pruner.predict_proba(sparse.csr_array(X)), wanted)
    assert np.array_equal(pruner.export().predict_proba(sparse.csr_array(X)), wanted)


def test_models_travel_and_unfitted_pruners_say_so(classes):
    X, y = classes
    pruner = pruned().fit(X, y)
    model = pruner.export()
    again = pickle.loads(pickle.dumps(model))
    assert np.array_equal(again.predict_proba(X), model.predict_proba(X))
    assert joblib.hash(again.predict_proba(X)) == joblib.hash(model.predict_proba(X))
    with pytest.raises(NotFittedError):
        clone(pruner).export()


class Margin(nn.MultiMarginLoss):
    """A loss of logits that skorch does not know."""


def test_logits_are_not_given_as_probabilities(classes):
    X, y = classes
    net = own_net(criterion=Margin)
    pruner = pruned(net).fit(X, y)
    scores = torch_proba(pruner, X)
    assert np.array_equal(pruner.predict(X), scores.argmax(1))
    model = pruner.export()
    assert np.array_equal(model.predict(X), pruner.predict(X))
    for predict_proba in (pruner.predict_proba, model.predict_proba):
        with pytest.raises(ValueError, match="outputs are no probabilities"):
            predict_proba(X)
