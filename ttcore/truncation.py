"""What an approximation may discard, the rank that allows, and the report of what was done."""

import math
import numbers
import operator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ttcore.arrays import host
from ttcore.errors import TTShapeError, TTTypeError, TTValueError
from ttcore.typing import Array

PRECISION = 16.0  # least noise of a factorisation, in units of the roundoff


@dataclass(frozen=True, slots=True)
class Info:
    """What an approximation did, returned with ``full_output=True``.

    Attributes
    ----------
    error : float
        Frobenius norm of the difference, relative to the norm of what was approximated.
    error_kind : {'measured', 'bound', 'estimate'}
        'measured': equal to the error up to rounding; 'bound': not smaller than it; 'estimate':
        the value of a random sketch, right with high probability.
    ranks : tuple of int
        The d + 1 ranks of the result.
    discarded : tuple of float
        Frobenius norm of what was discarded at each of the d - 1 bonds, on the scale of the data
        (inf or 0 beyond range); NaN where the method does not cut one bond after the other.
    method : str
        The algorithm that ran.
    """

    error: float
    error_kind: str
    ranks: tuple[int, ...]
    discarded: tuple[float, ...]
    method: str


def check_eps(eps: Any, name: str = "eps") -> float:
    """``eps`` as a float >= 0; None becomes 0.

    Raises
    ------
    TTTypeError, TTValueError
        If it is no real number, negative or NaN.
    """
    if eps is None:
        return 0.0
    if not isinstance(eps, numbers.Real) or isinstance(eps, bool):
        raise TTTypeError(f"{name}={eps!r} is no real number; give a number such as {name}=1e-6")
    value = float(eps)
    if not 0.0 <= value < math.inf:
        raise TTValueError(f"{name}={value} must be a finite number >= 0, such as {name}=1e-6")
    return value


def check_max_rank(max_rank: Any, d: int) -> tuple[float, ...]:
    """``max_rank`` (None, an int, or one int per bond) as d - 1 caps, inf where there is none.

    Raises
    ------
    TTTypeError, TTValueError, TTShapeError
        If it is something else, below 1, or of another length than d - 1.
    """
    if max_rank is None:
        return (math.inf,) * (d - 1)
    try:
        caps = (operator.index(max_rank),) * (d - 1)
        smallest = operator.index(max_rank)
    except TypeError:
        try:
            caps = tuple(operator.index(r) for r in max_rank)
        except TypeError as error:
            raise TTTypeError(
                f"max_rank={max_rank!r} is no int or sequence of ints, one per bond"
            ) from error
        if len(caps) != d - 1:
            raise TTShapeError(
                f"max_rank has {len(caps)} entries, but {d} cores have {d - 1} bonds; give one "
                "int, or one per bond"
            ) from None
        smallest = min(caps, default=1)
    if smallest < 1:
        raise TTValueError(f"max_rank={max_rank} allows a rank below 1; ranks are at least 1")
    return caps


def per_bond(eps: float, d: int) -> float:
    """Relative tail that each of d - 1 bonds may discard: the squares sum to eps**2."""
    return eps / math.sqrt(max(d - 1, 1))


def noise(k: int, unit: float) -> float:
    """Relative size of what rounding alone puts into k singular values: always discarded."""
    return max(PRECISION, 2.0 * math.sqrt(k)) * unit


def choose_rank(singular_values: Array, budget: float, cap: float) -> tuple[int, float]:
    """Smallest rank >= 1 whose discarded tail has norm <= ``budget``, but at most ``cap``.

    And the norm of that tail.

    Parameters
    ----------
    singular_values : (k,) array
        Descending.
    """
    squares = np.asarray(host(singular_values), dtype=np.float64) ** 2
    tails = np.append(np.cumsum(squares[::-1])[::-1], 0.0)  # tails[r]: what rank r discards
    allowed = np.flatnonzero(np.sqrt(tails[1:]) <= budget)
    rank = int(min(allowed[0] + 1 if allowed.size else squares.size, cap))
    return rank, math.sqrt(tails[rank])
