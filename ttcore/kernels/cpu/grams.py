"""The Gram matrix of the rows of a core times a matrix, whose product is never written.

One compiled call, in which no threads of BLAS wake. A few rows of a slice of the mode are
transposed and multiplied in the cache while the next ones come from memory, and what a slice gives
is added up at once. Leading zeros of a column, as a triangular factor has them, are left out.

What it is for, and when one Gram matrix is enough: ``ttcore.rowspace``.
"""

import math
from typing import Any

import numpy as np

from ttcore.kernels.cpu import board as boards
from ttcore.kernels.cpu.buffers import LINE, aligned_array, fixed, give, take
from ttcore.kernels.cpu.cache import compiled
from ttcore.kernels.cpu.gemm import gemm, gemm_ahead
from ttcore.kernels.cpu.pool import usable_cpus
from ttcore.kernels.cpu.simd import TALL, turn
from ttcore.kernels.cpu.tall import add_gram
from ttcore.kernels.cpu.target import vector_bytes

SHARES = 4  # sums of slices, at most
WIDE = 2 * vector_bytes() // 8  # rows of a core that are multiplied at a time: two registers
DEEP = 128  # rows of a transposed product that are added up at a time
SIDE = 32  # of the blocks of a Cholesky decomposition

Array = np.ndarray[Any, Any]


