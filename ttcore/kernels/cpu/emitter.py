"""LLVM code for vectors of one type: what the register tiles are written in."""

from typing import Any

from llvmlite import ir
from numba.core import cgutils

from ttcore.kernels.cpu.target import has_fma, vector_bytes

I32, I64 = ir.IntType(32), ir.IntType(64)
STEPS = 4  # of a loop over k, written out


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
            self.builder.select(self.builder.icmp_signed("<", constant(row), rows), inside, never)
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

    def opaque(self, pointer: Any) -> Any:
        """The same pointer, of which the optimiser does not know where it came from.

        It would find each row of a tile from the one before, by a chain of additions that takes as
        long as the products; so it adds each row's distance to this pointer.
        """
        kind = ir.FunctionType(pointer.type, [pointer.type])
        return self.builder.call(ir.InlineAsm(kind, "", "=r,0"), [pointer])

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

    def steps(self, count: Any, values: list[Any], body: Any, also: Any = None) -> list[Any]:
        """`loop`, `STEPS` at a time: fewer instructions, and fewer ends of loops to foresee.

        ``also(n)`` is done once in the n-th such time.
        """
        builder = self.builder

        def several(number: Any, values: list[Any]) -> list[Any]:
            if also is not None:
                also(number)
            for i in range(STEPS):
                values = body(
                    builder.add(builder.mul(number, constant(STEPS)), constant(i)), values
                )
            return values

        whole = builder.sdiv(count, constant(STEPS))
        values = self.loop(whole, values, several)
        done = builder.mul(whole, constant(STEPS))
        rest = builder.sub(count, done)
        return self.loop(rest, values, lambda k, values: body(builder.add(done, k), values))


def constant(number: int) -> Any:
    """A number of 64 bits."""
    return ir.Constant(I64, number)
