"""Which backend serves an array.

NumPy's float32 and float64 go to the compiled kernels of ``cpu`` where a call has enough work to
pay for loading them; everything else goes to ``portable``. The choice depends on shapes and dtypes
alone: equal calls give equal bits.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from ttcore.kernels.portable import chain as portable_chain
from ttcore.kernels.portable import gather, tsqr
from ttcore.typing import Array, Cores, Stage

__all__ = ["gather", "matmat", "matvec", "matvec_backward", "tsqr"]

WORTH = 500_000  # flops of a call from which the compiled kernels are used
COMPILED = {np.dtype(np.float32), np.dtype(np.float64)}


def matvec(cores: Cores, x: Array, stages: Sequence[Stage]) -> Array:
    """``chain.matvec`` of the backend for x."""
    return _chain(x, x.shape[0], stages).matvec(cores, x, stages)


def matmat(cores: Cores, x: Array, stages: Sequence[Stage]) -> Array:
    """``chain.matmat`` of the backend for x."""
    return _chain(x, x.shape[1], stages).matmat(cores, x, stages)


def matvec_backward(
    cores: Cores, x: Array, gy: Array, stages: Sequence[Stage]
) -> tuple[Array, Cores]:
    """``chain.matvec_backward`` of the backend for x."""
    chain = _chain(x, x.shape[0], stages)
    found: tuple[Array, Cores] = chain.matvec_backward(cores, x, gy, stages)
    return found


def _chain(x: Array, batch: int, stages: Sequence[Stage]) -> Any:
    if not isinstance(x, np.ndarray) or x.dtype not in COMPILED:
        return portable_chain
    if batch * _flops(tuple(stages)) < WORTH:
        return portable_chain
    from ttcore.kernels.cpu import chain

    return chain


@lru_cache(maxsize=1024)
def _flops(stages: tuple[Stage, ...]) -> int:
    return sum(2 * s.outer * s.rows * s.k * s.inner for s in stages)
