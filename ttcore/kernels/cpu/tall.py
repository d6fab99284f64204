"""One pass over a tall matrix, block by block in cache: compiled."""

import numpy as np

from ttcore.kernels.cpu.buffers import LINE, aligned
from ttcore.kernels.cpu.cache import compiled, reordered
from ttcore.kernels.cpu.gemm import gemm, gemm_ahead, strip
from ttcore.kernels.cpu.memory import prefetch
from ttcore.kernels.cpu.simd import entry_bytes, vector_lanes


@compiled
def add_gram(zero, at, rows, columns, to):
    """Add B^T B to a matrix, on and above its diagonal and a little below; by addresses.

    Contract
        at  B (rows, columns); to: the matrix (columns, columns); both C-contiguous
    """
    size = entry_bytes(zero)
    width = 2 * vector_lanes(zero)
    for j in range(0, columns, width):
        high = min(j + width, columns)
        gemm(
            zero, high, high - j, rows, at, 1, columns, np.uintp(at + j * size), columns,
            np.uintp(to + j * size), columns, True,
        )  # fmt: skip


@reordered
def _squares(x, count):
    total = 0.0
    for e in range(np.uintp(count)):
        total += x[e] * x[e]
    return total


@compiled
def sweep(zero, a, scale, basis, back, z, inner, outer, step):
    """Z = s A V; sums of Z^T Z, of R^T R or the squares of R = s A - Z V^T.

    Contract
        zero    float64, in which all is computed
        a       (N, m), C-contiguous, float32 or float64
        basis   (m, r): V; back (r, m): -V^T
        z       (N, r) of a's dtype, or (0, r) where it is not wanted
        inner   (r, r), or (0, 0): Z^T Z is added, on and above the diagonal
        outer   (m, m), or (0, 0): R^T R likewise
        returns the sum of the squares of R where Z is wanted and R^T R is not
        step    rows of a block
    """
    n, m, r = a.shape[0], a.shape[1], basis.shape[1]
    flat, out = a.reshape(a.size), z.reshape(z.size)
    rest, part = aligned(basis, step * m), aligned(basis, step * max(r, 1))
    v, w = np.uintp(basis.ctypes.data), np.uintp(back.ctypes.data)
    square = 0.0
    for i in range(0, n, step):
        rows = min(step, n - i)
        block = flat[i * m : (i + rows) * m]
        for e in range(np.uintp(rows * m)):  # unsigned: no index counts from the end
            rest[e] = block[e] * scale
        p, q = np.uintp(part.ctypes.data), np.uintp(rest.ctypes.data)
        ahead, asked = np.uintp(block.ctypes.data + rows * m * a.itemsize), 0
        lines = min(step, n - i - rows) * m * a.itemsize // LINE + 1  # of the next block
        if r:
            asked = _multiply(zero, rows, r, m, q, v, p, False, ahead, asked, lines)
            if z.shape[0]:
                place = out[i * r : (i + rows) * r]
                for e in range(np.uintp(rows * r)):
                    place[e] = part[e]
            if inner.shape[0]:
                add_gram(zero, p, rows, r, np.uintp(inner.ctypes.data))
            if z.shape[0] or outer.shape[0]:
                asked = _multiply(zero, rows, m, r, p, w, q, True, ahead, asked, lines)
        for line in range(asked, lines):
            prefetch(np.uintp(ahead + line * LINE))
        if outer.shape[0]:
            add_gram(zero, q, rows, m, np.uintp(outer.ctypes.data))
        elif z.shape[0]:
            square += _squares(rest, rows * m)
    return square


@compiled
def _multiply(zero, m, n, k, a, b, c, add, ahead, asked, lines):
    """C[m, n] (+)= A[m, k] B[k, n], by strips, while lines ``asked``.. are brought from memory.

    Returns how many of them were asked for by then.
    """
    size = entry_bytes(zero)
    i = 0
    while i < m:
        high, x, y = strip(m - i), np.uintp(a + i * k * size), np.uintp(c + i * n * size)
        if asked < lines:
            asked += gemm_ahead(zero, high, n, k, x, k, 1, b, n, y, n, add, ahead, asked, 1, 0)
        else:
            gemm(zero, high, n, k, x, k, 1, b, n, y, n, add)
        i += high
    return asked
