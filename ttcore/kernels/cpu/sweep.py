"""Rounding a train of small ranks in one compiled call, where calls would cost more than numbers.

What it does is ``rounding.round_operand``, step by step, which is its reference: factors of the
rows by Householder's reflections, from the right; then singular vectors by one-sided Jacobi
rotations, from the left. All in float64.

Source of the SVD: J. Demmel, K. Veselić, Jacobi's method is more accurate than QR, SIAM J. Matrix
Anal. Appl. 13(4), 1992.
"""

import math

import numpy as np

from ttcore.kernels.cpu.cache import compiled, reordered

TURNS = 60  # sweeps of rotations, at most; about six are needed


@reordered
def lower(c, m, n):
    """Rows of c (m, n) reflected until c = L Q with L (m, n) lower triangular, in place.

    Rows are brought to unit size meanwhile: the squares of small ones must not vanish.
    """
    scales = np.ones(m)
    for i in range(m):
        largest = 0.0
        for e in range(n):
            largest = max(largest, abs(c[i, e]))
        if largest > 0.0:
            scales[i] = math.ldexp(1.0, math.frexp(largest)[1])
            for e in range(n):
                c[i, e] /= scales[i]
    for j in range(min(m, n - 1)):
        pivot = c[j]
        square = 0.0
        for e in range(j + 1, n):
            square += pivot[e] * pivot[e]
        if square == 0.0:
            continue
        size = math.sqrt(pivot[j] * pivot[j] + square)
        head = pivot[j] + math.copysign(size, pivot[j])
        factor = 2.0 * head * head / (head * head + square)
        for e in range(j + 1, n):
            pivot[e] /= head
        for i in range(j + 1, m):
            row = c[i]
            inner = row[j]
            for e in range(j + 1, n):
                inner += row[e] * pivot[e]
            inner *= factor
            row[j] -= inner
            for e in range(j + 1, n):
                row[e] -= inner * pivot[e]
        pivot[j] = -math.copysign(size, pivot[j])
        for e in range(j + 1, n):
            pivot[e] = 0.0
    for i in range(m):
        for e in range(n):
            c[i, e] *= scales[i]


@reordered
def separate(x, rows, unit):
    """Rotate the first rows of x until they are orthogonal to each other, and sort them by size.

    They are then singular values times left singular vectors of the transpose.
    """
    n = x.shape[1]
    for _ in range(TURNS):
        largest = 0.0
        for i in range(rows - 1):
            for j in range(i + 1, rows):
                a, b, c = 0.0, 0.0, 0.0
                one, other = x[i], x[j]
                for e in range(n):
                    a += one[e] * one[e]
                    b += other[e] * other[e]
                    c += one[e] * other[e]
                bound = math.sqrt(a) * math.sqrt(b)
                if abs(c) <= unit * bound or bound == 0.0:
                    continue
                largest = max(largest, abs(c) / bound)
                slope = (b - a) / (2.0 * c)
                t = math.copysign(1.0, slope) / (abs(slope) + math.hypot(1.0, slope))
                cos = 1.0 / math.sqrt(1.0 + t * t)
                sin = cos * t
                for e in range(n):
                    p, q = one[e], other[e]
                    one[e] = cos * p - sin * q
                    other[e] = sin * p + cos * q
        if largest <= unit:
            break
    sizes = np.zeros(rows)
    for i in range(rows):
        for e in range(n):
            sizes[i] += x[i, e] * x[i, e]
        sizes[i] = math.sqrt(sizes[i])
    for i in range(rows - 1):
        best = i
        for j in range(i + 1, rows):
            if sizes[j] > sizes[best]:
                best = j
        if best != i:
            sizes[i], sizes[best] = sizes[best], sizes[i]
            for e in range(n):
                x[i, e], x[best, e] = x[best, e], x[i, e]
    return sizes


@compiled
def times(a, b):
    """a @ b for small matrices."""
    m, k, n = a.shape[0], a.shape[1], b.shape[1]
    c = np.zeros((m, n))
    for i in range(m):
        row = c[i]
        for e in range(k):
            x, other = a[i, e], b[e]
            for j in range(n):
                row[j] += x * other[j]
    return c


@compiled
def scale_down(x):
    """The matrix x brought to unit size by a power of two, in place, and its exponent."""
    largest = 0.0
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            largest = max(largest, abs(x[i, j]))
    if largest == 0.0:
        return 0
    exponent = math.frexp(largest)[1]
    scale = math.ldexp(1.0, -exponent)
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            x[i, j] *= scale
    return exponent


