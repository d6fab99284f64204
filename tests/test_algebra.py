"""Arithmetic of trains against dense arrays, with derived bounds."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ttcore as tt
from ttcore.testing import (
    DTYPES,
    assert_within,
    dense,
    gamma,
    magnitude,
    representation_size,
    shapes,
    tt_pairs,
    tt_tensors,
)


def norm(a):
    return float(np.linalg.norm(np.ravel(a).astype(np.clongdouble)))


def coarse(*trains):
    """Relative bound of a contraction of the trains, in the coarsest of their dtypes."""
    return max(gamma(x.dtype, *trains) for x in trains)


def noise(x):
    """Error of an orthogonalising sweep: sqrt(d) * 4 K eps * S, K the longest unfolded side."""
    side = max(max(g.shape[0], g.shape[-1]) * math.prod(g.shape[1:-1]) for g in x.cores)
    eps = float(np.finfo(x.dtype).eps)
    return 4 * side * math.sqrt(len(x.cores)) * eps * representation_size(x)


@st.composite
def broadcast_pairs(draw):
    """Two tensors whose shapes broadcast: modes dropped from the left or replaced by 1."""
    shape = draw(shapes(max_dims=4, max_size=200))
    sides = []
    for _ in range(2):
        thin = tuple(n if draw(st.booleans()) else 1 for n in shape)
        first = draw(st.integers(0, len(shape) - 1))
        sides.append(draw(tt_tensors(thin[first:], max_rank=3)))
    return tuple(sides)


# Sums and products


@given(tt_pairs())
def test_sum_and_difference_equal_dense(pair):
    x, y = pair
    bound = coarse(x, y) * (magnitude(x) + magnitude(y))
    assert_within(dense(x + y), dense(x) + dense(y), bound)
    assert_within(dense(x - y), dense(x) - dense(y), bound)


@given(tt_pairs())
def test_elementwise_product_equals_dense(pair):
    x, y = pair
    bound = coarse(x, y) * magnitude(x) * magnitude(y)
    assert_within(dense(x * y), dense(x) * dense(y), bound)


@given(tt_pairs())
def test_results_have_the_promoted_dtype(pair):
    x, y = pair
    assert (x + y).dtype == (x - y).dtype == (x * y).dtype == np.result_type(x.dtype, y.dtype)


@given(tt_pairs())
def test_ranks_add_in_sums_and_multiply_in_products(pair):
    x, y = pair
    inner = list(zip(x.ranks[1:-1], y.ranks[1:-1], strict=True))
    assert (x + y).ranks == (1, *(r + s for r, s in inner), 1)
    assert (x * y).ranks == (1, *(r * s for r, s in inner), 1)


@given(broadcast_pairs())
def test_sum_broadcasts_as_numpy(pair):
    x, y = pair
    exact = dense(x) + dense(y)
    z = x + y
    assert z.shape == exact.shape
    assert_within(dense(z), exact, coarse(x, y, z) * (magnitude(x) + magnitude(y)))
    assert_within(
        dense(x - y), dense(x) - dense(y), coarse(x, y, z) * (magnitude(x) + magnitude(y))
    )


@given(broadcast_pairs())
def test_product_broadcasts_as_numpy(pair):
    x, y = pair
    exact = dense(x) * dense(y)
    z = x * y
    assert z.shape == exact.shape
    assert_within(dense(z), exact, coarse(x, y, z) * (magnitude(x) * magnitude(y)))


@given(tt_tensors(), st.sampled_from([1.0, -0.5, 2, 1.5j, np.float64(3), np.complex64(1j)]))
def test_adding_a_scalar_adds_it_to_every_entry(x, scalar):
    bound = 2 * gamma(x.dtype, x) * (magnitude(x) + abs(scalar))
    assert_within(dense(x + scalar), dense(x) + scalar, bound)
    assert_within(dense(scalar + x), dense(x) + scalar, bound)
    assert_within(dense(x - scalar), dense(x) - scalar, bound)
    assert_within(dense(scalar - x), scalar - dense(x), bound)


# Sums over axes


@given(tt_tensors())
def test_sum_without_axis_is_a_python_scalar_equal_to_dense(x):
    total = x.sum()
    assert type(total) is (complex if np.issubdtype(x.dtype, np.complexfloating) else float)
    assert abs(total - dense(x).sum()) <= gamma(x.dtype, x) * magnitude(x).sum()


@given(tt_tensors())
def test_mean_without_axis_is_a_python_scalar_equal_to_dense(x):
    mean = x.mean()
    assert type(mean) is (complex if np.issubdtype(x.dtype, np.complexfloating) else float)
    bound = 2 * gamma(x.dtype, x) * magnitude(x).mean()
    assert abs(mean - dense(x).mean()) <= bound


@given(tt_tensors(), st.data())
def test_sum_and_mean_over_axes_equal_dense(x, data):
    axes = data.draw(st.sets(st.integers(0, x.ndim - 1)).map(sorted))
    signed = tuple(k - x.ndim if data.draw(st.booleans()) else k for k in axes)
    axis = signed[0] if len(signed) == 1 and data.draw(st.booleans()) else signed
    exact, sizes = dense(x).sum(axis=axis), magnitude(x).sum(axis=axis)
    total, mean = x.sum(axis=axis), x.mean(axis=axis)
    if len(axes) < x.ndim:
        assert isinstance(total, tt.TTTensor)
        assert total.shape == mean.shape == exact.shape
        assert total.dtype == mean.dtype == x.dtype
        total, mean = dense(total), dense(mean)
    count = math.prod(x.shape[k] for k in axes)
    bound = 2 * gamma(x.dtype, x) * sizes
    assert (np.abs(total - exact) <= bound).all()
    assert (np.abs(mean - exact / count) <= bound / count).all()


# Inner products and norms


@given(tt_pairs())
def test_vdot_equals_dense_and_conjugates_the_first(pair):
    x, y = pair
    exact = np.vdot(dense(x), dense(y))
    bound = coarse(x, y) * np.vdot(magnitude(x), magnitude(y))
    assert abs(tt.vdot(x, y) - exact) <= bound


@given(tt_pairs())
def test_vdot_is_a_python_scalar_complex_if_either_is(pair):
    x, y = pair
    is_complex = np.issubdtype(np.result_type(x.dtype, y.dtype), np.complexfloating)
    assert type(tt.vdot(x, y)) is (complex if is_complex else float)


@given(tt_pairs())
def test_log_vdot_is_phase_and_logarithm_of_vdot(pair):
    x, y = pair
    phase, log_abs = tt.log_vdot(x, y)
    exact = np.vdot(dense(x), dense(y))
    bound = 2 * coarse(x, y) * float(np.vdot(magnitude(x), magnitude(y)))
    assert isinstance(log_abs, float)
    value = phase * math.exp(log_abs)
    of_log = 4 * float(np.finfo(float).eps) * (1 + abs(log_abs)) * abs(value) if value else 0
    assert abs(value - exact) <= bound + of_log


@given(tt_tensors())
def test_norm_is_a_python_float_equal_to_dense(x):
    assert type(x.norm()) is float
    assert abs(x.norm() - norm(dense(x))) <= noise(x)


@given(tt_tensors())
def test_log_norm_is_the_logarithm_of_the_norm(x):
    log_norm = x.log_norm()
    assert type(log_norm) is float
    value = math.exp(log_norm)
    rounding = 4 * np.finfo(float).eps * (1 + abs(log_norm)) * value if value else 0
    assert abs(value - norm(dense(x))) <= noise(x) + rounding


@given(tt_pairs())
def test_distance_equals_dense(pair):
    x, y = pair
    distance = tt.distance(x, y)
    assert type(distance) is float
    low = [z for z in pair if np.finfo(z.dtype).eps == max(np.finfo(w.dtype).eps for w in pair)]
    bound = noise((x - y).astype(np.result_type(low[0].dtype, (x - y).dtype)))
    assert abs(distance - norm(dense(x) - dense(y))) <= bound


@given(tt_tensors())
def test_distance_to_itself_is_at_rounding(x):
    assert tt.distance(x, x) <= noise(x - x)
    assert tt.distance(x, x.copy()) <= noise(x - x)


def test_distance_sees_far_below_the_square_root_of_eps():
    x = tt.random((4,) * 8, 3, rng=0)
    y = tt.random((4,) * 8, 3, rng=1) * (1e-12 * x.norm())
    exact = y.norm()
    assert abs(tt.distance(x + y, x) - exact) <= noise(x + y - x)
    assert noise(x + y - x) < exact


@given(tt_tensors())
def test_allclose_accepts_itself(x):
    assert tt.allclose(x, x, atol=noise(x - x)) is True


@pytest.mark.parametrize(("change", "rtol", "close"), [
    (1e-9, 1e-8, True), (1e-9, 1e-10, False), (1e-12, 1e-11, True), (1e-12, 1e-13, False),
])  # fmt: skip
def test_allclose_compares_distance_with_rtol_times_the_larger_norm(change, rtol, close):
    x = tt.random((4,) * 6, 2, rng=0)
    assert tt.allclose(x, x * (1 + change), rtol=rtol) is close


def test_allclose_has_rtol_1e_minus_10_and_atol_0():
    x = tt.random((4,) * 6, 2, rng=0)
    assert tt.allclose(x, x * (1 + 0.9e-10))
    assert not tt.allclose(x, x * (1 + 1.1e-10))
    assert not tt.allclose(tt.zeros((2, 2)), tt.ones((2, 2)) * 1e-300)
    assert tt.allclose(tt.zeros((2, 2)), tt.ones((2, 2)) * 1e-300, atol=1e-299)
    assert tt.allclose(tt.zeros((2, 2)), tt.zeros((2, 2)))


# Algebra of long trains


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_square_of_a_sum_expands(dtype):
    x, y = (tt.random((3, 4, 2, 3), 2, rng=seed, dtype=dtype) for seed in (0, 1))
    left = (x + y) * (x + y)
    right = x * x + x * y * 2.0 + y * y
    assert tt.distance(left, right) <= noise(left - right)


def test_sums_associate_and_commute_to_the_bit_of_their_dense_values():
    """Cores of small integers: every value is exact."""
    rng = np.random.default_rng(0)
    x, y, z = (
        tt.TTTensor([rng.integers(-2, 3, s).astype(float) for s in [(1, 3, 2), (2, 4, 1)]])
        for _ in range(3)
    )
    for a, b, c in itertools.permutations((x, y, z)):
        np.testing.assert_array_equal(((a + b) + c).to_dense(), (x + (y + z)).to_dense())


def test_a_tensor_and_a_matrix_do_not_mix():
    x, W = tt.ones((4, 4)), tt.eye((2, 2))
    for operation in (lambda: x + W, lambda: W + x, lambda: x * W, lambda: tt.vdot(x, W)):
        with pytest.raises(tt.TTError):
            operation()
