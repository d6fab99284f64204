"""The leading left singular vectors of a matrix: as many as an allowed error asks for.

Where few of many are sought, the range of a random sketch holds them. What the range misses is then
formed and measured, so that chance decides the cost alone: what cannot be proven to be as good as
an SVD is left to one.

Source of the sketch: N. Halko, P. G. Martinsson, J. A. Tropp, Finding structure with randomness,
SIAM Review 53(2), 2011, algorithm 4.1.
"""

import math
from typing import NamedTuple

import numpy as np

from ttcore.arrays import adjoint, detached, is_complex, namespace, rounding_unit
from ttcore.factorisations import LONG, check_finite, combinations, qr, svd
from ttcore.truncation import choose_rank, noise
from ttcore.typing import Array

WIDTH = 24  # of the first sketch
SHARE = 3  # a sketch is at most this part of the whole SVD
NEGLIGIBLE = 1e-3  # of an error, seen in its square


class Leading(NamedTuple):
    """Orthonormal columns, and what their span misses of the matrix (Frobenius norm)."""

    vectors: Array
    missed: float


def leading(x: Array, budget: float, cap: float, what: str) -> Leading:
    """Fewest left singular vectors of x (m, n) that miss at most ``budget``, but at most ``cap``.

    Parameters
    ----------
    x : (m, n) array
        Of any library and dtype; torch's autograd is not followed.
    budget : float
        What rounding alone puts into the singular values is discarded in any case.
    cap : float
        A whole number, or inf.
    what : str
        Name of the matrix in error messages.

    Raises
    ------
    TTValueError
        If x holds NaN or Inf.
    """
    x = detached(x)
    k = min(x.shape)
    if isinstance(x, np.ndarray) and k > SHARE * WIDTH:
        check_finite(x, what)
        least = noise(k, rounding_unit(x)) * float(np.linalg.norm(x))
        size = WIDTH
        while SHARE * size < k:
            if found := _by_sketch(x, size, max(budget, least), cap):
                return found
            size *= 2
    q = None
    if isinstance(x, np.ndarray) and x.shape[0] >= LONG * k:
        check_finite(x, what)
        q, x = qr(x)
        least = noise(k, rounding_unit(x)) * float(np.linalg.norm(x))
        if k <= cap and _is_above(x, max(budget, least)):
            return Leading(q, 0.0)
    vectors, values, _ = svd(x, what)
    least = noise(k, rounding_unit(x)) * float(namespace(x).linalg.vector_norm(values))
    rank, missed = choose_rank(values, max(budget, least), cap)
    vectors = vectors[:, :rank]
    return Leading(vectors if q is None else q @ vectors, missed)


def _is_above(r: np.ndarray, budget: float) -> bool:
    """Whether all singular values of a triangle surely exceed ``budget``: no SVD is needed then.

    The smallest is the inverse of the inverse's norm, which is at most k times its largest entry.
    """
    try:
        inverse = np.linalg.inv(r)
    except np.linalg.LinAlgError:
        return False
    return bool(2.0 * budget * len(r) * float(np.abs(inverse).max()) < 1.0)


def _by_sketch(x: np.ndarray, size: int, budget: float, cap: float) -> Leading | None:
    """From the range of ``size`` random combinations of the columns; None where that may differ.

    The range q holds all but ``rest`` of x. Singular values of q^H x are not above those of x, so
    that no smaller rank can do where their tail alone exceeds the budget.
    """
    q, _ = qr(x @ combinations(x.shape[1], size, is_complex(x)).astype(x.dtype, copy=False))
    inside = adjoint(q) @ x
    rest = float(np.linalg.norm(x - q @ inside))
    found = within(inside, rest, budget, cap)
    return found and Leading(q @ found.vectors, found.missed)


def within(inside: np.ndarray, rest: float, budget: float, cap: float) -> Leading | None:
    """`leading` of a matrix of which ``inside`` is what lies in a space, and ``rest`` is outside.

    In the coordinates of that space; None where it may hold other vectors than the whole matrix.
    """
    if rest > budget:
        return None
    vectors, values, _ = svd(inside)
    rank, tail = choose_rank(values, math.sqrt(budget**2 - rest**2), cap)
    missed = math.hypot(tail, rest)
    if rank < cap:
        fewer = math.hypot(tail, float(values[rank - 1]))
        certain = rank == 1 or fewer > budget
    else:
        certain = rest <= NEGLIGIBLE * missed
    return Leading(vectors[:, :rank], missed) if certain else None
