r"""What a truncation needs of a wide matrix C: a factor W with :math:`W W^H = C C^H`, and no more.

``‖v^H W‖ = ‖v^H C‖`` for every v: W measures whatever is multiplied to C from the left. It has one
column for each direction that the rows of C really span, so that redundant rows cost nothing later.

Rows are orthogonalised in rounds. A round takes the rows that a pivoted Cholesky decomposition of
their scaled Gram matrix finds independent to ``DEPTH``, makes them orthonormal, and subtracts what
they explain from the others; the next round sees the remainders on their own scale. One Gram matrix
alone would be blind below :math:`\sqrt u`; here each one is asked for three digits only, which it
has to a relative accuracy of about :math:`m u / \mathrm{DEPTH}^2`. Rows are dropped where less is
left of them than Householder's method leaves in noise: u times the row's own norm.

Where far fewer directions than rows are expected, a QR decomposition with pivoting, of a few random
combinations of the columns, finds rows that span the others. What these have outside of that span
is formed and measured, and where it is more than noise the rounds begin.

Source of the scaling argument (errors of a Cholesky decomposition scale with the rows): J. Demmel,
On floating point errors in Cholesky, LAPACK Working Note 14, 1989.
"""

from typing import Any, NamedTuple

import numpy as np

from ttcore.arrays import (
    adjoint,
    astype,
    dtype_name,
    in_double,
    namespace,
    rounding_unit,
)
from ttcore.factorisations import combinations, qr, triangle
from ttcore.kernels import dispatch
from ttcore.kernels.portable.products import rows_times
from ttcore.truncation import noise
from ttcore.typing import Array

FEW = 32  # rows up to which LAPACK's QR is the quicker way
DEPTH = 1e-3  # how far one Cholesky decomposition is trusted
SMALLEST = 2.0**-300  # norm of a row that has not vanished
LARGEST = 2.0**300  # norm of a row whose square is in range
SPARE = 8  # random columns beyond the directions expected, of which there are
FEWER = 3  # times fewer than rows


class Few(NamedTuple):
    """W (m, k), and the matrix V (k, n) of orthonormal rows that makes C = W V."""

    w: np.ndarray
    basis: np.ndarray


def of_few(c: Array, expected: int) -> Few | None:
    """W and V where C has few columns, or few rows that span it: to rounding of each row of C.

    Parameters
    ----------
    c : (m, n) array
        As for `factor`.
    expected : int
        How many directions the rows may span.

    Returns
    -------
    Few or None
        None where ``expected`` is not much less than m, where a few more do not suffice, and for
        arrays that are not NumPy's.

    Notes
    -----
    Cost 6 m n k multiply-adds.
    """
    if not isinstance(c, np.ndarray):
        return None
    m, n = c.shape
    if n <= m:
        return Few(c, np.eye(n, dtype=c.dtype))
    if FEWER * (expected + SPARE) > m:
        return None
    rows, floor = in_double(c), noise(m, rounding_unit(c))
    sizes = _norms(rows)
    if not SMALLEST < sizes.min() <= sizes.max() < LARGEST:
        return None
    seen = (rows @ combinations(n, expected + SPARE, np.iscomplexobj(c))) / sizes[:, None]
    first = _independent(seen, floor)
    # rows that exist are orthogonalised: what rounding leaves of others is then their own, times
    # coefficients near 1, while a basis of the combinations would miss several times that; and so
    # would the coefficients that the combinations have, more at each bond
    q, _ = qr(adjoint(rows[first]))
    w, basis = rows @ q, adjoint(q)
    rest = w @ basis
    rest -= rows
    if not (_norms(rest) <= floor * sizes).all():
        return None
    return Few(*(astype(x, dtype_name(c.dtype)) for x in (w, basis)))


