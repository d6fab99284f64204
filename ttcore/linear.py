"""Products of TT-matrices: with dense vectors and their gradients, with trains, with each other.

On four-way cores (r, m, n, r').

`matvec` and `matvec_backward` are the pair that an autodiff framework needs; they take a batch of
rows, as layers do.
"""

import math
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from ttcore.algebra import products
from ttcore.arrays import (
    are_alike,
    as_array,
    astype,
    check_same_library,
    common,
    conj,
    default_device_like,
    dtype_name,
    is_complex,
    namespace,
)
from ttcore.cores import check_cores, short
from ttcore.errors import TTShapeError, TTTypeError, TTValueError
from ttcore.kernels import dispatch
from ttcore.kernels.cpu.pool import usable_cpus
from ttcore.planner import Kind, Order, Plan, batch_class, order, plan
from ttcore.scaling import unit
from ttcore.typing import Array, Cores

__all__ = ["matvec", "matvec_backward"]

UNKNOWN = 32  # rows that are planned for where a tracer does not tell how many


def row_modes(cores: Cores) -> tuple[int, ...]:
    """Row (output) mode of each core."""
    return tuple([int(g.shape[1]) for g in cores])


def col_modes(cores: Cores) -> tuple[int, ...]:
    """Column (input) mode of each core."""
    return tuple([int(g.shape[2]) for g in cores])


def plan_for(cores: Cores, batch: int, dtype: str) -> Plan:
    """The contraction plan for rows times these cores."""
    native = isinstance(cores[0], np.ndarray)
    return plan(_shapes(cores), batch=batch, dtype=dtype, native=native)


def order_for(cores: Cores, batch: int, kind: Kind) -> Order:
    """The planner's choice for these cores and a batch."""
    dtype = dtype_name(cores[0].dtype)
    return order(_shapes(cores), batch_class(batch), dtype, kind, dispatch.is_native(cores[0]))


def _shapes(cores: Cores) -> tuple[tuple[int, ...], ...]:
    return tuple([tuple(g.shape) for g in cores])  # a list is faster than a generator


def matvec(cores: Sequence[Any], x: Any, *, workers: int | None = None) -> Array:
    r"""Rows of ``x`` times a TT-matrix: ``y[b] = W @ x[b]``.

    Parameters
    ----------
    cores : sequence of d arrays (r_{k-1}, m_k, n_k, r_k)
        One dtype or several, which promote; r_0 = r_d = 1.
    x : (batch, N) array
        N = n_1 ... n_d, flattened in C order; batch may be 0. The same library as the cores.
    workers : int, optional
        Threads of the compiled kernels, as in `scipy.fft`: default all CPUs that this process may
        use, negative ones count from there. The result has the same bits with any number. What an
        array library computes (other dtypes and libraries, small calls) uses its own threads.

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
    return times_rows(checked, _as_rows(x), workers)


def matvec_backward(
    cores: Sequence[Any], x: Any, gy: Any, *, workers: int | None = None
) -> tuple[Array, Cores]:
    r"""Gradients of a real loss through ``y = matvec(cores, x)``.

    Parameters
    ----------
    cores, x
        As in `matvec`.
    gy : (batch, M) array
        Gradient of the loss with respect to y.
    workers : int, optional
        As in `matvec`.

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
    found = order_for(promoted, expected[0], "gradients")
    chain = dispatch.chain(found.compiled)
    gx, gcores = chain.matvec_backward(promoted, rows, gy, found.stages, check_workers(workers))
    return gradient_of(x, gx), tuple(map(gradient_of, checked, gcores))


def gradient_of(operand: Array, gradient: Array) -> Array:
    """The gradient in the dtype of its operand: of a real one the real part."""
    if gradient.dtype is operand.dtype:  # the usual case, answered quickly
        return gradient
    if is_complex(gradient) and not is_complex(operand):
        gradient = namespace(gradient).real(gradient)
    return astype(gradient, dtype_name(operand.dtype))


def times_rows(cores: Cores, x: Array, workers: int | None = None) -> Array:
    """`matvec` for checked cores and rows (batch, N)."""
    cores, x = _promoted(cores, x)
    batch = x.shape[0]
    found = order_for(cores, batch if isinstance(batch, int) else UNKNOWN, "rows")
    first = found.stages[0]
    if x.shape[1] != first.outer * first.k * first.inner:
        check_length(x, -1, col_modes(cores), "col_modes", "rows (batch, N)")
    return dispatch.chain(found.compiled).matvec(cores, x, found.stages, check_workers(workers))


def times_columns(cores: Cores, x: Array) -> Array:
    """The TT-matrix times the columns of ``x`` (N, batch): (M, batch). Both were checked."""
    cores, x = _promoted(cores, x)
    found = order_for(cores, int(x.shape[1]), "columns")
    return dispatch.chain(found.compiled).matmat(cores, x, found.stages)


def check_workers(workers: int | None) -> int | None:
    """A number of threads as `scipy.fft` takes it: None, positive, or negative from all CPUs.

    Raises
    ------
    TTTypeError, TTValueError
        If it is no int, or zero, or more than there are below zero.
    """
    if workers is None:
        return None
    try:
        number = operator.index(workers)
    except TypeError as error:
        raise TTTypeError(f"workers={workers!r} is no int or None") from error
    if number > 0:
        return number
    cpus = usable_cpus()
    if number == 0 or number < -cpus:
        raise TTValueError(
            f"workers={number} must be at least 1, or -1..-{cpus}: -1 stands for all {cpus} CPUs"
        )
    return cpus + 1 + number


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


def bilinear(x: Cores, w: Cores, y: Cores) -> tuple[Any, int]:
    """x* W y as ``(value, exponent)``, from left to right; x, y on three-way cores."""
    every = common((*x, *w, *y))
    d = len(w)
    xp = namespace(*every)
    interface = xp.ones((1, 1, 1), dtype=every[0].dtype, **default_device_like(every[0]))
    exponent = 0
    for core in zip(every[:d], every[d : 2 * d], every[2 * d :], strict=True):
        (g, a), (v, b), (h, c) = map(unit, core)
        state = xp.tensordot(interface, h, axes=((2,), (0,)))  # (r_x, r_W, n, r_y')
        state = xp.tensordot(v, state, axes=((0, 2), (1, 2)))  # (m, r_W', r_x, r_y')
        state = xp.tensordot(conj(g), state, axes=((0, 1), (2, 0)))  # (r_x', r_W', r_y')
        interface, shift = unit(state)
        exponent += shift + a + b + c
    return interface[0, 0, 0], exponent
