"""Which backend serves an array.

NumPy's float32 and float64 go to the compiled kernels of ``cpu`` where the planner finds enough
work in a call to pay for loading them; everything else goes to ``portable``. The choice depends on
shapes and dtypes alone: equal calls give equal bits.
"""

from typing import Any

import numpy as np

from ttcore.kernels.portable import chain as portable_chain
from ttcore.kernels.portable import gather, tsqr
from ttcore.typing import Array

__all__ = ["chain", "gather", "is_native", "tsqr"]

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
