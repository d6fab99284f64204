"""TT-SVD: from a dense array to cores, with a guaranteed error.

Every unfolding in turn is replaced by its truncated SVD, and the squares of the errors add up. The
sweep goes from the last mode to the first, so that a C-ordered array is read as tall blocks of
rows, and the trailing modes are merged while the matrix stays narrow.

Source: I. V. Oseledets, Tensor-Train Decomposition, SIAM J. Sci. Comput. 33(5), 2295-2317, 2011.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ttcore import streaming
from ttcore.arrays import copied, namespace
from ttcore.cores import ranks_of
from ttcore.cutting import Sweep
from ttcore.errors import TTValueError
from ttcore.factorisations import check_finite
from ttcore.orthogonal import reversed_cores
from ttcore.scaling import absorb
from ttcore.streaming import Stream
from ttcore.truncation import Info, check_eps, check_max_rank, per_bond
from ttcore.typing import RNG, Array, Cores

MERGED = 64  # columns up to which trailing modes are merged for a Gram matrix, and
WIDE = 256  # for a sample or a sketch, of arrays with so many entries that
LARGE = 2**22  # memory for what is left counts more than the time that a vain sample takes
METHODS = ("svd", "randomized")
TALL = 4  # rows per column from which a matrix is worth a pass for its Gram matrix


def tt_svd(
    a: Array | Stream,
    *,
    modes: Sequence[int] | None = None,
    eps: float | None = None,
    max_rank: int | Sequence[int] | None = None,
    method: str = "svd",
    rng: RNG = None,
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
    method : {'svd', 'randomized'}
        As in `ttcore.from_dense`.
    rng : seed or Generator
        For 'randomized'.

    Returns
    -------
    cores : tuple of d arrays (r_{k-1}, n_k, r_k)
        All but that of the centre orthogonal.
    info : Info
    center : int or None
        The first core; the last where the sweep began at the first mode, as for a Fortran-ordered
        array; None where the norm is too far out of range for one core.

    Raises
    ------
    TTValueError, TTTypeError, TTShapeError
        For NaN or Inf in ``a``, or an unusable option.

    Notes
    -----
    :math:`\|A - B\| \le \epsilon\|A\| + c\sqrt d\,u\,\|A\|`, measured on the way. Cost for
    :math:`N = \prod n_k` entries: about :math:`2 m N` multiply-adds, m <= 64 being the merged
    trailing modes, in two to four passes over the array; up to 256 are merged for a sample or a
    sketch, whose cost does not grow with them. C- and Fortran-ordered arrays are not copied where
    the unfolding is tall whose columns are the modes that run fastest.

    Examples
    --------
    >>> import numpy as np
    >>> from ttcore.decompose import tt_svd
    >>> cores, info, center = tt_svd(np.ones((2, 3, 4)))
    >>> [core.shape for core in cores], center
    ([(1, 2, 1), (1, 3, 1), (1, 4, 1)], 0)
    """
    if method not in METHODS:
        raise TTValueError(
            f"method={method!r} is unknown; choose {' or '.join(map(repr, METHODS))}"
        )
    generator = np.random.default_rng(rng) if method == "randomized" else None
    modes = [int(n) for n in (a.modes if isinstance(a, Stream) else modes or a.shape)]
    d = len(modes)
    limit, caps = check_eps(eps), check_max_rank(max_rank, d)
    if d == 1:  # no factorisation makes this core ours
        core = a.in_memory()[:, 0] if isinstance(a, Stream) else a
        check_finite(core, "a")
        core = copied(core)
        whole = namespace(core).reshape(core, (1, modes[0], 1))
        return (whole,), Info(0.0, "measured", (1, 1), (), method), 0
    turned = _turned(a, modes)
    if turned is None:
        return _decompose(a, modes, limit, caps, generator)
    cores, info, center = _decompose(turned, modes[::-1], limit, caps[::-1], generator)
    info = replace(info, ranks=info.ranks[::-1], discarded=info.discarded[::-1])
    return reversed_cores(cores), info, None if center is None else d - 1


def _turned(a: Array | Stream, modes: list[int]) -> Array | Stream | None:
    """The array with its axes in reverse, where a sweep should begin at its first mode.

    An array of NumPy where its first axis runs fastest; and others where only an unfolding from
    that end is tall: what is cut there first makes all that follows smaller.
    """
    if isinstance(a, Stream):
        only = a.source.is_reversible and _is_tall_in_reverse_only(modes, a.widest)
        return a.reversed() if only else None
    if tuple(modes) != tuple(a.shape) or not isinstance(a, np.ndarray):
        return None
    if a.flags.f_contiguous and not a.flags.c_contiguous:
        return a.T
    return a.T if _is_tall_in_reverse_only(modes, MERGED) else None


def begins_tall(a: Stream) -> bool:
    """Whether a sweep begins with a tall matrix, so that it need not be loaded whole."""
    return _tall_part(list(a.modes), 1, a.widest) > 0


def _is_tall_in_reverse_only(modes: list[int], widest: int) -> bool:
    return not _tall_part(modes, 1, widest) and _tall_part(modes[::-1], 1, widest) > 0


def _decompose(
    a: Array | Stream,
    modes: list[int],
    eps: float,
    caps: tuple[float, ...],
    generator: np.random.Generator | None,
) -> tuple[Cores, Info, int | None]:
    sweep = Sweep(a, per_bond(eps, len(modes)), caps)
    cores: list[Array] = []
    rank = 1
    while len(modes) > 1:
        cut = None
        kept = _tall_part(modes, rank, _widest(a))
        if generator is not None:
            kept = kept or len(modes) - 1
            unfolding = _unfolding(a, modes, kept, rank)
            cut = sweep.cut_by_sketch(unfolding, modes[kept:], rank, generator)
        elif kept:
            cut = sweep.cut_by_sample(_unfolding(a, modes, kept, rank), modes[kept:], rank)
        if cut is None and (kept := _tall_part(modes, rank, _widest(a, by_gram=True))):
            cut = sweep.cut_by_gram(_unfolding(a, modes, kept, rank), modes[kept:], rank)
        if cut is None:
            break
        a, found = cut
        cores = [*found, *cores]
        modes, rank = modes[:kept], int(found[0].shape[0])
    rows = _unfolding(a, modes, 1, rank)
    a, found = sweep.cut_rest(rows, modes[1:], rank)
    first = namespace(a).reshape(a, (1, modes[0], a.shape[1]))
    done, center = absorb([first, *found, *cores], sweep.exponent, 0)
    return done, sweep.info(ranks_of(done), "svd" if generator is None else "randomized"), center


def _widest(a: Array | Stream, *, by_gram: bool = False) -> int:
    """Columns up to which modes are merged; Gram matrices are the slower, the more there are."""
    if isinstance(a, Stream):
        return streaming.NARROWEST if by_gram else a.widest
    return MERGED if by_gram or math.prod(a.shape) < LARGE else WIDE


def _unfolding(a: Array | Stream, modes: list[int], kept: int, rank: int) -> Array | Stream:
    """The matrix whose rows are the first ``kept`` modes."""
    if isinstance(a, Stream):
        return a.unfolded(kept)
    return namespace(a).reshape(a, (math.prod(modes[:kept]), math.prod(modes[kept:]) * rank))


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
