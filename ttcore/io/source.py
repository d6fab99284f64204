"""Plain ``.npy`` and ``.npz`` files: their arrays, read one at a time and never unpickled."""

import contextlib
import os
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np
from numpy.lib import format as npy

from ttcore.arrays import compute_dtype
from ttcore.errors import TTFormatError, TTTypeError

__all__ = ["ArrayEntry", "StrPath", "open_arrays", "open_zip", "read_entry"]

StrPath: TypeAlias = str | os.PathLike[str]

# What numpy and zipfile raise on a file that is cut short, altered or something else altogether.
_DAMAGE = (
    ValueError,
    KeyError,
    IndexError,
    EOFError,
    OSError,
    RuntimeError,
    OverflowError,
    SyntaxError,
    tokenize.TokenError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
)


@dataclass(frozen=True, slots=True)
class ArrayEntry:
    """One array of a file, not read yet.

    Attributes
    ----------
    name : str
        Its name in the ``.npz``; the file's name without suffix for a ``.npy``.
    shape : tuple of int
        Its shape.
    dtype : dtype
        Its dtype as stored, byte order included.
    load : callable
        Reads the array, or maps it read-only where the file allows.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    load: Callable[[], np.ndarray]

    @property
    def nbytes(self) -> int:
        """Bytes of the array in memory, a Python int."""
        return prod(self.shape) * self.dtype.itemsize

    @property
    def unusable(self) -> str:
        """Why the array cannot become a train; empty if it can."""
        if self.dtype.hasobject:
            return "holds Python objects, which are never unpickled; save it as an array of numbers"
        if not self.shape or 0 in self.shape:
            return f"has shape {self.shape}; expected at least one axis, and none of length 0"
        try:
            compute_dtype(self.dtype.name, "it")
        except TTTypeError as error:
            return str(error).removeprefix("it ")
        return ""


@contextlib.contextmanager
def open_arrays(path: StrPath) -> Iterator[dict[str, ArrayEntry]]:
    """Open a ``.npy`` or ``.npz`` file, told apart by content, and list its arrays.

    Parameters
    ----------
    path : path-like
        The file.

    Yields
    ------
    dict of str to ArrayEntry
        By name, in the file's order. ``load`` works inside the block only.

    Raises
    ------
    TTFormatError
        If the file is neither, or is damaged.
    OSError
        If it cannot be opened.
    """
    with Path(path).open("rb") as file:
        magic = file.read(len(npy.MAGIC_PREFIX))
        file.seek(0)
        if magic == npy.MAGIC_PREFIX:
            yield {Path(path).stem: _npy_entry(path, file)}
        elif magic[:2] == b"PK":
            with open_zip(path, file) as archive:
                yield dict(_npz_entries(path, archive))
        else:
            raise TTFormatError(
                f"{path} is neither a .npy nor a .npz file; "
                "save the array with numpy.save or numpy.savez"
            )


def open_zip(path: StrPath, file: IO[bytes]) -> zipfile.ZipFile:
    """Open ``file`` as a zip archive; a `TTFormatError` names ``path`` when it is none."""
    try:
        return zipfile.ZipFile(file)
    except _DAMAGE as error:
        raise TTFormatError(f"{path} is no .npz archive, or is damaged: {error}") from error


def read_entry(path: StrPath, archive: zipfile.ZipFile, name: str) -> np.ndarray:
    """Read the array ``name`` of an open archive; a `TTFormatError` says when it is damaged."""
    try:
        with archive.open(f"{name}.npy") as entry:
            array: np.ndarray = npy.read_array(entry, allow_pickle=False)
            entry.read()  # zipfile compares the checksum at the end of the entry only
    except (*_DAMAGE, MemoryError) as error:  # a damaged header can ask for any amount of memory
        raise TTFormatError(f"{path}: the array {name!r} is damaged: {error}") from error
    return array


def _npy_entry(path: StrPath, file: IO[bytes]) -> ArrayEntry:
    shape, dtype = _read_header(path, file)

    def load() -> np.ndarray:
        try:
            array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
        except _DAMAGE as error:
            raise TTFormatError(f"{path} is damaged: {error}") from error
        return array

    return ArrayEntry(Path(path).stem, shape, dtype, load)


def _npz_entries(path: StrPath, archive: zipfile.ZipFile) -> Iterator[tuple[str, ArrayEntry]]:
    for info in archive.infolist():
        name = info.filename.removesuffix(".npy")
        if name == info.filename:
            continue  # not an array: an archive may carry other files
        try:
            with archive.open(info) as entry:
                shape, dtype = _read_header(f"{path}: {name!r}", entry)
        except _DAMAGE as error:
            raise TTFormatError(f"{path}: the array {name!r} is damaged: {error}") from error

        def load(name: str = name) -> np.ndarray:
            return read_entry(path, archive, name)

        yield name, ArrayEntry(name, shape, dtype, load)


def _read_header(what: object, file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and dtype at the head of a ``.npy`` stream."""
    try:
        version = npy.read_magic(file)
        # layout 3.0 differs from 2.0 only in the encoding of the field names of records
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, _, dtype = read(file)
    except _DAMAGE as error:
        raise TTFormatError(f"{what} is damaged: {error}") from error
    return shape, dtype
