"""Register tiles of a matrix product, as LLVM code that Numba compiles: all intrinsics are here.

Plain loops reach a fraction of the processor's rate, since LLVM does not keep a tile of the result
in registers. Here each tile is emitted instruction by instruction: accumulators live through the
loop over k as phi nodes.

    columns_V   C[m, V L] (+)= A[m, k] @ B[k, V L]    any strides of A; rows of B and C contiguous
    lapped_2    the same with L + ``lanes`` columns: there the second register begins
    ahead_2     columns_2, while lines of the cache are asked for, one with every four k
    edge_1      the same with only ``lanes`` columns: the others are not touched
    dots_MxN    C[M, N] += sum over o, k of A[o, M, k] B[o, N, k]    both contiguous along k
    turn        C[n, m] = A[m, n] transposed                         rows of both contiguous

L is the number of lanes of a register. Addresses are uintp, strides count entries. ``zero`` is a
scalar of the entries' type: nothing else tells it.
"""

from typing import Any

from numba import types
from numba.extending import intrinsic

from ttcore.kernels.cpu.buffers import LINE
from ttcore.kernels.cpu.emitter import I64, Emitter, constant
from ttcore.kernels.cpu.memory import emit_prefetch
from ttcore.kernels.cpu.target import vector_bytes, vector_registers

MANY = vector_registers() >= 32
TALL = 8 if MANY else 6  # rows of a tile: with two registers across, all sums stay in registers
DOTS = 4 if MANY else 2  # rows of a tile of dot products, with four across
PART = 20  # binary digits of the inverse of a number

# m, a, row, col, b, ldb, c, ldc, k, lanes, add
COLUMNS = (
    types.intp, types.uintp, types.intp, types.intp, types.uintp, types.intp, types.uintp,
    types.intp, types.intp, types.intp, types.boolean,
)  # fmt: skip


def _tile(
    emit: Emitter, m: int, starts: list[Any], mask: Any, address: dict[str, Any], ahead: Any = ()
) -> None:
    """Code for C[m, n] (+)= A[m, k] @ B[k, n], where registers of columns begin at ``starts``.

    ``address`` holds pointers, strides and k; ``ahead`` what `ahead_2` gets beside them.
    """
    builder, v = emit.builder, len(starts)
    rows = [builder.mul(constant(i), address["row"]) for i in range(m)]
    lines = [builder.mul(constant(i), address["ldc"]) for i in range(m)]
    places = [emit.at(address["c"], builder.add(line, j)) for line in lines for j in starts]
    with builder.if_else(address["add"]) as (then, otherwise):
        with then:
            old = [emit.load(place, mask) for place in places]
            loaded = builder.block
        with otherwise:
            cleared = builder.block
    first = []
    for value in old:
        phi = builder.phi(emit.vector)
        phi.add_incoming(value, loaded)
        phi.add_incoming(emit.zeros, cleared)
        first.append(phi)

    def body(step: Any, carried: list[Any]) -> list[Any]:
        place, *sums = carried
        line = builder.mul(step, address["ldb"])
        right = [emit.load(emit.at(address["b"], builder.add(line, j)), mask) for j in starts]
        new = [emit.opaque(builder.gep(place, [address["col"]]))]
        for i in range(m):
            left = emit.splat(builder.load(builder.gep(place, [rows[i]])))
            new += [emit.multiply_add(left, right[j], sums[i * v + j]) for j in range(v)]
        return new

    def ask(number: Any) -> None:
        place, asked, part, jump = ahead
        line = builder.add(asked, number)
        row = builder.lshr(builder.mul(line, part), constant(PART))
        place = builder.add(place, builder.mul(line, constant(LINE)))
        emit_prefetch(builder, builder.add(place, builder.mul(row, jump)))

    also = ask if ahead else None
    _, *sums = emit.steps(address["k"], [address["a"], *first], body, also)
    for value, place in zip(sums, places, strict=True):
        emit.store(value, place, mask)


