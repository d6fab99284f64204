"""Interfaces of real NumPy trains: compiled twin of ``portable.interfaces``.

Slice by slice of a mode, so that what is between the two products stays in the cache. The slices
are summed in shares fixed by their number, the shares in order. While they are copied their squares
are summed too: that they are in range then costs no reading of its own.
"""

import numpy as np

from ttcore.kernels.cpu.buffers import aligned
from ttcore.kernels.cpu.cache import compiled, reordered
from ttcore.kernels.cpu.gemm import gemm
from ttcore.kernels.cpu.pool import run_blocks
from ttcore.typing import Array

SHARES = 4  # sums of slices, at most


@reordered
def _copied(core, i, out):
    """The slice i of a core as the first entries of ``out``, C-contiguous; sum of its squares."""
    rows, columns = np.uintp(core.shape[0]), np.uintp(core.shape[2])
    square = 0.0
    for k in range(rows):
        for e in range(columns):
            entry = core[k, i, e]
            out[k * columns + e] = entry
            square += np.float64(entry) * np.float64(entry)
    return square


@compiled
def _add_slices(zero, interface, g, h, first, last, total, squares):
    """total (r', s') += G(i)^T P H(i) for first <= i < last; all C-contiguous.

    A slice is copied before it is used: its rows are far apart, and each is needed often. Sums of
    the squares of the two slices are added to ``squares``.
    """
    r, s, t, u = g.shape[0], h.shape[0], g.shape[2], h.shape[2]
    half, left, right = (
        aligned(interface, r * u),
        aligned(interface, r * t),
        aligned(interface, s * u),
    )
    for i in range(first, last):
        squares[0] += _copied(g, i, left)
        squares[1] += _copied(h, i, right)
        p, q = np.uintp(interface.ctypes.data), np.uintp(half.ctypes.data)
        x, y = np.uintp(left.ctypes.data), np.uintp(right.ctypes.data)
        gemm(zero, r, u, s, p, s, 1, y, u, q, u, False)
        gemm(zero, t, u, r, x, 1, t, q, u, np.uintp(total.ctypes.data), u, True)
    return half[0], left[0], right[0]  # keeps what addresses were taken of


def advance(interface: Array, g: Array, h: Array) -> tuple[Array, Array | None]:
    """See the twin."""
    n = g.shape[1]
    interface, g, h = (np.ascontiguousarray(x) for x in (interface, g, h))
    shares = min(SHARES, n)
    totals = np.zeros((shares, g.shape[2], h.shape[2]), g.dtype)
    squares = np.zeros((shares, 2))
    zero = g.dtype.type(0)

    def block(first: int, last: int) -> None:
        for k in range(first, last):
            ends = k * n // shares, (k + 1) * n // shares
            _add_slices(zero, interface, g, h, *ends, totals[k], squares[k])

    run_blocks(block, shares, 1)
    return totals.sum(axis=0), squares.sum(axis=0)
