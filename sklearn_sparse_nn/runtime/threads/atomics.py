"""What threads without the interpreter's lock tell each other: atomic int64."""

from typing import Any

from llvmlite import ir
from numba import extending as numba_extending
from numba import types

__all__ = ["add", "get", "pointer_to", "put", "rest"]

intrinsic: Any = numba_extending.intrinsic  # its types do not know the context

_ORDER = "seq_cst"


def _pointer(builder: Any, address: Any) -> Any:
    return builder.inttoptr(address, ir.IntType(64).as_pointer())


@intrinsic
def get(typingctx, address):  # type: ignore[no-untyped-def]
    """Read an int64 that another thread may write."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.load_atomic(_pointer(builder, args[0]), _ORDER, 8)

    return types.int64(types.intp), codegen


@intrinsic
def put(typingctx, address, value):  # type: ignore[no-untyped-def]
    """Write an int64 that another thread may read."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        builder.store_atomic(args[1], _pointer(builder, args[0]), _ORDER, 8)
        return context.get_dummy_value()

    return types.void(types.intp, types.int64), codegen


@intrinsic
def add(typingctx, address, value):  # type: ignore[no-untyped-def]
    """Add to an int64; give what it was before."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.atomic_rmw("add", _pointer(builder, args[0]), args[1], _ORDER)

    return types.int64(types.intp, types.int64), codegen


@intrinsic
def rest(typingctx):  # type: ignore[no-untyped-def]
    """Let the processor breathe between two looks."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        if builder.module.triple.startswith(("x86", "i686", "amd64")):
            kind = ir.FunctionType(ir.VoidType(), [])
            name = "llvm.x86.sse2.pause"
            pause = builder.module.globals.get(name)
            builder.call(pause or ir.Function(builder.module, kind, name), [])
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def pointer_to(typingctx, address, dtype):  # type: ignore[no-untyped-def]
    """Take an address for that of an array's first number."""
    pointer: Any = types.CPointer(dtype.dtype)  # type: ignore[no-untyped-call]

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(pointer))

    return pointer(types.intp, dtype), codegen
