"""TTMatrix: what it says about itself, and its products with vectors, trains and matrices."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ttcore as tt
from ttcore.testing import (
    DTYPES,
    LAYOUTS,
    assert_within,
    dense,
    dense_matrix,
    gamma,
    magnitude,
    relayout,
    tt_matrices,
    tt_tensors,
)

SEEDS = st.integers(0, 2**32 - 1)


def normal(rng, shape, dtype):
    values = rng.standard_normal(shape)
    if np.issubdtype(dtype, np.complexfloating):
        values = values + 1j * rng.standard_normal(shape)
    return values.astype(dtype)


def a_matrix(dtype=np.float64, rows=(2, 1, 3), cols=(4, 2, 1), ranks=(1, 2, 3, 1)):
    rng = np.random.default_rng(1)
    shapes = zip(ranks, rows, cols, ranks[1:], strict=False)
    return tt.TTMatrix([normal(rng, shape, dtype) for shape in shapes])


def a_batch(W, seed, batch, dtype=None, rows=False):
    n = W.shape[0] if rows else W.shape[1]
    return normal(np.random.default_rng(seed), (batch, n), dtype or W.dtype)


@given(tt_matrices())
def test_to_dense_equals_the_product_of_the_cores(W):
    full = W.to_dense()
    assert full.dtype == W.dtype
    assert_within(full, dense_matrix(W), gamma(W.dtype, W) * magnitude(W))
    np.testing.assert_array_equal(np.asarray(W), full)


@given(tt_matrices())
def test_attributes_describe_the_cores(W):
    assert W.row_modes == tuple(core.shape[1] for core in W.cores)
    assert W.col_modes == tuple(core.shape[2] for core in W.cores)
    assert W.shape == (math.prod(W.row_modes), math.prod(W.col_modes))
    assert W.ndim == 2
    assert W.size == math.prod(W.shape)
    assert W.ranks == (1, *(core.shape[3] for core in W.cores))
    assert W.num_params == sum(core.size for core in W.cores)
    assert W.nbytes == sum(core.nbytes for core in W.cores)
    assert W.compression == W.size / W.num_params


def test_sizes_of_a_long_matrix_are_exact():
    W = tt.eye((10,) * 2000)
    assert W.shape == (10**2000, 10**2000)
    assert W.size == 10**4000
    assert W.compression == math.inf


def test_rows_and_columns_are_flattened_in_C_order_first_mode_most_significant():
    g, h = np.zeros((1, 2, 3, 1)), np.zeros((1, 4, 5, 1))
    g[0, 1, 2, 0], h[0, 3, 1, 0] = 1, 1
    (row,), (col,) = np.nonzero(tt.TTMatrix([g, h]).to_dense())
    assert (row, col) == (1 * 4 + 3, 2 * 5 + 1)


@pytest.mark.parametrize("d", [1, 5, 500])
def test_repr_has_at_most_three_lines_with_modes_and_ranks(d):
    text = repr(tt.random_matrix((5,) * d, (6,) * d, 3, rng=0))
    assert len(text.splitlines()) <= 3
    assert max(map(len, text.splitlines())) <= 200
    assert "5" in text
    assert "6" in text


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_cores_and_vectors_in_any_layout_give_the_same_product(layout, dtype):
    W = a_matrix(dtype)
    x = a_batch(W, 0, 3)
    expected = dense_matrix(W) @ x.T
    again = tt.TTMatrix([relayout(core, layout) for core in W.cores])
    bound = gamma(dtype, W) * (magnitude(W) @ np.abs(x.T))
    y = again @ relayout(x.T, layout)
    assert y.dtype == dtype
    assert_within(y, expected, bound)
    assert_within(again @ relayout(x[0], layout), expected[:, 0], bound[:, 0])
    assert_within(again.apply(relayout(x, layout)), expected.T, bound.T)


@given(tt_matrices(), SEEDS)
def test_matrix_times_vector_equals_dense(W, seed):
    (x,) = a_batch(W, seed, 1)
    bound = gamma(W.dtype, W) * (magnitude(W) @ np.abs(x))
    assert_within(W @ x, dense_matrix(W) @ x, bound)
    assert_within(W.matvec(x), dense_matrix(W) @ x, bound)


@given(tt_matrices(), SEEDS, st.sampled_from([0, 1, 2, 7]))
def test_matrix_times_columns_equals_dense(W, seed, batch):
    x = a_batch(W, seed, batch).T
    y = W @ x
    assert y.shape == (W.shape[0], batch)
    assert_within(y, dense_matrix(W) @ x, gamma(W.dtype, W) * (magnitude(W) @ np.abs(x)))


@given(tt_matrices(), SEEDS)
def test_vector_times_matrix_equals_dense(W, seed):
    (x,) = a_batch(W, seed, 1, rows=True)
    assert_within(x @ W, x @ dense_matrix(W), gamma(W.dtype, W) * (np.abs(x) @ magnitude(W)))


@given(tt_matrices(), SEEDS, st.sampled_from([0, 1, 5]))
def test_rows_times_matrix_equals_dense(W, seed, batch):
    x = a_batch(W, seed, batch, rows=True)
    y = x @ W
    assert y.shape == (batch, W.shape[1])
    assert_within(y, x @ dense_matrix(W), gamma(W.dtype, W) * (np.abs(x) @ magnitude(W)))


@given(tt_matrices(), SEEDS, st.sampled_from([(), (0,), (3,), (2, 3), (2, 0, 2)]))
def test_apply_takes_rows_with_any_leading_axes(W, seed, lead):
    x = a_batch(W, seed, math.prod(lead)).reshape(*lead, W.shape[1])
    y = W.apply(x)
    assert y.shape == (*lead, W.shape[0])
    assert_within(y, x @ dense_matrix(W).T, gamma(W.dtype, W) * (np.abs(x) @ magnitude(W).T))


@given(tt_matrices(), SEEDS)
def test_rmatvec_is_the_adjoint(W, seed):
    (y,) = a_batch(W, seed, 1, rows=True)
    exact = dense_matrix(W).conj().T @ y
    bound = gamma(W.dtype, W) * (magnitude(W).T @ np.abs(y))
    assert_within(W.rmatvec(y), exact, bound)
    assert_within(W.H @ y, exact, bound)


@given(tt_matrices())
def test_transposes_are_those_of_the_dense_matrix(W):
    np.testing.assert_array_equal(dense_matrix(W.T), dense_matrix(W).T)
    np.testing.assert_array_equal(dense_matrix(W.H), dense_matrix(W).conj().T)
    np.testing.assert_array_equal(dense_matrix(W.conj()), dense_matrix(W).conj())
    assert W.T.row_modes == W.col_modes
    assert W.T.col_modes == W.row_modes


@given(tt_matrices(), st.data())
def test_matrix_times_train_equals_dense(W, data):
    x = data.draw(tt_tensors(W.col_modes, dtype=W.dtype))
    y = W @ x
    assert isinstance(y, tt.TTTensor)
    assert y.shape == W.row_modes
    bound = gamma(W.dtype, W, x) * (magnitude(W) @ magnitude(x).ravel())
    assert_within(dense(y).ravel(), dense_matrix(W) @ dense(x).ravel(), bound)


@given(tt_matrices(), st.data())
def test_matrix_times_matrix_equals_dense(W, data):
    V = data.draw(tt_matrices(row_modes=W.col_modes, dtype=W.dtype))
    product = W @ V
    assert isinstance(product, tt.TTMatrix)
    assert product.row_modes == W.row_modes
    assert product.col_modes == V.col_modes
    bound = gamma(W.dtype, W, V) * (magnitude(W) @ magnitude(V))
    assert_within(dense_matrix(product), dense_matrix(W) @ dense_matrix(V), bound)


@given(tt_matrices(), st.data())
def test_sum_difference_and_elementwise_product_equal_dense(W, data):
    V = data.draw(tt_matrices(row_modes=W.row_modes, col_modes=W.col_modes))
    dtype = np.result_type(W.dtype, V.dtype)
    coarse = max(gamma(W.dtype, W, V), gamma(V.dtype, W, V))
    a, b, sizes = dense_matrix(W), dense_matrix(V), (magnitude(W), magnitude(V))
    assert (W + V).dtype == (W * V).dtype == dtype
    assert_within(dense_matrix(W + V), a + b, coarse * (sizes[0] + sizes[1]))
    assert_within(dense_matrix(W - V), a - b, coarse * (sizes[0] + sizes[1]))
    assert_within(dense_matrix(W * V), a * b, coarse * sizes[0] * sizes[1])


@given(tt_matrices())
def test_real_imag_and_scalars_equal_dense(W):
    full, bound = dense_matrix(W), 2 * gamma(W.dtype, W) * magnitude(W)
    assert_within(dense_matrix(W.real), full.real, bound)
    assert_within(dense_matrix(W.imag), full.imag, bound)
    assert_within(dense_matrix(W * 3.0), 3 * full, 3 * bound)
    assert_within(dense_matrix(W / 3.0), full / 3, bound)
    np.testing.assert_array_equal(dense_matrix(-W), -full)


@pytest.mark.parametrize("x_dtype", DTYPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_products_of_mixed_dtypes_promote(dtype, x_dtype):
    W = a_matrix(dtype)
    expected = np.result_type(dtype, x_dtype)
    x = a_batch(W, 3, 2, x_dtype)
    coarse = max(gamma(dtype, W), gamma(x_dtype, W))
    y = W @ x.T
    assert y.dtype == W.apply(x).dtype == expected
    assert_within(y, dense_matrix(W) @ x.T, coarse * (magnitude(W) @ np.abs(x.T)))
    train = tt.ones(W.col_modes).astype(x_dtype)
    assert (W @ train).dtype == expected
    assert (W.T @ a_matrix(x_dtype)).dtype == expected


def test_integer_vectors_become_float64():
    W = a_matrix(np.float64)
    x = np.arange(W.shape[1])
    y = W @ x
    assert y.dtype == np.float64
    assert_within(y, dense_matrix(W) @ x, gamma(W.dtype, W) * (magnitude(W) @ np.abs(x)))


def test_one_core_is_an_ordinary_matrix():
    A = np.random.default_rng(0).standard_normal((3, 4))
    W = tt.TTMatrix([A[None, :, :, None]])
    np.testing.assert_array_equal(W.to_dense(), A)
    assert_within(W @ np.ones(4), A @ np.ones(4), gamma(float, W) * np.abs(A) @ np.ones(4))


@pytest.mark.parametrize("batch", [1, 2, 37])
def test_product_with_the_identity_is_exact(batch):
    x = np.random.default_rng(0).standard_normal((24, batch))
    np.testing.assert_array_equal(tt.eye((2, 3, 4)) @ x, x)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_matvec_twice_gives_identical_bits(dtype):
    W = tt.random_matrix((4, 5, 6), (6, 5, 4), 5, rng=0, dtype=dtype)
    x = a_batch(W, 1, 37)
    first = W.apply(x).tobytes()
    assert all(W.apply(x).tobytes() == first for _ in range(3))
    assert W.copy().apply(x.copy()).tobytes() == first


@given(tt_matrices())
def test_norm_vdot_and_round_treat_a_matrix_as_a_vector_of_its_entries(W):
    full = dense_matrix(W)
    size = float(np.linalg.norm(magnitude(W).astype(float)))
    coarse = gamma(W.dtype, W, W)
    assert abs(W.norm() - np.linalg.norm(full.ravel().astype(complex))) <= 10 * coarse * size
    assert abs(complex(tt.vdot(W, W)) - np.vdot(full, full)) <= coarse * size**2
    rounded = W.round()
    assert isinstance(rounded, tt.TTMatrix)
    assert rounded.row_modes == W.row_modes
    error = np.linalg.norm((dense_matrix(rounded) - full).astype(complex))
    assert error <= 10 * coarse * size


@given(tt_matrices())
def test_distance_and_allclose_of_equal_matrices_are_at_rounding(W):
    size = float(np.linalg.norm(magnitude(W).astype(float)))
    assert tt.distance(W, W.copy()) <= 10 * gamma(W.dtype, W, W) * size


def test_matrices_keep_the_arithmetic_of_operators():
    W = a_matrix(rows=(2, 3), cols=(2, 3), ranks=(1, 2, 1))
    x = np.random.default_rng(0).standard_normal(6)
    shifted = W - 2.0 * tt.eye((2, 3))
    exact = dense_matrix(W) @ x - 2 * x
    bound = gamma(float, W, shifted) * (magnitude(W) @ np.abs(x) + 2 * np.abs(x))
    assert_within(shifted @ x, exact, bound)


def test_row_and_column_modes_differ_only_in_number_between_cores():
    W = tt.matrix_from_dense(np.arange(24.0).reshape(4, 6), (2, 2), (3, 2))
    assert [core.shape[1:3] for core in W.cores] == [(2, 3), (2, 2)]


@given(tt_matrices(), st.data())
def test_bilinear_form_equals_dense_and_conjugates_the_first(W, data):
    x, y = data.draw(tt_tensors(W.row_modes)), data.draw(tt_tensors(W.col_modes))
    got = tt.bilinear_form(x, W, y)
    exact = np.vdot(dense(x), dense_matrix(W) @ dense(y).ravel())
    assert type(got) is (complex if np.iscomplexobj(exact) else float)
    bound = magnitude(x).ravel() @ magnitude(W) @ magnitude(y).ravel()
    assert_within(got, exact, gamma(np.result_type(x.dtype, W.dtype, y.dtype), x, W, y) * bound)


def test_bilinear_form_beyond_the_range_on_the_way():
    x, W, y = tt.ones((2,) * 900), 0.25 * tt.eye((2,) * 900), tt.ones((2,) * 900)
    assert tt.bilinear_form(x, W, y) == 2.0**898


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (lambda x, W, y: (W, W, y), tt.TTTypeError, "x is a TTMatrix .* expected a TTTensor"),
        (lambda x, W, y: (x, x, y), tt.TTTypeError, "W is a TTTensor .* expected a TTMatrix"),
        (lambda x, W, y: (x, W, x), tt.TTShapeError, "the col_modes of W"),
    ],
)
def test_a_wrong_bilinear_form_says_why(wrong, error, message):
    x, W, y = tt.ones((2, 3)), tt.random_matrix((2, 3), (3, 4), 2, rng=0), tt.ones((3, 4))
    with pytest.raises(error, match=message):
        tt.bilinear_form(*wrong(x, W, y))
