"""A net that accelerate trains is pruned like any other."""

import pytest
from skorch import NeuralNetClassifier
from skorch.hf import AccelerateMixin

from sklearn_sparse_nn import PrunedClassifier
from tests.memory.dense_phases import QUICK, bits
from tests.pruning.nets import own_net

accelerate = pytest.importorskip("accelerate")


class AcceleratedNet(AccelerateMixin, NeuralNetClassifier):
    """As skorch's documentation has it."""


@pytest.mark.parametrize(
    "parts", [{}, {"rewind": "weights"}, {"penalty": "l1"}, {"regrow": "gradient"}]
)
def test_a_pruned_accelerated_net_is_the_plain_one(classes, parts):
    expected = PrunedClassifier(own_net(), **QUICK | parts).fit(*classes)
    accelerator = accelerate.Accelerator(cpu=True)
    params = own_net(device=None).get_params(deep=False)
    params["callbacks__print_log__sink"] = str  # prints nowhere
    net = AcceleratedNet(**params, accelerator=accelerator)
    assert bits(PrunedClassifier(net, **QUICK | parts).fit(*classes)) == bits(expected)
