"""Register tiles over rows that stand anywhere: a list of row numbers says which. LLVM code.

    pick_V    C[p_i, V L] = A[p_i, k] @ B[k, V L]            for all i < m
    gather_V  C[m, V L] += sum over i < count of A[p_i, m] B[p_i, V L]

So rows are multiplied by the matrix of their bucket where they stand, and nothing is sorted but
their numbers. L is the number of lanes of a register; addresses are uintp, strides count entries,
row numbers are intp. All rows of B and C are read and written in whole registers.
"""

from typing import Any

import numpy as np
from numba import types
from numba.extending import intrinsic

from ttcore.kernels.cpu.cache import compiled
from ttcore.kernels.cpu.emitter import I64, Emitter, constant
from ttcore.kernels.cpu.simd import entry_bytes, in_heights, vector_lanes

WIDEST = 64  # bytes: with such registers there are 32, room for 8 x 3 accumulators


def _numbers(emit: Emitter, order: Any, start: Any, count: int, line: Any) -> list[Any]:
    """Offsets, in entries, of the rows order[start], order[start + 1], ..."""
    builder = emit.builder
    found = []
    for i in range(count):
        place = builder.gep(order, [builder.add(start, constant(i))])
        found.append(builder.mul(builder.load(place), line))
    return found


def _registers(emit: Emitter, base: Any, offset: Any, v: int) -> list[Any]:
    builder = emit.builder
    return [emit.at(base, builder.add(offset, constant(j * emit.lanes))) for j in range(v)]


def make_pick(v: int) -> Any:
    """The intrinsic pick_V."""

    @intrinsic
    def pick(context, zero, m, order, a, lda, b, ldb, c, ldc, k):
        pairs = [types.uintp, types.intp] * 3
        signature = types.void(zero, types.intp, types.uintp, *pairs, types.intp)

        def codegen(context, builder, signature, args):
            _, m, order, a, lda, b, ldb, c, ldc, k = args
            emit = Emitter(builder, signature.args[0])
            pa, pb, pc = (emit.pointer(address) for address in (a, b, c))
            numbers = builder.inttoptr(order, I64.as_pointer())

            def tile(height, start):
                left = [
                    builder.gep(pa, [offset])
                    for offset in _numbers(emit, numbers, start, height, lda)
                ]

                def body(step, sums):
                    places = _registers(emit, pb, builder.mul(step, ldb), v)
                    right = [emit.load(place) for place in places]
                    new = []
                    for i in range(height):
                        x = emit.splat(builder.load(builder.gep(left[i], [step])))
                        new += [emit.multiply_add(x, right[j], sums[i * v + j]) for j in range(v)]
                    return new

                sums = emit.loop(k, [emit.zeros] * (height * v), body)
                for i, offset in enumerate(_numbers(emit, numbers, start, height, ldc)):
                    for j, place in enumerate(_registers(emit, pc, offset, v)):
                        emit.store(sums[i * v + j], place)

            in_heights(emit, m, tile)
            return context.get_dummy_value()

        return signature, codegen

    return pick


def make_gather(v: int) -> Any:
    """The intrinsic gather_V."""

    @intrinsic
    def gather(context, zero, m, order, count, a, lda, b, ldb, c, ldc):
        pairs = [types.uintp, types.intp] * 3
        signature = types.void(zero, types.intp, types.uintp, types.intp, *pairs)

        def codegen(context, builder, signature, args):
            _, m, order, count, a, lda, b, ldb, c, ldc = args
            emit = Emitter(builder, signature.args[0])
            pa, pb, pc = (emit.pointer(address) for address in (a, b, c))
            numbers = builder.inttoptr(order, I64.as_pointer())

            def tile(height, start):
                first = builder.gep(pa, [start])
                places = []
                for i in range(height):
                    line = builder.mul(builder.add(start, constant(i)), ldc)
                    places += _registers(emit, pc, line, v)

                def body(step, sums):
                    row = builder.load(builder.gep(numbers, [step]))
                    line = builder.gep(first, [builder.mul(row, lda)])
                    right = [
                        emit.load(place) for place in _registers(emit, pb, builder.mul(row, ldb), v)
                    ]
                    new = []
                    for i in range(height):
                        x = emit.splat(builder.load(builder.gep(line, [constant(i)])))
                        new += [emit.multiply_add(x, right[j], sums[i * v + j]) for j in range(v)]
                    return new

                sums = emit.loop(count, [emit.load(place) for place in places], body)
                for value, place in zip(sums, places, strict=True):
                    emit.store(value, place)

            in_heights(emit, m, tile)
            return context.get_dummy_value()

        return signature, codegen

    return gather


# names of the module: Numba's disk cache does not find intrinsics in closures
pick_1, pick_2, pick_3 = make_pick(1), make_pick(2), make_pick(3)
gather_1, gather_2, gather_3 = make_gather(1), make_gather(2), make_gather(3)


@compiled
def multiply(zero, m, n, k, order, a, lda, b, ldb, c, ldc):
    """C[p_i, n] = A[p_i, k] @ B[k, n] for i < m.

    Contract
        order    address of the m row numbers p
        a, b, c  addresses; rows contiguous
        n        a multiple of the lanes of a register
    k is never split: one order of additions.
    """
    size, lanes = entry_bytes(zero), vector_lanes(zero)
    j = 0
    while j < n:
        bj, cj = np.uintp(b + j * size), np.uintp(c + j * size)
        left = (n - j) // lanes
        if left == 3 and lanes * size == WIDEST:
            pick_3(zero, m, order, a, lda, bj, ldb, cj, ldc, k)
            j += 3 * lanes
        elif left > 1:
            pick_2(zero, m, order, a, lda, bj, ldb, cj, ldc, k)
            j += 2 * lanes
        else:
            pick_1(zero, m, order, a, lda, bj, ldb, cj, ldc, k)
            j += lanes


@compiled
def accumulate(zero, m, n, count, order, a, lda, b, ldb, c, ldc):
    """C[m, n] += sum over i < count of A[p_i, m]^T B[p_i, n]; see `multiply`."""
    size, lanes = entry_bytes(zero), vector_lanes(zero)
    j = 0
    while j < n:
        bj, cj = np.uintp(b + j * size), np.uintp(c + j * size)
        left = (n - j) // lanes
        if left == 3 and lanes * size == WIDEST:
            gather_3(zero, m, order, count, a, lda, bj, ldb, cj, ldc)
            j += 3 * lanes
        elif left > 1:
            gather_2(zero, m, order, count, a, lda, bj, ldb, cj, ldc)
            j += 2 * lanes
        else:
            gather_1(zero, m, order, count, a, lda, bj, ldb, cj, ldc)
            j += lanes
