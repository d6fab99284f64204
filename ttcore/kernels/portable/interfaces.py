"""Interfaces: the small matrices that an inner product of two trains carries from core to core.

    P' = sum_i G(i)^H P H(i)

Caller: ``algebra.inner``.
"""

from ttcore.arrays import conj, namespace
from ttcore.typing import Array


def advance(interface: Array, g: Array, h: Array) -> tuple[Array, Array | None]:
    """The interface behind one more pair of cores; the sums of both's squares, where known.

    Contract
        interface  (r, s), g (r, n, r'), h (s, n, s') of one dtype
        results    (r', s'); (2,) in double precision, or None
    Cost: n (r s s' + r r' s') multiply-adds.
    """
    xp = namespace(g)
    (r, n, t), (s, _, u) = g.shape, h.shape
    half = xp.reshape(interface @ xp.reshape(h, (s, n * u)), (r * n, u))
    return conj(xp.reshape(g, (r * n, t))).T @ half, None
