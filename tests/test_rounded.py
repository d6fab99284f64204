"""Sums and products that are rounded without being formed; the factors that rounding works with."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ttcore as tt
from ttcore import rounding
from ttcore.leading import leading
from ttcore.operands import Composed, Formed, Hadamard, Sum, first_core
from ttcore.rounding import SKETCHED
from ttcore.rowspace import FEW, distortion, factor, of_few
from ttcore.small import LONG, is_small, round_small
from ttcore.testing import (
    dense,
    distance,
    representation_size,
    shapes,
    tt_matrices,
    tt_pairs,
    tt_tensors,
)
from ttcore.truncation import check_max_rank
from ttcore.truncation import noise as floor

METHODS = ["exact", "zipup", "randomized", "als"]
EPS = [None, 1e-1, 1e-4, 1e-8]


def norm(a):
    return float(np.linalg.norm(np.ravel(a).astype(np.clongdouble)))


def noise(x):
    """As in test_rounding: sqrt(d) * 4 K eps * S, of the product that is never formed."""
    side = max(max(g.shape[0], g.shape[-1]) * math.prod(g.shape[1:-1]) for g in x.cores)
    eps = float(np.finfo(x.dtype).eps)
    return 4 * side * math.sqrt(len(x.cores)) * eps * representation_size(x)


@st.composite
def matrix_and_train(draw):
    """A TT-matrix, and a TT-tensor or a TT-matrix that it can be multiplied by."""
    cols = draw(shapes(max_dims=3, max_side=3))
    A = draw(tt_matrices(col_modes=cols))
    return A, draw(tt_tensors(cols) if draw(st.booleans()) else tt_matrices(row_modes=cols))


@given(pair=tt_pairs(), eps=st.sampled_from(EPS), rank=st.sampled_from([None, 2]))
def test_multiply_is_within_eps_of_the_product(pair, eps, rank):
    x, y = pair
    z, info = tt.multiply(x, y, eps=eps, max_rank=rank, full_output=True)
    formed = x * y
    assert z.dtype == formed.dtype
    assert z.shape == formed.shape
    exact = dense(x) * dense(y)
    error = norm(dense(z) - exact)
    if rank is None:
        assert error <= (eps or 0) * norm(exact) + noise(formed)
    assert max(z.ranks) <= (rank or max(formed.ranks))
    assert abs(error - info.error * norm(exact)) <= noise(formed) + 1e-7 * error
    assert info.ranks == z.ranks


@given(pair=matrix_and_train(), eps=st.sampled_from(EPS))
def test_matmul_is_within_eps_of_the_product(pair, eps):
    A, x = pair
    y, info = tt.matmul(A, x, eps=eps, full_output=True)
    formed = A @ x
    assert type(y) is type(x)
    assert y.shape == formed.shape
    assert y.dtype == formed.dtype
    assert info.error_kind == "measured"
    assert distance(y, formed) <= (eps or 0) * distance(formed, formed * 0.0) + 2 * noise(formed)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex128])
def test_matmul_by_every_method_finds_a_product_of_small_rank(method, dtype):
    A = tt.random_matrix((3, 4, 5, 4), (4, 5, 3, 2), 3, rng=0, dtype=dtype)
    x = tt.random((4, 5, 3, 2), 1, rng=1, dtype=dtype)
    doubled = x + 2.0 * x
    exact = A @ doubled
    eps = 1e-5 if dtype == np.float32 else 1e-10
    y, info = tt.matmul(A, doubled, eps=eps, method=method, rng=0, full_output=True)
    assert y.ranks == (1, 3, 3, 3, 1)  # of 6
    assert distance(y, exact) <= eps * exact.norm() + noise(exact)
    assert info.method == ("svd" if method == "exact" else method)
    assert y.dtype == dtype


@pytest.mark.parametrize("method", METHODS)
def test_a_capped_product_is_near_the_best_one_and_says_how_near(method):
    """Against the SVD of the formed product; the sketch has ten columns more than it keeps."""
    A = tt.random_matrix((4,) * 8, (4,) * 8, 4, rng=0) + 20.0 * tt.eye((4,) * 8)
    x = tt.random((4,) * 8, 5, rng=1)
    exact = A @ x
    best = tt.distance(exact.round(max_rank=6), exact)
    y, info = tt.matmul(A, x, max_rank=6, method=method, rng=0, full_output=True)
    assert max(y.ranks) == 6
    error = tt.distance(y, exact)
    worst = {"exact": 1 + 1e-6, "als": 1.01, "zipup": 1.5, "randomized": 1.5}[method]
    assert error <= worst * best
    assert info.error * exact.norm() == pytest.approx(error, rel=1e-6 if method == "exact" else 0.7)


def test_als_improves_on_zip_up():
    A = tt.random_matrix((4,) * 8, (4,) * 8, 4, rng=0)
    x = tt.random((4,) * 8, 5, rng=1)
    exact = A @ x
    errors = {m: tt.distance(tt.matmul(A, x, max_rank=4, method=m, rng=0), exact) for m in METHODS}
    assert errors["als"] < errors["zipup"]
    assert errors["als"] <= errors["exact"] * 1.01


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("cores", [1, 2])
def test_products_of_few_cores(method, cores):
    A = tt.random_matrix((3, 4)[:cores], (5, 2)[:cores], 2, rng=0)
    x = tt.random((5, 2)[:cores], 2, rng=1)
    for found, exact in (
        (tt.matmul(A, x, method=method, rng=0), A @ x),
        (tt.multiply(x, x, method=method, rng=0), x * x),
    ):
        assert distance(found, exact) <= noise(exact)


@pytest.mark.parametrize("method", METHODS)
def test_zero_products(method):
    A, x = tt.random_matrix((3, 4), (5, 2), 2, rng=0), tt.zeros((5, 2))
    y, info = tt.matmul(A, x, eps=1e-3, method=method, rng=0, full_output=True)
    assert not y.to_dense().any()
    assert info.error == 0


def test_multiply_broadcasts_as_numpy_does():
    x, y = tt.random((3, 4, 5), 2, rng=0), tt.random((4, 1), 2, rng=1)
    z = tt.multiply(x, y, eps=1e-12)
    np.testing.assert_allclose(z.to_dense(), x.to_dense() * y.to_dense(), atol=1e-12 * 60)


def test_multiply_of_matrices_is_a_matrix():
    W = tt.random_matrix((3, 4), (4, 3), 2, rng=0)
    V = tt.multiply(W, W, eps=1e-12)
    assert isinstance(V, tt.TTMatrix)
    np.testing.assert_allclose(V.to_dense(), W.to_dense() ** 2, atol=1e-12 * 144)


def test_products_beyond_the_range_of_floats():
    x = tt.random((4,) * 300, 2, rng=0) * 1e200
    y = tt.multiply(x * 1e100, x, eps=1e-8)
    assert y.log_norm() == pytest.approx((x * x).log_norm() + 100 * math.log(10), abs=1e-6)


BAD = {
    "method": (lambda x, A: tt.matmul(A, x, method="svd"), tt.TTValueError, ["'svd'", "'als'"]),
    "operand": (tt.matmul, tt.TTTypeError, ["TTMatrix", "TTTensor"]),
    "dense": (lambda x, A: tt.matmul(A, np.ones(10)), tt.TTTypeError, ["TTTensor"]),
    "modes": (lambda x, A: tt.matmul(A, tt.ones((2, 5))), tt.TTShapeError, ["(5, 2)", "(2, 5)"]),
    "shapes": (lambda x, A: tt.multiply(x, tt.ones((3, 3))), tt.TTShapeError, ["broadcast"]),
    "kinds": (tt.multiply, tt.TTTypeError, ["TTTensor", "TTMatrix"]),
    "number": (lambda x, A: tt.multiply(x, 2.0), tt.TTTypeError, ["float"]),
    "eps": (lambda x, A: tt.multiply(x, x, eps=-1.0), tt.TTValueError, ["eps"]),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_multiplied_is_refused(case):
    call, error, words = BAD[case]
    A, x = tt.random_matrix((3, 4), (5, 2), 2, rng=0), tt.ones((5, 2))
    with pytest.raises(error) as caught:
        call(x, A)
    assert all(word in str(caught.value) for word in words), caught.value


# What is not formed, against what would be


OPERANDS = {
    "train": lambda x, y, A: (Formed(x.cores), x),
    "sum": lambda x, y, A: (Sum([x.cores, y.cores, x.cores]), x + y + x),
    "alike": lambda x, y, A: (Sum([x.cores] * 3), x + x + x),
    "product": lambda x, y, A: (Hadamard(x.cores, y.cores), x * y),
    "matrix": lambda x, y, A: (Composed(A.cores, [g[:, :, None] for g in x.cores]), A @ x),
}


@pytest.mark.parametrize("kind", OPERANDS)
@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
def test_operands_do_what_their_cores_would(kind, dtype):
    x, y = (tt.random((3, 4, 1, 5), r, rng=r, dtype=dtype) for r in (2, 3))
    A = tt.random_matrix((2, 3, 4, 1), (3, 4, 1, 5), 3, rng=0, dtype=dtype)
    operand, formed = OPERANDS[kind](x, y, A)
    assert operand.ranks == formed.ranks
    assert operand.modes == formed.shape if kind != "matrix" else A.row_modes
    assert operand.exponent == 0
    rng = np.random.default_rng(0)
    for k, core in enumerate(formed.cores):
        t, w = rng.standard_normal((7, core.shape[0])), rng.standard_normal((core.shape[2], 5))
        bound = 64 * 2.0**-52 * 7 * np.abs(core).sum()
        np.testing.assert_allclose(operand.left(k, t), np.tensordot(t, core, 1), atol=bound)
        np.testing.assert_allclose(operand.right(k, w), np.tensordot(core, w, 1), atol=bound)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex128])
@pytest.mark.parametrize("k", range(4))
@pytest.mark.parametrize("bits", [-1, 1])
def test_a_core_is_tamed_when_it_is_first_used(dtype, k, bits):
    x = tt.random((3, 4, 2, 5), 3, rng=0, dtype=dtype)
    shift = bits * (100 if dtype is np.float32 else 900)
    cores = list(x.cores)
    cores[k] = np.ldexp(1.0, shift).astype(dtype) * cores[k]
    operand = Formed(cores)
    for j in range(3, 0, -1):  # from both sides, as a sweep does
        operand.right(j, np.ones((x.ranks[j + 1], 2), dtype))
    first, exponent = first_core(operand)
    tamed = tt.TTTensor([first, *operand.cores[1:]])
    assert max(np.abs(core).max() for core in tamed.cores) < 2.0**16
    np.testing.assert_array_equal(tamed.to_dense() * 2.0 ** (exponent - shift), x.to_dense())
    assert tt.TTTensor(cores).round(eps=1e-4).log_norm() == pytest.approx(
        x.log_norm() + shift * math.log(2), abs=1e-3
    )


@pytest.mark.parametrize("method", ["svd", "gram", "randomized"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("k", range(4))
@pytest.mark.parametrize("rank", [3, 70])
def test_what_is_not_finite_is_named_wherever_it_is(method, bad, k, rank):
    rng = np.random.default_rng(0)
    ranks = (1, rank, rank, rank, 1)
    cores = [rng.standard_normal((ranks[j], 6, ranks[j + 1])) for j in range(4)]
    if k < 3:
        cores[k + 1][-1] = 0.0  # what it is multiplied by
    cores[k][-1, 2, -1] = bad
    with pytest.raises(tt.TTValueError, match=rf"core {k} holds NaN or Inf"):
        tt.TTTensor(cores).round(eps=1e-6, method=method, rng=0 if method == "randomized" else None)


# Small ranks, in one compiled call


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@given(data=st.data())
def test_the_compiled_sweep_rounds_as_the_general_one(dtype, data):
    d = data.draw(st.integers(LONG, LONG + 5))
    rank, eps = data.draw(st.integers(1, 8)), data.draw(st.sampled_from([0.0, 1e-6, 1e-2, 0.5]))
    modes = data.draw(st.lists(st.integers(1, 4), min_size=d, max_size=d))
    seed, cap = data.draw(st.integers(0, 99)), data.draw(st.sampled_from([None, 1, 5]))
    x = tt.random(modes, rank, rng=seed, dtype=dtype)
    x = x + 0.01 * tt.random(modes, rank, rng=seed + 1, dtype=dtype)
    operand = Formed(x.cores)
    assert is_small(operand)
    caps = check_max_rank(cap, d)
    cores, info, center = round_small(operand.cores, operand.exponent, eps, caps, 0.0, "svd")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rounding, "is_small", lambda operand: False)
        other, expected, _ = rounding.round_operand(operand, eps=eps, max_rank=cap)
    y, z = tt.TTTensor(cores), tt.TTTensor(other)
    assert y.dtype == dtype
    assert y.ranks == z.ranks == info.ranks
    assert center == d - 1
    assert tt.distance(y, z) <= 2 * noise(x)
    size = float(np.finfo(dtype).eps) * 64 * d
    assert info.error == pytest.approx(expected.error, rel=1e-3, abs=size)
    np.testing.assert_allclose(info.discarded, expected.discarded, atol=size * x.norm() * 8)
    for core in cores[:-1]:
        q = core.reshape(-1, core.shape[2]).astype(float)
        np.testing.assert_allclose(q.T @ q, np.eye(q.shape[1]), atol=64 * np.finfo(dtype).eps)


def test_the_compiled_sweep_takes_zero_and_what_cancels():
    x = tt.random((4,) * LONG, 3, rng=0)
    assert is_small(Formed((x - x).cores))
    assert (x * 0.0).round(eps=1e-3).ranks == (1,) * (LONG + 1)
    y = (x - x).round(eps=1e-3)
    assert y.norm() <= noise(x - x)
    assert all(np.isfinite(core).all() for core in y.cores)


# The factor of the rows


def spectrum(decades, m):
    return 10.0 ** -np.linspace(0, decades, m)


def rows_of(kind, m, n, rng):
    q, p = (np.linalg.qr(rng.standard_normal((k, m)))[0] for k in (m, n))
    if kind == "redundant":
        return rng.standard_normal((m, m // 7)) @ rng.standard_normal((m // 7, n))
    if kind == "nearly redundant":
        exact = rng.standard_normal((m, m // 7)) @ rng.standard_normal((m // 7, n))
        return exact + 1e-9 * rng.standard_normal((m, n))
    if kind == "graded":
        return q * spectrum(15, m) @ p.T
    if kind == "graded and redundant":
        return q[:, : m // 3] * spectrum(12, m // 3) @ p.T[: m // 3]
    if kind == "rows of all sizes":
        return spectrum(200, m)[:, None] * (q @ p.T)
    if kind == "zero rows":
        return np.where(np.arange(m) % 3 == 0, 0.0, 1.0)[:, None] * (q @ p.T)
    if kind == "zero":
        return np.zeros((m, n))
    return rng.standard_normal((m, n))


KINDS = [
    *("random", "redundant", "nearly redundant", "graded", "graded and redundant"),
    *("rows of all sizes", "zero rows", "zero"),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(7, 13), (FEW, 101), (61, 97), (100, 1009), (61, 60)], ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
@pytest.mark.parametrize(
    ("by_gram", "few"), [(False, False), (True, False), (False, True)], ids=str
)
def test_the_factor_measures_as_the_rows_do(kind, size, dtype, by_gram, few):
    """For every v: ‖v^H W‖ = ‖v^H C‖ up to the distortion, and noise in each row of C.

    Tried with those v for which ‖v^H C‖ is smallest beside the rows: left singular vectors.
    """
    m, n = size
    rng = np.random.default_rng(0)
    c = rows_of(kind, m, max(m, n), rng)[:, :n]
    if dtype.startswith("complex"):
        c = c * np.exp(1j * rng.uniform(0, 6, n)) if kind != "zero" else c
    if "32" in dtype or ("64" in dtype and dtype[0] == "c"):
        c = np.where(np.abs(c) < 1e-30, 0, c)
    c = c.astype(dtype)
    found = of_few(c, m // 7) if few else None
    w = factor(c, by_gram=by_gram) if found is None else found.w
    assert w.dtype == c.dtype
    assert w.shape[0] == m
    assert w.shape[1] <= min(m, n)
    clear = "redundant" if dtype in {"float32", "complex64"} else "graded and redundant"
    if kind in {"redundant", clear} and FEW < m < n:
        assert w.shape[1] <= m // 2
    wide = np.clongdouble if dtype[0] == "c" else np.longdouble
    sizes = np.sqrt((np.abs(c.astype(wide)) ** 2).sum(axis=1))
    scale = np.where(sizes > 0, sizes, 1)
    u, s, _ = np.linalg.svd((c / scale[:, None]).astype(np.result_type(dtype, "float64")))
    s = np.append(s, np.zeros(m - len(s)))
    measured = np.linalg.norm((u.conj().T @ (w / scale[:, None])).astype(u.dtype), axis=1)
    unit = float(np.finfo(dtype).eps) / 2
    bound = distortion(m, by_gram=by_gram) * s + 4 * math.sqrt(m) * floor(m, unit)
    assert (np.abs(measured - s) <= bound).all()


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
def test_few_rows_that_span_the_others_are_found_at_once(dtype):
    rng = np.random.default_rng(0)
    c = rows_of("redundant", 100, 400, rng).astype(dtype)
    c[:, ::2] *= 1j if dtype is np.complex128 else -1
    c *= spectrum(9, 100)[rng.permutation(100), None]  # rows of all sizes count alike
    one_more = np.concatenate([c, 1e-20 * rng.standard_normal((1, 400))])
    for rows, rank in ((c, 14), (one_more, 15), (c[:, :60], 60)):
        w, basis = of_few(rows, 14)
        assert w.shape == (len(rows), rank)
        assert np.abs(basis @ basis.conj().T - np.eye(rank)).max() < 1e-14
        sizes = np.linalg.norm(rows, axis=1)
        assert (np.linalg.norm(rows - w @ basis, axis=1) <= floor(100, 2.0**-53) * sizes).all()
    many = rng.standard_normal((100, 400))
    assert of_few(many.astype(dtype), 14) is None


# The leading vectors


@pytest.mark.parametrize("decades", [0, 3, 12])
@pytest.mark.parametrize("eps", [1e-1, 1e-5, 1e-9, 0.0])
@pytest.mark.parametrize("cap", [math.inf, 3, 40])
@pytest.mark.parametrize("shape", [(300, 150), (150, 300), (20, 30)], ids=str)
def test_leading_vectors_are_as_few_and_as_good_as_those_of_an_svd(decades, eps, cap, shape):
    rng = np.random.default_rng(0)
    k = min(shape)
    s = spectrum(decades, k)
    s[k // 10 :] *= 1e-6  # a gap, and a tail
    u, v = (np.linalg.qr(rng.standard_normal((n, k)))[0] for n in shape)
    x = u * s @ v.T
    found = leading(x, eps * norm(s), cap, "x")
    tails = np.sqrt(np.append(np.cumsum(s[::-1] ** 2)[::-1], 0))
    allowed = max(eps, floor(k, 2.0**-53)) * norm(s)
    best = min(int(np.argmax(tails <= allowed)) or 1, cap)
    q = found.vectors
    rank = q.shape[1]
    if eps or cap < math.inf:
        assert rank == best
    np.testing.assert_allclose(q.T @ q, np.eye(rank), atol=1e-13)
    missed = norm(x - q @ (q.T @ x))
    assert missed == pytest.approx(found.missed, rel=1e-6, abs=1e-13)
    assert missed <= max(allowed, (1 + 1e-6) * tails[rank]) + 1e-13


def test_leading_vectors_of_nan_are_refused():
    x = np.ones((200, 100))
    x[3, 4] = np.nan
    with pytest.raises(tt.TTValueError, match="NaN"):
        leading(x, 0.0, math.inf, "x")


# Redundant trains


def test_looking_for_few_rows_costs_no_more_than_a_sketch(monkeypatch):
    widths = []
    right = Hadamard.right
    monkeypatch.setattr(
        Hadamard, "right", lambda self, k, w: widths.append(w.shape[1]) or right(self, k, w)
    )
    a, b = (tt.random((2,) * 20, 16, rng=seed) for seed in (0, 1))
    tt.multiply(a, b, max_rank=8, method="randomized", rng=0)
    assert max(widths) <= SKETCHED


@pytest.mark.parametrize(("condition", "eps"), [(1e3, 1e-12), (1e5, 1e-10), (1e5, 1e-8)])
def test_ill_conditioned_terms_leave_no_noise_in_the_ranks(condition, eps):
    rng = np.random.default_rng(0)
    x = tt.random((3,) * 12, 3, rng=rng)
    terms = [(1.0 + k, in_another_gauge(x, condition, rng)) for k in range(10)]
    assert tt.round_sum(terms, eps=eps).ranks == x.ranks


def in_another_gauge(x, condition, rng):
    """The same train with a matrix of that condition and its inverse between any two cores."""
    cores = list(x.cores)
    for k in range(len(cores) - 1):
        r = cores[k].shape[2]
        u, v = (np.linalg.qr(rng.standard_normal((r, r)))[0] for _ in range(2))
        s = np.logspace(0, -np.log10(condition), r)
        cores[k] = cores[k] @ (u * s @ v)
        cores[k + 1] = np.tensordot(v.T / s @ u.T, cores[k + 1], 1)
    return tt.TTTensor(cores)
