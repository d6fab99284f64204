"""Products of TT-matrices: with dense vectors and their gradients, with trains, with each other.

On four-way cores (r, m, n, r').

`matvec` and `matvec_backward` are the pair that an autodiff framework needs; they take a batch of
rows, as layers do.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from ttcore.algebra import products
from ttcore.arrays import (
    are_alike,
    as_array,
    astype,
    check_same_library,
    common,
    conj,
    dtype_name,
    is_complex,
    namespace,
)
from ttcore.cores import check_cores, ranks_of, short
from ttcore.errors import TTShapeError
from ttcore.kernels import dispatch
from ttcore.planner import Plan, batch_class, choose, plan
from ttcore.typing import Array, Cores, Stage

__all__ = ["matvec", "matvec_backward"]


def row_modes(cores: Cores) -> tuple[int, ...]:
    """Row (output) mode of each core."""
    return tuple(int(g.shape[1]) for g in cores)


def col_modes(cores: Cores) -> tuple[int, ...]:
    """Column (input) mode of each core."""
    return tuple(int(g.shape[2]) for g in cores)


def plan_for(cores: Cores, batch: int, dtype: str) -> Plan:
    """The contraction plan for rows times these cores."""
    return plan(row_modes(cores), col_modes(cores), ranks_of(cores), batch=batch, dtype=dtype)


def _stages(cores: Cores, batch: int, *, columns: bool = False) -> tuple[Stage, ...]:
    """The planner's choice for these cores."""
    shapes = tuple([tuple(g.shape) for g in cores])  # a list is faster than a generator
    return _chosen(shapes, batch_class(batch), dtype_name(cores[0].dtype), columns)


@lru_cache(maxsize=1024)
def _chosen(
    shapes: tuple[tuple[int, ...], ...], batch: int, dtype: str, columns: bool
) -> tuple[Stage, ...]:
    rows, cols = (tuple(int(shape[axis]) for shape in shapes) for axis in (1, 2))
    return choose(rows, cols, (*(int(shape[0]) for shape in shapes), 1), batch, dtype, columns)


def matvec(cores: Sequence[Any], x: Any) -> Array:
    r"""Rows of ``x`` times a TT-matrix: ``y[b] = W @ x[b]``.

    Parameters
    ----------
    cores : sequence of d arrays (r_{k-1}, m_k, n_k, r_k)
        One dtype or several, which promote; r_0 = r_d = 1.
    x : (batch, N) array
        N = n_1 ... n_d, flattened in C order; batch may be 0. The same library as the cores.

    Returns
    -------
    (batch, M) array
        M = m_1 ... m_d.

    Raises
    ------
    TTShapeError, TTTypeError
        If the cores do not fit together, or x does not fit them.

    Notes
    -----
    The order of contraction is the planner's. Nothing of the size M N is built unless it takes less
    than 2 MiB and pays. Differentiable by
    the autodiff of the array's own library, and traceable by ``jax.jit``.

    Source: A. Novikov, D. Podoprikhin, A. Osokin, D. Vetrov, Tensorizing Neural Networks, NIPS
    2015, arXiv:1509.06569.

    Examples
    --------
    >>> import numpy as np
    >>> import ttcore as tt
    >>> W = tt.eye((2, 3))
    >>> tt.linear.matvec(W.cores, np.arange(6.0).reshape(1, 6))
    array([[0., 1., 2., 3., 4., 5.]])
    """
    checked = check_cores(cores, 4)
    return times_rows(checked, _as_rows(x))


def matvec_backward(cores: Sequence[Any], x: Any, gy: Any) -> tuple[Array, Cores]:
    r"""Gradients of a real loss through ``y = matvec(cores, x)``.

    Parameters
    ----------
    cores, x
        As in `matvec`.
    gy : (batch, M) array
        Gradient of the loss with respect to y.

    Returns
    -------
    gx : (batch, N) array
        ``gy @ conj(W)``: for complex arrays the conjugate (Wirtinger) gradient that torch uses.
    gcores : tuple of arrays
        Shaped as the cores. Each gradient has the dtype of its operand; of a real operand among
        complex ones it is the real part.

    Raises
    ------
    TTShapeError, TTTypeError
        If the shapes do not fit.

    Notes
    -----
    The forward states are computed again, a cache-sized chunk of rows at a time, not stored. Cost:
    about three times that of `matvec`.

    Examples
    --------
    >>> import numpy as np
    >>> import ttcore as tt
    >>> W = tt.eye((2, 3))
    >>> gx, gcores = tt.linear.matvec_backward(W.cores, np.ones((1, 6)), np.ones((1, 6)))
    >>> [g.shape for g in gcores]
    [(1, 2, 2, 1), (1, 3, 3, 1)]
    """
    checked = check_cores(cores, 4)
    x, gy = _as_rows(x), as_array(gy, "gy")
    check_length(x, -1, col_modes(checked), "col_modes", "rows (batch, N)")
    expected = (int(x.shape[0]), math.prod(row_modes(checked)))
    if tuple(gy.shape) != expected:
        raise TTShapeError(
            f"gy has shape {tuple(gy.shape)}, expected {expected}: one row of M = {expected[1]} "
            "entries for each row of x"
        )
    promoted, rows, gy = _promoted(checked, x, gy)
    stages = _stages(promoted, expected[0])
    gx, gcores = dispatch.matvec_backward(promoted, rows, gy, stages)
    return _gradient_of(x, gx), tuple(map(_gradient_of, checked, gcores))


