"""Exact powers of two: how sweeps over thousands of cores stay in range.

A sweep carries an array of unit size and a Python int, ``array * 2**exponent``. Multiplying by a
power of two is exact, so scaling changes no result beyond range.
"""

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np

from ttcore.arrays import dtype_name, largest
from ttcore.factorisations import check_finite
from ttcore.typing import Array, Cores

NEAR = 16  # binary digits by which a norm may differ from 1 in a sweep
PIECE = 2**13  # entries of a dot product that BLAS leaves to one thread


def reach(x: Array) -> int:
    """Exponent up to which entries of the dtype, and their inverses, stay normal numbers."""
    return 120 if dtype_name(x.dtype) in {"float32", "complex64"} else 1000


def shifted(x: Array, exponent: int) -> Array:
    """``x * 2**exponent``, exact but for overflow and underflow."""
    limit = reach(x)
    while exponent:
        step = max(-limit, min(limit, exponent))
        x = x * 2.0**step
        exponent -= step
    return x


def unit_exponent(x: Array) -> int:
    """The e for which the largest entry of ``x * 2**-e`` is in [1/2, 1).

    0 for a zero or non-finite x.
    """
    size = largest(x)
    return math.frexp(size)[1] if math.isfinite(size) else 0


def unit(x: Array) -> tuple[Array, int]:
    """``(y, e)`` with ``x == y * 2**e``, the largest entry of y in [1/2, 1).

    A zero or non-finite x stays as it is.
    """
    exponent = unit_exponent(x)
    return shifted(x, -exponent), exponent


def moderate(x: Array) -> tuple[Array, int]:
    """``(x, 0)`` where the norm is within 2**NEAR of 1, `unit` of x otherwise.

    For sweeps, most of whose arrays are so: nothing is copied then.
    """
    exponent = _exponent_of_norm(x)
    return (x, 0) if exponent is not None and abs(exponent) <= NEAR else unit(x)


def _exponent_of_norm(core: Array) -> int | None:
    """The e for which the norm is in [2**(e-1), 2**e); None where that does not come cheaply.

    An ordinary C-contiguous array of NumPy is read once, in pieces so short that BLAS wakes no
    threads, which would stay awake in the way of our own.
    """
    if not isinstance(core, np.ndarray) or not core.flags.c_contiguous:
        return None
    flat = core.reshape(-1)
    whole = flat.size - flat.size % PIECE
    square = float(np.vdot(flat[whole:], flat[whole:]).real)
    if whole:
        pieces = flat[:whole].reshape(-1, PIECE)
        with np.errstate(all="ignore"):
            square += float(np.vecdot(pieces, pieces).sum().real)
    return math.frexp(math.sqrt(square))[1] if squares_in_range(core, square) else None


def squares_in_range(core: Array, square: float) -> bool:
    """Whether a core is ordinary whose squared entries have this sum."""
    return 1.0 / room(core) < square < room(core)


