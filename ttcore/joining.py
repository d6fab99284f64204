"""Trains put together from others and from other formats, on three-way cores (r, n, r')."""

from collections.abc import Sequence
from typing import Any

from ttcore.algebra import add, modes_of
from ttcore.arrays import as_array, check_same_library, common, default_device_like, namespace
from ttcore.errors import TTShapeError
from ttcore.orthogonal import passing_core, times_right
from ttcore.typing import Array, Cores


def concatenate(trains: Sequence[Cores], axis: int) -> Cores:
    """The trains one behind the other along mode ``axis``; ranks add up.

    Raises
    ------
    TTShapeError
        If other modes than ``axis`` differ.
    """
    shapes = [modes_of(x) for x in trains]
    others = {(*shape[:axis], *shape[axis + 1 :]) for shape in shapes}
    if len(others) > 1:
        raise TTShapeError(
            f"shapes {', '.join(map(str, shapes))} differ in other modes than {axis}; only the "
            "mode along which trains are joined may differ"
        )
    whole = sum(shape[axis] for shape in shapes)
    before = 0
    padded = []
    for x in trains:
        core = x[axis]
        xp = namespace(core)
        r, n, s = core.shape
        place = {"dtype": core.dtype, **default_device_like(core)}
        left = xp.zeros((r, before, s), **place)
        right = xp.zeros((r, whole - before - n, s), **place)
        wide = xp.concat([left, core, right], axis=1)
        padded.append((*x[:axis], wide, *x[axis + 1 :]))
        before += n
    return add(*padded)


def stack(trains: Sequence[Cores], axis: int) -> Cores:
    """The trains along a new mode at place ``axis``; ranks add up."""
    return concatenate([with_mode(x, axis) for x in trains], axis)


def with_mode(x: Cores, axis: int) -> Cores:
    """The train with a new mode of 1 at place ``axis``."""
    rank = int(x[axis - 1].shape[2]) if axis else 1
    return (*x[:axis], passing_core(rank, x[0]), *x[axis:])


def from_cp(factors: Sequence[Any], weights: Any = None) -> Cores:
    """The sum of R outer products: cores of ranks R with the factors on their diagonals.

    Parameters
    ----------
    factors : sequence of d arrays (n_k, R)
    weights : (R,) array, optional

    Raises
    ------
    TTShapeError, TTTypeError
        If the factors are no matrices with equally many columns.
    """
    arrays = [as_array(f, f"factor {k}") for k, f in enumerate(factors)]
    if not arrays:
        raise TTShapeError("got no factors; a train has at least one mode")
    shapes = [tuple(f.shape) for f in arrays]
    if any(len(s) != 2 or 0 in s for s in shapes) or len({s[1] for s in shapes}) > 1:
        raise TTShapeError(
            f"factors have shapes {', '.join(map(str, shapes))}; expected (n_k, R) with one R"
        )
    rank = shapes[0][1]
    if weights is not None:
        arrays.append(as_array(weights, "weights"))
        if tuple(arrays[-1].shape) != (rank,):
            raise TTShapeError(f"weights has shape {tuple(arrays[-1].shape)}, expected ({rank},)")
    check_same_library(arrays, "the factors")
    arrays = list(common(arrays))
    xp = namespace(*arrays)
    if weights is not None:
        arrays[0] = arrays[0] * arrays.pop()[None, :]
    if len(arrays) == 1:
        return (xp.reshape(xp.sum(arrays[0], axis=1), (1, -1, 1)),)
    eye = xp.eye(rank, dtype=arrays[0].dtype, **default_device_like(arrays[0]))
    first = xp.reshape(arrays[0], (1, shapes[0][0], rank))
    middle = [eye[:, None, :] * f[None, :, :] for f in arrays[1:-1]]
    return (first, *middle, xp.reshape(arrays[-1].T, (rank, shapes[-1][0], 1)))


def apply_factors(cores: Cores, factors: Sequence[Any]) -> Cores:
    """Each mode n of a train multiplied by a matrix (m, n): a Tucker tensor from its core.

    Raises
    ------
    TTShapeError, TTTypeError
        If there is not one matrix for each mode, with as many columns.
    """
    arrays = [as_array(f, f"factor {k}") for k, f in enumerate(factors)]
    shapes = [tuple(f.shape) for f in arrays]
    modes = modes_of(cores)
    if len(shapes) != len(modes) or any(
        len(s) != 2 or s[1] != n for s, n in zip(shapes, modes, strict=False)
    ):
        raise TTShapeError(
            f"factors have shapes {', '.join(map(str, shapes))}, the core {modes}; expected one "
            "factor (n_k, r_k) for each of its modes r_k"
        )
    check_same_library((*cores, *arrays), "the core and the factors")
    every = common((*cores, *arrays))
    pairs = zip(every[: len(cores)], every[len(cores) :], strict=True)
    return tuple(_applied(core, factor) for core, factor in pairs)


def _applied(core: Array, factor: Array) -> Array:
    xp = namespace(core)
    moved = times_right(xp.permute_dims(core, (0, 2, 1)), factor.T)  # (r, r', m)
    return xp.permute_dims(moved, (0, 2, 1))
