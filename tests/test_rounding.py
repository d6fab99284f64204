"""Rounding: the promised error, the ranks, the report; the Hilbert reference problem."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ttcore as tt
from ttcore.testing import (
    DTYPES,
    dense,
    distance,
    orthogonal_sum,
    representation_size,
    tt_matrices,
    tt_pairs,
    tt_tensors,
)

METHODS = ["svd", "gram", "randomized"]
TOLERANCES = [10.0**-k for k in range(1, 14)]
SPECTRA = {
    "graded": 10.0 ** -np.arange(0, 15, 1.0),
    "flat tail": np.concatenate([[1.0, 0.5, 0.3], np.full(12, 1e-4)]),
    "clustered": np.repeat([1.0, 1e-3, 1e-6, 1e-9, 1e-12], 3),
    "flat": np.ones(15),
    "one large": np.concatenate([[1.0], np.full(14, 1e-8)]),
}


def noise(x):
    """Rounding error of a sweep over x: sqrt(d) * 4 K eps * S.

    K is the longest side of an unfolded core, 4 K eps the backward error of factorising it.
    """
    side = max(max(g.shape[0], g.shape[-1]) * math.prod(g.shape[1:-1]) for g in x.cores)
    eps = float(np.finfo(x.dtype).eps)
    return 4 * side * math.sqrt(len(x.cores)) * eps * representation_size(x)


def norm(a):
    return float(np.linalg.norm(np.ravel(a).astype(np.clongdouble)))


def gauge(cores, seed):
    """The same tensor with random, well-conditioned gauges between the cores."""
    rng, cores = np.random.default_rng(seed), list(cores)
    for k in range(len(cores) - 1):
        q, r = np.linalg.qr(rng.standard_normal((cores[k].shape[-1],) * 2))
        mix = q * np.sign(np.diag(r))
        cores[k] = np.tensordot(cores[k], mix, 1).astype(cores[k].dtype)
        cores[k + 1] = np.tensordot(mix.T, cores[k + 1], 1).astype(cores[k + 1].dtype)
    return cores


def spectral_train(name, dtype, shape, share=0.0):
    """Train whose unfoldings all have the named spectrum.

    The last core carries the ``share`` of its logarithms, so that the Gram matrices of a sweep
    from the right are well-conditioned (0) or as bad as the squared spectrum (1).
    """
    weights = SPECTRA[name] ** share
    cores = orthogonal_sum(SPECTRA[name] / weights, shape, rng=np.random.default_rng(0))
    cores = [*cores[:-1], cores[-1] * weights[:, None, None]]
    return tt.TTTensor([core.astype(dtype) for core in gauge(cores, 0)])


def random_args(method):
    return {"method": method, **({"rng": 0} if method == "randomized" else {})}


@pytest.mark.parametrize("method", METHODS)
@given(x=tt_tensors(), eps=st.sampled_from([None, *TOLERANCES]))
def test_error_is_at_most_eps_times_norm(method, x, eps):
    y = x.round(eps=eps, **random_args(method))
    assert y.shape == x.shape
    assert y.dtype == x.dtype
    assert all(r <= s for r, s in zip(y.ranks, x.ranks, strict=True))
    full = dense(x)
    assert norm(dense(y) - full) <= (eps or 0) * norm(full) + noise(x)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("share", [0, 0.5, 1], ids=["first", "both", "last"])
def test_error_is_at_most_eps_times_norm_on_hard_spectra(method, spectrum, dtype, share):
    x = spectral_train(spectrum, dtype, (15, 2, 1, 3, 16), share)
    size = norm(SPECTRA[spectrum])
    for eps in TOLERANCES:
        y = x.round(eps=eps, **random_args(method))
        assert distance(x, y) <= eps * size + noise(x), eps


@pytest.mark.parametrize("method", ["svd", "gram"])
@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("share", [0, 1], ids=["first", "last"])
def test_ranks_are_at_most_those_of_each_unfolding_at_its_share_of_eps(
    method, spectrum, dtype, share
):
    """Every unfolding has the singular values of the spectrum, so one number bounds all ranks."""
    x = spectral_train(spectrum, dtype, (15, 2, 1, 3, 16), share)
    sigma = SPECTRA[spectrum]
    tails = np.sqrt(np.append(np.cumsum(sigma[::-1] ** 2)[::-1], 0))
    for eps in TOLERANCES:
        budget = eps / math.sqrt(x.ndim - 1) * norm(sigma) - noise(x)
        best = int(np.argmax(tails <= budget)) if budget > 0 else len(sigma)
        assert max(x.round(eps=eps, **random_args(method)).ranks) <= max(best, 1), eps


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("spectrum", SPECTRA)
def test_error_bound_holds_for_fifty_cores(method, spectrum):
    x = spectral_train(spectrum, np.float64, (16, *(2,) * 48, 16), 1)
    size = norm(SPECTRA[spectrum])
    for eps in TOLERANCES[::3]:
        y = x.round(eps=eps, **random_args(method))
        assert distance(x, y) <= eps * size + noise(x), eps


@pytest.mark.parametrize("method", METHODS)
@given(x=tt_tensors(), rank=st.integers(1, 3))
def test_with_max_rank_error_is_at_most_that_of_all_unfoldings(method, x, rank):
    y = x.round(max_rank=rank, **random_args(method))
    assert max(y.ranks) <= rank
    if method == "randomized":
        return  # its constant is an expectation
    full = dense(x).astype(np.complex128)
    cuts = [math.prod(x.shape[:k]) for k in range(1, x.ndim)]
    sigmas = [np.linalg.svd(full.reshape(m, -1), compute_uv=False) for m in cuts]
    best = math.sqrt(sum(norm(s[rank:]) ** 2 for s in sigmas))
    assert norm(dense(y) - full) <= best + noise(x)


@pytest.mark.parametrize("method", METHODS)
def test_randomized_or_not_an_exact_rank_within_the_cap_is_recovered(method):
    x = tt.TTTensor(
        gauge(orthogonal_sum([3, 2, 1.0], (6, 5, 4, 6), rng=np.random.default_rng(0)), 1)
    )
    doubled = x + x
    y = doubled.round(max_rank=3, **random_args(method))
    assert y.ranks == (1, 3, 3, 3, 1)
    assert norm(dense(y) - 2 * dense(x)) <= noise(doubled)


@pytest.mark.parametrize("method", METHODS)
@given(x=tt_tensors())
def test_without_eps_ranks_fit_the_modes(method, x):
    ranks = x.round(**random_args(method)).ranks
    for k in range(1, x.ndim):
        assert ranks[k] <= min(math.prod(x.shape[:k]), math.prod(x.shape[k:]))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_without_eps_a_sum_with_itself_returns_to_its_ranks(method, dtype):
    x = tt.random((4, 5, 6, 4), 3, rng=0, dtype=dtype)
    y = (x + x + x).round(**random_args(method))
    assert y.ranks == (1, 3, 3, 3, 1)
    assert distance(y, x * 3) <= noise(x + x + x)


def test_a_sketch_keeps_directions_that_only_late_columns_have():
    first = np.array([[[0.0, 0.0, 0.0, 1.0], [1.0, 1.0, 1.0, 0.0]]])
    last = np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])[:, :, None]
    x = tt.TTTensor([first, last])
    y = x.round(method="randomized", rng=0)
    assert y.ranks == (1, 2, 1)
    np.testing.assert_allclose(y.to_dense(), x.to_dense(), atol=1e-14)


@pytest.mark.parametrize("method", METHODS)
def test_atol_is_an_absolute_error(method):
    x = spectral_train("graded", np.float64, (15, 4, 16))
    for atol in (1e-1, 1e-4, 1e-8):
        y = x.round(atol=atol, **random_args(method))
        assert distance(x, y) <= atol + noise(x)
        assert max(y.ranks) < max(x.ranks)


def test_the_larger_of_eps_and_atol_counts():
    x = spectral_train("graded", np.float64, (15, 4, 16))
    loose = x.round(eps=1e-2).ranks
    assert x.round(eps=1e-2, atol=1e-8).ranks == loose
    assert x.round(eps=1e-8, atol=1e-2 * norm(SPECTRA["graded"])).ranks == loose


def test_max_rank_may_be_one_number_per_bond():
    assert tt.random((6,) * 4, 6, rng=0).round(max_rank=(2, 5, 3)).ranks == (1, 2, 5, 3, 1)


@pytest.mark.parametrize("method", METHODS)
@given(x=tt_tensors(), eps=st.sampled_from([None, 1e-1, 1e-4]), rank=st.sampled_from([None, 2]))
def test_full_output_reports_the_error_that_was_made(method, x, eps, rank):
    y, info = x.round(eps=eps, max_rank=rank, full_output=True, **random_args(method))
    assert info.ranks == y.ranks
    assert info.error_kind in {"measured", "bound", "estimate"}
    assert isinstance(info.error, float)
    assert method in info.method
    assert len(info.discarded) == x.ndim - 1
    full = dense(x)
    error = norm(dense(y) - full)
    if info.error_kind != "estimate":
        assert error <= info.error * norm(full) + noise(x)
    if info.error_kind == "measured":
        assert info.error * norm(full) <= error + noise(x)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(3,), (2, 3, 4), (1, 5, 1)], ids=str)
def test_zero_rounds_to_ranks_one(method, shape, dtype):
    x = tt.random(shape, [3] * (len(shape) - 1), rng=0, dtype=dtype) * 0.0
    y, info = x.round(eps=1e-3, full_output=True, **random_args(method))
    assert y.ranks == (1,) * (len(shape) + 1)
    assert not y.to_dense().any()
    assert info.error == 0


@pytest.mark.parametrize("method", METHODS)
def test_a_train_that_cancels_rounds_without_nan(method):
    x = tt.random((4, 5, 6), 3, rng=0)
    y = (x - x).round(eps=1e-3, **random_args(method))
    assert np.isfinite(y.to_dense()).all()
    assert distance(y, tt.zeros(x.shape)) <= noise(x - x)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("eps", [2.0, 30.0])
def test_eps_beyond_sqrt_of_d_minus_1_gives_ranks_one(method, eps):
    assert tt.random((3, 4, 5), 3, rng=0).round(eps=eps, **random_args(method)).ranks == (1,) * 4


@pytest.mark.parametrize("method", METHODS)
def test_one_core_rounds_to_itself(method):
    x = tt.TTTensor([np.arange(5.0)[None, :, None]])
    np.testing.assert_array_equal(x.round(eps=0.1, **random_args(method)).to_dense(), np.arange(5))


@pytest.mark.parametrize("method", METHODS)
def test_rounding_twice_gives_identical_bits(method):
    x = tt.random((5, 6, 7, 5), 6, rng=0)
    first, second = (x.round(eps=0.3, **random_args(method)) for _ in range(2))
    assert all(g.tobytes() == h.tobytes() for g, h in zip(first.cores, second.cores, strict=True))


@given(x=tt_tensors(), eps=st.sampled_from([1e-1, 1e-3]))
def test_rounding_a_rounded_train_again_keeps_its_error_bound(x, eps):
    y = x.round(eps=eps)
    assert norm(dense(y.round(eps=eps)) - dense(y)) <= eps * norm(dense(y)) + noise(y)


@given(W=tt_matrices(), eps=st.sampled_from([None, 1e-1, 1e-4]))
def test_matrices_round_to_matrices_within_eps(W, eps):
    V, info = W.round(eps=eps, full_output=True)
    assert V.row_modes == W.row_modes
    assert V.col_modes == W.col_modes
    assert info.ranks == V.ranks
    size = distance(W, W * 0.0)
    assert distance(V, W) <= (eps or 0) * size + noise(W)


# The sum of many


@given(pair=tt_pairs(), eps=st.sampled_from([None, 1e-1, 1e-4, 1e-8]))
def test_round_sum_is_within_eps_of_the_sum(pair, eps):
    x, y = pair
    z, info = tt.round_sum([(2.0, x), (-0.5, y)], eps=eps, full_output=True)
    exact = 2 * dense(x) - dense(y) / 2
    together = noise(x * 2.0 + y * -0.5)
    assert info.ranks == z.ranks
    assert norm(dense(z) - exact) <= (eps or 0) * norm(exact) + together


def test_round_sum_of_many_returns_to_the_rank_of_their_span():
    x, y = tt.random((5, 6, 7), 2, rng=0), tt.random((5, 6, 7), 2, rng=1)
    terms = [(float(c), x if c % 2 else y) for c in range(1, 11)]
    z = tt.round_sum(terms, eps=1e-12)
    assert z.ranks == (1, 4, 4, 1)
    exact = 25 * dense(x) + 30 * dense(y)
    assert norm(dense(z) - exact) <= (1e-12 + 1e-13) * 55 * (norm(dense(x)) + norm(dense(y)))


def test_round_sum_caps_the_ranks():
    x, y = tt.random((5, 6, 7), 3, rng=0), tt.random((5, 6, 7), 3, rng=1)
    assert max(tt.round_sum([(1, x), (1, y)], max_rank=2).ranks) <= 2


def test_round_sum_of_matrices_is_a_matrix():
    W = tt.random_matrix((3, 4), (4, 3), 2, rng=0)
    V = tt.round_sum([(1.0, W), (1j, W)], eps=1e-10)
    assert isinstance(V, tt.TTMatrix)
    assert V.dtype == np.complex128
    assert V.ranks == (1, 2, 1)


# Orthogonalisation


@given(x=tt_tensors(), data=st.data())
def test_orthogonalize_keeps_the_tensor_and_makes_both_sides_orthogonal(x, data):
    center = data.draw(st.integers(0, x.ndim - 1))
    y = x.orthogonalize(center)
    assert y.shape == x.shape
    assert norm(dense(y) - dense(x)) <= noise(x)
    eps = float(np.finfo(x.dtype).eps)
    for k, core in enumerate(y.cores):
        if k == center:
            continue
        side = core.reshape(-1, core.shape[2]) if k < center else core.reshape(core.shape[0], -1).T
        gram = side.conj().T @ side
        assert np.abs(gram - np.eye(len(gram))).max() <= 4 * max(side.shape) * eps


@given(x=tt_tensors())
def test_orthogonalize_clips_overfull_ranks(x):
    ranks = x.orthogonalize(x.ndim - 1).ranks
    for k in range(1, x.ndim):
        assert ranks[k] <= x.ranks[k]
        assert ranks[k] <= ranks[k - 1] * x.shape[k - 1]


def test_norm_after_orthogonalize_is_that_of_the_centre():
    x = tt.random((4, 5, 6), 3, rng=0)
    y = x.orthogonalize(1)
    assert abs(y.norm() - norm(y.cores[1])) <= noise(x)


# Reference: the Hilbert tensor 1 / (i_1 + ... + i_d), i = 1 ... n, as a sum of exponentials


def hilbert(d, n):
    """1/x = sum_j h e^{s_j} exp(-x e^{s_j}) with relative error 9e-15.

    All terms are positive, so groups of them are rounded to 1e-15 before they are added up.
    """
    h = 0.24
    s = np.arange(-37 - math.log(d * n), math.log(42 / d) + 0.3, h)
    groups = [exponential_sum(part, h, d, n).round(eps=1e-15) for part in np.array_split(s, 12)]
    return tt.round_sum([(1.0, group) for group in groups], eps=1e-14)


def exponential_sum(s, h, d, n):
    """Train of sum_j h e^{s_j} exp(-x e^{s_j}); its ranks are the number of terms."""
    decay, weight = np.exp(s), h * np.exp(s)
    factor = np.exp(-np.outer(decay, np.arange(1, n + 1)))  # (terms, n)
    middle = np.zeros((len(s), n, len(s)))
    middle[np.arange(len(s)), :, np.arange(len(s))] = factor
    first, last = (weight[:, None] * factor).T[None], factor[:, :, None]
    return tt.TTTensor([first, *[middle] * (d - 2), last])


BEST = {
    10: [
        *(2.838642e-02, 1.521621e-03, 1.205950e-04, 1.190994e-05, 1.343817e-06, 1.643854e-07),
        *(2.108555e-08, 2.774666e-09, 3.690144e-10, 4.911169e-11, 6.49608e-12),
    ],
    60: [3.831577e-03, 2.464360e-05, 2.316379e-07, 2.907316e-09, 4.610957e-11],
}
NORMS = {10: 2.144403176542e05, 60: 1.453207465593e42}
SUMS = {10: 7.060073650048e12, 60: 2.068521941236e87}
MAX_RANKS = {10: [2, 4, 6, 8, 10], 60: [1, 2, 3, 4, 5]}


@pytest.fixture(scope="module", params=[10, 60], ids="d={}".format)
def hilbert_tensor(request):
    d = request.param
    return d, hilbert(d, 32)


def test_hilbert_norm_and_sum_are_the_reference_values(hilbert_tensor):
    d, x = hilbert_tensor
    digits = 1e-12  # the references have 13 digits, the exponential sum 14
    assert x.norm() == pytest.approx(NORMS[d], rel=digits)
    assert x.sum() == pytest.approx(SUMS[d], rel=digits)


def test_hilbert_errors_by_rank_cap_are_the_best_ones(hilbert_tensor):
    """The references are TT-SVD errors with 7 digits; below 1e-10 the 1e-14 of the sum shows."""
    d, x = hilbert_tensor
    for rank, best in enumerate(BEST[d], start=1):
        y, info = x.round(max_rank=rank, full_output=True)
        assert max(y.ranks) == rank
        error = distance(x, y) / NORMS[d]
        assert error == pytest.approx(best, rel=2e-6, abs=3e-14)
        assert info.error == pytest.approx(best, rel=2e-6, abs=3e-14)


def test_hilbert_max_ranks_by_eps_are_the_reference_ones(hilbert_tensor):
    d, x = hilbert_tensor
    for rank, eps in zip(MAX_RANKS[d], (1e-2, 1e-4, 1e-6, 1e-8, 1e-10), strict=True):
        assert max(x.round(eps=eps).ranks) == rank


@pytest.mark.parametrize("method", ["gram", "randomized"])
def test_hilbert_rounds_within_eps_by_the_other_methods(hilbert_tensor, method):
    _, x = hilbert_tensor
    for eps in (1e-2, 1e-6, 1e-10, 1e-12):
        y = x.round(eps=eps, **random_args(method))
        assert distance(x, y) <= eps * x.norm() + noise(x)


def test_methods_agree_on_ranks_of_the_hilbert_tensor(hilbert_tensor):
    _, x = hilbert_tensor
    for eps, (one, other) in itertools.product((1e-3, 1e-7), [("svd", "gram")]):
        assert x.round(eps=eps, method=one).ranks == x.round(eps=eps, method=other).ranks
