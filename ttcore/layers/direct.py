"""Small layers on addresses, in one compiled call: for frameworks on the same memory.

A view of a framework's array as one of NumPy takes a microsecond or two, and there is one for each
core: as much as the product of a small layer. Whoever holds C-contiguous memory of one dtype asks
here for a program, and hands over addresses alone.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import numpy as np

from ttcore import planner
from ttcore.kernels import dispatch
from ttcore.layers.fc import fitting
from ttcore.planner import Kind

Shape = tuple[int, ...]


class Direct(NamedTuple):
    """What runs the program, and the shape of the layer's output."""

    run: Callable[..., None]
    output: Shape


def product(
    dtype: np.dtype[Any], x: Shape, cores: tuple[Shape, ...], bias: Shape | None, workers: int
) -> Direct | None:
    """``y = W x + b`` for arrays of these shapes: ``run(cores, x, bias, y)``, all addresses.

    Parameters
    ----------
    dtype : dtype
        Of all arrays. All are C-contiguous.
    x, cores, bias
        Shapes, as for `ttcore.layers.fc.forward`. Without a bias its address is 0.
    workers : int
        Threads, at most.

    Returns
    -------
    Direct or None
        None where the shapes do not fit together, where no kernel is compiled for the dtype, and
        where a pool of threads is worth its while: `ttcore.layers.fc` then does it, or tells what
        is wrong.
    """
    return _found(planner.changes, "rows", dtype, x, cores, bias, workers)


def gradients(
    dtype: np.dtype[Any], x: Shape, cores: tuple[Shape, ...], workers: int
) -> Direct | None:
    """Gradients of x and the cores: ``run(cores, x, gy, gx, gcores)``; otherwise as `product`."""
    return _found(planner.changes, "gradients", dtype, x, cores, None, workers)


@lru_cache(maxsize=1024)
def _found(
    _: int,  # what the planner prefers may be measured meanwhile
    kind: Kind,
    dtype: np.dtype[Any],
    x: Shape,
    cores: tuple[Shape, ...],
    bias: Shape | None,
    workers: int,
) -> Direct | None:
    known = fitting(dtype, tuple(x), bias, tuple(map(tuple, cores)))
    if known is None or not known.native or not known.rows[0]:
        return None
    kernel, back = dispatch.direct(), kind == "gradients"
    order = planner.compiled_order(known.shapes, known.batch, known.dtype, kind)
    program = kernel.program(
        known.shapes, order.stages, known.rows[0], known.dtype, workers, back=back
    )
    if program is None:
        return None
    return Direct(partial(kernel.backward if back else kernel.forward, program), known.output)
