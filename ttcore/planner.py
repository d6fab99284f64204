"""In which order a TT-matrix is multiplied with dense vectors.

The cheapest chain of batched matrix products.

Every order that sweeps from the right, from the left, or from both ends to a middle bond, with any
merging of neighbours into supercores up to ``SCRATCH`` bytes, is weighed by dynamic programming.
One supercore of all cores is the dense matrix: so the dense product is chosen where it is cheaper
and the matrix fits the scratch. The constants are those of one AVX-512 core; only their proportions
matter.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from ttcore.typing import Stage

SCRATCH = 2**21  # bytes a supercore may take: a dense M x N matrix beyond it is never built
BEYOND = 2**200  # entries of a matrix whose order of contraction is not worth a thought
LONGEST = 12  # cores that one supercore may merge
VECTOR = 64  # bytes of a vector register: shorter inner axes are padded to it
FLOPS = 105e9 * 4  # flop/s times bytes of an entry: half as fast at twice the size
TRAFFIC = 40e9  # bytes/s between the kernel and the outer caches
ITEM = 3e-8  # seconds for one product of a batch
STAGE = 3e-6  # seconds for one batched call
MERGE = 2e-5  # seconds for merging two cores, beside the work itself


@dataclass(frozen=True, slots=True)
class Plan:
    """How ``y = W x`` is contracted; print it.

    Attributes
    ----------
    row_modes, col_modes, ranks : tuple of int
    batch : int
    dtype : str
    stages : tuple of Stage
    flops, bytes : int
        Floating-point operations (a multiply-add counts two, a complex one eight), and bytes read
        and written, for the whole
        batch, merging included.
    dense_flops : int
        The same for the dense matrix.
    seconds : float
        Predicted time on one core; meant for comparing plans.
    """

    row_modes: tuple[int, ...]
    col_modes: tuple[int, ...]
    ranks: tuple[int, ...]
    batch: int
    dtype: str
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
            f"({_ratio(self.dense_flops, max(self.flops, 1))} x)",
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
    row_modes: Sequence[int],
    col_modes: Sequence[int],
    ranks: Sequence[int],
    *,
    batch: int = 1,
    dtype: str = "float64",
) -> Plan:
    """The plan for a TT-matrix of these modes and ranks (d + 1 of them).

    Parameters
    ----------
    row_modes, col_modes, ranks : sequence of int
    batch : int
        Number of vectors. The order of contraction depends on it rounded up to a power of two, so
        that equal results
        can be expected from nearly equal batches.
    dtype : str
    """
    row_modes, col_modes, ranks = tuple(row_modes), tuple(col_modes), tuple(ranks)
    stages = choose(row_modes, col_modes, ranks, batch_class(batch), dtype, False)
    size, per = _per_entry(dtype)
    flops = traffic = 0
    for s in stages:
        flops += per * s.outer * s.rows * s.k * s.inner * batch
        traffic += size * s.outer * (s.rows + s.k) * s.inner * batch
        merging = _merging(row_modes, col_modes, ranks, s.first, s.last)
        flops += per * merging[0]
        traffic += size * merging[1]
    dense = per * math.prod(row_modes) * math.prod(col_modes) * batch
    seconds = math.inf if dense > BEYOND else sum(_seconds(s, batch, size, False) for s in stages)
    return Plan(row_modes, col_modes, ranks, batch, dtype, stages, flops, traffic, dense, seconds)


def batch_class(batch: int) -> int:
    """The batch rounded up to a power of two, at most 4096."""
    return int(min(1 << max(batch - 1, 0).bit_length(), 4096))


@lru_cache(maxsize=1024)
def choose(
    row_modes: tuple[int, ...],
    col_modes: tuple[int, ...],
    ranks: tuple[int, ...],
    batch: int,
    dtype: str,
    columns: bool,
) -> tuple[Stage, ...]:
    """The stages of the cheapest plan for ``batch`` rows, or ``columns``."""
    size = _per_entry(dtype)[0]
    d = len(row_modes)
    if math.prod(row_modes) * math.prod(col_modes) > BEYOND:
        return _from_the_right(row_modes, col_modes, ranks)
    spans = list(_spans(row_modes, col_modes, ranks, size))
    merging = {
        (s.first, s.last): _merge_seconds(row_modes, col_modes, ranks, s.first, s.last, size)
        for s in spans
    }

    def cost(stage: Stage) -> float:
        return _seconds(stage, batch, size, columns) + merging[stage.first, stage.last]

    # right[i]: the cheapest way to contract cores i.. from the right
    right: list[tuple[float, tuple[Stage, ...]]] = [(math.inf, ()) for _ in range(d)]
    right.append((0.0, ()))
    for s in sorted(spans, key=lambda s: -s.first):
        stage = s._replace(
            outer=math.prod(col_modes[: s.first]), inner=math.prod(row_modes[s.last :])
        )
        done, stages = right[s.last]
        right[s.first] = min(
            right[s.first], (done + cost(stage), (*stages, stage)), key=lambda x: x[0]
        )
    best = right[0]
    for middle in range(1, d + 1):
        if row_modes[middle - 1] == col_modes[middle - 1] == 1:
            continue  # a core that is a matrix between two bonds: no new place to meet
        left: list[tuple[float, tuple[Stage, ...]]] = [(0.0, ())]
        left += [(math.inf, ()) for _ in range(middle)]
        for s in spans:
            if s.last > middle or left[s.first][0] + right[middle][0] >= best[0]:
                continue
            stage = _left_stage(s, row_modes, col_modes, ranks, middle)
            done, stages = left[s.first]
            left[s.last] = min(
                left[s.last], (done + cost(stage), (*stages, stage)), key=lambda x: x[0]
            )
        total = left[middle][0] + right[middle][0]
        if total < best[0]:
            best = total, (*right[middle][1], *left[middle][1])
    return best[1]


def _spans(
    row_modes: tuple[int, ...], col_modes: tuple[int, ...], ranks: tuple[int, ...], size: int
) -> Iterator[Stage]:
    """All supercores that fit the scratch, by their first core.

    The sizes are those of form 0, outer and inner still open.
    """
    d = len(row_modes)
    for first in range(d):
        m = n = 1
        for last in range(first + 1, min(first + LONGEST, d) + 1):
            m, n = m * row_modes[last - 1], n * col_modes[last - 1]
            if last > first + 1 and ranks[first] * m * n * ranks[last] * size > SCRATCH:
                break
            yield Stage(first, last, 0, 0, ranks[first] * m, n * ranks[last], 0)


def _from_the_right(
    row_modes: tuple[int, ...], col_modes: tuple[int, ...], ranks: tuple[int, ...]
) -> tuple[Stage, ...]:
    """One core after the other: for matrices whose vectors fit no memory, so that no order pays."""
    return tuple(
        _right_stage(
            Stage(k, k + 1, 0, 0, ranks[k] * row_modes[k], col_modes[k] * ranks[k + 1], 0),
            row_modes,
            col_modes,
        )
        for k in reversed(range(len(row_modes)))
    )


def _right_stage(s: Stage, row_modes: tuple[int, ...], col_modes: tuple[int, ...]) -> Stage:
    return s._replace(outer=math.prod(col_modes[: s.first]), inner=math.prod(row_modes[s.last :]))


def _left_stage(
    s: Stage,
    row_modes: tuple[int, ...],
    col_modes: tuple[int, ...],
    ranks: tuple[int, ...],
    middle: int,
) -> Stage:
    outer = math.prod(row_modes[: s.first])
    m, n = s.rows // ranks[s.first], s.k // ranks[s.last]
    behind = math.prod(row_modes[middle:])
    if s.last == middle:
        return s._replace(
            form=2, outer=outer, rows=m, k=ranks[s.first] * n * ranks[middle], inner=behind
        )
    ahead = math.prod(col_modes[s.last : middle]) * ranks[middle]
    return s._replace(
        form=1, outer=outer, rows=m * ranks[s.last], k=ranks[s.first] * n, inner=ahead * behind
    )


def _seconds(s: Stage, batch: int, size: int, columns: bool) -> float:
    outer, inner = (s.outer, s.inner * batch) if columns else (s.outer * batch, s.inner)
    rows = s.rows
    items = outer
    if inner == 1:  # one product (outer, k) @ (k, rows)
        items, rows, inner = 1, outer, rows
    lanes = max(VECTOR // size, 1)
    padded = -(-inner // lanes) * lanes
    work = 2 * rows * s.k * padded * size / FLOPS
    return (
        STAGE
        + items * (ITEM + work)
        + size * outer * (s.rows + s.k) * (s.inner * batch if columns else s.inner) / TRAFFIC
    )


def _merging(
    row_modes: Sequence[int], col_modes: Sequence[int], ranks: Sequence[int], first: int, last: int
) -> tuple[int, int]:
    """Multiply-adds and entries moved when cores first..last-1 become one."""
    products = entries = 0
    m, n = row_modes[first], col_modes[first]
    for k in range(first + 1, last):
        m, n = m * row_modes[k], n * col_modes[k]
        made = ranks[first] * m * n * ranks[k + 1]
        products += made * ranks[k]
        entries += 4 * made  # written, then read and written once more in the order of the stage
    return products, entries


def _merge_seconds(
    row_modes: tuple[int, ...],
    col_modes: tuple[int, ...],
    ranks: tuple[int, ...],
    first: int,
    last: int,
    size: int,
) -> float:
    products, entries = _merging(row_modes, col_modes, ranks, first, last)
    return (last - first - 1) * MERGE + 2 * products * size / FLOPS + 4 * entries * size / TRAFFIC


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
