"""Nothing depends on the scale: entries from 1e-300 to 1e300, and trains of 2000 cores."""

import math

import numpy as np
import pytest

import ttcore as tt
from ttcore.testing import orthogonal_sum

SCALES = {
    np.float64: [1e-300, 1e-200, 1e-160, 1e-100, 1e100, 1e154, 1e200, 1e300],
    np.complex128: [1e-300, 1e-160, 1e160, 1e300],
    np.float32: [1e-37, 1e-25, 1e-20, 1e20, 1e25, 1e37],
    np.complex64: [1e-37, 1e-20, 1e20, 1e37],
}
CASES = [(dtype, c) for dtype, scales in SCALES.items() for c in scales]
PARAMETERS = pytest.mark.parametrize(
    ("dtype", "c"), CASES, ids=[f"{np.dtype(t)}-{c:g}" for t, c in CASES]
)
METHODS = ["svd", "gram", "randomized"]
LONG = 2000
LOG_TEN = math.log(10)


def power_of_two(c):
    """Nearest power of two: scaling by it is exact, so results must scale to the bit."""
    return math.ldexp(1.0, round(math.log2(c)))


def graded(dtype):
    spectrum = 10.0 ** -np.arange(0, 6, 0.5)
    cores = orthogonal_sum(spectrum, (12, 3, 12), rng=np.random.default_rng(0), dtype=dtype)
    return cores, float(np.linalg.norm(spectrum))


def dense_graded(dtype):
    cores, size = graded(dtype)
    return np.einsum("anb,bmc,cod->nmo", *cores), size


def scaled_to_norm_within_range(dtype, c, size):
    """Factor close to c for which the norm, and every entry of size 1e-5 of it, is in range."""
    info = np.finfo(dtype)
    low, high = float(info.tiny) * 1e6, float(info.max) / 8
    return power_of_two(min(max(c, low / size), high / size))


def well_within_range(dtype, c):
    """Factor close to c with a millionfold margin to the ends of the range."""
    info = np.finfo(dtype)
    return power_of_two(min(max(c, float(info.tiny) * 1e6), float(info.max) / 1e6))


@PARAMETERS
@pytest.mark.parametrize("eps", [None, 1e-2, 1e-4])
def test_from_dense_gives_the_same_ranks_and_errors_at_every_scale(dtype, c, eps):
    a, size = dense_graded(dtype)
    c = scaled_to_norm_within_range(dtype, c, size)
    x, info = tt.from_dense(a, eps=eps, full_output=True)
    y, scaled_info = tt.from_dense((a * a.dtype.type(c)), eps=eps, full_output=True)
    assert y.ranks == x.ranks
    assert scaled_info.error == pytest.approx(info.error, rel=1e-2, abs=float(np.finfo(dtype).eps))
    wide = np.clongdouble
    back = np.asarray(y.to_dense()).astype(wide) / c
    rounding = 100 * float(np.finfo(dtype).eps) * size  # K = 36 in 4 K eps
    assert np.linalg.norm((back - x.to_dense()).ravel().astype(complex)) <= 2 * rounding


@PARAMETERS
@pytest.mark.parametrize("method", METHODS)
def test_round_gives_the_same_ranks_at_every_scale(dtype, c, method):
    cores, size = graded(dtype)
    c = scaled_to_norm_within_range(dtype, c, size)
    x = tt.TTTensor(cores)
    y = tt.TTTensor([cores[0] * cores[0].dtype.type(c), *cores[1:]])
    options = {"method": method, **({"rng": 0} if method == "randomized" else {})}
    for eps in (None, 1e-2, 1e-4):
        assert y.round(eps=eps, **options).ranks == x.round(eps=eps, **options).ranks


