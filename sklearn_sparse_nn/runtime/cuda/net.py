"""A graph on a device: its arrays there, and the ways to multiply by its weights."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sklearn_sparse_nn.runtime.cuda.capture import Timer
from sklearn_sparse_nn.runtime.cuda.products import (
    Function,
    candidates,
    default,
    multiply,
    op_on,
    stage_on,
    torch_alone,
)
from sklearn_sparse_nn.runtime.graph import Graph, Linear, inputs_of

__all__ = ["Net"]

_GAIN = 0.95  # another way must be faster by this than the one that is not measured
# Both factors and the result are rounded to TF32's or bfloat16's mantissa: more than
# this share of |x| @ |weight|.T is no rounding but a wrong kernel.
_ROUNDING = {"tf32": 2.0**-9, "bf16": 2.0**-7}
_CHECKED_ROWS = 256


class Net:
    """A graph on a device. The caller is responsible for streams and locks.

    Parameters
    ----------
    graph : Graph
        The operations of the net.
    device : torch.device
        The device of the arrays.
    precision : {"float32", "tf32", "bf16"}
        The lowest precision that the layers may be computed with.
    """

    def __init__(self, graph: Graph, device: torch.device, precision: str) -> None:
        self.graph, self.device, self.precision = graph, device, precision
        #: Becomes true when rows are not finite, until the caller clears it.
        self.bad = torch.zeros((), dtype=torch.bool, device=device)
        self._stage = stage_on(graph.stage, device)
        self._ops = [op_on(op, device) for op in graph.ops]
        self._products: dict[tuple[int, str], Function] = {}

    @property
    def usual(self) -> list[str]:
        """The way to multiply of every layer when nothing was measured."""
        return [default(self.precision)] * len(self.graph.layers)

    def run(self, rows: Tensor, staged: bool, choices: list[str]) -> Tensor:
        """Compute raw outputs.

        Parameters
        ----------
        rows : Tensor of shape (n_rows, n_features), float32
            The raw rows; with `staged`, value 0, of shape (n_rows, width).
        staged : bool
            Whether the input stage has been applied to the rows.
        choices : list of str
            The way to multiply of every layer.

        Returns
        -------
        out : Tensor of shape (n_rows, n_outputs), float32
        """
        fills = self.graph.stage.fill is not None and not staged
        bad = torch.isinf(rows) if fills else ~torch.isfinite(rows)
        self.bad.logical_or_(bad.any())

        def product(number: int, op: Linear, x: Tensor) -> Tensor:
            return self._product(number, op, choices[number])(x)

        return self._apply(rows, staged, product)

    def tune(self, rows: Tensor, staged: bool, timer: Timer) -> list[dict[str, Any]]:
        """Measure the ways to multiply of every layer for these rows.

        Returns
        -------
        found : list of dict
            The ``name``, ``choice`` and ``microseconds`` of every layer.
        """
        found: list[dict[str, Any]] = []

        def product(number: int, op: Linear, x: Tensor) -> Tensor:
            found.append(self._measured(number, op, x, timer))
            return self._product(number, op, found[-1]["choice"])(x)

        self._apply(rows, staged, product)
        return found

    def keep(self, choices: Iterable[list[str]]) -> None:
        """Delete the weights of all ways but the chosen ones, which graphs need."""
        used = {key for names in choices for key in enumerate(names)}
        self._products = {k: v for k, v in self._products.items() if k in used}

    def _apply(
        self,
        rows: Tensor,
        staged: bool,
        product: Callable[[int, Linear, Tensor], Tensor],
    ) -> Tensor:
        """Apply all operations; `product` multiplies for the linear ones."""
        with torch_alone(self.device):
            last, number = self.graph.last_uses(), 0
            values: list[Any] = [rows if staged else self._stage(rows)]
            for i, (op, rest) in enumerate(zip(self.graph.ops, self._ops, strict=True)):
                reads = [values[v] for v in inputs_of(op)]
                if isinstance(op, Linear):
                    reads = [product(number, op, reads[0])]
                    number += 1
                values.append(rest(reads))
                for v in inputs_of(op):
                    if last[v] == i:
                        values[v] = None
            out: Tensor = values[-1]
            return out.float()

    def _product(self, number: int, op: Linear, name: str) -> Function:
        """Return one way to multiply by a layer's weight, prepared once."""
        if (number, name) not in self._products:
            self._products[number, name] = multiply(op, name, self.device)
        return self._products[number, name]

    def _measured(
        self, number: int, op: Linear, x: Tensor, timer: Timer
    ) -> dict[str, Any]:
        """Measure the ways of one layer whose outputs are right, and choose one."""
        usual = default(self.precision)
        bodies: dict[str, Callable[[], Tensor]] = {}
        for name in candidates(op, self.device, self.precision):
            try:
                product = self._product(number, op, name)
                right = _is_right(product(x), op, x, name)
            except (RuntimeError, NotImplementedError, ImportError):
                right = False  # this torch, or this GPU, has no such kernel
            if right:
                bodies[name] = _bound(product, x)
        times = timer(bodies)
        choice = min(times, key=lambda name: times[name], default=usual)
        if usual in times and times[choice] > _GAIN * times[usual]:
            choice = usual
        name = op.name or f"linear_{number}"
        return {"name": name, "choice": choice, "microseconds": times}


def _is_right(out: Tensor, op: Linear, x: Tensor, name: str) -> bool:
    """Compare a layer's outputs with a product in float64, up to rounding."""
    x, out = x[:_CHECKED_ROWS].double(), out[:_CHECKED_ROWS].double()
    weight = torch.from_numpy(op.weight.toarray()).to(x)
    bias = torch.from_numpy(np.array(op.bias)).to(x)
    exact = x @ weight.t() + bias
    size = x.abs() @ weight.abs().t() + bias.abs()
    # Any order of sums is within n units of half a place (Higham 2002, section 3.1).
    share = (weight.shape[1] + 8) * 2.0**-24 + _ROUNDING.get(name.split()[-1], 0.0)
    tiny = float(np.finfo(np.float32).tiny)
    return bool(((out - exact).abs() <= share * size + tiny).all())


def _bound(product: Function, x: Tensor) -> Callable[[], Tensor]:
    """Build a function without arguments, for a timer."""
    return lambda: product(x)
