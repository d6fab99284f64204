"""Reading a memory-mapped file without its pages."""

import mmap
import os
import weakref
from typing import Any

import numpy as np
from numpy.lib.array_utils import byte_bounds

from ttcore.typing import Array


class Mapped:
    """The file behind a memmap; of no use for other data.

    Where the file is found again it is read by the system's calls: a map takes a page fault for
    every few KiB. Elsewhere pages of the map are asked for in one go, and let go when they were
    read, since they count as memory of this process. A copy-on-write map is left alone: its pages
    hold changes. Any number of threads may read at once.
    """

    def __init__(self, data: Any) -> None:
        mapped = getattr(data, "_mmap", None) if isinstance(data, np.memmap) else None
        usable = isinstance(mapped, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED")  # not on Windows
        self._map: Any = mapped if usable and data.mode != "c" else None
        self._file: int | None = None
        if self._map is not None:
            self._base = np.frombuffer(self._map, np.uint8).ctypes.data
            self._find(data.filename)

    def _find(self, path: Any) -> None:
        """Open the file if it is the one that is mapped: its name may be another file's by now."""
        try:
            file = os.open(path, os.O_RDONLY)
        except (OSError, TypeError):  # gone, or without a name
            return
        place = _mapping(self._base)
        status = os.fstat(file)
        if place is None or place[1:] != (status.st_dev, status.st_ino):
            os.close(file)
            return
        weakref.finalize(self, os.close, file)
        self._file, self._start = file, place[0]

    @property
    def usable(self) -> bool:
        """Whether there is such a file."""
        return self._map is not None

    def ask(self, piece: Array) -> None:
        """Have this part of the map read in one go, before it is copied."""
        if self._map is None:
            return
        low, high = byte_bounds(piece)
        if high - low > 2 * piece.nbytes:  # much between its parts is not wanted
            return
        if not self._holds(low, high):
            return
        start = (low - self._base) // mmap.PAGESIZE * mmap.PAGESIZE
        self._map.madvise(mmap.MADV_WILLNEED, start, high - self._base - start)

    def read(self, piece: Array, out: Array) -> bool:
        """Whether ``out`` now holds this part of the map, read from the file."""
        plain = piece.flags.c_contiguous and piece.dtype == out.dtype
        if self._file is None or not plain or not self._holds(*byte_bounds(piece)):
            return False
        left = memoryview(out.reshape(-1).view(np.uint8))
        position = self._place(piece.ctypes.data)
        while left:
            count = os.preadv(self._file, [left], position)
            if count == 0:
                raise EOFError(f"a mapped file ends at byte {position}, within the array")
            left, position = left[count:], position + count
        return True

    def _holds(self, low: int, high: int) -> bool:
        """Whether this is memory of the map: an array made by a subclass need not be."""
        return bool(self._base <= low and high <= self._base + len(self._map))

    def _place(self, address: int) -> int:
        """Where in the file this address is mapped from."""
        return self._start + address - self._base

    def let_go(self) -> None:
        """Forget the pages that were read through the map."""
        if self._map is not None:
            self._map.madvise(mmap.MADV_DONTNEED)


def _mapping(address: int) -> tuple[int, int, int] | None:
    """What is mapped at an address: position in the file, device and inode; None if unknown."""
    try:
        with open("/proc/self/maps", encoding="utf-8", errors="replace") as lines:
            for line in lines:
                span, _, offset, device, inode = line.split(maxsplit=5)[:5]
                first, last = (int(bound, 16) for bound in span.split("-"))
                if first <= address < last:
                    major, minor = (int(part, 16) for part in device.split(":"))
                    place = int(offset, 16) + address - first
                    return place, os.makedev(major, minor), int(inode)
    except (OSError, ValueError):  # not on this system
        pass
    return None
