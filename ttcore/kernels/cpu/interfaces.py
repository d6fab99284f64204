"""Interfaces of real NumPy trains: compiled twin of ``portable.interfaces``.

Slice by slice of a mode, so that what is between the two products stays in the cache. The slices
are summed in shares fixed by their number, the shares in order.
"""

import numpy as np

from ttcore.kernels.cpu.buffers import aligned
from ttcore.kernels.cpu.cache import compiled
from ttcore.kernels.cpu.gemm import gemm
from ttcore.kernels.cpu.pool import run_blocks
from ttcore.typing import Array

SHARES = 4  # sums of slices, at most


@compiled
def _add_slices(zero, interface, g, h, first, last, total):
    """total (r', s') += G(i)^T P H(i) for first <= i < last; all C-contiguous.

    A slice is copied before it is used: its rows are far apart, and each is needed often.
    """
    r, s, t, u = g.shape[0], h.shape[0], g.shape[2], h.shape[2]
    half, left, right = (
        aligned(interface, r * u),
        aligned(interface, r * t),
        aligned(interface, s * u),
    )
    for i in range(first, last):
        for k in range(np.uintp(r)):
            for e in range(np.uintp(t)):
                left[k * np.uintp(t) + e] = g[k, i, e]
        for k in range(np.uintp(s)):
            for e in range(np.uintp(u)):
                right[k * np.uintp(u) + e] = h[k, i, e]
        p, q = np.uintp(interface.ctypes.data), np.uintp(half.ctypes.data)
        x, y = np.uintp(left.ctypes.data), np.uintp(right.ctypes.data)
        gemm(zero, r, u, s, p, s, 1, y, u, q, u, False)
        gemm(zero, t, u, r, x, 1, t, q, u, np.uintp(total.ctypes.data), u, True)
    return half[0], left[0], right[0]  # keeps what addresses were taken of


def advance(interface: Array, g: Array, h: Array) -> Array:
    """See the twin."""
    n = g.shape[1]
    interface, g, h = (np.ascontiguousarray(x) for x in (interface, g, h))
    shares = min(SHARES, n)
    totals = np.zeros((shares, g.shape[2], h.shape[2]), g.dtype)
    zero = g.dtype.type(0)

    def block(first: int, last: int) -> None:
        for k in range(first, last):
            _add_slices(
                zero, interface, g, h, k * n // shares, (k + 1) * n // shares, totals[k]
            )  # fmt: skip

    run_blocks(block, shares, 1)
    return totals.sum(axis=0)
