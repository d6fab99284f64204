r"""The fully-connected layer ``y = W x + b`` with W in the TT-matrix format, and its gradients.

What a framework's layer needs and `ttcore.linear` leaves open: leading axes, a bias, half
precision.

Source: A. Novikov, D. Podoprikhin, A. Osokin, D. Vetrov, Tensorizing Neural Networks, NIPS 2015,
arXiv:1509.06569.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ttcore.arrays import (
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
from ttcore.linear import check_length, col_modes, matvec_backward, row_modes, times_rows
from ttcore.typing import Array, Cores

__all__ = ["backward", "forward"]

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
    slope = namespace(slope).reshape(slope, (flat.shape[0], expected[-1]))
    gx, gcores = matvec_backward(checked, flat, slope, workers=workers)
    gx = namespace(gx).reshape(gx, tuple(rows.shape))
    gbias = None
    if bias is not None:
        check_bias(bias, expected[-1])
        gbias = _as_operand(namespace(slope).sum(slope, axis=0), bias)
    return _as_operand(gx, x), tuple(map(_as_operand, gcores, given)), gbias


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
    name = dtype_name(operand.dtype) if hasattr(operand, "dtype") else ""
    if name not in _GRADIENTS:  # integers, say
        return gradient
    if is_complex(gradient) and not name.startswith("complex"):
        gradient = namespace(gradient).real(gradient)
    return astype(gradient, name)
