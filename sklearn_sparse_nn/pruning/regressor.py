"""The pruner for regression."""

from sklearn_sparse_nn.nets.estimator import NetRegressorMixin
from sklearn_sparse_nn.nets.tabular import TabularNetRegressor
from sklearn_sparse_nn.pruning._base import BasePruner
from sklearn_sparse_nn.pruning._parameters import ATTRIBUTES, PARAMETERS, REFERENCES

__all__ = ["PrunedRegressor"]


class PrunedRegressor(NetRegressorMixin, BasePruner):
    __doc__ = f"""A regressor that trains a neural net and makes it sparse.

    ``fit`` trains a dense net, scores its weights, prunes them on a schedule and
    fine-tunes what is left. ``transform()`` gives the weights as scipy.sparse arrays.
    A net of your own is trained on `y` as it is; a TabularNet standardises it.

{PARAMETERS}
    Attributes
    ----------
    net_ : skorch net
        The trained net, without its optimizer. Its pruned weights are exactly zero.
{ATTRIBUTES}
{REFERENCES}
    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn_sparse_nn import PrunedRegressor
    >>> X, y = load_diabetes(return_X_y=True)
    >>> pruner = PrunedRegressor(sparsity=0.9, random_state=0).fit(X, y)
    >>> pruner.n_nonzero_
    13389
    """

    _default_estimator = TabularNetRegressor
