"""Supercores as matrices of the stages, and gradients on the way back: compiled.

All cores stand back to back in ``flat``, C-ordered (r, m, n, r'), and so do the matrices of the
stages in ``mats``: A (rows, k), its rows ``lead`` apart, and A^T (k, rows) where the inner axis is
1. The columns of a table of stages are named here.
"""

import numpy as np

from ttcore.kernels.cpu.buffers import aligned
from ttcore.kernels.cpu.cache import compiled
from ttcore.kernels.cpu.gemm import gemm, gemm_nt
from ttcore.kernels.cpu.simd import entry_bytes

# columns of the table: whether the inner axis is 1; sizes; where A and A^T begin in mats; cores;
# form; where the state that the stage reads begins among all states of a row; how the gradient of A
# is made; how far rows of A are apart
(
    VECTOR, OUTER, ROWS, K, INNER, AT, TURNED, FIRST, LAST, FORM, STATE, GRADIENT, LEAD, COLUMNS,
) = range(14)  # fmt: skip
# by inner products; from the state transposed; from the gradient of the result transposed, which
# gives that of A^T
DOTS, TURN_STATE, TURN_RESULT = range(3)


@compiled
def build(zero, flat, shapes, starts, table, largest, entries):
    """The matrices of all stages, with the cores of each merged: ``mats``.

    Contract
        shapes   (d, 4) int64; starts (d,) int64: where each core begins
        largest  entries of the largest supercore on the way
        entries  of mats
    """
    mats = aligned(flat, entries)
    work = np.empty((3, largest), flat.dtype)
    for t in range(table.shape[0]):
        first, last = table[t, FIRST], table[t, LAST]
        r, m, n, s = shapes[first]
        merged, at = flat, starts[first]
        for core in range(first + 1, last):
            _, p, q, u = shapes[core]
            _merge(
                zero, (r, m, n, s), (p, q, u), merged, at, flat, starts[core], work[2],
                work[core % 2],
            )  # fmt: skip
            merged, at = work[core % 2], 0
            m, n, s = m * p, n * q, u
        plain, turned = _matrix(table[t], table[t, LEAD], m, n, s)
        shape, here = (r, m, n, s), (m * n * s, n * s, s, 1)
        _copy(shape, merged, at, here, mats, table[t, AT], plain)
        if table[t, VECTOR]:
            _copy(shape, merged, at, here, mats, table[t, TURNED], turned)
    return mats


@compiled
def spread(zero, flat, shapes, starts, table, largest, prefixes, gmats, gflat):
    """Gradients of the cores from those of the matrices of the stages.

    Contract
        prefixes  entries of all that ``build`` merges on the way to one supercore
        gmats     (shares, entries of mats), added up: of A^T where the inner axis is 1, or the
                  table says so; without gaps between rows
        gflat     like flat; written
    """
    total = gmats[0]
    for share in range(1, gmats.shape[0]):  # loops: slices take seconds to compile
        more = gmats[share]
        for e in range(np.uintp(total.size)):
            total[e] += more[e]
    size = entry_bytes(zero)
    merged = np.empty(prefixes, flat.dtype)  # cores first..first + 1, first..first + 2, ...
    work = np.empty((3, largest), flat.dtype)
    for t in range(table.shape[0]):
        first, last = table[t, FIRST], table[t, LAST]
        r, m, n, s = shapes[first]
        left, at, end = flat, starts[first], 0
        for core in range(first + 1, last):
            _, p, q, u = shapes[core]
            if core < last - 1:
                _merge(
                    zero, (r, m, n, s), (p, q, u), left, at, flat, starts[core], work[2],
                    merged[end:],
                )  # fmt: skip
                left, at = merged, end
                end += r * m * p * n * q * u
            m, n, s = m * p, n * q, u
        plain, turned = _matrix(table[t], table[t, K], m, n, s)
        gradient, other = work[0], work[1]
        shape, here = (r, m, n, s), (m * n * s, n * s, s, 1)
        if table[t, VECTOR] or table[t, GRADIENT] == TURN_RESULT:
            plain = turned
        _copy(shape, total, table[t, AT], plain, gradient, 0, here)
        for core in range(last - 1, first, -1):
            bond, p, q, u = shapes[core]
            m, n = m // p, n // q
            tall, wide = r * m * n, p * q * u
            _copy(
                (r * m, n, p, q * u), gradient, 0, (p * n * q * u, q * u, n * q * u, 1),
                work[2], 0, (n * wide, wide, q * u, 1),
            )  # fmt: skip
            if core == first + 1:
                before = np.uintp(flat.ctypes.data + starts[first] * size)
            else:
                end -= tall * bond
                before = np.uintp(merged.ctypes.data + end * size)
            x, new = np.uintp(work[2].ctypes.data), np.uintp(other.ctypes.data)
            right = np.uintp(flat.ctypes.data + starts[core] * size)
            into = np.uintp(gflat.ctypes.data + starts[core] * size)
            gemm(zero, bond, wide, tall, before, 1, bond, x, wide, into, wide, False)
            for e in range(np.uintp(tall * bond)):
                other[e] = 0.0
            gemm_nt(zero, tall, bond, wide, 1, x, wide, 0, right, wide, 0, new, bond)
            gradient, other = other, gradient
        at = np.uintp(starts[first])
        for e in range(np.uintp(r * m * n * shapes[first, 3])):
            gflat[at + e] = gradient[e]


