r"""The derivative of a train in the direction of other cores, as a train.

.. math:: \frac{d}{dt} \prod_k (G_k + t V_k) = \sum_k G_1 \cdots V_k \cdots G_d

is a train of twice the ranks. Its products with vectors, and their gradients, are all that higher
derivatives of a layer need.

Source: S. Holtz, T. Rohwedder, R. Schneider, On manifolds of tensors of fixed TT-rank, Numer. Math.
120, 2012, for the form of the cores.
"""

from collections.abc import Sequence

from ttcore.arrays import namespace
from ttcore.typing import Array, Cores


def tangent(cores: Cores, directions: Cores) -> Cores:
    r"""Cores of the derivative of ``cores`` in the direction of ``directions``.

    Core k is :math:`[[G, V], [0, G]]` in its ranks, the first one its upper row, the last its right
    column.

    Parameters
    ----------
    cores, directions : tuples of d arrays (r, m, n, r')
        Of equal shapes.

    Returns
    -------
    tuple of d arrays (2 r, m, n, 2 r')
        The outer ranks are 1.

    Examples
    --------
    >>> import numpy as np
    >>> from ttcore.layers.tangent import tangent
    >>> g, v = np.full((1, 1, 1, 1), 3.0), np.full((1, 1, 1, 1), 1.0)
    >>> first, last = tangent((g, g), (v, v))  # d/dt (3 + t)^2 = 6 at t = 0
    >>> (first[0, 0, 0] @ last[:, 0, 0, 0]).item()
    6.0
    """
    xp = namespace(*cores)
    found = []
    last = len(cores) - 1
    for k, (g, v) in enumerate(zip(cores, directions, strict=True)):
        if last == 0:
            return (v,)
        upper = xp.concat((v, g), axis=0) if k == last else xp.concat((g, v), axis=3)
        if 0 < k < last:
            lower = xp.concat((xp.zeros_like(g), g), axis=3)
            upper = xp.concat((upper, lower), axis=0)
        found.append(upper)
    return tuple(found)


def tangent_gradients(gradients: Sequence[Array], cores: Cores) -> Cores:
    """Gradients for ``cores`` from those for ``tangent(cores, directions)``."""
    last = len(cores) - 1
    found = []
    for k, (gradient, core) in enumerate(zip(gradients, cores, strict=True)):
        r, _, _, s = core.shape
        if last == 0:
            return (namespace(core).zeros_like(core),)
        if k == 0:
            found.append(gradient[..., :s])
        elif k == last:
            found.append(gradient[r:, ...])
        else:
            found.append(gradient[:r, ..., :s] + gradient[r:, ..., s:])
    return tuple(found)
