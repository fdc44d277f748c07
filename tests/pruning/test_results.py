"""What a fitted pruner tells: weights, activations, importances, report."""

import numpy as np
import pytest
import torch
from scipy import sparse

from sklearn_sparse_nn import PrunedClassifier
from tests.pruning.nets import Conv, own_net, small

QUICK = {"n_steps": 2, "prune_epochs": 2, "finetune_epochs": 2, "random_state": 0}


@pytest.fixture(scope="module")
def pruner(classes):
    return PrunedClassifier(small(), sparsity=0.7, **QUICK).fit(*classes)


def forward(weights, module, X):
    """The net in scipy: only the sparse weights, and the biases of the module."""
    hidden = (X - module.standardize.mean.numpy()) / module.standardize.scale.numpy()
    *before, last = weights
    for name in before:
        bias = getattr(module, name).bias.detach().numpy()
        hidden = np.maximum((weights[name] @ hidden.T).T + bias, 0)
    return hidden, (weights[last] @ hidden.T).T + module.output.bias.detach().numpy()


def test_the_weights_give_the_predictions(pruner, classes):
    X, _ = classes
    _, logits = forward(pruner.transform(), pruner.net_.module_, X)
    assert np.allclose(
        torch.from_numpy(logits).softmax(1).numpy(), pruner.predict_proba(X), atol=1e-5
    )


def test_activations_are_those_of_the_last_hidden_layer(pruner, classes):
    X, _ = classes
    hidden, _ = forward(pruner.transform(), pruner.net_.module_, X)
    activations = pruner.transform(X)
    assert isinstance(activations, sparse.csr_array)
    assert activations.shape == (len(X), 12)
    assert activations.dtype == np.float32
    assert np.allclose(activations.toarray(), hidden, atol=1e-5)
    assert activations.nnz == np.count_nonzero(activations.toarray())


def test_weights_are_csr_arrays_that_store_nonzeros_alone(pruner):
    weights = pruner.transform()
    assert list(weights) == ["hidden_0", "hidden_1", "output"]
    for name, weight in weights.items():
        assert isinstance(weight, sparse.csr_array)
        assert weight.dtype == np.float32
        assert weight.has_canonical_format
        assert weight.nnz == np.count_nonzero(weight.toarray())
        assert not weight.toarray()[~pruner.masks_[name]].any()
    assert sum(weight.nnz for weight in weights.values()) == pruner.n_nonzero_


@pytest.mark.parametrize("format", ["csc", "coo", "bsr", "dense"])
def test_formats(pruner, classes, format):
    plain, other = pruner.transform(), pruner.transform(format=format)
    for name, weight in other.items():
        dense = weight if format == "dense" else weight.toarray()
        assert np.array_equal(dense, plain[name].toarray())
        assert format == "dense" or weight.format == format
    rows = pruner.transform(classes[0][:3], format=format)
    dense = rows if format == "dense" else rows.toarray()
    assert np.array_equal(dense, pruner.transform(classes[0][:3]).toarray())


def test_an_unknown_format_is_refused(pruner):
    with pytest.raises(ValueError, match=r"'csr', 'csc', 'coo', 'bsr', 'dense'.*'dok'"):
        pruner.transform(format="dok")


def test_blocks_of_the_granularity_are_blocks_of_the_format(classes):
    pruner = PrunedClassifier(
        small(), sparsity=0.5, granularity="block:4x4", allocation="uniform", **QUICK
    ).fit(*classes)
    weight = pruner.transform(format="bsr")["hidden_1"]
    assert weight.blocksize == (4, 4)
    assert len(weight.data) * 16 == pruner.masks_["hidden_1"].sum()


def test_giving_weights_away_gives_copies(pruner, classes):
    before = pruner.predict_proba(classes[0])
    for weight in pruner.transform().values():
        weight.data[:] = 0
    for weight in pruner.transform(format="dense").values():
        weight[:] = 0
    assert np.array_equal(pruner.predict_proba(classes[0]), before)


def test_feature_names_of_the_activations(pruner):
    names = pruner.get_feature_names_out()
    assert names.tolist() == [f"prunedclassifier{i}" for i in range(12)]


