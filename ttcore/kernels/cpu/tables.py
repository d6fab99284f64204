"""What the compiled programs need to know about a chain, for its shapes and order: tables."""

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np

from ttcore.kernels.cpu import costs, team
from ttcore.kernels.cpu.pool import usable_cpus
from ttcore.typing import Stage

GRAIN = 10**7  # flops of a block: about 100 us
LEAST = 10**6  # flops of a single row that two threads share
WORTHWHILE = 0.75  # of the time of one thread
PAGE_ENTRIES = 512  # of float64 in 4 KiB
LINE_ENTRIES = 16  # of float32 in a cache line: matrices and states begin at one

Array = np.ndarray[Any, Any]


class Tables(NamedTuple):
    """What the compiled programs need to know about a chain: sizes, in entries."""

    table: Array
    shapes: Array
    starts: Array
    begins: tuple[int, ...]
    mats: int
    supercore: int
    prefixes: int
    group: int
    state: int
    states: int
    rows_out: int
    flops: int
    halved: int
    half: int


@lru_cache(maxsize=1024)
def tables_of(shapes: tuple[tuple[int, ...], ...], stages: tuple[Stage, ...]) -> Tables:
    """The tables of a chain."""
    rows = []
    mats = states = 0
    for t, s in enumerate(stages):
        # rows a page apart would all share a few places in the nearest cache
        lead = s.k if s.k % PAGE_ENTRIES else s.k + LINE_ENTRIES
        vector, entries = s.inner == 1, _padded(s.rows * lead)
        sizes = (vector, s.outer, s.rows, s.k, s.inner)
        where = (mats, mats + entries * vector, s.first, s.last, s.form, states)
        ways = costs.gradient_ways(s, 4)
        rows.append((*sizes, *where, ways.index(min(ways)), lead))
        mats += entries * (1 + vector)
        states += _padded(s.outer * s.k * s.inner) if t else 0
    last = stages[-1]
    state = _padded(max(s.outer * s.inner * max(s.rows, s.k) for s in stages))
    group = costs.group(state)
    begins = tuple(accumulate((math.prod(shape) for shape in shapes[:-1]), initial=0))
    merges = [_merges(shapes[s.first : s.last]) for s in stages]
    return Tables(
        np.array(rows, np.int64),
        np.array(shapes, np.int64),
        np.array(begins, np.int64),
        begins,
        mats,
        max(max(sizes) for sizes in merges),
        max(sum(sizes[1:-1]) for sizes in merges),
        group,
        group * state,
        group * states,
        last.outer * last.rows * last.inner,
        sum(2 * s.outer * s.rows * s.k * s.inner for s in stages),
        *_halves(stages),
    )


def _halves(stages: Sequence[Stage]) -> tuple[int, int]:
    """How many stages two threads halve for one row, and the largest state of a half; or 0, 0."""
    flops = [2 * s.outer * s.rows * s.k * s.inner for s in stages]
    ways = [(1.0, 0)]
    for t, s in enumerate(stages[: team.LONGEST]):
        if s.form != 0 or s.outer < 2 or sum(flops) < LEAST:
            break
        larger = -(-s.outer // 2) / s.outer
        ways.append((1 - sum(flops[: t + 1]) / sum(flops) * (1 - larger), t + 1))
    share, halved = min(ways)
    if share > WORTHWHILE:
        return 0, 0
    most = stages[halved - 1].outer
    return halved, _padded(
        max(s.outer // most * -(-most // 2) * s.inner * max(s.rows, s.k) for s in stages[:halved])
    )


def _padded(entries: int) -> int:
    """Up to whole cache lines."""
    return -(-entries // LINE_ENTRIES) * LINE_ENTRIES


def _merges(shapes: Sequence[tuple[int, ...]]) -> list[int]:
    """Entries of the first core, of two merged, of three ...: inner ranks may exceed the last."""
    m = n = 1
    sizes = []
    for shape in shapes:
        m, n = m * shape[1], n * shape[2]
        sizes.append(shapes[0][0] * m * n * shape[3])
    return sizes


def goes_by_stages(info: Tables, batch: int, workers: int | None) -> bool:
    """Whether all workers share each row, of which there are too few for them."""
    return info.flops >= 2 * GRAIN and batch < (workers or usable_cpus())
