"""Sums and products of trains, rounded without being formed."""

from collections.abc import Sequence
from typing import Any, Literal, TypeVar, overload

from ttcore import algebra
from ttcore.arrays import check_same_library, common, namespace
from ttcore.cores import ranks_of
from ttcore.errors import TTShapeError, TTTypeError, TTValueError
from ttcore.fitting import als, zip_up
from ttcore.matrix import TTMatrix
from ttcore.operands import Composed, Formed, Hadamard, Operand, Sum
from ttcore.orthogonal import orthogonalize
from ttcore.rounding import Rounded, round_operand, round_randomized
from ttcore.scalars import kind
from ttcore.small import LOW
from ttcore.tensor import TTTensor
from ttcore.train import Train
from ttcore.truncation import Info
from ttcore.typing import RNG, Cores

T = TypeVar("T", bound=Train)

METHODS = ("exact", "zipup", "randomized", "als")


@overload
def round_sum(
    terms: Sequence[tuple[Any, T]],
    *,
    eps: float | None = None,
    max_rank: int | Sequence[int] | None = None,
    full_output: Literal[False] = False,
) -> T: ...
@overload
def round_sum(
    terms: Sequence[tuple[Any, T]],
    *,
    eps: float | None = None,
    max_rank: int | Sequence[int] | None = None,
    full_output: Literal[True],
) -> tuple[T, Info]: ...
def round_sum(
    terms: Sequence[tuple[Any, T]],
    *,
    eps: float | None = None,
    max_rank: int | Sequence[int] | None = None,
    full_output: bool = False,
) -> T | tuple[T, Info]:
    r"""The linear combination :math:`\sum_i c_i a_i`, rounded once.

    Parameters
    ----------
    terms : sequence of (number, train)
        At least one; all trains tensors of one shape, or matrices of equal modes.
    eps, max_rank, full_output
        As in `TTTensor.round`; eps is relative to the norm of the sum. Where terms cancel, rounding
        errors of u times :math:`\sum_i |c_i| \|a_i\|` remain.

    Returns
    -------
    TTTensor or TTMatrix, or (train, Info)

    Raises
    ------
    TTValueError, TTTypeError, TTShapeError
        If there is no term, or the terms do not fit together.

    Examples
    --------
    >>> import ttcore as tt
    >>> x = tt.random((4, 5, 6), 3, rng=0)
    >>> tt.round_sum([(2.0, x), (-1.0, x)], eps=1e-12).ranks
    (1, 3, 3, 1)
    """
    terms = list(terms)
    if not terms:
        raise TTValueError("round_sum got no terms; give at least one pair (number, train)")
    for k, term in enumerate(terms):
        if not (isinstance(term, tuple | list) and len(term) == 2 and isinstance(term[1], Train)):
            raise TTTypeError(
                f"term {k} is no pair (number, train); round_sum takes [(c1, a1), (c2, a2), …]"
            )
    scaled = [number * train for number, train in terms]
    trains = [scaled[0]._paired(train)[1] for train in scaled]
    # formed at little cost, a sum of small ranks may go through one compiled call
    low = max(map(sum, zip(*map(ranks_of, trains), strict=True))) <= LOW
    operand = Formed(algebra.add(*trains)) if low else Sum(trains)
    flat, info, center = round_operand(operand, eps=eps, max_rank=max_rank)
    rounded = scaled[0]._like(flat, center)
    return (rounded, info) if full_output else rounded


@overload
def multiply(
    a: T,
    b: T,
    *,
    eps: float | None = None,
    max_rank: int | Sequence[int] | None = None,
    method: str = "exact",
    rng: RNG = None,
    full_output: Literal[False] = False,
) -> T: ...
@overload
def multiply(
    a: T,
    b: T,
    *,
    eps: float | None = None,
    max_rank: int | Sequence[int] | None = None,
    method: str = "exact",
    rng: RNG = None,
    full_output: Literal[True],
) -> tuple[T, Info]: ...
def multiply(
    a: T,
    b: T,
    *,
    eps: float | None = None,
    max_rank: int | Sequence[int] | None = None,
    method: str = "exact",
    rng: RNG = None,
    full_output: bool = False,
) -> T | tuple[T, Info]:
    """The elementwise product ``a * b``, rounded without being formed.

    Parameters
    ----------
    a, b : TTTensor of shapes that broadcast, or TTMatrix of equal modes
    eps, max_rank, full_output
        As in `TTTensor.round`.
    method, rng
        As in `matmul`.

    Returns
    -------
    TTTensor or TTMatrix, or (train, Info)

    Raises
    ------
    TTShapeError, TTTypeError, TTValueError
        If the shapes do not fit, or for an unusable option, or NaN or Inf in a core.

    Notes
    -----
    The cores of the product would have ranks r_a r_b and hold n (r_a r_b)^2 numbers each. 'exact'
    makes one array of up to that size at a time; the other methods none larger than n r_a r_b times
    twice the rank of the result. Errors as for `matmul`.

    Examples
    --------
    >>> import ttcore as tt
    >>> x = tt.random((4,) * 6, 3, rng=0)
    >>> square = tt.multiply(x, x, eps=1e-12)
    >>> (x * x).ranks[3], square.ranks[3]  # the square of rank 3 has 6 directions
    (9, 6)
    """
    for value in (a, b):
        if not isinstance(value, Train):
            raise TTTypeError(f"multiply takes two trains, but got {kind(value)}")
    x, y = a._aligned(b)
    pair = _prepared((x, y), method)
    done = _approximate(Hadamard(*pair), method, eps, max_rank, rng)
    train = a._like(done[0], done[2])
    return (train, done[1]) if full_output else train


