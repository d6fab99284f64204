"""Interfaces: the small matrices that an inner product of two trains carries from core to core.

    P' = sum_i G(i)^H P H(i)

and, from the right and of a train with itself, where a factor W of P = W W^H is known,

    P' = sum_i G(i) W (G(i) W)^H

Callers: ``algebra.inner``; ``rowspace.factor_of_product``.
"""

from typing import Any

import numpy as np

from ttcore.arrays import adjoint, conj, in_double, namespace
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


def gram(core: np.ndarray[Any, Any], w: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The Gram matrix of the rows of ``core @ w``, which are not formed.

    Contract
        core    (r, n, s) and w (s, p): of NumPy, real or complex
        result  (r, r), in double precision
    Cost: n r s p multiply-adds for the product, n r^2 p / 2 for the Gram matrix.
    """
    found = np.zeros((len(core),) * 2, np.result_type(core, np.float64))
    for i in range(core.shape[1]):  # a slice and its product stay in cache
        rows = in_double(core[:, i, :] @ w)
        found += rows @ adjoint(rows)
    return found
