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
from ttcore.kernels.cpu.buffers import aligned_array, fixed, give, take
from ttcore.kernels.cpu.cache import compiled, reordered
from ttcore.kernels.cpu.gemm import gemm
from ttcore.kernels.cpu.pool import usable_cpus
from ttcore.kernels.cpu.reflections import qr
from ttcore.kernels.cpu.simd import entry_bytes
from ttcore.kernels.cpu.slices import (
    COLUMNS,
    block_entries,
    multiply,
    multiply_basis,
    sum_of_squares,
)

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
    entries = block_entries(r, dtype)
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
            squares[share] = multiply(zero, share, board, t, core, left, block)
            (m, (_, n, s)), width, size = (len(t), core.shape), w.shape[1], entry_bytes(zero)
            gemm(
                zero, m, width, s, np.uintp(left.ctypes.data + share * s * size), n * s, 1,
                np.uintp(w.ctypes.data), width,
                np.uintp(seen.ctypes.data + share * width * size), n * width, False,
            )  # fmt: skip
        else:
            multiply_basis(zero, share * COLUMNS, q, left, core.shape[2], back)
        share = boards.take(board)


@compiled
def _moderate(x):
    """The exponent of the power of two that entries were divided by; 0 where the norm is near 1."""
    square = sum_of_squares(x, 1, 0, x.size, 0)
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
