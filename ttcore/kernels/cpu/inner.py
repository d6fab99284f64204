"""Inner products of real NumPy trains: all steps of ``portable.interfaces`` in one compiled call.

Slice by slice of a mode, so that what is between the two products stays in the cache. The slices
are summed in shares fixed by their number, the shares in order. While they are copied their squares
are summed too: that they are in range then costs no reading of its own.

Between two steps nothing leaves the compiled code: what Python does there is short, but has left
the caches meanwhile.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import carray

from ttcore.kernels.cpu import board as boards
from ttcore.kernels.cpu.buffers import LINE, give, take
from ttcore.kernels.cpu.cache import compiled, reordered
from ttcore.kernels.cpu.gemm import gemm
from ttcore.kernels.cpu.memory import pointer
from ttcore.kernels.cpu.pool import usable_cpus

SHARES = 4  # sums of slices, at most
FAR = 16  # binary digits by which the largest entry of an interface may differ from 1
G, H, R, S, N, T, U = range(7)  # of a row of the table: addresses, (r, n, t) and (s, n, u)

Array = np.ndarray[Any, Any]


@reordered
def _copied(core, i, out):
    """The slice i of a core as the first entries of ``out``, C-contiguous; sum of its squares."""
    rows, columns = np.uintp(core.shape[0]), np.uintp(core.shape[2])
    square = 0.0
    for k in range(rows):
        for e in range(columns):
            entry = core[k, i, e]
            out[k * columns + e] = entry
            square += np.float64(entry) * np.float64(entry)
    return square


@compiled
def _sum_slices(zero, interface, g, h, first, last, total, squares, scratch, room):
    """total (t, u) = sum of G(i)^T P H(i) for first <= i < last; addresses, and two cores.

    A slice is copied before it is used: its rows are far apart, and each is needed often. The sums
    of the squares of the slices go to ``squares``. ``scratch``: three places of ``room`` bytes.
    """
    r, s, t, u = g.shape[0], h.shape[0], g.shape[2], h.shape[2]
    x, y, q = scratch, np.uintp(scratch + room), np.uintp(scratch + 2 * room)
    left, right = carray(pointer(zero, x), r * t), carray(pointer(zero, y), s * u)
    squares[0] = squares[1] = 0.0
    for i in range(first, last):
        squares[0] += _copied(g, i, left)
        squares[1] += _copied(h, i, right)
        gemm(zero, r, u, s, interface, s, 1, y, u, q, u, False)
        gemm(zero, t, u, r, x, 1, t, q, u, total, u, i > first)


@compiled
def _take_shares(zero, board, table, places, squares, pitch):
    """Sum shares of the step on the board until there are no more."""
    i = boards.take(board)
    while i >= 0:
        k = board[boards.STEP]
        row = table[k]
        n = row[N]
        shares = min(SHARES, n)
        g = carray(pointer(zero, np.uintp(row[G])), (row[R], n, row[T]))
        h = carray(pointer(zero, np.uintp(row[H])), (row[S], n, row[U]))
        total = np.uintp(places[2] + np.uintp(4 * i * pitch))
        first, last = i * n // shares, (i + 1) * n // shares
        _sum_slices(
            zero, np.uintp(places[k % 2]), g, h, first, last, total, squares[i],
            np.uintp(total + pitch), pitch,
        )  # fmt: skip
        i = boards.take(board)


@compiled
def _help(zero, board, table, places, squares, pitch):
    """What a helper does."""
    while boards.enter(board):
        _take_shares(zero, board, table, places, squares, pitch)
        boards.leave(board)


@compiled
def _sum_shares(zero, source, target, shares, step, entries):
    """The shares at ``source``, ``step`` bytes apart, in order; the largest entry of the sum."""
    total = carray(pointer(zero, target), entries)
    largest = 0.0
    for i in range(entries):
        total[i] = zero
    for k in range(shares):
        share = carray(pointer(zero, np.uintp(source + k * step)), entries)
        for i in range(entries):
            total[i] += share[i]
    for i in range(entries):
        largest = max(largest, abs(np.float64(total[i])))
    return largest


@compiled
def _sweep(zero, board, table, places, squares, pitch, room):
    """(done, exponent): steps after which the interface, times 2**-exponent, is in a place.

    Contract
        places  two of an interface in turns, which begins in the first, and one of the shares:
                each of four arrays of ``pitch`` bytes, a sum and what its slices need
        room    squares of a core sum up to between 1 / room and room; if not, its step is not done
    """
    exponent = 0
    for k in range(len(table)):
        row = table[k]
        shares, entries = min(SHARES, row[N]), row[T] * row[U]
        boards.begin(board, k, shares)
        _take_shares(zero, board, table, places, squares, pitch)
        boards.finish(board)
        for core in range(2):
            square = 0.0
            for i in range(shares):
                square += squares[i, core]
            if not 1.0 / room < square < room:
                return k, exponent
        target = np.uintp(places[(k + 1) % 2])
        largest = _sum_shares(zero, np.uintp(places[2]), target, shares, 4 * pitch, entries)
        shift = math.frexp(largest)[1] if 0.0 < largest < math.inf else 0
        if abs(shift) > FAR:
            scale, total = math.ldexp(1.0, -shift), carray(pointer(zero, target), entries)
            for i in range(entries):
                total[i] *= scale
            exponent += shift
    return len(table), exponent


def sweep(interface: Array, pairs: Sequence[tuple[Array, Array]], room: float) -> Any:
    """The interface behind some pairs of cores, up to one that is not known to be in range.

    Contract
        interface  (r, s), near unit size; pairs of g (r, n, t), h (s, n, u); all of one dtype,
                   float32 or float64
        room       squares of the entries of an ordinary core sum up to between 1 / room and room
        results    the interface (t, u); the exponent of the power of two that it is to be
                   multiplied by; how many pairs it is behind
    Cost: n (r s u + r t u) multiply-adds a pair.
    """
    interface = np.ascontiguousarray(interface)
    pairs = [[np.require(core, requirements="CA") for core in pair] for pair in pairs]
    table = np.array(
        [(g.ctypes.data, h.ctypes.data, g.shape[0], h.shape[0], *g.shape[1:], h.shape[2])
         for g, h in pairs], np.int64
    )  # fmt: skip
    dtype, zero = interface.dtype, interface.dtype.type(0)
    r, s, t, u = (table[:, column] for column in (R, S, T, U))
    most = max(interface.size, *(int((a * b).max()) for a, b in ((t, u), (r, t), (s, u), (r, u))))
    most = -(-most * dtype.itemsize // LINE) * LINE // dtype.itemsize
    pitch = most * dtype.itemsize
    scratch = take(most * (2 + 4 * SHARES), dtype)
    scratch[: interface.size] = interface.reshape(-1)
    places = scratch.ctypes.data + np.array([0, pitch, 2 * pitch], np.uint64)
    squares = np.empty((SHARES, LINE // 8))  # rows are lines of the cache
    rest = table, places, squares, pitch
    done, exponent = boards.together(
        (__name__, dtype),
        lambda board: _sweep(zero, board, *rest, room),
        lambda board: _help(zero, board, *rest),
        min(usable_cpus(), SHARES) - 1,
    )
    if done:
        shape = table[done - 1, T], table[done - 1, U]
        interface = scratch[done % 2 * most :][: shape[0] * shape[1]].reshape(shape).copy()
    give(scratch)
    return interface, exponent, done
