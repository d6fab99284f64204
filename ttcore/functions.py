"""Functions of trains: inner products, distances, sums, joins and products of modes."""

import math
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np

from ttcore import algebra, joining, linear, parts
from ttcore.arrays import as_array, check_same_library, common, namespace
from ttcore.contraction import check_axes
from ttcore.errors import TTShapeError, TTTypeError
from ttcore.matrix import TTMatrix
from ttcore.orthogonal import norm
from ttcore.scalars import kind
from ttcore.scaling import ldexp, log_of
from ttcore.tensor import TTTensor
from ttcore.train import Train
from ttcore.truncation import check_eps
from ttcore.typing import Cores

T = TypeVar("T", bound=Train)


def _pair(a: Train, b: Train, name: str) -> tuple[Cores, Cores]:
    """Three-way cores of two trains of equal modes."""
    for value in (a, b):
        if not isinstance(value, Train):
            raise TTTypeError(
                f"{name} takes two trains, but got {kind(value)}; make it one by tt.from_dense"
            )
    return a._paired(b)


def vdot(a: T, b: T) -> float | complex:
    r"""Inner product :math:`\sum_i \overline{a_i}\, b_i`, as `numpy.vdot`: ``a`` is conjugated.

    Overflows only when its value does; see `log_vdot`. Cost O(d n r^3).

    Raises
    ------
    TTShapeError, TTTypeError
        If the modes differ, or it is not two tensors or two matrices.

    Examples
    --------
    >>> import ttcore as tt
    >>> tt.vdot(tt.ones((3, 3, 3)), tt.ones((3, 3, 3)))
    27.0
    """
    return algebra.vdot(*_pair(a, b, "vdot"))


def log_vdot(a: T, b: T) -> tuple[float | complex, float]:
    """``(phase, log_abs)`` such that ``vdot(a, b) == phase * exp(log_abs)``, whatever its size.

    (0, -inf) for zero.

    Examples
    --------
    >>> import ttcore as tt
    >>> phase, log_abs = tt.log_vdot(tt.ones(10_000 * (2,)), -tt.ones(10_000 * (2,)))
    >>> phase, round(log_abs, 3)  # 2 ** 10000 is beyond any float
    (-1.0, 6931.472)
    """
    return algebra.log_vdot(*_pair(a, b, "log_vdot"))


def bilinear_form(x: TTTensor, W: TTMatrix, y: TTTensor) -> float | complex:
    r"""The number :math:`x^* W y`, as ``vdot(x, W @ y)``, without forming ``W @ y``.

    Cost O(d n r_x r_W r_y (r_x + r_W n + r_y)), where the product alone has ranks r_W r_y.

    Parameters
    ----------
    x : TTTensor of shape ``W.row_modes``
        Conjugated.
    W : TTMatrix
    y : TTTensor of shape ``W.col_modes``

    Raises
    ------
    TTShapeError, TTTypeError
        If the modes do not fit, or it is something else.

    Examples
    --------
    >>> import ttcore as tt
    >>> ones = tt.ones((2, 3))
    >>> tt.bilinear_form(ones, 2 * tt.eye((2, 3)), ones)
    12.0
    """
    for value, expected, name in ((x, TTTensor, "x"), (W, TTMatrix, "W"), (y, TTTensor, "y")):
        if not isinstance(value, expected):
            raise TTTypeError(
                f"{name} is {kind(value)}, expected a {expected.__name__}: bilinear_form(x, W, y)"
            )
    for t, modes, name in ((x, W.row_modes, "x"), (y, W.col_modes, "y")):
        if t.shape != modes:
            which = "row_modes" if name == "x" else "col_modes"
            raise TTShapeError(f"{name} has shape {t.shape}, expected {modes}, the {which} of W")
    check_same_library((x.cores[0], W.cores[0], y.cores[0]), "the trains")
    value, exponent = linear.bilinear(x.cores, W.cores, y.cores)
    return ldexp(algebra.scalar(value), exponent)  # type: ignore[no-any-return]


def distance(a: T, b: T) -> float:
    """Frobenius norm of ``a - b``, by orthogonalisation.

    Accurate to u (‖a‖ + ‖b‖), where sqrt(vdot) cannot see below 1e-8.
    """
    return ldexp(*algebra.distance(*_pair(a, b, "distance")))  # type: ignore[no-any-return]


