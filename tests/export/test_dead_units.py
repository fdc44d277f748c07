"""Units that say nothing are gone, and the outputs stay."""

import numpy as np
import torch
from torch import nn

from sklearn_sparse_nn import export_module
from tests.export.nets import Joined, Residual

ROWS = np.random.default_rng(1).normal(size=(9, 6)).astype(np.float32)


def assert_widths(module, widths):
    """Outputs are sums of a few numbers about 1."""
    model = export_module(module.eval())
    with torch.no_grad():
        wanted = module(torch.from_numpy(ROWS)).numpy()
    np.testing.assert_allclose(model.forward(ROWS), wanted, rtol=0, atol=4e-6)
    assert model.graph.widths == widths
    for weight in model.weights.values():
        assert (weight.data != 0).all()
    return model


def chain(*between):
    return nn.Sequential(nn.Linear(6, 8), *between, nn.ReLU(), nn.Linear(8, 3))


def clear(layer, rows=(), columns=()):
    with torch.no_grad():
        layer.weight[list(rows)] = 0
        layer.weight[:, list(columns)] = 0


def test_a_constant_unit_goes_into_the_next_bias():
    module = chain()
    clear(module[0], rows=[1, 5])
    with torch.no_grad():
        module[0].bias[:] = 2.0  # relu(2) is not 0
    assert_widths(module, (6, 6, 3))


def test_a_unit_that_nobody_reads_is_gone():
    module = chain()
    clear(module[2], columns=[0, 2, 7])
    assert_widths(module, (6, 5, 3))


def test_inputs_that_nobody_reads_are_not_looked_at():
    module = chain()
    clear(module[0], columns=[0, 4])
    model = assert_widths(module, (4, 8, 3))
    assert model.graph.stage.columns.tolist() == [1, 2, 3, 5]


def test_death_spreads_both_ways():
    module = nn.Sequential(
        nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)
    )
    clear(module[0], rows=range(4))  # constant, so what reads them alone is too
    with torch.no_grad():
        module[2].weight[:2, 4:] = 0
    clear(module[4], columns=[7])  # unread, so what it alone read is too
    with torch.no_grad():
        module[2].weight[:7, 6] = 0
    assert_widths(module, (6, 3, 5, 3))


def test_a_norm_dies_with_its_unit():
    module = chain(nn.BatchNorm1d(8))
    module[1].running_mean.normal_()
    clear(module[0], rows=[3])
    assert_widths(module, (6, 7, 3))


def test_an_empty_layer_leaves_a_constant():
    module = chain()
    clear(module[0], rows=range(8))
    model = assert_widths(module, (1, 3))
    assert model.weights["2"].nnz == 0


def test_output_columns_stay():
    module = chain()
    clear(module[2], rows=[0, 2])
    assert_widths(module, (6, 8, 3))


def test_units_that_a_layer_norm_reads_stay():
    module = chain(nn.LayerNorm(8))
    clear(module[0], rows=[1, 5])
    assert_widths(module, (6, 8, 8, 3))


def test_a_residual_keeps_both_sides_of_a_unit_or_neither():
    module = nn.Sequential(
        nn.Linear(6, 8), Residual(nn.Sequential(nn.Linear(8, 8), nn.Tanh())),
        nn.Linear(8, 3),
    )  # fmt: skip
    clear(module[1].inner[0], columns=[0, 1])
    clear(module[2], columns=[0, 1, 2])  # 2 is read by the inner layer
    assert_widths(module, (6, 6, 6, 6, 3))


def test_a_residual_whose_inner_part_is_empty():
    module = nn.Sequential(
        nn.Linear(6, 8), Residual(nn.Sequential(nn.Linear(8, 8), nn.Tanh())),
        nn.Linear(8, 3),
    )  # fmt: skip
    clear(module[1].inner[0], rows=range(8))
    assert_widths(module, (6, 8, 3))


def test_a_part_of_a_concatenation_that_nobody_reads():
    module = nn.Sequential(Joined(nn.Linear(6, 4)), nn.Linear(10, 3))
    clear(module[1], columns=range(4, 10))  # the inputs themselves
    model = assert_widths(module, (6, 4, 3))
    assert [op.kind for op in model.graph.ops] == ["linear", "linear"]


def test_a_net_that_reads_no_input():
    module = nn.Sequential(nn.Linear(6, 3))
    clear(module[0], rows=range(3))
    model = assert_widths(module, (1, 3))
    assert np.array_equal(model.forward(ROWS)[0], module[0].bias.detach().numpy())