@compiled
def place(x, rows, columns, turned, out, start):
    """The first rows and columns of x, or of its transpose, one behind the other from ``start``."""
    for i in range(rows):
        for j in range(columns):
            out[start + i * columns + j] = x[j, i] if turned else x[i, j]


@compiled
def sweep(flat, modes, ranks, share, absolute, caps, unit, least, out, found, lost, shifts):
    """Round a train.

    Contract
        flat      float64: the cores one behind the other, C-ordered; finite, of ordinary size
        modes     (d,), ranks (d + 1,) int64; d >= 2
        share     relative, absolute: what each bond may discard, at least
        caps      (d - 1,) int64
        unit      below which a cosine counts as zero
        least     (largest rank + 1,): relative noise in so many singular values
        out       as long as flat: the new cores, one behind the other
        found     (d + 1,) int64: their ranks
        lost      (d - 1,): what each bond discarded, times 2**-shifts[k]
        returns   (norm, e, exponent): the norm times 2**-e; out is to be multiplied by 2**exponent
    """
    d = len(modes)
    starts = np.zeros(d + 1, np.int64)
    for k in range(d):
        starts[k + 1] = starts[k] + ranks[k] * modes[k] * ranks[k + 1]
    kept = np.zeros(d + 1, np.int64)  # where the factor of each bond begins
    for k in range(d):
        kept[k + 1] = kept[k] + ranks[k] * ranks[k]
    factors, widths, scales = np.empty(kept[d]), np.ones(d + 1, np.int64), np.zeros(d + 1, np.int64)
    one = np.ones((1, 1))
    right = one
    for k in range(d - 1, 0, -1):
        r, n, s = ranks[k], modes[k], ranks[k + 1]
        rows = times(flat[starts[k] : starts[k + 1]].reshape(r * n, s), right)
        wide = rows.reshape(r, n * right.shape[1])
        scales[k] = scales[k + 1] + scale_down(wide)
        if wide.shape[1] > r:
            lower(wide, r, wide.shape[1])
        widths[k] = min(r, wide.shape[1])
        place(wide, r, widths[k], False, factors, kept[k])
        right = factors[kept[k] : kept[k] + r * widths[k]].reshape(r, widths[k])

    left = times(one, flat[: starts[1]].reshape(1, starts[1])).reshape(modes[0], ranks[1])
    exponent = scale_down(left)
    found[0], found[d] = 1, 1
    size, origin, budget, end = 0.0, 0, 0.0, 0
    for k in range(d - 1):
        s, p = ranks[k + 1], widths[k + 1]
        w = factors[kept[k + 1] : kept[k + 1] + s * p].reshape(s, p)
        rows = left.shape[0]
        x = times(left, w)
        shifts[k] = exponent + scales[k + 1] + scale_down(x)
        count = min(rows, p)
        if p > rows:
            lower(x, rows, p)
        turned = np.empty((count, rows))
        place(x, count, rows, True, turned.reshape(turned.size), 0)
        sizes = separate(turned, count, unit)
        total = 0.0
        for i in range(count):
            total += sizes[i] * sizes[i]
        if k == 0:
            size, origin = math.sqrt(total), shifts[k]
            budget = max(share * size, math.ldexp(absolute, -origin))
            budget = min(budget, 2.0 * size)
        allowed = math.ldexp(budget, origin - shifts[k])
        allowed = max(allowed, least[count] * math.sqrt(total))
        rank, tail = count, 0.0
        while rank > 1 and math.sqrt(tail + sizes[rank - 1] ** 2) <= allowed:
            rank -= 1
            tail += sizes[rank] ** 2
        while rank > caps[k]:
            rank -= 1
            tail += sizes[rank] ** 2
        lost[k] = math.sqrt(tail)
        if sizes[0] == 0.0:  # nothing is left of the train
            turned[0, 0], sizes[0] = 1.0, 1.0
        for i in range(rank):
            for e in range(rows):
                turned[i, e] /= sizes[i]
        basis = turned[:rank]
        place(basis, rows, rank, True, out, end)
        end += rows * rank
        found[k + 1] = rank
        core = flat[starts[k + 1] : starts[k + 2]].reshape(s, modes[k + 1] * ranks[k + 2])
        left = times(times(basis, left), core).reshape(rank * modes[k + 1], ranks[k + 2])
        exponent += scale_down(left)
    place(left, left.shape[0], left.shape[1], False, out, end)
    return size, origin, exponent
