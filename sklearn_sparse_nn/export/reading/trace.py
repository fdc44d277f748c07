"""The recording of a module's forward, by running it on a stand-in for its input.

``torch.fx.symbolic_trace`` replaces ``nn.Module.__call__`` for all threads while it
runs. Here the module tree is copied, without its parameters, and the known modules of
the copy are replaced by recorders: nothing outside of the copy is touched.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Any, TypeAlias

import torch
from torch import Tensor, fx, nn
from torch.fx.proxy import Scope, TracerBase
from torch.overrides import TorchFunctionMode

from sklearn_sparse_nn.exceptions import UnsupportedLayerError
from sklearn_sparse_nn.export.reading.evaluation import copy_structure
from sklearn_sparse_nn.export.reading.shapes import LENGTH
from sklearn_sparse_nn.export.steps import Step
from sklearn_sparse_nn.nets.host import (
    has_forward_hooks,
    has_global_forward_hooks,
    original,
    own_modules,
    set_own_modules,
)

__all__ = ["Trace", "place", "trace"]

#: torch's functions that draw random numbers.
_DRAWS = (
    "bernoulli",
    "bernoulli_",
    "binomial",
    "cauchy_",
    "exponential_",
    "geometric_",
    "log_normal_",
    "multinomial",
    "normal",
    "normal_",
    "poisson",
    "rand",
    "rand_like",
    "randint",
    "randint_like",
    "randn",
    "randn_like",
    "random_",
    "randperm",
    "uniform_",
)
_LISTS = (nn.ParameterList, nn.ParameterDict)  # torch makes them not callable

#: Converts a recorded call to a step, or to the number or shape that it returns.
Convert: TypeAlias = Callable[["Trace", fx.Node], Any]


@dataclass
class Trace:
    """A recorded forward of a module.

    Parameters
    ----------
    graph : fx.Graph
        The calls; ``meta["place"]`` of a node names the module that made it.
    output : fx.Node
        The output of the module; the first entry if it is a tuple.
    modules : dict of path to nn.Module
        The known modules that were called: copies in evaluation mode, with the
        parameters of the originals.
    constants : dict of name to Tensor
        The tensors that the calls use.
    results : list of (path, fx.Node or None, fx.Node)
        What every module took first, and what it returned, in the order in which their
        forwards ended.
    """

    graph: fx.Graph
    output: Any = None
    modules: dict[str, nn.Module] = field(default_factory=dict)
    constants: dict[str, Tensor] = field(default_factory=dict)
    results: list[tuple[str, fx.Node | None, fx.Node]] = field(default_factory=list)


def place(path: str, module: nn.Module | None = None) -> str:
    """Name a module in a message."""
    kind = "" if module is None else f" ({type(module).__name__})"
    return f"module {path!r}{kind}" if path else f"the module itself{kind}"


def trace(
    module: nn.Module,
    known: Iterable[type[nn.Module]],
    convert: Convert | None = None,
) -> Trace:
    """Record the calls that a module makes with one argument, in evaluation.

    Parameters
    ----------
    module : nn.Module
        The module. Neither it nor anything in it is changed.
    known : iterable of types
        The modules that are recorded as one call.
    convert : callable or None, default=None
        Is called for every call as it is recorded. What it returns tells the forward
        the shapes of its values; None to record calls alone, which say nothing.

    Returns
    -------
    trace : Trace

    Raises
    ------
    UnsupportedLayerError
        A part cannot be recorded, such as a branch on a value.
    """
    tracer = _Tracer(tuple(known), convert)
    root = tracer.twin(module, "")
    x = tracer.create_proxy("placeholder", "x", (), {})
    try:
        # Both contexts are of this thread alone.
        with torch.no_grad(), torch.autocast("cpu", enabled=False), _NoDraws():
            output = root(x)
    except UnsupportedLayerError:
        raise
    except Exception as error:
        if error is tracer.refusal:
            raise
        raise UnsupportedLayerError(
            f"The forward of {tracer.failed} cannot be traced: {error} A module may do "
            "nothing but apply layers, functions and sums to one two-dimensional "
            "input, in the same way for every input."
        ) from error
    output = output[0] if isinstance(output, tuple) and output else output
    if not isinstance(output, fx.Proxy):
        raise UnsupportedLayerError(
            f"The forward of {place('', module)} gives a {type(output).__name__} "
            "and not a tensor that depends on its input."
        )
    tracer.trace.output = output.node
    return tracer.trace


class _Value(fx.Proxy):
    """A proxy that answers as a tensor where a forward asks what it is.

    It also distinguishes ``x += y``, which changes x, from ``x = x + y``.
    """

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return Tensor

    def __len__(self) -> int:
        return LENGTH

    def __getattr__(self, name: str) -> Any:
        if not hasattr(Tensor, name):
            raise AttributeError(f"'Tensor' object has no attribute {name!r}")
        if callable(getattr(Tensor, name)):
            return super().__getattr__(name)
        return self.tracer.create_proxy("call_function", getattr, (self, name), {})

    def _in_place(self, name: str, other: Any) -> "fx.Proxy":
        return self.tracer.create_proxy("call_method", name, (self, other), {})

    def __iadd__(self, other: Any) -> "fx.Proxy":
        return self._in_place("add_", other)

    def __isub__(self, other: Any) -> "fx.Proxy":
        return self._in_place("sub_", other)

    def __imul__(self, other: Any) -> "fx.Proxy":
        return self._in_place("mul_", other)

    def __itruediv__(self, other: Any) -> "fx.Proxy":
        return self._in_place("div_", other)


class _Tracer(TracerBase):
    """The collection of calls in a graph."""

    def __init__(
        self, known: tuple[type[nn.Module], ...], convert: Convert | None
    ) -> None:
        super().__init__()
        self.known = known
        self.convert = convert
        self.refusal: Exception | None = None
        self.graph = fx.Graph()
        self.trace = Trace(self.graph)
        self.scope = Scope("", None)
        self.module_stack: Any = {}
        self.node_name_to_scope: Any = {}
        self.place = self.failed = ""
        self._twins: dict[int, Any] = {}
        self._names: dict[int, str] = {}

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Value(node, self)

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        if torch.is_autocast_enabled("cpu"):
            raise TypeError("it uses autocast, and only float32 is known.")
        node = super().create_node(*args, **kwargs)
        node.meta["place"] = self.place
        return node

    def create_proxy(self, *args: Any, **kwargs: Any) -> Any:
        proxy = super().create_proxy(*args, **kwargs)
        if self.convert is None:
            return proxy
        try:
            value = self.convert(self.trace, proxy.node)
        except Exception as error:
            self.refusal = error
            raise
        return proxy if isinstance(value, Step) else value

    def create_arg(self, a: Any) -> Any:
        if isinstance(a, type):
            return f"{a.__module__}.{a.__name__}"
        if isinstance(a, fx.Proxy) or not isinstance(a, Tensor):
            return super().create_arg(a)
        name = self._names.setdefault(id(a), f"constant_{len(self._names)}")
        self.trace.constants[name] = a  # keeps it alive, and so its id
        return self.create_node("get_attr", name, (), {})

    def twin(self, module: Any, path: str) -> Any:
        """Build the copy of a module, the same one for the same module."""
        module = original(module)
        if id(module) not in self._twins:
            _check(module, path)
            twin = copy_structure(module)
            self._twins[id(module)] = twin
            if self._is_known(module):
                self._twins[id(module)] = _Recorder(twin, path, self)
            else:
                twin.__dict__["forward"] = partial(self._enter, twin, path)
            prefix = f"{path}." if path else ""
            children = {
                name: None if child is None else self.twin(child, prefix + name)
                for name, child in own_modules(module).items()
            }
            set_own_modules(twin, children)
        return self._twins[id(module)]

    def _is_known(self, module: nn.Module) -> bool:
        kind = type(module)
        return any(
            issubclass(kind, k) and kind.forward is k.forward for k in self.known
        )

    def _enter(self, twin: nn.Module, path: str, *args: Any, **kwargs: Any) -> Any:
        """Run the forward of a copy, and remember its place for the calls in it."""
        before, self.place = self.place, place(path, twin)
        try:
            result = type(twin).forward(twin, *args, **kwargs)
            return self.returned(path, args, result)
        except Exception:
            self.failed = self.failed or self.place
            raise
        finally:
            self.place = before

    def returned(self, path: str, args: tuple[Any, ...], result: Any) -> Any:
        """Remember what a module took and returned."""
        if isinstance(result, fx.Proxy):
            first = args[0] if args and isinstance(args[0], fx.Proxy) else None
            taken = None if first is None else first.node
            self.trace.results.append((path, taken, result.node))
        return result


class _Recorder:
    """A replacement of a known module that records its calls."""

    def __init__(self, twin: nn.Module, path: str, tracer: _Tracer) -> None:
        self.__dict__.update(_twin=twin, _path=path, _tracer=tracer)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not any(isinstance(v, fx.Proxy) for v in chain(args, kwargs.values())):
            return self._twin(*args, **kwargs)  # a constant of the net's own
        self._tracer.trace.modules[self._path] = self._twin
        result = self._tracer.create_proxy("call_module", self._path, args, kwargs)
        return self._tracer.returned(self._path, args, result)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._twin, name)

    @property  # type: ignore[misc]
    def __class__(self) -> Any:  # a forward may ask isinstance(layer, nn.Linear)
        return type(self._twin)


class _NoDraws(TorchFunctionMode):
    """A mode that refuses random numbers: recorded, they would be constants."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if getattr(func, "__name__", "") in _DRAWS:
            raise TypeError(f"it draws random numbers with {func.__name__}.")
        return func(*args, **(kwargs or {}))


def _check(module: Any, path: str) -> None:
    """Raise if a module does more than the forward of its class."""
    reason = None
    if not isinstance(module, nn.Module) or isinstance(module, torch.jit.ScriptModule):
        reason = "is no plain nn.Module"
    elif has_forward_hooks(module):
        reason = "has forward hooks, which may change what it gives; remove them"
    elif "forward" in vars(module):
        reason = "has a forward of its own, other than its class's"
    elif type(module).__call__ is not nn.Module.__call__ and not isinstance(
        module, _LISTS
    ):
        reason = "has a __call__ of its own"
    elif has_global_forward_hooks():
        reason = "runs under global forward hooks, which may change what it gives"
    if reason:
        text = place(path, module)
        raise UnsupportedLayerError(f"{text[0].upper()}{text[1:]} {reason}.")
