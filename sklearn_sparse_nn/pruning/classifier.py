"""The pruner for classification."""

from typing import Any, Self

from sklearn_sparse_nn.dense.base import NetClassifierMixin, refuse_metadata
from sklearn_sparse_nn.dense.tabular import TabularNetClassifier
from sklearn_sparse_nn.pruning import chunks
from sklearn_sparse_nn.pruning.base import BasePruner
from sklearn_sparse_nn.pruning.parameters import ATTRIBUTES, PARAMETERS, REFERENCES

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

    @chunks.by_chunks
    def partial_fit(
        self, X: Any, y: Any, classes: Any = None, **fit_params: Any
    ) -> Self:
        """Train for one epoch on a chunk of rows, under the masks so far.

        The first call builds the net, dense; ``prune`` makes it sparse between two
        calls. Optimizer, learning-rate schedule and generators go on from chunk to
        chunk. After ``fit``, or with a FrozenEstimator, training goes on from that net
        and its zeros with a new optimizer. The net is built once: parameters that
        change later count for ``prune`` only. A later ``fit`` starts anew.

        A TabularNet takes the mean and scale of the columns from the first chunk
        alone, and its batch size where that is ``"auto"``: let it be a random sample of
        all rows.

        Epochs, `schedule`, `n_steps` and `memory` are of ``fit`` alone, and so are
        scikit-learn's callbacks; a skorch callback's wish to stop is not heard.

        Parameters
        ----------
        X : {array-like, sparse matrix, DataFrame} of shape (n_samples, n_features)
            Numbers, converted to float32. Nothing of it is kept.
        y : array-like of shape (n_samples,)
            Labels, all of them in `classes`.
        classes : array-like of shape (n_classes,) or None, default=None
            All labels that there will be: needed in the first call, unless the net is
            a fitted or frozen one that knows them; the same or None in later ones.
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
            `classes` is missing in the first call or differs later, `y` has others, X
            does not fit the chunks before it, or the net stops early.
        DivergedTrainingError
            The training loss, or a parameter, became NaN or infinite.
        """
        takes = "X and y, and classes"
        refuse_metadata(self, "partial_fit", fit_params, takes)
        chunks.partial_fit(self, X, y, classes)
        return self
