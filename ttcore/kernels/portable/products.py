"""Products with a tall matrix, as stacks of small ones.

BLAS splits a product among threads from a certain size on. For a tall matrix in cache-sized
blocks that gains little, and costs milliseconds whenever another process has one of the cores.
NumPy runs a stack of small products in one C loop, each on the caller's thread.
"""

import numpy as np

from ttcore.arrays import adjoint
from ttcore.typing import Array

SMALL = 2**18  # multiply-adds up to which OpenBLAS keeps a product on one thread


def _stack(x: Array, work: int) -> tuple[Array, int] | None:
    """``(stack, rows)``: the first rows of x as a stack (c, p, m) with p * work <= SMALL.

    None for arrays that are not NumPy's, not contiguous, or too short to be split.
    """
    if not (isinstance(x, np.ndarray) and x.flags.c_contiguous):
        return None
    p = max(SMALL // work, 16)
    c = x.shape[0] // p
    return (x[: c * p].reshape(c, p, x.shape[1]), c * p) if c > 1 else None


def rows_times(x: Array, a: Array, out: Array = None) -> Array:
    """``x @ a`` for x (N, m) and a small a (m, k); into ``out``, C-ordered, in NumPy."""
    found = _stack(x, a.shape[0] * a.shape[1])
    if found is None:
        return x @ a if out is None else np.matmul(x, a, out=out)
    stack, done = found
    if out is None:
        out = np.empty((x.shape[0], a.shape[1]), np.result_type(x, a))
    a = np.ascontiguousarray(a)
    np.matmul(stack, a, out=out[:done].reshape(*stack.shape[:2], a.shape[1]))
    if done < x.shape[0]:
        np.matmul(x[done:], a, out=out[done:])
    return out


def rows_product(x: Array, y: Array) -> Array:
    """``x^H @ y`` for x (N, m) and y (N, k), both narrow."""
    work = x.shape[1] * y.shape[1]
    left, right = _stack(x, work), _stack(y, work)
    if left is None or right is None:
        return adjoint(x) @ y
    done = left[1]
    total = np.sum(adjoint(left[0]) @ right[0], axis=0)
    return total + adjoint(x[done:]) @ y[done:]
