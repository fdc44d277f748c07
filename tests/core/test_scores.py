"""Scores equal the papers' formulas, worked out in numpy on a net with two layers."""

from itertools import pairwise, product

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from scipy.stats import spearmanr
from skorch import NeuralNetClassifier
from torch import nn

from sklearn_sparse_nn.core import scores
from sklearn_sparse_nn.core.importance import IMPORTANCES, needs
from sklearn_sparse_nn.exceptions import LayerCollapseWarning
from sklearn_sparse_nn.nets.layers import prunable_layers
from sklearn_sparse_nn.statistics.gathering import gather
from sklearn_sparse_nn.training.movement import Movement
from sklearn_sparse_nn.training.run import TrainingRun
from tests.core.decision import decide
from tests.core.generators import seeded

LAYERS = ("0", "2", "4")  # the Linear ones of the Sequential below
N_ROWS, BATCH = 29, 8  # the last batch is smaller


def mlp(*widths, bias=True):
    """Linear maps with ReLU between them, in float64."""
    parts = []
    for n_inputs, n_outputs in pairwise(widths):
        parts += [nn.Linear(n_inputs, n_outputs, bias=bias), nn.ReLU()]
    return nn.Sequential(*parts[:-1]).double()


def skorch_net(module, **kwargs):
    return NeuralNetClassifier(
        module,
        criterion=nn.CrossEntropyLoss,
        optimizer=torch.optim.SGD,
        lr=0.1,
        batch_size=BATCH,
        train_split=None,
        verbose=0,
        **kwargs,
    ).initialize()


class ByHand:
    """Forward and backward passes of an `mlp` under cross-entropy."""

    def __init__(self, module):
        linears = [part for part in module if isinstance(part, nn.Linear)]
        self.weights = [part.weight.detach().numpy().copy() for part in linears]
        self.biases = [part.bias.detach().numpy().copy() for part in linears]

    def inputs_and_outputs(self, X):
        """Give what reaches every layer, and the logits."""
        reaching = [X]
        for weight, bias in zip(self.weights, self.biases, strict=True):
            values = reaching[-1] @ weight.T + bias
            reaching.append(np.maximum(values, 0))
        return reaching[:-1], values

    def losses(self, X, y):
        _, logits = self.inputs_and_outputs(X)
        logits = logits - logits.max(1, keepdims=True)
        return np.log(np.exp(logits).sum(1)) - logits[np.arange(len(y)), y]

    def slopes(self, X, y):
        """Give the slopes of every row's loss by every layer's outputs."""
        inputs, logits = self.inputs_and_outputs(X)
        proba = np.exp(logits - logits.max(1, keepdims=True))
        slope = proba / proba.sum(1, keepdims=True) - np.eye(logits.shape[1])[y]
        found = [slope]
        for weight, fired in zip(self.weights[:0:-1], inputs[:0:-1], strict=True):
            slope = (slope @ weight) * (fired > 0)
            found.insert(0, slope)
        return inputs, found

    def gradients(self, X, y):
        """Average over rows, layer by layer."""
        inputs, slopes = self.slopes(X, y)
        return [s.T @ x / len(y) for x, s in zip(inputs, slopes, strict=True)]

    def step(self, X, y, lr):
        """Take a step of gradient descent."""
        _, slopes = self.slopes(X, y)
        gradients = self.gradients(X, y)
        for i, (slope, gradient) in enumerate(zip(slopes, gradients, strict=True)):
            self.weights[i] = self.weights[i] - lr * gradient
            self.biases[i] = self.biases[i] - lr * slope.mean(0)


@pytest.fixture(autouse=True)
def _own_rng():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    return rng.normal(size=(N_ROWS, 5)), rng.integers(0, 3, N_ROWS)


@pytest.fixture
def net():
    return skorch_net(mlp(5, 7, 6, 3))


def scored(name, net, rows, granularity=None):
    """Score every layer by statistics over batches of the rows."""
    layers = prunable_layers(net.module_)
    importance = IMPORTANCES[name]
    stats = gather(net, net.get_dataset(*rows), layers, needs(importance))
    return [
        importance(
            layer.weight.detach(), **{key: value[k] for key, value in stats.items()}
        ).numpy()
        for k, layer in layers.items()
    ]


def assert_layers_equal(found, expected, rtol=1e-9, atol=1e-13):
    assert len(found) == len(expected) == len(LAYERS)
    for one, two in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, two, rtol=rtol, atol=atol)


# gradients --------------------------------------------------------------------


