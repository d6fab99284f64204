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
from ttcore.kernels.cpu.buffers import LINE, aligned, give, take
from ttcore.kernels.cpu.cache import compiled, reordered
from ttcore.kernels.cpu.gemm import gemm
from ttcore.kernels.cpu.memory import pointer
from ttcore.kernels.cpu.pool import call_helpers, usable_cpus

SHARES = 4  # sums of slices, at most
FAR = 16  # binary digits by which the norm of an interface may differ from 1
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
def _sum_slices(zero, interface, g, h, first, last, total, squares):
    """total (t, u) = sum of G(i)^T P H(i) for first <= i < last; two addresses, and two cores.

    A slice is copied before it is used: its rows are far apart, and each is needed often. The sums
    of the squares of the slices go to ``squares``.
    """
    r, s, t, u = g.shape[0], h.shape[0], g.shape[2], h.shape[2]
    half, left, right = aligned(g, r * u), aligned(g, r * t), aligned(g, s * u)
    squares[0] = squares[1] = 0.0
    for i in range(first, last):
        squares[0] += _copied(g, i, left)
        squares[1] += _copied(h, i, right)
        q = np.uintp(half.ctypes.data)
        x, y = np.uintp(left.ctypes.data), np.uintp(right.ctypes.data)
        gemm(zero, r, u, s, interface, s, 1, y, u, q, u, False)
        gemm(zero, t, u, r, x, 1, t, q, u, total, u, i > first)
    return half[0], left[0], right[0]  # keeps what addresses were taken of


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
        total = np.uintp(places[2] + np.uintp(i * pitch))
        first, last = i * n // shares, (i + 1) * n // shares
        _sum_slices(zero, np.uintp(places[k % 2]), g, h, first, last, total, squares[i])
        i = boards.take(board)


@compiled
def _help(zero, board, table, places, squares, pitch):
    """What a helper does."""
    while boards.enter(board):
        _take_shares(zero, board, table, places, squares, pitch)
        boards.leave(board)


@compiled
def _sum_shares(zero, source, target, shares, pitch, entries):
    """The shares at ``source``, ``pitch`` bytes apart, in order; the sum's squares, summed."""
    total = carray(pointer(zero, target), entries)
    square = 0.0
    for i in range(entries):
        total[i] = zero
    for k in range(shares):
        share = carray(pointer(zero, np.uintp(source + k * pitch)), entries)
        for i in range(entries):
            total[i] += share[i]
    for i in range(entries):
        square += np.float64(total[i]) * np.float64(total[i])
    return square


@compiled
def _sweep(zero, board, table, places, squares, pitch, room):
    """(done, exponent): steps after which the interface, times 2**-exponent, is in a place.

    Contract
        places  two of an interface in turns, which begins in the first, and one of the shares
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
        square = _sum_shares(zero, np.uintp(places[2]), target, shares, pitch, entries)
        shift = math.frexp(math.sqrt(square))[1] if 0.0 < square < math.inf else 0
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
    pairs = [(np.ascontiguousarray(g), np.ascontiguousarray(h)) for g, h in pairs]
    table = np.array(
        [(g.ctypes.data, h.ctypes.data, g.shape[0], h.shape[0], *g.shape[1:], h.shape[2])
         for g, h in pairs], np.int64
    )  # fmt: skip
    dtype, zero = interface.dtype, interface.dtype.type(0)
    most = max(interface.size, *(table[:, T] * table[:, U]))
    most = -(-most * dtype.itemsize // LINE) * LINE // dtype.itemsize
    pitch = int(most * dtype.itemsize)
    scratch = take(int(most) * (2 + SHARES), dtype)
    scratch[: interface.size] = interface.reshape(-1)
    places = scratch.ctypes.data + np.array([0, pitch, 2 * pitch], np.uint64)
    squares = np.empty((SHARES, LINE // 8))  # rows are lines of the cache
    board = boards.new_board()
    helpers = min(usable_cpus(), SHARES) - 1
    if helpers:
        call_helpers(lambda: _help(zero, board, table, places, squares, pitch), helpers)
    done, exponent = _sweep(zero, board, table, places, squares, pitch, room)
    boards.end(board)
    if done:
        interface = scratch[done % 2 * int(most) :][: table[done - 1, T] * table[done - 1, U]]
        interface = interface.reshape(table[done - 1, T], table[done - 1, U]).copy()
    give(scratch)
    return interface, exponent, done