@PARAMETERS
def test_norm_scales(dtype, c):
    cores, size = graded(dtype)
    c = scaled_to_norm_within_range(dtype, c, size)
    y = tt.TTTensor([cores[0] * cores[0].dtype.type(c), *cores[1:]])
    assert y.norm() == pytest.approx(c * size, rel=200 * float(np.finfo(dtype).eps))
    assert y.log_norm() == pytest.approx(
        math.log(c) + math.log(size), abs=1000 * float(np.finfo(dtype).eps)
    )


@PARAMETERS
def test_scale_may_sit_in_any_core_or_be_spread_over_two(dtype, c):
    """c * c overflows or underflows; c in one core and 1 / c in the next does not."""
    cores, size = graded(dtype)
    c = well_within_range(dtype, c)
    y = tt.TTTensor(
        [cores[0], *(g * g.dtype.type(f) for g, f in zip(cores[1:], (c, 1 / c), strict=False))]
    )
    assert y.norm() == pytest.approx(size, rel=1e3 * float(np.finfo(dtype).eps))
    assert y.round(eps=1e-2).ranks == tt.TTTensor(cores).round(eps=1e-2).ranks


@PARAMETERS
def test_trains_that_carry_their_scale_in_different_cores_add_up(dtype, c):
    """x has the factor c in its first core and 1 / c in its last, y the other way round."""
    cores, size = graded(dtype)
    c = well_within_range(dtype, c)
    up, down = (g.dtype.type(f) for g, f in zip(cores, (c, 1 / c), strict=False))
    x = tt.TTTensor([cores[0] * up, cores[1], cores[2] * down])
    y = tt.TTTensor([cores[0] * down, cores[1], cores[2] * up])
    rounding = 1e3 * float(np.finfo(dtype).eps)
    assert (x + y).norm() == pytest.approx(2 * size, rel=rounding)
    assert tt.distance(x, y) <= rounding * size
    assert (x + y).round(eps=1e-3).norm() == pytest.approx(2 * size, rel=rounding + 1e-3)
    np.testing.assert_allclose((x + y).to_dense(), 2 * x.to_dense(), atol=rounding * size)


@PARAMETERS
@pytest.mark.parametrize("method", METHODS)
def test_the_sum_of_a_tensor_and_its_rounded_self_rounds_to_twice_the_tensor(dtype, c, method):
    """The one has its norm in the first core, the other in the last."""
    a, size = dense_graded(dtype)
    c = scaled_to_norm_within_range(dtype, c, 4 * size)
    x = tt.from_dense(a * a.dtype.type(c))
    options = {"method": method, **({"rng": 0} if method == "randomized" else {})}
    total = x + x.round()
    rounding = 1e3 * float(np.finfo(dtype).eps)
    for eps in (None, 1e-3):
        y = total.round(eps=eps, **options)
        assert y.norm() == pytest.approx(2 * c * size, rel=rounding + (eps or 0))
        assert tt.distance(y, x * 2.0) <= 2 * ((eps or 0) + rounding) * c * size


@PARAMETERS
def test_vdot_with_the_inverse_scale_is_in_range(dtype, c):
    cores, size = graded(dtype)
    c = well_within_range(dtype, c)
    x = tt.TTTensor([cores[0] * cores[0].dtype.type(c), *cores[1:]])
    y = tt.TTTensor([cores[0] * cores[0].dtype.type(1 / c), *cores[1:]])
    assert abs(tt.vdot(x, y) - size**2) <= 1e3 * float(np.finfo(dtype).eps) * size**2


@PARAMETERS
def test_distance_and_allclose_scale(dtype, c):
    cores, size = graded(dtype)
    c = scaled_to_norm_within_range(dtype, c, 4 * size)
    y = tt.TTTensor([cores[0] * cores[0].dtype.type(c), *cores[1:]])
    assert tt.distance(y, y * 2.0) == pytest.approx(c * size, rel=1e3 * float(np.finfo(dtype).eps))
    assert tt.allclose(y, y, rtol=1e3 * float(np.finfo(dtype).eps))
    assert not tt.allclose(y, y * 1.5, rtol=1e-2)


