"""Rows of a matrix as products of their halves, and gradients: compiled.

All arrays are C-contiguous. Groups are ranges of ``order``: group g ends at ends[g].
"""

import numpy as np

from ttcore.kernels.cpu.cache import compiled
from ttcore.kernels.cpu.gemm import gemm
from ttcore.kernels.cpu.simd import entry_bytes


@compiled
def multiply(zero, left, right, first, second, order, ends, y, begin, end):
    """Distinct rows begin..end-1, each to all places of y that it has.

    Contract
        left, right    (U_l, P, r), (U_r, r, Q)
        first, second  (U,): halves of the distinct rows
        order, ends    (B,), (U,): rows of y, grouped by distinct row, none empty
        y              (B, P Q)
    """
    size = entry_bytes(zero)
    p, r, q = left.shape[1], left.shape[2], right.shape[2]
    a, b, c = np.uintp(left.ctypes.data), np.uintp(right.ctypes.data), np.uintp(y.ctypes.data)
    for u in range(begin, end):
        start = ends[u - 1] if u else 0
        place = order[start]
        gemm(
            zero, p, q, r, np.uintp(a + first[u] * p * r * size), r, 1,
            np.uintp(b + second[u] * r * q * size), q, np.uintp(c + place * p * q * size), q, False,
        )  # fmt: skip
        for i in range(start + 1, ends[u]):
            row, same = y[order[i]], y[place]
            for j in range(row.size):
                row[j] = same[j]


@compiled
def left_gradient(zero, turned, second, order, ends, gy, gleft, begin, end):
    """Gradients of left halves begin..end-1, added.

    Contract
        turned       (U_r, Q, r): the right halves transposed
        second       (B,): right half of each row
        order, ends  (B,), (U_l,): rows grouped by left half
        gy           (B, P Q)
    """
    size = entry_bytes(zero)
    p, r, q = gleft.shape[1], gleft.shape[2], turned.shape[1]
    a, b, c = np.uintp(gy.ctypes.data), np.uintp(turned.ctypes.data), np.uintp(gleft.ctypes.data)
    for g in range(begin, end):
        for i in range(ends[g - 1] if g else 0, ends[g]):
            row = order[i]
            gemm(
                zero, p, r, q, np.uintp(a + row * p * q * size), q, 1,
                np.uintp(b + second[row] * r * q * size), r,
                np.uintp(c + g * p * r * size), r, True,
            )  # fmt: skip


@compiled
def right_gradient(zero, left, first, order, ends, gy, gright, begin, end):
    """Gradients of right halves begin..end-1, added; see `left_gradient`."""
    size = entry_bytes(zero)
    p, r, q = left.shape[1], left.shape[2], gright.shape[2]
    a, b, c = np.uintp(left.ctypes.data), np.uintp(gy.ctypes.data), np.uintp(gright.ctypes.data)
    for g in range(begin, end):
        for i in range(ends[g - 1] if g else 0, ends[g]):
            row = order[i]
            gemm(
                zero, r, q, p, np.uintp(a + first[row] * p * r * size), 1, r,
                np.uintp(b + row * p * q * size), q,
                np.uintp(c + g * r * q * size), q, True,
            )  # fmt: skip
