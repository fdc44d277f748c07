"""A net on its way from dense to sparse."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from numbers import Real
from typing import Any, Self

import numpy as np
import torch
from skorch import NeuralNet
from torch import Tensor

from sklearn_sparse_nn.core.granularity import Block
from sklearn_sparse_nn.core.plan import Event
from sklearn_sparse_nn.dense.base import NetRows
from sklearn_sparse_nn.dense.source import DenseNet, NetFormat
from sklearn_sparse_nn.dense.validation import split_datasets
from sklearn_sparse_nn.memory.snapshot import Snapshot
from sklearn_sparse_nn.nets.copies import (
    copy_module,
    private_twin,
    spare_global_rng,
)
from sklearn_sparse_nn.nets.layers import PrunableLayer, prunable_layers, zero_mask
from sklearn_sparse_nn.nets.seeding import GlobalState
from sklearn_sparse_nn.pruning.events import PruningEvents
from sklearn_sparse_nn.pruning.limits import Shared
from sklearn_sparse_nn.pruning.parameters import Pruner
from sklearn_sparse_nn.pruning.progress import History, Row
from sklearn_sparse_nn.pruning.request import Request, resolve_request
from sklearn_sparse_nn.statistics.shape import NetShape, shape_of
from sklearn_sparse_nn.training.holding import MaskHolder, check_zeros
from sklearn_sparse_nn.training.movement import Movement
from sklearn_sparse_nn.training.rewinding import Beginning
from sklearn_sparse_nn.training.run import (
    TrainingRun,
    drop_training_state,
)

__all__ = ["FITTED", "WATCHED", "PruningRun"]

Masks = Mapping[str, Tensor]
Fitted = dict[str, object]

#: What importances want to know of the training, and can only be watched.
WATCHED = ("initial", "movement")
#: The attributes that a fit gives a pruner; those with an underscore in front are what
#: later calls need, so that changed parameters change no fitted net.
FITTED = (
    "net_",
    "targets_",
    "masks_",
    "sparsity_",
    "n_nonzero_",
    "layer_sparsity_",
    "history_",
    "_own_dtype",
    "_block",
    "_n_features_out",
    "_uses",
    "_snapshot",
)
#: What the dense phase makes: kept in a store, or for the other fits of a path.
_TRAINED = (
    "net",
    "training",
    "history",
    "go_on",
    "beginning",
    "initial",
    "movement",
)


@dataclass
class PruningRun:
    """A net, its training and its masks, driven by ``fit`` and by ``partial_fit``.

    Parameters
    ----------
    net : skorch.NeuralNet
        An initialized net.
    format : NetFormat
        How it takes rows and targets.
    shape : NetShape
        The last layer of the net, and how often its weights are used.
    frozen : bool
        Whether it came trained.
    X, y : arrays or None
        Rows in the net's format; None between two chunks.
    global_state : GlobalState
        The global generators, as far as the run uses them.
    generator : torch.Generator
        The source of all that is random in pruning.
    training : TrainingRun or None, default=None
        The training of the net, once that has begun.
    masks : dict of layer name to bool Tensor of shape (out, in, ...), default={}
        The weights that live.
    history : list of dict, default=[]
        A row for every epoch.
    go_on : bool, default=True
        Whether no callback has stopped training.
    beginning : Beginning or None, default=None
        The epoch that rewinding goes back to.
    initial, movement : dict of layer name to Tensor of shape (out, in, ...)
        The weights at the beginning, and how far training has moved them, where an
        importance needs them.
    block : tuple of int or None, default=None
        The shape of blocks that live together.
    counts : dict of tuple to int, default={}
        How many weights earlier calls of ``prune`` have kept, by layers and unit.
    drawn : object or None, default=None
        The state of the global generators between two chunks.
    """

    net: NeuralNet
    format: NetFormat
    shape: NetShape
    frozen: bool
    X: NetRows | None
    y: np.ndarray | None
    global_state: GlobalState
    generator: torch.Generator
    training: Any = None
    masks: dict[str, Tensor] = field(default_factory=dict)
    history: History = field(default_factory=list)
    go_on: bool = True
    beginning: Beginning | None = None
    initial: dict[str, Tensor] = field(default_factory=dict)
    movement: dict[str, Tensor] = field(default_factory=dict)
    block: tuple[int, int] | None = None
    counts: dict[Shared, int] = field(default_factory=dict)
    drawn: Any = None
    holder: MaskHolder | None = field(default=None, init=False)
    events: PruningEvents | None = field(default=None, init=False)

    @classmethod
    def begin(cls, dense: DenseNet, global_state: GlobalState) -> Self:
        """Build a run around a net that is not trained yet, or comes trained.

        Parameters
        ----------
        dense : DenseNet
            The net, and training data in its format.
        global_state : GlobalState
            The global generators; their seed seeds everything in the run.

        Returns
        -------
        run : PruningRun
        """
        return cls(
            dense.net,
            dense.format,
            shape_of(dense.net, dense.X),
            dense.frozen,
            dense.X,
            dense.y,
            global_state,
            torch.Generator().manual_seed(global_state.seed),
        )

    @property
    def layers(self) -> dict[str, PrunableLayer]:
        """The layers under masks."""
        found = prunable_layers(self.net.module_)
        return {name: found[name] for name in self.masks}

    @property
    def phase(self) -> str:
        """The phase of the next epoch between two chunks."""
        dense = all(bool(mask.all()) for mask in self.masks.values())
        return "dense" if dense else "finetune"

    def request(
        self,
        pruner: Pruner,
        *,
        max_epochs: int | None = None,
        trained: bool | None = None,
    ) -> Request:
        """Resolve what a pruner's parameters ask of this net.

        Parameters
        ----------
        pruner : estimator
            The pruner; its parameters are read.
        max_epochs : int or None, default=None
            Epochs of the dense phase, where the pruner does not say; None for the
            net's own number.
        trained : bool or None, default=None
            Whether the net is trained before the first event; None for as it came.

        Returns
        -------
        request : Request
        """
        return resolve_request(
            pruner,
            prunable_layers(self.net.module_),
            last=self.shape.last,
            uses=self.shape.uses,
            max_epochs=self.net.max_epochs if max_epochs is None else max_epochs,
            frozen=self.frozen if trained is None else trained,
            n_batches=None if self.training is None else self.training.least_batches,
        )

    def start_training(self, kind: type[TrainingRun] = TrainingRun) -> None:
        """Start the training run, over all rows or over chunks of rows.

        Callbacks know already that training has begun.
        """
        split = partial(split_datasets, self.format)
        self.training = kind(self.net, self.X, self.y, begun=True, split=split)

    def start_masks(
        self, request: Request, known: Mapping[str, np.ndarray] | None = None
    ) -> None:
        """Set the first masks: known ones, the zeros of a frozen net, or none dead."""
        self.block = _block_of(request)
        if known is not None:
            layers = prunable_layers(self.net.module_)
            self.masks = {
                name: layers[name].turned(torch.from_numpy(mask.copy())).contiguous()
                for name, mask in known.items()
            }
        elif self.frozen:
            self.masks = zero_mask(request.layers)
        else:
            self.masks = _all_alive(request.layers)

    def look_again(self, pruner: Pruner) -> Request:
        """Resolve a request of the layers that the net has after its dense phase.

        Parameters
        ----------
        pruner : estimator
            The pruner; its parameters are read.

        Returns
        -------
        request : Request
        """
        self.shape = shape_of(self.net, self.X)
        request = self.request(pruner)
        self.start_masks(request)
        return request

    def replaced(self, layers: Mapping[str, PrunableLayer]) -> bool:
        """Check whether a callback has replaced the module of some layers.

        Parameters
        ----------
        layers : mapping of name to PrunableLayer
            The layers as they were.

        Returns
        -------
        replaced : bool
        """
        now = {layer.module for layer in prunable_layers(self.net.module_).values()}
        return any(layer.module not in now for layer in layers.values())

    def watch(
        self, needs: tuple[str, ...], layers: Mapping[str, PrunableLayer]
    ) -> AbstractContextManager[object]:
        """Remember what importances need of the training, from now on.

        Parameters
        ----------
        needs : tuple of str
            Names of statistics.
        layers : mapping of name to PrunableLayer
            The layers that are watched.

        Returns
        -------
        watching : context manager
            To be entered around training; it sums up the movement of weights.
        """
        if "initial" in needs and not self.initial:
            self.initial = {
                name: layer.turned(layer.weight.detach().clone())
                for name, layer in layers.items()
            }
        if "movement" not in needs:
            return nullcontext()
        movement = Movement(layers, self.movement)
        self.movement = movement.total
        return movement

    @contextmanager
    def held(
        self, layers: Mapping[str, PrunableLayer] | None = None
    ) -> Iterator[MaskHolder]:
        """Hold the masks of some layers, by default of all, around training."""
        layers = self.layers if layers is None else layers
        with MaskHolder(self.net, layers, self.masks_of(layers)) as holder:
            self.holder = holder
            yield holder
        self.holder = None
        self.masks = {**self.masks, **holder.masks}

    @contextmanager
    def pruning(self, request: Request) -> Iterator[PruningEvents]:
        """Hold the masks around training, and open it for pruning events."""
        self.block = _block_of(request)
        masks = self.masks_of(request.layers)
        with PruningEvents(
            self.net,
            self.training,
            masks,
            request,
            self.generator,
            initial=self.initial,
            movement=self.movement,
        ) as events:
            self.events, self.holder = events, events.holder
            yield events
        self.masks = {**self.masks, **events.holder.masks}
        self.events = self.holder = None

    def prune(self, event: Event, following: Event | None = None) -> None:
        """Carry out one pruning event, inside of `pruning`.

        Parameters
        ----------
        event : Event
            The share of the request that is due.
        following : Event or None, default=None
            The next event, which a penalty works towards.
        """
        assert self.events is not None, "inside of `pruning`"
        self.events.carry_out(event, following)
        # What was best before these masks is no measure any more.
        self.training.forget_best()

    def penalized(self) -> AbstractContextManager[None]:
        """Apply the penalty that was requested, if any, until the last event."""
        assert self.events is not None, "inside of `pruning`"
        return self.events.penalized()

    def apply_masks(self, *, zeros_die: bool = False) -> None:
        """Zero the weights that the masks prune; a callback may have restored others.

        Parameters
        ----------
        zeros_die : bool, default=False
            Whether weights that live and are zero all the same are masked as well.
        """
        assert self.holder is not None, "inside of `held`"
        self.holder.apply()
        if zeros_die:
            self.holder.mask_zeros()

    def end(self, *, keep_weights: bool) -> None:
        """End training: tell callbacks, and let masks and zeros be one.

        Parameters
        ----------
        keep_weights : bool
            Whether callbacks must not restore other weights, such as those of an epoch
            at another sparsity.
        """
        assert self.holder is not None, "inside of `held`"
        kept = deepcopy(self.net.module_.state_dict()) if keep_weights else None
        self.training.end()
        self.holder.follow()
        if kept is not None:
            self.net.module_.load_state_dict(kept)
        self.apply_masks(zeros_die=True)

    def train(
        self, phase: str, before_batch: Callable[[Fraction], None] | None = None
    ) -> Row:
        """Train for one epoch, and append its row to the history.

        Parameters
        ----------
        phase : {"dense", "prune", "finetune"}
            The phase, for the history and for messages.
        before_batch : callable or None, default=None
            Called before every batch but the first, with the part of the epoch that is
            done.

        Returns
        -------
        row : dict
            The epoch's row of the history. `go_on` says whether a callback has asked
            for a stop.
        """
        if self.holder is not None:
            self.holder.apply()  # a callback may have loaded other weights
        self.go_on = self.training.epoch(phase, before_batch)
        if self.holder is not None:
            self.holder.check(phase)
        sparsity = 0.0 if self.holder is None else self.holder.sparsity()
        row: Row = {
            "phase": phase,
            "epoch": len(self.history) + 1,
            "sparsity": sparsity,
        }
        recorded = self.net.history[-1].items()
        row |= {key: value for key, value in recorded if _is_record(key, value)}
        self.history.append(row)
        return row

    def masks_of(self, layers: Mapping[str, PrunableLayer]) -> dict[str, Tensor]:
        """Return the masks of some layers; all weights live where there was none."""
        return {
            name: self.masks[name] if name in self.masks else _alive(layer)
            for name, layer in layers.items()
        }

    def trained(self) -> dict[str, Any]:
        """Return what the dense phase has made, to be stored."""
        made = {name: getattr(self, name) for name in _TRAINED}
        return made | {"drawn": self.global_state.copy()}

    def take_up(self, trained: Mapping[str, Any]) -> None:
        """Continue from a dense phase that `trained` returned elsewhere."""
        for name in _TRAINED:
            setattr(self, name, trained[name])
        self.global_state.restore(trained["drawn"])

    def fitted(self, snapshot: Snapshot | None = None) -> Fitted:
        """Make the fitted attributes of a pruner; the net is done with training.

        Parameters
        ----------
        snapshot : Snapshot or None, default=None
            The run as a later call takes it up.

        Returns
        -------
        attributes : dict of str to object
            By the names in `FITTED`.
        """
        drop_training_state(self.net)
        spare_global_rng(self.net)
        check_zeros(self.net.module_, self.masks, exactly=snapshot is None)
        return self._attributes(self.net, snapshot)

    def fitted_so_far(self, net: NeuralNet, history: History) -> Fitted:
        """Make the fitted attributes as if training stopped now; the net is copied.

        Parameters
        ----------
        net : skorch.NeuralNet
            The net in training.
        history : list of dict
            A row for every epoch so far.

        Returns
        -------
        attributes : dict of str to object
        """
        twin = private_twin(net)
        twin.__dict__["module_"] = copy_module(twin.module_)
        found = prunable_layers(twin.module_)
        masks = zero_mask({name: found[name] for name in self.masks})
        return self._attributes(twin, None, masks) | {"history_": history}

    def snapshot(self) -> Snapshot:
        """Build a copy of the run as bytes, without its rows.

        Returns
        -------
        snapshot : Snapshot

        Raises
        ------
        TypeError
            Something in the net or its callbacks cannot be pickled.
        """
        self.X = self.y = None
        self.training.release()
        self.drawn = self.global_state.copy()
        try:
            return Snapshot.of(self, live=True)
        except Exception as error:
            raise TypeError(
                "Between calls training is kept as bytes, and something in the net or "
                f"its callbacks cannot be pickled: {error}. Take it out, or call fit."
            ) from error

    def _attributes(
        self, net: NeuralNet, snapshot: Snapshot | None, masks: Masks | None = None
    ) -> Fitted:
        masks = self.masks if masks is None else masks
        layers = prunable_layers(net.module_)
        zeros = {name: int((~mask).sum()) for name, mask in masks.items()}
        sizes = {name: mask.numel() for name, mask in masks.items()}
        return {
            "net_": net,
            "targets_": self.format.targets,
            "masks_": {
                name: layers[name].turned(mask).numpy().copy()
                for name, mask in masks.items()
            },
            "sparsity_": sum(zeros.values()) / sum(sizes.values()),
            "n_nonzero_": sum(sizes.values()) - sum(zeros.values()),
            "layer_sparsity_": {name: zeros[name] / sizes[name] for name in masks},
            "history_": self.history,
            "_own_dtype": self.format.own_dtype,
            "_block": self.block,
            "_n_features_out": self.shape.width,
            "_uses": self.shape.uses,
            "_snapshot": snapshot,
        }


def _alive(layer: PrunableLayer) -> Tensor:
    return torch.ones(layer.turned(layer.weight).shape, dtype=torch.bool)


def _all_alive(layers: Mapping[str, PrunableLayer]) -> dict[str, Tensor]:
    return {name: _alive(layer) for name, layer in layers.items()}


def _block_of(request: Request) -> tuple[int, int] | None:
    part = request.granularity
    return (part.rows, part.columns) if isinstance(part, Block) else None


def _is_record(key: str, value: object) -> bool:
    """Check whether a value is a score or a loss of an epoch, not a count."""
    bookkeeping = key == "epoch" or key.endswith("_batch_count")
    return not bookkeeping and isinstance(value, Real) and not isinstance(value, bool)
