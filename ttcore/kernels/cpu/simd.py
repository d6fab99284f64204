"""Register tiles of a matrix product, as LLVM code that Numba compiles: all intrinsics are here.

Plain loops reach a fraction of the processor's rate, since LLVM does not keep a tile of the result
in registers. Here each tile is emitted instruction by instruction: accumulators live through the
loop over k as phi nodes.

    columns_V   C[m, V L] (+)= A[m, k] @ B[k, V L]    any strides of A; rows of B and C contiguous
    lapped_2    the same with L + ``lanes`` columns: the second register begins ``lanes`` behind the first
    edge_1      the same with only ``lanes`` columns: they are masked, and no more is read or written
    dots_MxN    C[M, N] += sum over o, k of A[o, M, k] B[o, N, k]    both contiguous along k
    turn        C[n, m] = A[m, n] transposed                         rows of both contiguous

L is the number of lanes of a register. Addresses are uintp, strides count entries. ``zero`` is a
scalar of the entries' type: nothing else tells it.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ttcore.kernels.cpu.target import has_fma, vector_bytes, vector_registers

I32, I64 = ir.IntType(32), ir.IntType(64)
MANY = vector_registers() >= 32
TALL = 8 if MANY else 6  # rows of a tile: with two registers across, all sums stay in registers
DOTS = 4 if MANY else 2  # rows of a tile of dot products, with four across


class Emitter:
    """LLVM code for vectors of one type."""

    def __init__(self, builder: Any, zero: Any) -> None:
        self.builder = builder
        self.size = zero.bitwidth // 8
        self.scalar = ir.FloatType() if self.size == 4 else ir.DoubleType()
        self.lanes = vector_bytes() // self.size
        self.vector = ir.VectorType(self.scalar, self.lanes)
        self.zeros = ir.Constant(self.vector, [ir.Constant(self.scalar, 0.0)] * self.lanes)

    def pointer(self, address: Any, offset: Any = None) -> Any:
        """Pointer to the entry ``offset`` entries behind an address."""
        base = self.builder.inttoptr(address, self.scalar.as_pointer())
        return base if offset is None else self.builder.gep(base, [offset])

    def at(self, pointer: Any, offset: Any) -> Any:
        """Pointer to a vector ``offset`` entries behind a pointer."""
        place = self.builder.gep(pointer, [offset])
        return self.builder.bitcast(place, self.vector.as_pointer())

    def load(self, pointer: Any, mask: Any = None) -> Any:
        """A vector from memory; lanes outside the mask are not touched and become 0."""
        if mask is None:
            return self.builder.load(pointer, align=self.size)
        kind = ir.FunctionType(self.vector, [self.vector.as_pointer(), I32, mask.type, self.vector])
        name = f"llvm.masked.load.v{self.lanes}f{self.size * 8}.p0v{self.lanes}f{self.size * 8}"
        function = cgutils.get_or_insert_function(self.builder.module, kind, name)
        align = ir.Constant(I32, self.size)
        return self.builder.call(function, [pointer, align, mask, self.zeros])

    def store(self, value: Any, pointer: Any, mask: Any = None) -> None:
        """A vector to memory; lanes outside the mask are not touched."""
        if mask is None:
            self.builder.store(value, pointer, align=self.size)
            return
        kind = ir.FunctionType(
            ir.VoidType(), [self.vector, self.vector.as_pointer(), I32, mask.type]
        )
        name = f"llvm.masked.store.v{self.lanes}f{self.size * 8}.p0v{self.lanes}f{self.size * 8}"
        function = cgutils.get_or_insert_function(self.builder.module, kind, name)
        self.builder.call(function, [value, pointer, ir.Constant(I32, self.size), mask])

    def mask(self, count: Any) -> Any:
        """The first ``count`` lanes."""
        numbers = ir.Constant(ir.VectorType(I64, self.lanes), list(range(self.lanes)))
        return self.builder.icmp_unsigned("<", numbers, self.splat(count, I64))

    def masks(self, rows: Any, columns: Any) -> list[Any]:
        """For each row of a square: the first ``columns`` lanes of the first ``rows`` rows."""
        inside = self.mask(columns)
        never = ir.Constant(inside.type, [ir.Constant(ir.IntType(1), 0)] * self.lanes)
        return [
            self.builder.select(self.builder.icmp_signed("<", _constant(row), rows), inside, never)
            for row in range(self.lanes)
        ]

    def transposed(self, lines: list[Any]) -> list[Any]:
        """A square of vectors: blocks off the diagonal change places, at every size."""
        lines = list(lines)
        bit = 1
        while bit < self.lanes:
            for i in range(self.lanes):
                if not i & bit:
                    a, b = lines[i], lines[i | bit]
                    lanes = range(self.lanes)
                    upper = [lane if not lane & bit else lane - bit + self.lanes for lane in lanes]
                    lower = [lane + bit if not lane & bit else lane + self.lanes for lane in lanes]
                    kind = ir.VectorType(I32, self.lanes)
                    lines[i] = self.builder.shuffle_vector(a, b, ir.Constant(kind, upper))
                    lines[i | bit] = self.builder.shuffle_vector(a, b, ir.Constant(kind, lower))
            bit *= 2
        return lines

    def splat(self, value: Any, kind: Any = None) -> Any:
        """A scalar in every lane."""
        vector = ir.VectorType(kind or self.scalar, self.lanes)
        undefined = ir.Constant(vector, ir.Undefined)
        single = self.builder.insert_element(undefined, value, ir.Constant(I32, 0))
        order = ir.Constant(ir.VectorType(I32, self.lanes), [0] * self.lanes)
        return self.builder.shuffle_vector(single, undefined, order)

    def multiply_add(self, x: Any, y: Any, z: Any) -> Any:
        """x y + z."""
        if not has_fma():
            return self.builder.fadd(self.builder.fmul(x, y), z)
        kind = ir.FunctionType(self.vector, [self.vector] * 3)
        name = f"llvm.fma.v{self.lanes}f{self.size * 8}"
        function = cgutils.get_or_insert_function(self.builder.module, kind, name)
        return self.builder.call(function, [x, y, z])

    def total(self, x: Any) -> Any:
        """Sum of the lanes, halves added to halves: one order of additions at every width."""
        lanes = self.lanes
        while lanes > 1:
            lanes //= 2
            undefined = ir.Constant(x.type, ir.Undefined)
            kinds = ir.VectorType(I32, lanes)
            low = self.builder.shuffle_vector(x, undefined, ir.Constant(kinds, list(range(lanes))))
            high = self.builder.shuffle_vector(
                x, undefined, ir.Constant(kinds, list(range(lanes, 2 * lanes)))
            )
            x = self.builder.fadd(low, high)
        return self.builder.extract_element(x, ir.Constant(I32, 0))

    def loop(self, count: Any, values: list[Any], body: Any) -> list[Any]:
        """``values = body(k, values)`` for k in range(count), the values in registers."""
        builder = self.builder
        before = builder.block
        head, inside, after = (builder.append_basic_block(n) for n in ("head", "body", "after"))
        builder.branch(head)
        builder.position_at_end(head)
        k = builder.phi(I64)
        k.add_incoming(ir.Constant(I64, 0), before)
        carried = [builder.phi(value.type) for value in values]
        for phi, value in zip(carried, values, strict=True):
            phi.add_incoming(value, before)
        builder.cbranch(builder.icmp_signed("<", k, count), inside, after)
        builder.position_at_end(inside)
        new = body(k, carried)
        k.add_incoming(builder.add(k, ir.Constant(I64, 1)), builder.block)
        for phi, value in zip(carried, new, strict=True):
            phi.add_incoming(value, builder.block)
        builder.branch(head)
        builder.position_at_end(after)
        return carried


def _constant(number: int) -> Any:
    return ir.Constant(I64, number)


def _tile(emit: Emitter, m: int, starts: list[Any], mask: Any, address: dict[str, Any]) -> None:
    """Code for C[m, n] (+)= A[m, k] @ B[k, n], where registers of columns begin at ``starts``.

    ``address`` holds pointers, strides and k.
    """
    builder, v = emit.builder, len(starts)
    rows = [builder.mul(_constant(i), address["row"]) for i in range(m)]
    lines = [builder.mul(_constant(i), address["ldc"]) for i in range(m)]
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

    def body(step: Any, sums: list[Any]) -> list[Any]:
        line, shift = builder.mul(step, address["ldb"]), builder.mul(step, address["col"])
        right = [emit.load(emit.at(address["b"], builder.add(line, j)), mask) for j in starts]
        new = []
        for i in range(m):
            place = builder.gep(address["a"], [builder.add(rows[i], shift)])
            left = emit.splat(builder.load(place))
            new += [emit.multiply_add(left, right[j], sums[i * v + j]) for j in range(v)]
        return new

    sums = emit.loop(address["k"], first, body)
    for value, place in zip(sums, places, strict=True):
        emit.store(value, place, mask)


def in_heights(emit: Emitter, m: Any, tile: Any) -> None:
    """``tile(height, start)`` for m rows: as many of `TALL` as there are, then 4, 2 and 1.

    A tile of two rows waits for its own sums: eight rows are two tiles of four, not six and two.
    """
    builder = emit.builder
    count, rest = builder.sdiv(m, _constant(TALL)), builder.srem(m, _constant(TALL))
    if TALL == 6:
        two = builder.icmp_signed("==", rest, _constant(2))
        spared = builder.zext(
            builder.and_(two, builder.icmp_signed(">", count, _constant(0))), I64
        )
        count = builder.sub(count, spared)
        rest = builder.add(rest, builder.mul(spared, _constant(TALL)))
    whole = builder.mul(count, _constant(TALL))

    def tiles(height: int, number: Any, start: Any) -> None:
        def body(step: Any, carried: list[Any]) -> list[Any]:
            tile(height, builder.add(start, builder.mul(step, _constant(height))))
            return carried

        emit.loop(number, [], body)

    tiles(TALL, count, _constant(0))
    tiles(4, builder.sdiv(rest, _constant(4)), whole)
    for height in (2, 1):
        bit = builder.and_(rest, _constant(height))
        with builder.if_then(builder.icmp_signed("!=", bit, _constant(0))):
            tile(height, builder.add(whole, builder.and_(rest, _constant(-2 * height))))


def make_columns(v: int, *, lapped: bool = False, masked: bool = False) -> Any:
    """The intrinsic columns_V, lapped_V or edge_V."""

    @intrinsic
    def columns(context, zero, m, a, row, col, b, ldb, c, ldc, k, lanes, add):
        integers = [types.intp, types.uintp, types.intp, types.intp, types.uintp, types.intp]
        signature = types.void(
            zero, *integers, types.uintp, types.intp, types.intp, types.intp, types.boolean
        )

        def codegen(context, builder, signature, args):
            _, m, a, row, col, b, ldb, c, ldc, k, lanes, add = args
            emit = Emitter(builder, signature.args[0])
            mask = emit.mask(lanes) if masked else None
            starts = [lanes if lapped and j else _constant(j * emit.lanes) for j in range(v)]
            pa, pb, pc = (emit.pointer(address) for address in (a, b, c))

            def tile(height, start):
                address = {
                    "a": builder.gep(pa, [builder.mul(start, row)]),
                    "b": pb,
                    "c": builder.gep(pc, [builder.mul(start, ldc)]),
                    "row": row, "col": col, "ldb": ldb, "ldc": ldc, "k": k, "add": add,
                }  # fmt: skip
                _tile(emit, height, starts, mask, address)

            in_heights(emit, m, tile)
            return context.get_dummy_value()

        return signature, codegen

    return columns


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
            width = _constant(emit.lanes)
            whole = builder.sdiv(k, width)
            rest = builder.srem(k, width)
            mask = emit.mask(rest)
            some = builder.icmp_signed(">", rest, _constant(0))

            def products(qa, qb, place, sums, mask=None):
                left = [
                    emit.load(emit.at(qa, builder.add(builder.mul(_constant(i), lda), place)), mask)
                    for i in range(m)
                ]
                right = [
                    emit.load(emit.at(qb, builder.add(builder.mul(_constant(j), ldb), place)), mask)
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
                    offset = builder.add(builder.mul(_constant(i), ldc), _constant(j))
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
        width = _constant(emit.lanes)

        def square(i, j, masks):
            """L x L entries from row i, column j; at the edges only those inside."""
            lines = []
            for row in range(emit.lanes):
                place = builder.add(builder.mul(builder.add(i, _constant(row)), lda), j)
                lines.append(emit.load(emit.at(pa, place), masks and masks[0][row]))
            for row, line in enumerate(emit.transposed(lines)):
                place = builder.add(builder.mul(builder.add(j, _constant(row)), ldc), i)
                emit.store(line, emit.at(pc, place), masks and masks[1][row])

        def edge(i, j):
            down, across = builder.sub(m, i), builder.sub(n, j)
            square(i, j, (emit.masks(down, across), emit.masks(across, down)))

        def band(step, carried):
            i = builder.mul(step, width)

            def inner(step, carried):
                square(i, builder.mul(step, width), None)
                return carried

            whole = builder.sdiv(n, width)
            emit.loop(whole, [], inner)
            with builder.if_then(builder.icmp_signed("!=", builder.srem(n, width), _constant(0))):
                edge(i, builder.mul(whole, width))
            return carried

        bands = builder.sdiv(m, width)
        emit.loop(bands, [], band)
        with builder.if_then(builder.icmp_signed("!=", builder.srem(m, width), _constant(0))):

            def last(step, carried):
                edge(builder.mul(bands, width), builder.mul(step, width))
                return carried

            columns = builder.sdiv(builder.add(n, _constant(emit.lanes - 1)), width)
            emit.loop(columns, [], last)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def vector_lanes(context, zero):
    """How many entries of the type of ``zero`` a register holds."""

    def codegen(context, builder, signature, args):
        return _constant(vector_bytes() // (signature.args[0].bitwidth // 8))

    return types.intp(zero), codegen


@intrinsic
def entry_bytes(context, zero):
    """Size of the type of ``zero``."""

    def codegen(context, builder, signature, args):
        return _constant(signature.args[0].bitwidth // 8)

    return types.intp(zero), codegen


# names of the module: Numba's disk cache does not find intrinsics in closures
columns_2, columns_1 = make_columns(2), make_columns(1)
lapped_2, edge_1 = make_columns(2, lapped=True), make_columns(1, masked=True)
dots_tx4, dots_tx1 = make_dots(DOTS, 4), make_dots(DOTS, 1)
dots_1x4, dots_1x1 = make_dots(1, 4), make_dots(1, 1)
