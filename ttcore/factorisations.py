"""SVD, QR and eigendecomposition in any array library, LAPACK's failures caught once.

LAPACK's divide-and-conquer SVD sometimes does not converge on finite input, and libraries report it
by different exceptions. Here a matrix with NaN or Inf is refused by name, and a failure is answered
by the next method.
"""

import math
from functools import cache

import numpy as np

from ttcore.arrays import adjoint, detached, host, largest, namespace
from ttcore.errors import TTConvergenceError, TTValueError
from ttcore.typing import Array

# Sizes of which gesdd starts the threads of BLAS, for nothing: they then stay awake for tens of
# milliseconds, in the way of our own. gesvd keeps to one thread there.
ALONE = range(33, 65)
LONG = 4  # times its shorter side, a QR decomposition comes first: LAPACK's own LQ adds noise,
# and its gesvd takes ten times as long for a tall matrix
KEPT = 2**17  # random coefficients that are kept: 1 MiB

# NumPy and SciPy raise LinAlgError; Numba ValueError; torch a subclass of RuntimeError
_FAILURES = (np.linalg.LinAlgError, ValueError, RuntimeError)


def check_finite(x: Array, what: str) -> None:
    """Raise TTValueError, naming the first bad entry, unless all entries are finite."""
    if math.isfinite(largest(x)):
        return
    xp = namespace(x)
    flat = xp.reshape(xp.isfinite(detached(x)), (-1,))
    position = int(np.argmin(host(flat)))
    index = tuple(int(i) for i in np.unravel_index(position, tuple(x.shape)))
    raise not_finite(what, index)


def not_finite(what: str, index: tuple[int, ...]) -> TTValueError:
    """The error that names the first bad entry."""
    return TTValueError(
        f"{what} holds NaN or Inf, the first at {index}; a decomposition needs finite entries: "
        "mend or mask them first"
    )


def svd(x: Array, what: str = "the matrix") -> tuple[Array, Array, Array]:
    """Thin singular value decomposition ``x == (u * s) @ vh``.

    Parameters
    ----------
    x : (m, n) array
        Real or complex floating; any array library.
    what : str
        Name of the matrix in error messages.

    Returns
    -------
    u : (m, k) array
    s : (k,) array
        Descending; k = min(m, n).
    vh : (k, n) array

    Raises
    ------
    TTValueError
        If the matrix holds NaN or Inf.
    TTConvergenceError
        If all three methods fail.

    Notes
    -----
    LAPACK's gesdd, then gesvd, then QR followed by the eigendecomposition of R^H R, whose small
    singular values are accurate
    to sqrt(u) only.
    """
    check_finite(x, what)
    if x.shape[1] >= LONG * x.shape[0] > 0:
        q, r = qr(adjoint(x))
        u, s, wh = svd(adjoint(r), what)
        return u, s, wh @ adjoint(q)
    if x.shape[0] >= LONG * x.shape[1] > 0:
        q, r = qr(x)
        u, s, vh = svd(r, what)
        return q @ u, s, vh
    methods = (_gesdd, _gesvd, _by_eigh) if isinstance(x, np.ndarray) else (_gesdd, _by_eigh)
    if isinstance(x, np.ndarray) and min(x.shape) in ALONE:
        methods = (_gesvd, _gesdd, _by_eigh)
    for method in methods:
        try:
            u, s, vh = method(x)
        except _FAILURES as error:
            failure: Exception = error
            continue
        if math.isfinite(largest(s)):
            return u, s, vh
        failure = ArithmeticError("non-finite singular values")
    raise TTConvergenceError(
        f"the SVD of {what}, shape {tuple(x.shape)}, did not converge: {failure}"
    ) from failure


def _gesdd(x: Array) -> tuple[Array, Array, Array]:
    u, s, vh = namespace(x).linalg.svd(x, full_matrices=False)
    return u, s, vh


def _gesvd(x: Array) -> tuple[Array, Array, Array]:
    from scipy.linalg import svd as scipy_svd  # slow to load, and products need none

    u, s, vh = scipy_svd(x, full_matrices=False, lapack_driver="gesvd")
    return u, s, vh


def _by_eigh(x: Array) -> tuple[Array, Array, Array]:
    if x.shape[0] < x.shape[1]:
        v, s, uh = _by_eigh(adjoint(x))
        return adjoint(uh), s, adjoint(v)
    xp = namespace(x)
    q, r = xp.linalg.qr(x)
    values, w = xp.linalg.eigh(adjoint(r) @ r)
    w = xp.flip(w, axis=-1)
    s = xp.sqrt(xp.clip(xp.flip(values), 0.0, None))
    # r w = u s: its QR gives orthonormal u also where s vanishes
    u, t = xp.linalg.qr(r @ w)
    diagonal = xp.linalg.diagonal(t)
    size = xp.abs(diagonal)
    sign = xp.where(size > 0, diagonal / xp.where(size > 0, size, 1.0), 1.0)
    return q @ (u * sign), s, adjoint(w)


def qr(x: Array) -> tuple[Array, Array]:
    """Thin QR decomposition ``x == q @ r``, q of shape (m, min(m, n))."""
    q, r = namespace(x).linalg.qr(x)
    return q, r


def triangle(x: Array) -> Array:
    """The factor R, (min(m, n), n), of a thin QR; without forming Q where the library can."""
    if isinstance(x, np.ndarray):
        return np.linalg.qr(x, mode="r")
    return namespace(x).linalg.qr(x)[1]


def eigh(x: Array) -> tuple[Array, Array]:
    """Eigenvalues, descending and clipped at 0, and eigenvectors of a Gram matrix."""
    xp = namespace(x)
    values, vectors = xp.linalg.eigh(x)
    return xp.clip(xp.flip(values), 0.0, None), xp.flip(vectors, axis=-1)


def combinations(rows: int, columns: int, complex_: bool) -> np.ndarray:
    """Random coefficients (rows, columns) in double precision, independent and of mean 0.

    The same at each call: so are the bits of results that rest on them.
    """
    count = rows * columns
    found = _numbers(count * (1 + complex_))
    real = found[:count].reshape(rows, columns)
    return real + 1j * found[count:].reshape(rows, columns) if complex_ else real


def _numbers(count: int) -> np.ndarray:
    """The first numbers of one stream. Most calls need so few that they are drawn once only."""
    return _few_numbers()[:count] if count <= KEPT else _drawn(count)


@cache
def _few_numbers() -> np.ndarray:
    return _drawn(KEPT)


def _drawn(count: int) -> np.ndarray:
    numbers = np.random.default_rng(0).random(count) - 0.5  # a third of the time of normal ones
    numbers.flags.writeable = False
    return numbers
