"""Choose modes: split an integer, or the two sides of a matrix, into near-equal factors.

The rule, in order:

1. Prime factors stay whole. The primes, largest first, are each multiplied onto the smallest mode
   so far, which gives near-equal modes for any wanted number of them.
2. The number of modes is the one that keeps modes closest to the band 4 to 8: a mode ``m`` outside
   it costs the factor ``m / 8`` or ``4 / m``, a mode of 1 costs nothing, and the product of the
   costs is made smallest.
3. Among equals the most even split wins (smallest ratio of largest to smallest mode), then the one
   with more modes.

Modes come out largest first. Both sides of a matrix are ordered the same way, so that a square
matrix has equal row and column modes: only then is the identity a train of rank 1.

Balanced modes of about 4 to 8 are what the TensorNet papers recommend: A. Novikov,
D. Podoprikhin, A. Osokin, D. Vetrov, "Tensorizing Neural Networks", NIPS 2015.
"""

from collections.abc import Sequence
from fractions import Fraction
from math import prod

from ttcore.errors import TTValueError

__all__ = ["auto_matrix_modes", "auto_modes", "near_equal_modes", "prime_factors"]

_SMALLEST, _LARGEST = 4, 8


def prime_factors(n: int) -> tuple[int, ...]:
    r"""Prime factors of ``n`` with their multiplicities, largest first.

    Parameters
    ----------
    n : int
        At least 1.

    Returns
    -------
    tuple of int
        Empty for 1.

    Raises
    ------
    TTValueError
        If ``n`` is below 1.

    Notes
    -----
    Trial division, :math:`O(\sqrt{n})` steps at worst: instant for arrays that fit in memory.

    Examples
    --------
    >>> prime_factors(25088)
    (7, 7, 2, 2, 2, 2, 2, 2, 2, 2, 2)
    """
    if n < 1:
        raise TTValueError(f"cannot factorise {n}; expected an integer of at least 1")
    factors = []
    divisor = 2
    while divisor * divisor <= n:
        while n % divisor == 0:
            factors.append(divisor)
            n //= divisor
        divisor += 1 if divisor == 2 else 2
    if n > 1:
        factors.append(n)
    return tuple(reversed(factors))


def near_equal_modes(n: int, count: int) -> tuple[int, ...]:
    """Split ``n`` into ``count`` modes that are as equal as whole prime factors allow.

    Parameters
    ----------
    n : int
        At least 1.
    count : int
        How many modes, at least 1. Where ``n`` has fewer prime factors, the last modes are 1.

    Returns
    -------
    tuple of int
        ``count`` modes, largest first, whose product is ``n``.

    Raises
    ------
    TTValueError
        If ``n`` or ``count`` is below 1.

    Examples
    --------
    >>> near_equal_modes(25088, 6), near_equal_modes(7, 2)
    ((8, 7, 7, 4, 4, 4), (7, 1))
    """
    if count < 1:
        raise TTValueError(f"cannot split {n} into {count} modes; expected a count of at least 1")
    modes = [1] * count
    for prime in prime_factors(n):
        modes[modes.index(min(modes))] *= prime
    return tuple(sorted(modes, reverse=True))


def auto_modes(n: int) -> tuple[int, ...]:
    """Split ``n`` into modes of about 4 to 8; primes stay whole.

    Parameters
    ----------
    n : int
        At least 1.

    Returns
    -------
    tuple of int
        Modes, largest first, whose product is ``n``; ``(1,)`` for 1.

    Raises
    ------
    TTValueError
        If ``n`` is below 1.

    See Also
    --------
    auto_matrix_modes : The two sides of a matrix, with equally many modes.

    Examples
    --------
    >>> auto_modes(784), auto_modes(3072), auto_modes(2 * 3 * 101)
    ((7, 7, 4, 4), (8, 8, 8, 6), (101, 6))
    """
    return _best_split((n,))[0]


def auto_matrix_modes(rows: int, cols: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Split both sides of a matrix into equally many modes of about 4 to 8.

    Parameters
    ----------
    rows, cols : int
        The shape of the matrix, at least 1 each.

    Returns
    -------
    row_modes, col_modes : tuple of int
        Of equal length; a side with too few prime factors ends in modes of 1.

    Raises
    ------
    TTValueError
        If a side is below 1.

    Examples
    --------
    >>> auto_matrix_modes(4096, 25088)
    ((4, 4, 4, 4, 4, 4), (8, 7, 7, 4, 4, 4))
    """
    row_modes, col_modes = _best_split((rows, cols))
    return row_modes, col_modes


def _best_split(sizes: Sequence[int]) -> list[tuple[int, ...]]:
    """Split every size into the same number of modes, chosen by rules 2 and 3 of the module."""
    most = max(1, *(len(prime_factors(n)) for n in sizes))
    candidates = [[near_equal_modes(n, count) for n in sizes] for count in range(1, most + 1)]
    return min(candidates, key=lambda split: (_cost(split), _unevenness(split), -len(split[0])))


def _cost(split: Sequence[Sequence[int]]) -> Fraction:
    """How far the modes lie outside the band, as a product of factors of at least 1."""
    outside = (
        max(Fraction(m, _LARGEST), Fraction(_SMALLEST, m), Fraction(1))
        for modes in split
        for m in modes
        if m > 1
    )
    return prod(outside, start=Fraction(1))


def _unevenness(split: Sequence[Sequence[int]]) -> Fraction:
    """Product over the sides of largest mode over smallest; modes of 1 do not count."""
    return prod(
        (Fraction(max(modes), min((m for m in modes if m > 1), default=1)) for modes in split),
        start=Fraction(1),
    )
