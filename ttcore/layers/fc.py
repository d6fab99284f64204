r"""The fully-connected layer ``y = W x + b`` with W in the TT-matrix format, and its gradients.

What a framework's layer needs and `ttcore.linear` leaves open: leading axes, a bias, half
precision.

Source: A. Novikov, D. Podoprikhin, A. Osokin, D. Vetrov, Tensorizing Neural Networks, NIPS 2015,
arXiv:1509.06569.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from ttcore.arrays import (
    NATIVE,
    as_array,
    astype,
    check_same_library,
    common,
    dtype_name,
    is_complex,
    namespace,
)
from ttcore.cores import check_cores
from ttcore.errors import TTShapeError
from ttcore.kernels import dispatch
from ttcore.linear import (
    check_length,
    check_workers,
    col_modes,
    matvec_backward,
    row_modes,
    times_rows,
)
from ttcore.planner import Kind, Order, batch_class, order
from ttcore.typing import Array, Cores

__all__ = ["backward", "forward"]

SUMMED = 128  # rows that are added up one after the other
WIDE = 1024  # entries of a row from which NumPy adds rows up quickly
_HALF = {"float16", "bfloat16"}
_GRADIENTS = {*_HALF, "float32", "float64", "complex64", "complex128"}


def forward(cores: Sequence[Any], x: Any, bias: Any = None, *, workers: int | None = None) -> Array:
    """Output of the layer: ``y = W x + b`` for each vector of ``x``.

    Parameters
    ----------
    cores : sequence of d arrays (r_{k-1}, m_k, n_k, r_k)
        m: output mode, n: input mode; r_0 = r_d = 1. (`init_cores` takes the input modes first, as
        frameworks do.)
    x : (..., N) array
        N = n_1 ... n_d, flattened in C order; any number of leading axes, which may be empty. Of
        the same library as the cores.
    bias : (M,) array, optional
        M = m_1 ... m_d.
    workers : int, optional
        Threads, as in `ttcore.linear.matvec`.

    Returns
    -------
    (..., M) array
        In the common dtype of the arguments; but float16 or bfloat16 where x is so: then float32 is
        what it is computed in.

    Raises
    ------
    TTShapeError, TTTypeError
        If the shapes do not fit together.

    Notes
    -----
    Cost and order of contraction as for `ttcore.linear.matvec`. Half precision is converted as a
    whole: x and y exist once more in float32.

    Examples
    --------
    >>> import numpy as np
    >>> import ttcore as tt
    >>> cores = tt.layers.init_cores((2, 3), (4, 5), 2, rng=0)
    >>> tt.layers.fc.forward(cores, np.ones((7, 8, 6)), np.zeros(20)).shape
    (7, 8, 20)
    """
    known = _known(cores, x, bias)
    if known is not None:
        found = known.order("rows")
        rows = x if x.ndim == 2 else x.reshape(known.rows)
        product = dispatch.chain(found.compiled).matvec
        y = product(tuple(cores), rows, found.stages, check_workers(workers))
        if bias is not None:
            y += bias
        return y if x.ndim == 2 else y.reshape(known.output)
    checked = check_cores(cores, 4)
    given, x = x, as_array(x, "x")
    y = times_rows(checked, _rows(x, checked), workers)
    if bias is not None:
        y = _plus(y, check_bias(bias, int(y.shape[1])))
    if x.ndim != 2:
        y = namespace(y).reshape(y, (*x.shape[:-1], y.shape[1]))
    return y if given is x else _in_half(y, given)


def backward(
    cores: Sequence[Any], x: Any, gy: Any, bias: Any = None, *, workers: int | None = None
) -> tuple[Array, Cores, Array | None]:
    r"""Gradients of a real loss through ``y = forward(cores, x, bias)``.

    Parameters
    ----------
    cores, x, bias, workers
        As in `forward`. Of the bias only shape and dtype matter.
    gy : (..., M) array
        Gradient of the loss with respect to y.

    Returns
    -------
    gx : (..., N) array
    gcores : tuple of arrays
    gbias : (M,) array, or None
        Without a bias. Each gradient has the shape and the dtype of its operand: of a real one
        among complex ones it is the real part, of half precision it is computed in float32. Complex
        ones are conjugate (Wirtinger) gradients, as torch's.

    Raises
    ------
    TTShapeError, TTTypeError
        If the shapes do not fit together.

    Notes
    -----
    Nothing of the forward pass is needed. Cost: about three times that of `forward`.

    Examples
    --------
    >>> import numpy as np
    >>> import ttcore as tt
    >>> cores = tt.layers.init_cores((2, 3), (4, 5), 2, rng=0)
    >>> x, gy, bias = np.ones((7, 6)), np.ones((7, 20)), np.zeros(20)
    >>> gx, gcores, gbias = tt.layers.fc.backward(cores, x, gy, bias)
    >>> gx.shape, [g.shape for g in gcores], gbias[:3]
    ((7, 6), [(1, 4, 2, 2), (2, 5, 3, 1)], array([7., 7., 7.]))
    """
    known = _known(cores, x, bias)
    if known is not None and _is_like(gy, x.dtype) and gy.shape == known.output:
        found = known.order("gradients")
        rows, slope = x, gy
        if x.ndim != 2:
            slope = gy.reshape(known.rows[0], known.output[-1])
            rows = x.reshape(known.rows)
        products = dispatch.chain(found.compiled).matvec_backward
        gx, gcores = products(tuple(cores), rows, slope, found.stages, check_workers(workers))
        gx = gx if x.ndim == 2 else gx.reshape(x.shape)
        return gx, gcores, None if bias is None else sum_of_rows(slope)
    given = list(cores)
    checked = check_cores(cores, 4)
    rows, slope = as_array(x, "x"), as_array(gy, "gy")
    lead = tuple(rows.shape[:-1])
    flat = _rows(rows, checked)
    expected = (*lead, math.prod(row_modes(checked)))
    if tuple(slope.shape) != expected:
        raise TTShapeError(
            f"gy has shape {tuple(slope.shape)}, expected {expected}: M = {expected[-1]} entries "
            "for each vector of x"
        )
    if slope.ndim != 2:
        slope = namespace(slope).reshape(slope, (flat.shape[0], expected[-1]))
    gx, gcores = matvec_backward(checked, flat, slope, workers=workers)
    if rows.ndim != 2:
        gx = namespace(gx).reshape(gx, tuple(rows.shape))
    gbias = None
    if bias is not None:
        check_bias(bias, expected[-1])
        gbias = _as_operand(namespace(slope).sum(slope, axis=0), bias)
    return _as_operand(gx, x), tuple(map(_as_operand, gcores, given)), gbias


class Known(NamedTuple):
    """What shapes and a dtype tell of a call that is in order."""

    rows: tuple[int, int]
    output: tuple[int, ...]
    shapes: tuple[tuple[int, ...], ...]
    batch: int
    dtype: str
    native: bool

    def order(self, kind: Kind) -> Order:
        """The planner is asked at each call: what it prefers may be measured meanwhile."""
        return order(self.shapes, self.batch, self.dtype, kind, self.native)


def _known(cores: Any, x: Any, bias: Any) -> Known | None:
    """What is known of NumPy's arrays of one dtype whose shapes fit; None for anything else.

    For small layers all the checks, one by one, take longer than the product: here they are one
    look-up.
    """
    if type(x) is not np.ndarray or type(cores) not in {list, tuple}:
        return None
    dtype = x.dtype
    shapes = []
    for g in cores:
        if type(g) is not np.ndarray or g.dtype is not dtype:
            return None
        shapes.append(g.shape)
    if bias is None:
        return fitting(dtype, x.shape, None, tuple(shapes))
    if not _is_like(bias, dtype):
        return None
    return fitting(dtype, x.shape, bias.shape, tuple(shapes))


def _is_like(a: Any, dtype: Any) -> bool:
    return type(a) is np.ndarray and a.dtype is dtype


@lru_cache(maxsize=1024)
def fitting(
    dtype: Any, x: tuple[int, ...], bias: Any, shapes: tuple[tuple[int, ...], ...]
) -> Known | None:
    """What is known of arrays of these shapes; None where they do not fit: the checks tell why."""
    ranks = [1, *(g[-1] for g in shapes)]
    if dtype not in NATIVE or not shapes or not x or ranks[-1] != 1:
        return None
    if any(len(g) != 4 or 0 in g or g[0] != rank for g, rank in zip(shapes, ranks, strict=False)):
        return None
    inputs, outputs = (math.prod(g[axis] for g in shapes) for axis in (2, 1))
    if x[-1] != inputs or bias not in {None, (outputs,)}:
        return None
    batch = math.prod(x[:-1])
    return Known(
        (batch, inputs),
        (*x[:-1], outputs),
        shapes,
        batch_class(batch),
        dtype.name,
        dtype in dispatch.COMPILED,
    )


def sum_of_rows(a: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """``a.sum(axis=0)`` of (batch, M), by sums of `SUMMED` terms, sums of those, and so on."""
    rows, m = a.shape
    total: np.ndarray[Any, Any]
    if rows <= SUMMED or m == 0:
        total = a.sum(axis=0)
        return total
    side = max(1, min(WIDE // m, rows // SUMMED))  # short rows are added up several at once
    whole = rows - rows % (SUMMED * side)
    parts = a[:whole].reshape(-1, SUMMED, side * m).sum(axis=1)
    total = sum_of_rows(parts.reshape(-1, m))
    total += sum_of_rows(a[whole:])
    return total


def check_bias(bias: Any, length: int) -> Array:
    """The bias as an array of shape (length,).

    Raises
    ------
    TTShapeError, TTTypeError
        If it is none.
    """
    bias = as_array(bias, "bias")
    if tuple(bias.shape) != (length,):
        raise TTShapeError(
            f"bias has shape {tuple(bias.shape)}, expected ({length},): one number for each output"
        )
    return bias


def _rows(x: Array, cores: Cores) -> Array:
    """``x`` (..., N) as rows (batch, N), of which the product checks N."""
    if x.ndim == 2:
        return x
    check_length(x, -1, col_modes(cores), "col_modes", "(..., N)")
    return namespace(x).reshape(x, (math.prod(x.shape[:-1]), x.shape[-1]))


def _plus(y: Array, bias: Array) -> Array:
    """``y + bias``; y is ours to write to, unless a library's autodiff follows it."""
    if isinstance(y, np.ndarray) and isinstance(bias, np.ndarray) and y.dtype == bias.dtype:
        y += bias
        return y
    check_same_library((y, bias), "x and the bias")
    y, bias = common((y, bias))
    return y + bias


def _in_half(y: Array, x: Any) -> Array:
    """``y`` in the dtype of ``x`` where that is half precision."""
    name = dtype_name(x.dtype) if hasattr(x, "dtype") else ""
    return astype(y, name) if name in _HALF and not is_complex(y) else y


def _as_operand(gradient: Array, operand: Any) -> Array:
    """The gradient in the dtype of its operand: of a real one the real part."""
    if gradient.dtype is getattr(operand, "dtype", None):  # the usual case, answered quickly
        return gradient
    name = dtype_name(operand.dtype) if hasattr(operand, "dtype") else ""
    if name not in _GRADIENTS:  # integers, say
        return gradient
    if is_complex(gradient) and not name.startswith("complex"):
        gradient = namespace(gradient).real(gradient)
    return astype(gradient, name)
