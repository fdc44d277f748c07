"""The uses of weights while a net runs, seen at the functions that take them.

A hook sees a layer's own call and nothing else: not ``F.linear(x, layer.weight)``, not
``layer.forward(x)``, not the output projection of an attention. So the functions of
torch are watched instead, whoever calls them.
"""

import inspect
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from sklearn_sparse_nn.nets.host import AnyConv, AnyConvTranspose, own_parameters
from sklearn_sparse_nn.nets.layers import PrunableLayer

__all__ = ["Calls", "StatisticError", "Uses", "graph_nodes", "run_eagerly"]

Record = Callable[[str, Tensor, Tensor], Tensor]

#: The functions that use a weight as a layer does, with the kinds of layer that do so.
#: Each takes the inputs first and the weight second.
_LOOKUPS = (nn.Embedding, nn.EmbeddingBag)
_OWN: dict[Any, tuple[type[nn.Module], ...]] = {
    F.linear: (nn.Linear,),
    F.embedding: _LOOKUPS,
    F.embedding_bag: _LOOKUPS,
    **dict.fromkeys([F.conv1d, F.conv2d, F.conv3d], (AnyConv,)),
    **dict.fromkeys(
        [F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d],
        (AnyConvTranspose,),
    ),
}
#: Products of matrices, and functions that look up rows of a matrix.
_PRODUCTS = {
    torch.matmul,
    torch.mm,
    Tensor.matmul,
    Tensor.__matmul__,
    Tensor.mm,
}
_SUMMED_PRODUCTS = {torch.addmm, Tensor.addmm}
_PICKS = {Tensor.__getitem__, torch.embedding}

#: How inputs and outputs of a use are shown as the layer's own, and how outputs go on.
_Form = tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]
_AS_IT_IS: _Form = (lambda values: values, lambda values: values)
_TURNED: _Form = (lambda values: values.mT, lambda values: values.mT)
_ONE_ROW: _Form = (lambda values: values[None], lambda values: values[0])


class StatisticError(ValueError):
    """A statistic that is not known for a net; the message says why."""


