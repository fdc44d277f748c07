"""The builder of LLVM IR for vectors of floats, and the features of the processor."""

import platform
from collections.abc import Callable
from typing import TypeAlias

from llvmlite import binding, ir
from numba import config

from sklearn_sparse_nn.runtime.kernels.layout import LANES

__all__ = [
    "F32",
    "FEATURES",
    "I8",
    "I16",
    "I32",
    "I64",
    "VECTOR",
    "VectorBuilder",
]

#: The body of a loop: ``body(k, carried) -> carried``.
Body: TypeAlias = Callable[[ir.Value, list[ir.Value]], list[ir.Value]]

F32, I8, I16 = ir.FloatType(), ir.IntType(8), ir.IntType(16)
I32, I64 = ir.IntType(32), ir.IntType(64)
VECTOR = ir.VectorType(F32, LANES)


def _features() -> set[str]:
    """Return the features of the processor that numba compiles for."""
    given, name = (
        getattr(config, f"CPU_{what}", None) for what in ("FEATURES", "NAME")
    )
    if given is not None:
        return set(given.replace("+", "").split(","))
    if name not in (None, "host", binding.get_host_cpu_name()):
        return set()  # another processor, of which nothing is known
    return {name for name, has in binding.get_host_cpu_features().items() if has}


_ARM = platform.machine().lower() in ("aarch64", "arm64")
#: The features of the processor that numba compiles for.
FEATURES = _features()
_FUSED = _ARM or "fma" in FEATURES


class VectorBuilder:
    """An IR builder with short names, for vectors of one length.

    Parameters
    ----------
    builder : ir.IRBuilder
        The builder of llvmlite.
    lanes : int, default=LANES
        The floats of a vector.
    """

    def __init__(self, builder: ir.IRBuilder, lanes: int = LANES) -> None:
        self.b = builder
        self.lanes = lanes
        self.vec = ir.VectorType(F32, lanes)

    def pointer(self, address: ir.Value, kind: ir.Type) -> ir.Value:
        """Turn an address into a pointer."""
        return self.b.inttoptr(address, kind.as_pointer())

    def at(self, pointer: ir.Value, n: ir.Value | int) -> ir.Value:
        """Return the pointer that is `n` elements further."""
        index = ir.Constant(I64, n) if isinstance(n, int) else n
        return self.b.gep(pointer, [index])

    def vectors(self, pointer: ir.Value, n: int) -> list[ir.Value]:
        """Return the addresses of `n` vectors that begin at a byte pointer."""
        first = self.b.bitcast(pointer, self.vec.as_pointer())
        return [self.at(first, v) for v in range(n)]

    def load(self, pointer: ir.Value, align: int = 4) -> ir.Value:
        """Load a number."""
        return self.b.load(pointer, align=align)

    def load_vector(self, pointer: ir.Value) -> ir.Value:
        """Load a whole vector."""
        return self.b.load(pointer, align=4 * self.lanes)

    def store_vector(self, value: ir.Value, pointer: ir.Value) -> None:
        """Store a whole vector."""
        self.b.store(value, pointer, align=4 * self.lanes)

    def splat(self, scalar: ir.Value) -> ir.Value:
        """Build a vector of one number."""
        one = self.b.insert_element(
            ir.Constant(self.vec, ir.Undefined), scalar, ir.Constant(I32, 0)
        )
        zeros = ir.Constant(ir.VectorType(I32, self.lanes), [0] * self.lanes)
        return self.b.shuffle_vector(one, one, zeros)

    def multiply_add(self, a: ir.Value, x: ir.Value, total: ir.Value) -> ir.Value:
        """Compute ``a * x + total``, fused where the processor can."""
        if not _FUSED:
            return self.b.fadd(self.b.fmul(a, x), total)
        name = f"llvm.fma.v{self.lanes}f32"
        kind = ir.FunctionType(self.vec, [self.vec] * 3)
        fma = self.b.module.globals.get(name) or ir.Function(self.b.module, kind, name)
        return self.b.call(fma, [a, x, total])

    def flag(self, flags: ir.Value, bit: int) -> ir.Value:
        """Return whether a bit of the flags is set."""
        masked = self.b.and_(flags, ir.Constant(I64, bit))
        return self.b.icmp_signed("!=", masked, ir.Constant(I64, 0))

    def plus_zero(self, total: ir.Value) -> ir.Value:
        """Turn -0 into +0, as the kernels that add stored zeros do."""
        return self.b.fadd(total, ir.Constant(self.vec, [0.0] * self.lanes))

    def finish(self, clip: ir.Value, total: ir.Value) -> ir.Value:
        """Clip a sum at zero if `clip` is true, and turn -0 into +0."""
        # An ordered comparison: NaN stays NaN, as in torch.
        zero = ir.Constant(self.vec, [0.0] * self.lanes)
        total = self.plus_zero(total)
        below = self.b.fcmp_ordered("<", total, zero)
        return self.b.select(clip, self.b.select(below, zero, total), total)

    def column(self, packed: ir.Value, k: int) -> ir.Value:
        """Return the k-th of the four columns that are packed in one load."""
        moved = self.b.lshr(packed, ir.Constant(I64, k * 16)) if k else packed
        return self.b.and_(moved, ir.Constant(I64, 0xFFFF))

    def loop(
        self,
        n: ir.Value,
        carried: list[ir.Value],
        body: Body,
    ) -> list[ir.Value]:
        """Run ``body(k, carried) -> carried`` for k in range(n); return the last."""
        b, entry = self.b, self.b.block
        loop, done = b.append_basic_block("loop"), b.append_basic_block("done")
        zero, one = ir.Constant(I64, 0), ir.Constant(I64, 1)
        b.cbranch(b.icmp_signed("<", zero, n), loop, done)
        b.position_at_end(loop)
        k = b.phi(I64)
        k.add_incoming(zero, entry)
        now = [b.phi(value.type) for value in carried]
        for phi, value in zip(now, carried, strict=True):
            phi.add_incoming(value, entry)
        new = body(k, now)
        after = b.add(k, one)
        k.add_incoming(after, loop)
        for phi, value in zip(now, new, strict=True):
            phi.add_incoming(value, loop)
        b.cbranch(b.icmp_signed("<", after, n), loop, done)
        b.position_at_end(done)
        last = [b.phi(value.type) for value in carried]
        for phi, before, value in zip(last, carried, new, strict=True):
            phi.add_incoming(before, entry)
            phi.add_incoming(value, loop)
        return last
