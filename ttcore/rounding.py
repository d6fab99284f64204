"""Rounding of trains, and of sums and products of trains that are never formed.

A train is rounded from the left. Before a bond is cut, the cores on its left are orthonormal, and
the part on its right enters through a small matrix W alone, W W^H being the Gram matrix of its
rows: the best truncation of M W is the best one of the whole unfolding. The methods differ in how
they come by W.

Sources: I. V. Oseledets, Tensor-Train Decomposition, SIAM J. Sci. Comput. 33(5), 2011; H. Al Daas,
G. Ballard, L. Manning, Parallel Tensor Train Rounding using Gram SVD, IPDPS 2022.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple, TypeGuard, overload

import numpy as np

from ttcore.arrays import (
    adjoint,
    default_device_like,
    detached,
    namespace,
    rounding_unit,
)
from ttcore.cores import ranks_of
from ttcore.errors import TTValueError
from ttcore.leading import WIDTH, leading, within
from ttcore.operands import Formed, Operand, beginning_again, edge, first_core
from ttcore.orthogonal import reversed_cores, times_left
from ttcore.rowspace import distortion, factor, of_few, spans_more
from ttcore.scaling import absorb, ldexp, moderate
from ttcore.sketching import CONFIDENCE, FIRST, PROBES, sketch
from ttcore.small import is_small, round_small
from ttcore.truncation import Info, check_eps, check_max_rank, noise, per_bond
from ttcore.typing import RNG, Array, Cores

METHODS = ("svd", "gram", "randomized")
SKETCHED = FIRST + PROBES  # vectors with which a sketch begins

Rounded = tuple[Cores, Info, int | None]


def round_cores(
    cores: Cores,
    *,
    eps: float | None = None,
    max_rank: int | Sequence[int] | None = None,
    atol: float = 0.0,
    method: str = "svd",
    rng: RNG = None,
    center: int | None = None,
) -> Rounded:
    """A train of smaller ranks close to the given one; the options are those of `TTTensor.round`.

    Parameters
    ----------
    cores : tuple of arrays (r, n, r')
    center : int, optional
        The orthogonality centre of ``cores`` where one is known; saves work.

    Returns
    -------
    cores : tuple of arrays (r, n, r')
    info : Info
    center : int or None
        Orthogonality centre of the result; None where its norm is too far out of range for one
        core.
    """
    if method not in METHODS:
        raise TTValueError(
            f"method={method!r} is unknown; choose {', '.join(map(repr, METHODS[:-1]))} or "
            f"{METHODS[-1]!r}"
        )
    if method == "randomized":
        return round_randomized(Formed(cores), eps=eps, max_rank=max_rank, atol=atol, rng=rng)
    d = len(cores)
    if center is not None and 2 * center >= d:  # from that end more cores are known orthonormal
        turned, info, new = round_operand(
            Formed(reversed_cores(cores)),
            eps=eps,
            max_rank=None if max_rank is None else check_max_rank(max_rank, d)[::-1],
            atol=atol,
            method=method,
            center=d - 1 - center,
        )
        info = replace(info, ranks=info.ranks[::-1], discarded=info.discarded[::-1])
        return reversed_cores(turned), info, None if new is None else d - 1 - new
    return round_operand(
        Formed(cores), eps=eps, max_rank=max_rank, atol=atol, method=method, center=center
    )


class _Right(NamedTuple):
    """What is right of the bonds of an operand: factors, and the tail of another train.

    factors : dict of (W, e)
        2**e W has the Gram matrix of the rows right of a bond; none for bonds inside of the tail.
    tail : dict of arrays (r, n, r')
        Cores up to the end, or to ``loose``, which take the place of the operand's: they have the
        orthonormal rows V with which 2**e W V is what is right of the first one's bond.
    """

    factors: dict[int, tuple[Array, int]]
    tail: dict[int, Array]


@beginning_again
def round_operand(
    operand: Operand,
    *,
    eps: float | None = None,
    max_rank: Any = None,
    atol: float = 0.0,
    method: str = "svd",
    center: int | None = None,
) -> Rounded:
    """A train close to ``operand``, with the guarantee; see `round_cores`."""
    d = len(operand.modes)
    eps, atol = check_eps(eps), check_eps(atol, "atol")
    caps = check_max_rank(max_rank, d)
    if isinstance(operand, Formed) and center is None and is_small(operand):
        return round_small(*operand.tamed(), eps, caps, atol, method)
    loose = d if center is None else center + 1  # cores from here on are orthonormal
    by_gram = method == "gram"
    right = _right_factors(operand, loose, by_gram=by_gram)
    # compiled Gram matrices are of few rows too
    some_by_gram = by_gram or (isinstance(operand, Formed) and operand.is_heavy)
    distorted = sum(distortion(rank, by_gram=some_by_gram) for rank in operand.ranks[1:loose])
    trust = 1.0 - min(0.5, distorted)
    return _truncated(
        operand, right, trust * per_bond(eps, d), trust * per_bond(atol, d), caps, method
    )


@beginning_again
def _round_redundant(operand: Operand, eps: float, caps: Any, atol: float) -> Rounded | None:
    """As `round_operand`, if the rows right of every bond are redundant; None, soon, if not."""
    d = len(operand.modes)
    right = _right_factors(operand, d, all_few=True)
    if right is None:
        return None
    return _truncated(operand, right, per_bond(eps, d), per_bond(atol, d), caps, "randomized")


class _Cut(NamedTuple):
    """Orthonormal columns, what they miss, and their adjoint times the rows left of the bond."""

    vectors: Array
    missed: float
    t: Array


def _is_cut(operand: Operand, right: _Right, k: int, t: Array, columns: int) -> TypeGuard[Formed]:
    """Whether t times core k is cut in one call: behind a factor, and before a core to go on with.

    Not the first core: its norm tells what may be missed.
    """
    if k == 0 or k + 1 in right.tail or k + 1 not in right.factors:
        return False
    return isinstance(operand, Formed) and operand.is_cut(k, t, right.factors[k + 1][0], columns)


def _in_one_call(
    operand: Formed, k: int, t: Array, w: Array, columns: int, budget: float, cap: float
) -> _Cut | None:
    """The leading vectors of t times core k times w; None if so many combinations do not do."""
    found = operand.cut(k, t, w, columns)
    if found is None:
        return None
    q, back, inside, size, rest = found
    least = noise(min(q.shape[0], w.shape[1]), rounding_unit(w)) * size
    inner = within(inside, rest, max(budget, least), cap)
    if inner is None:
        return None
    vectors = inner.vectors.astype(q.dtype, copy=False)
    return _Cut(q @ vectors, inner.missed, vectors.T @ back)


def _truncated(
    operand: Operand, right: _Right, eps: float, atol: float, caps: Any, method: str
) -> Rounded:
    """The sweep from the left; eps, relative, and atol are for each bond.

    The bases are found out of autograd's reach: gradients flow through the projections alone, and
    are those of the identity where nothing is discarded.
    """
    xp = namespace(operand.like)
    d = len(operand.modes)
    done: list[Array] = []
    lost: list[tuple[float, int]] = []
    t, exponent = edge(operand.like), 0
    size, origin, budget = 0.0, 0, 0.0  # norm = size * 2**origin
    columns = WIDTH  # of a sketch in one call

    def product(k: int) -> tuple[Array, int]:
        if k == 0:
            return first_core(operand)
        return moderate(times_left(t, right.tail[k]) if k in right.tail else operand.left(k, t))

    for k in range(d - 1):
        w, shift = right.factors.get(k + 1, (None, 0))
        cut = None
        if _is_cut(operand, right, k, t, columns):
            t, step = moderate(t)
            exponent += step
            now = exponent + shift
            cut = _in_one_call(operand, k, t, w, columns, ldexp(budget, origin - now), caps[k])
            columns *= 1 if cut else 2
        if cut is None:
            left, step = product(k)
            r, n, s = left.shape
            rows = xp.reshape(left, (r * n, s))
            # both factors are near unit size, the product need not be: its squares must not vanish
            seen, small = moderate(detached(rows) if w is None else detached(rows) @ w)
            exponent += step
            now = exponent + shift + small
            if k == 0:
                size, origin = float(xp.linalg.vector_norm(seen)), now
                budget = max(eps * size, ldexp(atol, -origin))
                budget = min(budget, 2.0 * size)  # more than all there is
            found = leading(
                seen, ldexp(budget, origin - now), caps[k], f"the unfolding at bond {k}"
            )
            if k + 1 in right.tail:
                exponent, rows = now, seen
            cut = _Cut(*found, adjoint(found.vectors) @ rows)
        lost.append((cut.missed, now))
        rank = cut.vectors.shape[1]
        done.append(xp.reshape(cut.vectors, (t.shape[0], operand.modes[k], rank)))
        t = cut.t
    left, step = product(d - 1)
    exponent += step
    rounded, new_center = absorb([*done, left], exponent, d - 1)
    error = math.hypot(*(ldexp(tail, now - origin) for tail, now in lost)) / size if size else 0.0
    discarded = tuple(ldexp(tail, now) for tail, now in lost)
    return rounded, Info(error, "measured", ranks_of(rounded), discarded, method), new_center


@overload
def _right_factors(operand: Operand, loose: int, *, by_gram: bool) -> _Right: ...
@overload
def _right_factors(operand: Operand, loose: int, *, all_few: Literal[True]) -> _Right | None: ...
def _right_factors(
    operand: Operand, loose: int, *, by_gram: bool = False, all_few: bool = False
) -> _Right | None:
    """Of all bonds before ``loose``; with ``all_few``, None unless few rows span all of them."""
    xp, like = namespace(operand.like), operand.like
    d = len(operand.modes)
    last = min(loose, d)
    rank = operand.ranks[last]
    right = xp.eye(rank, dtype=like.dtype, **default_device_like(like))
    exponent = 0
    factors: dict[int, tuple[Array, int]] = {}
    tail: dict[int, Array] = {}
    basis: dict[int, Array] = {}  # of all bonds from the end on that have one
    trusted = True  # one Gram matrix a core
    for k in range(last - 1, 0, -1):
        if all_few and (
            right.shape[1] > SKETCHED or (not tail and _is_hopeless(operand, k, right))
        ):
            return None  # as much work as a sketch, or no sign of few
        if trusted and not (all_few or tail) and _is_one_call(operand, k, right):
            found = operand.factored(k, right)
            if found is not None:
                right, after = moderate(found)
                exponent += after
                factors[k] = right, exponent
                continue
            trusted = False  # where one Gram matrix is not enough, the next ones seldom are
        rows = detached(operand.right(k, right))
        r, n, p = rows.shape
        rows, before = moderate(xp.reshape(rows, (r, n * p)))
        few = of_few(rows, right.shape[1])
        if few is None and all_few:
            return None
        if few is not None and len(basis) == last - 1 - k:
            basis[k] = xp.reshape(few.basis, (few.basis.shape[0], n, p))
            if n * p > r:  # else the basis is the identity, behind which noise is taken for data
                tail = dict(basis)
                factors.clear()
        right, after = moderate(few.w if few is not None else factor(rows, by_gram=by_gram))
        exponent += before + after
        factors[k] = right, exponent
    return _Right(factors, tail)


def _is_one_call(operand: Operand, k: int, right: Array) -> TypeGuard[Formed]:
    """Whether core k times ``right`` is for `Formed.factored`, and few rows do not span it."""
    formed = isinstance(operand, Formed) and operand.is_factored(k, right)
    return formed and _is_hopeless(operand, k, right)


def _is_hopeless(operand: Operand, k: int, right: Array) -> bool:
    """Whether few rows very likely do not span what core k, times ``right``, has."""
    return isinstance(operand, Formed) and spans_more(operand.cores[k], right, right.shape[1])


def round_randomized(
    operand: Operand,
    *,
    eps: float | None = None,
    max_rank: int | Sequence[int] | None = None,
    atol: float = 0.0,
    rng: RNG = None,
) -> Rounded:
    """Half of the squared budget for a sketch, the rest for the truncation of what it found.

    Where rows are redundant to rounding, no sketch is needed, and the error is measured.
    """
    eps, atol = check_eps(eps), check_eps(atol, "atol")
    caps = check_max_rank(max_rank, len(operand.modes))
    if (redundant := _round_redundant(operand, eps, caps, atol)) is not None:
        return redundant
    half = math.sqrt(0.5)

    def allowed(size: int, value: float, exponent: int) -> float:
        """Relative error that a sketch may have whose result has norm ``value * 2**exponent``."""
        absolute = ldexp(atol / value, -exponent) if value else math.inf
        return half * max(eps, absolute, noise(size, rounding_unit(operand.like))) / CONFIDENCE

    found = sketch(operand, max(caps, default=1), allowed, np.random.default_rng(rng))
    missed = math.hypot(*found.missed)
    sketched, center = absorb(found.cores, found.exponent, len(found.cores) - 1)
    share = half if missed else 1.0
    rounded, info, center = round_cores(
        sketched, eps=share * eps, max_rank=max_rank, atol=share * atol, center=center
    )
    left = math.sqrt(max(1.0 - missed**2, 2.0**-53))  # norm of what was sketched, relative
    lost = [ldexp(part * found.size / left, found.exponent) for part in found.missed]
    return (
        rounded,
        Info(
            min(math.hypot(info.error * left, missed), 1.0) if missed else info.error,
            "estimate" if missed else "measured",
            info.ranks,
            tuple(map(math.hypot, info.discarded, lost)),
            "randomized",
        ),
        center,
    )
