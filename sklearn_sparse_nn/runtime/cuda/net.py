"""A graph on a device: its arrays there, and how every layer is multiplied."""

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

_GAIN = 0.95  # another way must be so much faster than the one that needs no measuring
# Both factors and the result are rounded to TF32's or bfloat16's mantissa: more than
# so large a share of |x| @ |weight|.T is no rounding but a wrong kernel.
_ROUNDING = {"tf32": 2.0**-9, "bf16": 2.0**-7}
_CHECKED_ROWS = 256


class Net:
    """What a `CudaModel` runs; its caller sees to streams and locks.

    Parameters
    ----------
    graph : Graph
        What it computes.
    device : torch.device
        Where.
    precision : {"float32", "tf32", "bf16"}
        What the layers may be computed with.
    """

    def __init__(self, graph: Graph, device: torch.device, precision: str) -> None:
        self.graph, self.device, self.precision = graph, device, precision
        #: Set where rows were not finite, until the caller clears it.
        self.bad = torch.zeros((), dtype=torch.bool, device=device)
        self._stage = stage_on(graph.stage, device)
        self._ops = [op_on(op, device) for op in graph.ops]
        self._products: dict[tuple[int, str], Function] = {}

    @property
    def usual(self) -> list[str]:
        """How layers are multiplied when nothing was measured."""
        return [default(self.precision)] * len(self.graph.layers)

    def run(self, rows: Tensor, staged: bool, choices: list[str]) -> Tensor:
        """Compute raw outputs.

        Parameters
        ----------
        rows : Tensor of shape (n_rows, n_features), float32
            Raw rows; with `staged`, of shape (n_rows, width): value 0.
        staged : bool
            Whether they have passed the input stage already.
        choices : list of str
            How every layer is multiplied.

        Returns
        -------
        out : Tensor of shape (n_rows, n_outputs), float32
        """
        fills = self.graph.stage.fill is not None and not staged
        bad = torch.isinf(rows) if fills else ~torch.isfinite(rows)
        self.bad.logical_or_(bad.any())

        def product(number: int, op: Linear, x: Tensor) -> Tensor:
            return self._product(number, op, choices[number])(x)

        return self._walk(rows, staged, product)

    def tune(self, rows: Tensor, staged: bool, timer: Timer) -> list[dict[str, Any]]:
        """Measure every layer for these rows.

        Returns
        -------
        found : list of dict
            For every layer its ``name``, ``choice`` and ``microseconds``.
        """
        found: list[dict[str, Any]] = []

        def product(number: int, op: Linear, x: Tensor) -> Tensor:
            found.append(self._measured(number, op, x, timer))
            return self._product(number, op, found[-1]["choice"])(x)

        self._walk(rows, staged, product)
        return found

    def keep(self, choices: Iterable[list[str]]) -> None:
        """Drop the weights of all ways that are not chosen; graphs need the others."""
        used = {key for names in choices for key in enumerate(names)}
        self._products = {k: v for k, v in self._products.items() if k in used}

    def _walk(
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
        if (number, name) not in self._products:
            self._products[number, name] = multiply(op, name, self.device)
        return self._products[number, name]

    def _measured(
        self, number: int, op: Linear, x: Tensor, timer: Timer
    ) -> dict[str, Any]:
        """Measure the ways of one layer whose outputs are right; choose one."""
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
    return lambda: product(x)
