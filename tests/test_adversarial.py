"""Input chosen to break the fast paths: empty columns, scales at the ends, gradients at ties."""

import warnings

import numpy as np
import pytest

import ttcore as tt
from ttcore.kernels.portable import tsqr


def sparse(rng):
    """(256, 64) with 8 nonzero rows and columns."""
    a = np.zeros((256, 64))
    places = np.ix_(rng.choice(256, 8, replace=False), rng.choice(64, 8, replace=False))
    a[places] = rng.standard_normal((8, 8))
    return a


@pytest.mark.parametrize("scale", [1e-150, 1e-80, 1e-20, 1e-8, 1.0, 1e80, 1e150])
@pytest.mark.parametrize("eps", [None, 1e-13, 1e-10])
def test_empty_columns_bring_no_noise(scale, eps):
    a = sparse(np.random.default_rng(0))
    x, info = tt.from_dense(a * scale, eps=eps, full_output=True)
    assert x.ranks == (1, np.linalg.matrix_rank(a), 1)
    error = np.linalg.norm(x.to_dense() / scale - a) / np.linalg.norm(a)
    assert error <= 64 * np.finfo(float).eps
    assert info.error <= 64 * np.finfo(float).eps


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
@pytest.mark.parametrize("decades", [0, 4, 9, 16])
def test_two_gram_matrices_are_as_good_as_householder_qr(dtype, decades):
    """Singular values agree to a few units of roundoff times the norm, whatever the spectrum."""
    rng = np.random.default_rng(decades)
    u = np.linalg.qr(rng.standard_normal((3000, 24)))[0]
    v = np.linalg.qr(rng.standard_normal((24, 24)))[0].astype(dtype)
    a = u * np.logspace(0, -decades, 24) @ v
    r = tsqr.r_factor(a, tsqr.gram(a), fine=True)
    exact = np.linalg.svd(tsqr.householder(a), compute_uv=False)
    bound = 24 * np.finfo(float).eps * np.linalg.norm(a)
    assert np.abs(np.linalg.svd(r, compute_uv=False) - exact).max() <= bound
    q = np.linalg.svd(a, full_matrices=False)[1]
    assert np.abs(exact - q).max() <= bound


def test_a_wrong_fast_factor_is_noticed_and_replaced(monkeypatch):
    a = np.random.default_rng(0).standard_normal((512, 8)) @ np.diag(np.logspace(0, -9, 8))
    a = a.reshape(32, 16, 8)
    good = tt.from_dense(a, eps=1e-9, full_output=True)[1]
    monkeypatch.setattr(tsqr, "graded_root", lambda g: np.eye(8)[::-1] * 1e-3 + 0 * g)
    info = tt.from_dense(a, eps=1e-9, full_output=True)[1]
    assert info.error <= 1e-9
    assert info.ranks == good.ranks


