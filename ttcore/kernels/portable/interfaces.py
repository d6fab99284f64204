"""Interfaces: the small matrices that an inner product of two trains carries from core to core.

    P' = sum_i G(i)^H P H(i)

Caller: ``algebra.inner``.
"""

from ttcore.arrays import conj, namespace
from ttcore.typing import Array


def advance(interface: Array, g: Array, h: Array) -> Array:
    """The interface behind one more pair of cores.

    Contract
        interface  (r, s), g (r, n, r'), h (s, n, s') of one dtype
        result     (r', s')
    Cost: n (r s s' + r r' s') multiply-adds.
    """
    xp = namespace(g)
    (r, n, t), (s, _, u) = g.shape, h.shape
    half = xp.reshape(interface @ xp.reshape(h, (s, n * u)), (r * n, u))
    return conj(xp.reshape(g, (r * n, t))).T @ half
