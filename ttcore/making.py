"""Making trains: from dense arrays, in closed form, at random."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, overload

import numpy as np

from ttcore import construct, joining, sources
from ttcore.arrays import as_array, dtype_name, namespace
from ttcore.cores import as_four_way, check_modes
from ttcore.decompose import begins_tall, tt_svd
from ttcore.errors import TTShapeError
from ttcore.linear import pairing
from ttcore.matrix import TTMatrix
from ttcore.progress import Meter, meter
from ttcore.sources import Paired, Source, stays_out
from ttcore.streaming import Stream
from ttcore.tensor import TTTensor
from ttcore.truncation import Info
from ttcore.typing import RNG


@overload
def from_dense(
    a: Any,
    *,
    eps: float | None = None,
    max_rank: int | Sequence[int] | None = None,
    method: str = "svd",
    rng: RNG = None,
    progress: bool = False,
    full_output: Literal[False] = False,
) -> TTTensor: ...
@overload
def from_dense(
    a: Any,
    *,
    eps: float | None = None,
    max_rank: int | Sequence[int] | None = None,
    method: str = "svd",
    rng: RNG = None,
    progress: bool = False,
    full_output: Literal[True],
) -> tuple[TTTensor, Info]: ...
def from_dense(
    a: Any,
    *,
    eps: float | None = None,
    max_rank: int | Sequence[int] | None = None,
    method: str = "svd",
    rng: RNG = None,
    progress: bool = False,
    full_output: bool = False,
) -> TTTensor | tuple[TTTensor, Info]:
    r"""TT-SVD: a dense array as a TT-tensor, to a guaranteed accuracy.

    Parameters
    ----------
    a : (n_1, ..., n_d) array_like, or a source of blocks
        d >= 1, no empty axis; read, never written. Integers become float64, float16 becomes
        float32. A large memmap, h5py or zarr dataset, or any object with ``shape``, ``dtype`` and
        ``a[slices]`` for slices of the leading axes, is read block by block and never held whole.
    eps : float, optional
        Relative Frobenius error; None removes only what is below machine precision.
    max_rank : int or sequence of int, optional
        Cap for all bonds, or one per bond; may break ``eps``.
    method : {'svd', 'randomized'}
        'randomized' finds the row spaces by random combinations of rows: less work where ranks are
        small beside the modes, above all with a ``max_rank``. The error is measured, so that
        ``eps`` holds all the same; but ranks may be a little larger than by 'svd', and errors
        under a ``max_rank`` too.
    rng : seed or Generator
        For 'randomized'.
    progress : bool
        Whether to show the bytes read, by tqdm.
    full_output : bool
        Whether to return ``(train, info)``; ``info.error`` is the measured error, or a bound of it.

    Returns
    -------
    TTTensor, or (TTTensor, Info)

    Raises
    ------
    TTValueError
        If a holds NaN or Inf.
    TTShapeError, TTTypeError
        If it is no array of numbers, has no axis or an empty one.

    Notes
    -----
    :math:`\|A - B\| \le \epsilon\|A\| + c\sqrt d\,u\,\|A\|`, u being the machine epsilon; the ranks
    are at most those that truncating each unfolding to
    :math:`\epsilon/\sqrt{d-1}` needs by 'svd' (for files the budget is a little smaller). The
    array is read once where its ranks are low, two to four times otherwise, and not copied where
    the modes that run fastest are few beside the others. Cost about 2 m multiply-adds for each
    entry, m <= 64; by 'randomized' a few passes for each doubling
    of a sketch of 24 rows.

    References
    ----------
    .. [1] I. V. Oseledets, "Tensor-Train Decomposition", SIAM J. Sci. Comput. 33(5), 2295-2317,
       2011. doi:10.1137/090752286

    Examples
    --------
    >>> import numpy as np
    >>> import ttcore as tt
    >>> i, j, k = np.ogrid[:20, :30, :40]
    >>> x, info = tt.from_dense(1.0 / (i + j + k + 1), eps=1e-6, full_output=True)
    >>> x.ranks, info.error < 1e-6
    ((1, 8, 8, 1), True)
    """
    with meter(progress) as reading:
        if stays_out(a):
            source = Source(a, "a", reading)
            stream = Stream(source, [1] * len(source.shape))
            cores, info, center = tt_svd(stream, eps=eps, max_rank=max_rank, method=method, rng=rng)
        else:
            with _at_once(_dense(a, "a"), reading) as array:
                cores, info, center = tt_svd(
                    array, eps=eps, max_rank=max_rank, method=method, rng=rng
                )
    train = TTTensor._made(cores, center)
    return (train, info) if full_output else train


@overload
def matrix_from_dense(
    a: Any,
    row_modes: Sequence[int],
    col_modes: Sequence[int],
    *,
    eps: float | None = None,
    max_rank: int | Sequence[int] | None = None,
    method: str = "svd",
    rng: RNG = None,
    progress: bool = False,
    full_output: Literal[False] = False,
) -> TTMatrix: ...
@overload
def matrix_from_dense(
    a: Any,
    row_modes: Sequence[int],
    col_modes: Sequence[int],
    *,
    eps: float | None = None,
    max_rank: int | Sequence[int] | None = None,
    method: str = "svd",
    rng: RNG = None,
    progress: bool = False,
    full_output: Literal[True],
) -> tuple[TTMatrix, Info]: ...
def matrix_from_dense(
    a: Any,
    row_modes: Sequence[int],
    col_modes: Sequence[int],
    *,
    eps: float | None = None,
    max_rank: int | Sequence[int] | None = None,
    method: str = "svd",
    rng: RNG = None,
    progress: bool = False,
    full_output: bool = False,
) -> TTMatrix | tuple[TTMatrix, Info]:
    """TT-SVD of a matrix whose rows and columns are both split into modes.

    Parameters
    ----------
    a : (M, N) array_like
    row_modes, col_modes : sequence of d ints
        Multiply to M and to N; row mode k and column mode k share core k. (Layers take input modes
        first; matrices take rows, the outputs,
        first.)
    eps, max_rank, method, rng, progress, full_output
        As in `from_dense`.

    Returns
    -------
    TTMatrix, or (TTMatrix, Info)

    Raises
    ------
    TTShapeError
        If the modes do not multiply to the shape, or are not equally many.
    TTValueError, TTTypeError
        As in `from_dense`.

    Notes
    -----
    A large matrix of NumPy's is brought into the order of the modes block by block, without a copy
    of the whole, where the last modes are few beside the others.

    Examples
    --------
    >>> import numpy as np
    >>> import ttcore as tt
    >>> W = tt.matrix_from_dense(np.kron(np.ones((2, 3)), np.eye(4)), (2, 4), (3, 4))
    >>> W.shape, W.ranks
    ((8, 12), (1, 1, 1))
    """
    outside = stays_out(a)
    a = a if outside else _dense(a, "A")
    if len(a.shape) != 2:
        raise TTShapeError(
            f"A has shape {tuple(a.shape)}, expected a matrix (M, N); use from_dense for other "
            "arrays"
        )
    rows, cols = check_modes(row_modes, "row_modes"), check_modes(col_modes, "col_modes")
    if len(rows) != len(cols):
        raise TTShapeError(
            f"row_modes {rows} and col_modes {cols} have {len(rows)} and {len(cols)} modes; "
            "each core takes one of both: "
            "fill up the shorter with modes of 1"
        )
    for name, modes, length, what in (
        ("row_modes", rows, a.shape[0], "rows"),
        ("col_modes", cols, a.shape[1], "columns"),
    ):
        if math.prod(modes) != length:
            raise TTShapeError(
                f"{name} {modes} multiply to {math.prod(modes)}, but A has {length} {what}; "
                f"choose modes whose product is {length}, or pad A"
            )
    with meter(progress) as reading:
        stream = None
        if outside or (isinstance(a, np.ndarray) and a.nbytes > sources.SMALL):
            # in blocks, each permuted on its way: a permuted copy of all would be as large again
            axes = [(m > 1) + (n > 1) for m, n in zip(rows, cols, strict=True)]
            stream = Stream(Paired(a, "A", reading, rows, cols), axes)
        if stream is not None and (outside or begins_tall(stream)):
            cores, info, center = tt_svd(stream, eps=eps, max_rank=max_rank, method=method, rng=rng)
        else:
            with _at_once(a, reading):
                tensor, pairs = _interleaved(a, rows, cols)
                cores, info, center = tt_svd(
                    tensor, modes=pairs, eps=eps, max_rank=max_rank, method=method, rng=rng
                )
    train = TTMatrix._made(as_four_way(cores, rows, cols), center)
    return (train, info) if full_output else train


def _interleaved(a: Any, rows: Sequence[int], cols: Sequence[int]) -> tuple[Any, list[int]]:
    """The matrix as an array (m_1, n_1, m_2, n_2, ...), a view, and the modes m_k n_k."""
    xp = namespace(a)
    shape, order = pairing(rows, cols)
    split = tuple(shape[axis] for axis in order)
    interleaved = sorted(range(len(order)), key=lambda axis: order[axis])
    tensor = xp.permute_dims(xp.reshape(a, split), tuple(interleaved))
    return tensor, [m * n for m, n in zip(rows, cols, strict=True)]


@contextmanager
def _at_once(a: Any, reading: Meter) -> Iterator[Any]:
    """An array in memory; shown as read when the block ends."""
    size = math.prod(a.shape) * int(np.dtype(dtype_name(a.dtype)).itemsize)
    reading.expect(size)
    yield a
    reading.advance(size)


def _dense(a: Any, name: str) -> Any:
    a = as_array(a, name)
    if a.ndim == 0 or 0 in a.shape:
        raise TTShapeError(
            f"{name} has shape {tuple(a.shape)}; expected at least one axis and no empty one"
        )
    return a


def zeros(shape: int | Sequence[int], *, dtype: Any = float) -> TTTensor:
    """The zero tensor, of ranks 1."""
    return TTTensor._made(construct.constant(check_modes(shape, "shape"), 0.0, dtype))


def ones(shape: int | Sequence[int], *, dtype: Any = float) -> TTTensor:
    """The tensor of ones, of ranks 1."""
    return TTTensor._made(construct.constant(check_modes(shape, "shape"), 1.0, dtype))


def eye(modes: int | Sequence[int], *, dtype: Any = float) -> TTMatrix:
    """The identity matrix with row and column modes ``modes``, of ranks 1."""
    return TTMatrix._made(construct.identity(check_modes(modes, "modes"), dtype))


def random(
    shape: int | Sequence[int], ranks: int | Sequence[int], *, rng: RNG = None, dtype: Any = float
) -> TTTensor:
    """A TT-tensor of independent normal cores, whose entries have mean 0 and variance 1.

    Parameters
    ----------
    shape : int or sequence of int
    ranks : int or sequence of int
        An int is clipped to what the shape can use; d - 1 or d + 1 numbers are taken as they are.
    rng : seed or Generator
        As `numpy.random.default_rng` takes it.
    dtype : dtype
        float32, float64, complex64 or complex128.

    Examples
    --------
    >>> import ttcore as tt
    >>> tt.random((2, 3, 4, 5), 10, rng=0).ranks
    (1, 2, 6, 5, 1)
    """
    return TTTensor._made(construct.gaussian(check_modes(shape, "shape"), ranks, rng, dtype))


def random_matrix(
    row_modes: Sequence[int],
    col_modes: Sequence[int],
    ranks: int | Sequence[int],
    *,
    rng: RNG = None,
    dtype: Any = float,
) -> TTMatrix:
    """A TT-matrix of independent normal cores, whose entries have mean 0 and variance 1.

    Arguments as for `random`; the two mode lists are of equal length.
    """
    rows, cols = check_modes(row_modes, "row_modes"), check_modes(col_modes, "col_modes")
    if len(rows) != len(cols):
        raise TTShapeError(
            f"row_modes {rows} and col_modes {cols} differ in number; each core takes one of both"
        )
    pairs = tuple(m * n for m, n in zip(rows, cols, strict=True))
    return TTMatrix._made(as_four_way(construct.gaussian(pairs, ranks, rng, dtype), rows, cols))


def rank_one(vectors: Sequence[Any]) -> TTTensor:
    """The outer product of vectors (n_k,), a TT-tensor of ranks 1.

    Examples
    --------
    >>> import ttcore as tt
    >>> tt.rank_one([[1.0, 2.0], [3.0, 4.0]]).to_dense()
    array([[3., 4.],
           [6., 8.]])
    """
    return TTTensor(construct.rank_one(vectors))


def from_cp(factors: Sequence[Any], weights: Any = None) -> TTTensor:
    """A sum of R outer products (canonical polyadic format) as a TT-tensor of ranks R; exact.

    Parameters
    ----------
    factors : sequence of d arrays (n_k, R)
    weights : (R,) array, optional

    Raises
    ------
    TTShapeError, TTTypeError
        If the factors are no matrices with equally many columns.

    Examples
    --------
    >>> import numpy as np
    >>> import ttcore as tt
    >>> tt.from_cp([np.ones((4, 2)), np.ones((5, 2))], weights=[1.0, 2.0]).sum()
    60.0
    """
    return TTTensor(joining.from_cp(factors, weights))


def from_tucker(core: Any, factors: Sequence[Any]) -> TTTensor:
    """A Tucker tensor as a TT-tensor; exact but for rounding.

    Parameters
    ----------
    core : (r_1, ..., r_d) array
    factors : sequence of d arrays (n_k, r_k)

    Raises
    ------
    TTShapeError, TTTypeError
        If the factors do not fit the core.

    Examples
    --------
    >>> import numpy as np
    >>> import ttcore as tt
    >>> tt.from_tucker(np.ones((2, 3)), [np.ones((4, 2)), np.ones((5, 3))]).shape
    (4, 5)
    """
    cores = tt_svd(_dense(core, "core"))[0]
    return TTTensor._made(joining.apply_factors(cores, factors))
