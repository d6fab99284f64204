"""Rounding long trains of small ranks, of which calls would take more time than numbers."""

import math
from collections.abc import Sequence

import numpy as np

from ttcore.arrays import rounding_unit
from ttcore.cores import ranks_of
from ttcore.kernels import dispatch
from ttcore.operands import Formed
from ttcore.scaling import absorb, ldexp
from ttcore.truncation import Info, noise, per_bond
from ttcore.typing import Array, Cores

LONG = 16  # cores from which, in NumPy,
LOW = 16  # ranks up to which, and
LITTLE = 1024  # entries of a core up to which one compiled sweep is the quicker way


def is_small(operand: Formed) -> bool:
    """Whether `round_small` is the quicker way: by shapes and dtype alone."""
    cores = operand.cores
    return (
        len(cores) >= LONG
        and max(operand.ranks) <= LOW
        and max(math.prod(core.shape) for core in cores) <= LITTLE
        and dispatch.is_native(cores[0])
    )


def round_small(
    cores: Sequence[Array],
    exponent: int,
    eps: float,
    caps: Sequence[float],
    atol: float,
    method: str,
) -> tuple[Cores, Info, int | None]:
    """As `rounding.round_operand`, of the train ``2**exponent * cores``.

    By Householder's reflections, whichever of 'svd' and 'gram' the method is to be called.
    """
    from ttcore.kernels.cpu.sweep import sweep

    d, like = len(cores), cores[0]
    flat = np.concatenate([np.ravel(core) for core in cores], dtype=np.float64)
    modes = np.array([core.shape[1] for core in cores])
    ranks = np.array(ranks_of(tuple(cores)))
    unit = rounding_unit(like)
    least = np.array([noise(k, unit) for k in range(LOW + 1)])
    out, found = np.empty_like(flat), np.empty(d + 1, np.int64)
    lost, shifts = np.empty(d - 1), np.empty(d - 1, np.int64)
    size, origin, shift = sweep(
        flat, modes, ranks, per_bond(eps, d), ldexp(per_bond(atol, d), -exponent),
        np.minimum(caps, LOW).astype(np.int64), 4.0 * 2.0**-53, least, out, found, lost, shifts,
    )  # fmt: skip
    ends = np.cumsum(found[:-1] * modes * found[1:])
    shapes = zip(found[:-1], modes, found[1:], strict=True)
    pieces = np.split(out[: ends[-1]].astype(like.dtype), ends[:-1])  # a copy: out is large
    rounded = [piece.reshape(shape) for piece, shape in zip(pieces, shapes, strict=True)]
    done, center = absorb(rounded, exponent + int(shift), d - 1)
    tails = [(float(x), int(e)) for x, e in zip(lost, shifts, strict=True)]
    error = math.hypot(*(ldexp(x, e - int(origin)) for x, e in tails)) / size if size else 0.0
    discarded = tuple(ldexp(x, e + exponent) for x, e in tails)
    return done, Info(error, "measured", ranks_of(done), discarded, method), center
