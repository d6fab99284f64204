"""Passes over a tall matrix: compiled twins of those in ``portable.tsqr``, for real NumPy arrays.

Rows are cut into shares fixed by the shape; each share has sums of its own, added in order.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from ttcore.kernels.cpu import tall
from ttcore.kernels.cpu.householder import ROWS, reduce
from ttcore.kernels.cpu.pool import run_blocks
from ttcore.kernels.cpu.simd import TALL
from ttcore.typing import Array

SHARES = 32  # partial sums, at most
SHARE = 2**18  # entries of a share, at least
STEP = 2**11  # entries of a block: 16 KiB of float64
HIGH = 8  # times as many rows as columns in a share of a QR decomposition, at least


def gram(a: Array, *, scale: float = 1.0, basis: Array | None = None) -> Array:
    """See the twin."""
    m = a.shape[1]
    if basis is None:
        _, _, total, _ = _pass(a, np.empty((m, 0)), scale, outer=True)
    else:
        _, total, _, _ = _pass(a, basis, scale, inner=True)
    return total


def project(a: Array, basis: Array, *, scale: float = 1.0) -> tuple[Array, float]:
    """See the twin."""
    z, _, _, square = _pass(a, basis, scale, keep=True)
    return z, math.sqrt(square)


def deflate(a: Array, basis: Array, *, scale: float = 1.0) -> tuple[Array, Array, float]:
    """See the twin."""
    z, inner, _, square = _pass(a, basis, scale, keep=True, inner=True)
    return z, inner, math.sqrt(square)


def householder(a: Array, *, scale: float = 1.0, start: Array | None = None) -> Array:
    """See the twin."""
    rows, m = a.shape
    shares, share = _shares(rows, m, HIGH * m)
    roots = np.zeros((shares, m, m))
    if start is not None:
        roots[0, : len(start)] = start
    chunk = share if _is_plain(a) else ROWS

    def block(first: int, last: int) -> None:
        for s in range(first, last):
            for piece, _ in _pieces(a, s * share, min((s + 1) * share, rows), chunk):
                reduce(0.0, piece, scale, roots[s])

    run_blocks(block, shares, 1)
    reduce(0.0, roots[1:].reshape(-1, m), 1.0, roots[0])
    return roots[0]


def _pass(
    a: Array,
    basis: Array,
    scale: float,
    *,
    keep: bool = False,
    inner: bool = False,
    outer: bool = False,
) -> tuple[Array, Array, Array, float]:
    """``tall.sweep`` of all rows: Z, both Gram matrices, the squared norm of the residual."""
    rows, m = a.shape
    r = basis.shape[1]
    basis = np.ascontiguousarray(basis, dtype=np.float64)
    back = np.ascontiguousarray(-basis.T)
    shares, share = _shares(rows, m, 1)
    z = np.empty((rows if keep else 0, r), a.dtype)
    inners = np.zeros((shares, r if inner else 0, r if inner else 0))
    outers = np.zeros((shares, m if outer else 0, m if outer else 0))
    squares = np.zeros(shares)
    step = max(TALL, STEP // m // TALL * TALL)
    chunk = share if _is_plain(a) else 16 * step

    def block(first: int, last: int) -> None:
        for s in range(first, last):
            end = min((s + 1) * share, rows)
            for piece, place in _pieces(a, s * share, end, chunk):
                squares[s] += tall.sweep(
                    0.0, piece, scale, basis, back, z[place], inners[s], outers[s], step,
                )  # fmt: skip

    run_blocks(block, shares, 1)
    return z, _mirrored(inners), _mirrored(outers), float(squares.sum())


def _shares(rows: int, m: int, least: int) -> tuple[int, int]:
    """How many shares of how many rows each, not fewer than ``least``; fixed by the shape."""
    shares = max(1, min(SHARES, rows * m // SHARE, rows // least))
    share = -(-rows // shares)
    return -(-rows // share), share


def _is_plain(a: Array) -> bool:
    return bool(a.flags.c_contiguous and a.flags.aligned)


def _pieces(a: Array, first: int, last: int, chunk: int) -> Iterator[tuple[Any, slice]]:
    """Rows first..last-1 in chunks, each C-contiguous and aligned; and their places."""
    for start in range(first, last, chunk):
        place = slice(start, min(start + chunk, last))
        piece = a[place]
        yield piece if _is_plain(piece) else np.require(piece, requirements=["C", "A"]), place


def _mirrored(parts: Array) -> Array:
    """The sum of the parts, its lower triangle replaced by the upper one's mirror image."""
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return np.triu(total) + np.triu(total, 1).T