@pytest.mark.parametrize("options", [{"atol": 1e200}, {"eps": 1e200}, {"eps": 1e3, "atol": 1e300}])
@pytest.mark.parametrize("method", ["svd", "gram", "randomized"])
def test_budgets_beyond_the_norm_leave_ranks_of_one(options, method):
    x = tt.random((4, 4, 4), 3, rng=0).round(method=method, rng=0, **options)
    assert x.ranks == (1, 1, 1, 1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_cores_of_opposite_scales_multiply_out_in_range(dtype):
    size = 1e11 if dtype is np.float32 else 1e90
    big, small = (np.full((1, 2, 1), c, dtype) for c in (size, 1 / size))
    x = tt.TTTensor([big] * 4 + [small] * 4)
    np.testing.assert_allclose(x.to_dense(), 1, rtol=16 * np.finfo(dtype).eps)


def test_rank_noise_of_wide_matrices_is_removed_without_eps():
    rng = np.random.default_rng(0)
    assert tt.from_dense(tt.random((512, 512), 3, rng=1).to_dense()).ranks == (1, 3, 1)
    outer = np.outer(rng.standard_normal(16), rng.standard_normal(2**15))
    assert tt.from_dense(outer).ranks == (1, 1, 1)


def test_more_modes_than_numpy_has_axes():
    modes = (2,) * 5 + (1,) * 66
    W = tt.matrix_from_dense(np.eye(32), modes, modes)
    assert len(W.cores) == 71
    np.testing.assert_allclose(W.to_dense(), np.eye(32), atol=1e-14)
    with pytest.raises(tt.TTShapeError, match="64 axes"):
        tt.ones((1,) * 65).to_dense()


def test_data_near_the_ends_of_the_range_raise_no_warning():
    rng = np.random.default_rng(0)
    with warnings.catch_warnings(), np.errstate(all="raise", under="ignore"):
        warnings.simplefilter("error")
        x = tt.from_dense(1e200 * rng.standard_normal((256, 8, 8)))
        assert np.isfinite(x.norm())
        assert tt.from_dense(np.full((4, 4), 3e38 * (1 + 1j), "c8")).ranks == (1, 1, 1)


def test_a_fortran_ordered_array_is_read_in_place():
    a = np.asfortranarray(np.random.default_rng(0).standard_normal((16, 8, 64)))
    x, info = tt.from_dense(a, eps=0.3, full_output=True)
    error = np.linalg.norm(x.to_dense() - a) / np.linalg.norm(a)
    assert error == pytest.approx(info.error, rel=1e-6)
    assert x.norm() == pytest.approx(np.linalg.norm(x.to_dense()), rel=1e-12)
    y = tt.from_dense(a, max_rank=(3, 5))
    assert y.ranks == (1, 3, 5, 1)


def test_rounded_trains_keep_no_memory_of_larger_factors():
    x = tt.random((50,) * 4, 2, rng=0)
    y = sum([x] * 20, start=x).round()
    held = sum(g.nbytes if g.base is None else g.base.nbytes for g in y.cores)
    assert held <= 2 * y.nbytes


def test_a_center_known_in_single_precision_is_forgotten_in_double():
    x = tt.from_dense(np.random.default_rng(0).standard_normal((8, 8, 8)).astype("f4"))
    y = np.float64(1) * x
    assert y.dtype == np.float64
    assert y.norm() == pytest.approx(np.linalg.norm(y.to_dense()), rel=1e-13)


@pytest.mark.parametrize("scalar", [np.int8(2), np.uint8(2), np.bool_(True), np.float16(2)])
def test_small_numpy_scalars_promote_as_in_numpy(scalar):
    x = tt.ones((2, 2), dtype=np.float32)
    for result in (x * scalar, x + scalar):
        assert result.dtype == (np.ones(2, np.float32) * scalar).dtype


def test_gradients_of_real_operands_among_complex_ones_are_real():
    W = tt.random_matrix((2, 3), (3, 2), 3, rng=0)
    x, gy = np.ones((1, 6)) + 1j, np.ones((1, 6))
    gx, gcores = tt.linear.matvec_backward(W.cores, x, gy)
    assert gx.dtype == np.complex128
    assert {g.dtype for g in gcores} == {np.dtype(np.float64)}
    complex_cores = [g + 0j for g in W.cores]
    exact = tt.linear.matvec_backward(complex_cores, x, gy)[1]
    for got, full in zip(gcores, exact, strict=True):
        np.testing.assert_allclose(got, full.real, atol=1e-13)


@pytest.mark.parametrize("method", ["svd", "gram", "randomized"])
def test_gradients_through_rounding_are_finite_at_ties_and_zeros(method):
    torch = pytest.importorskip("torch", reason="needs PyTorch")
    cores = [torch.ones(1, 4, 1, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    x = tt.TTTensor(cores)
    loss = ((x + x).round(eps=1e-6, method=method, rng=0).to_dense() ** 2).sum()
    exact = ((x + x).to_dense() ** 2).sum()
    for got, want in zip(
        torch.autograd.grad(loss, cores), torch.autograd.grad(exact, cores), strict=True
    ):
        torch.testing.assert_close(got, want, rtol=1e-10, atol=0)


def test_gradients_through_from_dense_are_those_of_the_identity():
    torch = pytest.importorskip("torch", reason="needs PyTorch")
    a = torch.randn(1024, 4, 4, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad((tt.from_dense(a).to_dense() ** 2).sum(), a)
    torch.testing.assert_close(gradient, 2 * a.detach(), rtol=1e-10, atol=1e-10)
    train = tt.from_dense(a.detach())
    train.cores[1].mul_(3)  # torch has no read-only arrays: nothing may be remembered of them
    assert train.norm() == pytest.approx(float(train.to_dense().norm()), rel=1e-12)
