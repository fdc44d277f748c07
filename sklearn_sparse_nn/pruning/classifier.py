"""The pruner for classification."""

from sklearn_sparse_nn.nets.estimator import NetClassifierMixin
from sklearn_sparse_nn.nets.tabular import TabularNetClassifier
from sklearn_sparse_nn.pruning._base import BasePruner
from sklearn_sparse_nn.pruning._parameters import ATTRIBUTES, PARAMETERS, REFERENCES

__all__ = ["PrunedClassifier"]


class PrunedClassifier(NetClassifierMixin, BasePruner):
    __doc__ = f"""A classifier that trains a neural net and makes it sparse.

    ``fit`` trains a dense net, scores its weights, prunes them on a schedule and
    fine-tunes what is left. ``transform()`` gives the weights as scipy.sparse arrays.

{PARAMETERS}
    Attributes
    ----------
    net_ : skorch net
        The trained net, without its optimizer. Its pruned weights are exactly zero.
    classes_ : ndarray of shape (n_classes,)
        The class labels.
{ATTRIBUTES}
{REFERENCES}
    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn_sparse_nn import PrunedClassifier
    >>> X, y = load_digits(return_X_y=True)
    >>> pruner = PrunedClassifier(sparsity=0.95, random_state=0).fit(X, y)
    >>> round(pruner.sparsity_, 3)
    0.95
    >>> pruner.transform()["output"].shape
    (10, 256)
    """

    _default_estimator = TabularNetClassifier
