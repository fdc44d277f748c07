"""The net of steps, made from a recorded forward."""

from typing import Any

import numpy as np
from torch import Tensor, fx, nn

from sklearn_sparse_nn.exceptions import UnsupportedLayerError
from sklearn_sparse_nn.export.reading.agreement import check_agreement
from sklearn_sparse_nn.export.reading.constants import array
from sklearn_sparse_nn.export.reading.evaluation import (
    in_evaluation,
    in_float32,
    private_state,
)
from sklearn_sparse_nn.export.reading.functions import BY_TARGET, FUNCTIONS
from sklearn_sparse_nn.export.reading.modules import MODULES, listed, width_of
from sklearn_sparse_nn.export.reading.trace import Trace, place, trace
from sklearn_sparse_nn.export.steps import Step

__all__ = ["convert"]


def convert(
    module: nn.Module, n_features: int | None = None, rows: np.ndarray | None = None
) -> Step:
    """Convert a module to a net of steps, and compare both on rows.

    Parameters
    ----------
    module : nn.Module
        The module; it is not changed.
    n_features : int or None, default=None
        The number of columns of its input; None to take it from its first layer.
    rows : ndarray of shape (n_rows, n_features) or None, default=None
        Rows as they will be predicted, to be compared besides drawn ones.

    Returns
    -------
    output : Step
        The step that computes the output; it refers to the steps before it.

    Raises
    ------
    UnsupportedLayerError
        A part is not known, or the module computes something else than the steps; the
        message names it.
    ValueError
        A weight is NaN or infinite, or widths do not fit.
    """
    with private_state(module):
        copy = in_evaluation(module)
        converter = _Converter(n_features or _width(copy))
        recorded = trace(copy, MODULES, converter.convert)
        output = converter.values[recorded.output]
        of: Any = converter.values.get
        results = [(path, of(a), of(b)) for path, a, b in recorded.results]
        check_agreement(in_float32(copy), converter.input, output, results, rows)
    return output


class _Converter:
    """The conversion of recorded calls, in order."""

    def __init__(self, n_features: int) -> None:
        self.input = Step("input", width=n_features)
        self.values: dict[fx.Node, Any] = {}
        self.trace: Any = None

    def convert(self, recorded: Trace, node: fx.Node) -> Any:
        """Convert one call to a step, or to what it returns."""
        self.trace = recorded
        try:
            for other in node.all_input_nodes:
                if other.op == "get_attr":
                    self.values[other] = recorded.constants[str(other.target)]
            self.values[node] = self._value(node)
        except UnsupportedLayerError:
            raise
        except ValueError as error:
            raise ValueError(f"{error}, in {self._call(node)}.") from error
        except (TypeError, KeyError, IndexError) as error:
            raise UnsupportedLayerError(
                f"Not supported: {self._call(node)}: {error}. {listed()}"
            ) from error
        return self.values[node]

    def _value(self, node: fx.Node) -> Any:
        if node.op == "placeholder":
            return self.input
        args = fx.node.map_arg(node.args, lambda n: self.values[n])
        kwargs = dict(fx.node.map_arg(node.kwargs, lambda n: self.values[n]))
        if node.op == "call_module":
            result, in_place = self._module(str(node.target), args, kwargs)
        else:
            result, in_place = self._function(node, args, kwargs)
        if in_place and isinstance(args[0], Step):
            self._refuse_views(args[0])
            # Whoever held the value holds the changed one from now on.
            for other, value in self.values.items():
                if value is args[0]:
                    self.values[other] = result
        return result

    def _refuse_views(self, changed: Step) -> None:
        steps = [v for v in self.values.values() if isinstance(v, Step)]
        if changed.view or any(s.view and s.inputs[0] is changed for s in steps):
            raise TypeError("it changes a value of which there is a view")

    def _module(self, path: str, args: Any, kwargs: Any) -> tuple[Any, bool]:
        module = self.trace.modules[path]
        inputs = [*args, *kwargs.values()]
        if len(inputs) != 1 or not isinstance(inputs[0], Step):
            raise TypeError("it needs one value")
        convert = next(MODULES[k] for k in type(module).__mro__ if k in MODULES)
        result = convert(module, inputs[0])
        if result.kind == "linear" and not result.name:
            result.name = path
        return result, bool(getattr(module, "inplace", False))

    def _function(self, node: fx.Node, args: Any, kwargs: Any) -> tuple[Any, bool]:
        if node.op == "call_method":
            name = str(node.target)
        elif node.target in BY_TARGET:
            name = BY_TARGET[node.target]
        else:
            raise TypeError("it is not known")
        in_place = bool(kwargs.pop("inplace", False)) or name.endswith("_")
        if "input" in kwargs:
            args = (kwargs.pop("input"), *args)
        name = name.removesuffix("_")
        if name not in FUNCTIONS:
            raise TypeError("it is not known")
        return FUNCTIONS[name](*args, **kwargs), in_place

    def _call(self, node: fx.Node) -> str:
        """Name a call in a message."""
        if node.op == "call_module":
            path = str(node.target)
            return place(path, self.trace.modules.get(path))
        name = getattr(node.target, "__name__", str(node.target))
        return f"{name}() in {node.meta['place']}"


def _width(module: nn.Module) -> int:
    """Find the number of columns of a module's input."""
    try:
        width = _input_width(trace(module, MODULES))
    except UnsupportedLayerError:
        # The forward asks for it, so this may be wrong. Then the comparison says so.
        found = (width_of(child) for child in module.modules())
        width = next((n for n in found if n is not None), None)
        if width is None:
            raise
    if width is None:
        raise ValueError(
            "How many columns the module takes cannot be told from its first layers; "
            "give n_features."
        )
    return width


def _input_width(recorded: Trace) -> int | None:
    """Find the number of columns of the input from the first layer that has it."""
    same = set()  # nodes that have the input's columns
    for node in recorded.graph.nodes:
        reads = [n for n in node.all_input_nodes if n in same]
        if node.op == "placeholder":
            same.add(node)
        elif node.op == "call_module" and reads:
            width = width_of(recorded.modules[str(node.target)])
            if width is not None:
                return width
            same.add(node)
        elif reads:
            width = _width_in_call(node, recorded.constants)
            if width is not None:
                return width
            if BY_TARGET.get(node.target) not in ("cat", "concat", "concatenate"):
                same.add(node)
    return None


def _width_in_call(node: fx.Node, constants: dict[str, Tensor]) -> int | None:
    name = BY_TARGET.get(node.target, str(node.target))
    for other in node.all_input_nodes:
        if other.op == "get_attr":
            shape = array(constants[str(other.target)]).shape
            if len(shape) == 2 and name == "matmul":
                return int(shape[0])
            if len(shape) in (1, 2) and shape[-1] > 1:
                return int(shape[-1])
            if name == "linear" and len(shape) == 2:
                return int(shape[1])
    return None