def allclose(a: T, b: T, *, rtol: float = 1e-10, atol: float = 0) -> bool:
    """Whether ‖a − b‖ <= atol + rtol max(‖a‖, ‖b‖) in the Frobenius norm.

    Norms may be of any size, beyond the range of a float too.
    """
    x, y = _pair(a, b, "allclose")
    rtol, atol = check_eps(rtol, "rtol"), check_eps(atol, "atol")
    larger = max(log_of(*norm(x)), log_of(*norm(y)))
    relative = math.log(rtol) + larger if rtol else -math.inf
    absolute = math.log(atol) if atol else -math.inf
    with np.errstate(invalid="ignore"):  # NaN is close to nothing
        return bool(log_of(*algebra.distance(x, y)) <= np.logaddexp(relative, absolute))


def concatenate(ts: Sequence[TTTensor], axis: int = 0) -> TTTensor:
    """TT-tensors one behind the other along an existing mode, as `numpy.concatenate`; exact.

    Ranks add up.

    Raises
    ------
    TTShapeError, TTIndexError, TTTypeError
        If other modes differ, or there is no such axis.

    Examples
    --------
    >>> import ttcore as tt
    >>> tt.concatenate([tt.ones((2, 3)), tt.zeros((4, 3))]).shape
    (6, 3)
    """
    trains = _tensors(ts, "concatenate")
    d = trains[0].ndim
    if any(t.ndim != d for t in trains):
        shapes = ", ".join(str(t.shape) for t in trains)
        raise TTShapeError(f"shapes {shapes} differ in their number of modes; join equal ones")
    place = check_axes(axis, d)[0]
    return TTTensor._made(joining.concatenate([t.cores for t in trains], place))


def stack(ts: Sequence[TTTensor], axis: int = 0) -> TTTensor:
    """TT-tensors along a new mode, as `numpy.stack`; exact. Ranks add up.

    Raises
    ------
    TTShapeError, TTIndexError, TTTypeError
        If shapes differ, or there is no such axis.

    Examples
    --------
    >>> import ttcore as tt
    >>> tt.stack([tt.ones((2, 3)), tt.zeros((2, 3))], axis=-1).shape
    (2, 3, 2)
    """
    trains = _tensors(ts, "stack")
    for t in trains[1:]:
        trains[0]._paired(t)
    place = check_axes(axis, trains[0].ndim + 1)[0]
    return TTTensor._made(joining.stack([t.cores for t in trains], place))


def _tensors(ts: Sequence[TTTensor], name: str) -> list[TTTensor]:
    trains = list(ts) if not isinstance(ts, TTTensor) else []
    for t in trains:
        if not isinstance(t, TTTensor):
            raise TTTypeError(f"{name} takes TT-tensors, but got {kind(t)}")
    if not trains:
        raise TTTypeError(f"{name} takes a sequence of TT-tensors, at least one")
    return trains


def kron(*factors: Any) -> Any:
    """Kronecker product of matrices, or outer product of tensors; exact.

    Parameters
    ----------
    *factors : TTMatrix or (m, n) array; or TTTensor or (n,) array
        Matrices and tensors are not mixed. A single sequence of them is taken too. The first
        factor is the most significant, as in `numpy.kron`.

    Returns
    -------
    TTMatrix or TTTensor
        A train with all their cores; a dense matrix or vector is one core.

    Raises
    ------
    TTTypeError, TTShapeError
        If matrices and tensors are mixed, or an array has another number of axes.

    Examples
    --------
    >>> import numpy as np
    >>> import ttcore as tt
    >>> tt.kron(np.ones((2, 3)), tt.eye((4, 5))).shape
    (40, 60)
    """
    if len(factors) == 1 and isinstance(factors[0], list | tuple):
        factors = tuple(factors[0])
    if not factors:
        raise TTTypeError("kron got no factors; give at least one matrix or tensor")
    trains = [f if isinstance(f, Train) else _one_core(f, k) for k, f in enumerate(factors)]
    for t in trains[1:]:
        trains[0]._check_kin(t)
    return trains[0]._made(common([core for t in trains for core in t.cores]))


def _one_core(factor: Any, k: int) -> Train:
    array = as_array(factor, f"factor {k}")
    if array.ndim not in {1, 2}:
        raise TTShapeError(
            f"factor {k} has shape {tuple(array.shape)}, expected a matrix (m, n), a vector (n,) "
            "or a train"
        )
    core = namespace(array).reshape(array, (1, *array.shape, 1))
    return TTMatrix([core]) if array.ndim == 2 else TTTensor([core])


def diag(t: TTTensor) -> TTMatrix:
    """The square TT-matrix with the entries of ``t`` on its diagonal; exact, of the same ranks.

    Examples
    --------
    >>> import ttcore as tt
    >>> tt.diag(tt.ones((2, 3))).shape
    (6, 6)
    """
    (t,) = _tensors([t], "diag")
    return TTMatrix._made(parts.diagonal_matrix(t.cores))