def test_gradients_by_hand_are_the_slopes_of_the_loss(net, rows):
    hand = ByHand(net.module_)
    for weight, gradient in zip(hand.weights, hand.gradients(*rows), strict=True):
        for place in np.ndindex(weight.shape):
            kept, step = weight[place], 1e-6
            weight[place] = kept + step
            above = hand.losses(*rows).mean()
            weight[place] = kept - step
            below = hand.losses(*rows).mean()
            weight[place] = kept
            assert abs((above - below) / (2 * step) - gradient[place]) < 1e-8


def test_gradient_is_the_absolute_slope(net, rows):
    expected = [np.abs(g) for g in ByHand(net.module_).gradients(*rows)]
    assert_layers_equal(scored("gradient", net, rows), expected)


def test_snip_is_what_switching_a_connection_does_to_the_loss(net, rows):
    hand = ByHand(net.module_)
    # c * w at c = 1: the slope by the switch c, of equation 1 of the paper.
    expected = [np.empty(w.shape) for w in hand.weights]
    for weight, slope in zip(hand.weights, expected, strict=True):
        for place in np.ndindex(weight.shape):
            kept, step = weight[place], 1e-6
            weight[place] = kept * (1 + step)
            above = hand.losses(*rows).mean()
            weight[place] = kept * (1 - step)
            below = hand.losses(*rows).mean()
            weight[place] = kept
            slope[place] = abs(above - below) / (2 * step)
    assert_layers_equal(scored("snip", net, rows), expected, rtol=0, atol=1e-8)


def test_taylor_is_the_squared_product_of_gradient_and_weight(net, rows):
    hand = ByHand(net.module_)
    pairs = zip(hand.gradients(*rows), hand.weights, strict=True)
    expected = [(gradient * weight) ** 2 for gradient, weight in pairs]
    assert_layers_equal(scored("taylor", net, rows), expected)


def test_fisher_averages_the_squares_of_every_rows_own_gradient(net, rows):
    hand = ByHand(net.module_)
    squares = [np.zeros(w.shape) for w in hand.weights]
    for x, y in zip(*rows, strict=True):
        for total, gradient in zip(
            squares, hand.gradients(x[None], np.array([y])), strict=True
        ):
            total += gradient**2 / N_ROWS
    expected = [w**2 * s / 2 for w, s in zip(hand.weights, squares, strict=True)]
    assert_layers_equal(scored("fisher", net, rows), expected)


def hessian_times_gradient(hand, rows):
    """Move along the gradient, and see how the gradient changes."""
    direction, before, step = hand.gradients(*rows), hand.weights, 1e-6

    def at(t):
        hand.weights = [w + t * d for w, d in zip(before, direction, strict=True)]
        return hand.gradients(*rows)

    ends = zip(at(step), at(-step), strict=True)
    products = [(above - below) / (2 * step) for above, below in ends]
    hand.weights = before
    return products


def test_grasp_is_the_weight_times_the_hessian_times_the_gradient(net, rows):
    hand = ByHand(net.module_)
    products = hessian_times_gradient(hand, rows)
    expected = [w * hg for w, hg in zip(hand.weights, products, strict=True)]
    assert_layers_equal(scored("grasp", net, rows), expected, rtol=0, atol=1e-9)


def test_grasp_removes_what_the_paper_scores_highest(net, rows):
    hand = ByHand(net.module_)
    products = hessian_times_gradient(hand, rows)
    # Equation 8: -theta * Hg, and the highest are removed.
    pairs = zip(hand.weights, products, strict=True)
    paper = np.concatenate([(-w * hg).ravel() for w, hg in pairs])
    layers = prunable_layers(net.module_)
    stats = gather(net, net.get_dataset(*rows), layers, ["hessian_grad"])
    weights = {name: layer.weight for name, layer in layers.items()}
    masks = decide(weights, 0.3, importance="grasp", stats=stats)
    removed = ~np.concatenate([mask.numpy().ravel() for mask in masks.values()])
    assert removed.sum() > 20
    assert paper[removed].min() >= paper[~removed].max() - 1e-9


# paths ------------------------------------------------------------------------


def test_synflow_is_the_mass_of_all_paths_through_a_weight():
    module = mlp(3, 4, 3, 2)
    net = skorch_net(module)
    rows = np.random.default_rng(0).normal(size=(4, 3)), np.array([0, 1, 0, 1])
    first, second, third = ByHand(module).weights
    expected = [np.zeros(w.shape) for w in (first, second, third)]
    for i, j, k, m in product(range(3), range(4), range(3), range(2)):
        mass = abs(first[j, i] * second[k, j] * third[m, k])
        expected[0][j, i] += mass
        expected[1][k, j] += mass
        expected[2][m, k] += mass
    assert_layers_equal(scored("synflow", net, rows), expected)


