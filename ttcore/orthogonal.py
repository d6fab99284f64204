"""Orthogonalisation and norms of trains, on three-way cores (r, n, r').

Source: I. V. Oseledets, Tensor-Train Decomposition, SIAM J. Sci. Comput. 33(5), 2295-2317, 2011.
"""

from collections.abc import Sequence
from typing import NamedTuple

from ttcore.arrays import (
    adjoint,
    conj,
    copied,
    default_device_like,
    detached,
    largest,
    namespace,
)
from ttcore.factorisations import qr, svd, triangle
from ttcore.scaling import absorb, unit, unit_cores
from ttcore.typing import Array, Cores


class Norm(NamedTuple):
    """``value * 2**exponent``: a norm that may lie beyond the range of a float."""

    value: float
    exponent: int


def norm(cores: Cores, center: int | None = None) -> Norm:
    """Frobenius norm, by orthogonalisation: accurate to u times the size of the representation.

    Parameters
    ----------
    cores : tuple of arrays (r, n, r')
    center : int, optional
        The orthogonality centre where one is known: then its core alone is read.
    """
    pairs = [unit(core) for core in (cores if center is None else cores[center : center + 1])]
    exponent = sum(shift for _, shift in pairs)
    if center is not None:
        core = pairs[0][0]
        return Norm(float(namespace(core).linalg.vector_norm(detached(core))), exponent)
    root, shift = right_factors([detached(core) for core, _ in pairs], stop=0)[0]
    return Norm(largest(root), exponent + shift)


def right_factors(cores: Sequence[Array], *, stop: int = 1) -> dict[int, tuple[Array, int]]:
    """For each bond k >= stop, left of core k.

    (R, e), such that 2**e R has the Gram matrix of the rows right of it.

    Bond d, right of everything, has R = 1.
    """
    xp = namespace(*cores)
    d = len(cores)
    place = {"dtype": cores[0].dtype, **default_device_like(cores[0])}
    found = {d: (xp.eye(1, **place), 0)}
    for k in range(d - 1, stop - 1, -1):
        r, n, s = cores[k].shape
        right, exponent = found[k + 1]
        rows = xp.reshape(cores[k], (r * n, s)) @ adjoint(right)
        small, shift = unit(triangle(adjoint(xp.reshape(rows, (r, n * right.shape[0])))))
        found[k] = small, exponent + shift
    return found


def times_left(t: Array, core: Array) -> Array:
    """Matrix t (q, r) times a core (r, n, r'): (q, n, r')."""
    xp = namespace(core)
    r, n, s = core.shape
    return xp.reshape(t @ xp.reshape(core, (r, n * s)), (t.shape[0], n, s))


def times_right(core: Array, t: Array) -> Array:
    """A core (r, n, r') times a matrix t (r', q): (r, n, q)."""
    xp = namespace(core)
    r, n, s = core.shape
    return xp.reshape(xp.reshape(core, (r * n, s)) @ t, (r, n, t.shape[1]))


def orthogonalize(cores: Cores, center: int) -> tuple[Cores, int | None]:
    """The same train, left-orthogonal before core ``center`` and right-orthogonal after it.

    Returns the cores and the centre, or None for it where the norm is too far out of range for one
    core. Ranks shrink to what the modes can use. Cost O(d n r^3).
    """
    work, exponent = orthogonal_cores(cores, center)
    return absorb(work, exponent, center)


def orthogonal_cores(cores: Cores, center: int) -> tuple[list[Array], int]:
    """As `orthogonalize`, with the core ``center`` of unit size and the exponent apart."""
    xp = namespace(*cores)
    work, exponent = unit_cores(cores)
    if len(work) == 1:  # no factorisation makes this core ours
        work = [copied(work[0])]
    for k in range(center):
        r, n, s = work[k].shape
        q, t = qr(xp.reshape(work[k], (r * n, s)))
        work[k] = xp.reshape(q, (r, n, q.shape[1]))
        work[k + 1], shift = unit(times_left(t, work[k + 1]))
        exponent += shift
    for k in range(len(work) - 1, center, -1):
        r, n, s = work[k].shape
        q, t = qr(adjoint(xp.reshape(work[k], (r, n * s))))
        work[k] = xp.reshape(adjoint(q), (q.shape[1], n, s))
        work[k - 1], shift = unit(times_right(work[k - 1], adjoint(t)))
        exponent += shift
    return work, exponent


def passing_core(rank: int, like: Array) -> Array:
    """The core (rank, 1, rank) that a mode of 1 has between two others."""
    xp = namespace(like)
    eye = xp.eye(rank, dtype=like.dtype, **default_device_like(like))
    return xp.reshape(eye, (rank, 1, rank))


def spectra(cores: Cores) -> tuple[Array, ...]:
    r"""Singular values of every unfolding, relative to the norm, without building one.

    Parameters
    ----------
    cores : tuple of d arrays (r, n, r')
        Of any array library; torch's autograd is not followed.

    Returns
    -------
    tuple of d - 1 arrays
        Entry k - 1 belongs to bond k, left of core k: at most ``r`` values, descending, real; their
        squares sum to 1, or are all zero for a train of zeros.

    Raises
    ------
    TTValueError
        If a core holds NaN or Inf.

    Notes
    -----
    The unfolding at bond k is :math:`Q_1 L_k R_k^H Q_2^H`, the Qs having orthonormal columns:
    its singular values are those of the small matrix :math:`L_k R_k^H`. Two sweeps of QR without Q
    find all :math:`R_k` from the right and all :math:`L_k` from the left. Both are kept at unit
    size, so nothing overflows. The error is of order u times the size of the representation, which
    is more than u times the norm where terms cancel. Cost O(d n r^3).

    Examples
    --------
    >>> import ttcore as tt
    >>> from ttcore.orthogonal import spectra
    >>> x = tt.ones((4, 4, 4))
    >>> [len(s) for s in spectra((x + x).cores)]  # rank 1, written with ranks of 2
    [2, 2]
    """
    scaled = [detached(core) for core in unit_cores(cores)[0]]
    right = right_factors(scaled)
    left = right_factors(reversed_cores(scaled))
    found = []
    for k in range(1, len(cores)):
        # reversing the train transposes its unfoldings: the left factor is conjugated once more
        product = conj(left[len(cores) - k][0]) @ adjoint(right[k][0])
        values = svd(unit(product)[0], f"the unfolding at bond {k}")[1]
        size = float(namespace(values).linalg.vector_norm(values))
        found.append(values / size if size else values)
    return tuple(found)


def reversed_cores(cores: Sequence[Array]) -> Cores:
    """The train with its modes in the opposite order."""
    xp = namespace(*cores)
    return tuple(xp.permute_dims(core, (2, 1, 0)) for core in reversed(cores))