def factor(core: Array, w: Array, least: float, most: float) -> tuple[Array, Array] | None:
    """The Cholesky factor of H H^T, scaled, for the rows H (r, n c) of a core (r, n, s) times w.

    Contract
        core, w  float64, any strides; w (s, c)
        result   U (r, r), upper triangular, and the norms of the rows (r,): H H^T is D U^T U D, the
                 norms being the diagonal D. None where one is not between ``least`` and ``most``;
                 may be None where the rows nearly depend on each other: U's condition tells
    Cost: n r s c + n c r^2 / 2 multiply-adds, half of the first where w is lower triangular.
    """
    core, w = map(fixed, (core, w))
    r, n, s = core.shape
    c, dtype = w.shape[1], core.dtype
    count, shares = -(-c // TALL), min(SHARES, n)
    starts, sizes, root = np.empty(count, np.int64), np.empty(r), np.empty((r, r))
    room = WIDE * s, c * r
    entries = count * s * TALL, shares * r * r, *room
    scratch = take(sum(entries), dtype)
    strips, totals, *mine = np.split(scratch, np.cumsum(entries[:-1]))
    totals = totals.reshape(shares, r, r)
    _pack(w, starts, strips)
    rest = core, c, starts, strips, totals
    boards.together(
        __name__,
        lambda board: _sum(board, *rest, *mine),
        lambda board: _help(board, *rest, *(aligned_array(x, dtype) for x in room)),
        min(usable_cpus(), shares) - 1,
    )
    done = _add_up(totals, sizes, root, least, most) and cholesky(root)
    give(scratch)
    return (root, sizes) if done else None


@compiled
def _pack(w, starts, strips):
    """Strips of `TALL` columns of w, one after the other, each from its first row not of zeros."""
    s, c = w.shape
    flat = w.reshape(w.size)
    for t in range(len(starts)):
        first = t * TALL
        columns, row = np.uintp(min(TALL, c - first)), 0
        while row < s:
            at, some = np.uintp(row * c + first), False
            for j in range(columns):
                some |= flat[at + j] != 0.0
            if some:
                break
            row += 1
        starts[t] = row
        for k in range(row, s):
            at, to = np.uintp(k * c + first), np.uintp((t * s + k) * TALL)
            for j in range(columns):
                strips[to + j] = flat[at + j]


@compiled
def _sum(board, core, c, starts, strips, totals, panel, product):
    """What the owner of the board does."""
    boards.begin(board, 0, len(totals))
    _take_shares(board, core, c, starts, strips, totals, panel, product)
    boards.finish(board)


@compiled
def _help(board, core, c, starts, strips, totals, panel, product):
    """What a helper does."""
    while boards.enter(board):
        _take_shares(board, core, c, starts, strips, totals, panel, product)
        boards.leave(board)


@compiled
def _take_shares(board, core, c, starts, strips, totals, panel, product):
    """Sum slices until there are no more. Nothing is allocated here."""
    (r, n, _), shares = core.shape, len(totals)
    at = np.uintp(product.ctypes.data)
    share = boards.take(board)
    while share >= 0:
        to = np.uintp(totals.ctypes.data + share * r * r * 8)
        totals[share] = 0.0
        for i in range(share * n // shares, (share + 1) * n // shares):
            _multiply(i, core, c, starts, strips, panel, product)
            for first in range(0, c, DEEP):
                add_gram(0.0, np.uintp(at + first * r * 8), min(DEEP, c - first), r, to)
        share = boards.take(board)


@compiled
def _multiply(i, core, c, starts, strips, panel, product):
    """(G(i) W)^T (c, r) for slice i of a core."""
    r, n, s = core.shape
    x, place, pitch = np.uintp(panel.ctypes.data), np.uintp(product.ctypes.data), n * s * 8
    lines = s * 8 // LINE + 1  # of a row of the slice
    for row in range(0, r, WIDE):
        wide = min(WIDE, r - row)
        here = np.uintp(core.ctypes.data + row * pitch + i * s * 8)
        turn(0.0, wide, s, here, n * s, x, wide)
        ahead, asked = np.uintp(here + wide * pitch), 0
        if row + wide == r:  # the next slice; after the last one nothing is lost
            ahead = np.uintp(core.ctypes.data + (i + 1) * s * 8)
        for t in range(len(starts)):
            first, start = t * TALL, starts[t]
            high, deep = min(TALL, c - first), s - start
            w = np.uintp(strips.ctypes.data + (t * s + start) * TALL * 8)
            y = np.uintp(x + start * wide * 8)
            z = np.uintp(place + (first * r + row) * 8)
            if asked < wide * lines:
                asked += gemm_ahead(
                    0.0, high, wide, deep, w, 1, TALL, y, wide, z, r, False, ahead, asked, lines,
                    pitch - lines * LINE,
                )  # fmt: skip
            else:
                gemm(0.0, high, wide, deep, w, 1, TALL, y, wide, z, r, False)


@compiled
def _add_up(totals, sizes, root, least, most):
    """The sum of all becomes ``root``, scaled to ones on its diagonal; whether its norms allow it.

    What is below the diagonal is not defined.
    """
    r = len(root)
    for i in range(r):
        for j in range(np.uintp(i), np.uintp(r)):
            root[i, j] = totals[0, i, j]
        for part in range(1, len(totals)):
            for j in range(np.uintp(i), np.uintp(r)):
                root[i, j] += totals[part, i, j]
        sizes[i] = math.sqrt(root[i, i])
        if not least < sizes[i] < most:
            return False
    inverse = 1.0 / sizes
    for i in range(r):
        for j in range(np.uintp(i), np.uintp(r)):
            root[i, j] *= inverse[i] * inverse[j]
    return True


@compiled
def cholesky(gram):
    """Whether a symmetric matrix is positive definite: then it becomes U, and was U^T U.

    Contract
        gram  (n, n) float64, C-contiguous; read on and above the diagonal alone
    """
    n, size = len(gram), gram.itemsize
    change = np.empty((SIDE, n))
    at, to = np.uintp(gram.ctypes.data), np.uintp(change.ctypes.data)
    for first in range(0, n, SIDE):
        high, wide = min(SIDE, n - first), n - first
        before = np.uintp(at + first * size)  # U[:first, first:]
        gemm(0.0, high, wide, first, before, 1, n, before, n, to, n, False)
        for i in range(high):
            row, change_i = gram[first + i], change[i]
            for j in range(np.uintp(wide)):
                row[np.uintp(first) + j] -= change_i[j]
        for i in range(first, first + high):
            row = gram[i]
            if not 0.0 < row[i] < math.inf:
                return False
            factor = 1.0 / math.sqrt(row[i])
            for j in range(np.uintp(i), np.uintp(n)):
                row[j] *= factor
            for k in range(i + 1, first + high):
                _subtract(row[k], row, gram[k], k)
    for i in range(n):
        for j in range(i):
            gram[i, j] = 0.0
    return True


@compiled
def _subtract(factor, x, y, first):
    """y -= factor x, from an entry on."""
    for j in range(np.uintp(first), np.uintp(len(x))):
        y[j] -= factor * x[j]