def in_heights(emit: Emitter, m: Any, tile: Any) -> None:
    """``tile(height, start)`` for m rows: as many of `TALL` as there are, then 4, 2 and 1.

    A tile of two rows waits for its own sums: eight rows are two tiles of four, not six and two.
    """
    builder = emit.builder
    count, rest = builder.sdiv(m, constant(TALL)), builder.srem(m, constant(TALL))
    if TALL == 6:
        two = builder.icmp_signed("==", rest, constant(2))
        spared = builder.zext(builder.and_(two, builder.icmp_signed(">", count, constant(0))), I64)
        count = builder.sub(count, spared)
        rest = builder.add(rest, builder.mul(spared, constant(TALL)))
    whole = builder.mul(count, constant(TALL))

    def tiles(height: int, number: Any, start: Any) -> None:
        def body(step: Any, carried: list[Any]) -> list[Any]:
            tile(height, builder.add(start, builder.mul(step, constant(height))))
            return carried

        emit.loop(number, [], body)

    tiles(TALL, count, constant(0))
    tiles(4, builder.sdiv(rest, constant(4)), whole)
    for height in (2, 1):
        bit = builder.and_(rest, constant(height))
        with builder.if_then(builder.icmp_signed("!=", bit, constant(0))):
            tile(height, builder.add(whole, builder.and_(rest, constant(-2 * height))))


def _columns(builder: Any, kind: Any, args: Any, starts: Any, *, masked: bool = False) -> None:
    """Code of columns_V and its like, where ``starts(lanes, L)`` says where registers begin."""
    m, a, row, col, b, ldb, c, ldc, k, lanes, add, *ahead = args
    emit = Emitter(builder, kind)
    mask = emit.mask(lanes) if masked else None
    pa, pb, pc = (emit.pointer(address) for address in (a, b, c))

    def tile(height: int, start: Any) -> None:
        address = {
            "a": builder.gep(pa, [builder.mul(start, row)]),
            "b": pb,
            "c": builder.gep(pc, [builder.mul(start, ldc)]),
            "row": row, "col": col, "ldb": ldb, "ldc": ldc, "k": k, "add": add,
        }  # fmt: skip
        _tile(emit, height, starts(lanes, emit.lanes), mask, address, ahead)

    in_heights(emit, m, tile)


def make_columns(v: int, *, lapped: bool = False, masked: bool = False) -> Any:
    """The intrinsic columns_V, lapped_V or edge_V."""

    def starts(lanes: Any, whole: int) -> list[Any]:
        return [lanes if lapped and j else constant(j * whole) for j in range(v)]

    @intrinsic
    def columns(context, zero, m, a, row, col, b, ldb, c, ldc, k, lanes, add):
        def codegen(context, builder, signature, args):
            _columns(builder, signature.args[0], args[1:], starts, masked=masked)
            return context.get_dummy_value()

        return types.void(zero, *COLUMNS), codegen

    return columns


@intrinsic
def ahead_2(context, zero, m, a, row, col, b, ldb, c, ldc, k, lanes, add, place, asked, part, jump):
    """The intrinsic ``ahead_2``: asks for lines number ``asked``, ``asked`` + 1, ...

    Lines follow each other from ``place`` on, but for ``jump`` bytes after each row of lines, which
    has about 2**PART / ``part`` of them.
    """

    def codegen(context, builder, signature, args):
        _columns(
            builder, signature.args[0], args[1:], lambda _, whole: [constant(0), constant(whole)]
        )
        return context.get_dummy_value()

    return types.void(zero, *COLUMNS, types.uintp, types.intp, types.intp, types.intp), codegen


