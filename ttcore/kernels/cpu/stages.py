"""One compiled program for all chains: it interprets a table of stages.

A row of the table holds: whether the inner axis is 1; outer, rows, k, inner; where A and A^T begin
in ``mats``; first core, last core, form; where the state that the stage reads begins in ``states``.
The matrices of all stages stand back to back in ``mats``: A (rows, k), and A^T (k, rows) where the
inner axis is 1.
"""

import numpy as np

from ttcore.kernels.cpu.cache import compiled
from ttcore.kernels.cpu.gemm import gemm, gemm_nt
from ttcore.kernels.cpu.simd import entry_bytes

# columns of the table
VECTOR, OUTER, ROWS, K, INNER, AT, TURNED, FIRST, LAST, FORM, STATE, COLUMNS = range(12)


@compiled
def build(zero, flat, shapes, starts, table, mats, work):
    """Merge the cores of each stage and lay its matrix out in ``mats``.

    Contract
        flat    all cores back to back, C-ordered (r, m, n, r')
        shapes  (d, 4) int64; starts (d,) int64: where each begins
        work    (2, the largest supercore)
    """
    size = entry_bytes(zero)
    half = work.shape[1]
    spare = work.reshape(2 * half)
    for t in range(table.shape[0]):
        first, last = table[t, FIRST], table[t, LAST]
        r, m, n, s = shapes[first, 0], shapes[first, 1], shapes[first, 2], shapes[first, 3]
        merged, at = flat, starts[first]
        for core in range(first + 1, last):
            p, q, u = shapes[core, 1], shapes[core, 2], shapes[core, 3]
            left, right = r * m * n, p * q * u
            gemm(
                zero, left, right, s, np.uintp(merged.ctypes.data + at * size), s, 1,
                np.uintp(flat.ctypes.data + starts[core] * size), right,
                np.uintp(spare.ctypes.data), right, False,
            )  # fmt: skip
            # (r m n, p q u) -> (r m p, n q u)
            source = 0
            for im in range(r * m):
                for b in range(n):
                    for d in range(p):
                        out = half + ((im * p + d) * n + b) * q * u
                        for e in range(q * u):
                            spare[out + e] = spare[source]
                            source += 1
            m, n, s = m * p, n * q, u
            merged, at = spare, half
        # strides of (r, m, n, s) in the matrix of the form
        form, k, rows = table[t, FORM], table[t, K], table[t, ROWS]
        if form == 0:  # (r m, n s)
            sr, sm, sn, ss = m * k, k, s, 1
        elif form == 1:  # (m s, r n)
            sr, sm, sn, ss = n, s * k, 1, k
        else:  # (m, r n s)
            sr, sm, sn, ss = n * s, k, s, 1
        for i in range(r):
            for a in range(m):
                for b in range(n):
                    out = table[t, AT] + i * sr + a * sm + b * sn
                    for c in range(s):
                        mats[out + c * ss] = merged[at]
                        at += 1
        if table[t, VECTOR]:
            for y in range(rows):
                for x in range(k):
                    mats[table[t, TURNED] + x * rows + y] = mats[table[t, AT] + y * k + x]


@compiled
def advance(zero, stage, base, source, target):
    """One stage of one row: addresses of the matrices, of the state, and of the next state."""
    size = entry_bytes(zero)
    outer, rows, k, inner = stage[OUTER], stage[ROWS], stage[K], stage[INNER]
    if stage[VECTOR]:
        matrix = np.uintp(base + stage[TURNED] * size)
        gemm(zero, outer, rows, k, source, k, 1, matrix, rows, target, rows, False)
        return
    matrix = np.uintp(base + stage[AT] * size)
    for o in range(outer):
        state = np.uintp(source + o * k * inner * size)
        new = np.uintp(target + o * rows * inner * size)
        gemm(zero, rows, inner, k, matrix, k, 1, state, inner, new, inner, False)


@compiled
def forward(zero, table, mats, x, y, first, last, scratch):
    """Rows first..last-1 of y = x W^T.

    Contract
        x, y     (batch, N), (batch, M), C-contiguous
        scratch  (2, the largest state)
    """
    size = entry_bytes(zero)
    stages = table.shape[0]
    base, place = np.uintp(mats.ctypes.data), np.uintp(scratch.ctypes.data)
    half = scratch.shape[1] * size
    for b in range(first, last):
        source = np.uintp(x.ctypes.data + b * x.shape[1] * size)
        for t in range(stages):
            target = (
                np.uintp(y.ctypes.data + b * y.shape[1] * size)
                if t == stages - 1
                else np.uintp(place + (t % 2) * half)
            )
            advance(zero, table[t], base, source, target)
            source = target


@compiled
def retreat(zero, stage, base, gbase, state, g, new):
    """Gradients through one stage of one row: of its matrix, added, and of the state it read."""
    size = entry_bytes(zero)
    outer, rows, k, inner = stage[OUTER], stage[ROWS], stage[K], stage[INNER]
    matrix = np.uintp(base + stage[AT] * size)
    if stage[VECTOR]:
        gradient = np.uintp(gbase + stage[TURNED] * size)
        gemm(zero, k, rows, outer, state, 1, k, g, rows, gradient, rows, True)
        gemm(zero, outer, k, rows, g, rows, 1, matrix, k, new, k, False)
        return
    gradient = np.uintp(gbase + stage[AT] * size)
    gemm_nt(
        zero, rows, k, inner, outer, g, inner, rows * inner, state, inner, k * inner, gradient, k
    )
    for o in range(outer):
        part = np.uintp(g + o * rows * inner * size)
        into = np.uintp(new + o * k * inner * size)
        gemm(zero, k, inner, rows, matrix, 1, k, part, inner, into, inner, False)


@compiled
def backward(zero, table, mats, x, gy, gx, gmats, first, last, states, scratch):
    """Rows first..last-1 of gx = gy W, and their share of the gradients of the matrices.

    Contract
        states   all states of one row but the first, back to back
        scratch  (2, the largest state)
        gmats    like mats, added to; where the inner axis is 1, the gradient of A^T is there
    """
    size = entry_bytes(zero)
    stages = table.shape[0]
    base, gbase = np.uintp(mats.ctypes.data), np.uintp(gmats.ctypes.data)
    place, half = np.uintp(scratch.ctypes.data), scratch.shape[1] * size
    for b in range(first, last):
        start = np.uintp(x.ctypes.data + b * x.shape[1] * size)
        source = start
        for t in range(stages - 1):
            target = np.uintp(states.ctypes.data + table[t + 1, STATE] * size)
            advance(zero, table[t], base, source, target)
            source = target
        g = np.uintp(gy.ctypes.data + b * gy.shape[1] * size)
        for t in range(stages - 1, -1, -1):
            if t:
                state = np.uintp(states.ctypes.data + table[t, STATE] * size)
                new = np.uintp(place + (t % 2) * half)
            else:
                state = start
                new = np.uintp(gx.ctypes.data + b * gx.shape[1] * size)
            retreat(zero, table[t], base, gbase, state, g, new)
            g = new
