r"""The triangle of a QR decomposition, updated by blocks of rows in cache: compiled.

The reflection that takes a column of :math:`\binom{R}{B}` to a multiple of a unit vector has zeros
where R has them below its diagonal: the triangle costs next to nothing, and what it is made of
comes in blocks B that stay in the cache. A few reflections are found at a time, and applied to the
columns behind them as :math:`I - V T V^T`, by two products.

Source: R. Schreiber and C. Van Loan, A storage-efficient WY representation for products of
Householder transformations, SIAM J. Sci. Stat. Comput. 10(1), 1989. J. Demmel, L. Grigori,
M. Hoemmen, J. Langou, Communication-optimal parallel and sequential QR and LU factorizations,
arXiv:0808.2664: blocks one after the other lose nothing.
"""

import math

import numpy as np

from ttcore.kernels.cpu.buffers import aligned
from ttcore.kernels.cpu.cache import compiled, reordered
from ttcore.kernels.cpu.gemm import gemm
from ttcore.kernels.cpu.simd import TALL, entry_bytes

ROWS = 256  # of a block: 128 KiB of float64 where there are 64 columns
WIDTH = 2 * TALL  # reflections found at a time; twice as many from
WIDE = 512  # columns
SMALL = 2.0**-900  # squares of norms below lose digits by underflow: times
LIFT = 2.0**600  # the column is then worked on


@compiled
def reduce(zero, a, scale, root):
    """Root becomes R with R^T R = root^T root + s^2 A^T A.

    Contract
        zero  float64, in which all is computed
        a     (N, m), C-contiguous, float32 or float64
        root  (m, m), upper triangular
    """
    n, m = a.shape
    size = entry_bytes(zero)
    width = min(m, WIDTH if m < WIDE else 2 * WIDTH)
    flat, block = a.reshape(a.size), aligned(root, ROWS * m)
    vectors = aligned(root, width * ROWS).reshape(width, ROWS)
    minus = np.zeros((width, width))
    inside = aligned(root, width * m).reshape(width, m)
    change = aligned(root, width * m).reshape(width, m)
    b, v = np.uintp(block.ctypes.data), np.uintp(vectors.ctypes.data)
    t, w = np.uintp(minus.ctypes.data), np.uintp(inside.ctypes.data)
    c = np.uintp(change.ctypes.data)
    for start in range(0, n, ROWS):
        rows = min(ROWS, n - start)
        part = flat[start * m : (start + rows) * m]
        for e in range(np.uintp(rows * m)):
            block[e] = part[e] * scale
        for first in range(0, m, width):
            found = min(width, m - first)
            for i in range(rows):
                for j in range(found):
                    vectors[j, i] = block[i * m + first + j]
            _reflect(vectors, rows, found, root, first, minus)
            last = first + found
            left = m - last
            if left:
                behind = np.uintp(b + last * size)
                for j in range(found):  # loops: slices take seconds to compile
                    row, at = root[first + j], np.uintp(last)
                    for k in range(np.uintp(left)):
                        inside[j, k] = row[at + k]
                gemm(zero, found, left, rows, v, ROWS, 1, behind, m, w, m, True)
                gemm(zero, found, left, found, t, 1, width, w, m, c, m, False)
                for j in range(found):
                    row, at = root[first + j], np.uintp(last)
                    for k in range(np.uintp(left)):
                        row[at + k] += change[j, k]
                gemm(zero, rows, left, found, v, 1, ROWS, c, m, behind, m, True)


@compiled
def _reflect(v, n, count, root, first, minus):
    """Reflections of so many columns, from ``first`` on, and of these columns themselves.

    Contract
        v      (count, >= n): columns of B, which become those of V
        root   (m, m): R
        minus  (>= count, >= count): becomes -T on and above the diagonal; zero below it
    """
    for j in range(count):
        x, p = v[j], first + j
        top, lift = root[p, p], 1.0
        square = dot(x, x, n)
        if top * top + square < SMALL:
            lift = LIFT
            scale(x, lift, n)
            top *= lift
            square = dot(x, x, n)
        if square == 0.0:  # nothing to reflect
            for i in range(j + 1):
                minus[i, j] = 0.0
            continue
        target = -math.copysign(math.sqrt(top * top + square), top)
        factor = (top - target) / target
        scale(x, 1.0 / (top - target), n)
        root[p, p] = target / lift
        for k in range(j + 1, count):
            change = factor * (root[p, first + k] + dot(x, v[k], n))
            root[p, first + k] += change
            _add(change, x, v[k], n)
        for i in range(j):
            minus[i, j] = factor * dot(v[i], x, n)
        for i in range(j):
            total = 0.0
            for k in range(i, j):
                total += minus[i, k] * minus[k, j]
            minus[i, j] = total
        minus[j, j] = factor


@reordered
def dot(x, y, n):
    """Of the first n entries."""
    total = 0.0
    for i in range(np.uintp(n)):
        total += x[i] * y[i]
    return total


@compiled
def scale(x, factor, n):
    """x *= factor."""
    for i in range(np.uintp(n)):
        x[i] *= factor


@compiled
def _add(factor, x, y, n):
    """y += factor x."""
    for i in range(np.uintp(n)):
        y[i] += factor * x[i]
