"""Scratch for compiled kernels."""

from typing import Any

import numpy as np

from ttcore.kernels.cpu.cache import compiled

LINE = 64  # bytes of a cache line, and of the widest register
KEPT = 2**22  # bytes of a buffer that is kept for later calls

_spare: dict[Any, list[np.ndarray[Any, Any]]] = {}


def take(entries: int, dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """An uninitialised array of at least so many entries that begins at a cache line.

    Fresh memory costs a page fault every 4 KiB, as much as the work of a small call: what `give`
    got back is used again. The caller alone has it meanwhile.
    """
    try:
        buffer = _spare[dtype].pop()  # atomic
    except (KeyError, IndexError):
        return aligned_array(entries, dtype)
    return buffer if buffer.size >= entries else aligned_array(entries, dtype)


def give(buffer: np.ndarray[Any, Any]) -> None:
    """Keep a buffer for later calls, unless it is large."""
    if buffer.nbytes <= KEPT:
        _spare.setdefault(buffer.dtype, []).append(buffer)


def fixed(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The array, C-contiguous and aligned, read-only: compiled code is for one type of array."""
    x = np.require(x, requirements="CA").view()
    x.flags.writeable = False
    return x


def aligned_array(entries: int, dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """An uninitialised array that begins at a cache line."""
    room = np.empty(entries + LINE // dtype.itemsize, dtype)
    skip = -room.ctypes.data % LINE // dtype.itemsize
    return room[skip : skip + entries]


@compiled
def aligned(like, count):
    """An uninitialised array of ``count`` entries as in ``like`` that begins at a cache line."""
    size = like.itemsize
    room = np.empty(count + LINE // size, like.dtype)
    skip = (-room.ctypes.data % LINE) // size
    return room[skip : skip + count]