class Uses(TorchFunctionMode):
    """Record every use of some layers' weights.

    A context manager for forward passes. A weight is known by its memory, so that views
    of it, such as its transpose, are known, too.

    Parameters
    ----------
    layers : mapping of name to PrunableLayer
        The layers; one that shares its weight with others is recorded for all of them.
    record : callable
        Called with a layer's name, its inputs and its outputs at every use that is as
        that layer's own; returns the outputs to go on with.
    apart : bool, default=False
        Whether gradients are kept from going through the recorded uses, so that
        `check` finds out what else a weight is used for.

    Attributes
    ----------
    used : set of str
        The layers whose weights were used so far, in any way.
    other : dict of str to str
        The layers whose weights were used in another way than the layer's own, with
        the name of the function.
    without_bias : set of str
        The layers with a bias that was not added where the weight was used.
    """

    def __init__(
        self,
        layers: Mapping[str, PrunableLayer],
        record: Record,
        *,
        apart: bool = False,
    ) -> None:
        super().__init__()
        self.used: set[str] = set()
        self.other: dict[str, str] = {}
        self.without_bias: set[str] = set()
        self._layers = layers
        self._record, self._apart = record, apart
        self._recorded: set[str] = set()
        self._eager: AbstractContextManager[object] = nullcontext()
        self._owners: dict[int, list[str]] = defaultdict(list)
        for name, layer in layers.items():
            place = _memory(layer.weight)
            if place is not None:
                self._owners[place].append(name)

    def __enter__(self) -> Self:
        self._eager = run_eagerly()
        self._eager.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._eager.__exit__(*error)

    def __torch_function__(
        self,
        function: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call a function of torch, and record what it does with a weight."""
        kwargs = dict(kwargs or {})
        names = self._names((args, kwargs))
        if not names:
            return function(*args, **kwargs)
        if function is F.multi_head_attention_forward:
            return self._attend(args, kwargs)
        if len(names) == 1:
            (name,) = names
            use = self._own_use(name, function, args, kwargs)
            if use is not None:
                return self._run(name, function, args, kwargs, use)
        result = function(*args, **kwargs)
        read = getattr(function, "__name__", "") == "__get__"  # a view, or a gradient
        if not read and any(not names & self._names(v) for v in _tensors(result)):
            self._note_other(names, function)
        return result

    def check(self, statistic: str, outputs: Any = None) -> None:
        """Raise an error for a layer whose weight was used otherwise, too.

        Parameters
        ----------
        statistic : str
            The statistic that would be wrong.
        outputs : tensors or None, default=None
            What the module returned, with gradients; None at the end of all batches.

        Raises
        ------
        ValueError
            The outputs depend on a weight in a way that was not recorded; or, at the
            end, a weight was only used in such ways.
        """
        if outputs is None:
            bad = set(self.other) - self._recorded
        else:
            weights = {id(layer.weight): name for name, layer in self._layers.items()}
            leaves = (getattr(node, "variable", None) for node in graph_nodes(outputs))
            bad = {weights[id(leaf)] for leaf in leaves if id(leaf) in weights}
        for name in self._layers:
            if name in bad:
                kind = type(self._layers[name].module).__name__
                through = self.other.get(name)
                how = f"through {through}" if through else "by code that is not seen"
                raise StatisticError(
                    f"The statistic {statistic!r} is not known for layer {name!r}: "
                    f"its weight is used {how}, and not only as {kind} does. "
                    "Call the layer itself, leave it out with `layers`, or choose an "
                    "importance that asks only for weights or gradients."
                )

    def _of(self, value: Tensor) -> Iterator[str]:
        """Yield the layer whose weight a tensor is, or is a part of."""
        for name in self._owners.get(_memory(value) or 0, ()):
            weight = self._layers[name].weight
            begin = weight.data_ptr()
            end = begin + weight.numel() * weight.element_size()
            if begin <= value.data_ptr() < end:
                yield name

    def _own_use(
        self, name: str, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[int | str, Tensor, _Form] | None:
        """Return how a function uses a weight as its layer does; None if it does not.

        It is the place of the weight among the arguments, the inputs, and their form.
        """
        module = self._layers[name].module
        weight: Tensor = self._layers[name].weight
        if isinstance(module, _OWN.get(function, ())):
            inputs = kwargs["input"] if "input" in kwargs else args[0]
            place: int | str = "weight" if "weight" in kwargs else 1
            operand = kwargs["weight"] if place == "weight" else args[1]
            if (
                not _same(operand, weight)
                or kwargs.get("per_sample_weights") is not None
            ):
                return None
            lookup = isinstance(module, _LOOKUPS)
            n_axes = (
                1 if lookup else 2 if isinstance(module, nn.Linear) else weight.ndim
            )
            return place, inputs, _ONE_ROW if inputs.ndim < n_axes else _AS_IT_IS
        if isinstance(module, _LOOKUPS) and function in _PICKS and len(args) > 1:
            operand, inputs = args[:2]
            entries = torch.is_tensor(inputs) and inputs.dtype in (
                torch.int64,
                torch.int32,
            )
            return (
                (0, inputs, _AS_IT_IS) if entries and _same(operand, weight) else None
            )
        if isinstance(module, nn.Linear) and not kwargs:
            first = int(function in _SUMMED_PRODUCTS)
            if first or function in _PRODUCTS:
                left, right = args[first:]
                if right.ndim == 2 and _same(right.mT, weight) and left.ndim > 1:
                    return first + 1, left, _AS_IT_IS
                if right.ndim == 2 and _same(left, weight) and not first:
                    return 0, right, _TURNED
        return None

    def _run(
        self,
        name: str,
        function: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        use: tuple[int | str, Tensor, _Form],
    ) -> Any:
        """Call a function that uses a weight as its layer does, and record it."""
        place, inputs, (shown, back) = use
        self.used.add(name)
        self._recorded.add(name)
        bias = own_parameters(self._layers[name].module).get("bias")
        if bias is not None and not any(
            _same(v, bias) for v in _tensors([args, kwargs])
        ):
            self.without_bias.add(name)
        if self._apart and isinstance(place, str):
            kwargs = kwargs | {place: kwargs[place].detach()}
        elif self._apart and isinstance(place, int):
            args = (*args[:place], args[place].detach(), *args[place + 1 :])
        output = function(*args, **kwargs)
        return back(self._record(name, shown(inputs.detach()), shown(output)))

    def _attend(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run an attention with its output projection apart, to see its inputs."""
        given = inspect.signature(F.multi_head_attention_forward).bind(*args, **kwargs)
        weight = given.arguments["out_proj_weight"]
        bias = given.arguments["out_proj_bias"]
        unit = torch.eye(len(weight), dtype=weight.dtype, device=weight.device)
        given.arguments |= {"out_proj_weight": unit, "out_proj_bias": None}
        self._note_other(self._names(given.arguments), F.multi_head_attention_forward)
        mixed, shares = F.multi_head_attention_forward(*given.args, **given.kwargs)
        return self.__torch_function__(F.linear, (), (mixed, weight, bias)), shares

    def _names(self, values: Any) -> set[str]:
        return {name for value in _tensors(values) for name in self._of(value)}

    def _note_other(self, names: Iterable[str], function: Any) -> None:
        for name in names:
            self.used.add(name)
            self.other.setdefault(name, getattr(function, "__name__", str(function)))


class Calls(Uses):
    """Keep the inputs and outputs of layers, wherever their weights are used.

    Parameters
    ----------
    layers : mapping of name to PrunableLayer
        The layers.
    apart : bool, default=False
        As in `Uses`.

    Attributes
    ----------
    seen : dict of name to list of (inputs, outputs)
        A pair for each use since the last ``seen.clear()``.
    last : (str, Tensor, Tensor) or None
        The layer that was used last, its inputs and its outputs.
    """

    def __init__(
        self, layers: Mapping[str, PrunableLayer], *, apart: bool = False
    ) -> None:
        super().__init__(layers, self._keep, apart=apart)
        self.seen: dict[str, list[tuple[Tensor, Tensor]]] = defaultdict(list)
        self.last: tuple[str, Tensor, Tensor] | None = None

    def _keep(self, name: str, inputs: Tensor, output: Tensor) -> Tensor:
        self.seen[name].append((inputs, output))
        self.last = name, inputs, output
        # An activation that works in place must not change the record.
        return output.clone()


def run_eagerly() -> AbstractContextManager[object]:
    """Run compiled modules and functions inside a context as they were written."""
    if "torch._dynamo" in sys.modules:  # else nothing is compiled
        return torch.compiler.set_stance("force_eager")
    return nullcontext()


def _memory(value: Tensor) -> int | None:
    """Return the address of a tensor's memory, None where it has none."""
    if value.layout is not torch.strided or not value.numel():
        return None
    try:
        return value.untyped_storage().data_ptr() or None
    except (RuntimeError, NotImplementedError):  # inside of vmap, or on no device
        return None


def _same(value: Any, weight: Tensor) -> bool:
    """Check whether a tensor is all of a weight, in its own form."""
    return (
        torch.is_tensor(value)
        and value.data_ptr() == weight.data_ptr()
        and value.shape == weight.shape
        and value.stride() == weight.stride()
        and value.dtype == weight.dtype
    )


def _tensors(values: Any) -> Iterator[Tensor]:
    """Yield the tensors in nested tuples, lists and dicts."""
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, (tuple, list)):
        for value in values:
            yield from _tensors(value)
    elif isinstance(values, dict):
        yield from _tensors(list(values.values()))


def graph_nodes(outputs: Any) -> Iterator[Any]:
    """Yield the nodes of autograd's graph that lead to some tensors.

    Parameters
    ----------
    outputs : tensors
        Tensors, or nested tuples, lists and dicts of them.
    """
    ahead = [value.grad_fn for value in _tensors(outputs)]
    done: set[Any] = set()
    while ahead:
        node = ahead.pop()
        if node is None or node in done:
            continue
        done.add(node)
        yield node
        ahead += [following for following, _ in node.next_functions]
