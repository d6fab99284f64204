"""Cores of trains that are known in closed form or drawn at random."""

import math
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from ttcore.arrays import as_array, check_dtype, check_same_library, common, namespace
from ttcore.errors import TTShapeError, TTTypeError
from ttcore.typing import RNG, Array, Cores


def constant(shape: Sequence[int], value: float, dtype: Any) -> Cores:
    """Rank-1 cores, each filled with ``value``."""
    dtype = check_dtype(dtype)
    return tuple(np.full((1, n, 1), value, dtype=dtype) for n in shape)


def identity(modes: Sequence[int], dtype: Any) -> Cores:
    """Four-way cores of the identity matrix; all ranks are 1."""
    dtype = check_dtype(dtype)
    return tuple(np.eye(n, dtype=dtype).reshape(1, n, n, 1) for n in modes)


def rank_one(vectors: Sequence[Any]) -> Cores:
    """The outer product of vectors.

    Raises
    ------
    TTShapeError, TTTypeError
        If there is none, or one is no vector.
    """
    arrays: list[Array] = [as_array(v, f"vector {k}") for k, v in enumerate(vectors)]
    if not arrays:
        raise TTShapeError("got no vectors; a train has at least one mode")
    for k, v in enumerate(arrays):
        if v.ndim != 1 or v.shape[0] == 0:
            raise TTShapeError(f"vector {k} has shape {tuple(v.shape)}, expected (n,) with n >= 1")
    check_same_library(arrays, "the vectors")
    xp = namespace(*arrays)
    return tuple(xp.reshape(v, (1, v.shape[0], 1)) for v in common(arrays))


def gaussian(shape: Sequence[int], ranks: Any, rng: RNG, dtype: Any) -> Cores:
    """Independent normal cores.

    The entries of the tensor they represent have mean 0 and variance 1.

    Core k has variance 1 / r_{k+1}: every core is of ordinary size for any number of them. Complex
    entries have independent real and
    imaginary parts, and E|x|² = 1.
    """
    dtype = check_dtype(dtype)
    full = check_ranks(ranks, shape)
    generator = np.random.default_rng(rng)
    cores = []
    for k, n in enumerate(shape):
        size = (full[k], n, full[k + 1])
        core: Any = generator.standard_normal(size)
        if dtype.kind == "c":
            core = (core + 1j * generator.standard_normal(size)) / math.sqrt(2.0)
        cores.append((core / math.sqrt(full[k + 1])).astype(dtype))
    return tuple(cores)


def check_ranks(ranks: Any, shape: Sequence[int]) -> tuple[int, ...]:
    """``ranks`` as d + 1 numbers.

    An int is clipped to what the shape can use, d - 1 or d + 1 numbers are taken as they are.

    Raises
    ------
    TTShapeError, TTTypeError
        If it is something else, of another length, or has a rank below 1 or an outer rank other
        than 1.
    """
    d = len(shape)
    try:
        rank = operator.index(ranks)
    except TypeError:
        try:
            full = tuple(operator.index(r) for r in ranks)
        except TypeError as error:
            raise TTTypeError(f"ranks={ranks!r} is no int or sequence of ints") from error
        if len(full) not in {d - 1, d + 1}:
            raise TTShapeError(
                f"ranks has {len(full)} entries, expected an int, {d - 1} inner ranks or "
                f"{d + 1} ranks"
            ) from None
        full = full if len(full) == d + 1 else (1, *full, 1)
    else:
        most = [min(math.prod(shape[:k]), math.prod(shape[k:])) for k in range(d + 1)]
        full = tuple(min(rank, m) for m in most)
    if min(full) < 1:
        raise TTShapeError(f"ranks={ranks!r} has a rank below 1; every rank must be at least 1")
    if full[0] != 1 or full[-1] != 1:
        raise TTShapeError(
            f"ranks={ranks!r} has outer ranks {full[0]} and {full[-1]}, expected 1 and 1"
        )
    return full
