"""Supercores: neighbouring cores as one, as the matrix of a stage, and their gradients."""

import math
from collections.abc import Sequence
from functools import reduce
from itertools import accumulate

from ttcore.arrays import adjoint, namespace, reshaped
from ttcore.typing import Array

AXES = {0: (0, 1, 2, 3), 1: (1, 3, 0, 2), 2: (1, 0, 2, 3)}  # of (r, m, n, r'), by form
_INVERSE = {0: (0, 1, 2, 3), 1: (2, 0, 3, 1), 2: (1, 0, 2, 3)}


def merge(cores: Sequence[Array]) -> Array:
    """Neighbouring cores as one supercore (r, m_1 m_2 ..., n_1 n_2 ..., r')."""
    return reduce(_merge_two, cores)


def _merge_two(g: Array, h: Array) -> Array:
    xp = namespace(g, h)
    r, m, n, s = g.shape
    _, p, q, t = h.shape
    product = reshaped(
        reshaped(g, (r * m * n, s)) @ reshaped(h, (s, p * q * t)), (r, m, n, p, q, t)
    )
    return reshaped(xp.permute_dims(product, (0, 1, 3, 2, 4, 5)), (r, m * p, n * q, t))


def split_gradient(cores: Sequence[Array], gradient: Array, form: int) -> list[Array]:
    """Gradients of the cores whose supercore, as a matrix of this form, has the given gradient."""
    lefts = list(accumulate(cores[:-1], _merge_two))
    r, t = cores[0].shape[0], cores[-1].shape[3]
    shape = (r, math.prod(g.shape[1] for g in cores), math.prod(g.shape[2] for g in cores), t)
    g = reshaped(gradient, tuple([shape[axis] for axis in AXES[form]]))
    if form != 0:  # else the axes are in order
        g = namespace(g).permute_dims(g, _INVERSE[form])
    found: list[Array] = []
    for left, core in zip(reversed(lefts), reversed(cores[1:]), strict=True):
        g, right = _merge_two_backward(left, core, g)
        found.insert(0, right)
    return [g, *found]


def _merge_two_backward(g: Array, h: Array, gradient: Array) -> tuple[Array, Array]:
    xp = namespace(g, h)
    r, m, n, s = g.shape
    _, p, q, t = h.shape
    x = xp.permute_dims(reshaped(gradient, (r, m, p, n, q, t)), (0, 1, 3, 2, 4, 5))
    x = reshaped(x, (r * m * n, p * q * t))
    left = x @ adjoint(reshaped(h, (s, p * q * t)))
    right = adjoint(reshaped(g, (r * m * n, s))) @ x
    return reshaped(left, g.shape), reshaped(right, h.shape)
