"""NumPy's index expressions taken apart: what each part asks of which mode."""

import operator
from dataclasses import dataclass
from typing import Any

import array_api_compat
import numpy as np

from ttcore.arrays import host
from ttcore.errors import TTIndexError

Index = np.ndarray[Any, np.dtype[np.intp]]


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a key.

    ``kind`` is 'new' (None), 'range' (a slice), 'int', 'array', or 'bool' (a 0-d boolean, which
    takes no mode). ``axis`` is the mode, -1 where there is none.
    """

    kind: str
    axis: int = -1
    range: range = range(0)
    number: int = 0
    array: Index | None = None


def parse(key: Any, shape: tuple[int, ...]) -> list[Part]:
    """The parts of ``key``, in order, Ellipsis and missing modes filled in.

    Raises
    ------
    TTIndexError
        For whatever NumPy refuses by an IndexError, and for results without entries, which a train
        cannot represent.
    """
    entries = [_converted(entry) for entry in (key if isinstance(key, tuple) else (key,))]
    d = len(shape)
    taken = sum(_modes_taken(entry) for entry in entries)
    dots = sum(entry is Ellipsis for entry in entries)
    if dots > 1:
        raise TTIndexError("an index can have only one Ellipsis ('...')")
    if taken > d:
        raise TTIndexError(f"too many indices: the tensor has {d} modes, the key takes {taken}")
    if not dots:
        entries.append(Ellipsis)
    parts: list[Part] = []
    axis = 0
    for entry in entries:
        if entry is Ellipsis:
            for _ in range(d - taken):
                parts.append(Part("range", axis, range(shape[axis])))
                axis += 1
            # an Ellipsis that stands for nothing still separates arrays, as in NumPy
            if dots and taken == d:
                parts.append(Part("nothing"))
            continue
        for part in _parts(entry, axis, shape):
            parts.append(part)
            axis += part.axis >= 0
    return parts


def _converted(entry: Any) -> Any:
    """An entry of the key as None, Ellipsis, slice, int, bool or an array of ints or bools."""
    if entry is None or entry is Ellipsis or isinstance(entry, slice | bool | np.bool_):
        return bool(entry) if isinstance(entry, np.bool_) else entry
    try:
        return operator.index(entry)
    except TypeError:
        pass
    if array_api_compat.is_array_api_obj(entry):
        array = host(entry)
    elif isinstance(entry, list | tuple):
        array = np.asarray(entry)
        if array.size == 0:
            array = array.astype(np.intp)
    else:
        raise TTIndexError(_refusal(entry))
    if array.dtype == np.bool_:
        return bool(array) if array.ndim == 0 else array
    if array.dtype.kind not in "iu":
        raise TTIndexError(f"an index array has dtype {array.dtype}; it must hold ints or bools")
    return int(array) if array.ndim == 0 else array.astype(np.intp)


def _refusal(entry: Any) -> str:
    return (
        f"an index is {entry!r}, a {type(entry).__name__}; only ints, slices, None, Ellipsis, and "
        "arrays of ints or bools are indices"
    )


def _modes_taken(entry: Any) -> int:
    if entry is None or entry is Ellipsis or isinstance(entry, bool):
        return 0
    if isinstance(entry, np.ndarray) and entry.dtype == np.bool_:
        return entry.ndim
    return 1


def _parts(entry: Any, axis: int, shape: tuple[int, ...]) -> list[Part]:
    if entry is None:
        return [Part("new")]
    if isinstance(entry, bool):
        return [Part("bool", array=np.zeros(int(entry), np.intp))]
    if isinstance(entry, slice):
        try:
            chosen = range(*entry.indices(shape[axis]))
        except TypeError as error:
            raise TTIndexError(f"{entry} is no slice of ints: {error}") from error
        if not chosen:
            raise TTIndexError(f"{entry} leaves mode {axis} (size {shape[axis]}) empty; {_EMPTY}")
        return [Part("range", axis, chosen)]
    if isinstance(entry, int):
        return [Part("int", axis, number=int(_bounded(np.asarray(entry), axis, shape)))]
    if entry.dtype == np.bool_:
        if entry.shape != shape[axis : axis + entry.ndim]:
            raise TTIndexError(
                f"a boolean mask of shape {entry.shape} does not match modes {axis}.. of shape "
                f"{shape[axis : axis + entry.ndim]}"
            )
        return [Part("array", axis + k, array=found) for k, found in enumerate(entry.nonzero())]
    return [Part("array", axis, array=_bounded(entry, axis, shape))]


_EMPTY = "a train has no empty modes"


def _bounded(index: Index, axis: int, shape: tuple[int, ...]) -> Index:
    """Indices in 0..n-1, negative ones counted from the end."""
    n = shape[axis]
    wrong = (index < -n) | (index >= n)
    if wrong.any():
        raise TTIndexError(
            f"index {index[wrong].flat[0]} is out of bounds for mode {axis} with size {n}"
        )
    return np.where(index < 0, index + n, index)


def broadcast_arrays(parts: list[Part]) -> list[Index]:
    """The index arrays, broadcast together.

    Raises
    ------
    TTIndexError
        If they do not broadcast, or select nothing.
    """
    arrays = [part.array for part in parts if part.array is not None]
    try:
        found = np.broadcast_arrays(*arrays)
    except ValueError as error:
        shapes = ", ".join(str(array.shape) for array in arrays)
        raise TTIndexError(f"index arrays of shapes {shapes} do not broadcast together") from error
    if found and found[0].size == 0:
        raise TTIndexError(f"the index arrays select nothing; {_EMPTY}")
    return list(found)
