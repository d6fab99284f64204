"""TT-SVD: from a dense array to cores, with a guaranteed error.

Every unfolding in turn is replaced by its truncated SVD, and the squares of the errors add up. The
sweep goes from the last mode to the first, so that a C-ordered array is read as tall blocks of
rows, and the trailing modes are merged while the matrix stays narrow.

Source: I. V. Oseledets, Tensor-Train Decomposition, SIAM J. Sci. Comput. 33(5), 2295-2317, 2011.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ttcore import streaming
from ttcore.arrays import (
    adjoint,
    astype,
    detached,
    dtype_name,
    host,
    largest,
    namespace,
    rounding_unit,
)
from ttcore.cores import ranks_of
from ttcore.factorisations import check_finite, svd
from ttcore.kernels import dispatch
from ttcore.kernels.dispatch import tsqr
from ttcore.kernels.portable.products import rows_times
from ttcore.orthogonal import reversed_cores
from ttcore.scaling import absorb, ldexp, reach, unit
from ttcore.streaming import Stream
from ttcore.truncation import Info, check_eps, check_max_rank, choose_rank, noise, per_bond
from ttcore.typing import Array, Cores

MERGED = 64  # columns up to which trailing modes are merged: wide enough to compute at speed
TALL = 4  # rows per column from which a matrix is worth a pass for its Gram matrix


def tt_svd(
    a: Array | Stream,
    *,
    modes: Sequence[int] | None = None,
    eps: float | None = None,
    max_rank: int | Sequence[int] | None = None,
) -> tuple[Cores, Info, int | None]:
    r"""TT-SVD of a dense array.

    Parameters
    ----------
    a : (n_1, ..., n_d) array
        float32, float64, complex64 or complex128, any strides; read, never written. A `Stream`
        brings modes of its own.
    modes : sequence of int, optional
        The shape to read ``a`` as, in C order; there may be more modes than an array has axes.
    eps : float, optional
        Relative Frobenius error; None removes only what is below machine precision.
    max_rank : int or sequence of int, optional
        Cap for all bonds, or one per bond; may break ``eps``.

    Returns
    -------
    cores : tuple of d arrays (r_{k-1}, n_k, r_k)
        All but that of the centre orthogonal.
    info : Info
    center : int or None
        The first core, or the last for a Fortran-ordered array; None where the norm is too far out
        of range for one core.

    Raises
    ------
    TTValueError, TTTypeError, TTShapeError
        For NaN or Inf in ``a``, or an unusable option.

    Notes
    -----
    :math:`\|A - B\| \le \epsilon\|A\| + c\sqrt d\,u\,\|A\|`, measured on the way. Cost for
    :math:`N = \prod n_k` entries: about :math:`2 m N` multiply-adds, m <= 64 being the merged
    trailing modes, in two to four passes over the array. C- and Fortran-ordered arrays are not
    copied where a tall unfolding exists.

    Examples
    --------
    >>> import numpy as np
    >>> from ttcore.decompose import tt_svd
    >>> cores, info, center = tt_svd(np.ones((2, 3, 4)))
    >>> [core.shape for core in cores], center
    ([(1, 2, 1), (1, 3, 1), (1, 4, 1)], 0)
    """
    if isinstance(a, Stream):
        return _of_stream(a, eps, max_rank)
    shape = [int(n) for n in (a.shape if modes is None else modes)]
    limit, caps = check_eps(eps), check_max_rank(max_rank, len(shape))
    if len(shape) == 1:  # no factorisation makes this core ours
        check_finite(a, "a")
        core = namespace(a).asarray(a, copy=True)
        return (
            (namespace(a).reshape(core, (1, shape[0], 1)),),
            Info(0.0, "measured", (1, 1), (), "svd"),
            0,
        )
    if modes is None and _fortran_ordered(a):
        return _backwards(a.T, shape, limit, caps)
    return _decompose(a, shape, limit, caps)


def _of_stream(
    a: Stream, eps: float | None, max_rank: int | Sequence[int] | None
) -> tuple[Cores, Info, int | None]:
    modes = list(a.modes)
    if len(modes) == 1:
        return tt_svd(a.in_memory()[:, 0], eps=eps, max_rank=max_rank)
    limit, caps = check_eps(eps), check_max_rank(max_rank, len(modes))
    other = a.reversed()
    if not _tall_part(modes, 1, a.widest) and _tall_part(modes[::-1], 1, a.widest):
        return _backwards(other, modes, limit, caps)
    return _decompose(a, modes, limit, caps)


def _backwards(
    a: Array | Stream, modes: list[int], eps: float, caps: tuple[float, ...]
) -> tuple[Cores, Info, int | None]:
    """Of an array whose axes were reversed."""
    cores, info, center = _decompose(a, modes[::-1], eps, caps[::-1])
    info = replace(info, ranks=info.ranks[::-1], discarded=info.discarded[::-1])
    return reversed_cores(cores), info, None if center is None else len(modes) - 1


def _fortran_ordered(a: Array) -> bool:
    return isinstance(a, np.ndarray) and a.flags.f_contiguous and not a.flags.c_contiguous


def _decompose(
    a: Array | Stream, modes: list[int], eps: float, caps: tuple[float, ...]
) -> tuple[Cores, Info, int | None]:
    sweep = _Sweep(a, per_bond(eps, len(modes)), caps)
    cores: list[Array] = []
    rank = 1
    while kept := _tall_part(modes, rank, a.widest if isinstance(a, Stream) else MERGED):
        cut = sweep.cut_by_sample(_unfolding(a, modes, kept, rank), modes[kept:], rank)
        if cut is None:
            if isinstance(a, Stream):
                kept = _tall_part(modes, rank, streaming.NARROWEST)
            cut = sweep.cut_by_gram(_unfolding(a, modes, kept, rank), modes[kept:], rank)
        a, found = cut
        cores = [*found, *cores]
        modes, rank = modes[:kept], int(found[0].shape[0])
    rows = _unfolding(a, modes, 1, rank)
    a, found = sweep.cut_rest(rows, modes[1:], rank)
    first = namespace(a).reshape(a, (1, modes[0], a.shape[1]))
    done, center = absorb([first, *found, *cores], sweep.exponent, 0)
    return done, sweep.info(ranks_of(done)), center


def _unfolding(a: Array | Stream, modes: list[int], kept: int, rank: int) -> Array | Stream:
    """The matrix whose rows are the first ``kept`` modes."""
    if isinstance(a, Stream):
        return a.unfolded(kept)
    return namespace(a).reshape(a, (math.prod(modes[:kept]), math.prod(modes[kept:]) * rank))


def _passes(a: Array | Stream) -> Any:
    return streaming if isinstance(a, Stream) else dispatch.passes(a)


def _tall_part(modes: list[int], rank: int, widest: int) -> int:
    """How many leading modes stay when a tall matrix of some ``widest`` columns is cut off.

    0 where no unfolding is tall and large enough for a Gram matrix to pay.
    """
    kept = len(modes) - 1
    rows, columns = math.prod(modes[:kept]), modes[kept] * rank
    if kept == 0 or rows < TALL * columns or rows * columns < 2**14:
        return 0
    while kept > 1:
        n = modes[kept - 1]
        if columns * n > widest or rows // n < TALL * columns * n:
            break
        kept, rows, columns = kept - 1, rows // n, columns * n
    return kept


class _Sweep:
    """A sweep from the last mode to the first: what it may discard, and what it did.

    The data are ``2**exponent`` times what is worked on.
    """

    def __init__(self, a: Array | Stream, tolerance: float, caps: tuple[float, ...]) -> None:
        self.dtype = dtype_name(a.dtype)
        self.unit = rounding_unit(a)
        self.tolerance = tolerance  # of one bond, relative to the norm
        self.caps = caps
        self.norm = -1.0  # negative until the array was read
        self.square = 0.0  # of the error so far
        self.missed = 0.0  # error that may stand at any angle to all other
        self.lost: list[float] = []  # per bond
        self.exponent = 0

    def cut_by_sample(
        self, a: Array | Stream, modes: Sequence[int], rank: int
    ) -> tuple[Array | Stream, list[Array]] | None:
        """Cut ``modes`` off a tall matrix (N, prod(modes) * rank).

        In one pass, if some rows tell the row space of all; the pass itself proves it. Otherwise
        None, and nothing is changed. Returns what is left (N, r), and the cores of the modes.
        """
        x = detached(a)
        m = int(x.shape[1])
        lowest = max(self.tolerance, noise(m, self.unit))
        # of other libraries: the way back of a gradient needs projections alone
        if isinstance(x, Stream):
            basis = streaming.sampled_basis(x, lowest / 3.0)
        elif isinstance(x, np.ndarray):
            basis = tsqr.sampled_basis(x, lowest / 3.0)
        else:
            basis = None
        if basis is None:
            return None
        with np.errstate(all="ignore"):  # of squares out of range; they are seen below
            z, inner, missed = _passes(x).deflate(x, basis)
            square = float(np.trace(inner).real) + missed**2
        norm = self.norm if self.norm >= 0 else math.sqrt(square) if square > 0 else -1.0
        if not self._in_range(square) or missed > 0.5 * lowest * norm:
            return None
        before, self.norm = self.norm, norm
        if lowest < tsqr.plain_gram_floor(len(inner), 2.0**-53) and not tsqr.is_graded(inner):
            root = tsqr.r_factor(z, inner, fine=True, again=_passes(z).gram)
        else:
            root = tsqr.graded_root(inner)
        small = root @ adjoint(basis)
        seen = math.sqrt(lowest**2 - (missed / norm) ** 2) * norm
        slack = 2.0 * noise(m, self.unit) * norm
        cores, lost, own, cut = self._cut_small(small, modes, rank, seen)
        allowed = math.hypot(*(max(x, self.tolerance * norm) for x in lost)) + slack
        # the two parts are orthogonal but for at most missed * cut, which must not count
        crossed = missed * cut > slack * math.hypot(missed, cut)
        if math.hypot(missed, cut) > allowed or (crossed and not isinstance(x, Stream)):
            self.norm = before
            return None
        if crossed:  # a second pass costs more than what this takes from the budget of all bonds
            self.missed += missed
            self.tolerance -= min(self.tolerance, missed / norm / math.sqrt(len(self.caps)))
            seen = max(self.tolerance, noise(m, self.unit)) * norm
            cores, lost, own, cut = self._cut_small(small, modes, rank, seen)
            self.square += cut**2
        else:
            self.square += math.hypot(missed, cut) ** 2
        first = lost[0] + missed if crossed else math.hypot(lost[0], missed)
        self.lost = [first, *lost[1:], *self.lost]
        turn = adjoint(basis) @ own
        if turn.shape[0] == turn.shape[1] and _is_unitary(turn, self.unit):
            # the basis of the sample is the one sought but for a rotation, which the core takes
            turned = np.asarray(turn, cores[0].dtype) @ cores[0].reshape(turn.shape[1], -1)
            return z, [turned.reshape(cores[0].shape), *cores[1:]]
        turn = np.asarray(turn, z.dtype)
        return z.turned(turn) if isinstance(z, Stream) else rows_times(z, turn), cores

    def _cut_small(
        self, small: Array, modes: Sequence[int], rank: int, budget: float
    ) -> tuple[list[Array], list[float], Array, float]:
        """Cores, norms cut at each bond, the basis of the cores, and the norm cut in all."""
        _, cores, lost = self._cut(small, modes, rank, budget=budget)
        cores = [astype(core, self.dtype) for core in cores]
        own = _joined(cores)
        kept = small @ own
        return cores, lost, own, float(np.linalg.norm(small - kept @ adjoint(own)))

    def _in_range(self, square: float) -> bool:
        """Whether a sum of squares is far from both ends of the range, and no NaN."""
        single = self.unit > 2.0**-30
        low, high = (2.0**-60, 2.0**180) if single else (2.0**-600, 2.0**900)
        return low < square < high

    def cut_by_gram(
        self, a: Array | Stream, modes: Sequence[int], rank: int
    ) -> tuple[Array | Stream, list[Array]]:
        """The same by the Gram matrix of all rows, or two, or Householder's method, as needed."""
        scale = 1.0
        kernel = _passes(a)
        with np.errstate(all="ignore"):  # of squares out of range; they are seen at once
            g = kernel.gram(detached(a))
        if self.norm < 0:
            scale = self._scale(a, g)
            g = g if scale == 1.0 else kernel.gram(detached(a), scale=scale)
            self.norm = math.sqrt(max(float(np.trace(host(g)).real), 0.0))
        slack = 2.0 * noise(int(a.shape[1]), self.unit) * self.norm
        for r, sure in self._factors(detached(a), g, scale):
            _, cores, lost = self._cut(r, modes, rank)
            cores = [astype(core, self.dtype) for core in cores]
            left, error = kernel.project(a, _joined(cores), scale=scale)
            allowed = math.hypot(*(max(x, self.tolerance * self.norm) for x in lost))
            if error <= allowed + (slack if sure else 0.0):
                break
        self.square += error**2
        self.lost = [*lost, *self.lost]
        return left, cores

    def _factors(self, a: Array | Stream, g: Array, scale: float) -> Iterator[tuple[Array, bool]]:
        """Factors R of a, each more certain than the one before; and whether u alone limits it."""
        m = int(a.shape[1])
        if max(self.tolerance, noise(m, self.unit)) >= tsqr.plain_gram_floor(m, rounding_unit(g)):
            yield tsqr.r_factor(a, g, fine=False, scale=scale), False
        yield tsqr.r_factor(a, g, fine=True, scale=scale, again=_passes(a).gram), True
        yield (streaming if isinstance(a, Stream) else tsqr).householder(a, scale=scale), True

    def cut_rest(
        self, a: Array | Stream, modes: Sequence[int], rank: int
    ) -> tuple[Array, list[Array]]:
        """Cut ``modes`` off a matrix (n, prod(modes) * rank) of any proportions, by SVD."""
        if isinstance(a, Stream):
            rows = a.in_memory()
            if not math.isfinite(largest(rows)):
                a.largest()  # names the entry
            a = rows
        if self.norm < 0:
            check_finite(a, "a")
            a, self.exponent = unit(a)
        left, cores, lost = self._cut(a, modes, rank)
        self.square += sum(x**2 for x in lost)
        self.lost = [*lost, *self.lost]
        return left, cores

    def _cut(
        self, x: Array, modes: Sequence[int], rank: int, budget: float | None = None
    ) -> tuple[Array, list[Array], list[float]]:
        """Cut ``modes`` off x (l, n_1 ... n_k rank) by truncated SVDs, the last one first.

        ``budget`` is what each may discard, if less than usual. Returns the rest, cores, norms cut.
        """
        xp = namespace(x)
        bond = len(self.caps) - len(self.lost) - len(modes)  # the one before n_1
        cores: list[Array] = []
        lost: list[float] = []
        for t in reversed(range(len(modes))):
            rows = xp.reshape(x, (-1, modes[t] * rank))
            _, s, vh = svd(detached(rows), "a")
            if self.norm < 0:
                self.norm = float(xp.linalg.vector_norm(s))
            usual = max(self.tolerance, noise(int(s.shape[0]), self.unit)) * self.norm
            new, tail = choose_rank(s, usual if budget is None else budget, self.caps[bond + t])
            cores.insert(0, xp.reshape(vh[:new, :], (new, modes[t], rank)))
            lost.insert(0, tail)
            x, rank = rows @ adjoint(vh[:new, :]), new
        return x, cores, lost

    def _scale(self, a: Array | Stream, g: Array) -> float:
        """Power of two that brings the entries near 1.

        1.0 where the squares in g are far from both ends of the range.
        """
        if self._in_range(float(np.trace(host(g)).real)):
            return 1.0
        if isinstance(a, Stream):
            size = a.largest()
        else:
            sizes = [largest(a[i:j, :]) for i, j in tsqr.blocks(a)]
            size = max(sizes, key=lambda x: (math.isnan(x), x))
            if not math.isfinite(size):
                check_finite(a, "a")
        limit = reach(a)
        self.exponent = max(-limit, min(limit, math.frexp(size)[1]))
        return 2.0**-self.exponent

    def info(self, ranks: tuple[int, ...]) -> Info:
        """The report, on the scale of the data."""
        error = (self.missed + math.sqrt(self.square)) / self.norm if self.norm else 0.0
        discarded = tuple(ldexp(x, self.exponent) for x in self.lost)
        return Info(error, "bound" if self.missed else "measured", ranks, discarded, "svd")


def _is_unitary(x: np.ndarray[Any, Any], unit: float) -> bool:
    """To a few units of roundoff."""
    off = x.conj().T @ x - np.eye(x.shape[1])
    return bool(np.abs(off).max() <= 8.0 * x.shape[0] * unit)


def _joined(cores: Sequence[Array]) -> Array:
    """The basis (n_1 ... n_k r', r) that right-orthogonal cores stand for."""
    xp = namespace(*cores)
    joined = xp.reshape(cores[-1], (cores[-1].shape[0], -1))
    for core in reversed(cores[:-1]):
        r, n, s = core.shape
        joined = xp.reshape(xp.reshape(core, (r * n, s)) @ joined, (r, -1))
    return adjoint(joined)
