"""Arrays that do not fit in memory: a tall matrix read in blocks of rows, and passes over it.

The passes are those of ``kernels.portable.tsqr``, put together from the blocks' own. While one
block is worked on, threads read the next ones.
"""

import math
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np

from ttcore.arrays import largest
from ttcore.factorisations import not_finite
from ttcore.kernels import dispatch
from ttcore.kernels.dispatch import tsqr
from ttcore.sources import Key, Reversed, Source, keys_of_blocks
from ttcore.typing import Array

BLOCK = 2**21  # entries of a block: 16 MiB of float64
STATE = 2**28  # bytes up to which what is left after a pass is kept in memory
ROWS = 2**20  # rows to which trailing modes are merged, if they may: few rows are a small state
NARROWEST, WIDEST = 256, 1024  # columns up to which; the more, the slower are Gram matrices
SAMPLES, SAMPLED = 512, 2**25  # rows and entries of a sample, at most
RUN = 8  # neighbouring rows that a sample takes at once: files are slow to read one by one


class Stream:
    """A tall matrix (N, m) that is read block by block.

    The rows are the first ``kept`` modes of the array, the columns all others, after they were
    projected: each level takes the trailing columns times a basis.

    Attributes
    ----------
    modes : tuple of int
        Of the whole array.
    shape : (int, int)
    dtype : dtype
        In which it is computed.
    """

    def __init__(
        self,
        source: Source,
        axes: Sequence[int],
        kept: int = 1,
        levels: Sequence[tuple[Array, float]] = (),
    ) -> None:
        """``axes[k]`` is the number of axes of the source that make up mode k."""
        ends = np.cumsum([0, *axes]).tolist()
        self.source, self.axes, self.kept, self.levels = source, tuple(axes), kept, tuple(levels)
        self.modes = tuple(math.prod(source.shape[i:j]) for i, j in pairwise(ends))
        self._leading: int = ends[kept]
        columns = math.prod(self.modes[kept:])
        for basis, _ in self.levels:
            columns = columns // basis.shape[0] * basis.shape[1]
        self.shape = (math.prod(self.modes[:kept]), columns)
        self.dtype = source.dtype

    @property
    def widest(self) -> int:
        """Columns up to which modes are merged."""
        return min(max(math.prod(self.modes) // ROWS, NARROWEST), WIDEST)

    def unfolded(self, kept: int) -> "Stream":
        """The matrix with other modes as its rows."""
        return Stream(self.source, self.axes, kept, self.levels)

    def projected(self, basis: Array, scale: float) -> "Stream":
        """The matrix times ``scale * basis``, computed anew whenever it is read."""
        return Stream(self.source, self.axes, self.kept, [*self.levels, (basis, scale)])

    def turned(self, turn: Array) -> "Stream":
        """The matrix, projected already, times a small one."""
        *levels, (basis, scale) = self.levels
        return Stream(self.source, self.axes, self.kept, [*levels, (basis @ turn, scale)])

    def reversed(self) -> "Stream":
        """The whole array with its axes in reverse."""
        return Stream(Reversed(self.source), self.axes[::-1])

    def blocks(self) -> Iterator[tuple[int, int, Array]]:
        """First row, last row, and the rows between; valid until the next ones are asked for."""
        first = 0
        for _, block in self._raw():
            x = self._through(block)
            yield first, first + x.shape[0], x
            first += x.shape[0]

    def _raw(self) -> Iterator[tuple[Key, Array]]:
        source = self.source
        width = math.prod(source.shape[self._leading :])
        size = max(BLOCK, width)
        source.meter.expect(source.nbytes)
        keys = list(keys_of_blocks(source.shape, self._leading, BLOCK))
        ahead = source.readers
        room = min(size, math.prod(source.shape))
        buffers = [np.empty(room, self.dtype) for _ in range(ahead + 1)]
        with ThreadPoolExecutor(ahead, "ttcore-reader") as threads:

            def fetch(number: int) -> Future[Array]:
                return threads.submit(source.read, keys[number], buffers[number % len(buffers)])

            coming = deque(fetch(number) for number in range(min(ahead, len(keys))))
            for number, key in enumerate(keys):
                block = coming.popleft().result()
                if number + ahead < len(keys):
                    coming.append(fetch(number + ahead))
                yield key, block
                source.meter.advance(block.size * source.stored.itemsize)

    def _through(self, block: Array) -> Array:
        for basis, scale in self.levels:
            rows = block.reshape(-1, basis.shape[0])
            block = _passes(rows).project(rows, basis, scale=scale)[0]
        return block.reshape(-1, self.shape[1])

    def sample(self, count: int) -> Array:
        """About ``count`` rows, drawn by a fixed rule."""
        source, lead = self.source, self._leading
        width = math.prod(source.shape[lead:])
        run = min(RUN, source.shape[lead - 1], max(BLOCK // width, 1))
        count = min(count, max(SAMPLED // width, 2 * run))
        starts = np.random.default_rng(self.shape[0]).integers(0, self.shape[0], -(-count // run))
        starts[[0, -1]] = 0, self.shape[0] - 1  # functions are often at their steepest at the ends
        buffer = np.empty(run * width, self.dtype)
        found = []
        for start in np.sort(starts):
            *outer, inner = (int(i) for i in np.unravel_index(start, source.shape[:lead]))
            first = min(inner, source.shape[lead - 1] - run)
            key = (*(slice(i, i + 1) for i in outer), slice(first, first + run))
            found.append(np.array(self._through(source.read(key, buffer))))
        return np.concatenate(found)

    def largest(self) -> float:
        """Largest modulus of a real or imaginary part of the source.

        Raises
        ------
        TTValueError
            If there is NaN or Inf, naming the first.
        """
        size = 0.0
        for key, block in self._raw():
            here = largest(block)
            if not math.isfinite(here):
                place = np.unravel_index(int(np.argmin(np.isfinite(block).ravel())), block.shape)
                start = [k.start for k in key] + [0] * (block.ndim - len(key))
                index = tuple(int(i) + j for i, j in zip(place, start, strict=True))
                raise not_finite(self.source.what, self.source.place(index))
            size = max(size, here)
        return size

    def in_memory(self) -> Array:
        """All rows; for what has become small."""
        out = np.empty(self.shape, self.dtype)
        for first, last, x in self.blocks():
            out[first:last] = x
        return out


def _passes(block: Array) -> Any:
    """The module that reads one block; wide ones too, but for Gram matrices."""
    return dispatch.passes(block, widest=max(WIDEST, dispatch.NARROW))


def gram(a: Stream, *, scale: float = 1.0, basis: Array | None = None) -> Array:
    """See ``kernels.portable.tsqr``; ends early where the sum is not finite."""
    total: Array = 0.0
    for _, _, x in a.blocks():
        kernel = dispatch.passes(x) if basis is None else _passes(x)
        total = total + kernel.gram(x, scale=scale, basis=basis)
        if not math.isfinite(float(np.trace(total).real)):
            break
    return total


def project(a: Stream, basis: Array, *, scale: float = 1.0) -> tuple[Array | Stream, float]:
    """See ``kernels.portable.tsqr``; Z stays a stream where it would be too large."""
    z, _, error = _pass(a, basis, scale, inner=False)
    return z, error


def deflate(a: Stream, basis: Array, *, scale: float = 1.0) -> tuple[Array | Stream, Array, float]:
    """See ``kernels.portable.tsqr``; ends early where a sum is not finite."""
    return _pass(a, basis, scale, inner=True)


def _pass(
    a: Stream, basis: Array, scale: float, *, inner: bool
) -> tuple[Array | Stream, Array, float]:
    shape = (a.shape[0], basis.shape[1])
    basis = basis.astype(a.dtype, copy=False)
    fits = math.prod(shape) * a.dtype.itemsize <= STATE
    z: Any = np.empty(shape, a.dtype) if fits else a.projected(basis, scale)
    total: Array = 0.0
    square = 0.0
    for first, last, x in a.blocks():
        kernel = _passes(x)
        if inner:
            part, gram_of_part, error = kernel.deflate(x, basis, scale=scale)
            total = total + gram_of_part
        else:
            part, error = kernel.project(x, basis, scale=scale)
        square += error**2
        if inner and not math.isfinite(square + float(np.trace(total).real)):
            break
        if fits:
            z[first:last] = part
    return z, total, math.sqrt(square)


def householder(a: Stream, *, scale: float = 1.0) -> Array:
    """See ``kernels.portable.tsqr``."""
    found = None
    for _, _, x in a.blocks():
        found = dispatch.passes(x, widest=a.shape[1]).householder(x, scale=scale, start=found)
    return found


def sampled_rows(a: Stream, tolerance: float) -> Array | None:
    """See ``kernels.portable.tsqr``.

    Another pass costs more here than some columns too many: where no gap shows, the basis is to
    miss much less than it may, if few columns are enough for that.
    """
    m = a.shape[1]
    rows = a.sample(max(tsqr.SAMPLED, min(tsqr.SAMPLES * m, SAMPLES)))
    shape, found = rows.shape, tsqr.row_space(rows)
    if found is None:
        return None
    tails, rows = found
    for share, part in ((1e-3, 8), (1.0 / tsqr.GAP, 8), (1.0, 2)):
        rank = int(np.sum(tails > share * tolerance))
        if 0 < part * rank <= min(shape):
            return rows[:rank]
    return None
