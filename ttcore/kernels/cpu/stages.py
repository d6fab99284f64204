"""One compiled program for all chains: it interprets a table of stages.

Tables and matrices are those of ``merging``.
"""

import numpy as np

from ttcore.kernels.cpu.cache import compiled
from ttcore.kernels.cpu.gemm import gemm, gemm_nt
from ttcore.kernels.cpu.merging import (
    AT,
    DOTS,
    GRADIENT,
    INNER,
    LEAD,
    OUTER,
    ROWS,
    STATE,
    TURN_STATE,
    TURNED,
    VECTOR,
    K,
)
from ttcore.kernels.cpu.simd import entry_bytes, turn


@compiled
def advance(zero, stage, base, source, target, first, last):
    """Products first..last-1 of a stage: addresses of matrices, of the state, of the next state."""
    size = entry_bytes(zero)
    rows, k, inner = stage[ROWS], stage[K], stage[INNER]
    if stage[VECTOR]:
        matrix = np.uintp(base + stage[TURNED] * size)
        source, target = np.uintp(source + first * k * size), np.uintp(target + first * rows * size)
        gemm(zero, last - first, rows, k, source, k, 1, matrix, rows, target, rows, False)
        return
    matrix = np.uintp(base + stage[AT] * size)
    for o in range(first, last):
        state = np.uintp(source + o * k * inner * size)
        new = np.uintp(target + o * rows * inner * size)
        gemm(zero, rows, inner, k, matrix, stage[LEAD], 1, state, inner, new, inner, False)


@compiled
def forward(zero, table, mats, x, y, first, last, scratch, largest, group):
    """Rows first..last-1 of y = x W^T, ``group`` at a time.

    Contract
        x, y     (batch, N), (batch, M), C-contiguous
        largest  entries of the largest state of a group
        scratch  2 largest
    """
    size = entry_bytes(zero)
    stages = table.shape[0]
    base, place = np.uintp(mats.ctypes.data), np.uintp(scratch.ctypes.data)
    half = largest * size
    for b in range(first, last, group):
        count = min(group, last - b)
        source = np.uintp(x.ctypes.data + b * x.shape[1] * size)
        for t in range(stages):
            target = (
                np.uintp(y.ctypes.data + b * y.shape[1] * size)
                if t == stages - 1
                else np.uintp(place + (t % 2) * half)
            )
            advance(zero, table[t], base, source, target, 0, count * table[t, OUTER])
            source = target


@compiled
def part(zero, stage, mats, state, new, first, last):
    """Products first..last-1 of one stage of all rows, from one flat array into another."""
    base = np.uintp(mats.ctypes.data)
    advance(
        zero, stage, base, np.uintp(state.ctypes.data), np.uintp(new.ctypes.data), first, last
    )  # fmt: skip


@compiled
def columns(zero, table, mats, x, y, first, last, scratch, largest, group, width):
    """Columns first..last-1 of y = W x, ``width`` at a time turned into rows and back.

    Contract
        x, y     (N, batch), (M, batch), C-contiguous
        scratch  2 largest + width (N + M)
    """
    size = entry_bytes(zero)
    n, m, batch = x.shape[0], y.shape[0], x.shape[1]
    rows = scratch[2 * largest : 2 * largest + width * n].reshape(width, n)
    results = scratch[2 * largest + width * n : 2 * largest + width * (n + m)].reshape(width, m)
    for start in range(first, last, width):
        count = min(width, last - start)
        source, target = np.uintp(x.ctypes.data + start * size), np.uintp(rows.ctypes.data)
        turn(zero, n, count, source, batch, target, n)
        forward(zero, table, mats, rows, results, 0, count, scratch, largest, group)
        source, target = np.uintp(results.ctypes.data), np.uintp(y.ctypes.data + start * size)
        turn(zero, count, m, source, m, target, batch)


@compiled
def pull_back(zero, stage, gbase, state, g, spare, outer):
    """The gradient of a stage's matrix, from ``outer`` products, added; ``spare``: scratch."""
    size = entry_bytes(zero)
    rows, k, inner = stage[ROWS], stage[K], stage[INNER]
    gradient = np.uintp(gbase + stage[AT] * size)
    if stage[VECTOR]:
        gemm(zero, k, rows, outer, state, 1, k, g, rows, gradient, rows, True)
        return
    if stage[GRADIENT] == DOTS:
        gemm_nt(
            zero, rows, k, inner, outer, g, inner, rows * inner, state, inner, k * inner,
            gradient, k,
        )  # fmt: skip
        return
    for o in range(outer):
        part = np.uintp(g + o * rows * inner * size)
        before = np.uintp(state + o * k * inner * size)
        if stage[GRADIENT] == TURN_STATE:
            turn(zero, k, inner, before, inner, spare, k)
            gemm(zero, rows, k, inner, part, inner, 1, spare, k, gradient, k, True)
        else:
            turn(zero, rows, inner, part, inner, spare, rows)
            gemm(zero, k, rows, inner, before, inner, 1, spare, rows, gradient, rows, True)


@compiled
def retreat(zero, stage, base, g, new, outer):
    """The gradient of the state that a stage of ``outer`` products read."""
    size = entry_bytes(zero)
    rows, k, inner = stage[ROWS], stage[K], stage[INNER]
    matrix = np.uintp(base + stage[AT] * size)
    if stage[VECTOR]:
        gemm(zero, outer, k, rows, g, rows, 1, matrix, stage[LEAD], new, k, False)
        return
    for o in range(outer):
        part = np.uintp(g + o * rows * inner * size)
        into = np.uintp(new + o * k * inner * size)
        gemm(zero, k, inner, rows, matrix, 1, stage[LEAD], part, inner, into, inner, False)


@compiled
def backward(zero, table, mats, x, gy, gx, gmats, first, last, scratch, largest, group):
    """Rows first..last-1 of gx = gy W, and their share of the gradients of the matrices.

    Contract
        largest  entries of the largest state of a group of rows
        scratch  3 largest, and all states of a group but the first
        gmats    like mats, added to; transposed where the table says so
    """
    size = entry_bytes(zero)
    stages = table.shape[0]
    base, gbase = np.uintp(mats.ctypes.data), np.uintp(gmats.ctypes.data)
    place, half = np.uintp(scratch.ctypes.data), largest * size
    spare, states = np.uintp(place + 2 * half), np.uintp(place + 3 * half)
    for b in range(first, last, group):
        count = min(group, last - b)
        start = np.uintp(x.ctypes.data + b * x.shape[1] * size)
        source = start
        for t in range(stages - 1):
            target = np.uintp(states + group * table[t + 1, STATE] * size)
            advance(zero, table[t], base, source, target, 0, count * table[t, OUTER])
            source = target
        g = np.uintp(gy.ctypes.data + b * gy.shape[1] * size)
        for t in range(stages - 1, -1, -1):
            if t:
                state = np.uintp(states + group * table[t, STATE] * size)
                new = np.uintp(place + (t % 2) * half)
            else:
                state = start
                new = np.uintp(gx.ctypes.data + b * gx.shape[1] * size)
            outer = count * table[t, OUTER]
            pull_back(zero, table[t], gbase, state, g, spare, outer)
            retreat(zero, table[t], base, g, new, outer)
            g = new
