"""The range of a core behind an orthonormal train, from its products with random vectors.

One compiled call a core, in which no threads of BLAS wake: once awake they spin beside ours for a
tenth of a second. The core is read once, by blocks of columns that are multiplied in the cache
while the next ones come from memory.

The same for any other operand, and the source: ``ttcore.sketching``.
"""

import math
from typing import Any

import numpy as np

from ttcore.kernels.cpu import board as boards
from ttcore.kernels.cpu.buffers import LINE, aligned_array, fixed, give, take
from ttcore.kernels.cpu.cache import compiled, reordered
from ttcore.kernels.cpu.gemm import gemm, gemm_ahead, strip
from ttcore.kernels.cpu.pool import usable_cpus
from ttcore.kernels.cpu.reflections import qr
from ttcore.kernels.cpu.simd import entry_bytes

BLOCK = 2**14  # entries of a core that are multiplied at a time, about
COLUMNS = 16  # of the way back in a share
FAR = 16  # binary digits by which a norm may differ from 1
FORTH, BACK = range(2)  # steps on the board

Array = np.ndarray[Any, Any]


def found(
    t: Array, core: Array, w: Array, probes: int, noise: float, room: float
) -> tuple[Array, Array, int, float, float] | None:
    """Orthonormal columns Q that span the rows (m n, s) of t G, times random vectors.

    Contract
        t       (m, r), near unit size; core G (r, n, s); w (s, width), entries below 1: products
                of what is right of the core with ``probes`` vectors that only measure what Q
                misses, then with those that Q spans, not more than m n; of one dtype, float32 or
                float64
        noise   trailing columns of Q are left out that explain no more of the products
        room    squares of t G sum up to between 1 / room and room; None if not
        result  Q (m n, k); t (k, s) and an exponent: 2**exponent t is Q^T t G; the norm of the
                products with probes, and of what Q misses of them, both times one power of two
    Cost: m n s (r + width + k) multiply-adds.
    """
    core, w, t = map(fixed, (core, w, t))
    (m, r), (_, n, s), width = t.shape, core.shape, w.shape[1]
    dtype, zero = core.dtype, core.dtype.type(0)
    size = width - probes
    left = take(m * n * s, dtype)
    seen = aligned_array(m * n * width, dtype).reshape(m * n, width)
    q = np.empty((m * n, size), dtype)
    back = np.empty((size, s), dtype)
    squares = np.empty(n)
    entries = r * max(LINE // dtype.itemsize, BLOCK // r)
    rest = t, core, w, left, seen, squares, q, back
    shares = max(n, -(-s // COLUMNS))
    block = aligned_array(entries, dtype)
    rank, norm, missed, exponent = boards.together(
        (__name__, dtype),
        lambda board: _find(zero, board, *rest, block, probes, noise, room),
        lambda board: _help(zero, board, *rest, aligned_array(entries, dtype)),
        min(usable_cpus(), shares) - 1,
    )
    give(left)
    if not rank:
        return None
    return np.ascontiguousarray(q[:, :rank]), back[:rank], exponent, norm, missed


@compiled
def _find(zero, board, t, core, w, left, seen, squares, q, back, block, probes, noise, room):
    """``(rank, norm, rest, exponent)`` as of `found`; rank 0 where squares leave the room.

    Contract
        left     (m n s,), seen (m n, width), squares (n,), q (m n, size), back (size, s): written
        block    what each thread has of its own
    """
    boards.begin(board, FORTH, core.shape[1])
    _take_shares(zero, board, t, core, w, left, seen, squares, q, back, block)
    boards.finish(board)
    square = squares.sum()
    if not 1.0 / room < square < room:
        return 0, 0.0, 0.0, 0
    _moderate(seen.reshape(seen.size))
    triangle = np.empty((q.shape[1], q.shape[1]))
    qr(seen[:, probes:], q, triangle)
    rank = _rank(triangle, noise)
    boards.begin(board, BACK, -(-core.shape[2] // COLUMNS))
    _take_shares(zero, board, t, core, w, left, seen, squares, q, back, block)
    boards.finish(board)
    norm, rest = _missed(zero, seen, q, probes, rank)
    return rank, norm, rest, _moderate(back.reshape(back.size))


@compiled
def _help(zero, board, t, core, w, left, seen, squares, q, back, block):
    """What a helper does."""
    while boards.enter(board):
        _take_shares(zero, board, t, core, w, left, seen, squares, q, back, block)
        boards.leave(board)


@compiled
def _take_shares(zero, board, t, core, w, left, seen, squares, q, back, block):
    """Shares of the step on the board until there are no more. Nothing is allocated here."""
    share = boards.take(board)
    while share >= 0:
        if board[boards.STEP] == FORTH:
            then = boards.peek(board)
            _multiply_slice(zero, share, then, t, core, w, left, seen, block)
            m, (_, n, s) = len(t), core.shape
            squares[share] = 0.0
            for row in range(m):
                squares[share] += _square(left, (row * n + share) * s, s)
        else:
            _multiply_back(zero, share * COLUMNS, left, q, back)
        share = boards.take(board)


@compiled
def _multiply_slice(zero, i, then, t, core, w, left, seen, block):
    """Rows (m, i) of the left, and their products with the random vectors.

    The slice ``then`` is probably next; -1: none.

    Some columns of the core are copied and multiplied at a time.
    """
    size = entry_bytes(zero)
    (m, r), (_, n, s), width = t.shape, core.shape, w.shape[1]
    flat, place, pitch = core.reshape(core.size), np.uintp(block.ctypes.data), n * s
    here = np.uintp(left.ctypes.data + i * s * size)
    columns = _columns(len(block) // r, s, LINE // size)
    for first in range(0, s, columns):
        wide = min(columns, s - first)
        for row in range(r):
            at, to = np.uintp(row * pitch + i * s + first), np.uintp(row * wide)
            for column in range(np.uintp(wide)):
                block[to + column] = flat[at + column]
        behind = i * s + first + wide if first + wide < s else then * s
        ahead = np.uintp(core.ctypes.data + behind * size)
        lines, asked = wide * size // LINE + 1, 0
        row = 0
        while row < m:
            x = np.uintp(t.ctypes.data + row * r * size)
            z = np.uintp(here + (row * pitch + first) * size)
            high = strip(m - row)
            if behind >= 0 and asked < r * lines:
                asked += gemm_ahead(
                    zero, high, wide, r, x, r, 1, place, wide, z, pitch, False, ahead, asked, lines,
                    pitch * size - lines * LINE,
                )  # fmt: skip
            else:
                gemm(zero, high, wide, r, x, r, 1, place, wide, z, pitch, False)
            row += high
    gemm(
        zero, m, width, s, here, pitch, 1, np.uintp(w.ctypes.data), width,
        np.uintp(seen.ctypes.data + i * width * size), n * width, False,
    )  # fmt: skip


@compiled
def _multiply_back(zero, first, left, q, back):
    """Columns of Q^T times the left, from the first on."""
    size, (rows, count), s = entry_bytes(zero), q.shape, back.shape[1]
    gemm(
        zero, count, min(COLUMNS, s - first), rows, np.uintp(q.ctypes.data), 1, count,
        np.uintp(left.ctypes.data + first * size), s,
        np.uintp(back.ctypes.data + first * size), s, False,
    )  # fmt: skip


@compiled
def _columns(most, s, line):
    """How many of s columns are copied at a time: in equal pieces, as long as some lines."""
    pieces = -(-s // (most // line * line))
    return -(-s // (pieces * line)) * line


@reordered
def _square(x, first, count):
    total = 0.0
    for i in range(np.uintp(first), np.uintp(first + count)):
        total += np.float64(x[i]) * np.float64(x[i])
    return total


@compiled
def _moderate(x):
    """The exponent of the power of two that entries were divided by; 0 where the norm is near 1."""
    square = _square(x, 0, x.size)
    near = square > 0.0 and abs(math.frexp(math.sqrt(square))[1]) <= FAR
    if near or not square < math.inf:
        return 0
    largest = 0.0  # squares may have vanished
    for i in range(x.size):
        largest = max(largest, abs(np.float64(x[i])))
    exponent = max(math.frexp(largest)[1], -1000)  # the inverse of a smaller power is none
    factor = math.ldexp(1.0, -exponent)
    for i in range(x.size):
        x[i] *= factor
    return exponent


@compiled
def _rank(triangle, noise):
    """Of how many columns of Q more than noise is in the products; at least 1."""
    n = len(triangle)
    total = 0.0
    for i in range(n):
        for j in range(i, n):
            total += triangle[i, j] ** 2
    tail = 0.0
    for k in range(n - 1, 0, -1):
        for j in range(k, n):
            tail += triangle[k, j] ** 2
        if tail > noise * noise * total:
            return k + 1
    return 1


@reordered
def _missed(zero, seen, q, probes, rank):
    """Norm of the first columns, and of what the first so many columns of Q miss of them."""
    (rows, width), count = seen.shape, q.shape[1]
    work = np.empty((rows + rank) * probes, seen.dtype)
    x, basis = np.uintp(seen.ctypes.data), np.uintp(q.ctypes.data)
    inside = np.uintp(work.ctypes.data)
    part = np.uintp(inside + rank * probes * entry_bytes(zero))
    gemm(zero, rank, probes, rows, basis, 1, count, x, width, inside, probes, False)
    gemm(zero, rows, probes, rank, basis, count, 1, inside, probes, part, probes, False)
    square = missed = 0.0
    for i in range(rows):
        for j in range(probes):
            entry = np.float64(seen[i, j])
            rest = entry - work[(rank + i) * probes + j]
            square += entry * entry
            missed += rest * rest
    return math.sqrt(square), math.sqrt(missed)
