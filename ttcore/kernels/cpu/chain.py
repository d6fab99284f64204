"""A TT-matrix times dense rows, and the gradients: compiled twin of ``portable.chain``.

The contract is the twin's, for float32 and float64 of NumPy. A row of the batch goes through all
stages while its state is in the cache; the order of additions is fixed by shapes alone.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np

from ttcore.kernels.cpu import merging
from ttcore.kernels.cpu import stages as programs
from ttcore.kernels.cpu.buffers import give, take
from ttcore.kernels.cpu.pool import run_blocks
from ttcore.typing import Cores, Stage

GRAIN = 10**7  # flops of a block: about 100 us
COLUMNS = 16  # so many columns become rows at a time: those of a cache line of float32
LINE_ENTRIES = 16  # of float32 in a cache line: matrices and states begin at one
SHARES = 16  # at most so many partial sums of the gradients
SHARE_BYTES = 2**21  # and at most so much memory for them

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
    state: int
    states: int
    rows_out: int
    flops: int


@lru_cache(maxsize=1024)
def _tables(shapes: tuple[tuple[int, ...], ...], stages: tuple[Stage, ...]) -> Tables:
    """The tables of a chain."""
    rows = []
    mats = states = 0
    for t, s in enumerate(stages):
        vector, entries = s.inner == 1, _padded(s.rows * s.k)
        sizes = (vector, s.outer, s.rows, s.k, s.inner)
        where = (mats, mats + entries * vector, s.first, s.last, s.form, states)
        rows.append((*sizes, *where, _gradient(s)))
        mats += entries * (1 + vector)
        states += _padded(s.outer * s.k * s.inner) if t else 0
    last = stages[-1]
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
        _padded(max(s.outer * s.inner * max(s.rows, s.k) for s in stages)),
        states,
        last.outer * last.rows * last.inner,
        sum(2 * s.outer * s.rows * s.k * s.inner for s in stages),
    )


def _gradient(s: Stage) -> int:
    """The cheapest way to the gradient of A, by cycles of float32 in a rough model."""
    lanes = LINE_ENTRIES

    def turned(n: int, m: int) -> float:
        return s.outer * (m * -(-n // lanes) * (s.inner + 3) + 0.4 * n * s.inner)

    tiles = -(-s.rows // 4) * 4 * -(-s.k // 4) * 4
    ways = {
        merging.DOTS: 1.3 * s.outer * tiles * -(-s.inner // lanes) + 12 * s.rows * s.k,
        merging.TURN_STATE: turned(s.k, s.rows),
        merging.TURN_RESULT: turned(s.rows, s.k),
    }
    return min(ways, key=ways.__getitem__)


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


def matvec(cores: Cores, x: Array, stages: Sequence[Stage]) -> Array:
    """See the twin; cores and x of one dtype, float32 or float64."""
    info = _tables(tuple(core.shape for core in cores), tuple(stages))
    zero, x = x.dtype.type(0), _plain(x)
    mats = _matrices(zero, info, _flat(cores))
    y = np.empty((x.shape[0], info.rows_out), x.dtype)

    def block(first: int, last: int) -> None:
        scratch = take(2 * info.state, x.dtype)
        programs.forward(zero, info.table, mats, x, y, first, last, scratch, info.state)
        give(scratch)

    run_blocks(block, x.shape[0], max(1, GRAIN // info.flops))
    return y


def matmat(cores: Cores, x: Array, stages: Sequence[Stage]) -> Array:
    """See the twin; cores and x of one dtype, float32 or float64."""
    info = _tables(tuple(core.shape for core in cores), tuple(stages))
    zero, x = x.dtype.type(0), _plain(x)
    mats = _matrices(zero, info, _flat(cores))
    y = np.empty((info.rows_out, x.shape[1]), x.dtype)

    def block(first: int, last: int) -> None:
        scratch = take(2 * info.state + COLUMNS * (x.shape[0] + info.rows_out), x.dtype)
        programs.columns(zero, info.table, mats, x, y, first, last, scratch, info.state, COLUMNS)
        give(scratch)

    run_blocks(block, x.shape[1], COLUMNS * max(1, GRAIN // info.flops // COLUMNS))
    return y


def matvec_backward(
    cores: Cores, x: Array, gy: Array, stages: Sequence[Stage]
) -> tuple[Array, Cores]:
    """See the twin; all of one dtype, float32 or float64."""
    shapes = tuple(core.shape for core in cores)
    info = _tables(shapes, tuple(stages))
    zero, x, gy, flat = x.dtype.type(0), _plain(x), _plain(gy), _flat(cores)
    mats = _matrices(zero, info, flat)
    batch = x.shape[0]
    gx = np.empty(x.shape, x.dtype)
    shares = max(1, min(SHARES, batch, SHARE_BYTES // mats.nbytes))
    share = -(-batch // shares) if batch else 1
    partial = np.zeros((shares, mats.size), x.dtype)

    def block(first: int, last: int) -> None:
        scratch = take(3 * info.state + info.states, x.dtype)
        for s in range(first, last):
            programs.backward(
                zero, info.table, mats, x, gy, gx, partial[s],
                s * share, min((s + 1) * share, batch), scratch, info.state,
            )  # fmt: skip
        give(scratch)

    run_blocks(block, shares, max(1, GRAIN // (3 * info.flops * share)))
    gflat = np.empty_like(flat)
    merging.spread(
        zero, flat, info.shapes, info.starts, info.table, info.supercore, info.prefixes, partial,
        gflat,
    )  # fmt: skip
    found = []
    for start, shape in zip(info.begins, shapes, strict=True):
        found.append(gflat[start : start + math.prod(shape)].reshape(shape))
    return gx, tuple(found)


def _flat(cores: Cores) -> Array:
    return np.concatenate(cores, axis=None)


def _matrices(zero: Any, info: Tables, flat: Array) -> Array:
    return merging.build(
        zero, flat, info.shapes, info.starts, info.table, info.supercore, info.mats
    )


def _plain(x: Array) -> Array:
    """The array C-contiguous and aligned; copied only if it is not."""
    if x.flags.c_contiguous and x.flags.aligned:
        return x
    return np.require(x, requirements=["C", "A"])
