"""The parameters of the pruners: what each may be, said once for code and reader."""

from typing import Any

from sklearn.frozen import FrozenEstimator
from skorch import NeuralNet

from sklearn_sparse_nn._compat import (
    HasMethods,
    Integral,
    Interval,
    Real,
    RealNotInt,
    StrOptions,
)
from sklearn_sparse_nn.core.penalties import PENALTIES
from sklearn_sparse_nn.core.recovery import Rewind, SoftTargets
from sklearn_sparse_nn.core.regrowth import Regrow
from sklearn_sparse_nn.dense.tabular import TabularNet

__all__ = ["ATTRIBUTES", "CONSTRAINTS", "PARAMETERS", "REFERENCES"]

_COUNT = Interval(Integral, 0, None, closed="left")

CONSTRAINTS: dict[str, list[Any]] = {
    "estimator": [NeuralNet, TabularNet, FrozenEstimator, None],
    "sparsity": [Interval(RealNotInt, 0, 1, closed="left"), _COUNT, dict],
    "threshold": [Interval(Real, None, None, closed="neither"), None],
    "importance": [str, callable],
    "granularity": [str, HasMethods(["pool", "choose", "expand"])],
    "allocation": [str, callable],
    "schedule": [str, callable],
    "n_steps": [Interval(Integral, 1, None, closed="left")],
    "dense_epochs": [_COUNT, None],
    "prune_epochs": [_COUNT],
    "finetune_epochs": [_COUNT],
    "rewind": [StrOptions({"weights", "learning_rate"}), Rewind, None],
    "regrow": [str, Regrow, None],
    "penalty": [StrOptions(set(PENALTIES)), None],
    "budget": [dict, None],
    "layers": [str, list, tuple, None],
    "distill": [Interval(Real, 0, 1, closed="both"), SoftTargets],
    "subsample": [Interval(Integral, 1, None, closed="left"), None],
    "memory": [str, HasMethods("cache"), None],
    "random_state": ["random_state"],
    "verbose": ["verbose"],
}