def test_feature_importances_are_the_mass_of_paths(pruner):
    one, two, three = (w.toarray() for w in pruner.transform().values())
    mass = np.zeros(8)
    for j in range(8):
        for a in range(16):
            for b in range(12):
                for c in range(3):
                    mass[j] += abs(one[a, j] * two[b, a] * three[c, b])
    assert np.allclose(pruner.feature_importances_, mass / mass.sum(), atol=1e-6)


def test_unused_inputs_have_no_importance(classes):
    pruner = PrunedClassifier(
        small(), sparsity=0.5, granularity="input", layers="hidden_0", **QUICK
    ).fit(*classes)
    unused = ~pruner.masks_["hidden_0"].any(axis=0)
    assert unused.sum() == 4
    assert np.array_equal(pruner.feature_importances_ == 0, unused)


def test_feature_importances_see_through_batch_norm(classes):
    X, y = classes
    pruner = PrunedClassifier(small(norm="batch"), sparsity=0.5, **QUICK).fit(X, y)
    module = pruner.net_.module_
    weights = pruner.transform(format="dense")
    for i in range(2):
        norm = getattr(module, f"norm_{i}")
        scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        weights[f"hidden_{i}"] *= scale.detach().numpy()[:, None]
    mass = np.abs(weights["output"]) @ np.abs(weights["hidden_1"])
    mass = (mass @ np.abs(weights["hidden_0"])).sum(0)
    assert np.allclose(pruner.feature_importances_, mass / mass.sum(), rtol=1e-4)


def test_feature_importances_of_other_nets_are_absent():
    X = np.random.default_rng(0).normal(size=(40, 64)).astype("float32")
    pruner = PrunedClassifier(own_net(Conv), **QUICK).fit(X, np.arange(40) % 10)
    assert not hasattr(pruner, "feature_importances_")
    with pytest.raises(AttributeError, match="Sequential of Linear layers"):
        pruner.feature_importances_  # noqa: B018


def test_report_adds_up(pruner):
    report = pruner.report()
    assert report.index.tolist() == ["hidden_0", "hidden_1", "output"]
    assert report["shape"].tolist() == [(16, 8), (12, 16), (3, 12)]
    assert report["weights"].tolist() == [128, 192, 36]
    assert report["nonzeros"].sum() == pruner.n_nonzero_
    assert (report["flops"] == 2 * report["nonzeros"]).all()
    assert (report["bytes_dense"] == 4 * report["weights"]).all()
    for name, weight in pruner.transform().items():
        stored = weight.data.nbytes + 4 * len(weight.indices) + 4 * len(weight.indptr)
        assert report.loc[name, "bytes_csr"] == stored
        assert report.loc[name, "sparsity"] == pytest.approx(
            pruner.layer_sparsity_[name]
        )


def weights_on_paths(matrices):
    """Count by walking forwards from the inputs and back from the outputs."""
    edges = [
        (layer, int(i), int(j))
        for layer, matrix in enumerate(matrices)
        for i, j in np.argwhere(matrix)
    ]
    from_inputs = {(0, j) for j in range(matrices[0].shape[1])}
    to_outputs = {(len(matrices), i) for i in range(len(matrices[-1]))}
    for _ in matrices:
        from_inputs |= {(n + 1, i) for n, i, j in edges if (n, j) in from_inputs}
        to_outputs |= {(n, j) for n, i, j in edges if (n + 1, i) in to_outputs}
    counts = [0] * len(matrices)
    for n, i, j in edges:
        counts[n] += (n, j) in from_inputs and (n + 1, i) in to_outputs
    return counts


def test_effective_sparsity_counts_weights_on_dead_paths_as_zero(classes):
    pruner = PrunedClassifier(small(), sparsity=0.88, **QUICK).fit(*classes)
    matrices = [w != 0 for w in pruner.transform(format="dense").values()]
    expected = weights_on_paths(matrices)
    assert sum(expected) < sum(matrix.sum() for matrix in matrices)
    report = pruner.report()
    effective = (1 - report["effective_sparsity"]) * report["weights"]
    assert np.round(effective).astype(int).tolist() == expected


def test_report_without_pandas_says_what_to_install(pruner, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r"sklearn-sparse-nn\[pandas\]"):
        pruner.report()