def matmul(
    A: TTMatrix,
    x: Any,
    *,
    eps: float | None = None,
    max_rank: int | Sequence[int] | None = None,
    method: str = "exact",
    rng: RNG = None,
    full_output: bool = False,
) -> Any:
    r"""The product ``A @ x`` of a TT-matrix and another train, rounded without being formed.

    Parameters
    ----------
    A : TTMatrix
    x : TTTensor of shape ``A.col_modes``, or TTMatrix of such row modes
    eps, max_rank, full_output
        As in `TTTensor.round`.
    method : {'exact', 'zipup', 'randomized', 'als'}
        'exact': with the guarantee of `TTTensor.round`. 'randomized': a random sketch whose size
        doubles until probes find the error small enough. 'zipup': one sweep that truncates on the
        way; quick, and good where both factors are well-conditioned. 'als': that, then sweeps which
        fit one core after the other; the smallest error for a given ``max_rank``.
    rng : seed or Generator
        For the sketch, and for the probes that estimate the error of all methods but 'exact'.

    Returns
    -------
    TTTensor or TTMatrix, or (train, Info)
        ``info.error`` is measured for 'exact', and for 'randomized' where rows are redundant to
        rounding and no sketch is needed; estimated by ten random probes otherwise.

    Raises
    ------
    TTShapeError, TTTypeError, TTValueError
        If the modes do not fit, or for an unusable option, or NaN or Inf in a core.

    Notes
    -----
    With ranks R of A, r of x and q of the result: 'exact' costs
    :math:`O(d n (R r)^2 (r + R n))` operations, with one array of up to :math:`n (R r)^2` numbers
    at a time; the others :math:`O(d n\, q\, R r (r + R n + q))`.

    Examples
    --------
    >>> import ttcore as tt
    >>> A = tt.random_matrix((4,) * 6, (4,) * 6, 3, rng=0)
    >>> x = tt.random((4,) * 6, 3, rng=1)
    >>> y, info = tt.matmul(A, x, max_rank=5, method="als", rng=0, full_output=True)
    >>> (A @ x).ranks[3], y.ranks[3], info.error_kind
    (9, 5, 'estimate')
    """
    if not isinstance(A, TTMatrix) or not isinstance(x, TTMatrix | TTTensor):
        raise TTTypeError(
            f"matmul takes a TTMatrix and a TTTensor or TTMatrix, but got {kind(A)} and {kind(x)}"
        )
    check_same_library((A.cores[0], x.cores[0]), "the two trains")
    modes = x.row_modes if isinstance(x, TTMatrix) else x.shape
    if modes != A.col_modes:
        raise TTShapeError(
            f"A has col_modes {A.col_modes}, x the modes {modes}; they must be equal"
        )
    columns = x.col_modes if isinstance(x, TTMatrix) else (1,) * len(modes)
    left, right = _prepared((A._flat, x._flat), method)
    operand = Composed(_four_way(left, A.row_modes, A.col_modes), _four_way(right, modes, columns))
    flat, info, center = _approximate(operand, method, eps, max_rank, rng)
    train: Any = (
        TTMatrix._made(_four_way(flat, A.row_modes, columns), center)
        if isinstance(x, TTMatrix)
        else TTTensor._made(flat, center)
    )
    return (train, info) if full_output else train


def _four_way(flat: Cores, rows: Sequence[int], cols: Sequence[int]) -> Cores:
    """Cores (r, m n, r') as (r, m, n, r')."""
    xp = namespace(*flat)
    return tuple(
        xp.reshape(g, (g.shape[0], m, n, g.shape[2]))
        for g, m, n in zip(flat, rows, cols, strict=True)
    )


def _prepared(pair: tuple[Cores, Cores], method: str) -> tuple[Cores, Cores]:
    """Both trains in one dtype; right-orthogonal, for the methods that rely on it."""
    if method not in METHODS:
        raise TTValueError(
            f"method={method!r} is unknown; choose {', '.join(map(repr, METHODS[:-1]))} or "
            f"{METHODS[-1]!r}"
        )
    d = len(pair[0])
    both = common((*pair[0], *pair[1]))
    x, y = both[:d], both[d:]
    if method in {"zipup", "als"}:
        return orthogonalize(x, 0)[0], orthogonalize(y, 0)[0]
    return x, y


def _approximate(
    operand: Operand, method: str, eps: float | None, max_rank: Any, rng: RNG
) -> Rounded:
    if method == "exact":
        return round_operand(operand, eps=eps, max_rank=max_rank)
    if method == "randomized":
        return round_randomized(operand, eps=eps, max_rank=max_rank, rng=rng)
    return (als if method == "als" else zip_up)(operand, eps=eps, max_rank=max_rank, rng=rng)
