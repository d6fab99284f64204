"""Products of a TT-matrix with dense vectors, and gradients, as batched matrix products.

    state (outer, K, inner)  ->  A (rows, K) @ state  ->  state (outer, rows, inner)

A is a supercore as a matrix; each stage's result is, reshaped, already what the next stage reads:
no transpositions. The stages come from ``planner.plan``. Callers: ``linear``. Oracle:
``testing.dense_matrix``.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ttcore.arrays import adjoint, conj, namespace, reshaped
from ttcore.kernels.merging import AXES, merge, split_gradient
from ttcore.kernels.portable.products import rows_product, rows_times
from ttcore.typing import Array, Cores, Stage

CHUNK_BYTES = 2**22  # states of one chunk of rows stay within the cache


def matvec(cores: Cores, x: Array, stages: Sequence[Stage], workers: int | None = None) -> Array:
    """Rows of ``x`` times the transposed matrix.

    Contract
        cores  (r, m, n, r') each, dtype of x
        x      (batch, N)    batch >= 0
        workers  threads; the products of an array library use its own
        result (batch, M)
    """
    return apply(prepare(cores, stages), x, stages, workers)


def prepare(cores: Cores, stages: Sequence[Stage]) -> Any:
    """The matrices of all stages: what `apply` needs, cores merged."""
    return [_matrix(cores, stage) for stage in stages]


def apply(matrices: Any, x: Array, stages: Sequence[Stage], workers: int | None = None) -> Array:
    """`matvec` with what `prepare` made.

    The batch of a library's array may be symbolic, as it is while a tracer watches.
    """

    def rows(state: Array) -> Array:
        for a, stage in zip(matrices, stages, strict=True):
            state = _advance(a, state, -1, stage.inner)
        return reshaped(state, (-1, _length(stages[-1])))

    if not isinstance(x, np.ndarray):
        return rows(x)
    chunks = _chunks(x, 0, stages)
    if len(chunks) == 1:
        return rows(x)
    y = np.empty((x.shape[0], _length(stages[-1])), x.dtype)
    for first, last in chunks:
        y[first:last] = rows(x[first:last])
    return y


def matmat(cores: Cores, x: Array, stages: Sequence[Stage], workers: int | None = None) -> Array:
    """The matrix times the columns of ``x``.

    Contract
        x      (N, batch)    the batch stays the innermost axis throughout
        result (M, batch)
    """
    matrices = [_matrix(cores, stage) for stage in stages]

    def columns(first: int, last: int) -> Array:
        state = x[:, first:last]
        for a, stage in zip(matrices, stages, strict=True):
            state = _advance(a, state, stage.outer, stage.inner * (last - first))
        return namespace(x).reshape(state, (_length(stages[-1]), last - first))

    chunks = _chunks(x, 1, stages)
    if len(chunks) == 1:
        return columns(*chunks[0])
    y = np.empty((_length(stages[-1]), x.shape[1]), x.dtype)
    for first, last in chunks:
        y[:, first:last] = columns(first, last)
    return y


def matvec_backward(
    cores: Cores, x: Array, gy: Array, stages: Sequence[Stage], workers: int | None = None
) -> tuple[Array, Cores]:
    """Gradients of ``matvec``; the states are computed again, chunk by chunk.

    Contract
        x      (batch, N), gy (batch, M)  dtype of the cores
        result gx (batch, N) = gy conj(W), and one array like each core; conjugated as torch does
    """
    xp = namespace(x)
    matrices = [_matrix(cores, stage) for stage in stages]
    gradients = [xp.zeros_like(a) for a in matrices]

    def rows(first: int, last: int) -> Array:
        count = last - first
        states = [x[first:last, :]]
        for a, stage in zip(matrices[:-1], stages[:-1], strict=True):
            states.append(_advance(a, states[-1], count * stage.outer, stage.inner))
        g = gy[first:last, :]
        for t in reversed(range(len(stages))):
            outer, inner = count * stages[t].outer, stages[t].inner
            a = matrices[t]
            g = reshaped(g, (outer, a.shape[0], inner))
            state = reshaped(states[t], (outer, a.shape[1], inner))
            gradients[t] = gradients[t] + _outer_product(g, state)
            g = _advance(adjoint(a), g, outer, inner)
        return reshaped(g, (count, x.shape[1]))

    chunks = _chunks(x, 0, stages, kept=True)
    if len(chunks) == 1:
        gx = rows(*chunks[0])
    else:
        gx = np.empty_like(x, order="C")
        for first, last in chunks:
            gx[first:last] = rows(first, last)
    gcores: list[Array] = [None] * len(cores)
    for stage, gradient in zip(stages, gradients, strict=True):
        span = slice(stage.first, stage.last)
        gcores[span] = split_gradient(cores[span], gradient, stage.form)
    return gx, tuple(gcores)


def _length(stage: Stage) -> int:
    """Length of what the last stage leaves of one vector."""
    return stage.outer * stage.rows * stage.inner


def _chunks(
    x: Array, axis: int, stages: Sequence[Stage], *, kept: bool = False
) -> list[tuple[int, int]]:
    """Ranges of vectors along ``axis`` whose states fit the cache; fixed by shapes alone.

    Arrays of other libraries than NumPy get one range.
    """
    batch = int(x.shape[axis])
    if not isinstance(x, np.ndarray):
        return [(0, batch)]
    sizes = [stage.outer * stage.inner * max(stage.rows, stage.k) for stage in stages]
    each = (sum(sizes) if kept else max(sizes)) * x.dtype.itemsize
    step = max(1 if axis == 0 else 16, CHUNK_BYTES // each)
    return [(first, min(first + step, batch)) for first in range(0, batch, step)] or [(0, 0)]


def _advance(a: Array, state: Array, outer: int, inner: int) -> Array:
    if inner == 1:
        return rows_times(reshaped(state, (outer, a.shape[1])), a.T)
    return namespace(state).matmul(a, reshaped(state, (outer, a.shape[1], inner)))


def _outer_product(g: Array, state: Array) -> Array:
    """Sum over outer and inner of g (outer, rows, inner) times conj(state) (outer, K, inner)."""
    xp = namespace(g)
    if g.shape[2] == 1:
        return rows_product(reshaped(state, state.shape[:2]), reshaped(g, g.shape[:2])).T
    # where the products are no larger than the operands
    if 2 * g.shape[2] >= min(g.shape[1], state.shape[1]):
        return xp.sum(xp.matmul(g, adjoint(state)), axis=0)
    return xp.tensordot(g, conj(state), axes=((0, 2), (0, 2)))


def _matrix(cores: Cores, stage: Stage) -> Array:
    joined = merge(cores[stage.first : stage.last])
    if stage.form != 0:  # else the axes are in order
        joined = namespace(joined).permute_dims(joined, AXES[stage.form])
    return reshaped(joined, (stage.rows, stage.k))
