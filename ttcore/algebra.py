"""Sums, products and contractions of trains, exact but for rounding, on three-way cores (r, n, r').

Source: I. V. Oseledets, Tensor-Train Decomposition, SIAM J. Sci. Comput. 33(5), 2295-2317, 2011.
"""

import cmath
import math
import operator
from collections.abc import Callable, Sequence
from functools import reduce
from itertools import groupby
from typing import Any

import numpy as np

from ttcore.arrays import (
    astype,
    common,
    conj,
    copied,
    default_device_like,
    dtype_name,
    is_complex,
    largest,
    namespace,
)
from ttcore.errors import TTShapeError, TTTypeError
from ttcore.kernels import dispatch
from ttcore.orthogonal import Norm, norm
from ttcore.scaling import (
    absorb,
    beside_each_other,
    ldexp,
    log_of,
    reach,
    room,
    tame,
    unit,
)
from ttcore.typing import Array, Cores

SWEPT, COPIED = 32, 4  # pairs of cores at once, and of such as have to be copied for that


def modes_of(cores: Cores) -> tuple[int, ...]:
    """The mode sizes."""
    return tuple(int(g.shape[1]) for g in cores)


def check_same_modes(x: Cores, y: Cores) -> None:
    """Raise TTShapeError unless both trains have the same modes."""
    if modes_of(x) != modes_of(y):
        raise TTShapeError(
            f"modes differ: one train has {modes_of(x)}, the other {modes_of(y)}; both need the "
            "same modes"
        )


def promoted(x: Cores, y: Cores) -> tuple[Cores, Cores]:
    """Both trains in their common dtype."""
    both = common((*x, *y))
    return both[: len(x)], both[len(x) :]


def broadcast(x: Cores, shape: Sequence[int]) -> Cores:
    """The train stretched to ``shape`` by NumPy's rules.

    Modes of 1 repeat, missing modes come from the left.
    """
    xp = namespace(*x)
    missing = len(shape) - len(x)
    one = xp.ones((1, 1, 1), dtype=x[0].dtype, **default_device_like(x[0]))
    stretched = (*(one,) * missing, *x)
    return tuple(
        g if g.shape[1] == n else copied(xp.broadcast_to(g, (g.shape[0], n, g.shape[2])))
        for g, n in zip(stretched, shape, strict=True)
    )


def broadcast_shapes(x: Cores, y: Cores) -> tuple[int, ...]:
    """Shape of an elementwise result; unlike NumPy's helper for any number of modes.

    Raises
    ------
    TTShapeError
        If two modes differ and neither is 1.
    """
    a, b = modes_of(x), modes_of(y)
    d = max(len(a), len(b))
    pairs = list(zip((1,) * (d - len(a)) + a, (1,) * (d - len(b)) + b, strict=True))
    for k, (n, m) in enumerate(pairs):
        if n != m and 1 not in {n, m}:
            raise TTShapeError(
                f"shapes {a} and {b} do not broadcast: mode {k} is {n} in one and {m} in the "
                "other; "
                "they must be equal, or one of them 1"
            )
    return tuple(max(pair) for pair in pairs)


def add(*trains: Cores) -> Cores:
    """Sum of trains of equal modes; ranks add up."""
    every = common([core for train in beside_each_other(trains)[0] for core in train])
    d = len(trains[0])
    cores = [every[k::d] for k in range(d)]  # those of the first mode, of the second, ...
    if d == 1:
        return (reduce(operator.add, cores[0]),)
    xp = namespace(*every)
    middle = [_block_diagonal(same) for same in cores[1:-1]]
    return (xp.concat(list(cores[0]), axis=2), *middle, xp.concat(list(cores[-1]), axis=0))


def _block_diagonal(cores: Sequence[Array]) -> Array:
    xp = namespace(*cores)
    n = cores[0].shape[1]
    place = {"dtype": cores[0].dtype, **default_device_like(cores[0])}
    width = sum(g.shape[2] for g in cores)
    rows, before = [], 0
    for g in cores:
        left = xp.zeros((g.shape[0], n, before), **place)
        before += g.shape[2]
        right = xp.zeros((g.shape[0], n, width - before), **place)
        rows.append(xp.concat([left, g, right], axis=2))
    return xp.concat(rows, axis=0)


