r"""Hypothesis strategies and dense oracles, for testing code that uses tensor trains.

Strategies draw trains and arrays of the four dtypes, with modes of 1, a single core, ranks of 1,
ranks that the modes cannot use, and cores that are strided, read-only or byte-swapped.
Oracles multiply the cores out in extended precision, by plain `numpy.tensordot`, and share no code
with the rest of the library. Bounds are derived: a number of operations, times the unit roundoff,
times the size of what is added up.

Needs Hypothesis; ``import ttcore`` does not load this module.

Examples
--------
>>> from hypothesis import given
>>> from ttcore.testing import dense, gamma, magnitude, tt_tensors
>>> @given(tt_tensors())
... def test_to_dense_equals_the_product_of_the_cores(x):
...     error = abs(x.to_dense() - dense(x))
...     assert (error <= gamma(x.dtype, x) * magnitude(x)).all()
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from hypothesis import strategies as st
from numpy.typing import DTypeLike, NDArray

import ttcore as tt

Cores = Sequence[NDArray[Any]]


class HasCores(Protocol):
    """Anything with ``cores``: a `TTTensor`, a `TTMatrix`."""

    @property
    def cores(self) -> tuple[Any, ...]:
        """The chain of arrays."""


DTYPES = tuple(np.dtype(name) for name in ("float32", "float64", "complex64", "complex128"))
"""The dtypes that trains can have."""

LAYOUTS = ("C", "F", "strided", "reversed", "readonly", "swapped")
"""The memory layouts that `relayout` knows."""

_FILLS = ("normal", "normal", "integer", "sparse", "graded", "zero")


# Oracles: plain products in extended precision


def dense(train: Cores | HasCores) -> NDArray[Any]:
    """Full array of a TT-tensor, in extended precision.

    Parameters
    ----------
    train : sequence of ndarray, or TTTensor
        Cores of shapes ``(r, n, r')``.

    Returns
    -------
    ndarray
        Of shape ``(n_1, ..., n_d)``, longdouble or clongdouble.
    """
    left = np.ones((1, 1), np.longdouble)
    modes = []
    for core in _extended(train):
        left = np.tensordot(left, core, 1).reshape(-1, core.shape[2])
        modes.append(core.shape[1])
    return left.reshape(modes)


def dense_matrix(train: Cores | HasCores) -> NDArray[Any]:
    """Full matrix of a TT-matrix, in extended precision.

    Parameters
    ----------
    train : sequence of ndarray, or TTMatrix
        Cores of shapes ``(r, m, n, r')``.

    Returns
    -------
    (M, N) ndarray
        Longdouble or clongdouble.
    """
    return _join(_extended(train))[0, :, :, 0]


def magnitude(train: Cores | HasCores) -> NDArray[Any]:
    """`dense` or `dense_matrix` of the absolute values of the cores.

    Entry by entry it bounds the sum of the absolute values of all terms that make the entry, so
    that `gamma` times it bounds the rounding error of any order of summation.
    """
    cores = [np.abs(core) for core in _extended(train)]
    return dense(cores) if cores[0].ndim == 3 else dense_matrix(cores)


def operations(*trains: Cores | HasCores) -> int:
    """Bound on the number of roundings that meet in one entry of a contraction of ``trains``.

    At each core a contraction sums over at most its modes and one bond, in any order.
    """
    shapes_ = [core.shape for train in trains for core in _cores(train)]
    return sum(math.prod(s[1:-1]) * max(s[0], s[-1]) + 1 for s in shapes_)


def gamma(dtype: DTypeLike, *trains: Cores | HasCores) -> float:
    """Relative error bound of a contraction of ``trains`` in ``dtype``.

    ``4 * operations * eps``: a complex multiplication costs up to three real roundings, and the
    oracle may have no more digits than float64.
    """
    return 4 * operations(*trains) * float(np.finfo(dtype).eps)


def representation_size(train: Cores | HasCores) -> float:
    r"""Size :math:`S = \max_k \|L_k\|_F \|R_k\|_F` of a train over its bonds.

    :math:`L_k` and :math:`R_k` are the parts left and right of bond :math:`k`. A perturbation of
    a core by a relative ``u`` moves the tensor by at most ``u * S``. It is at least the norm of the
    tensor, and much more where the terms cancel.
    """
    cores = [core.reshape(core.shape[0], -1, core.shape[-1]) for core in _extended(train)]
    left, right = [_frobenius_by_bond(cores), _frobenius_by_bond([c.T for c in cores[::-1]])[::-1]]
    return float(max(a * b for a, b in zip(left, right, strict=True)))


def distance(x: Cores | HasCores, y: Cores | HasCores) -> float:
    r"""Norm :math:`\|x - y\|_F` by a QR sweep over the difference, in double precision.

    For trains too long for `dense`. It sees differences down to about ``u * (|x| + |y|)``; those
    beyond the range of a float come out as 0 or inf.
    """
    carry: NDArray[Any] = np.ones((1, 2))
    exponent, last = 0, len(_cores(x)) - 1
    for k, (g, h) in enumerate(zip(_cores(x), _cores(y), strict=True)):
        g3, h3 = (np.asarray(a).reshape(a.shape[0], -1, a.shape[-1]) for a in (g, h))
        (r, n, r2), (s, _, s2) = g3.shape, h3.shape
        block = np.zeros((r + s, n, r2 + s2), np.result_type(g3, h3, np.float64))
        block[:r, :, :r2], block[r:, :, r2:] = g3, (-h3 if k == 0 else h3)
        matrix = np.tensordot(carry, block, 1).reshape(-1, r2 + s2)
        if k == last:
            matrix = matrix.sum(axis=1, keepdims=True)
        carry = np.asarray(np.linalg.qr(matrix, mode="r"))
        shift = int(np.frexp(np.abs(carry).max())[1])
        carry, exponent = carry * math.ldexp(1.0, -shift), exponent + shift
    with np.errstate(over="ignore", under="ignore"):
        return float(np.ldexp(np.abs(carry).max(), exponent))


def matvec_gradients(
    train: Cores | HasCores, x: NDArray[Any], gy: NDArray[Any]
) -> tuple[NDArray[Any], tuple[NDArray[Any], ...]]:
    r"""Gradients of :math:`y = W x` by definition, in extended precision.

    Parameters
    ----------
    train : sequence of ndarray, or TTMatrix
        Cores of shapes ``(r, m, n, r')``.
    x : (batch, N) ndarray
        Rows that the matrix was applied to.
    gy : (batch, M) ndarray
        Gradient with respect to ``y``, in torch's convention for complex numbers.

    Returns
    -------
    gx : (batch, N) ndarray
        :math:`W^H g_y`, row by row.
    gcores : tuple of ndarray
        Gradients with respect to the cores: conjugates of all that multiplies the core.
    """
    cores = [core.conj() for core in _extended(train)]
    outer = np.asarray(gy, np.clongdouble if np.iscomplexobj(gy) else np.longdouble).T @ x.conj()
    gradients = []
    for k, core in enumerate(cores):
        left, right = _join(cores[:k])[0], _join(cores[k + 1 :])[..., 0]
        m, n = core.shape[1:3]
        table = outer.reshape(left.shape[0], m, right.shape[1], left.shape[1], n, right.shape[2])
        half = np.tensordot(left, table, ((0, 1), (0, 3)))  # (r, m, M_right, n, N_right)
        gradients.append(np.tensordot(half, right, ((2, 4), (1, 2))))  # (r, m, n, r')
    return gy @ _join(cores)[0, :, :, 0], tuple(gradients)


def assert_within(actual: Any, exact: Any, bound: Any) -> None:
    """Assert ``|actual - exact| <= bound`` entry by entry, and equal shapes."""
    actual, exact = np.asarray(actual), np.asarray(exact)
    assert actual.shape == exact.shape, f"shape {actual.shape}, expected {exact.shape}"
    excess = np.abs(actual - exact) - bound
    assert (excess <= 0).all(), f"{(excess > 0).sum()} entries beyond bound, by {excess.max():.3g}"


def _cores(train: Cores | HasCores) -> tuple[Any, ...]:
    return tuple(train) if isinstance(train, (tuple, list)) else tuple(train.cores)  # type: ignore[union-attr]


def _extended(train: Cores | HasCores) -> list[NDArray[Any]]:
    wide = [np.clongdouble if np.iscomplexobj(g) else np.longdouble for g in _cores(train)]
    return [np.asarray(g).astype(t) for g, t in zip(_cores(train), wide, strict=True)]


def _join(cores: Cores) -> NDArray[Any]:
    """Product of neighbouring TT-matrix cores, ``(r, M, N, r')``; 1 for none."""
    left = np.ones((1, 1, 1, 1), np.longdouble) if not cores else cores[0]
    for core in cores[1:]:
        (r, m, n, _), (_, m2, n2, r2) = left.shape, core.shape
        step = np.tensordot(left, core, 1).transpose(0, 1, 3, 2, 4, 5)
        left = step.reshape(r, m * m2, n * n2, r2)
    return left


def _frobenius_by_bond(cores: Cores) -> list[Any]:
    """Frobenius norms of the product of the first k cores, k = 0 ... d."""
    gram = np.ones((1, 1), np.longdouble)
    norms = [np.longdouble(1)]
    for core in cores:
        gram = np.tensordot(core.conj(), np.tensordot(gram, core, 1), ((0, 1), (0, 1)))
        norms.append(np.sqrt(max(np.trace(gram).real, np.longdouble(0))))
    return norms


# Data with known answers


def orthogonal_sum(
    spectrum: Sequence[float] | NDArray[Any],
    shape: Sequence[int],
    *,
    rng: np.random.Generator,
    dtype: DTypeLike = np.float64,
) -> tuple[NDArray[Any], ...]:
    r"""Cores of :math:`\sum_j \sigma_j\, u^1_j \otimes \dots \otimes u^d_j`.

    The first and the last factors are orthonormal and the others have unit columns, so every
    unfolding has exactly the singular values ``spectrum``, and the norm is theirs.
    The first and the last mode are at least as long as ``spectrum``; all ranks are its length.
    """
    rank = len(spectrum)
    cores = []
    for k, n in enumerate(shape):
        u = _fill(rng, "normal", (n, rank), np.result_type(dtype, np.float64))
        u = np.linalg.qr(u)[0] if k in {0, len(shape) - 1} else u / np.linalg.norm(u, axis=0)
        core = np.eye(rank)[:, None, :] * u[None]  # (rank, n, rank), diagonal in the bonds
        core = (u * np.asarray(spectrum))[None] if k == 0 else core
        core = u.T[:, :, None] if k == len(shape) - 1 else core
        cores.append(core.astype(dtype))
    return tuple(cores)


def relayout(a: NDArray[Any], layout: str) -> NDArray[Any]:
    """Array equal to ``a`` in one of the `LAYOUTS`."""
    if layout == "F":
        return np.asfortranarray(a)
    if layout == "strided":
        wide = np.full((*a.shape, 2), 7, a.dtype)
        wide[..., 0] = a
        return wide[..., 0]
    if layout == "reversed":
        return a[::-1].copy()[::-1]
    if layout == "swapped":
        return a.astype(a.dtype.newbyteorder("S"))
    plain = a.copy()
    plain.flags.writeable = layout != "readonly"
    return plain


def _fill(
    rng: np.random.Generator, fill: str, shape: tuple[int, ...], dtype: DTypeLike
) -> NDArray[Any]:
    is_complex = np.issubdtype(np.dtype(dtype), np.complexfloating)
    values: NDArray[Any] = rng.standard_normal(shape)
    if is_complex:
        values = values + 1j * rng.standard_normal(shape)
    if fill == "integer":
        values = np.round(2 * values)
    elif fill == "sparse":
        values = values * (rng.random(shape) < 0.5)
    elif fill == "graded":
        values = values * 10.0 ** (-2.0 * np.arange(shape[-1]))
    elif fill == "zero":
        values = 0 * values
    return values.astype(dtype)


# Strategies


def dtypes() -> st.SearchStrategy[np.dtype[Any]]:
    """One of the four `DTYPES`."""
    return st.sampled_from(DTYPES)


def shapes(
    *, min_dims: int = 1, max_dims: int = 5, max_side: int = 5, max_size: int = 400
) -> st.SearchStrategy[tuple[int, ...]]:
    """Shapes of small tensors; modes of 1 are common.

    Modes that would take the size above ``max_size`` become 1.
    """

    def fit(modes: list[int]) -> tuple[int, ...]:
        fitted: list[int] = []
        for n in modes:
            fitted.append(n if math.prod(fitted) * n <= max_size else 1)
        return tuple(fitted)

    sides = st.integers(1, max_side)
    return st.lists(sides, min_size=min_dims, max_size=max_dims).map(fit)


@st.composite
def dense_arrays(
    draw: st.DrawFn,
    shape: Sequence[int] | None = None,
    *,
    dtype: DTypeLike | None = None,
) -> NDArray[Any]:
    """Dense arrays of moderate entries, in any of the `LAYOUTS`."""
    modes = tuple(draw(shapes()) if shape is None else shape)
    kind = draw(dtypes()) if dtype is None else np.dtype(dtype)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    values = _fill(rng, draw(st.sampled_from(_FILLS)), modes, kind)
    return relayout(values, draw(st.sampled_from(LAYOUTS)))


@st.composite
def tt_cores(
    draw: st.DrawFn,
    modes: Sequence[tuple[int, ...]],
    *,
    dtype: DTypeLike | None = None,
    max_rank: int = 4,
) -> tuple[NDArray[Any], ...]:
    """Cores of shapes ``(r, *modes[k], r')`` with ranks up to ``max_rank``.

    Ranks are drawn whatever the modes can use, so over-full ones are common; one train in six has
    a core of zeros.
    """
    kind = draw(dtypes()) if dtype is None else np.dtype(dtype)
    inner = [draw(st.integers(1, max_rank)) for _ in modes[1:]]
    ranks = [1, *inner, 1]
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    fill, layout = draw(st.sampled_from(_FILLS)), draw(st.sampled_from(LAYOUTS))
    zero = draw(st.integers(0, len(modes) - 1)) if fill == "zero" else -1
    return tuple(
        relayout(
            _fill(rng, fill if k == zero or fill != "zero" else "normal", (r, *mode, s), kind),
            layout,
        )
        for k, (r, mode, s) in enumerate(zip(ranks, modes, ranks[1:], strict=False))
    )


@st.composite
def tt_tensors(
    draw: st.DrawFn,
    shape: Sequence[int] | None = None,
    *,
    dtype: DTypeLike | None = None,
    max_rank: int = 4,
) -> tt.TTTensor:
    """TT-tensors of a given or drawn shape and dtype."""
    modes = draw(shapes()) if shape is None else shape
    return tt.TTTensor(draw(tt_cores([(n,) for n in modes], dtype=dtype, max_rank=max_rank)))


@st.composite
def tt_pairs(draw: st.DrawFn) -> tuple[tt.TTTensor, tt.TTTensor]:
    """Two TT-tensors of one shape; ranks and dtypes are drawn separately."""
    shape = draw(shapes())
    return draw(tt_tensors(shape)), draw(tt_tensors(shape))


@st.composite
def tt_matrices(
    draw: st.DrawFn,
    row_modes: Sequence[int] | None = None,
    col_modes: Sequence[int] | None = None,
    *,
    dtype: DTypeLike | None = None,
    max_rank: int = 4,
) -> tt.TTMatrix:
    """TT-matrices with given or drawn modes; drawn ones are rectangular, of up to four cores."""
    given = row_modes if row_modes is not None else col_modes
    count = draw(st.integers(1, 4)) if given is None else len(given)
    sizes = shapes(min_dims=count, max_dims=count, max_side=4, max_size=48)
    rows = draw(sizes) if row_modes is None else row_modes
    cols = draw(sizes) if col_modes is None else col_modes
    pairs = list(zip(rows, cols, strict=True))
    return tt.TTMatrix(draw(tt_cores(pairs, dtype=dtype, max_rank=max_rank)))