@compiled
def _merge(zero, shape, behind, left, at, right, start, product, out):
    """(r, m, n, s) and (s, p, q, u) as (r, m p, n q, u)."""
    size = entry_bytes(zero)
    (r, m, n, s), (p, q, u) = shape, behind
    wide = p * q * u
    gemm(
        zero, r * m * n, wide, s, np.uintp(left.ctypes.data + at * size), s, 1,
        np.uintp(right.ctypes.data + start * size), wide,
        np.uintp(product.ctypes.data), wide, False,
    )  # fmt: skip
    _copy(
        (r * m, n, p, q * u), product, 0, (n * wide, wide, q * u, 1),
        out, 0, (p * n * q * u, q * u, n * q * u, 1),
    )  # fmt: skip


@compiled
def _matrix(stage, k, m, n, s):
    """Strides of a supercore (r, m, n, s) in the matrix of its stage, and in the transpose.

    k: how far the rows of the matrix are apart.
    """
    form, rows = stage[FORM], stage[ROWS]
    if form == 0:  # (r m, n s)
        return (m * k, k, s, 1), (m, 1, s * rows, rows)
    if form == 1:  # (m s, r n)
        return (n, s * k, 1, k), (n * rows, s, rows, 1)
    return (n * s, k, s, 1), (n * s * rows, 1, s * rows, rows)  # (m, r n s)


@compiled
def _copy(shape, source, at, apart, target, to, beside):
    """Entries of a four-way array from one place, and strides, to another."""
    # neighbouring axes that are one in both places become one
    (i1, a1, b1, c1), (i2, a2, b2, c2) = apart, beside
    n0, n1, n2, n3 = shape
    if b1 == n3 * c1 and b2 == n3 * c2:
        n2, n3, b1, b2 = 1, n2 * n3, 0, 0
    if i1 == n1 * a1 and i2 == n1 * a2:
        n0, n1, i1, i2 = 1, n0 * n1, 0, 0
    if n2 == 1 and a1 == n3 * c1 and a2 == n3 * c2:
        n1, n3, a1, a2 = 1, n1 * n3, 0, 0
    for i in range(n0):
        for a in range(n1):
            for b in range(n2):
                here = np.uintp(at + i * i1 + a * a1 + b * b1)
                there = np.uintp(to + i * i2 + a * a2 + b * b2)
                if c1 == c2 == 1:
                    for c in range(np.uintp(n3)):
                        target[there + c] = source[here + c]
                else:
                    for c in range(np.uintp(n3)):
                        target[there + c * np.uintp(c2)] = source[here + c * np.uintp(c1)]
