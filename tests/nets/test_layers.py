import numpy as np
import pytest
import torch
from scipy import sparse
from torch import nn
from torch.nn.utils.prune import l1_unstructured

from sklearn_sparse_nn.exceptions import UnknownNameError
from sklearn_sparse_nn.nets.layers import as_sparse, match_layers, prunable_layers


class Everything(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(7, 3)
        self.image = nn.Conv2d(2, 4, (3, 5))
        self.back = nn.ConvTranspose1d(4, 6, 3)
        self.norm = nn.BatchNorm1d(6)
        self.layer_norm = nn.LayerNorm(6)
        self.out = nn.Linear(6, 2)
        self.attention = nn.MultiheadAttention(4, 2)


def test_linear_conv_and_embedding_are_found_and_norms_are_not():
    names = list(prunable_layers(Everything()))
    assert names == ["table", "image", "back", "out", "attention.out_proj"]


def test_tied_weights_are_listed_once():
    net = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 5, bias=False))
    net[1].weight = net[0].weight
    assert list(prunable_layers(net)) == ["0"]


# torch itself warns about its own parts when the compiler is first loaded.
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
def test_compiled_modules_are_looked_through():
    net = nn.Sequential(nn.Linear(2, 3))
    compiled = torch.compile(net)
    assert list(prunable_layers(compiled)) == ["0"]


def test_a_bare_layer_has_a_name():
    assert list(prunable_layers(nn.Linear(2, 3))) == ["linear"]


def test_a_net_without_prunable_layers_lists_what_it_has():
    with pytest.raises(ValueError, match=r"BatchNorm1d, ReLU, Sequential"):
        prunable_layers(nn.Sequential(nn.ReLU(), nn.BatchNorm1d(3)))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda m: nn.utils.parametrizations.weight_norm(m),
        lambda m: l1_unstructured(m, "weight", 0.5),
    ],
    ids=["parametrization", "torch.nn.utils.prune"],
)
def test_computed_weights_are_refused_by_name(spoil):
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    spoil(net[1])
    with pytest.raises(ValueError, match="layer '1' is computed"):
        prunable_layers(net)


def test_patterns_match_names_and_parameter_names():
    names = ["enc.0", "enc.1", "head"]
    assert match_layers(names, ["head.weight", "enc.*"]) == tuple(names)
    assert match_layers(names, "enc.1") == ("enc.1",)
    assert match_layers(names, None) == tuple(names)


def test_unknown_patterns_list_the_names_and_guess():
    with pytest.raises(UnknownNameError, match=r"Did you mean 'head'.*'enc.0', 'head'"):
        match_layers(["enc.0", "head"], "haed")


@pytest.mark.parametrize("format", ["csr", "csc", "coo", "bsr", "dense"])
def test_every_format_holds_the_same_matrix(format):
    layer = prunable_layers(nn.Linear(6, 4))["linear"]
    with torch.no_grad():
        layer.weight[layer.weight < 0] = 0
    weight = as_sparse(layer, format, (2, 3))
    dense = weight if format == "dense" else weight.toarray()
    assert np.array_equal(dense, layer.weight.detach().numpy())
    if format == "dense":
        assert isinstance(weight, np.ndarray)
    else:
        assert isinstance(weight, getattr(sparse, f"{format}_array"))
        assert weight.dtype == np.float32
    if format == "bsr":
        assert weight.blocksize == (2, 3)


def test_shapes_are_out_by_in_whatever_the_layer():
    shapes = {
        name: as_sparse(layer, "csr", None).shape
        for name, layer in prunable_layers(Everything()).items()
    }
    assert shapes == {
        "table": (3, 7),
        "image": (4, 30),
        "back": (6, 12),
        "out": (2, 6),
        "attention.out_proj": (4, 4),
    }


def test_the_matrix_is_a_copy():
    layer = prunable_layers(nn.Linear(3, 2))["linear"]
    before = layer.weight.detach().clone()
    as_sparse(layer, "dense", None)[:] = 0
    assert torch.equal(layer.weight, before)


def test_an_embedding_is_a_linear_map_of_one_hot_rows():
    table = nn.Embedding(5, 3)
    weight = as_sparse(prunable_layers(table)["embedding"], "csr", None)
    assert np.array_equal(
        (weight @ np.eye(5, dtype="float32")).T, table(torch.arange(5)).detach().numpy()
    )