@PARAMETERS
def test_matrices_apply_at_every_scale(dtype, c):
    W = tt.random_matrix((3, 4), (4, 3), 3, rng=0, dtype=dtype)
    c = well_within_range(dtype, c)
    scaled = tt.TTMatrix([W.cores[0] * W.cores[0].dtype.type(c), W.cores[1]])
    x = np.ones(12, dtype)
    exact = (W @ x).astype(np.clongdouble)
    y = (scaled @ x).astype(np.clongdouble) / c
    size = np.abs(W.to_dense()).sum(axis=1).max()
    assert np.abs(y - exact).max() <= 500 * float(np.finfo(dtype).eps) * size


@pytest.mark.parametrize("c", [1e-310, 5e-324])
def test_subnormal_arrays_decompose_without_nan(c):
    x = tt.from_dense(np.full((3, 4, 5), c))
    assert np.isfinite(x.to_dense()).all()
    assert x.norm() <= 16 * c


# Long trains: the norm of 2000 cores of tens is 1e2000


def tens(value=10.0, dtype=np.float64, rank=1):
    core = np.full((rank, 3, rank), value, dtype)
    return tt.TTTensor([core[:1], *[core] * (LONG - 2), core[..., :1]])


LONG_VALUES = [10.0, 1e-3, 1e100, 1e-100, 1.0]


@pytest.mark.parametrize("value", LONG_VALUES)
def test_log_norm_of_2000_cores_is_finite(value):
    exact = LONG * (math.log(value) + math.log(3) / 2)
    assert tens(value).log_norm() == pytest.approx(exact, rel=1e-12, abs=1e-9)


@pytest.mark.parametrize("rank", [1, 3])
def test_norm_of_2000_cores_is_inf_or_zero_without_warning(rank):
    assert tens(10.0, rank=rank).norm() == math.inf
    assert tens(1e-3, rank=rank).norm() == 0.0
    assert tens(1e-3, rank=rank).log_norm() > -math.inf


def test_norm_of_2000_cores_within_range_is_right():
    x = tens(1 / math.sqrt(3))
    assert x.norm() == pytest.approx(1.0, rel=LONG * 1e-15)


def test_log_norm_of_zero_is_minus_infinity():
    assert tt.zeros((3,) * LONG).log_norm() == -math.inf
    assert (tens() * 0.0).log_norm() == -math.inf


def test_vdot_of_2000_cores_overflows_only_when_its_value_does():
    assert tt.vdot(tens(10.0), tens(10.0)) == math.inf
    assert tt.vdot(tens(10.0), tens(-10.0) * -1.0) == -math.inf
    assert tt.vdot(tens(1e-3), tens(1e-3)) == 0
    assert tt.vdot(tens(10.0), tens(1 / 30)) == pytest.approx(1.0, rel=LONG * 4e-16)


def test_log_vdot_of_2000_cores_has_phase_and_logarithm():
    phase, log_abs = tt.log_vdot(tens(10.0), tens(10.0) * -1.0)
    assert phase == -1
    assert log_abs == pytest.approx(LONG * math.log(300), rel=1e-12)
    phase, log_abs = tt.log_vdot(tens(10.0) * 1j, tens(1e-3))
    assert abs(phase - (-1j)) <= 1e-15
    assert log_abs == pytest.approx(LONG * math.log(3e-2), rel=1e-12)
    assert tt.log_vdot(tens(), tt.zeros((3,) * LONG))[1] == -math.inf


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex64], ids=["f4", "f8", "c8"])
@pytest.mark.parametrize("method", METHODS)
def test_round_of_2000_cores_keeps_every_core_in_range(method, dtype):
    x = tens(10.0, dtype, rank=2)
    options = {"rng": 0} if method == "randomized" else {}
    y = x.round(eps=1e-3, method=method, **options)
    assert y.dtype == dtype
    assert set(y.ranks) == {1}
    assert all(np.isfinite(core).all() for core in y.cores)
    exact = LONG * (math.log(20) + math.log(3) / 2) - math.log(2)
    rounding = 50 * LONG * float(np.finfo(dtype).eps)
    assert y.log_norm() == pytest.approx(exact, abs=rounding + 1e-3)
    assert tt.distance(y, x * 0.5) == math.inf


