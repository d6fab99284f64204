"""A matrix times a core, slice by slice of the mode, and an orthonormal basis times that: compiled.

A core is read once, by blocks of columns that are multiplied in the cache while the next ones come
from memory.
"""

from typing import Any

import numpy as np

from ttcore.kernels.cpu import board as boards
from ttcore.kernels.cpu.buffers import LINE
from ttcore.kernels.cpu.cache import compiled, reordered
from ttcore.kernels.cpu.gemm import gemm, gemm_ahead, strip
from ttcore.kernels.cpu.simd import entry_bytes

BLOCK = 2**14  # entries of a core that are multiplied at a time, about
COLUMNS = 16  # of a product with a basis in a share


def block_entries(r: int, dtype: np.dtype[Any]) -> int:
    """Entries of the block that a thread needs for cores of r rows."""
    return r * max(LINE // dtype.itemsize, BLOCK // r)


@compiled
def multiply(zero, i, board, t, core, left, block):
    """Rows (m, i) of the product (m n, s) of t (m, r) and a core (r, n, s); their sum of squares.

    Contract
        i      a share that was taken from the board; the next one is probably this thread's
        left   (m n s,): the product
        block  `block_entries`
    Some columns of the core are copied and multiplied at a time.
    """
    size, then = entry_bytes(zero), boards.peek(board)
    (m, r), (_, n, s) = t.shape, core.shape
    flat, place, pitch = core.reshape(core.size), np.uintp(block.ctypes.data), n * s
    here = np.uintp(left.ctypes.data + i * s * size)
    columns = _columns(len(block) // r, s, LINE // size)
    for first in range(0, s, columns):
        wide = min(columns, s - first)
        for row in range(r):
            at, to = np.uintp(row * pitch + i * s + first), np.uintp(row * wide)
            for column in range(np.uintp(wide)):
                block[to + column] = flat[at + column]
        behind = i * s + first + wide if first + wide < s else then * s
        ahead = np.uintp(core.ctypes.data + behind * size)
        lines, asked = wide * size // LINE + 1, 0
        row = 0
        while row < m:
            x = np.uintp(t.ctypes.data + row * r * size)
            z = np.uintp(here + (row * pitch + first) * size)
            high = strip(m - row)
            if behind >= 0 and asked < r * lines:
                asked += gemm_ahead(
                    zero, high, wide, r, x, r, 1, place, wide, z, pitch, False, ahead, asked, lines,
                    pitch * size - lines * LINE,
                )  # fmt: skip
            else:
                gemm(zero, high, wide, r, x, r, 1, place, wide, z, pitch, False)
            row += high
    return sum_of_squares(left, m, i * s, s, pitch)


@compiled
def multiply_basis(zero, first, q, left, s, product):
    """Some columns, from ``first`` on, of Q^T times the rows (m, s) of ``left``.

    Contract
        q        (m, count), C-contiguous
        product  (count, s), C-contiguous
    """
    size, (rows, count) = entry_bytes(zero), q.shape
    gemm(
        zero, count, min(COLUMNS, s - first), rows, np.uintp(q.ctypes.data), 1, count,
        np.uintp(left.ctypes.data + first * size), s,
        np.uintp(product.ctypes.data + first * size), s, False,
    )  # fmt: skip


@reordered
def sum_of_squares(x, rows, first, count, pitch):
    """Sum of the squares of so many entries in each row, the first of them at ``first``."""
    total = 0.0
    for row in range(rows):
        at = np.uintp(first + row * pitch)
        for i in range(np.uintp(count)):
            total += np.float64(x[at + i]) * np.float64(x[at + i])
    return total


@compiled
def _columns(most, s, line):
    """How many of s columns are copied at a time: in equal pieces, as long as some lines."""
    pieces = -(-s // (most // line * line))
    return -(-s // (pieces * line)) * line
