"""QR decompositions with Q of matrices that fit into the second cache: compiled.

LAPACK's, of a few dozen columns, wakes threads of BLAS for each of its steps. Here the columns lie
along registers, and a reflection is applied to four of them at a time.

Source: A. S. Householder, Unitary triangularization of a nonsymmetric matrix, J. ACM 5(4), 1958.
"""

import math

import numpy as np

from ttcore.kernels.cpu.buffers import aligned
from ttcore.kernels.cpu.cache import compiled, reordered
from ttcore.kernels.cpu.householder import LIFT, SMALL, dot, scale


@compiled
def qr(a, q, r):
    """A = Q R by Householder's reflections.

    Contract
        a  (m, n), m >= n, any strides, float32 or float64; its squares do not overflow
        q  (m, n), of the same type, and r (n, n), float64: written
    """
    m, n = a.shape
    pitch = -(-m // 8) * 8  # columns begin at lines of the cache
    v = aligned(r, n * pitch).reshape(n, pitch)
    factors = np.empty(n)
    for i in range(m):
        for j in range(n):
            v[j, i] = a[i, j]
    for j in range(n):
        for k in range(j):
            r[j, k] = 0.0
        factors[j], r[j, j] = _found(v[j, j:m])
        _reflect(v, j, m, factors[j])
        for k in range(j + 1, n):
            r[j, k] = v[k, j]
    for j in range(n - 1, -1, -1):  # columns of Q from the last on, each in place of its vector
        for k in range(j + 1, n):
            v[k, j] = 0.0
        _reflect(v, j, m, factors[j])
        for i in range(j):
            v[j, i] = 0.0
        scale(v[j], factors[j], m)
        v[j, j] += 1.0
    for i in range(m):
        for j in range(n):
            q[i, j] = v[j, i]


@compiled
def _found(x):
    """``(f, target)``: I + f v v^T takes x to (target, 0, ...). v, with v[0] = 1, replaces x."""
    n, lift = len(x), 1.0
    square = dot(x, x, n)
    if square < SMALL:
        lift = LIFT
        scale(x, lift, n)
        square = dot(x, x, n)
    if square == 0.0:
        x[0] = 1.0
        return 0.0, 0.0
    top = x[0]
    target = -math.copysign(math.sqrt(square), top)
    scale(x, 1.0 / (top - target), n)
    x[0] = 1.0
    return (top - target) / target, target / lift


@reordered
def _reflect(v, j, m, factor):
    """Rows of v behind row j, from entry j to m, times I + f x x^T, where x is row j."""
    x, first, last = v[j], np.uintp(j), np.uintp(m)
    k = j + 1
    while k + 4 <= len(v):
        a, b, c, d = v[k], v[k + 1], v[k + 2], v[k + 3]
        in_a = in_b = in_c = in_d = 0.0
        for i in range(first, last):
            in_a += x[i] * a[i]
            in_b += x[i] * b[i]
            in_c += x[i] * c[i]
            in_d += x[i] * d[i]
        in_a, in_b, in_c, in_d = factor * in_a, factor * in_b, factor * in_c, factor * in_d
        for i in range(first, last):
            a[i] += in_a * x[i]
            b[i] += in_b * x[i]
            c[i] += in_c * x[i]
            d[i] += in_d * x[i]
        k += 4
    while k < len(v):
        a, in_a = v[k], 0.0
        for i in range(first, last):
            in_a += x[i] * a[i]
        in_a *= factor
        for i in range(first, last):
            a[i] += in_a * x[i]
        k += 1
