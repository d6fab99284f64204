"""Rows of a matrix from tables of their two halves, and gradients.

    y[b] = left[first[u]] @ right[second[u]],    u = which[b]        (P, r) @ (r, Q), flattened

Row b of the result is one of the distinct rows u. Caller: ``ttcore.rows``.
"""

from typing import Any

import numpy as np

from ttcore.arrays import adjoint, default_device_like, namespace
from ttcore.typing import Array

CHUNK_BYTES = 2**22  # halves of one chunk of rows stay within the cache

Numbers = np.ndarray[Any, np.dtype[np.intp]]


def products(
    left: Array,
    right: Array,
    first: Numbers,
    second: Numbers,
    which: Numbers,
    workers: int | None = None,
) -> Array:
    """The rows.

    Contract
        left, right    (U_l, P, r), (U_r, r, Q) of one dtype, of any library
        first, second  (U,) intp, NumPy: halves of the distinct rows
        which          (B,) intp, NumPy: every u < U at least once
        workers        threads; the products of an array library use its own
        result         (B, P Q)
    """
    xp = namespace(left, right)
    length = left.shape[1] * right.shape[2]
    if not isinstance(left, np.ndarray):
        return taken(_rows(left, right, first, second), which)
    y = np.empty((which.size, length), left.dtype)
    order = np.argsort(which, kind="stable")
    ends = np.cumsum(np.bincount(which, minlength=first.size))
    each = left.shape[2] * (left.shape[1] + right.shape[2]) + length
    step = max(1, CHUNK_BYTES // (each * left.dtype.itemsize))
    for u in range(0, first.size, step):
        part = slice(u, u + step)
        begin, end = (ends[u - 1] if u else 0), ends[part][-1]
        rows = _rows(left, right, first[part], second[part])
        y[order[begin:end]] = xp.take(rows, xp.asarray(which[order[begin:end]] - u), axis=0)
    return y


def products_backward(
    left: Array,
    right: Array,
    first: Numbers,
    second: Numbers,
    which: Numbers,
    gy: Array,
    workers: int | None = None,
) -> tuple[Array, Array]:
    """Gradients of both tables.

    Contract
        gy      (B, P Q), dtype of the tables
        result  like left and right; conjugated as torch does
    """
    xp = namespace(gy)
    g = xp.reshape(summed(gy, which, first.size), (first.size, left.shape[1], right.shape[2]))
    gleft = g @ adjoint(taken(right, second))
    gright = adjoint(taken(left, first)) @ g
    return summed(gleft, first, left.shape[0]), summed(gright, second, right.shape[0])


def _rows(left: Array, right: Array, first: Numbers, second: Numbers) -> Array:
    product = taken(left, first) @ taken(right, second)
    return namespace(product).reshape(product, (first.size, left.shape[1] * right.shape[2]))


def taken(x: Array, numbers: Numbers) -> Array:
    """``x[numbers]``, in any library."""
    xp = namespace(x)
    return xp.take(x, xp.asarray(numbers, **default_device_like(x)), axis=0)


def summed(x: Array, groups: Numbers, count: int) -> Array:
    """Sums of those ``x[i]`` that have one number ``groups[i]`` < count; zeros where there is none.

    Neighbours in pairs, then the pairs in pairs: no library's scattered additions, and one order.
    """
    xp = namespace(x)
    zero = xp.zeros((1, *x.shape[1:]), dtype=x.dtype, **default_device_like(x))
    if (np.diff(groups) < 0).any():
        order = np.argsort(groups, kind="stable")
        x, groups = taken(x, order), groups[order]
    while True:
        places = np.arange(groups.size) - np.searchsorted(groups, groups)  # within the group
        if not places.any():
            break
        evens = np.flatnonzero(places % 2 == 0)
        follows = np.append(places, 0)[evens + 1] > 0  # the next one is of the same group
        partners = np.where(follows, evens + 1, groups.size)
        x = taken(x, evens) + taken(xp.concat([x, zero], axis=0), partners)
        groups = groups[evens]
    if groups.size == count:
        return x
    where = np.full(count, groups.size)
    where[groups] = np.arange(groups.size)
    return taken(xp.concat([x, zero], axis=0), where)