def spans_more(core: Array, w: Array, expected: int) -> bool:
    """Whether `of_few` very likely finds nothing in the rows of a core (r, n, s) times w (s, p).

    A few slices of the mode tell, by products that are too small to wake threads of BLAS: all
    slices span no less, unless these are noise beside the others.
    """
    r, n, _ = core.shape
    width = expected + SPARE
    if not isinstance(core, np.ndarray) or n * w.shape[1] <= r:
        return False
    if FEWER * width > r:
        return True
    count = width // w.shape[1] + 1
    picked = np.linspace(0, n - 1, count).astype(int)
    with np.errstate(all="ignore"):
        part = np.ascontiguousarray(in_double(core[:, picked]))
        rows = rows_times(part.reshape(r * count, -1), in_double(w)).reshape(r, -1)
        sizes = _norms(rows)
    if not SMALLEST < sizes.min() <= sizes.max() < LARGEST:
        return False
    return len(_independent(rows / sizes[:, None], noise(r, rounding_unit(core)))) > width


def factor(c: Array, *, by_gram: bool = False) -> Array:
    r"""W (m, k) with :math:`W W^H = C C^H`, k <= min(m, n).

    Parameters
    ----------
    c : (m, n) array
        Finite, its largest entries near 1; of any library and dtype.
    by_gram : bool
        Never by Householder's method: for few rows too, and for arrays of other libraries, whose QR
        may be slow, by two Gram matrices.

    Returns
    -------
    (m, k) array
        ``c`` itself where it has no more columns than rows; k >= 1.

    Notes
    -----
    Rows are exact to about u times their own norm, as those of Householder's method, the factor as
    a whole to a relative :math:`m u / \mathrm{DEPTH}^2`, about 2e-8 for 200 rows. Cost m^2 n
    multiply-adds (half of that by symmetry) where the rows are independent to three digits; some
    3 m^2 n where they are graded over all digits.
    """
    m, n = c.shape
    if n <= m:
        return c
    if not isinstance(c, np.ndarray):
        return _of_scaled_rows(c) if by_gram else adjoint(triangle(adjoint(c)))
    if m <= FEW and not by_gram:
        return adjoint(triangle(adjoint(c)))
    found = _Rounds(in_double(c), noise(m, rounding_unit(c))).run()
    return astype(found, dtype_name(c.dtype)) if found.shape[1] else c[:, :1]  # all is zero


def factor_of_product(core: Array, w: Array, bound: float) -> np.ndarray | None:
    """`factor` of the rows of a core (r, n, s) times w (s, p), both in double precision.

    The product is not formed. None where one Gram matrix is not enough, or a row's norm is not
    between 1 / bound and bound.
    """
    found = dispatch.grams().factor(core, w, 1.0 / bound, bound)
    if found is None:
        return None
    upper, sizes = found
    return np.ascontiguousarray(upper.T) * sizes[:, None] if _is_trusted(upper.T) else None


def distortion(m: int, *, by_gram: bool = False) -> float:
    """Relative error of ‖v^H W‖ from factors of m rows, beside what rows lose on their own."""
    return m * 2.0**-53 / DEPTH**2 if m > FEW or by_gram else 0.0


def _of_scaled_rows(c: Array) -> Array:
    xp = namespace(c)
    sizes = xp.max(xp.abs(c), axis=1, keepdims=True)
    sizes = xp.where(sizes > 0, sizes, xp.ones_like(sizes))
    turned = adjoint(c / sizes)
    root = dispatch.tsqr.r_factor(turned, dispatch.tsqr.gram(turned), fine=True)
    return adjoint(astype(root, dtype_name(c.dtype))) * sizes


def _independent(rows: np.ndarray, floor: float) -> np.ndarray:
    """Numbers of rows that span all of them, where rounding leaves ``floor`` of what it must."""
    from scipy.linalg import lapack

    pivoted: Any = getattr(lapack, "zgeqp3" if np.iscomplexobj(rows) else "dgeqp3")
    r, pivots, *_ = pivoted(adjoint(rows))
    left = np.abs(np.diagonal(r))
    first: np.ndarray = pivots[: (left > 4.0 * floor * left[0]).sum()] - 1
    return first


def _norms(rows: np.ndarray) -> np.ndarray:
    found: np.ndarray = np.sqrt(np.vecdot(rows, rows).real)
    return found