PARAMETERS = """\
    Parameters
    ----------
    estimator : estimator or None, default=None
        The net to prune, never changed: an unfitted skorch net of your own, a
        TabularNet, or ``FrozenEstimator`` around a fitted one of these, which skips
        the dense phase. None for a TabularNet as it comes.
    sparsity : float, int or dict, default=0.9
        How much to prune. A float in [0, 1) is the fraction of prunable weights that
        become zero, rounded to the nearest count, half up. An int k above 0 keeps at
        most k non-zeros. A dict gives fractions by layer pattern, as in
        ``{"hidden_*": 0.95, "output": 0.5}``; layers that no pattern matches are not
        pruned, and of several patterns the first counts. With groups larger than one
        weight, as many of the best are kept as fit. 0 trains the dense net for as
        many epochs as a sparse one.
    threshold : float or None, default=None
        Instead of `sparsity`: prune all that scores below it.
    budget : dict or None, default=None
        Instead of `sparsity`: what the prunable layers may cost together, as one of
        ``{"nonzeros": n}``, ``{"flops": n}`` for one row, or ``{"bytes": n}`` as CSR
        with float32 values. The columns of ``report()`` add up to it at most.
    importance : str or callable, default="magnitude"
        What to keep: ``"magnitude"`` (L1), ``"magnitude_l2"``, ``"random"``;
        ``"gradient"``, ``"snip"``, ``"taylor"``, ``"fisher"`` (OBD), ``"grasp"`` from
        the loss's slopes; ``"wanda"``, ``"obs"`` from what reaches a layer (obs also
        refits what lives); ``"apoz"``, ``"fpgm"`` for whole neurons; ``"synflow"``
        from the paths through the net; ``"movement"`` from training. Or a function
        ``weight -> scores`` of tensors, high = keep, whose keyword-only names are the
        statistics that it needs (``core.importance.STATISTICS`` lists them).
    granularity : str or object, default="unstructured"
        What lives or dies together: ``"unstructured"``, ``"neuron"`` (rows; not the
        outputs', unless `layers` names them), ``"input"`` (columns), ``"block:RxC"``
        as in ``"block:4x1"``, or ``"N:M"`` as in ``"2:4"``: at most 2 of every 4
        weights along the inputs, and fewer where `sparsity` is above 0.5.
    allocation : str or callable, default="auto"
        How the budget is split over layers: ``"global"``, one ranking of all weights;
        ``"uniform"``, the same sparsity for each layer; ``"erk"``, more for small
        layers; ``"lamp"``, one ranking of scores relative to the layer's larger ones;
        ``Bounded("global", max_sparsity=0.99)`` keeps layers within bounds.
        ``"auto"`` is ``"erk"`` where a sparse net is trained from scratch (`regrow`
        with ``dense_epochs=0``), ``"uniform"`` for apoz and fpgm, else ``"global"``.
    schedule : str or callable, default="cubic"
        When how much is pruned: ``"oneshot"``, ``"linear"``, ``"cubic"``,
        ``"exponential"``, ``"cosine"``, ``"constant"``, ``"cyclic"`` (AC/DC), an
        object such as ``Polynomial(power=3)`` (then ``schedule__power`` can be
        searched) or ``Between("cubic", end=0.6)``, or any function of progress in 0..1
        that ends at 1 and falls to nothing but 0.
    n_steps : int, default=10
        Pruning events, spread over the pruning phase; each begins an epoch, unless
        there are more events than epochs. Without pruning epochs all come at once.
    dense_epochs : int or None, default=None
        Epochs before the first event. None for the net's own ``max_epochs``; 0 prunes
        before training.
    prune_epochs : int, default=10
        Epochs of the pruning phase.
    finetune_epochs : int, default=10
        Epochs under the final masks. The net's own early stopping ends this phase
        and the dense one early, but not the pruning phase.
    rewind : {"weights", "learning_rate"}, Rewind or None, default=None
        What is put back to its beginning before fine-tuning: the learning rate and
        its schedule, or these and the surviving weights. ``Rewind("weights", epoch=2)``
        puts them back to an epoch of the dense phase.
    regrow : {"random", "gradient"}, Regrow or None, default=None
        At every event, groups that die for others to grow: at random (SET) or by the
        loss's slope (RigL). Sparse from the start with ``dense_epochs=0,
        schedule="constant"``.
    penalty : {"l1", "l0"} or None, default=None
        What drives weights to zero between events, as strongly as the schedule asks:
        proximal steps of L1 (the group lasso, where `granularity` has groups), or
        hard concrete gates. The events then take what is left to the exact count.
    layers : str, list of str or None, default=None
        Patterns of the layers to prune; None for every prunable weight.
    distill : float in [0, 1] or SoftTargets, default=0.0
        Weight of the dense net's outputs as soft targets, while the net is pruned and
        fine-tuned.
    subsample : int or None, default=2048
        Training rows, drawn anew at each event, over which the statistics of an
        importance are gathered; None for all.
    memory : str, joblib.Memory or None, default=None
        Where the dense phase is stored, to be trained once and shared by all fits,
        in this process or others, that differ in what comes after it only, as the
        candidates of a search do. The fit is the same, bit for bit. Its key is the
        net's parameters (with the code of your own classes and functions, and what it
        uses by name of their modules), the rows, the seed, `dense_epochs`, and
        versions. Without any seed, the stored net is as good as another. A store is a
        pickle: use none that others can write to.
    random_state : int, RandomState instance or None, default=None
        Seeds the pruning, and the net where it has no random state of its own.
        Global random state is left as found.
    verbose : int, default=0
        1 prints a line for every epoch.
"""

ATTRIBUTES = """\
    masks_ : dict of layer name to bool ndarray of the weight's shape
        True = the weight lives.
    sparsity_ : float
        Fraction of the weights of the layers to prune that are zero.
    n_nonzero_ : int
        Weights of these layers that live.
    layer_sparsity_ : dict of layer name to float
        The same by layer.
    history_ : list of dict
        A row for every epoch: phase, epoch, sparsity, losses and scores.
    feature_importances_ : ndarray of shape (n_features_in_,)
        Mass of the surviving paths from each input; for an ``nn.Sequential`` of
        Linear layers, as a TabularNet's module is.
    n_features_in_ : int
        Columns seen in fit.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Their names, when X was a DataFrame with string names.
"""

REFERENCES = """\
    References
    ----------
    Han et al. 2015, "Learning both Weights and Connections for Efficient Neural
    Networks"; Zhu and Gupta 2017, "To prune, or not to prune"; Hoefler et al. 2021,
    "Sparsity in Deep Learning", JMLR 22.
"""
