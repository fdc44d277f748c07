"""The pruner for regression."""

from typing import Self

from numpy.typing import ArrayLike

from sklearn_sparse_nn.dense.base import (
    MatrixLike,
    NetRegressorMixin,
    refuse_metadata,
)
from sklearn_sparse_nn.dense.tabular import TabularNetRegressor
from sklearn_sparse_nn.pruning import chunks
from sklearn_sparse_nn.pruning.base import BasePruner

__all__ = ["PrunedRegressor"]


class PrunedRegressor(NetRegressorMixin, BasePruner):
    """A regressor that trains a neural net and makes it sparse.

    ``fit`` trains a dense net, scores its weights, prunes them on a schedule and
    fine-tunes the rest. ``transform()`` returns the weights as scipy.sparse arrays.
    A net of your own is trained on `y` as it is; a TabularNet standardises it.

    Parameters
    ----------
    estimator : estimator or None, default=None
        The net to prune; it is never changed. An unfitted skorch net of your own, a
        TabularNet, or ``FrozenEstimator`` around a fitted one of these, which skips the
        dense phase. None for a TabularNet with its defaults.
    sparsity : float, int or dict, default=0.9
        How much to prune. A float in [0, 1) is the fraction of prunable weights that
        become zero, rounded to the nearest count, half up. An int k above 0 keeps at
        most k non-zeros. A dict has fractions by layer pattern, as in
        ``{"hidden_*": 0.95, "output": 0.5}``; layers that no pattern matches are not
        pruned, and if several patterns match, the first counts. With groups larger than
        one weight, as many of the best groups are kept as fit. 0 trains the dense net
        for as many epochs as a sparse one.
    threshold : float or None, default=None
        The score below which a weight is pruned. Used instead of `sparsity`.
    importance : str or callable, default="magnitude"
        The scores that decide which weights to keep: ``"magnitude"`` (L1),
        ``"magnitude_l2"``, ``"random"``; ``"gradient"``, ``"snip"``, ``"taylor"``,
        ``"fisher"`` (OBD), ``"grasp"`` from the gradient of the loss; ``"wanda"``,
        ``"obs"`` from the inputs of a layer (obs also refits the weights that are
        kept); ``"apoz"``, ``"fpgm"`` for whole neurons; ``"synflow"`` from the paths
        through the net; ``"movement"`` from training. Or a function
        ``weight -> scores`` of tensors, high = keep, whose keyword-only names are the
        statistics that it needs (``core.importance.STATISTICS`` lists them).
    granularity : str or object, default="unstructured"
        The groups of weights that are kept or pruned together: ``"unstructured"``,
        ``"neuron"`` (rows; not those of the outputs, unless `layers` names them),
        ``"input"`` (columns), ``"block:RxC"`` as in ``"block:4x1"``, or ``"N:M"`` as in
        ``"2:4"``: at most 2 of every 4 weights along the inputs, and fewer where
        `sparsity` is above 0.5.
    allocation : str or callable, default="auto"
        How the weights to keep are shared out between layers: ``"global"``, one ranking
        of all weights; ``"uniform"``, the same sparsity for each layer; ``"erk"``, more
        for small layers; ``"lamp"``, one ranking of scores relative to the layer's
        larger ones; ``Bounded("global", max_sparsity=0.99)`` keeps layers within
        bounds. ``"auto"`` is ``"erk"`` where a sparse net is trained from scratch
        (`regrow` with ``dense_epochs=0``), ``"uniform"`` for apoz and fpgm, else
        ``"global"``.
    schedule : str or callable, default="cubic"
        How much is pruned at which time: ``"oneshot"``, ``"linear"``, ``"cubic"``,
        ``"exponential"``, ``"cosine"``, ``"constant"``, ``"cyclic"`` (AC/DC), an object
        such as ``Polynomial(power=3)`` (then ``schedule__power`` can be searched) or
        ``Between("cubic", end=0.6)``, or any function of progress in 0..1 that ends at
        1 and falls to nothing but 0.
    n_steps : int or None, default=None
        The number of pruning events, spread over the pruning phase. Each is at the
        start of an epoch, unless there are more events than epochs; more than training
        steps are an error. None for 10, or for as many as there are training steps, if
        these are fewer. Without pruning epochs all events come at once.
    dense_epochs : int or None, default=None
        The number of epochs before the first event. None for the net's own
        ``max_epochs``; 0 prunes before training.
    prune_epochs : int, default=10
        The number of epochs of the pruning phase.
    finetune_epochs : int, default=10
        The number of epochs under the final masks. The net's own early stopping can end
        this phase and the dense one early, but not the pruning phase.
    finetune_lr : float, default=1.0
        The factor on the learning rate in fine-tuning, above 0; schedules are scaled
        too. Han et al. (2015) train on at 0.1.
    rewind : {"weights", "learning_rate"}, Rewind or None, default=None
        What is put back to its beginning before fine-tuning: the learning rate and its
        schedule, or these and the weights that are kept. ``Rewind("weights", epoch=2)``
        puts them back to an epoch of the dense phase.
    regrow : {"random", "gradient"}, Regrow or None, default=None
        How pruned groups grow again while others are pruned, at every event: at random
        (SET) or by the gradient of the loss (RigL). The net is sparse from the start
        with ``dense_epochs=0, schedule="constant"``.
    penalty : {"l1", "l0"} or None, default=None
        The penalty that drives weights to zero between events, as strongly as the
        schedule asks: proximal steps of L1 (the group lasso, where `granularity` has
        groups), or hard concrete gates. The events then prune the rest, up to the exact
        count.
    budget : dict or None, default=None
        The most that the prunable layers may cost together, as one of
        ``{"nonzeros": n}``, ``{"flops": n}`` for one row, or ``{"bytes": n}`` as CSR
        with float32 values. Used instead of `sparsity`. The columns of ``report()`` add
        up to it at most.
    layers : str, list of str or None, default=None
        The patterns of the names of the layers to prune; None for every prunable
        weight.
    distill : float in [0, 1] or SoftTargets, default=0.0
        The weight of the dense net's outputs as soft targets, while the net is pruned
        and fine-tuned.
    subsample : int or None, default=2048
        The number of training rows, drawn anew at each event, from which the statistics
        of an importance are computed; None for all rows.
    memory : str, joblib.Memory or None, default=None
        The place where the dense phase is stored. It is then trained once and shared by
        all fits, in this process or others, that differ only in what comes after it, as
        the candidates of a search do. The fit is the same, bit for bit. The key is made
        of the net's parameters (with the code of your own classes and functions, and
        what it uses by name of their modules), the rows, the seed, `dense_epochs`, and
        versions. Without any seed, a stored net counts as good as another. A store is a
        pickle: do not use one that others can write to.
    random_state : int, RandomState instance or None, default=None
        The seed of the pruning, and of the net where it has no random state of its own.
        The global random state is left as it was.
    verbose : int, default=0
        The amount of output: 1 prints a line for every epoch.

    Attributes
    ----------
    net_ : skorch net
        The trained net, without its optimizer. Its pruned weights are exactly zero.
    masks_ : dict of layer name to bool ndarray of the weight's shape
        The masks: True where a weight is kept.
    sparsity_ : float
        The fraction of the weights of the layers to prune that are zero.
    n_nonzero_ : int
        The number of weights of these layers that are kept.
    layer_sparsity_ : dict of layer name to float
        The fraction of zeros in each of these layers.
    history_ : list of dict
        A row for every epoch: phase, epoch, sparsity, losses and scores.
    feature_importances_ : ndarray of shape (n_features_in_,)
        The mass of the paths of non-zero weights from each input; for an
        ``nn.Sequential`` of Linear layers, as a TabularNet's module is.
    n_features_in_ : int
        The number of columns seen in fit.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        The names of the columns, if X was a DataFrame with string names.

    References
    ----------
    Han et al. 2015, "Learning both Weights and Connections for Efficient Neural
    Networks"; Zhu and Gupta 2017, "To prune, or not to prune"; Hoefler et al. 2021,
    "Sparsity in Deep Learning", JMLR 22.

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
    def partial_fit(self, X: MatrixLike, y: ArrayLike, **fit_params: object) -> Self:
        """Train for one epoch on a chunk of rows, under the masks so far.

        The first call builds the net, dense; ``prune`` makes it sparse between two
        calls. Optimizer, learning-rate schedule and generators go on from chunk to
        chunk. After ``fit``, or with a FrozenEstimator, training goes on from that net
        and its zeros with a new optimizer. The net is built once: parameters that
        change later count for ``prune`` only. A later ``fit`` starts anew.

        A TabularNet takes the mean and scale of the columns and of `y` from the first
        chunk alone, and its batch size where that is ``"auto"``: let it be a random
        sample of all rows.

        Epochs, learning rates of phases, `schedule`, `n_steps`, `memory` and
        scikit-learn's callbacks are used by ``fit`` alone. A skorch callback cannot
        stop the training.

        Parameters
        ----------
        X : {array-like, sparse matrix, DataFrame} of shape (n_samples, n_features)
            The rows; numbers, converted to float32. They are not stored.
        y : array-like of shape (n_samples,)
            The values; numbers.
        **fit_params
            No other parameters; `sample_weight` is refused rather than ignored.

        Returns
        -------
        self : object
            The estimator, ready to predict, to be exported, or for the next chunk. A
            failed or interrupted call leaves everything as it was.

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
