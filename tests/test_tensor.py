"""TTTensor: what it is made of, what it says about itself, how scalars combine with it."""

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
    gamma,
    magnitude,
    relayout,
    tt_tensors,
)

SCALARS = [2, -0.5, True, 1.5j, np.float32(2), np.float64(-3), np.complex64(1j), np.complex128(2)]


def a_tensor(dtype=np.float64, shape=(3, 1, 4), ranks=(1, 2, 3, 1), seed=0):
    rng = np.random.default_rng(seed)
    cores = [
        rng.standard_normal((r, n, s)) for r, n, s in zip(ranks, shape, ranks[1:], strict=False)
    ]
    return tt.TTTensor([core.astype(dtype) for core in cores])


@given(tt_tensors())
def test_to_dense_equals_the_product_of_the_cores(x):
    full = x.to_dense()
    assert full.dtype == x.dtype
    assert_within(full, dense(x), gamma(x.dtype, x) * magnitude(x))


@given(tt_tensors())
def test_asarray_is_to_dense(x):
    np.testing.assert_array_equal(np.asarray(x), x.to_dense())


def test_asarray_converts_to_the_dtype_asked_for():
    x = a_tensor(np.float32)
    assert np.asarray(x, dtype=np.complex128).dtype == np.complex128
    np.testing.assert_array_equal(np.asarray(x, dtype=np.float64), x.to_dense().astype(float))


@given(tt_tensors())
def test_attributes_describe_the_cores(x):
    assert x.shape == tuple(core.shape[1] for core in x.cores)
    assert x.ranks == (1, *(core.shape[2] for core in x.cores))
    assert x.ndim == len(x.cores) == len(x.shape)
    assert x.size == math.prod(x.shape)
    assert x.num_params == sum(core.size for core in x.cores)
    assert x.nbytes == sum(core.nbytes for core in x.cores)
    assert x.compression == x.size / x.num_params
    assert x.dtype in DTYPES
    assert all(core.dtype == x.dtype for core in x.cores)


def test_shapes_ranks_and_sizes_are_tuples_of_python_ints():
    x = a_tensor()
    assert isinstance(x.shape, tuple)
    assert isinstance(x.ranks, tuple)
    numbers = (*x.shape, *x.ranks, x.size, x.ndim, x.num_params, x.nbytes)
    assert {type(number) for number in numbers} == {int}


def test_size_is_exact_and_compression_inf_for_a_train_of_2000_cores():
    x = tt.ones((10,) * 2000)
    assert x.size == 10**2000
    assert x.compression == math.inf


def test_compression_of_a_long_train_within_range_is_finite():
    x = tt.ones((10,) * 300)
    assert x.compression == pytest.approx(1e300 / 3000, rel=1e-15)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_cores_in_any_layout_give_the_same_tensor(layout, dtype):
    x = a_tensor(dtype)
    again = tt.TTTensor([relayout(core, layout) for core in x.cores])
    assert again.dtype == dtype
    np.testing.assert_array_equal(again.to_dense(), x.to_dense())


def test_cores_of_mixed_dtypes_promote():
    g, h = np.ones((1, 2, 2), np.float32), np.ones((2, 3, 1), np.complex64)
    assert tt.TTTensor([g, h]).dtype == np.complex64
    assert tt.TTTensor([g, h.real.astype(np.float64)]).dtype == np.float64


@pytest.mark.parametrize("integer", [np.int64, np.int8, np.uint16, np.bool_])
def test_integer_and_bool_cores_become_float64(integer):
    x = tt.TTTensor([np.ones((1, 2, 1), integer), np.ones((1, 3, 1), integer)])
    assert x.dtype == np.float64
    np.testing.assert_array_equal(x.to_dense(), np.ones((2, 3)))


def test_float16_cores_become_float32():
    x = tt.TTTensor([np.full((1, 2, 1), 0.5, np.float16)])
    assert x.dtype == np.float32
    np.testing.assert_array_equal(x.to_dense(), [0.5, 0.5])


def test_cores_may_come_from_a_generator_or_a_list():
    cores = a_tensor().cores
    for given_cores in (list(cores), tuple(cores)):
        assert tt.TTTensor(given_cores).ranks == (1, 2, 3, 1)


@pytest.mark.parametrize("d", [1, 2, 5, 100, 2000])
def test_repr_has_at_most_three_lines_with_modes_and_ranks(d):
    text = repr(tt.random((7,) * d, 3, rng=0))
    assert len(text.splitlines()) <= 3
    assert max(map(len, text.splitlines())) <= 200
    assert "7" in text
    assert "float64" in text
    assert d == 1 or "3" in text


