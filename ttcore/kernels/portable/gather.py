"""Entries of a TT-tensor at a batch of multi-indices.

    y[b] = G_0[:, i_b0, :] @ G_1[:, i_b1, :] @ ... @ G_{d-1}[:, i_b{d-1}, :]        (1 x 1)

Rows that share a digit are multiplied together: a block of rows is sorted by the digit of each mode
in turn, which makes large products of small ones. Caller: ``indexing.gather``.
"""

import numpy as np

from ttcore.arrays import default_device_like, namespace
from ttcore.typing import Array, Cores

ROWS = 2**14


def gather(cores: Cores, index: np.ndarray) -> Array:
    """The entries at ``index``.

    Contract
        cores   (r, n, r') each, of any library
        index   (B, d) intp, NumPy; 0 <= index[:, k] < n_k, not checked; B >= 0
        result  (B,)
    Cost: B sum_k r_k r_{k+1} multiply-adds.
    """
    xp = namespace(*cores)
    place = default_device_like(cores[0])
    parts = [xp.zeros((0,), dtype=cores[0].dtype, **place)]
    for first in range(0, index.shape[0], ROWS):
        block = index[first : first + ROWS]
        rows = xp.ones((block.shape[0], 1), dtype=cores[0].dtype, **place)
        where = np.arange(block.shape[0])  # row b of ``rows`` belongs to entry where[b]
        for k, core in enumerate(cores):
            digits = block[where, k]
            order = np.argsort(digits, kind="stable")
            where, digits = where[order], digits[order]
            rows = xp.take(rows, xp.asarray(order, **place), axis=0)
            starts = np.flatnonzero(np.diff(digits, prepend=-1))
            ends = np.append(starts[1:], digits.size)
            rows = xp.concat(
                [
                    rows[int(a) : int(b), :] @ core[:, int(digits[a]), :]
                    for a, b in zip(starts, ends, strict=True)
                ],
                axis=0,
            )
        back = np.argsort(where, kind="stable")
        parts.append(xp.take(rows[:, 0], xp.asarray(back, **place), axis=0))
    return xp.concat(parts, axis=0)
