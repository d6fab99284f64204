"""Entries and parts of a TT-tensor, chosen as in NumPy, on three-way cores (r, n, r').

An int contracts its core to a matrix, a slice or an index array picks slices of it, None inserts a
core. Several arrays are broadcast together: their modes are brought beside each other and become
one, along the diagonal. All of it is exact.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ttcore.arrays import (
    as_array,
    check_same_library,
    common,
    default_device_like,
    host,
    namespace,
)
from ttcore.contraction import absorb_matrices
from ttcore.cores import check_cores
from ttcore.errors import TTIndexError, TTShapeError
from ttcore.joining import with_mode
from ttcore.kernels import dispatch
from ttcore.keys import Index, Part, broadcast_arrays, parse
from ttcore.linear import check_workers, gradient_of
from ttcore.orthogonal import passing_core
from ttcore.planner import WORTH
from ttcore.reshaping import permute, reshape
from ttcore.scaling import evened, evening, shifted
from ttcore.typing import Array, Cores

CHECKED = 2**12  # rows of indices that are checked together
CHOSEN = {"int", "array", "bool"}  # kinds that NumPy counts as arrays once there is an array


def index(cores: Cores, key: Any) -> Cores | tuple[Any, int]:
    """``x[key]``: cores, or ``(value, exponent)`` of a single entry.

    Parameters
    ----------
    cores : tuple of arrays (r, n, r')
    key : int, slice, None, Ellipsis, array of ints or bools, or a tuple of them

    Raises
    ------
    TTIndexError
        For whatever NumPy refuses by an IndexError, and for results without entries.
    """
    parts = parse(key, tuple(int(g.shape[1]) for g in cores))
    arrays = broadcast_arrays(parts)
    numbers = {part.axis: part.number for part in parts if part.kind == "int"}
    chosen = list(cores)
    for part in parts:
        if part.kind == "range":
            chosen[part.axis] = _ranged(cores[part.axis], part.range)
    found = absorb_matrices(
        tuple(chosen), {axis: cores[axis][:, i, :] for axis, i in numbers.items()}
    )
    single = len(numbers) == len(cores)
    if single and not any(part.kind in {"new", "bool"} for part in parts):
        return found
    rest = [axis for axis in range(len(cores)) if axis not in numbers]
    train = _of_one_entry(*found, like=cores[0]) if single else found
    if arrays:
        train = _joined(train, rest, parts, arrays)
    return _with_new_modes(train, parts, arrays)


def _ranged(core: Array, chosen: range) -> Array:
    if chosen.step > 0:
        return core[:, chosen.start : chosen.stop : chosen.step, :]
    return _taken(core, np.asarray(chosen))


def _taken(core: Array, chosen: Index) -> Array:
    xp = namespace(core)
    return xp.take(core, xp.asarray(chosen, **default_device_like(core)), axis=1)


def _of_one_entry(value: Any, exponent: int, *, like: Array) -> Cores:
    xp = namespace(like)
    core = xp.reshape(xp.asarray(value, dtype=like.dtype), (1, 1, 1))
    return (shifted(core, exponent),)


def _joined(
    train: Cores, axes: Sequence[int], parts: Sequence[Part], arrays: Sequence[Index]
) -> Cores:
    """The train with the modes of all index arrays as one, split to the arrays' shape.

    ``axes`` are the modes that the cores of ``train`` had in the tensor.
    """
    indices = {}
    for part, array in zip((p for p in parts if p.array is not None), arrays, strict=True):
        if part.kind == "array":
            indices[axes.index(part.axis)] = array.reshape(-1)
    if not indices:  # 0-d booleans alone make a mode of 1, as None does
        return with_mode(train, _place(parts)) if axes else train
    cores = list(train)
    for k, flat in indices.items():  # fewer slices, lower ranks on the way
        used, indices[k] = np.unique(flat, return_inverse=True)
        cores[k] = _taken(cores[k], used)
    places = sorted(indices)
    first = places[0]
    others = [k for k in range(first, len(cores)) if k not in indices]
    order = [*range(first), *places, *others]
    moved = list(permute(tuple(cores), order)[0])
    joint = _taken(moved[first], indices[first])
    xp = namespace(joint)
    for offset, k in enumerate(places[1:], start=1):
        following = xp.permute_dims(_taken(moved[first + offset], indices[k]), (1, 0, 2))
        joint = xp.permute_dims(xp.permute_dims(joint, (1, 0, 2)) @ following, (1, 0, 2))
    moved[first : first + len(places)] = [joint]
    if not _adjacent(parts):
        moved = list(permute(tuple(moved), _to_front(first, len(moved)))[0])
        first = 0
    shape = arrays[0].shape
    if len(shape) == 1:
        return tuple(moved)
    modes = [int(g.shape[1]) for g in moved]
    return reshape(tuple(moved), [*modes[:first], *shape, *modes[first + 1 :]])[0]


def _place(parts: Sequence[Part]) -> int:
    """How many modes of the result stand before that of the arrays."""
    if not _adjacent(parts):
        return 0
    kinds = [part.kind for part in parts]
    first = next(k for k, kind in enumerate(kinds) if kind in CHOSEN)
    return kinds[:first].count("range")


def _to_front(place: int, d: int) -> list[int]:
    return [place, *(k for k in range(d) if k != place)]


def _adjacent(parts: Sequence[Part]) -> bool:
    """Whether everything that counts as an array stands side by side: else its modes go first."""
    places = [k for k, part in enumerate(parts) if part.kind in CHOSEN]
    return places[-1] - places[0] + 1 == len(places)


def _with_new_modes(train: Cores, parts: Sequence[Part], arrays: Sequence[Index]) -> Cores:
    """The train with a mode of 1 for each None."""
    joined = ["mode"] * (arrays[0].ndim if arrays else 0)
    layout: list[str] = []
    if arrays and not _adjacent(parts):
        layout, joined = joined, []
    for part in parts:
        if part.kind in {"new", "range"}:
            layout.append("new" if part.kind == "new" else "mode")
        elif arrays and part.kind in CHOSEN:
            layout, joined = [*layout, *joined], []
    rest = list(train)
    made: list[Array] = []
    if "mode" not in layout:  # a single entry: its core is one of the new modes
        made, layout = [rest.pop()], layout[1:]
    for kind in layout:
        rank = int(made[-1].shape[2]) if made else 1
        made.append(rest.pop(0) if kind == "mode" else passing_core(rank, train[0]))
    return tuple(made)


def gather(cores: Sequence[Any], indices: Any, *, workers: int | None = None) -> Array:
    """The entries at a batch of multi-indices.

    Parameters
    ----------
    cores : sequence of d arrays (r_{k-1}, n_k, r_k)
    indices : (batch, d) array of ints
        Negative ones count from the end; batch may be 0.
    workers : int, optional
        Threads of the compiled kernels, as in `linear.matvec`.

    Returns
    -------
    (batch,) array

    Raises
    ------
    TTShapeError, TTIndexError
        If ``indices`` has another shape or dtype, or one is out of bounds.

    Notes
    -----
    Rows of the batch that share a digit are multiplied together. Differentiable by the autodiff of
    the array's own library.

    Examples
    --------
    >>> import ttcore as tt
    >>> x = tt.rank_one([[1.0, 2.0], [1.0, 10.0, 100.0]])
    >>> tt.indexing.gather(x.cores, [[1, 2], [0, -1], [0, 0]])
    array([200., 100.,   1.])
    """
    checked = check_cores(cores, 3)
    array = _checked_indices(checked, indices)
    kernel = _kernel(checked, array)
    values: Array = kernel.gather(evened(checked), array, check_workers(workers))
    return values


def gather_backward(
    cores: Sequence[Any], indices: Any, gy: Any, *, workers: int | None = None
) -> Cores:
    """Gradients of a real loss through ``y = gather(cores, indices)``.

    Parameters
    ----------
    cores, indices, workers
        As in `gather`.
    gy : (batch,) array
        Gradient of the loss with respect to y.

    Returns
    -------
    tuple of arrays
        Shaped as the cores; for complex ones the conjugate (Wirtinger) gradients that torch uses.
        Each gradient has the dtype of its core; of a real core with a complex gy it is the real
        part.

    Raises
    ------
    TTShapeError, TTIndexError, TTTypeError
        If the shapes do not fit, or an index is out of bounds.

    Notes
    -----
    What lies between the cores is computed again, a cache-sized block of rows at a time. The
    compiled kernels sum the gradients in at most eight parts of 8 MiB together, or in four.

    Examples
    --------
    >>> import ttcore as tt
    >>> x = tt.rank_one([[1.0, 2.0], [1.0, 10.0, 100.0]])
    >>> first, second = tt.indexing.gather_backward(x.cores, [[1, 2], [0, 1]], [1.0, 1.0])
    >>> first[0, :, 0], second[0, :, 0]
    (array([ 10., 100.]), array([0., 1., 2.]))
    """
    checked = check_cores(cores, 3)
    array = _checked_indices(checked, indices)
    gy = as_array(gy, "gy")
    if tuple(gy.shape) != array.shape[:1]:
        raise TTShapeError(
            f"gy has shape {tuple(gy.shape)}, expected {array.shape[:1]}: a number for each row of "
            "indices"
        )
    check_same_library((checked[0], gy), "the cores and gy")
    shifts = evening(checked)
    *promoted, gy = common((*map(shifted, checked, shifts), gy))
    kernel = _kernel(tuple(promoted), array)
    found = kernel.gather_backward(tuple(promoted), array, gy, check_workers(workers))
    return tuple(
        gradient_of(g, shifted(h, e)) for g, h, e in zip(checked, found, shifts, strict=True)
    )


def _kernel(cores: Cores, indices: Index) -> Any:
    """The backend that serves these entries; the compiled one lays all cores out anew."""
    pairs = sum(int(g.shape[0]) * int(g.shape[2]) for g in cores)
    work = len(indices) * pairs
    paying = 2 * work >= WORTH and work >= sum(math.prod(g.shape) for g in cores)
    return dispatch.gather(paying and dispatch.is_native(cores[0]))


def _checked_indices(cores: Cores, indices: Any) -> Index:
    """The multi-indices as (batch, d) intp, all within bounds; copied only if they must be."""
    array = np.asarray(host(indices) if hasattr(indices, "dtype") else indices)
    modes = np.array([int(g.shape[1]) for g in cores])
    if array.ndim != 2 or array.shape[1] != modes.size:
        raise TTShapeError(
            f"indices has shape {array.shape}, expected (batch, {modes.size}): a row for each entry"
        )
    if array.dtype.kind not in "iu" and array.size:
        raise TTIndexError(f"indices has dtype {array.dtype}; it must hold ints")
    if array.dtype.kind == "u":
        array = np.minimum(array, np.iinfo(np.intp).max)
    array = array.astype(np.intp, copy=False)
    twice = (2 * modes).astype(np.uintp)
    for first in range(0, len(array), CHECKED):  # in the cache
        block = array[first : first + CHECKED]
        # one comparison: what is negative still becomes huge
        wrong = (block + modes).view(np.uintp) >= twice
        if wrong.any():
            row, k = np.argwhere(wrong)[0]
            raise TTIndexError(
                f"indices[{first + row}, {k}] = {block[row, k]} is out of bounds for mode {k} with "
                f"size {modes[k]}"
            )
    return array