def room(core: Array) -> float:
    """What the squared entries of an ordinary core sum up to at most; its inverse, at least."""
    return float(2.0 ** (reach(core) // 2))


def is_ordinary(core: Array) -> bool:
    """Whether the core is surely finite, not zero, and its squares far from the ends of the range.

    False where that would need a copy, or is not NumPy's.
    """
    return _exponent_of_norm(core) is not None


def tame(core: Array, what: str | None = None) -> tuple[Array, int]:
    """``(core, 0)``, or ``(y, e)`` with ``core == y * 2**e`` where squares may leave the range.

    Raises
    ------
    TTValueError
        If the core holds NaN or Inf and has a name, ``what``.
    """
    if is_ordinary(core):
        return core, 0
    if what is not None:
        check_finite(core, what)
    exponent = unit_exponent(core)
    return (core, 0) if abs(exponent) <= reach(core) // 4 else (shifted(core, -exponent), exponent)


def tame_cores(cores: Cores) -> tuple[list[Array], int]:
    """Every core as by `tame`, and the sum of the exponents.

    Raises
    ------
    TTValueError
        If a core holds NaN or Inf, naming it.
    """
    pairs = [tame(core, f"core {k}") for k, core in enumerate(cores)]
    return [core for core, _ in pairs], sum(exponent for _, exponent in pairs)


def unit_cores(cores: Cores) -> tuple[list[Array], int]:
    """Every core brought to unit size, and the sum of the exponents.

    Raises
    ------
    TTValueError
        If a core holds NaN or Inf, naming it.
    """
    scaled, total = [], 0
    for k, core in enumerate(cores):
        check_finite(core, f"core {k}")
        small, exponent = unit(core)
        scaled.append(small)
        total += exponent
    return scaled, total


def evened(cores: Sequence[Array]) -> Cores:
    """The same train, with the scale spread evenly where a core is far from unit size.

    Trains that stand beside each other in the blocks of a sum must not carry their scales in
    different cores.
    """
    return tuple(map(shifted, cores, evening(cores)))


def evening(cores: Sequence[Array]) -> list[int]:
    """The exponents of the powers of two by which `evened` multiplies the cores; they sum to 0."""
    return _evening(cores, [exponent for exponent, _ in map(_sized, cores)])


def _evening(cores: Sequence[Array], exponents: list[int]) -> list[int]:
    room = reach(cores[0]) // 16
    if max(map(abs, (*exponents, *accumulate(exponents)))) <= room:
        return [0] * len(exponents)
    share, rest = divmod(sum(exponents), len(cores))
    return [share + (k < rest) - exponent for k, exponent in enumerate(exponents)]


def _sized(core: Array) -> tuple[int, bool]:
    """Exponent of the norm or of the largest entry, and whether the core `is_ordinary`.

    The two exponents differ by little beside the range.
    """
    exponent = _exponent_of_norm(core)
    return (unit_exponent(core), False) if exponent is None else (exponent, True)


def beside_each_other(trains: Sequence[Cores]) -> tuple[list[Cores], bool]:
    """The trains, each evened, as the blocks of a sum need them; and whether all are tame as is.

    A train with a core of zeros vanishes whatever its other cores are: these are brought to the
    size of those that they will stand beside, and the zeros take what that changes.
    """
    if len(trains[0]) == 1:
        return [tuple(cores) for cores in trains], False
    sized = [[_sized(core) for core in cores] for cores in trains]
    exponents = [[exponent for exponent, _ in cores] for cores in sized]
    shifts = [_evening(cores, own) for cores, own in zip(trains, exponents, strict=True)]
    zeros = [
        next((k for k, (_, ordinary) in enumerate(own) if not ordinary and _is_zero(x[k])), None)
        for x, own in zip(trains, sized, strict=True)
    ]
    sizes = [
        [e + s for e, s in zip(own, shift, strict=True)]
        for own, shift, zero in zip(exponents, shifts, zeros, strict=True)
        if zero is None
    ]
    for own, shift, zero in zip(exponents, shifts, zeros, strict=True):
        if zero is not None and sizes:
            shift[:] = [
                min(site) - e for site, e in zip(zip(*sizes, strict=True), own, strict=True)
            ]
            shift[zero] -= sum(shift)
    if not any(any(shift) for shift in shifts):
        tame_as_is = all(ordinary for own in sized for _, ordinary in own)
        return [tuple(cores) for cores in trains], tame_as_is
    return [tuple(map(shifted, x, shift)) for x, shift in zip(trains, shifts, strict=True)], False


def _is_zero(core: Array) -> bool:
    return largest(core) == 0


def absorb(cores: list[Array], exponent: int, center: int | None) -> tuple[Cores, int | None]:
    """The train ``cores * 2**exponent``, and its orthogonality centre if it still has one.

    The power goes into the core ``center`` (core 0 where none is known) as long as its entries stay
    well inside the range, and
    is spread evenly over all cores otherwise; then no core but those of a zero exponent keeps
    orthonormal rows or
    columns, and the centre is None.
    """
    at = 0 if center is None else center
    room = reach(cores[at]) - 20
    if abs(exponent) <= room and abs(math.frexp(largest(cores[at]))[1] + exponent) <= room:
        cores[at] = shifted(cores[at], exponent)
        return tuple(cores), center
    return spread(cores, exponent), None


def spread(cores: Sequence[Array], exponent: int) -> Cores:
    """The train ``cores * 2**exponent``, every core taking its share of the power."""
    share, rest = divmod(exponent, len(cores))
    return tuple(shifted(core, share + (k < rest)) for k, core in enumerate(cores))


def ldexp(value: Any, exponent: int) -> Any:
    """``value * 2**exponent`` for a Python float or complex; Inf beyond range, without an error."""
    if isinstance(value, complex):
        return complex(ldexp(value.real, exponent), ldexp(value.imag, exponent))
    try:
        return math.ldexp(value, exponent)
    except OverflowError:
        return math.copysign(math.inf, value)


def log_of(value: float, exponent: int) -> float:
    """Natural logarithm of ``value * 2**exponent``; -inf for zero."""
    return math.log(value) + exponent * math.log(2.0) if value else -math.inf
