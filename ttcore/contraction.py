"""Modes summed away, and trains multiplied out, on three-way cores (r, n, r')."""

import operator
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

from ttcore.algebra import modes_of
from ttcore.arrays import as_array, check_same_library, common, default_device_like, namespace
from ttcore.errors import TTIndexError, TTShapeError, TTTypeError, TTValueError
from ttcore.orthogonal import times_left, times_right
from ttcore.scaling import absorb, unit
from ttcore.typing import Array, Cores


def check_axes(axis: Any, d: int) -> tuple[int, ...]:
    """NumPy's ``axis`` argument (None, an int, a tuple.

    Negative ones count from the end) as sorted axes.

    Raises
    ------
    TTIndexError, TTValueError, TTTypeError
        If an axis is out of range, named twice, or no int.
    """
    if axis is None:
        return tuple(range(d))
    try:
        axes = (
            [operator.index(axis)]
            if not isinstance(axis, tuple | list)
            else [operator.index(a) for a in axis]
        )
    except TypeError as error:
        raise TTTypeError(f"axis={axis!r} is no int or tuple of ints") from error
    for a in axes:
        if not -d <= a < d:
            raise TTIndexError(f"axis {a} is out of range for {d} modes; expected {-d}..{d - 1}")
    found = sorted(a % d for a in axes)
    if len(set(found)) < len(found):
        raise TTValueError(
            f"axis={axis} names axis {next(a for a in found if found.count(a) > 1)} twice; name "
            "each once"
        )
    return tuple(found)


def contract_modes(x: Cores, weights: dict[int, Array]) -> Cores | tuple[Any, int]:
    """Weighted sums over the modes that ``weights`` names, by vectors (n,).

    Returns the train of the other modes, or ``(value, exponent)`` where none is left.
    """
    xp = namespace(*x)
    matrices = {}
    for k, vector in weights.items():
        r, n, s = x[k].shape
        columns = xp.reshape(xp.permute_dims(x[k], (0, 2, 1)), (r * s, n))
        matrices[k] = xp.reshape(columns @ vector, (r, s))
    return absorb_matrices(x, matrices)


def absorb_matrices(x: Cores, matrices: dict[int, Array]) -> Cores | tuple[Any, int]:
    """The train without the cores that ``matrices`` (r, r') replace, each multiplied into the next.

    Returns ``(value, exponent)`` where no core is left.
    """
    kept: list[Array] = []
    exponent = 0
    pending: Array = None  # the product of matrices that waits for a core on its right
    for k, core in enumerate(x):
        if k in matrices:
            matrix = matrices[k]
            pending, shift = unit(matrix if pending is None else pending @ matrix)
            exponent += shift
        else:
            kept.append(core if pending is None else times_left(pending, core))
            pending = None
    if not kept:
        return pending[0, 0], exponent
    if pending is not None:
        kept[-1] = times_right(kept[-1], pending)
    return absorb(kept, exponent, None)[0]


def check_vectors(x: Cores, vectors: Any) -> tuple[Cores, dict[int, Array]]:
    """The cores and ``{axis: vector}`` in their common dtype, axes made positive.

    Raises
    ------
    TTTypeError, TTIndexError, TTShapeError
        If it is no mapping, there is no such axis, or a vector does not fit its mode.
    """
    if not isinstance(vectors, Mapping) or not vectors:
        raise TTTypeError(f"contract takes {{axis: vector, ...}}, but got {vectors!r}")
    axes = [check_axes(axis, len(x))[0] for axis in vectors]
    if len(set(axes)) < len(axes):
        raise TTValueError(f"axes {list(vectors)} name a mode twice; name each once")
    arrays = [as_array(v, f"the vector of axis {axis}") for axis, v in vectors.items()]
    for axis, v in zip(axes, arrays, strict=True):
        if tuple(v.shape) != (x[axis].shape[1],):
            raise TTShapeError(
                f"the vector of axis {axis} has shape {tuple(v.shape)}, expected "
                f"({int(x[axis].shape[1])},), the size of the mode"
            )
    check_same_library((*x, *arrays), "the train and the vectors")
    every = common((*x, *arrays))
    return every[: len(x)], dict(zip(axes, every[len(x) :], strict=True))


def uniform_weights(x: Cores, axes: Sequence[int], *, average: bool) -> dict[int, Array]:
    """Vectors of ones, or of 1 / n, for the modes in ``axes``."""
    xp = namespace(*x)
    found = {}
    for k in axes:
        n = int(x[k].shape[1])
        found[k] = xp.full(
            (n,), 1.0 / n if average else 1.0, dtype=x[k].dtype, **default_device_like(x[k])
        )
    return found


def expand(x: Cores) -> Array:
    """The dense array, flat: (n_1 ... n_d,).

    The two ends are multiplied out towards the bond where they are smallest together.
    """
    xp = namespace(*x)
    pairs = [unit(core) for core in x]
    cores, _ = absorb([core for core, _ in pairs], sum(shift for _, shift in pairs), None)
    if len(cores) == 1:
        return xp.reshape(x[0], (x[0].shape[1],))
    sizes = list(accumulate(modes_of(cores), operator.mul, initial=1))
    middle = min(
        range(1, len(cores)),
        key=lambda k: (sizes[k] + sizes[-1] // sizes[k]) * int(cores[k].shape[0]),
    )
    left = xp.reshape(cores[0], cores[0].shape[1:])
    for core in cores[1:middle]:
        r, n, s = core.shape
        left = xp.reshape(left @ xp.reshape(core, (r, n * s)), (left.shape[0] * n, s))
    right = xp.reshape(cores[-1], cores[-1].shape[:2])
    for core in reversed(cores[middle:-1]):
        r, n, s = core.shape
        right = xp.reshape(xp.reshape(core, (r * n, s)) @ right, (r, n * right.shape[1]))
    return xp.reshape(left @ right, (sizes[-1],))
