"""Entries, rows, columns, diagonals and sums of a TT-matrix, on four-way cores (r, m, n, r')."""

import operator
from collections.abc import Sequence
from typing import Any

from ttcore.arrays import default_device_like, namespace
from ttcore.contraction import absorb_matrices
from ttcore.errors import TTIndexError, TTShapeError
from ttcore.typing import Array, Cores


def digits_of(number: int, modes: Sequence[int]) -> list[int]:
    """The multi-index of a flat index, mode 1 most significant."""
    found = []
    for n in reversed(modes):
        number, digit = divmod(number, n)
        found.append(digit)
    return found[::-1]


def select(cores: Cores, key: Any) -> Cores | tuple[Any, int]:
    """``W[i, j]`` as (value, exponent); ``W[i, :]``, ``W[i]`` and ``W[:, j]`` as three-way cores.

    Raises
    ------
    TTIndexError
        For any other key, or an index out of range.
    """
    entries = key if isinstance(key, tuple) else (key,)
    if len(entries) == 1:
        entries = (*entries, slice(None))
    chosen = [_flat_index(entry, cores, which) for which, entry in enumerate(entries[:2])]
    if len(entries) != 2 or chosen == [None, None]:
        raise TTIndexError(f"W[{key!r}] is no part of a TT-matrix; {_PARTS}")
    i, j = chosen
    if i is None:
        return _picked(cores, 2, j)
    if j is None:
        return _picked(cores, 1, i)
    row = _picked(cores, 1, i)
    columns = digits_of(j, [int(g.shape[1]) for g in row])
    return absorb_matrices(row, {k: row[k][:, digit, :] for k, digit in enumerate(columns)})


_PARTS = "take W[i, j], W[i, :] or W[:, j] with flat ints i and j"


def _flat_index(entry: Any, cores: Cores, which: int) -> int | None:
    """A checked index, or None for a whole slice."""
    if isinstance(entry, slice) and entry == slice(None):
        return None
    try:
        number = operator.index(entry)
    except TypeError as error:
        raise TTIndexError(f"{entry!r} is no index of a TT-matrix; {_PARTS}") from error
    length = 1
    for g in cores:
        length *= int(g.shape[1 + which])
    if not -length <= number < length:
        name = ("row", "column")[which]
        raise TTIndexError(f"{name} {number} is out of range for a matrix with {length} {name}s")
    return number % length


def _picked(cores: Cores, axis: int, number: int | None) -> Cores:
    modes = [int(g.shape[axis]) for g in cores]
    digits = digits_of(number or 0, modes)
    if axis == 1:
        return tuple(g[:, digit, :, :] for g, digit in zip(cores, digits, strict=True))
    return tuple(g[:, :, digit, :] for g, digit in zip(cores, digits, strict=True))


def check_square(cores: Cores, what: str) -> None:
    """Raise TTShapeError unless row and column modes agree."""
    rows, cols = ([int(g.shape[axis]) for g in cores] for axis in (1, 2))
    if rows != cols:
        raise TTShapeError(
            f"{what} needs equal row and column modes, but they are {tuple(rows)} and {tuple(cols)}"
        )


def diagonal(cores: Cores) -> Cores:
    """The main diagonal, of a matrix with equal row and column modes."""
    check_square(cores, "diagonal")
    xp = namespace(*cores)
    moved = (xp.permute_dims(g, (0, 3, 1, 2)) for g in cores)
    return tuple(xp.permute_dims(xp.linalg.diagonal(g), (0, 2, 1)) for g in moved)


def diagonal_matrix(cores: Cores) -> Cores:
    """The matrix with a tensor on its diagonal."""
    xp = namespace(*cores)
    found = []
    for g in cores:
        r, n, s = g.shape
        eye = xp.eye(n, dtype=g.dtype, **default_device_like(g))
        found.append(xp.reshape(g, (r, n, 1, s)) * xp.reshape(eye, (1, n, n, 1)))
    return tuple(found)


def sums(cores: Cores, axis: int) -> Cores:
    """Sums over the rows (axis 0) or the columns (axis 1): a tensor over the other modes."""
    return tuple(namespace(g).sum(g, axis=1 + axis) for g in cores)


def trace(cores: Cores) -> tuple[Array, int]:
    """Sum of the main diagonal, as (value, exponent)."""
    xp = namespace(*cores)
    matrices = {k: xp.sum(g, axis=1) for k, g in enumerate(diagonal(cores))}
    found: tuple[Array, int] = absorb_matrices(cores, matrices)
    return found
