"""Interfaces of real NumPy trains: compiled twin of ``portable.interfaces``.

Slice by slice of a mode, so that what is between the two products stays in the cache. The slices
are summed in shares fixed by their number, the shares in order.
"""

import numpy as np

from ttcore.kernels.cpu.buffers import aligned
from ttcore.kernels.cpu.cache import compiled
from ttcore.kernels.cpu.gemm import gemm
from ttcore.kernels.cpu.pool import run_blocks
from ttcore.kernels.cpu.simd import turn
from ttcore.kernels.cpu.tall import add_gram
from ttcore.kernels.cpu.tsqr import mirrored
from ttcore.typing import Array

SHARES = 4  # sums of slices, at most
PANEL = 32  # columns of a factor that begin at the same row


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


@compiled
def _add_grams(zero, w, starts, core, first, last, total):
    """total += sum of C C^T, C = G(i) W, first <= i < last, on and above the diagonal.

    ``starts``: for each panel of W, its first row that is not zero.
    """
    r, s, p = core.shape[0], core.shape[2], w.shape[1]
    left, half, turned = aligned(w, r * s), aligned(w, r * p), aligned(w, r * p)
    size = np.uintp(w.itemsize)
    x, y = np.uintp(left.ctypes.data), np.uintp(w.ctypes.data)
    c, q = np.uintp(half.ctypes.data), np.uintp(turned.ctypes.data)
    for i in range(first, last):
        for k in range(np.uintp(r)):
            for e in range(np.uintp(s)):
                left[k * np.uintp(s) + e] = core[k, i, e]
        for panel in range(len(starts)):
            j, top = panel * PANEL, starts[panel]
            gemm(
                zero, r, min(PANEL, p - j), s - top, np.uintp(x + top * size), s, 1,
                np.uintp(y + (top * p + j) * size), p, np.uintp(c + j * size), p, False,
            )  # fmt: skip
        turn(zero, r, p, c, p, q, r)
        add_gram(zero, turned, p, r, total)
    return half[0], left[0]  # keeps what addresses were taken of


def gram(core: Array, w: Array) -> Array:
    """See the twin; a factor that is triangular from below takes half the work."""
    r, n, _ = core.shape
    core, w = np.ascontiguousarray(core), np.ascontiguousarray(w, dtype=np.float64)
    filled = w != 0
    starts = [
        int(np.argmax(filled[:, j : j + PANEL].any(axis=1))) for j in range(0, w.shape[1], PANEL)
    ]
    firsts = np.array(starts)
    shares = min(SHARES, n)
    totals = np.zeros((shares, r, r))

    def block(first: int, last: int) -> None:
        for k in range(first, last):
            _add_grams(
                0.0, w, firsts, core, k * n // shares, (k + 1) * n // shares, totals[k]
            )  # fmt: skip

    run_blocks(block, shares, 1)
    return mirrored(totals)


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
