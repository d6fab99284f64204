"""TT-SVD: from a dense array to cores, with a guaranteed error.

Source: I. V. Oseledets, Tensor-Train Decomposition, SIAM J. Sci. Comput. 33(5), 2295-2317, 2011:
every unfolding in turn is replaced by its truncated SVD, and the squares of the errors add up. Here
the sweep goes from the last mode to the first, so that a C-ordered array is read as tall blocks of
rows, and the trailing modes are merged while the matrix stays narrow.
"""

import math
from collections.abc import Sequence

import numpy as np

from ttcore.arrays import adjoint, astype, dtype_name, host, largest, namespace, rounding_unit
from ttcore.cores import ranks_of
from ttcore.factorisations import check_finite, svd
from ttcore.kernels.dispatch import tsqr
from ttcore.scaling import absorb, ldexp, reach, unit
from ttcore.truncation import Info, check_eps, check_max_rank, choose_rank, per_bond
from ttcore.typing import Array, Cores

MERGED = 64  # columns up to which trailing modes are merged: wide enough to compute at speed
TALL = 4  # rows per column from which a matrix is worth a pass for its Gram matrix


def tt_svd(
    a: Array, *, eps: float | None = None, max_rank: int | Sequence[int] | None = None
) -> tuple[Cores, Info, int | None]:
    r"""TT-SVD of a dense array.

    Parameters
    ----------
    a : (n_1, ..., n_d) array
        float32, float64, complex64 or complex128, any strides; read, never written.
    eps : float, optional
        Relative Frobenius error; None removes only what is below machine precision.
    max_rank : int or sequence of int, optional
        Cap for all bonds, or one per bond; may break ``eps``.

    Returns
    -------
    cores : tuple of d arrays (r_{k-1}, n_k, r_k)
        All but the first right-orthogonal: the rows of the (r, n r') unfolding are orthonormal.
    info : Info
    center : int or None
        0, or None where the norm is too far out of range for one core.

    Notes
    -----
    :math:`\|A - B\| \le \epsilon\|A\| + c\sqrt d\,u\,\|A\|`, measured on the way. Cost for :math:`N
    = \prod n_k` entries: about
    :math:`2 m N` multiply-adds, m <= 64 being the merged trailing modes, in two to four passes over
    the array.
    """
    xp = namespace(a)
    modes = [int(n) for n in a.shape]
    sweep = _Sweep(a, per_bond(check_eps(eps), a.ndim, a), check_max_rank(max_rank, a.ndim))
    cores: list[Array] = []
    rank = 1
    while kept := _tall_part(modes, rank):
        a, found = sweep.cut_tall(xp.reshape(a, (math.prod(modes[:kept]), -1)), modes[kept:], rank)
        cores = [*found, *cores]
        modes, rank = modes[:kept], int(found[0].shape[0])
    if a.ndim == 1:  # no factorisation makes this core ours
        a = xp.asarray(a, copy=True)
    a, found = sweep.cut_rest(xp.reshape(a, (modes[0], -1)), modes[1:], rank)
    cores = [xp.reshape(a, (1, modes[0], -1)), *found, *cores]
    done, center = absorb(cores, sweep.exponent, 0)
    return done, sweep.info(ranks_of(done)), center


def _tall_part(modes: list[int], rank: int) -> int:
    """How many leading modes stay when a tall matrix is cut off.

    0 where no unfolding is tall and large enough for a Gram matrix to pay.
    """
    kept = len(modes) - 1
    rows, columns = math.prod(modes[:kept]), modes[kept] * rank
    if kept == 0 or rows < TALL * columns or rows * columns < 2**14:
        return 0
    while kept > 1:
        n = modes[kept - 1]
        if columns * n > MERGED or rows // n < TALL * columns * n:
            break
        kept, rows, columns = kept - 1, rows // n, columns * n
    return kept