def test_round_of_2000_tiny_cores_is_not_zero():
    y = tens(1e-3, rank=2).round(eps=1e-3)
    exact = LONG * (math.log(2e-3) + math.log(3) / 2) - math.log(2)
    assert y.log_norm() == pytest.approx(exact, abs=1e-3 + 1e-9)


def test_add_and_multiply_of_2000_cores():
    x = tens(10.0)
    assert (x + x).log_norm() == pytest.approx(x.log_norm() + math.log(2), abs=1e-8)
    assert (x * x).log_norm() == pytest.approx(LONG * (2 * LOG_TEN + math.log(3) / 2), abs=1e-8)
    assert (x - x).round(eps=1e-3).log_norm() <= x.log_norm() + math.log(LONG * 1e-14)


def test_distance_and_allclose_of_2000_cores():
    small, large = tens(1 / math.sqrt(3)), tens(10.0)
    assert tt.distance(small, small * 2.0) == pytest.approx(1.0, rel=LONG * 1e-14)
    assert tt.allclose(large, large)
    assert tt.allclose(large, large * (1 + 1e-11), rtol=1e-10)
    assert not tt.allclose(large, large * 1.1, rtol=1e-2)
    assert not tt.allclose(large, tens(10.0) * 2.0)
    assert not tt.allclose(tens(1e-3), tens(1e-3) * 2.0)
    assert not tt.allclose(tens(1e-3), tens(1e-3) * -1.0, rtol=1)


def test_sum_and_mean_of_2000_cores():
    assert tens(10.0).sum() == math.inf
    assert tens(-10.0).sum() == math.inf  # an even number of signs
    assert tens(1e-3).sum() == 0
    assert tens(1 / 3).sum() == pytest.approx(1.0, rel=LONG * 4e-16)
    assert tens(1.0).mean() == pytest.approx(1.0, rel=LONG * 4e-16)
    assert tt.ones((10,) * LONG).mean() == pytest.approx(1.0, rel=LONG * 4e-16)


def test_partial_sum_and_mean_of_2000_cores():
    x = tt.ones((10,) * LONG)
    assert x.mean(axis=tuple(range(LONG - 2))).to_dense() == pytest.approx(
        np.ones((10, 10)), rel=LONG * 4e-16
    )
    half = x.sum(axis=tuple(range(1, LONG, 2)))  # entries of 1e1000 on the 1000 modes left
    assert half.log_norm() == pytest.approx(LONG // 2 * 1.5 * LOG_TEN, rel=1e-12)


def test_scalars_and_orthogonalize_of_2000_cores():
    x = tens(10.0) * 1e300 / 1e-300
    exact = LONG * (LOG_TEN + math.log(3) / 2) + 600 * LOG_TEN
    assert x.log_norm() == pytest.approx(exact, rel=1e-12)
    assert x.orthogonalize(1000).log_norm() == pytest.approx(exact, rel=1e-12)


def test_matrix_of_2000_cores_times_train():
    W = tt.eye((3,) * LONG) * 2.0
    y = W @ tens(10.0)
    exact = LONG * (LOG_TEN + math.log(3) / 2) + math.log(2)
    assert y.log_norm() == pytest.approx(exact, rel=1e-12)
    assert (W @ W).log_norm() == pytest.approx(LONG * math.log(3) / 2 + math.log(4), rel=1e-12)


def test_round_sum_of_2000_cores():
    x = tens(10.0)
    z = tt.round_sum([(1.0, x), (2.0, x)], eps=1e-8)
    assert set(z.ranks) == {1}
    assert z.log_norm() == pytest.approx(x.log_norm() + math.log(3), abs=1e-7)
