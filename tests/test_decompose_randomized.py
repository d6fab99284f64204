"""``from_dense(method="randomized")``: the same promise, from sketches, and a measured error."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ttcore as tt
from ttcore import sources, streaming
from ttcore.testing import DTYPES, dense, dense_matrix, orthogonal_sum, relayout

SHAPE = (50, 4, 13, 52)  # both sides of all unfoldings have room for a first sketch
SPECTRA = {
    "graded": 10.0 ** -np.arange(0, 15, 0.5),
    "flat tail": np.concatenate([[1.0, 0.5, 0.3], np.full(37, 1e-4)]),
    "clustered": np.repeat([1.0, 1e-3, 1e-6, 1e-9, 1e-12], 8),
    "flat": np.ones(40),
    "one large": np.concatenate([[1.0], np.full(39, 1e-8)]),
}
TOLERANCES = [None, 1e-1, 1e-2, 1e-4, 1e-6, 1e-9, 1e-12]


def spectral(spectrum, dtype=np.float64, seed=0):
    cores = orthogonal_sum(spectrum, SHAPE, rng=np.random.default_rng(seed), dtype=dtype)
    return dense(cores).astype(dtype)


def floor(dtype):
    """As in test_decompose, for the widest unfolding."""
    return 4 * 200 * math.sqrt(len(SHAPE)) * float(np.finfo(dtype).eps)


def error_of(x, a):
    size = np.linalg.norm(np.ravel(a).astype(np.clongdouble))
    return float(np.linalg.norm(np.ravel(dense(x) - a).astype(np.clongdouble)) / size)


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_error_is_at_most_eps_and_is_reported(spectrum, dtype):
    a = spectral(SPECTRA[spectrum], dtype)
    for eps in TOLERANCES:
        x, info = tt.from_dense(a, eps=eps, method="randomized", rng=1, full_output=True)
        assert x.dtype == dtype
        assert error_of(x, a) <= (eps or 0) + floor(dtype), eps
        assert info.error == pytest.approx(error_of(x, a), rel=1e-3, abs=floor(dtype))
        assert math.hypot(*info.discarded) == pytest.approx(
            info.error * np.linalg.norm(a.ravel()), rel=1e-3, abs=floor(dtype)
        )
        assert (info.error_kind, info.method, info.ranks) == ("measured", "randomized", x.ranks)


@given(
    st.lists(st.floats(-14, 0), min_size=1, max_size=45),
    st.sampled_from(TOLERANCES),
    st.integers(0, 2**32),
)
def test_error_is_at_most_eps_whatever_the_spectrum_and_the_seed(exponents, eps, seed):
    a = spectral(10.0 ** np.array(exponents), seed=seed % 7)
    x = tt.from_dense(a, eps=eps, method="randomized", rng=seed)
    assert error_of(x, a) <= (eps or 0) + floor(float)


@pytest.mark.parametrize("spectrum", ["graded", "flat tail", "one large"])
def test_ranks_are_those_of_the_svd_where_the_spectrum_decides(spectrum):
    a = spectral(SPECTRA[spectrum])
    x = tt.from_dense(a, eps=1e-3, method="randomized", rng=0)
    assert x.ranks == tt.from_dense(a, eps=1e-3).ranks


@pytest.mark.parametrize("rank", [1, 3, 12])
def test_with_max_rank_the_error_is_close_to_that_of_the_svd(rank):
    """A sketch with p columns more than the rank k misses at most sqrt(1 + k / (p - 1)) times the
    tail on average (Halko, Martinsson, Tropp 2011, theorem 10.5), at each of three bonds."""
    a = spectral(SPECTRA["flat tail"])
    x, info = tt.from_dense(a, max_rank=rank, method="randomized", rng=0, full_output=True)
    assert max(x.ranks) == rank
    assert info.error == pytest.approx(error_of(x, a), rel=1e-6)
    best = error_of(tt.from_dense(a, max_rank=rank), a)
    assert best <= info.error * (1 + 1e-12)
    assert info.error <= math.sqrt(3 * (1 + rank / 9)) * best


def test_columns_that_only_few_rows_have_are_found():
    """The rows that a sample would take say nothing of them."""
    a = spectral(SPECTRA["graded"])
    a[17, 2, 5, :] += 1e-3 * np.random.default_rng(0).standard_normal(52)
    x = tt.from_dense(a, eps=1e-6, method="randomized", rng=0)
    assert error_of(x, a) <= 1e-6


@pytest.mark.parametrize("layout", ["F", "reversed", "strided"])
def test_any_strides_are_read_and_left_alone(layout):
    a = relayout(spectral(SPECTRA["graded"]), layout)
    a.flags.writeable = False
    kept = a.copy()
    assert error_of(tt.from_dense(a, eps=1e-5, method="randomized", rng=0), a) <= 1e-5
    np.testing.assert_array_equal(a, kept)


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_squares_may_leave_the_range(scale):
    a = scale * spectral(SPECTRA["graded"])
    x = tt.from_dense(a, eps=1e-5, method="randomized", rng=0)
    assert error_of(x * (1 / scale), a / scale) <= 1e-5


def test_zeros_and_a_single_mode_are_exact():
    assert tt.from_dense(np.zeros(SHAPE), method="randomized").ranks == (1, 1, 1, 1, 1)
    np.testing.assert_array_equal(
        tt.from_dense(np.arange(60.0), method="randomized").to_dense(), np.arange(60.0)
    )


def test_matrices_too():
    rng = np.random.default_rng(0)
    w = sum(
        10.0**-k * np.kron(rng.standard_normal((8, 7)), rng.standard_normal((9, 8)))
        for k in range(9)
    )
    x, info = tt.matrix_from_dense(
        w, (8, 9), (7, 8), eps=1e-4, method="randomized", rng=0, full_output=True
    )
    size = np.linalg.norm(w)
    assert np.linalg.norm(dense_matrix(x) - w) <= 1e-4 * size
    assert info.method == "randomized"


def test_arrays_read_in_blocks_too(monkeypatch, tmp_path):
    monkeypatch.setattr(streaming, "BLOCK", 5000)
    monkeypatch.setattr(sources, "SMALL", 0)
    a = spectral(SPECTRA["graded"])
    np.save(tmp_path / "a.npy", a)
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    for options in ({"eps": 1e-2}, {"eps": 1e-9}, {"max_rank": 4}):
        x, info = tt.from_dense(mapped, method="randomized", rng=0, full_output=True, **options)
        assert error_of(x, a) == pytest.approx(info.error, rel=1e-3, abs=floor(float))
        assert error_of(x, a) <= options.get("eps", 2e-2)


@pytest.mark.parametrize("library", ["array_api_strict", "torch", "jax.numpy"])
def test_other_libraries_too(library):
    xp = pytest.importorskip(library, reason=f"{library} is not installed")
    a = spectral(SPECTRA["graded"], np.float32)
    x = tt.from_dense(xp.asarray(a), eps=1e-3, method="randomized", rng=0)
    assert error_of(tt.TTTensor([np.asarray(g) for g in x.cores]), a) <= 1e-3


def test_equal_seeds_give_equal_bits():
    a = spectral(SPECTRA["flat tail"])
    both = [tt.from_dense(a, max_rank=3, method="randomized", rng=5).cores for _ in range(2)]
    assert all(g.tobytes() == h.tobytes() for g, h in zip(*both, strict=True))


def test_unknown_methods_are_refused():
    with pytest.raises(tt.TTValueError, match="'svd' or 'randomized'"):
        tt.from_dense(np.ones((3, 4)), method="rsvd")


def matrix_of(values, rows, cols):
    rng = np.random.default_rng(1)
    u, v = (np.linalg.qr(rng.standard_normal((n, len(values))))[0] for n in (rows, cols))
    return (u * values) @ v.T


def test_error_is_at_most_eps_though_a_probe_sees_the_norm_of_one_direction_badly():
    a = matrix_of(np.r_[1.0, np.full(20, 0.03)], 200, 200)
    best = tt.from_dense(a, eps=0.08).ranks[1]
    for seed in range(30):
        x, info = tt.from_dense(a, eps=0.08, method="randomized", rng=seed, full_output=True)
        assert error_of(x, a) <= 0.08
        assert info.error == pytest.approx(error_of(x, a), rel=1e-6)
        assert x.ranks[1] <= best + 1


@pytest.mark.parametrize("cap", [40, 60, None])
def test_a_cap_that_eps_does_not_need_changes_nothing(cap):
    a = matrix_of(np.r_[np.ones(35), np.full(265, 0.025)], 300, 300)
    eps = 1.05 * math.sqrt(265 * 0.025**2 / (35 + 265 * 0.025**2))
    x = tt.from_dense(a, eps=eps, max_rank=cap, method="randomized", rng=0)
    assert error_of(x, a) <= eps
    assert x.ranks[1] <= 36


def test_bonds_beside_a_capped_one_are_cut_as_usual():
    cores = tt.random((4096, 8, 8), (16, 4), rng=0)
    a = cores.to_dense()
    a += (
        0.02
        * np.linalg.norm(a)
        / math.sqrt(a.size)
        * np.random.default_rng(0).standard_normal(a.shape)
    )
    x = tt.from_dense(a, eps=0.1, max_rank=[3, 8], method="randomized", rng=0)
    assert x.ranks == tt.from_dense(a, eps=0.1, max_rank=[3, 8]).ranks
