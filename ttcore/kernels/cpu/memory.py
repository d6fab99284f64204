"""Memory as threads and caches see it, inside compiled code.

Atomics are sequentially consistent, on int64. Addresses are uintp, as everywhere in these kernels.
"""

from typing import Any

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ttcore.kernels.cpu.cache import compiled

ORDER = "seq_cst"


def _place(builder: Any, address: Any) -> Any:
    return builder.inttoptr(address, ir.IntType(64).as_pointer())


@intrinsic
def pointer(context, zero, address):
    """The pointer to entries of the type of ``zero``."""

    def codegen(context, builder, signature, args):
        return builder.inttoptr(args[1], context.get_value_type(signature.return_type))

    return types.CPointer(zero)(zero, types.uintp), codegen


@intrinsic
def load(context, address):
    """The value at an address."""

    def codegen(context, builder, signature, args):
        return builder.load_atomic(_place(builder, args[0]), ORDER, 8)

    return types.int64(types.uintp), codegen


@intrinsic
def store(context, address, value):
    """Write a value."""

    def codegen(context, builder, signature, args):
        builder.store_atomic(args[1], _place(builder, args[0]), ORDER, 8)
        return context.get_dummy_value()

    return types.void(types.uintp, types.int64), codegen


@intrinsic
def fetch_add(context, address, value):
    """Add to the value at an address; returns what it was before."""

    def codegen(context, builder, signature, args):
        return builder.atomic_rmw("add", _place(builder, args[0]), args[1], ORDER)

    return types.int64(types.uintp, types.int64), codegen


@intrinsic
def acquire(context, address):
    """Turn a 0 into a 1; whether it was a 0."""

    def codegen(context, builder, signature, args):
        zero, one = (ir.Constant(ir.IntType(64), n) for n in (0, 1))
        found = builder.cmpxchg(_place(builder, args[0]), zero, one, ORDER, ORDER)
        return builder.extract_value(found, 1)

    return types.boolean(types.uintp), codegen


@intrinsic
def pause(context):
    """Tell the processor that this thread waits, where it wants to know."""

    def codegen(context, builder, signature, args):
        if llvm.get_default_triple().startswith(("x86_64", "i686")):
            kind = ir.FunctionType(ir.VoidType(), [])
            name = "llvm.x86.sse2.pause"
            builder.call(cgutils.get_or_insert_function(builder.module, kind, name), [])
        return context.get_dummy_value()

    return types.void(), codegen


def emit_prefetch(builder: Any, address: Any) -> None:
    """The instruction of `prefetch`."""
    byte, word = ir.IntType(8).as_pointer(), ir.IntType(32)
    kind = ir.FunctionType(ir.VoidType(), [byte, word, word, word])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    reading, second, data = (ir.Constant(word, n) for n in (0, 2, 1))
    builder.call(function, [builder.inttoptr(address, byte), reading, second, data])


@intrinsic
def prefetch(context, address):
    """Ask for the cache line of an address, which need not be valid, for soon."""

    def codegen(context, builder, signature, args):
        emit_prefetch(builder, args[0])
        return context.get_dummy_value()

    return types.void(types.uintp), codegen


@compiled
def watch(place, value, looks):
    """Whether the first entry of an array of int64 is not ``value``, within so many looks."""
    at = np.uintp(place.ctypes.data)
    for _ in range(looks):
        if load(at) != value:
            return True
        pause()
    return False
