"""How tall matrices are read, in memory or streamed: the passes, factors and combinations of rows.

`cutting` decides what they are for.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from ttcore import streaming
from ttcore.arrays import adjoint, from_numpy, in_double, namespace
from ttcore.factorisations import svd
from ttcore.kernels import dispatch
from ttcore.kernels.dispatch import tsqr
from ttcore.sketching import FIRST, PROBES
from ttcore.streaming import Stream
from ttcore.typing import Array


def passes(a: Array | Stream) -> Any:
    """What has its ``gram``, ``project`` and ``deflate``."""
    return streaming if isinstance(a, Stream) else dispatch.passes(a)


def is_reflected(a: Array | Stream) -> bool:
    """Whether Householder's method is compiled for it, and quicker than two Gram matrices."""
    if isinstance(a, Stream):
        return a.dtype in dispatch.COMPILED
    return dispatch.passes(a, widest=int(a.shape[1])) is not tsqr


def triangle(a: Array | Stream, scale: float) -> Array:
    """R (m, m) with R^H R = scale**2 a^H a for a (N, m), by Householder's method."""
    kernel = streaming if isinstance(a, Stream) else dispatch.passes(a, widest=int(a.shape[1]))
    return kernel.householder(a, scale=scale)


def fine_factor(a: Array | Stream, g: Array, scale: float) -> Array:
    """The same R, limited by u alone: g is the Gram matrix of ``scale * a``.

    LAPACK's reflections would take much longer than one more Gram matrix.
    """
    if is_reflected(a):
        return triangle(a, scale)
    return tsqr.r_factor(a, g, fine=True, scale=scale, again=passes(a).gram)


def ranges(
    a: Array | Stream, enough: int, generator: np.random.Generator
) -> Iterator[tuple[Array, float, float]]:
    """``(basis, missed, norm)`` of ever more random combinations of the rows.

    ``enough`` is among their numbers. An orthonormal basis (m, k) of their span; the norm of what
    it misses of ``a``, and the norm of ``a``: both estimated by combinations that it has not seen.
    None where the latter is no number.
    """
    size, most = min(FIRST, enough), min(a.shape) // 2
    if size > most:
        return
    with np.errstate(all="ignore"):  # what is out of range shows in the norm
        drawn = _combined(a, PROBES + size, generator)
        probes, rows = drawn[:PROBES, :], drawn[PROBES:, :]
        total = norm(probes) / math.sqrt(PROBES)
    while 0.0 < total < math.inf:
        basis = adjoint(svd(rows)[2])
        missed = norm(probes - (probes @ basis) @ adjoint(basis)) / math.sqrt(PROBES)
        yield basis, missed, total
        grown = enough if size < enough < 2 * size else 2 * size
        if grown > most:
            return
        more = _combined(a, grown - size, generator)
        rows, size = namespace(rows).concat([rows, more], axis=0), grown


def _combined(a: Array | Stream, count: int, generator: np.random.Generator) -> Array:
    """So many independent random combinations (count, m) of the rows, in double precision.

    The coefficients are uniform, which takes a third of the time of normal ones, of variance 1.
    """
    total: Array = 0.0
    for first, last, block in _rows(a):
        weights = (generator.random((count, last - first)) - 0.5) * math.sqrt(12.0)
        total = total + from_numpy(weights, block) @ block
    return total


def _rows(a: Array | Stream) -> Iterator[tuple[int, int, Array]]:
    """Blocks of rows in double precision, and where they lie."""
    if isinstance(a, Stream):
        for first, last, block in a.blocks():
            yield first, last, in_double(block)
    else:
        for first, last in tsqr.blocks(a):
            yield first, last, tsqr.scaled_block(a, first, last, 1.0)


def norm(x: Array) -> float:
    """Frobenius norm."""
    return float(namespace(x).linalg.vector_norm(x))