def test_synflow_needs_no_data(net, rows):
    others = np.full_like(rows[0], 1e3), rows[1]
    assert_layers_equal(scored("synflow", net, others), scored("synflow", net, rows))


def n_whole_paths(masks):
    """Count the paths from an input to an output."""
    by_unit = np.ones(next(iter(masks.values())).shape[1])
    for mask in masks.values():
        by_unit = mask.numpy().astype(float) @ by_unit
    return by_unit.sum()


def wide_net():
    return skorch_net(mlp(20, 100, 100, 100, 5)), (
        np.random.default_rng(0).normal(size=(60, 20)),
        np.arange(60) % 5,
    )


def test_a_hundred_steps_of_synflow_keep_a_whole_path_at_999_in_1000():
    net, rows = wide_net()
    layers = prunable_layers(net.module_)
    size = sum(layer.weight.numel() for layer in layers.values())
    masks = None
    for step in range(1, 101):
        weights = {name: layer.weight.detach() for name, layer in layers.items()}
        stats = gather(net, net.get_dataset(*rows), layers, ["path_grad"])
        masks = decide(
            weights,
            round(size * 0.001 ** (step / 100)),
            importance="synflow",
            stats=stats,
            masks=masks,
        )
        with torch.no_grad():
            for name, layer in layers.items():
                layer.weight.mul_(masks[name])
    assert sum(int(mask.sum()) for mask in masks.values()) == round(size * 0.001)
    assert n_whole_paths(masks) >= 1


@pytest.mark.parametrize("name", ["magnitude", "snip"])
def test_one_step_by_other_scores_can_break_every_path(name):
    net, rows = wide_net()
    layers = prunable_layers(net.module_)
    stats = gather(net, net.get_dataset(*rows), layers, needs(IMPORTANCES[name]))
    weights = {k: layer.weight.detach() for k, layer in layers.items()}
    with pytest.warns(LayerCollapseWarning):
        masks = decide(weights, 0.999, importance=name, stats=stats)
    assert n_whole_paths(masks) == 0


# movement ---------------------------------------------------------------------


def test_movement_sums_minus_gradient_times_weight_over_the_steps(net, rows):
    hand = ByHand(net.module_)
    expected = [np.zeros(w.shape) for w in hand.weights]
    layers = prunable_layers(net.module_)
    with Movement(layers) as movement:
        run = TrainingRun(net, *rows)
        for _ in range(3):
            run.epoch("dense")
    X, y = rows
    for _ in range(3):
        for start in range(0, N_ROWS, BATCH):
            part = X[start : start + BATCH], y[start : start + BATCH]
            pairs = zip(hand.gradients(*part), hand.weights, strict=True)
            for total, (gradient, weight) in zip(expected, pairs, strict=True):
                total -= gradient * weight
            hand.step(*part, lr=0.1)
    found = [
        scores.movement(layers[name].weight, movement=movement.total[name]).numpy()
        for name in LAYERS
    ]
    assert_layers_equal(found, expected, rtol=1e-8)


def test_movement_is_positive_where_training_grows_the_weight():
    net = skorch_net(nn.Linear(1, 2, bias=False).double())
    with torch.no_grad():
        net.module_.weight.copy_(torch.ones(2, 1))
    layers = prunable_layers(net.module_)
    with Movement(layers) as movement:
        TrainingRun(net, np.ones((4, 1)), np.zeros(4, dtype=int)).epoch("dense")
    assert net.module_.weight[0] > 1 > net.module_.weight[1]
    total = movement.total["linear"]
    assert total[0] > 0 > total[1]


def test_nothing_of_movement_stays_behind(net, rows):
    callbacks = list(net.callbacks_)
    with Movement(prunable_layers(net.module_)) as movement:
        TrainingRun(net, *rows).epoch("dense")
    before = movement.total["0"].clone()
    TrainingRun(net, *rows).epoch("dense")
    assert net.callbacks_ == callbacks
    assert torch.equal(movement.total["0"], before)


# activations ------------------------------------------------------------------


def test_wanda_is_the_weight_times_the_norm_of_its_input(net, rows):
    hand = ByHand(net.module_)
    inputs, _ = hand.inputs_and_outputs(rows[0])
    expected = [
        np.abs(weight) * np.sqrt((x**2).sum(0))
        for weight, x in zip(hand.weights, inputs, strict=True)
    ]
    assert_layers_equal(scored("wanda", net, rows), expected)


