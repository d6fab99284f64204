"""Entries of a train at a batch of multi-indices, block by block in cache, and gradients: compiled.

A block of rows goes through the cores together. Its rows stand still; for each core their numbers
are sorted by the digit there, and each bucket is one product with that digit's slice. The first and
the last core are tables of vectors, one for each digit.

All arrays are laid out as in ``flat``: the first core (n, pitch), others (n, r, pitch), the last
one (n, pitch) too, with zeros beyond the ranks. ``table`` has a row for each core; its columns are
named here.
"""

import numpy as np

from ttcore.kernels.cpu.cache import compiled
from ttcore.kernels.cpu.picked import accumulate, multiply
from ttcore.kernels.cpu.simd import dots_1x1, entry_bytes

# digits; ranks; entries from row to row, which are whole registers; where the slices begin, and the
# transposed ones (n, r', pitch before); the columns of the index that make the digit; where the
# state behind the core begins among all states of a row
N, R, NEXT, PITCH, AT, TURNED, FIRST, LAST, STATE = range(9)


@compiled
def read(table, modes, index, start, digits):
    """The digits (cores, rows) of a block of rows that begins at ``start``."""
    for t in range(table.shape[0]):
        for b in range(digits.shape[1]):
            digit = 0
            for k in range(table[t, FIRST], table[t, LAST]):
                i = index[start + b, k]
                digit = digit * modes[k] + (i if i >= 0 else i + modes[k])
            digits[t, b] = digit


@compiled
def sort(digits, n, places, order):
    """``order``: the numbers of the rows, equal digits side by side if there are enough rows."""
    rows = digits.size
    if n > rows:  # then hardly any are equal
        for b in range(rows):
            order[b] = b
        return
    places[:n] = 0
    for b in range(rows):
        places[digits[b]] += 1
    start = 0
    for i in range(n):
        start, places[i] = start + places[i], start
    for b in range(rows):
        order[places[digits[b]]] = b
        places[digits[b]] += 1


@compiled
def run(digits, order, start):
    """End of the rows from ``start`` in ``order`` that have one digit."""
    digit, end = digits[order[start]], start + 1
    while end < digits.size and digits[order[end]] == digit:
        end += 1
    return end


@compiled
def begin(core, flat, digits, state):
    """The first core: row b of the state is the vector of its digit."""
    pitch = core[PITCH]
    for b in range(digits.size):
        vector = flat[core[AT] + digits[b] * pitch :][: np.uintp(pitch)]
        row = state[b * pitch :][: np.uintp(pitch)]
        for j in range(vector.size):
            row[j] = vector[j]


@compiled
def advance(zero, matrices, k, width, digits, order, source, pitch, target):
    """Rows of k entries, ``pitch`` apart, times the matrices (k, width) of their digits."""
    size, numbers = entry_bytes(zero), np.uintp(order.ctypes.data)
    start = 0
    while start < digits.size:
        end = run(digits, order, start)
        matrix = np.uintp(matrices + digits[order[start]] * k * width * size)
        multiply(
            zero, end - start, width, k, np.uintp(numbers + start * order.itemsize),
            source, pitch, matrix, width, target, width,
        )  # fmt: skip
        start = end


@compiled
def finish(zero, core, flat, digits, source, pitch, y):
    """The last core: y[b] is the inner product of row b with the vector of its digit."""
    size = entry_bytes(zero)
    vectors, out = np.uintp(flat.ctypes.data + core[AT] * size), np.uintp(y.ctypes.data)
    for b in range(digits.size):
        y[b] = 0
        row = np.uintp(source + b * pitch * size)
        vector = np.uintp(vectors + digits[b] * core[PITCH] * size)
        dots_1x1(zero, row, 0, 0, vector, 0, 0, np.uintp(out + b * size), 0, core[R], 1)


@compiled
def forward(zero, flat, table, modes, index, y, block, numbers, states):
    """y: the entries at ``index``.

    Contract
        index    (B, d) intp, -modes[k] <= index[:, k] < modes[k]
        y        (B,)
        block    rows that go through the cores together
        numbers  int64 scratch: (cores + 1) block + the most digits, at most block of them
        states   scratch: 2 block rows of the largest pitch
    """
    cores, size = table.shape[0], entry_bytes(zero)
    half = states.size // 2 * size
    base, slices = np.uintp(states.ctypes.data), np.uintp(flat.ctypes.data)
    for start in range(0, y.size, block):
        rows = min(block, y.size - start)
        digits = numbers[: cores * rows].reshape(cores, rows)
        order = numbers[cores * rows : (cores + 1) * rows]
        places = numbers[(cores + 1) * rows :]
        read(table, modes, index, start, digits)
        begin(table[0], flat, digits[0], states)
        for t in range(1, cores - 1):
            core = table[t]
            sort(digits[t], core[N], places, order)
            advance(
                zero, np.uintp(slices + core[AT] * size), core[R], core[PITCH], digits[t], order,
                np.uintp(base + (t + 1) % 2 * half), table[t - 1, PITCH],
                np.uintp(base + t % 2 * half),
            )  # fmt: skip
        finish(
            zero, table[cores - 1], flat, digits[cores - 1], np.uintp(base + cores % 2 * half),
            table[cores - 2, PITCH], y[start : start + rows],
        )  # fmt: skip
    return states[0], flat[0]  # they live as long as their addresses are used