def scale(
    x: Cores, c: Any, center: int | None = None, *, divide: bool = False
) -> tuple[Cores, int | None]:
    """``c * x``, or ``x / c``, for a Python number or a 0-d array of the train's library.

    And the orthogonality centre.

    The factor goes into the centre (the first core where none is known). If that would leave the
    range, its power of two is spread
    over all cores.
    """
    at = 0 if center is None else center
    size = abs(c) if isinstance(c, int | float | complex) else largest(c)
    exponent = math.frexp(size)[1] if math.isfinite(size) else 0
    grows = -exponent if divide else exponent
    room = reach(x[at])
    cores = list(x)
    if not math.isfinite(size) or size == 0:
        grows = 0
    elif len(x) > 1 and (abs(grows) >= room or abs(grows + math.frexp(largest(x[at]))[1]) >= room):
        half = exponent // 2  # in two steps: 2**-exponent alone may be out of range
        c = (c * 2.0**-half) * 2.0 ** (half - exponent)
    else:
        grows = 0
    cores[at] = cores[at] / c if divide else cores[at] * c
    if not grows:
        return tuple(cores), center
    cores[at], shift = unit(cores[at])
    return absorb(cores, grows + shift, center)


def multiply(x: Cores, y: Cores) -> Cores:
    """Elementwise product of two trains of equal modes; ranks multiply."""
    x, y = promoted(x, y)
    return products(x, y, _khatri_rao)


def _khatri_rao(g: Array, h: Array) -> Array:
    xp = namespace(g, h)
    (r, n, t), (s, _, u) = g.shape, h.shape
    return xp.reshape(g[:, None, :, :, None] * h[None, :, :, None, :], (r * s, n, t * u))


def products(x: Cores, y: Cores, product: Callable[[Array, Array], Array]) -> Cores:
    """The train of ``product`` of each pair of cores.

    The powers of two of cores beyond the middle of the range are set aside and spread.
    """
    cores, exponent = [], 0
    for pair in zip(x, y, strict=True):
        (g, a), (h, b) = map(tame, pair)
        cores.append(product(g, h))
        exponent += a + b
    return absorb(cores, exponent, None)[0] if exponent else tuple(cores)


def conjugate(x: Cores) -> Cores:
    """Complex conjugate."""
    return tuple(conj(g) for g in x)


def real_part(x: Cores) -> Cores:
    """Real part, of real dtype; the ranks of a complex train double."""
    return _part(x, imaginary=False)


def imaginary_part(x: Cores) -> Cores:
    """Imaginary part, of real dtype; of a real train it is zero."""
    if not is_complex(x[0]):
        xp = namespace(*x)
        return tuple(
            xp.zeros((1, g.shape[1], 1), dtype=g.dtype, **default_device_like(g)) for g in x
        )
    return _part(x, imaginary=True)


def _part(x: Cores, *, imaginary: bool) -> Cores:
    """(a + ib) G as the row [a, b] times the real core [[Re, Im], [-Im, Re]]."""
    if not is_complex(x[0]):
        return x
    xp = namespace(*x)
    pairs = [(xp.real(g), xp.imag(g)) for g in x]
    if len(x) == 1:
        return (pairs[0][1 if imaginary else 0],)
    cores = [xp.concat(list(pairs[0]), axis=2)]
    for re, im in pairs[1:-1]:
        cores.append(xp.concat([xp.concat([re, im], axis=2), xp.concat([-im, re], axis=2)], axis=0))
    re, im = pairs[-1]
    return (*cores, xp.concat([im, re] if imaginary else [re, -im], axis=0))


def cast(x: Cores, name: str) -> Cores:
    """The train in another dtype.

    Raises
    ------
    TTTypeError
        From complex to real, which would lose the imaginary part.
    """
    if is_complex(x[0]) and not name.startswith("complex"):
        raise TTTypeError(
            f"a {dtype_name(x[0].dtype)} train does not become {name} without loss; take .real "
            "or .imag first"
        )
    return tuple(astype(g, name) for g in x)


