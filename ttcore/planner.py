"""In which order a TT-matrix is multiplied with dense vectors, and by which kernels.

The cheapest order by a model of what a stage costs: of the compiled kernels, or of batched matrix
products in an array library. One supercore of all cores is the dense matrix: so the dense product
is chosen where it is cheaper and the matrix fits the scratch. Only proportions matter: the
constants are those of one AVX-512 core. Orders that were measured come first.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Literal, NamedTuple

from ttcore.kernels.cpu import costs
from ttcore.orders import Costed, Modes, cheapest, from_the_right, left_stage, right_stage
from ttcore.typing import Stage

Kind = Literal["rows", "columns", "gradients"]

SCRATCH = 2**21  # bytes a supercore may take: a dense M x N matrix beyond it is never built
BEYOND = 2**200  # entries of a matrix whose order of contraction is not worth a thought
WORTH = 500_000  # flops of a call from which the compiled kernels are used
# of batched matrix products in an array library:
VECTOR = 64  # bytes of a vector register: shorter inner axes are padded to it
FLOPS = 105e9 * 4  # flop/s times bytes of an entry: half as fast at twice the size
TRAFFIC = 40e9  # bytes/s between the kernel and the outer caches
ITEM = 3e-8  # seconds for one product of a batch
STAGE = 3e-6  # seconds for one batched call
MERGE = 2e-5  # seconds for merging two cores, beside the work itself


class Order(NamedTuple):
    """The stages, whether the compiled kernels take them, and the predicted seconds on one core."""

    stages: tuple[Stage, ...]
    compiled: bool
    seconds: float


_remembered: dict[tuple[Modes, int, str, bool], Order] = {}
changes = 0  # how often an order was remembered: what rests on orders, and is kept, names it


def remember(modes: Modes, batch: int, dtype: str, order_: Order) -> None:
    """Prefer a measured order for rows of this class."""
    global changes  # noqa: PLW0603
    _remembered[modes, batch, dtype, order_.compiled] = order_
    order.cache_clear()
    compiled_order.cache_clear()
    changes += 1  # last: what others keep under the new number then rests on the new order


@lru_cache(maxsize=1024)
def order(
    shapes: tuple[tuple[int, ...], ...], batch: int, dtype: str, kind: Kind, native: bool
) -> Order:
    """The order for cores of these shapes and a `batch_class`.

    Parameters
    ----------
    shapes : of the cores (r, m, n, r')
    batch : int
    dtype : str
    kind : "rows", "columns" or "gradients"
    native : bool
        Whether the compiled kernels serve these arrays, if the call is worth it.
    """
    modes = modes_of(shapes)
    for compiled in (True, False) if native else (False,):
        if kind == "rows" and (known := _remembered.get((modes, batch, dtype, compiled))):
            return known
        seconds, stages = candidates(modes, batch, dtype, kind, compiled=compiled)[0]
        if not compiled or batch * flops_of(stages) >= WORTH:
            break
    return Order(stages, compiled, seconds)


@lru_cache(maxsize=1024)
def compiled_order(
    shapes: tuple[tuple[int, ...], ...], batch: int, dtype: str, kind: Kind
) -> Order:
    """`order` where the compiled kernels are loaded in any case: for the smallest calls too."""
    found = order(shapes, batch, dtype, kind, native=True)
    if found.compiled:
        return found
    seconds, stages = candidates(modes_of(shapes), batch, dtype, kind, compiled=True)[0]
    return Order(stages, True, seconds)


def candidates(
    modes: Modes,
    batch: int,
    dtype: str,
    kind: Kind,
    *,
    compiled: bool,
    keep: int = 1,
    scratch: int = SCRATCH,
    merging: bool = True,
) -> list[Costed]:
    """The cheapest orders, with predicted seconds; without those of merging where it is done."""
    if math.prod(modes.rows) * math.prod(modes.cols) > BEYOND:
        return [(math.inf, from_the_right(modes))]
    size = entry_bytes(dtype)
    model = _compiled(modes, batch, size, kind) if compiled else _portable(modes, batch, size, kind)

    def cost(stage: Stage) -> float:
        return model[0](stage) + (model[1](stage.first, stage.last) if merging else 0.0)

    return cheapest(modes, cost, entries=scratch // size, keep=keep)


def _compiled(modes: Modes, batch: int, size: int, kind: Kind) -> "_Model":
    back = kind == "gradients"
    work = costs.backward if back else costs.forward

    def stage(s: Stage) -> float:
        group = min(batch, costs.group(s.outer * s.inner * max(s.rows, s.k)))
        matrix = size * s.rows * s.k
        sums = costs.SUM * costs.shares(batch, matrix) * matrix if back else 0.0
        return batch / group * work(s, group, size) + sums

    @cache
    def merging(first: int, last: int) -> float:
        total = 0.0
        for left, rank, right in _merges(modes, first, last):
            total += costs.merging(left, rank, right, size)
        return 2 * total if back else total  # the gradients go the way back

    return stage, merging


def _portable(modes: Modes, batch: int, size: int, kind: Kind) -> "_Model":
    columns = kind == "columns"

    def stage(s: Stage) -> float:
        outer, inner = (s.outer, s.inner * batch) if columns else (s.outer * batch, s.inner)
        rows, items = s.rows, outer
        if inner == 1:  # one product (outer, k) @ (k, rows)
            items, rows, inner = 1, outer, rows
        lanes = max(VECTOR // size, 1)
        padded = -(-inner // lanes) * lanes
        work = 2 * rows * s.k * padded * size / FLOPS
        moved = size * s.outer * batch * (s.rows + s.k) * s.inner / TRAFFIC
        return STAGE + items * (ITEM + work) + moved

    @cache
    def merging(first: int, last: int) -> float:
        total = 0.0
        for left, rank, right in _merges(modes, first, last):
            total += MERGE + left * right * size * (2 * rank / FLOPS + 16 / TRAFFIC)
        return total

    return stage, merging


_Model = tuple[Callable[[Stage], float], Callable[[int, int], float]]


def _merges(modes: Modes, first: int, last: int) -> list[tuple[int, int, int]]:
    """The products (left, rank) @ (rank, right) that make one core of first..last-1."""
    found = []
    left = modes.ranks[first] * modes.rows[first] * modes.cols[first]
    for k in range(first + 1, last):
        right = modes.rows[k] * modes.cols[k] * modes.ranks[k + 1]
        found.append((left, modes.ranks[k], right))
        left *= modes.rows[k] * modes.cols[k]
    return found


def modes_of(shapes: tuple[tuple[int, ...], ...]) -> Modes:
    """Row modes, column modes and ranks of cores of these shapes."""
    rows, cols = (tuple(int(shape[axis]) for shape in shapes) for axis in (1, 2))
    return Modes(rows, cols, (*(int(shape[0]) for shape in shapes), int(shapes[-1][3])))


def is_possible(modes: Modes, stages: Sequence[Stage]) -> bool:
    """Whether the stages, in this order, contract a matrix of these modes and ranks."""
    d = len(modes.rows)
    if not len(modes.cols) == len(modes.ranks) - 1 == d > 0 or min(map(min, modes)) < 1:
        return False
    if not all(0 <= s.first < s.last <= d for s in stages):
        return False
    from_right = [s for s in stages if s.form == 0]
    middle = min((s.first for s in from_right), default=d)
    expected = [right_stage(modes, (s.first, s.last)) for s in from_right]
    expected += [left_stage(modes, (s.first, s.last), middle) for s in stages if s.form != 0]
    bounds = [s.first for s in stages if s.form != 0] + [s.first for s in reversed(from_right)]
    ends = [s.last for s in stages if s.form != 0] + [s.last for s in reversed(from_right)]
    return list(stages) == expected and bounds == [0, *ends[:-1]] and ends[-1:] == [d]


def batch_class(batch: int) -> int:
    """The batch rounded up to a power of two, at most 4096."""
    return int(min(1 << max(batch - 1, 0).bit_length(), 4096))


def flops_of(stages: Sequence[Stage]) -> int:
    """Floating-point operations for one vector, a multiply-add counted as two."""
    return sum(2 * s.outer * s.rows * s.k * s.inner for s in stages)


@dataclass(frozen=True, slots=True)
class Plan:
    """How ``y = W x`` is contracted; print it.

    Attributes
    ----------
    row_modes, col_modes, ranks : tuple of int
    batch : int
    dtype : str
    compiled : bool
        Whether the compiled kernels serve it, or the products of the arrays' library.
    stages : tuple of Stage
    flops, bytes : int
        Floating-point operations (a multiply-add counts two, a complex one eight), and bytes read
        and written, for the whole
        batch, merging included.
    dense_flops : int
        The same for the dense matrix.
    seconds : float
        Predicted time on one core, meant for comparing plans; of a tuned plan the measured one.
    """

    row_modes: tuple[int, ...]
    col_modes: tuple[int, ...]
    ranks: tuple[int, ...]
    batch: int
    dtype: str
    compiled: bool
    stages: tuple[Stage, ...]
    flops: int
    bytes: int
    dense_flops: int
    seconds: float

    def __str__(self) -> str:
        """A table with one line per stage, as `numpy.einsum_path` prints it."""
        rows, cols = math.prod(self.row_modes), math.prod(self.col_modes)
        lines = [
            f"TT-matrix {rows} x {cols}, batch {self.batch}, {self.dtype}: "
            f"{_count(self.flops)}flop, {_count(self.bytes)}B ({self.bytes} bytes); dense "
            f"{_count(self.dense_flops)}flop "
            f"({_ratio(self.dense_flops, max(self.flops, 1))} x); "
            f"{'compiled' if self.compiled else 'portable'} kernels",
            f"{'step':>4}  {'cores':<8} {'from':<6} {'products':>10}  {'rows x k x inner':<22} "
            f"{'flop':>8}",
        ]
        for number, s in enumerate(self.stages):
            cores = str(s.first) if s.last == s.first + 1 else f"{s.first}-{s.last - 1}"
            side = "right" if s.form == 0 else "left"
            size = f"{s.rows} x {s.k} x {_whole(s.inner)}"
            flops = _per_entry(self.dtype)[1] * s.outer * s.rows * s.k * s.inner * self.batch
            lines.append(
                f"{number:>4}  {cores:<8} {side:<6} {_whole(s.outer * self.batch):>10}  {size:<22} "
                f"{_count(flops):>8}"
            )
        return "\n".join(lines)


def plan(
    shapes: tuple[tuple[int, ...], ...], *, batch: int, dtype: str, native: bool = True
) -> Plan:
    """The plan for rows times a TT-matrix with cores of these shapes.

    Parameters
    ----------
    shapes : tuple of (r, m, n, r')
    batch : int
        Number of vectors. The order of contraction depends on it rounded up to a power of two, so
        that equal results can be expected from nearly equal batches.
    dtype : str
    native : bool
        Whether it is for NumPy's arrays.
    """
    real = dtype in {"float32", "float64"}
    found = order(shapes, batch_class(batch), dtype, "rows", native and real)
    return planned(modes_of(shapes), batch, dtype, found)


def planned(modes: Modes, batch: int, dtype: str, order: Order) -> Plan:
    """The plan of an order, its totals counted."""
    size, per = _per_entry(dtype)
    flops = per // 2 * batch * flops_of(order.stages)
    traffic = 0
    for s in order.stages:
        traffic += size * s.outer * (s.rows + s.k) * s.inner * batch
        for left, rank, right in _merges(modes, s.first, s.last):
            flops += per * left * rank * right
            traffic += 4 * size * left * right  # written, then read and written in another order
    dense = per * math.prod(modes.rows) * math.prod(modes.cols) * batch
    return Plan(
        *modes, batch, dtype, order.compiled, order.stages, flops, traffic, dense, order.seconds
    )


def entry_bytes(dtype: str) -> int:
    """Bytes of an entry."""
    return _per_entry(dtype)[0]


def _per_entry(dtype: str) -> tuple[int, int]:
    """Bytes of an entry, and flops of a multiply-add."""
    return {"float32": (4, 2), "float64": (8, 2), "complex64": (8, 8), "complex128": (16, 8)}[dtype]


def _count(number: int) -> str:
    """A number with a decimal prefix, or by its power of ten where there is none."""
    for power, unit in enumerate(("", "k", "M", "G", "T", "P")):
        if number < 1000 ** (power + 1):
            return f"{number / 1000**power:.3g} {unit}"
    return f"~1e{math.floor(math.log10(number))} "


def _whole(number: int) -> str:
    return str(number) if number < 10**10 else _count(number).strip()


def _ratio(a: int, b: int) -> str:
    return f"{a / b:.3g}" if a < b * 10**6 else f"~1e{math.floor(math.log10(a // b))}"