@compiled
def pull_back(zero, core, gflat, digits, order, source, before, g):
    """Gradients of the slices: sums over the rows of a bucket, added."""
    size, numbers = entry_bytes(zero), np.uintp(order.ctypes.data)
    slices, width = np.uintp(gflat.ctypes.data + core[AT] * size), core[PITCH]
    start = 0
    while start < digits.size:
        end = run(digits, order, start)
        accumulate(
            zero, core[R], width, end - start, np.uintp(numbers + start * order.itemsize),
            source, before, g, width,
            np.uintp(slices + digits[order[start]] * core[R] * width * size), width,
        )  # fmt: skip
        start = end


@compiled
def finish_back(core, flat, gflat, digits, state, gy, g):
    """Gradients of the last core, added, and of the state before it."""
    pitch = core[PITCH]
    for b in range(digits.size):
        at = core[AT] + digits[b] * pitch
        vector, gvector = flat[at:][: np.uintp(pitch)], gflat[at:][: np.uintp(pitch)]
        row, grow = state[b * pitch :][: np.uintp(pitch)], g[b * pitch :][: np.uintp(pitch)]
        for j in range(vector.size):
            gvector[j] += gy[b] * row[j]
            grow[j] = gy[b] * vector[j]


@compiled
def begin_back(core, gflat, digits, g):
    """Gradients of the first core, added."""
    pitch = core[PITCH]
    for b in range(digits.size):
        gvector = gflat[core[AT] + digits[b] * pitch :][: np.uintp(pitch)]
        grow = g[b * pitch :][: np.uintp(pitch)]
        for j in range(gvector.size):
            gvector[j] += grow[j]


@compiled
def backward(zero, flat, table, modes, index, gy, gflat, block, numbers, states):
    """Gradients of all cores, added.

    Contract
        flat     the transposed slices too
        gy       (B,)
        gflat    like flat, without transposed slices
        numbers  int64 scratch: 2 cores block + the most digits, at most block of them
        states   scratch: all states of block rows, and 2 block rows of the largest pitch
    """
    cores, size = table.shape[0], entry_bytes(zero)
    kept = block * (table[cores - 2, STATE] + table[cores - 2, PITCH])
    half = (states.size - kept) // 2
    base, slices = np.uintp(states.ctypes.data), np.uintp(flat.ctypes.data)
    for start in range(0, gy.size, block):
        rows = min(block, gy.size - start)
        digits = numbers[: cores * rows].reshape(cores, rows)
        orders = numbers[cores * rows : 2 * cores * rows].reshape(cores, rows)
        places = numbers[2 * cores * rows :]
        read(table, modes, index, start, digits)
        begin(table[0], flat, digits[0], states)
        for t in range(1, cores - 1):
            core = table[t]
            sort(digits[t], core[N], places, orders[t])
            advance(
                zero, np.uintp(slices + core[AT] * size), core[R], core[PITCH], digits[t],
                orders[t], np.uintp(base + block * table[t - 1, STATE] * size),
                table[t - 1, PITCH], np.uintp(base + block * core[STATE] * size),
            )  # fmt: skip
        finish_back(
            table[cores - 1], flat, gflat, digits[cores - 1],
            states[block * table[cores - 2, STATE] :], gy[start : start + rows],
            states[kept + cores % 2 * half :],
        )  # fmt: skip
        for t in range(cores - 2, 0, -1):
            core, width = table[t], table[t - 1, PITCH]
            source = np.uintp(base + block * table[t - 1, STATE] * size)
            g = np.uintp(base + (kept + t % 2 * half) * size)
            pull_back(zero, core, gflat, digits[t], orders[t], source, width, g)
            advance(
                zero, np.uintp(slices + core[TURNED] * size), core[NEXT], width, digits[t],
                orders[t], g, core[PITCH], np.uintp(base + (kept + (t + 1) % 2 * half) * size),
            )  # fmt: skip
        begin_back(table[0], gflat, digits[0], states[kept:])
    return states[0], flat[0], gflat[0]  # they live as long as their addresses are used
