"""Products of a real NumPy train with random trains, from the right, in one compiled call.

A step takes some rows of a core through both of its products while they are in the cache, and the
core is read once. No threads of BLAS wake, and between two steps nothing leaves the compiled code.
The same for any other operand: ``ttcore.sketching``.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numba import carray

from ttcore.kernels.cpu import board as boards
from ttcore.kernels.cpu.buffers import aligned_array
from ttcore.kernels.cpu.cache import compiled, reordered
from ttcore.kernels.cpu.gemm import gemm, gemm_ahead
from ttcore.kernels.cpu.memory import pointer
from ttcore.kernels.cpu.pool import usable_cpus
from ttcore.kernels.cpu.simd import TALL, entry_bytes

ROWS = 240  # of a core as a matrix (r n, s), about, in a share
AHEAD = 2  # register tiles: so far before its use a row comes from memory
G, R, N, S, IN, WIDTH, RANDOM, OUT = range(8)  # of a row of the table: addresses and sizes

Array = np.ndarray[Any, Any]


@reordered
def _squares(x, count):
    square = 0.0
    for i in range(np.uintp(count)):
        square += np.float64(x[i]) * np.float64(x[i])
    return square


@compiled
def _step(row):
    """Rows of the core that are one share's, and how many shares there are."""
    count = min(row[R], max(1, ROWS // row[N]))
    return count, -(-row[R] // count)


@compiled
def _take_shares(zero, board, table, width, squares, half):
    """Take rows of the core on the board through both products until there are no more.

    Nothing is allocated here: who fails inside is waited for in vain. ``half`` is what each thread
    has of its own, for what is between the products.
    """
    size = entry_bytes(zero)
    place = np.uintp(half.ctypes.data)
    share = boards.take(board)
    while share >= 0:
        row = table[board[boards.STEP]]
        n, s, columns = row[N], row[S], row[WIDTH]
        count, _ = _step(row)
        first = share * count
        rows = min(count, row[R] - first)
        core = np.uintp(row[G] + first * n * s * size)
        for j in range(0, rows * n, TALL):  # one register tile high: each row is read once
            here = np.uintp(core + j * s * size)
            gemm_ahead(
                zero, min(TALL, rows * n - j), columns, s, here, s, 1, np.uintp(row[IN]), columns,
                np.uintp(place + j * columns * size), columns, False,
                np.uintp(here + AHEAD * TALL * s * size), 0, 1, 0,
            )  # fmt: skip
        squares[share] = _squares(half, rows * n * columns)
        out = np.uintp(row[OUT] + first * width * size)
        gemm(
            zero, rows, width, n * columns, place, n * columns, 1, np.uintp(row[RANDOM]), width,
            out, width, False,
        )  # fmt: skip
        share = boards.take(board)


@compiled
def _help(zero, board, table, width, squares, half):
    """What a helper does."""
    while boards.enter(board):
        _take_shares(zero, board, table, width, squares, half)
        boards.leave(board)


@compiled
def _rescale(x, first, last):
    """The exponent of the power of two that the largest entry of some columns was below, now 1."""
    largest = 0.0
    for i in range(x.shape[0]):
        for j in range(first, last):
            largest = max(largest, abs(np.float64(x[i, j])))
    if not 0.0 < largest < math.inf:
        return 0
    exponent = math.frexp(largest)[1]
    scale = math.ldexp(1.0, -exponent)
    for i in range(x.shape[0]):
        for j in range(first, last):
            x[i, j] *= scale
    return exponent


@compiled
def _sweep(zero, board, table, width, squares, half, bounds, exponents, room):
    """Steps done; ``exponents`` (steps, sets) of what is in the columns between two ``bounds``."""
    for k in range(len(table)):
        row = table[k]
        _, shares = _step(row)
        boards.begin(board, k, shares)
        _take_shares(zero, board, table, width, squares, half)
        boards.finish(board)
        square = 0.0
        for i in range(shares):
            square += squares[i]
        if not 1.0 / room < square < room:
            return k
        out = carray(pointer(zero, np.uintp(row[OUT])), (row[R], width))
        for t in range(len(bounds) - 1):
            exponents[k, t] = _rescale(out, bounds[t], bounds[t + 1])
    return len(table)


def _aligned(rows: int, columns: int, dtype: np.dtype[Any]) -> Array:
    """Registers of it do not lie on two lines of the cache, where columns fill whole ones."""
    return aligned_array(rows * columns, dtype).reshape(rows, columns)


def _beside(sets: Sequence[Array], n: int) -> Array:
    """One random core (n columns, width) for all sets, with zeros where they would mix."""
    cores = [x.reshape(n, -1, x.shape[1]) for x in sets]
    columns, sizes = (np.cumsum([0, *(x.shape[axis] for x in cores)]) for axis in (1, 2))
    together = _aligned(n * columns[-1], sizes[-1], sets[0].dtype)
    together.fill(0)
    blocks = together.reshape(n, columns[-1], sizes[-1])
    for core, *ends in zip(cores, pairwise(columns), pairwise(sizes), strict=True):
        rows, places = (slice(*pair) for pair in ends)
        blocks[:, rows, places] = core
    return together


def products(
    cores: Sequence[Array], randoms: Sequence[Sequence[Array]], sizes: Sequence[int], room: float
) -> tuple[list[Array], Array]:
    """What is right of each bond, times random vectors: W_k = sum_i G_k(i) W_{k+1} R_k(i).

    Contract
        cores    (r, n, s) in the order of the sweep, the last one of the train first; of one dtype,
                 float32 or float64
        randoms  for each core, one (n w, size) for each set of columns, its rows in the order
                 (i, column of the W before); of the same dtype. The first W is 1 for each set
        sizes    of the sets, ``width`` in all
        room     the squares of G_k W_{k+1} sum up to between 1 / room and room; if not, the sweep
                 ends before
        results  W_k (r, width), each set scaled to entries below 1; (steps, sets) the exponents of
                 the powers of two that each step took out
    Cost: r n w (s + width) multiply-adds a core.
    """
    cores = [np.require(core, requirements="CA") for core in cores]
    dtype, width = cores[0].dtype, sum(sizes)
    zero = dtype.type(0)
    together = [_beside(sets, core.shape[1]) for sets, core in zip(randoms, cores, strict=True)]
    found = [np.ones((1, len(sizes)), dtype)]
    found += [_aligned(core.shape[0], width, dtype) for core in cores]
    table = np.array(
        [(core.ctypes.data, *core.shape, before.ctypes.data, before.shape[1], random.ctypes.data,
          after.ctypes.data)
         for core, random, before, after in zip(cores, together, found, found[1:], strict=False)],
        np.int64,
    )  # fmt: skip
    squares = np.empty(max(core.shape[0] for core in cores))
    exponents = np.zeros((len(cores), len(sizes)), np.int64)
    bounds = np.cumsum([0, *sizes])
    steps = [_step.py_func(row) for row in table]
    entries = width * max(count * n for (count, _), n in zip(steps, table[:, N], strict=True))
    rest = table, width, squares
    half = aligned_array(entries, dtype)
    done = boards.together(
        (__name__, dtype),
        lambda board: _sweep(zero, board, *rest, half, bounds, exponents, room),
        lambda board: _help(zero, board, *rest, aligned_array(entries, dtype)),
        min(usable_cpus(), max(shares for _, shares in steps)) - 1,
    )
    return found[1 : 1 + done], exponents[:done]
