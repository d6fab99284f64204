"""Rows of a matrix from tables of their two halves: compiled twin of ``portable.rows``.

The contract is the twin's, for float32 and float64 of NumPy. A row of the result, and the gradient
of a half, is the work of one thread, in one order.
"""

from functools import partial
from typing import Any

import numpy as np

from ttcore.kernels.cpu import halves
from ttcore.kernels.cpu.pool import run_blocks

GRAIN = 10**7  # flops of a block of the pool

Array = np.ndarray[Any, Any]


def products(
    left: Array,
    right: Array,
    first: Array,
    second: Array,
    which: Array,
    workers: int | None = None,
) -> Array:
    """See the twin."""
    zero, left, right = left.dtype.type(0), _plain(left), _plain(right)
    y = np.empty((which.size, left.shape[1] * right.shape[2]), left.dtype)
    order, ends = _grouped(which, first.size)
    block = partial(halves.multiply, zero, left, right, first, second, order, ends, y)
    run_blocks(block, ends.size, _grain(2 * y.size * left.shape[2], ends.size), workers)
    return y


def products_backward(
    left: Array,
    right: Array,
    first: Array,
    second: Array,
    which: Array,
    gy: Array,
    workers: int | None = None,
) -> tuple[Array, Array]:
    """See the twin."""
    zero, left, gy = left.dtype.type(0), _plain(left), _plain(gy)
    gleft, gright = np.zeros_like(left), np.zeros(right.shape, right.dtype)
    first, second = first[which], second[which]
    turned = _plain(right.transpose(0, 2, 1))
    flops = 2 * gy.size * left.shape[2]
    order, ends = _grouped(first, left.shape[0])
    block = partial(halves.left_gradient, zero, turned, second, order, ends, gy, gleft)
    run_blocks(block, ends.size, _grain(flops, ends.size), workers)
    order, ends = _grouped(second, right.shape[0])
    block = partial(halves.right_gradient, zero, left, first, order, ends, gy, gright)
    run_blocks(block, ends.size, _grain(flops, ends.size), workers)
    return gleft, gright


def _grain(flops: int, groups: int) -> int:
    """How many groups make a block of the pool."""
    return max(1, GRAIN * groups // max(flops, 1))


def _grouped(numbers: Array, count: int) -> tuple[Array, Array]:
    """Places sorted by their number, and where those of each number end."""
    order = np.argsort(numbers, kind="stable")
    return order, np.cumsum(np.bincount(numbers, minlength=count))


def _plain(x: Array) -> Array:
    return np.require(x, requirements=["C", "A"])
