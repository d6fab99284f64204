"""TT-SVD: the promised error, the ranks, the report, and what it takes."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ttcore as tt
from ttcore.factorisations import svd
from ttcore.testing import (
    DTYPES,
    LAYOUTS,
    assert_within,
    dense,
    dense_arrays,
    dense_matrix,
    orthogonal_sum,
    relayout,
)

TOLERANCES = [10.0**-k for k in range(1, 14)]
SPECTRA = {
    "graded": 10.0 ** -np.arange(0, 15, 1.0),
    "flat tail": np.concatenate([[1.0, 0.5, 0.3], np.full(12, 1e-4)]),
    "clustered": np.repeat([1.0, 1e-3, 1e-6, 1e-9, 1e-12], 3),
    "flat": np.ones(15),
    "one large": np.concatenate([[1.0], np.full(14, 1e-8)]),
}
SHAPE = (15, 2, 3, 16)


def floor(dtype, shape):
    """Rounding error of a decomposition relative to the norm.

    sqrt(d) times the backward error 4 K eps of an orthogonal factorisation whose shorter side is K.
    """
    short = max(min(math.prod(shape[:k]), math.prod(shape[k:])) for k in range(len(shape) + 1))
    return 4 * short * math.sqrt(len(shape)) * float(np.finfo(dtype).eps)


def tails(a, k):
    """Tails of the singular values of unfolding k: the best error of each rank 0, 1, 2, ..."""
    wide = np.result_type(a.dtype.newbyteorder("="), np.float64)
    s = np.linalg.svd(a.reshape(math.prod(a.shape[:k]), -1).astype(wide), compute_uv=False)
    return np.sqrt(np.append(np.cumsum(s[::-1] ** 2)[::-1], 0))


def norm(a):
    return float(np.linalg.norm(np.ravel(a).astype(np.clongdouble)))


def spectral_array(name, dtype, seed=0):
    cores = orthogonal_sum(SPECTRA[name], SHAPE, rng=np.random.default_rng(seed), dtype=dtype)
    return dense(cores).astype(dtype)


@given(dense_arrays(), st.sampled_from([None, *TOLERANCES]))
def test_error_is_at_most_eps_times_norm(a, eps):
    x = tt.from_dense(a, eps=eps)
    assert x.shape == a.shape
    assert x.dtype == a.dtype.newbyteorder("=")
    bound = ((eps or 0) + floor(x.dtype, a.shape)) * norm(a)
    assert norm(dense(x) - a) <= bound


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_error_is_at_most_eps_times_norm_on_hard_spectra(spectrum, dtype):
    a = spectral_array(spectrum, dtype)
    for eps in TOLERANCES:
        x = tt.from_dense(a, eps=eps)
        assert norm(dense(x) - a) <= (eps + floor(dtype, SHAPE)) * norm(a), eps


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_ranks_are_at_most_those_of_each_unfolding_at_its_share_of_eps(spectrum, dtype):
    a = spectral_array(spectrum, dtype)
    for eps in TOLERANCES:
        ranks = tt.from_dense(a, eps=eps).ranks
        share = (eps / math.sqrt(a.ndim - 1) - floor(dtype, SHAPE)) * norm(a)
        for k in range(1, a.ndim):
            best = int(np.argmax(tails(a, k) <= share)) if share > 0 else math.inf
            assert ranks[k] <= max(best, 1), (eps, k)


@given(dense_arrays(), st.sampled_from([1e-1, 1e-3, 1e-6]))
def test_ranks_are_at_most_those_of_each_unfolding(a, eps):
    ranks = tt.from_dense(a, eps=eps).ranks
    share = (eps / math.sqrt(max(a.ndim - 1, 1)) - floor(a.dtype, a.shape)) * norm(a)
    for k in range(1, a.ndim):
        best = int(np.argmax(tails(a, k) <= share)) if share > 0 else math.inf
        assert ranks[k] <= max(best, 1)


@given(dense_arrays())
def test_without_eps_ranks_are_at_most_the_sides_of_the_unfoldings(a):
    ranks = tt.from_dense(a).ranks
    for k in range(1, a.ndim):
        assert ranks[k] <= min(math.prod(a.shape[:k]), math.prod(a.shape[k:]))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_without_eps_exact_ranks_are_found(dtype):
    """Singular values 1, 1/2, 1/4 and then rounding noise."""
    x = orthogonal_sum([1, 0.5, 0.25], (8, 6, 5, 8), rng=np.random.default_rng(2), dtype=dtype)
    assert tt.from_dense(dense(x).astype(dtype)).ranks == (1, 3, 3, 3, 1)


@given(dense_arrays(), st.integers(1, 4))
def test_with_max_rank_error_is_quasi_optimal_with_factor_sqrt_of_d_minus_1(a, rank):
    x = tt.from_dense(a, max_rank=rank)
    assert max(x.ranks) <= rank
    tail = [float(tails(a, k)[min(rank, len(tails(a, k)) - 1)]) for k in range(1, a.ndim)]
    error, noise = norm(dense(x) - a), floor(x.dtype, a.shape) * norm(a)
    assert error <= math.sqrt(sum(t**2 for t in tail)) + noise
    assert error <= math.sqrt(max(a.ndim - 1, 1)) * max(tail, default=0) + noise


def test_max_rank_may_be_one_number_per_bond():
    a = np.random.default_rng(0).standard_normal((6, 6, 6, 6))
    assert tt.from_dense(a, max_rank=(2, 5, 3)).ranks == (1, 2, 5, 3, 1)


def test_max_rank_wins_over_eps():
    a = np.random.default_rng(0).standard_normal((6, 6, 6))
    assert max(tt.from_dense(a, eps=1e-12, max_rank=2).ranks) == 2


@given(dense_arrays(), st.sampled_from([None, 1e-1, 1e-3]), st.sampled_from([None, 1, 2]))
def test_full_output_reports_the_error_that_was_made(a, eps, max_rank):
    x, info = tt.from_dense(a, eps=eps, max_rank=max_rank, full_output=True)
    assert info.ranks == x.ranks
    assert info.error_kind in {"measured", "bound", "estimate"}
    assert isinstance(info.error, float)
    assert isinstance(info.method, str)
    assert len(info.discarded) == a.ndim - 1
    noise = floor(x.dtype, a.shape) * norm(a)
    error = norm(dense(x) - a)
    discarded = math.sqrt(sum(float(e) ** 2 for e in info.discarded))
    assert error <= discarded + noise
    if info.error_kind != "estimate":
        assert error <= info.error * norm(a) + noise
    if info.error_kind == "measured":
        assert info.error * norm(a) <= error + noise


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_arrays_of_any_layout_decompose_alike(layout, dtype):
    rng = np.random.default_rng(0)
    a = rng.standard_normal((4, 5, 6)).astype(dtype)
    if np.iscomplexobj(a):
        a.imag = rng.standard_normal((4, 5, 6))
    x = tt.from_dense(relayout(a, layout))
    assert x.dtype == dtype
    assert norm(dense(x) - a) <= floor(dtype, a.shape) * norm(a)


def test_the_array_is_not_written_to():
    a = np.random.default_rng(0).standard_normal((4, 5, 6))
    before = a.tobytes()
    tt.from_dense(a, eps=1e-2)
    tt.matrix_from_dense(a.reshape(20, 6), (4, 5), (2, 3))
    assert a.tobytes() == before
    assert a.flags.writeable


def test_the_train_does_not_change_with_the_array_afterwards():
    for shape in [(5,), (5, 1), (1, 5), (4, 5)]:
        a = np.random.default_rng(0).standard_normal(shape)
        x = tt.from_dense(a)
        before, norm_before = x.to_dense(), x.norm()
        a[...] = 0
        np.testing.assert_array_equal(x.to_dense(), before)
        assert x.norm() == norm_before


def test_memmaps_decompose(tmp_path):
    a = np.random.default_rng(0).standard_normal((6, 7, 8))
    np.save(tmp_path / "a.npy", a)
    x = tt.from_dense(np.load(tmp_path / "a.npy", mmap_mode="r"), eps=1e-10)
    assert norm(dense(x) - a) <= (1e-10 + floor(a.dtype, a.shape)) * norm(a)


@pytest.mark.parametrize("integer", [np.int64, np.uint8, np.bool_])
def test_integer_and_bool_arrays_become_float64(integer):
    a = (np.arange(24).reshape(2, 3, 4) % 2).astype(integer)
    x = tt.from_dense(a)
    assert x.dtype == np.float64
    assert norm(dense(x) - a) <= floor(x.dtype, a.shape) * norm(a)


def test_float16_arrays_become_float32():
    a = np.arange(24).reshape(2, 3, 4).astype(np.float16)
    x = tt.from_dense(a)
    assert x.dtype == np.float32
    assert norm(dense(x) - a) <= floor(x.dtype, a.shape) * norm(a)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(3,), (1,), (2, 3, 4), (1, 1)], ids=str)
def test_zero_is_a_train_of_ranks_one(shape, dtype):
    x, info = tt.from_dense(np.zeros(shape, dtype), full_output=True)
    assert x.ranks == (1,) * (len(shape) + 1)
    assert x.dtype == dtype
    assert not x.to_dense().any()
    assert info.error == 0


@pytest.mark.parametrize("eps", [math.sqrt(2) + 1e-9, 10.0])
def test_eps_of_sqrt_of_d_minus_1_or_more_gives_ranks_one(eps):
    a = np.random.default_rng(0).standard_normal((3, 4, 5))
    x = tt.from_dense(a, eps=eps)
    assert x.ranks == (1, 1, 1, 1)
    assert norm(dense(x) - a) <= (1 + floor(a.dtype, a.shape)) * norm(a)


def test_eps_zero_is_allowed():
    a = np.random.default_rng(0).standard_normal((3, 4, 5))
    assert norm(dense(tt.from_dense(a, eps=0)) - a) <= floor(a.dtype, a.shape) * norm(a)


def test_one_mode_is_kept_as_it_is():
    a = np.random.default_rng(0).standard_normal(7)
    x, info = tt.from_dense(a, full_output=True)
    assert x.ranks == (1, 1)
    assert len(info.discarded) == 0
    assert_within(x.to_dense(), a, floor(a.dtype, a.shape) * norm(a))


def test_many_modes_of_one_cost_nothing():
    a = np.random.default_rng(0).standard_normal((1, 3, *(1,) * 20, 4, 1))
    x = tt.from_dense(a)
    assert x.ranks == (1, 1, *(3,) * 21, 1, 1)
    assert norm(dense(x) - a) <= floor(a.dtype, a.shape) * norm(a)


def test_many_modes_of_two_decompose():
    a = np.add.outer(np.arange(2.0**8), np.sqrt(np.arange(2.0**8))).reshape((2,) * 16)
    x = tt.from_dense(a, eps=1e-10)
    assert norm(dense(x) - a) <= (1e-10 + floor(a.dtype, a.shape)) * norm(a)


@pytest.mark.parametrize("shape", [(200, 3, 2), (2, 3, 200), (2, 300, 2), (40, 40)], ids=str)
def test_lopsided_shapes_keep_the_error_bound(shape):
    a = np.random.default_rng(1).standard_normal(shape)
    for eps in (None, 1e-1, 1e-8):
        error = norm(dense(tt.from_dense(a, eps=eps)) - a)
        assert error <= ((eps or 0) + floor(a.dtype, shape)) * norm(a)


@given(st.data(), st.sampled_from([None, 1e-1, 1e-5]))
def test_matrix_error_is_at_most_eps_times_norm(data, eps):
    rows, cols = ([data.draw(st.integers(1, 3)) for _ in range(3)] for _ in range(2))
    A = data.draw(dense_arrays((math.prod(rows), math.prod(cols))))
    W = tt.matrix_from_dense(A, rows, cols, eps=eps)
    assert W.row_modes == tuple(rows)
    assert W.col_modes == tuple(cols)
    assert W.dtype == A.dtype.newbyteorder("=")
    pairs = [m * n for m, n in zip(rows, cols, strict=True)]
    assert norm(dense_matrix(W) - A) <= ((eps or 0) + floor(W.dtype, pairs)) * norm(A)


def test_a_kronecker_product_has_ranks_one():
    rng = np.random.default_rng(0)
    B, C = rng.standard_normal((3, 4)), rng.standard_normal((5, 2))
    W, info = tt.matrix_from_dense(np.kron(B, C), (3, 5), (4, 2), full_output=True)
    assert W.ranks == info.ranks == (1, 1, 1)


def test_matrix_max_rank_is_kept():
    A = np.random.default_rng(0).standard_normal((16, 16))
    assert tt.matrix_from_dense(A, (4, 4), (4, 4), max_rank=3).ranks == (1, 3, 1)


def test_decomposing_twice_gives_identical_bits():
    a = np.random.default_rng(0).standard_normal((8, 9, 10))
    first, second = tt.from_dense(a, eps=1e-3), tt.from_dense(a, eps=1e-3)
    assert all(g.tobytes() == h.tobytes() for g, h in zip(first.cores, second.cores, strict=True))


@pytest.mark.parametrize("eps", [1e-1, 1e-6])
def test_an_array_whose_last_mode_is_longest_is_cut_from_the_first(eps):
    """From there an unfolding is tall; ranks and what was discarded come in the usual order."""
    a = dense(orthogonal_sum(10.0 ** -np.arange(5), (6, 9, 3000), rng=np.random.default_rng(0)))
    a = a.astype(float)
    a[:, 0] += 0.01
    x, info = tt.from_dense(a, eps=eps, full_output=True)
    assert norm(dense(x) - a) <= (eps + floor(float, a.shape)) * norm(a)
    assert info.error == pytest.approx(norm(dense(x) - a) / norm(a), rel=1e-3, abs=1e-13)
    turned = np.ascontiguousarray(a.transpose())
    y, other = tt.from_dense(turned, eps=eps, full_output=True)
    assert x.ranks == y.ranks[::-1] == info.ranks
    assert info.discarded == pytest.approx(other.discarded[::-1], rel=1e-6)


@pytest.mark.parametrize("shape", [(5, 0), (0, 5), (0, 0)])
def test_an_svd_of_nothing_is_of_nothing(shape):
    u, s, vh = svd(np.zeros(shape))
    assert (u.shape, s.shape, vh.shape) == ((shape[0], 0), (0,), (0, shape[1]))