def test_wanda_drops_first_what_hangs_on_a_dead_input(net, rows):
    X = rows[0].copy()
    X[:, 2] = 0.0
    with torch.no_grad():
        net.module_[0].weight[:, 2] = 100.0
    layers = {"0": prunable_layers(net.module_)["0"]}
    stats = gather(net, net.get_dataset(X, rows[1]), layers, ["input_norm"])
    weights = {"0": layers["0"].weight}
    masks = decide(weights, 35 - 7, importance="wanda", stats=stats)
    assert (~masks["0"]).nonzero().tolist() == [[i, 2] for i in range(7)]


def test_apoz_is_one_minus_the_fraction_of_zeros_after_relu(net, rows):
    hand = ByHand(net.module_)
    inputs, _ = hand.inputs_and_outputs(rows[0])
    found = scored("apoz", net, rows)
    for score, after, weight in zip(found[:2], inputs[1:], hand.weights, strict=False):
        alive = 1 - (after == 0).mean(0)
        expected = np.repeat(alive[:, None], weight.shape[1], axis=1)
        np.testing.assert_allclose(score, expected, atol=1e-7)  # counted in float32


def test_apoz_prunes_first_the_neuron_that_never_fires(net, rows):
    with torch.no_grad():
        net.module_[0].bias[4] = -1e3
        net.module_[0].weight[4] *= 100.0
    layers = {"0": prunable_layers(net.module_)["0"]}
    stats = gather(net, net.get_dataset(*rows), layers, ["activation_zeros"])
    weights = {"0": layers["0"].weight}
    asked = {"importance": "apoz", "granularity": "neuron", "stats": stats}
    masks = decide(weights, 35 - 5, **asked)
    assert masks["0"].all(1).tolist() == [i != 4 for i in range(7)]


# geometry ---------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(6, 5), (4, 3, 2, 2), (1, 4)])
def test_fpgm_is_the_sum_of_distances_to_the_other_neurons(shape):
    weight = np.random.default_rng(0).normal(size=shape)
    rows = weight.reshape(len(weight), -1)
    by_neuron = cdist(rows, rows).sum(1)
    found = scores.fpgm(torch.as_tensor(weight)).numpy().reshape(len(weight), -1)
    expected = np.repeat(by_neuron[:, None], rows.shape[1], axis=1)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_fpgm_tells_neurons_apart_that_lie_close_together_and_far_out():
    far = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    weight = 1000 + far / 8
    found = scores.fpgm(torch.as_tensor(weight))[:, 0].numpy()
    expected = cdist(weight.astype(float), weight.astype(float)).sum(1)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_fpgm_prunes_first_one_of_two_neurons_that_are_the_same():
    # Four corners of a square and its middle twice: the middle is replaceable.
    points = [[0.0, 0], [9, 0], [0, 9], [9, 9], [5, 5], [5, 5]]
    weights = {"layer": torch.tensor(points)}
    masks = decide(weights, 10, importance="fpgm", granularity="neuron")
    assert masks["layer"].all(1).tolist() == [True] * 5 + [False] or (
        masks["layer"].all(1).tolist() == [True] * 4 + [False, True]
    )


# second order -----------------------------------------------------------------


def test_fisher_ranks_weights_by_the_true_rise_of_the_loss():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(600, 6)) * np.linspace(0.2, 2, 6)
    truth = mlp(6, 5, 3)
    with torch.no_grad():
        proba = torch.softmax(2 * truth(torch.as_tensor(X)), 1).numpy()
    y = np.array([rng.choice(3, p=row) for row in proba])
    net = skorch_net(mlp(6, 5, 3))
    module, rows = net.module_, (torch.as_tensor(X), torch.as_tensor(y))
    optimizer = torch.optim.LBFGS(module.parameters(), max_iter=300)

    def loss():
        optimizer.zero_grad()
        value = nn.functional.cross_entropy(module(rows[0]), rows[1])
        value = value + 1e-4 * sum(p.square().sum() for p in module.parameters())
        value.backward()
        return value

    optimizer.step(loss)
    hand = ByHand(module)
    least = hand.losses(X, y).mean()
    rises, found, chance = [], scored("fisher", net, (X, y)), []
    for weight in hand.weights:
        for place in np.ndindex(weight.shape):
            kept, weight[place] = weight[place], 0.0
            rises.append(hand.losses(X, y).mean() - least)
            weight[place] = kept
        chance.append(scores.random(torch.as_tensor(weight), generator=seeded(1)))
    flat = np.concatenate([score.ravel() for score in found])
    by_chance = np.concatenate([score.numpy().ravel() for score in chance])
    assert spearmanr(flat, rises).statistic > 0.9
    assert abs(spearmanr(by_chance, rises).statistic) < 0.5
