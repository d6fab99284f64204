"""A TT-matrix times dense rows, and the gradients: compiled twin of ``portable.chain``.

The contract is the twin's, for float32 and float64 of NumPy. A row of the batch goes through all
stages while its state is in the cache; the order of additions is fixed by shapes alone.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from ttcore.kernels.cpu import stages as programs
from ttcore.kernels.cpu.pool import run_blocks
from ttcore.kernels.merging import split_gradient
from ttcore.typing import Cores, Stage

GRAIN = 10**7  # flops of a block: about 100 us
SHARES = 16  # at most so many partial sums of the gradients
SHARE_BYTES = 2**21  # and at most so much memory for them

Array = np.ndarray[Any, Any]


class Tables(NamedTuple):
    """What the compiled programs need to know about a chain: sizes, in entries."""

    table: Array
    shapes: Array
    starts: Array
    mats: int
    supercore: int
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
        vector, entries = s.inner == 1, s.rows * s.k
        sizes = (vector, s.outer, s.rows, s.k, s.inner)
        rows.append((*sizes, mats, mats + entries * vector, s.first, s.last, s.form, states))
        mats += entries * (1 + vector)
        states += s.outer * s.k * s.inner if t else 0
    last = stages[-1]
    return Tables(
        np.array(rows, np.int64),
        np.array(shapes, np.int64),
        np.cumsum([0, *(int(np.prod(shape)) for shape in shapes[:-1])]).astype(np.int64),
        mats,
        max(_largest_merge(shapes[s.first : s.last]) for s in stages),
        max(s.outer * s.inner * max(s.rows, s.k) for s in stages),
        states,
        last.outer * last.rows * last.inner,
        sum(2 * s.outer * s.rows * s.k * s.inner for s in stages),
    )


def _largest_merge(shapes: Sequence[tuple[int, ...]]) -> int:
    """Entries of the largest supercore on the way: inner ranks may exceed the last."""
    m = n = largest = 1
    for shape in shapes:
        m, n = m * shape[1], n * shape[2]
        largest = max(largest, shapes[0][0] * m * n * shape[3])
    return largest


def matvec(cores: Cores, x: Array, stages: Sequence[Stage]) -> Array:
    """See the twin; cores and x of one dtype, float32 or float64."""
    info, mats = _built(cores, stages)
    zero = x.dtype.type(0)
    x = _plain(x)
    y = np.empty((x.shape[0], info.rows_out), x.dtype)

    def block(first: int, last: int) -> None:
        scratch = np.empty((2, info.state), x.dtype)
        programs.forward(zero, info.table, mats, x, y, first, last, scratch)

    run_blocks(block, x.shape[0], max(1, GRAIN // info.flops))
    return y


def matvec_backward(
    cores: Cores, x: Array, gy: Array, stages: Sequence[Stage]
) -> tuple[Array, Cores]:
    """See the twin; all of one dtype, float32 or float64."""
    info, mats = _built(cores, stages)
    zero = x.dtype.type(0)
    x, gy = _plain(x), _plain(gy)
    batch = x.shape[0]
    gx = np.empty(x.shape, x.dtype)
    shares = max(1, min(SHARES, batch, SHARE_BYTES // mats.nbytes))
    share = -(-batch // shares) if batch else 1
    partial = np.zeros((shares, mats.size), x.dtype)

    def block(first: int, last: int) -> None:
        scratch, states = np.empty((2, info.state), x.dtype), np.empty(info.states, x.dtype)
        for s in range(first, last):
            programs.backward(
                zero, info.table, mats, x, gy, gx, partial[s],
                s * share, min((s + 1) * share, batch), states, scratch,
            )  # fmt: skip

    run_blocks(block, shares, max(1, GRAIN // (3 * info.flops * share)))
    total = partial[0]
    for other in partial[1:]:
        total += other
    gcores: list[Any] = [None] * len(cores)
    for row, stage in zip(info.table, stages, strict=True):
        at = row[programs.TURNED if row[programs.VECTOR] else programs.AT]
        gradient = total[at : at + stage.rows * stage.k]
        if row[programs.VECTOR]:
            gradient = gradient.reshape(stage.k, stage.rows).T
        span = slice(stage.first, stage.last)
        shaped = gradient.reshape(stage.rows, stage.k)
        gcores[span] = split_gradient(cores[span], shaped, stage.form)
    return gx, tuple(gcores)


def _built(cores: Cores, stages: Sequence[Stage]) -> tuple[Tables, Array]:
    """The tables, and the matrices of all stages back to back."""
    info = _tables(tuple(core.shape for core in cores), tuple(stages))
    flat = np.concatenate([core.reshape(-1) for core in cores])
    mats = np.empty(info.mats, flat.dtype)
    work = np.empty((2, info.supercore), flat.dtype)
    programs.build(flat.dtype.type(0), flat, info.shapes, info.starts, info.table, mats, work)
    return info, mats


def _plain(x: Array) -> Array:
    """The array C-contiguous and aligned; copied only if it is not."""
    return np.require(x, requirements=["C", "A"])
