"""Which backend serves an array.

NumPy's float32 and float64 go to the compiled kernels of ``cpu`` where the planner finds enough
work in a call to pay for loading them, and with torch's small layers in any case (``direct``);
everything else goes to ``portable``. The choice depends on
shapes and dtypes alone: equal calls give equal bits.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ttcore.kernels.portable import chain as portable_chain
from ttcore.kernels.portable import gather as portable_gather
from ttcore.kernels.portable import interfaces, tsqr
from ttcore.kernels.portable import rows as portable_rows
from ttcore.typing import Array

__all__ = [
    "chain",
    "cuts",
    "direct",
    "gather",
    "grams",
    "inner",
    "interfaces",
    "is_grammed",
    "is_native",
    "is_ranged",
    "is_sketched",
    "is_swept",
    "passes",
    "ranges",
    "rows",
    "sketches",
    "tsqr",
]

NARROW = 256  # and the most columns: beyond, BLAS cuts the columns into blocks too
LARGE = 2**17  # entries of a tall matrix from which the compiled passes are used
HEAVY = 2**21  # multiply-adds of a step between two interfaces from which it is compiled, while
CACHED = 2**16  # entries of an interface are at most so many: it is read for each slice of a mode
LONG = 2**25  # multiply-adds with all cores of a train from which compiled code is loaded
HIGHEST = 512  # rows, at most, of which a Gram matrix is compiled
SLIM, SMALL = 64, 2**16  # columns and entries, at most, whose QR decomposition is compiled
COMPILED = {np.dtype(np.float32), np.dtype(np.float64)}


def is_native(x: Array) -> bool:
    """Whether the compiled kernels take such arrays."""
    return isinstance(x, np.ndarray) and x.dtype in COMPILED


def chain(compiled: bool) -> Any:
    """The backend's module ``chain``; Numba is loaded with the first compiled one."""
    if not compiled:
        return portable_chain
    from ttcore.kernels.cpu import chain as compiled_chain

    return compiled_chain


def cuts() -> Any:
    """The compiled module ``cuts``."""
    from ttcore.kernels.cpu import cuts as compiled_cuts

    return compiled_cuts


def direct() -> Any:
    """The compiled module ``direct``, which has no twin: it is ``chain`` called in another way."""
    from ttcore.kernels.cpu import direct as compiled_direct

    return compiled_direct


def gather(compiled: bool) -> Any:
    """The backend's module ``gather``."""
    if not compiled:
        return portable_gather
    from ttcore.kernels.cpu import gather as compiled_gather

    return compiled_gather


def is_swept(g: Array, h: Array) -> bool:
    """Whether an inner product goes past these two cores by the compiled module ``inner``."""
    (r, n, t), (s, _, u) = g.shape, h.shape
    light = n * r * u * (s + t) < HEAVY
    return not light and max(r * s, r * u, t * u) <= CACHED and is_native(g) and is_native(h)


def inner() -> Any:
    """The compiled module ``inner``: many steps of ``interfaces`` in one call."""
    from ttcore.kernels.cpu import inner as compiled_inner

    return compiled_inner


def is_sketched(cores: Sequence[Array], width: int) -> bool:
    """Whether these cores are multiplied by random trains of ``width`` by ``sketches``.

    That takes all random numbers at once, which are to be no more than the entries of the cores.
    """
    if not all(is_native(core) and core.flags.c_contiguous for core in cores):
        return False
    entries = sum(core.size for core in cores)
    randoms = 2 * width**2 * sum(core.shape[1] for core in cores)
    return width * entries >= LONG and randoms <= entries


def sketches() -> Any:
    """The compiled module ``sketches``."""
    from ttcore.kernels.cpu import sketches as compiled_sketches

    return compiled_sketches


def is_ranged(rows: int, columns: int) -> bool:
    """Whether orthonormal columns for a matrix, sketched, are found by ``ranges`` and ``cuts``.

    Their own QR decomposition keeps to one thread, and to the cache.
    """
    return columns <= SLIM and columns < rows and rows * columns <= SMALL


def ranges() -> Any:
    """The compiled module ``ranges``."""
    from ttcore.kernels.cpu import ranges as compiled_ranges

    return compiled_ranges


def is_grammed(core: Array, w: Array) -> bool:
    """Whether the Gram matrix of a core times w is found by ``grams``, in one call.

    In double precision, as all Gram matrices.
    """
    if not (is_native(core) and core.dtype == w.dtype == np.float64 and core.flags.c_contiguous):
        return False
    r, n, _ = core.shape
    return core.size * w.shape[1] >= HEAVY and r <= HIGHEST and n * w.shape[1] > r


def grams() -> Any:
    """The compiled module ``grams``."""
    from ttcore.kernels.cpu import grams as compiled_grams

    return compiled_grams


def rows(compiled: bool) -> Any:
    """The backend's module ``rows``."""
    if not compiled:
        return portable_rows
    from ttcore.kernels.cpu import rows as compiled_rows

    return compiled_rows


def passes(a: Array, *, widest: int = NARROW) -> Any:
    """The module whose ``gram``, ``project`` and ``deflate`` read a tall matrix like this one.

    ``widest``: the most columns of compiled passes; only Gram matrices suffer from more.
    """
    if not is_native(a) or a.size < LARGE or a.shape[1] > widest:
        return tsqr
    from ttcore.kernels.cpu import tsqr as compiled_tsqr

    return compiled_tsqr