def _gradient_of(operand: Array, gradient: Array) -> Array:
    """The gradient in the dtype of its operand: of a real one the real part."""
    if is_complex(gradient) and not is_complex(operand):
        gradient = namespace(gradient).real(gradient)
    return astype(gradient, dtype_name(operand.dtype))


def times_rows(cores: Cores, x: Array) -> Array:
    """`matvec` for checked cores and rows (batch, N)."""
    cores, x = _promoted(cores, x)
    stages = _stages(cores, int(x.shape[0]))
    first = stages[0]
    if x.shape[1] != first.outer * first.k * first.inner:
        check_length(x, -1, col_modes(cores), "col_modes", "rows (batch, N)")
    return dispatch.matvec(cores, x, stages)


def times_columns(cores: Cores, x: Array) -> Array:
    """The TT-matrix times the columns of ``x`` (N, batch): (M, batch). Both were checked."""
    cores, x = _promoted(cores, x)
    return dispatch.matmat(cores, x, _stages(cores, int(x.shape[1]), columns=True))


def _promoted(cores: Cores, *arrays: Array) -> tuple[Any, ...]:
    if are_alike((*cores, *arrays)):
        return cores, *arrays
    check_same_library((cores[0], *arrays), "the cores and the vectors")
    every = common((*cores, *arrays))
    return every[: len(cores)], *every[len(cores) :]


def _as_rows(x: Any) -> Array:
    x = as_array(x, "x")
    if x.ndim != 2:
        raise TTShapeError(f"x has shape {tuple(x.shape)}, expected rows (batch, N)")
    return x


def check_length(x: Array, axis: int, modes: tuple[int, ...], name: str, expected: str) -> None:
    """Raise TTShapeError unless the axis of ``x`` is as long as the product of the modes."""
    length = math.prod(modes)
    if x.ndim and x.shape[axis] == length:
        return
    rows = x.ndim == 2 and axis == 0 and x.shape[1] == length
    raise TTShapeError(
        f"x has shape {tuple(x.shape)}, expected {expected} with "
        f"{'M' if name == 'row_modes' else 'N'} = {length}: {name} {short(modes)} multiply to "
        f"{length}" + ("; for rows (B, N) use W.apply(x)" if rows else "")
    )


def pairing(rows: Sequence[int], cols: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shape (m_1, n_1, m_2, n_2, ...) and the order of its axes that makes it (m_1 ..., n_1 ...).

    Modes of 1 are left out, so that NumPy's 64 axes are enough for any array that fits a memory.
    """
    pairs = [
        (size, which) for pair in zip(rows, cols, strict=True) for which, size in enumerate(pair)
    ]
    kept = [(size, which) for size, which in pairs if size > 1]
    order = sorted(range(len(kept)), key=lambda axis: kept[axis][1])
    return tuple(size for size, _ in kept), tuple(order)


def transposed(cores: Cores) -> Cores:
    """Cores of the transpose; views."""
    xp = namespace(*cores)
    return tuple(xp.permute_dims(g, (0, 2, 1, 3)) for g in cores)


def adjoint_cores(cores: Cores) -> Cores:
    """Cores of the conjugate transpose."""
    return tuple(conj(g) for g in transposed(cores))


def compose(x: Cores, y: Cores) -> Cores:
    """Cores of the product X @ Y of two TT-matrices; ranks multiply.

    Raises
    ------
    TTShapeError
        If the column modes of X are not the row modes of Y.
    """
    if col_modes(x) != row_modes(y):
        raise TTShapeError(
            f"the left matrix has col_modes {col_modes(x)}, the right operand modes "
            f"{row_modes(y)}; they must be equal"
        )
    both = common((*x, *y))
    return products(both[: len(x)], both[len(x) :], _compose_cores)


def _compose_cores(g: Array, h: Array) -> Array:
    xp = namespace(g, h)
    (r, m, _, t), (s, _, n, u) = g.shape, h.shape
    product = xp.tensordot(g, h, axes=((2,), (1,)))  # (r, m, r', s, n, s')
    return xp.reshape(xp.permute_dims(product, (0, 3, 1, 4, 2, 5)), (r * s, m, n, t * u))
