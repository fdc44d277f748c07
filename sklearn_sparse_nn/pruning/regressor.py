"""The pruner for regression."""

from typing import Any, Self

from sklearn_sparse_nn.dense.base import NetRegressorMixin, refuse_metadata
from sklearn_sparse_nn.dense.tabular import TabularNetRegressor
from sklearn_sparse_nn.pruning import chunks
from sklearn_sparse_nn.pruning.base import BasePruner
from sklearn_sparse_nn.pruning.parameters import ATTRIBUTES, PARAMETERS, REFERENCES

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

    @chunks.by_chunks
    def partial_fit(self, X: Any, y: Any, **fit_params: Any) -> Self:
        """Train for one epoch on a chunk of rows, under the masks so far.

        The first call builds the net, dense; ``prune`` makes it sparse between two
        calls. Optimizer, learning-rate schedule and generators go on from chunk to
        chunk. After ``fit``, or with a FrozenEstimator, training goes on from that net
        and its zeros with a new optimizer. The net is built once: parameters that
        change later count for ``prune`` only. A later ``fit`` starts anew.

        A TabularNet takes the mean and scale of the columns and of `y` from the first
        chunk alone, and its batch size where that is ``"auto"``: let it be a random
        sample of all rows.

        Epochs, `schedule`, `n_steps` and `memory` are of ``fit`` alone, and so are
        scikit-learn's callbacks; a skorch callback's wish to stop is not heard.

        Parameters
        ----------
        X : {array-like, sparse matrix, DataFrame} of shape (n_samples, n_features)
            Numbers, converted to float32. Nothing of it is kept.
        y : array-like of shape (n_samples,)
            Numbers.
        **fit_params
            None are supported; `sample_weight` is refused rather than ignored.

        Returns
        -------
        self : object
            Ready to predict, to be exported, or for the next chunk. A failed or
            interrupted call leaves everything as it was.

        Raises
        ------
        AttributeError
            A parameter needs a whole fit: `penalty`, `regrow`, `rewind` or `distill`.
        ValueError
            X does not fit the chunks before it, or the net stops early.
        DivergedTrainingError
            The training loss, or a parameter, became NaN or infinite.
        """
        refuse_metadata(self, "partial_fit", fit_params, "X and y")
        chunks.partial_fit(self, X, y)
        return self