def inner(x: Cores, y: Cores) -> tuple[Any, int]:
    """Inner product, x conjugated, as ``(value, exponent)``: value * 2**exponent."""
    check_same_modes(x, y)
    x, y = promoted(x, y)
    xp = namespace(*x)
    interface = xp.ones((1, 1), dtype=x[0].dtype, **default_device_like(x[0]))
    exponent = 0
    for swept, group in groupby(zip(x, y, strict=True), lambda pair: dispatch.is_swept(*pair)):
        pairs = list(group)
        plain = swept and all(core.flags.c_contiguous for pair in pairs for core in pair)
        step = SWEPT if plain else COPIED
        for first in range(0, len(pairs), step):
            interface, shift = _past(interface, pairs[first : first + step], swept)
            exponent += shift
    return interface[0, 0], exponent


def _past(interface: Array, pairs: list[tuple[Array, Array]], swept: bool) -> tuple[Array, int]:
    """The interface behind some pairs of cores, and an exponent."""
    exponent, tamed = 0, False
    while pairs:
        if swept:
            interface, shift, done = dispatch.inner().sweep(interface, pairs, room(interface))
            exponent, pairs = exponent + shift, pairs[done:]
        if not pairs:
            break
        if not tamed:  # they may leave the range when they are squared
            found = [(tame(g), tame(h)) for g, h in pairs]
            pairs = [(g, h) for (g, _), (h, _) in found]
            exponent += sum(a + b for (_, a), (_, b) in found)
            tamed = True
        with np.errstate(all="ignore"):  # NaN passes without a word
            interface, shift = unit(dispatch.interfaces.advance(interface, *pairs[0]))
        exponent, pairs = exponent + shift, pairs[1:]
    return interface, exponent


def scalar(value: Any) -> Any:
    """A 0-d array as a Python float or complex."""
    return complex(value) if is_complex(value) else float(value)


def vdot(x: Cores, y: Cores) -> float | complex:
    r"""Inner product :math:`\sum_i \overline{x_i}\, y_i` of two TT-tensors.

    Parameters
    ----------
    x, y : tuple of arrays (r, n, r')
        Equal modes, any ranks; mixed dtypes promote. ``x`` is conjugated.

    Returns
    -------
    float or complex
        Inf only when the value itself is beyond range; `log_vdot` never is.

    Raises
    ------
    TTShapeError
        If the modes differ.

    Notes
    -----
    Left-to-right sweep; the interface :math:`P_k` has shape ``(r_k, s_k)`` and :math:`P_0 = [1]`:

    .. math:: P_{k+1} = \sum_i G_k(i)^* P_k H_k(i)

    Each interface is scaled by an exact power of two, so nothing overflows on the way. Time O(d n
    r^2 s) for r >= s.

    Examples
    --------
    >>> import numpy as np
    >>> from ttcore.algebra import vdot
    >>> ones = (np.ones((1, 3, 1)),) * 4
    >>> vdot(ones, ones)  # 3 ** 4 entries
    81.0
    """
    value, exponent = inner(x, y)
    return ldexp(scalar(value), exponent)  # type: ignore[no-any-return]


def log_vdot(x: Cores, y: Cores) -> tuple[float | complex, float]:
    """``(phase, log_abs)`` with vdot = phase * exp(log_abs); (0, -inf) for zero."""
    value, exponent = inner(x, y)
    number = scalar(value)
    if number == 0:
        return number, -math.inf
    phase = (
        cmath.rect(1.0, cmath.phase(number))
        if isinstance(number, complex)
        else math.copysign(1.0, number)
    )
    return phase, log_of(abs(number), exponent)


def distance(x: Cores, y: Cores) -> Norm:
    """Norm of the difference, by orthogonalisation: sqrt(vdot) could not see below 1e-8."""
    check_same_modes(x, y)
    return norm(add(x, scale(y, -1.0)[0]))
