"""Products of small matrices on the tiles of ``simd``: what the stages of a chain are made of."""

import numpy as np

from ttcore.kernels.cpu import simd
from ttcore.kernels.cpu.cache import compiled
from ttcore.kernels.cpu.emitter import STEPS


@compiled
def gemm(zero, m, n, k, a, row, col, b, ldb, c, ldc, add):
    """C[m, n] (+)= A[m, k] @ B[k, n].

    Contract
        a, b, c  addresses (uintp) of the first entries, of the type of ``zero``
        row, col strides of A in entries; ldb, ldc: of the rows of B and C, contiguous themselves
    Nothing outside the matrices is read or written. k is never split: one order of additions.
    """
    size = simd.entry_bytes(zero)
    lanes = simd.vector_lanes(zero)
    left = n % (2 * lanes)
    three = 0 < left < lanes < n  # registers at the end: the last two overlap, and not with others
    end = n - left - three * 2 * lanes
    for j in range(0, end, 2 * lanes):
        bj, cj = np.uintp(b + j * size), np.uintp(c + j * size)
        simd.columns_2(zero, m, a, row, col, bj, ldb, cj, ldc, k, lanes, add)
    if three or left == lanes:
        bj, cj = np.uintp(b + end * size), np.uintp(c + end * size)
        simd.columns_1(zero, m, a, row, col, bj, ldb, cj, ldc, k, lanes, add)
        end += lanes
    left = n - end
    bj, cj = np.uintp(b + end * size), np.uintp(c + end * size)
    if left > lanes:
        simd.lapped_2(zero, m, a, row, col, bj, ldb, cj, ldc, k, left - lanes, add)
    elif left > 0:
        simd.edge_1(zero, m, a, row, col, bj, ldb, cj, ldc, k, left, add)


@compiled
def gemm_ahead(zero, m, n, k, a, row, col, b, ldb, c, ldc, add, ahead, asked, lines, jump):
    """As `gemm`, while what comes next is brought from memory.

    Contract
        m        at most `TALL`; else lines are asked for several times
        ahead    address from which on lines will be read, but for ``jump`` bytes after each row of
                 about ``lines``; the first ``asked`` of them are on their way already
        returns  how many lines of the cache it asked for
    A line is asked for at every fourth k: to ask for all at once takes as long as to wait for them.
    """
    size, width = simd.entry_bytes(zero), 2 * simd.vector_lanes(zero)
    part = (1 << simd.PART) // lines + 1
    end = n - n % width
    for j in range(0, end, width):
        simd.ahead_2(
            zero, m, a, row, col, np.uintp(b + j * size), ldb, np.uintp(c + j * size), ldc, k,
            width // 2, add, ahead, asked, part, jump,
        )  # fmt: skip
        asked += k // STEPS
    if end < n:
        rest, into = np.uintp(b + end * size), np.uintp(c + end * size)
        gemm(zero, m, n - end, k, a, row, col, rest, ldb, into, ldc, add)
    return end // width * (k // STEPS)


@compiled
def strip(left):
    """How many of the rows that are left are best multiplied at a time, by one call."""
    # two alone at the end would wait for their own sums: as in `simd.in_heights`
    return 4 if left == simd.TALL + 2 == 8 else min(simd.TALL, left)


@compiled
def gemm_nt(zero, m, n, k, count, a, lda, step_a, b, ldb, step_b, c, ldc):
    """C[m, n] += sum over o < count of A[o, m, k] @ B[o, n, k]^T.

    Contract
        a, b  addresses; rows of k contiguous entries, ``lda`` and ``ldb`` apart; from o to o + 1
              it is ``step_a`` and ``step_b``
        c     address, rows ``ldc`` apart
    """
    size = simd.entry_bytes(zero)
    i = 0
    while i < m:
        tall = i + simd.DOTS <= m
        ai, ci = np.uintp(a + i * lda * size), np.uintp(c + i * ldc * size)
        j = 0
        while j < n:
            bj, cj = np.uintp(b + j * ldb * size), np.uintp(ci + j * size)
            if j + 4 <= n:
                if tall:
                    simd.dots_tx4(zero, ai, lda, step_a, bj, ldb, step_b, cj, ldc, k, count)
                else:
                    simd.dots_1x4(zero, ai, lda, step_a, bj, ldb, step_b, cj, ldc, k, count)
                j += 4
            else:
                if tall:
                    simd.dots_tx1(zero, ai, lda, step_a, bj, ldb, step_b, cj, ldc, k, count)
                else:
                    simd.dots_1x1(zero, ai, lda, step_a, bj, ldb, step_b, cj, ldc, k, count)
                j += 1
        i += simd.DOTS if tall else 1
