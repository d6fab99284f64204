"""Products of small matrices on the tiles of ``simd``: what the stages of a chain are made of."""

import numpy as np

from ttcore.kernels.cpu import simd
from ttcore.kernels.cpu.cache import compiled


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