def make_dots(m: int, n: int) -> Any:
    """The intrinsic dots_MxN."""

    @intrinsic
    def dots(context, zero, a, lda, step_a, b, ldb, step_b, c, ldc, k, count):
        integers = [types.uintp, types.intp, types.intp] * 2
        signature = types.void(zero, *integers, types.uintp, types.intp, types.intp, types.intp)

        def codegen(context, builder, signature, args):
            _, a, lda, step_a, b, ldb, step_b, c, ldc, k, count = args
            emit = Emitter(builder, signature.args[0])
            pa, pb, pc = (emit.pointer(address) for address in (a, b, c))
            width = constant(emit.lanes)
            whole = builder.sdiv(k, width)
            rest = builder.srem(k, width)
            mask = emit.mask(rest)
            some = builder.icmp_signed(">", rest, constant(0))

            def products(qa, qb, place, sums, mask=None):
                left = [
                    emit.load(emit.at(qa, builder.add(builder.mul(constant(i), lda), place)), mask)
                    for i in range(m)
                ]
                right = [
                    emit.load(emit.at(qb, builder.add(builder.mul(constant(j), ldb), place)), mask)
                    for j in range(n)
                ]
                return [
                    emit.multiply_add(left[i], right[j], sums[i * n + j])
                    for i in range(m)
                    for j in range(n)
                ]

            def outer(o, sums):
                qa = builder.gep(pa, [builder.mul(o, step_a)])
                qb = builder.gep(pb, [builder.mul(o, step_b)])
                sums = emit.loop(
                    whole,
                    sums,
                    lambda s, inner: products(qa, qb, builder.mul(s, width), inner),
                )
                before = builder.block
                with builder.if_then(some):
                    more = products(qa, qb, builder.mul(whole, width), sums, mask)
                    inside = builder.block
                found = []
                for old, new in zip(sums, more, strict=True):
                    phi = builder.phi(emit.vector)
                    phi.add_incoming(old, before)
                    phi.add_incoming(new, inside)
                    found.append(phi)
                return found

            sums = emit.loop(count, [emit.zeros] * (m * n), outer)
            for i in range(m):
                for j in range(n):
                    offset = builder.add(builder.mul(constant(i), ldc), constant(j))
                    place = builder.gep(pc, [offset])
                    value = builder.fadd(builder.load(place), emit.total(sums[i * n + j]))
                    builder.store(value, place)
            return context.get_dummy_value()

        return signature, codegen

    return dots


@intrinsic
def turn(context, zero, m, n, a, lda, c, ldc):
    """The intrinsic ``turn``: squares of a register's side, transposed by exchanges of lanes."""
    integers = [types.intp, types.intp, types.uintp, types.intp, types.uintp, types.intp]
    signature = types.void(zero, *integers)

    def codegen(context, builder, signature, args):
        _, m, n, a, lda, c, ldc = args
        emit = Emitter(builder, signature.args[0])
        pa, pc = emit.pointer(a), emit.pointer(c)
        width = constant(emit.lanes)

        def square(i, j, masks):
            """L x L entries from row i, column j; at the edges only those inside."""
            lines = []
            for row in range(emit.lanes):
                place = builder.add(builder.mul(builder.add(i, constant(row)), lda), j)
                lines.append(emit.load(emit.at(pa, place), masks and masks[0][row]))
            for row, line in enumerate(emit.transposed(lines)):
                place = builder.add(builder.mul(builder.add(j, constant(row)), ldc), i)
                emit.store(line, emit.at(pc, place), masks and masks[1][row])

        def lapped(i):
            """A band of squares: the last ones begin early, and write some entries again."""
            last = builder.sub(m, width)
            i = builder.select(builder.icmp_signed("<", i, last), i, last)
            each(builder.sdiv(n, width), lambda j: square(i, j, None))
            with builder.if_then(builder.icmp_signed("!=", builder.srem(n, width), constant(0))):
                square(i, builder.sub(n, width), None)

        def masked(i):
            """A band of squares, of which only what is inside is read and written."""

            def one(j):
                down, across = builder.sub(m, i), builder.sub(n, j)
                square(i, j, (emit.masks(down, across), emit.masks(across, down)))

            each(up(n), one)

        def each(count, body):
            emit.loop(count, [], lambda step, none: body(builder.mul(step, width)) or none)

        def up(entries):
            return builder.sdiv(builder.add(entries, constant(emit.lanes - 1)), width)

        fits = (builder.icmp_signed(">=", side, width) for side in (m, n))
        with builder.if_else(builder.and_(*fits)) as (then, otherwise):
            with then:
                each(up(m), lapped)
            with otherwise:
                each(up(m), masked)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def vector_lanes(context, zero):
    """How many entries of the type of ``zero`` a register holds."""

    def codegen(context, builder, signature, args):
        return constant(vector_bytes() // (signature.args[0].bitwidth // 8))

    return types.intp(zero), codegen


@intrinsic
def entry_bytes(context, zero):
    """Size of the type of ``zero``."""

    def codegen(context, builder, signature, args):
        return constant(signature.args[0].bitwidth // 8)

    return types.intp(zero), codegen


# names of the module: Numba's disk cache does not find intrinsics in closures
columns_2, columns_1 = make_columns(2), make_columns(1)
lapped_2, edge_1 = make_columns(2, lapped=True), make_columns(1, masked=True)
dots_tx4, dots_tx1 = make_dots(DOTS, 4), make_dots(DOTS, 1)
dots_1x4, dots_1x1 = make_dots(1, 4), make_dots(1, 1)