def test_repr_shows_no_entries():
    assert "0.123" not in repr(tt.TTTensor([np.full((1, 3, 1), 0.123456)]))


def test_truth_value_is_refused():
    with pytest.raises(tt.TTValueError):
        bool(a_tensor())


def test_equality_is_identity_and_trains_are_hashable():
    x, y = a_tensor(), a_tensor()
    assert x == x
    assert x != y
    assert len({x, y}) == 2


@given(tt_tensors(), st.sampled_from(SCALARS))
def test_scalar_times_tensor_scales_every_entry(x, scalar):
    bound = (gamma(x.dtype, x) + gamma(x.dtype, x)) * abs(scalar) * magnitude(x)
    assert_within(dense(x * scalar), dense(x) * scalar, bound)
    assert_within(dense(scalar * x), dense(x) * scalar, bound)


@given(tt_tensors())
def test_division_and_negation_scale_every_entry(x):
    bound = gamma(x.dtype, x) * magnitude(x)
    assert_within(dense(x / 4.0), dense(x) / 4, bound)
    assert_within(dense(x / 3), dense(x) / 3, bound)
    np.testing.assert_array_equal(dense(-x), -dense(x))


@pytest.mark.parametrize("scalar", SCALARS, ids=repr)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_python_scalars_are_weak_and_numpy_scalars_strong(dtype, scalar):
    x = a_tensor(dtype)
    expected = (np.ones(1, dtype) * scalar).dtype  # NEP 50
    assert (x * scalar).dtype == expected
    assert (scalar * x).dtype == expected
    assert (x / scalar).dtype == expected
    assert (x + scalar).dtype == expected
    assert (scalar + x).dtype == expected
    assert (scalar - x).dtype == expected


def test_numpy_scalar_on_the_left_gives_a_train_not_an_array_of_objects():
    x = a_tensor()
    for result in (np.float64(2) * x, np.float64(2) + x, np.float64(2) - x):
        assert isinstance(result, tt.TTTensor)


@pytest.mark.parametrize("divisor", [1e-310, 5e-324, 1e308, -1e308j])
def test_dividing_by_a_number_whose_inverse_is_out_of_range_is_exact(divisor):
    """As in NumPy, where entry / divisor is in range and 1 / divisor is not."""
    x = tt.TTTensor([np.full((1, 2, 1), 1e-320 if abs(divisor) < 1 else 1e300, type(divisor))])
    np.testing.assert_allclose((x / divisor).to_dense(), x.to_dense() / divisor, rtol=1e-15)


def test_multiplying_by_zero_gives_zero():
    x = a_tensor() * 0.0
    assert x.norm() == 0
    assert not x.to_dense().any()


@given(tt_tensors())
def test_real_imag_and_conj_are_those_of_the_dense_tensor(x):
    bound = gamma(x.dtype, x) * magnitude(x)
    full = dense(x)
    assert_within(dense(x.real), full.real, bound)
    assert_within(dense(x.imag), full.imag, bound)
    np.testing.assert_array_equal(dense(x.conj()), full.conj())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_real_and_imag_are_of_the_real_dtype(dtype):
    x = a_tensor(dtype)
    real = np.zeros(1, dtype).real.dtype
    assert x.real.dtype == x.imag.dtype == real
    assert x.conj().dtype == dtype


@given(tt_tensors(), st.sampled_from(DTYPES))
def test_astype_rounds_the_cores(x, dtype):
    if np.issubdtype(x.dtype, np.complexfloating) and not np.issubdtype(dtype, np.complexfloating):
        return
    y = x.astype(dtype)
    assert y.dtype == dtype
    bound = (gamma(dtype, x) + gamma(x.dtype, x)) * magnitude(x)
    assert_within(dense(y), dense(x), bound)


def test_copy_is_another_train_with_equal_cores():
    x = a_tensor()
    y = x.copy()
    assert y is not x
    np.testing.assert_array_equal(y.to_dense(), x.to_dense())
    assert not any(np.shares_memory(g, h) for g, h in zip(x.cores, y.cores, strict=False))


def test_sums_of_python_numbers_with_a_train_start_from_zero():
    x = a_tensor()
    total = sum([x, x])  # 0 + x + x
    assert_within(total.to_dense(), 2 * dense(x), 4 * gamma(x.dtype, x) * (1 + magnitude(x)))


def test_trains_have_no_attributes_of_their_own_choosing():
    x = a_tensor()
    with pytest.raises(AttributeError):
        x.colour = "red"
    for name in ("cores", "shape", "ranks", "dtype"):
        with pytest.raises(AttributeError):
            setattr(x, name, None)
