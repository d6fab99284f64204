"""What a truncation needs of a core between an orthonormal train and a small factor.

One compiled call a core, in which no threads of BLAS wake, as in ``ranges``. The product with the
factor W, whose leading left singular vectors are sought, is made slice by slice beside that with
the core. Its range is that of a few random combinations of its columns; what that misses is formed
and measured.

How many vectors it takes, whether these will do, and the source: ``ttcore.leading``.
"""

import math
from typing import Any

import numpy as np

from ttcore.kernels.cpu import board as boards
from ttcore.kernels.cpu.buffers import aligned_array, fixed, give, take
from ttcore.kernels.cpu.cache import compiled
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

FORTH, ACROSS = range(2)  # steps on the board

Array = np.ndarray[Any, Any]


def found(
    t: Array, core: Array, w: Array, randoms: Array, room: float
) -> tuple[Array, Array, Array, float, float] | None:
    """The range Q of X = t G W, for a core G, as random combinations of its columns show it.

    Contract
        t        (m, r); core (r, n, s); w (s, c); of one dtype, float32 or float64
        randoms  (c, size), of that dtype, size at most m n and c
        room     squares of t G, and of X, sum up to between 1 / room and room; None if not
        result   Q (m n, size), with orthonormal columns; Q^T t G (size, s); L (size, size),
                 float64, with L L^T = (Q^T X) (Q^T X)^T; the norms of X and of X - Q Q^T X
    Cost: m n (s r + s c + size (3 c + s)) multiply-adds; of s c only half where w is triangular.
    """
    t, core, w, randoms = map(fixed, (t, core, w, randoms))
    (m, r), (_, n, s), (c, size) = t.shape, core.shape, randoms.shape
    dtype, zero = core.dtype, core.dtype.type(0)
    scratch = take(m * n * (s + c + size) + size * c, dtype)
    ends = np.cumsum([m * n * s, m * n * c, m * n * size])
    left, x, seen, inside = np.split(scratch[: ends[-1] + size * c], ends)
    q, back = np.empty((m * n, size), dtype), np.empty((size, s), dtype)
    root, strips = np.empty((size, size)), -(-c // COLUMNS)
    starts, squares = np.empty(strips, np.int64), np.empty((2, max(n, strips)))
    shared = (
        t, core, w, randoms, starts, left, x.reshape(m * n, c), seen.reshape(m * n, size),
        squares, q, back, inside.reshape(size, c),
    )  # fmt: skip
    entries = block_entries(r, dtype)
    block = aligned_array(entries, dtype)
    norm, missed = boards.together(
        (__name__, dtype),
        lambda board: _find(zero, board, shared, block, root, room),
        lambda board: _help(zero, board, shared, aligned_array(entries, dtype)),
        min(usable_cpus(), max(n, strips)) - 1,
    )
    give(scratch)
    return (q, back, root.T, norm, missed) if norm else None


@compiled
def _find(zero, board, shared, block, root, room):
    """The norms of `found`; zeros where squares leave the room.

    Contract
        shared   what `found` gets and returns, and
        starts   of strips of columns of w: the first row that is not of zeros
        left     (m n s,): t G; x (m n, c), then what Q misses of it, at last anything; seen
                 (m n, size): combinations
        squares  (2, shares): of ``left`` and ``x``, slice by slice, then what is missed
        inside   (size, c): - Q^T X
        block    what each thread has of its own
        root     (size, size): upper triangular, L^T at last
    """
    _, core, w, _, starts, _, x, seen, squares, q, _, inside = shared
    _find_starts(w, starts)
    boards.begin(board, FORTH, core.shape[1])
    _take_shares(zero, board, shared, block)
    boards.finish(board)
    total = squares[:, : core.shape[1]].sum(axis=1)
    if not (1.0 / room < total[0] < room and 1.0 / room < total[1] < room):
        return 0.0, 0.0
    qr(seen, q, root)
    boards.begin(board, ACROSS, len(starts) + -(-core.shape[2] // COLUMNS))
    _take_shares(zero, board, shared, block)
    boards.finish(board)
    qr(inside.T, x.reshape(x.size)[: inside.size].reshape(inside.T.shape), root)
    return math.sqrt(total[1]), math.sqrt(squares[1, : len(starts)].sum())


@compiled
def _find_starts(w, starts):
    """The first row of each strip of `COLUMNS` columns that holds more than zeros."""
    s, c = w.shape
    for strip in range(len(starts)):
        starts[strip] = s
        for k in range(s):
            some = False
            for j in range(strip * COLUMNS, min(c, (strip + 1) * COLUMNS)):
                some |= w[k, j] != 0.0
            if some:
                starts[strip] = k
                break


@compiled
def _help(zero, board, shared, block):
    """What a helper does."""
    while boards.enter(board):
        _take_shares(zero, board, shared, block)
        boards.leave(board)


@compiled
def _take_shares(zero, board, shared, block):
    """Shares of the step on the board until there are no more. Nothing is allocated here."""
    t, core, w, randoms, starts, left, x, seen, squares, q, back, inside = shared
    strips = len(starts)
    share = boards.take(board)
    while share >= 0:
        if board[boards.STEP] == FORTH:
            squares[0, share] = multiply(zero, share, board, t, core, left, block)
            squares[1, share] = _multiply_slice(
                zero, share, len(t), core.shape[1], left, w, randoms, starts, x, seen
            )
        elif share < strips:
            squares[1, share] = _subtract(zero, share * COLUMNS, q, x, inside)
        else:
            multiply_basis(zero, (share - strips) * COLUMNS, q, left, core.shape[2], back)
        share = boards.take(board)


@compiled
def _multiply_slice(zero, i, m, n, left, w, randoms, starts, x, seen):
    """Rows (m, i) of X = left W, and their combinations; the squares of the former."""
    bytes_, (s, c), size = entry_bytes(zero), w.shape, randoms.shape[1]
    row = np.uintp(left.ctypes.data + i * s * bytes_)
    to = np.uintp(x.ctypes.data + i * c * bytes_)
    for strip in range(len(starts)):
        first, start = strip * COLUMNS, starts[strip]
        gemm(
            zero, m, min(COLUMNS, c - first), s - start, np.uintp(row + start * bytes_), n * s, 1,
            np.uintp(w.ctypes.data + (start * c + first) * bytes_), c,
            np.uintp(to + first * bytes_), n * c, False,
        )  # fmt: skip
    gemm(
        zero, m, size, c, to, n * c, 1, np.uintp(randoms.ctypes.data), size,
        np.uintp(seen.ctypes.data + i * size * bytes_), n * size, False,
    )  # fmt: skip
    return sum_of_squares(x.reshape(x.size), m, i * c, c, n * c)


@compiled
def _subtract(zero, first, q, x, inside):
    """Some columns of X - Q Q^T X, in place, and of - Q^T X; the squares of the former."""
    bytes_, (rows, count), c = entry_bytes(zero), q.shape, x.shape[1]
    wide, basis = min(COLUMNS, c - first), np.uintp(q.ctypes.data)
    here = np.uintp(x.ctypes.data + first * bytes_)
    to = np.uintp(inside.ctypes.data + first * bytes_)
    gemm(zero, count, wide, rows, basis, 1, count, here, c, to, c, False)
    for i in range(count):
        for j in range(first, first + wide):
            inside[i, j] = -inside[i, j]
    gemm(zero, rows, wide, count, basis, count, 1, to, c, here, c, True)
    return sum_of_squares(x.reshape(x.size), rows, first, wide, c)
