"""Trains in an ordinary ``.npz`` file, layout version 1.

The archive holds, uncompressed, one entry per core and one header:

``ttcore``
    A string (0-d Unicode array) with JSON::

        {"format": "ttcore", "version": 1,
         "trains": [{"name": "fc6.weight", "kind": "matrix", "cores": 6}, ...]}

    ``kind`` is ``"tensor"`` or ``"matrix"``; the list has the order of the mapping saved.
``<name>.0``, ``<name>.1``, ...
    The cores, as the library lays them out: ``(r, n, r')`` for a tensor, ``(r, m, n, r')`` for a
    matrix.

``numpy.load`` alone reads it, without pickle. In entry names, characters that a zip archive or
Windows would alter (control characters, backslash, lone surrogates, and ``%`` itself) are written
as ``%`` and their code in hexadecimal; the header has the names as they are. No core entry can be
called ``ttcore``: each ends in a dot and a number. The same trains give the same bytes: the archive
carries no dates.
"""

import contextlib
import json
import os
import re
import secrets
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

import numpy as np

from ttcore.arrays import host
from ttcore.errors import TTError, TTFormatError
from ttcore.io.source import StrPath, open_zip, read_entry
from ttcore.matrix import TTMatrix
from ttcore.tensor import TTTensor

__all__ = ["holds_trains", "load_npz", "replacing", "save_npz"]

VERSION = 1
HEADER = "ttcore"  # the entry that holds the header

_KINDS: dict[str, type[TTTensor | TTMatrix]] = {"tensor": TTTensor, "matrix": TTMatrix}
_UNSAFE = re.compile("[\x00-\x1f\x7f%\\\\\ud800-\udfff]")


def save_npz(path: StrPath, trains: Mapping[str, TTTensor | TTMatrix]) -> None:
    """Write trains to one file, whole or not at all.

    Parameters
    ----------
    path : path-like
        Replaced in one step when everything has been written; left as it was on any failure.
    trains : mapping of str to TTTensor or TTMatrix
        Any names, the empty one included.

    Raises
    ------
    OSError
        If the file cannot be written.

    See Also
    --------
    load_npz : Read it back.
    """
    listed = [
        {
            "name": name,
            "kind": "matrix" if isinstance(train, TTMatrix) else "tensor",
            "cores": len(train.cores),
        }
        for name, train in trains.items()
    ]
    header = json.dumps({"format": "ttcore", "version": VERSION, "trains": listed})
    with replacing(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        _write_entry(archive, HEADER, np.array(header))
        for name, train in trains.items():
            for k, core in enumerate(train.cores):
                _write_entry(archive, _entry(name, k), host(core))


def load_npz(path: StrPath) -> dict[str, TTTensor | TTMatrix]:
    """Read the trains of a file that `save_npz` wrote.

    Parameters
    ----------
    path : path-like
        The file.

    Returns
    -------
    dict of str to TTTensor or TTMatrix
        In the order in which they were saved, every core bit for bit.

    Raises
    ------
    TTFormatError
        If the file is damaged, or is not of this layout; the message says where it went wrong.
    FileNotFoundError, PermissionError
        If it cannot be opened.
    """
    with Path(path).open("rb") as file, open_zip(path, file) as archive:
        return {
            name: _read_train(path, archive, name, kind, count)
            for name, kind, count in _read_header(path, archive)
        }


def holds_trains(path: StrPath) -> bool:
    """Whether ``path`` is an archive with the header of this layout; nothing else is checked."""
    with Path(path).open("rb") as file:
        if not zipfile.is_zipfile(file):
            return False
        with open_zip(path, file) as archive:
            return f"{HEADER}.npy" in archive.namelist()


@contextlib.contextmanager
def replacing(path: StrPath) -> Iterator[IO[bytes]]:
    """Open a binary file that takes the place of ``path`` if the block ends well.

    Parameters
    ----------
    path : path-like
        A symbolic link is followed: the file it points to is replaced. An existing file's
        permissions are kept.

    Yields
    ------
    binary file
        A temporary file in the same folder, removed on any failure, ``KeyboardInterrupt`` included.
    """
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".ttcore-{secrets.token_hex(8)}.tmp")
    # "x" rather than tempfile: the file gets the permissions that a new file of the user's gets
    file = temporary.open("xb")
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileNotFoundError):
            shutil.copymode(target, temporary)
        temporary.replace(target)
    except BaseException:
        temporary.unlink()
        raise


def _entry(name: str, k: int) -> str:
    """Name of the archive entry that holds core ``k``; distinct for distinct ``(name, k)``."""
    return _UNSAFE.sub(lambda match: f"%{ord(match[0]):04x}", name) + f".{k}"


def _write_entry(archive: zipfile.ZipFile, name: str, array: np.ndarray) -> None:
    # a ZipInfo of our own has a fixed date; zip64 because the size is not known before writing
    with archive.open(zipfile.ZipInfo(name + ".npy"), "w", force_zip64=True) as entry:
        np.lib.format.write_array(entry, array, allow_pickle=False)


def _read_header(path: StrPath, archive: zipfile.ZipFile) -> list[tuple[str, str, int]]:
    """Name, kind and number of cores of every train, checked."""
    if f"{HEADER}.npy" not in archive.namelist():
        raise TTFormatError(
            f"{path} is a .npz archive without the entry {HEADER!r}, not one written by ttcore; "
            "`ttcore compress` makes one from it"
        )
    try:
        header = json.loads(str(read_entry(path, archive, HEADER)))
    except (ValueError, RecursionError) as error:
        raise TTFormatError(f"{path}: the header is no JSON: {error}") from error
    match header:
        case {"format": "ttcore", "version": 1, "trains": list(items)}:
            return [_read_item(path, item) for item in items]
        case {"format": "ttcore", "version": version} if version != VERSION:
            raise TTFormatError(
                f"{path} has layout version {version!r}, this ttcore reads version {VERSION}; "
                "read it with a newer ttcore"
            )
    raise TTFormatError(
        f"{path}: the header reads {str(header)[:80]!r}; expected the format 'ttcore', a version "
        "and a list of trains"
    )


def _read_item(path: StrPath, item: object) -> tuple[str, str, int]:
    match item:
        case {"name": str(name), "kind": "tensor" | "matrix" as kind, "cores": int(count)}:
            if count >= 1:
                return name, str(kind), count
    raise TTFormatError(
        f"{path}: the header lists {item!r}; expected a name, a kind (tensor or matrix) and "
        "a number of cores of at least 1"
    )


def _read_train(
    path: StrPath, archive: zipfile.ZipFile, name: str, kind: str, count: int
) -> TTTensor | TTMatrix:
    present = set(archive.namelist())
    cores = []
    for k in range(count):
        entry = _entry(name, k)
        if f"{entry}.npy" not in present:
            raise TTFormatError(
                f"{path}: core {k} of {name!r} is missing; the header promises {count} cores"
            )
        cores.append(read_entry(path, archive, entry))
    try:
        return _KINDS[kind](cores)
    except TTError as error:
        raise TTFormatError(f"{path}: the cores of {name!r} form no train: {error}") from error
