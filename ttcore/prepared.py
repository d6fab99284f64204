"""A TT-matrix made ready for many products: its supercores, or the dense matrix, are kept."""

import math
from typing import Any

from ttcore import linear, planner
from ttcore.arrays import as_array, check_same_library, dtype_name, namespace
from ttcore.errors import TTTypeError
from ttcore.kernels import dispatch
from ttcore.planner import Order, Plan
from ttcore.typing import Array, Cores


class PreparedMatrix:
    """What `TTMatrix.prepare` returns: products without merging, in the order planned for them.

    Attributes
    ----------
    shape : (M, N)
    dtype : dtype
        Of the matrix; vectors have the same.
    plan : Plan
        Its flops and bytes count merging, which is done.
    nbytes : int
        Bytes that are kept.
    """

    def __init__(self, cores: Cores, batch: int, max_bytes: int) -> None:
        dtype = dtype_name(cores[0].dtype)
        native = dispatch.is_native(cores[0])
        modes = planner.modes_of(tuple(tuple(g.shape) for g in cores))
        like = planner.batch_class(batch)
        seconds, stages = planner.candidates(
            modes, like, dtype, "rows", compiled=native, scratch=max_bytes, merging=False
        )[0]
        # the library's own product is the best for one large matrix, and for few flops
        compiled = native and len(stages) > 1 and like * planner.flops_of(stages) >= planner.WORTH
        self._chain = dispatch.chain(compiled)
        self._stages = stages
        self._matrices = self._chain.prepare(cores, stages)
        self.shape = math.prod(modes.rows), math.prod(modes.cols)
        self._like = cores[0]
        self.dtype = cores[0].dtype
        self.plan: Plan = planner.planned(modes, batch, dtype, Order(stages, compiled, seconds))
        entries = sum(s.rows * s.k * (2 if compiled and s.inner == 1 else 1) for s in stages)
        self.nbytes = entries * planner.entry_bytes(dtype)

    def __repr__(self) -> str:
        """Shape, dtype and bytes."""
        M, N = self.shape
        return f"PreparedMatrix({M} x {N}, {dtype_name(self.dtype)}, {self.nbytes:,} bytes)"

    def apply(self, x: Any, *, workers: int | None = None) -> Array:
        """``x @ W.T``: rows (..., N) -> (..., M).

        Raises
        ------
        TTShapeError, TTTypeError
            If the last axis is not N long, or the dtype is not that of the matrix.
        """
        x = as_array(x, "x")
        check_same_library((self._like, x), "the matrix and the vectors")
        if x.dtype != self.dtype:
            raise TTTypeError(
                f"x has dtype {dtype_name(x.dtype)}, but the matrix was prepared in "
                f"{dtype_name(self.dtype)}; convert x"
            )
        linear.check_length(x, -1, self.plan.col_modes, "col_modes", "(..., N)")
        xp = namespace(x)
        rows = xp.reshape(x, (math.prod(x.shape[:-1]), self.shape[1]))
        workers = linear.check_workers(workers)
        y = self._chain.apply(self._matrices, rows, self._stages, workers)
        return xp.reshape(y, (*x.shape[:-1], self.shape[0]))