class _Sweep:
    """A sweep from the last mode to the first: what it may discard, and what it did.

    The data are ``2**exponent`` times what is worked on.
    """

    def __init__(self, a: Array, tolerance: float, caps: tuple[float, ...]) -> None:
        self.like = a
        self.tolerance = tolerance  # of one bond, relative to the norm
        self.caps = caps
        self.norm: float | None = None  # None until the array was read
        self.square = 0.0  # of the error so far
        self.lost: list[float] = []  # per bond
        self.exponent = 0

    def cut_tall(self, a: Array, modes: Sequence[int], rank: int) -> tuple[Array, list[Array]]:
        """Cut ``modes`` off a tall matrix (N, prod(modes) * rank).

        Returns what is left (N, r), and the cores of the modes.
        """
        g = tsqr.gram(a)
        scale = 1.0
        if self.norm is None:
            scale = self._scale(a, g)
            g = g if scale == 1.0 else tsqr.gram(a, scale=scale)
        bond = len(self.caps) - len(self.lost) - len(modes)
        floor = tsqr.plain_gram_floor(int(a.shape[1]), rounding_unit(g))
        for fine in (False, True) if self.tolerance >= floor else (True,):
            r = tsqr.r_factor(a, g, fine=fine, scale=scale)
            _, cores, lost = self._cut(r, modes, rank, bond)
            cores = [astype(core, dtype_name(self.like.dtype)) for core in cores]
            left, error = tsqr.project(a, _joined(cores), scale=scale)
            budget = self.tolerance * self._known_norm
            capped = any(x > budget for x in lost)
            if capped or error <= math.sqrt(len(lost)) * budget:
                break
        self.square += error**2
        self.lost = [*lost, *self.lost]
        return left, cores

    def cut_rest(self, a: Array, modes: Sequence[int], rank: int) -> tuple[Array, list[Array]]:
        """Cut ``modes`` off a matrix (n, prod(modes) * rank) of any proportions, by SVD."""
        if self.norm is None:
            check_finite(self.like, "a")
            a, self.exponent = unit(a)
        left, cores, lost = self._cut(a, modes, rank, 0)
        self.square += sum(x**2 for x in lost)
        self.lost = [*lost, *self.lost]
        return left, cores

    def _cut(
        self, x: Array, modes: Sequence[int], rank: int, bond: int
    ) -> tuple[Array, list[Array], list[float]]:
        """Cut ``modes`` off x (l, n_1 ... n_k rank) by truncated SVDs, the last one first.

        ``bond`` is the number of the bond before n_1. Returns the rest, cores, norms cut.
        """
        xp = namespace(x)
        cores: list[Array] = []
        lost: list[float] = []
        for t in reversed(range(len(modes))):
            u, s, vh = svd(xp.reshape(x, (-1, modes[t] * rank)), "a")
            if self.norm is None:
                self.norm = float(xp.linalg.vector_norm(s))
            new, tail = choose_rank(s, self.tolerance * self.norm, self.caps[bond + t])
            cores.insert(0, xp.reshape(vh[:new, :], (new, modes[t], rank)))
            lost.insert(0, tail)
            x, rank = u[:, :new] * s[:new], new
        return x, cores, lost

    def _scale(self, a: Array, g: Array) -> float:
        """Power of two that brings the entries near 1.

        1.0 where the squares in g are far from both ends of the range.
        """
        trace = float(np.trace(host(g)).real)
        low, high = (2.0**-60, 2.0**180) if rounding_unit(a) > 2.0**-30 else (2.0**-600, 2.0**900)
        if low < trace < high:
            return 1.0
        size = max(
            (largest(a[i:j, :]) for i, j in tsqr.blocks(a)), key=lambda x: (math.isnan(x), x)
        )
        if not math.isfinite(size):
            check_finite(self.like, "a")
        limit = reach(a)
        self.exponent = max(-limit, min(limit, math.frexp(size)[1]))
        return 2.0**-self.exponent

    @property
    def _known_norm(self) -> float:
        return self.norm or 0.0

    def info(self, ranks: tuple[int, ...]) -> Info:
        """The report, on the scale of the data."""
        error = math.sqrt(self.square) / self.norm if self.norm else 0.0
        return Info(
            error, "measured", ranks, tuple(ldexp(x, self.exponent) for x in self.lost), "svd"
        )


def _joined(cores: Sequence[Array]) -> Array:
    """The basis (n_1 ... n_k r', r) that right-orthogonal cores stand for."""
    xp = namespace(*cores)
    joined = xp.reshape(cores[-1], (cores[-1].shape[0], -1))
    for core in reversed(cores[:-1]):
        r, n, s = core.shape
        joined = xp.reshape(xp.reshape(core, (r * n, s)) @ joined, (r, -1))
    return adjoint(joined)
