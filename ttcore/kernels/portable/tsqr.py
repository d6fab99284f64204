r"""A small R with R^H R = A^H A for a tall matrix A, read in blocks of rows and never copied.

One Gram matrix sees singular values down to :math:`\sqrt u\,\|A\|`. A second one, of A V in the
eigenbasis V of the first, sees down to :math:`u\,\|A\|`: the columns of A V are graded and nearly
orthogonal, every entry of a computed Gram matrix is accurate to :math:`u\,\|b_i\|\,\|b_j\|`, and
eliminating the large columns first keeps the errors of the small ones small.

Callers: ``decompose``, ``rounding``. Oracle: Householder QR. Source of the idea that a graded Gram
matrix keeps relative accuracy: J. Demmel and K. Veselić, Jacobi's method is more accurate than QR,
SIAM J. Matrix Anal. Appl. 13(4), 1992.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ttcore.arrays import adjoint, detached, host, in_double, is_complex, namespace, rounding_unit
from ttcore.factorisations import eigh, svd, triangle
from ttcore.kernels.portable.products import rows_product, rows_times
from ttcore.typing import Array

BLOCK_BYTES = 2**21
GAP = 30.0  # between what a basis keeps and what it misses, for that it is tried
NARROW = 64  # columns up to which a sample is cheap beside any pass
SAMPLES, SAMPLED = 2, 64  # rows of a sample: so many for each column, and at least so many


def blocks(a: Array) -> list[tuple[int, int]]:
    """First and last row of each block, fixed by the shape alone."""
    size = 16 if is_complex(a) else 8
    step = max(64, BLOCK_BYTES // (size * int(a.shape[1])))
    return [(first, min(first + step, a.shape[0])) for first in range(0, a.shape[0], step)]


def scaled_block(a: Array, first: int, last: int, scale: float) -> Array:
    """Rows first..last-1 in double precision times ``scale``.

    Sums over many rows of float32 data then lose nothing.
    """
    block = in_double(a[first:last, :])
    return block if scale == 1.0 else block * scale


def gram(a: Array, *, scale: float = 1.0, basis: Array | None = None) -> Array:
    """``B^H B`` for ``B = scale * a``, or ``B = scale * a @ basis``.

    Contract
        a      (N, m)  any of the four dtypes, any strides
        basis  (m, k)  double precision
        result (m, m) or (k, k), double precision. Cost: N m^2 multiply-adds (and N m k).
    """
    total = None
    for first, last in blocks(a):
        block = scaled_block(a, first, last, scale)
        if basis is not None:
            block = rows_times(block, basis)
        part = rows_product(block, block) if is_complex(block) else block.T @ block
        total = part if total is None else total + part
    return total


def sampled_rows(a: np.ndarray[Any, Any], tolerance: float) -> Array | None:
    """Orthogonal rows (r, m), double precision, that stand for some of the rows of a.

    Contract
        a          (N, m) NumPy array
        tolerance  relative norm of what the result may miss of the sampled rows
        result     singular values, relative to the norm of all, times right singular vectors.
                   None where r would exceed half of m, where the singular values show no gap at
                   the tolerance, or where the rows are not finite or vanish
    The rows are drawn by a fixed rule, so that equal arrays have equal samples. Whether they stand
    for the others is not known from them alone: `deflate` tells.
    """
    n, m = a.shape
    if GAP * tolerance >= 1.0 or (m > NARROW and n < 32 * m):
        return None  # no gap can show; or the sample costs more than it saves
    generator = np.random.default_rng(n)
    rows = a[np.sort(generator.integers(0, n, max(SAMPLED, SAMPLES * m))), :]
    if m > NARROW:  # an SVD of all of them takes longer than a pass: random combinations do
        rows = generator.standard_normal((NARROW, len(rows))) @ rows
    found = row_space(rows)
    if found is None:
        return None
    tails, rows = found
    rank, sure = (int(np.sum(tails > x * tolerance)) for x in (1.0, GAP))
    return rows[:rank] if rank == sure and 2 * rank <= min(m, NARROW) else None


def row_space(rows: np.ndarray[Any, Any]) -> tuple[Array, Array] | None:
    """``(tails, s vh)`` of an SVD, relative to the norm: what the first 0, 1, 2, ... rows miss.

    None where the rows are not finite or vanish.
    """
    rows = in_double(rows)
    size = float(np.abs(rows).max())
    if not 0.0 < size < math.inf:
        return None
    _, s, vh = svd(triangle(rows / size), "the sampled rows")
    tails = np.sqrt(np.cumsum(s[::-1] ** 2))[::-1]
    return tails / tails[0], s[:, None] / tails[0] * vh


def plain_gram_floor(m: int, unit: float) -> float:
    """The smallest tail of singular values, relative to ‖A‖, that one Gram matrix measures well."""
    return 3.0 * math.sqrt(m * unit)


def r_factor(
    a: Array, g: Array, *, fine: bool, scale: float = 1.0, again: Callable[..., Array] | None = None
) -> Array:
    r"""R of shape (m, m), double precision, with :math:`R^H R = s^2 A^H A`.

    Contract
        a      (N, m)  any strides; N >= 1
        g      (m, m)  ``gram(a, scale=scale)``, finite
        fine   whether tails of singular values below ``plain_gram_floor`` matter: then A is read
        once more
        scale  the power of two that g was made with
        again  ``gram`` of the backend that reads A once more
    Backward error: with ``fine`` a modest multiple of :math:`u\,\|A\|_F`. Cost: with ``fine`` 2 N
    m^2 multiply-adds.
    """
    xp = namespace(g)
    values, vectors = eigh(g)
    if not fine:
        return xp.sqrt(values)[:, None] * adjoint(vectors)
    second = (again or gram)(a, scale=scale, basis=vectors)
    return graded_root(second) @ adjoint(vectors)


def householder(a: Array, *, scale: float = 1.0, start: Array | None = None) -> Array:
    """The same R by Householder QR, block after block: beyond doubt.

    Contract
        a      (N, m)  any strides; N >= 1
        start  (k, m)  rows above those of ``scale * a``, which a call before returned
        scale  such that squares of ``scale * a`` are in range
    By LAPACK it takes ten times as long as `r_factor`; the compiled twin takes half.
    """
    xp = namespace(a)
    found = start
    for first, last in blocks(a):
        block = scaled_block(a, first, last, scale)
        found = triangle(block if found is None else xp.concat([found, block], axis=0))
    return found


def is_graded(g: Array) -> bool:
    """Whether g is the Gram matrix of nearly orthogonal columns, as `graded_root` needs."""
    norms = np.sqrt(np.abs(np.diagonal(g)))
    if not norms.size or norms.min() == 0.0:
        return False
    return bool(np.linalg.eigvalsh(g / norms[:, None] / norms[None, :])[0] > 0.05)


def graded_root(g: Array) -> Array:
    """R with R^H R = g.

    g is the Gram matrix of graded, nearly orthogonal columns in descending order.
    """
    xp = namespace(g)
    threshold = 8.0 * math.sqrt(g.shape[0] * rounding_unit(g))
    norms = xp.sqrt(xp.abs(xp.linalg.diagonal(g)))
    sizes = host(norms)
    small = np.flatnonzero(sizes < threshold * sizes.max())
    if small.size == 0:
        return _scaled_root(g, norms)[0]
    large = int(small[0])
    root, inverse = _scaled_root(g[:large, :large], norms[:large])
    coupling = inverse @ g[:large, large:]
    rest = g[large:, large:] - adjoint(coupling) @ coupling
    low, _ = _scaled_root(rest, norms[large:])
    zeros = xp.zeros_like(g[large:, :large])
    upper = xp.concat([root, coupling], axis=1)
    return xp.concat([upper, xp.concat([zeros, low], axis=1)], axis=0)


def _scaled_root(g: Array, norms: Array) -> tuple[Array, Array]:
    """(R, R^-H) with R^H R = g, by the eigendecomposition of g scaled to a unit diagonal."""
    xp = namespace(g)
    divisors = xp.where(norms > 0, norms, xp.ones_like(norms))
    values, vectors = eigh(g / divisors[:, None] / divisors[None, :])
    root = xp.sqrt(values)
    safe = xp.where(root > 0, root, xp.ones_like(root))
    half = adjoint(vectors)
    return root[:, None] * half * norms[None, :], half / divisors[None, :] / safe[:, None]


def project(a: Array, basis: Array, *, scale: float = 1.0) -> tuple[Array, float]:
    r"""``(Z, e)``.

    Z = s A V and the Frobenius norm e of the residual s A − Z V^H, both in one pass.

    Contract
        a      (N, m)   any strides
        basis  (m, r)   orthonormal columns, dtype of ``a``
        Z      (N, r)   dtype of ``a``
    The residual is formed entry by entry in cache, so e is a certificate: it does not suffer from
    the cancellation of
    :math:`\|A\|^2 - \|Z\|^2`. Cost: 2 N m r multiply-adds.
    """
    shape = (a.shape[0], basis.shape[1])
    out = np.empty(shape, a.dtype) if isinstance(a, np.ndarray) else None
    parts, square = [], 0.0
    back = adjoint(basis)
    for first, last in blocks(a):
        block = a[first:last, :]
        if scale != 1.0:
            block = block * scale
        part = rows_times(block, basis, None if out is None else out[first:last])
        residual = rows_times(part, back)
        residual -= block
        square += _square(residual)
        parts.append(part)
    return namespace(a).concat(parts, axis=0) if out is None else out, math.sqrt(square)


def deflate(a: Array, basis: Array, *, scale: float = 1.0) -> tuple[Array, Array, float]:
    r"""``(Z, G, e)``: `project`, and G = Z^H Z in double precision, in the same pass.

    Contract
        a, basis, scale  as `project`
        G      (r, r)
    Where V catches nearly all of A, one pass is enough for a decomposition, and e proves it.
    """
    z, error = project(a, basis, scale=scale)
    return z, gram(z), error


def _square(x: Array) -> float:
    """Sum of the squared moduli, row by row: for one long vector BLAS would start threads."""
    if isinstance(x, np.ndarray):
        return float(np.sum(np.vecdot(x, x).real, dtype=np.float64))
    xp = namespace(x)
    x = in_double(detached(x))
    return float(xp.sum(xp.real(x) ** 2 + xp.imag(x) ** 2) if is_complex(x) else xp.sum(x * x))
