"""Ranks above what the modes can use, removed without truncating: on cores (r, n, r')."""

from ttcore.arrays import default_device_like, namespace
from ttcore.orthogonal import reversed_cores
from ttcore.typing import Array, Cores


def clipped(cores: Cores) -> Cores:
    r"""The same train with ranks of at most the sizes of both sides of each bond.

    A core whose left unfolding (r n, r') is wide is absorbed into its right neighbour, and a unit
    core takes its place; from the other end likewise. Other cores stay as they are. Exact up to the
    rounding of one product for each such bond.

    Examples
    --------
    >>> import numpy as np
    >>> from ttcore.layers.clipping import clipped
    >>> cores = clipped((np.ones((1, 2, 5)), np.ones((5, 3, 9)), np.ones((9, 4, 1))))
    >>> [core.shape for core in cores]
    [(1, 2, 2), (2, 3, 4), (4, 4, 1)]
    """
    return reversed_cores(_from_the_left(reversed_cores(_from_the_left(cores))))


def _from_the_left(cores: Cores) -> Cores:
    xp = namespace(*cores)
    found: list[Array] = list(cores)
    for k in range(len(found) - 1):
        r, n, s = found[k].shape
        if r * n >= s:
            continue
        rows, (_, m, t) = xp.reshape(found[k], (r * n, s)), found[k + 1].shape
        unit = xp.eye(r * n, dtype=rows.dtype, **default_device_like(rows))
        found[k] = xp.reshape(unit, (r, n, r * n))
        found[k + 1] = xp.reshape(rows @ xp.reshape(found[k + 1], (s, m * t)), (r * n, m, t))
    return tuple(found)