class _Rounds:
    """Rows not yet explained, the orthonormal rows found, and the coefficients of all."""

    def __init__(self, c: np.ndarray, floor: float) -> None:
        self.rest = c
        self.rows = np.arange(len(c))  # of which ``rest`` is what is left
        self.found: list[np.ndarray] = []
        self.weights = np.zeros((len(c), 0), c.dtype)
        self.scale = np.ones(len(c))  # of the rows as they came
        self.floor = floor  # below this part of its norm a row's rest is noise
        self.least = np.empty(0)  # that part, of each row

    def run(self) -> np.ndarray:
        while len(self.rows):
            gram = self.rest @ adjoint(self.rest)
            sizes = np.sqrt(np.diagonal(gram).real)
            if not self.least.size:
                if not sizes.min() > SMALLEST:  # rows are zero, or their squares underflow
                    self._rescale()
                    continue
                self.least = np.zeros(len(self.scale))
                self.least[self.rows] = self.floor * sizes
            root, order = _cholesky(gram / np.outer(sizes, sizes))
            if len(self.rows) // 2 < root.shape[1] < len(self.rows):
                self._add(adjoint(triangle(adjoint(self.rest))))  # hardly any is redundant
                break
            self._take(sizes, root, order)
        return self.weights * self.scale[:, None]

    def _rescale(self) -> None:
        largest = np.abs(self.rest).max(axis=1)
        self.rows = np.flatnonzero(largest)
        exponents = np.frexp(largest[self.rows])[1]
        self.scale[self.rows] = np.ldexp(1.0, exponents)
        self.rest = self.rest[self.rows] * np.ldexp(1.0, -exponents)[:, None]

    def _add(self, weights: np.ndarray) -> None:
        """Coefficients of the rest on new directions."""
        before, rank = self.weights.shape[1], weights.shape[1]
        self.weights = np.pad(self.weights, ((0, 0), (0, rank)))
        self.weights[self.rows, before:] = weights

    def _take(self, sizes: np.ndarray, root: np.ndarray, order: np.ndarray) -> None:
        """The first rows of ``order`` are made orthonormal, and taken out of the others."""
        weights = sizes[:, None] * root
        self._add(weights)
        first, others = np.split(order, [root.shape[1]])
        left = self.rest[others]
        if len(others):
            # The inverse is as good as a solution: its condition is about 1 / DEPTH. SciPy's solver
            # has threads of its own, which fight with those of NumPy's products.
            inverse = np.linalg.inv(np.tril(root[first])) / sizes[first]
            self.found.append(inverse @ self.rest[first])
            left = left - weights[others] @ self.found[-1]
        self.rest, self.rows = left, self.rows[others]
        self._drop()
        if len(self.rows):  # what is left of known directions would next be taken for new ones
            basis = np.concatenate(self.found)
            inside = self.rest @ adjoint(basis)
            self.rest = self.rest - inside @ basis
            self.weights[self.rows] += inside
            self._drop()

    def _drop(self) -> None:
        """Forget rows of which noise alone is left."""
        kept = _norms(self.rest) > self.least[self.rows]
        self.rest, self.rows = self.rest[kept], self.rows[kept]


def _well_conditioned(gram: np.ndarray) -> np.ndarray | None:
    """The lower triangular L with L L^H == gram, where that is trusted; None otherwise."""
    try:
        root = np.linalg.cholesky(gram)
    except np.linalg.LinAlgError:
        return None
    return root if _is_trusted(root) else None


def _is_trusted(lower: np.ndarray) -> bool:
    """Whether a triangle is well conditioned."""
    from scipy.linalg import lapack

    condition: Any = getattr(lapack, "ztrcon" if np.iscomplexobj(lower) else "dtrcon")
    return bool(condition(lower, uplo="L")[0] > DEPTH)


def _cholesky(gram: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``(root, order)`` of a Gram matrix with ones on its diagonal.

    gram == root @ root^H, but for directions below ``DEPTH``; rows ``order[:rank]`` of the root
    (m, rank) are lower triangular.
    """
    root = _well_conditioned(gram)
    if root is not None:
        return root, np.arange(len(gram))
    from scipy.linalg import lapack

    pivoted: Any = getattr(lapack, "zpstrf" if np.iscomplexobj(gram) else "dpstrf")
    lower, pivots, rank, _ = pivoted(gram, tol=DEPTH**2, lower=1)
    order = pivots - 1
    root = np.empty((len(gram), rank), gram.dtype)
    root[order] = np.tril(lower)[:, :rank]
    return root, order
