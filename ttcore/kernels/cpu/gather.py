"""Entries of a TT-tensor at a batch of multi-indices: compiled twin of ``portable.gather``.

The contract is the twin's, for float32 and float64 of NumPy. Neighbouring cores are merged where
that saves more than it costs.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from ttcore.kernels.cpu import entries as programs
from ttcore.kernels.cpu.buffers import aligned_array, give, take
from ttcore.kernels.cpu.pool import run_blocks
from ttcore.kernels.cpu.target import vector_bytes
from ttcore.kernels.merging import merge, split_gradient
from ttcore.typing import Cores

STATES = 2**21  # bytes of the states of a block
ROWS = 2**12  # rows of a block, at most
LEAST = 64  # and at least
SLICES = 2**21  # bytes of a merged core
TABLE = 2**20  # of one at an end, which is a table of vectors
BUCKET = 8  # rows of a bucket of a merged core, at least, on the average
PER_CORE = 100  # multiply-adds that a row's way through a core costs beside the product
MERGING = 8  # what a multiply-add of merging costs: one thread, and the result is laid out anew
GRAIN = 10**7  # flops of a block of the pool
SHARES = 8  # partial sums of the gradients, at most
SHARES_BYTES = 2**23  # of all of them, unless they are few
FEW = 4

Array = np.ndarray[Any, Any]


class Tables(NamedTuple):
    """What the compiled programs need to know about a train; sizes in entries."""

    table: Array
    modes: Array
    groups: tuple[tuple[int, int], ...]
    flat: int
    turned: int
    block: int
    most: int
    pitch: int
    state: int
    flops: int


def gather(cores: Cores, index: Array, workers: int | None = None) -> Array:
    """See the twin; cores of one dtype, float32 or float64."""
    if len(cores) == 1:
        return cores[0][0, index[:, 0], 0]
    dtype, batch = cores[0].dtype, index.shape[0]
    info = _tables(tuple(core.shape for core in cores), batch, dtype.itemsize, gradients=False)
    flat = _flat(cores, info, turned=False)
    y = np.empty(batch, dtype)
    count = (len(info.groups) + 1) * info.block + info.most
    entries = 2 * info.block * info.pitch

    def block(first: int, last: int) -> None:
        with _scratch(count, entries, dtype) as (numbers, states):
            for piece, start, stop in _pieces(index, first, last, info.block):
                programs.forward(
                    dtype.type(0), flat, info.table, info.modes, piece, y[start:stop],
                    info.block, numbers, states,
                )  # fmt: skip

    grain = info.block * max(1, GRAIN // info.flops // info.block)
    run_blocks(block, batch, grain, workers)
    return y


def gather_backward(cores: Cores, index: Array, gy: Array, workers: int | None = None) -> Cores:
    """See the twin; cores and gy of one dtype, float32 or float64."""
    if len(cores) == 1:
        gcore = np.zeros_like(cores[0], order="C")
        np.add.at(gcore[0, :, 0], index[:, 0], gy)
        return (gcore,)
    dtype, batch = cores[0].dtype, index.shape[0]
    info = _tables(tuple(core.shape for core in cores), batch, dtype.itemsize, gradients=True)
    flat = _flat(cores, info, turned=True)
    gy = np.array(gy, order="C")
    shares = max(FEW, min(SHARES, SHARES_BYTES // (info.flat * dtype.itemsize)))
    shares = max(1, min(shares, 3 * info.flops * batch // GRAIN))
    share = -(-batch // shares)
    sums = np.zeros((shares, info.flat), dtype)
    count = 2 * len(info.groups) * info.block + info.most
    entries = info.block * (info.state + 2 * info.pitch)

    def block(first: int, last: int) -> None:
        with _scratch(count, entries, dtype) as (numbers, states):
            for s in range(first, last):
                end = min((s + 1) * share, batch)
                for piece, start, stop in _pieces(index, s * share, end, info.block):
                    programs.backward(
                        dtype.type(0), flat, info.table, info.modes, piece, gy[start:stop],
                        sums[s], info.block, numbers, states,
                    )  # fmt: skip

    run_blocks(block, shares, 1, workers)
    for other in sums[1:]:
        sums[0] += other
    return _pulled_back(cores, info, sums[0])


@contextmanager
def _scratch(count: int, entries: int, dtype: Any) -> Iterator[tuple[Array, Array]]:
    numbers, states = take(count, np.dtype(np.int64)), take(entries, dtype)
    yield numbers, states[:entries]
    give(numbers)
    give(states)


def _pieces(index: Array, first: int, last: int, block: int) -> Iterator[tuple[Array, int, int]]:
    """Rows first..last-1 as arrays that the programs read, in whole blocks where it is copied."""
    if index.flags.carray:
        yield index[first:last], first, last
        return
    for start in range(first, last, block):
        stop = min(start + block, last)
        yield np.array(index[start:stop], order="C"), start, stop


@lru_cache(maxsize=256)
def _tables(
    shapes: tuple[tuple[int, ...], ...], batch: int, size: int, *, gradients: bool
) -> Tables:
    modes = tuple(n for _, n, _ in shapes)
    ranks = (1, *(s for _, _, s in shapes))
    lanes = vector_bytes() // size
    widest = max(_padded(r, lanes, size) for r in ranks)
    block = max(LEAST, min(ROWS, STATES // (2 * widest * size)))
    groups = _grouped(modes, ranks, batch, size, block, gradients=gradients)
    rows, at, turned, state = [], 0, 0, 0
    for t, (first, last) in enumerate(groups):
        n, r, s = math.prod(modes[first:last]), ranks[first], ranks[last]
        inner = 0 < t < len(groups) - 1
        pitch = _padded(r if last == len(modes) else s, lanes, size)
        rows.append((n, r, s, pitch, at, turned, first, last, state))
        at += n * pitch * (r if inner else 1)
        turned += n * _padded(r, lanes, size) * s if inner else 0
        state += pitch
    table = np.array(rows, np.int64)
    table[:, programs.TURNED] += at
    if gradients:  # all states are kept
        state -= rows[-1][programs.PITCH]
        block = max(LEAST, min(block, STATES // (state * size)))
    flops = sum(2 * r * s for _, r, s, *_ in rows)
    most = min(max(n for n, *_ in rows), block)
    modes_ = np.array(modes, np.int64)
    return Tables(table, modes_, groups, at, turned, block, most, widest, state, flops)


def _padded(rank: int, lanes: int, size: int) -> int:
    """Entries of whole registers; rows a multiple of 4 KiB apart would meet in the cache."""
    pitch = -(-rank // lanes) * lanes
    return pitch + lanes if pitch * size % 4096 == 0 else pitch


def _grouped(
    modes: Sequence[int],
    ranks: Sequence[int],
    batch: int,
    size: int,
    block: int,
    *,
    gradients: bool,
) -> tuple[tuple[int, int], ...]:
    """Which neighbouring cores to merge: ranges of cores, at least two if there are two cores.

    Merging spares every row of the batch a product. The merged slices must fit the cache and their
    buckets must not become too small; the ends have no buckets.
    """
    bounds = list(range(len(modes) + 1))
    slices, table = (SLICES // 8, TABLE // 4) if gradients else (SLICES, TABLE)
    merging = MERGING * (3 if gradients else 1)
    while len(bounds) > 3:
        best = None
        for t in range(1, len(bounds) - 1):
            first, middle, last = bounds[t - 1 : t + 2]
            r, s, u = ranks[first], ranks[middle], ranks[last]
            n = math.prod(modes[first:last])
            end = first == 0 or last == len(modes)
            fits = r * n * u * size <= (table if end else slices)
            fits = fits and (end or n * BUCKET <= min(block, batch))
            saved = batch * (r * s + s * u - r * u + PER_CORE)
            if fits and r * n * s * u * merging <= saved / 4:
                best = min(best or (n, t), (n, t))
        if best is None:
            break
        del bounds[best[1]]
    return tuple(pairwise(bounds))


def _flat(cores: Cores, info: Tables, *, turned: bool) -> Array:
    """All cores, merged and laid out as the programs read them."""
    flat = aligned_array(info.flat + turned * info.turned, cores[0].dtype)
    flat.fill(0)
    parts = _unfolded(info, flat)
    for t, ((first, last), part) in enumerate(zip(info.groups, parts, strict=True)):
        merged = merge(_four_way(cores[first:last]))[:, :, 0, :].transpose(1, 0, 2)  # (n, r, r')
        part[...] = merged.reshape(part.shape)
        if turned and 0 < t < len(parts) - 1:
            n, r, s, *_, at = info.table[t, : programs.TURNED + 1]
            pitch = info.table[t - 1, programs.PITCH]
            slices = flat[at : at + n * s * pitch].reshape(n, s, pitch)
            slices[:, :, :r] = merged.transpose(0, 2, 1)
    return flat


def _unfolded(info: Tables, flat: Array) -> list[Array]:
    """The cores in ``flat``, without what pads them: (n, r, r'), at the ends (n, r') and (n, r)."""
    found = []
    for t, (n, r, s, pitch, at, *_) in enumerate(info.table.tolist()):
        if 0 < t < len(info.groups) - 1:
            found.append(flat[at : at + n * r * pitch].reshape(n, r, pitch)[:, :, :s])
        else:
            found.append(flat[at : at + n * pitch].reshape(n, pitch)[:, : r * s])
    return found


def _pulled_back(cores: Cores, info: Tables, gflat: Array) -> Cores:
    """The gradients of the cores from those of the merged ones."""
    found: list[Array] = []
    for (first, last), part in zip(info.groups, _unfolded(info, gflat), strict=True):
        r, s = cores[first].shape[0], cores[last - 1].shape[2]
        gradient = part.reshape(part.shape[0], r, s).transpose(1, 0, 2)
        four = _four_way(cores[first:last])
        gradients = split_gradient(four, np.ascontiguousarray(gradient), 0)
        found += [
            np.ascontiguousarray(g).reshape(core.shape)
            for g, core in zip(gradients, cores[first:last], strict=True)
        ]
    return tuple(found)


def _four_way(cores: Cores) -> list[Array]:
    return [core[:, :, None, :] for core in cores]
