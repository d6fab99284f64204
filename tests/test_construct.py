"""Trains that are made rather than computed: zeros, ones, eye, random, rank_one."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ttcore as tt
from ttcore.testing import DTYPES, assert_within, dense_arrays, dtypes, shapes


@given(shapes())
def test_zeros_is_zero_of_ranks_one(shape):
    x = tt.zeros(shape)
    assert x.ranks == (1,) * (len(shape) + 1)
    np.testing.assert_array_equal(x.to_dense(), np.zeros(shape))


@given(shapes())
def test_ones_is_one_everywhere_of_ranks_one(shape):
    x = tt.ones(shape)
    assert x.ranks == (1,) * (len(shape) + 1)
    np.testing.assert_array_equal(x.to_dense(), np.ones(shape))


@given(shapes(max_size=40))
def test_eye_is_the_identity_of_ranks_one(modes):
    W = tt.eye(modes)
    assert W.row_modes == W.col_modes == modes
    assert W.ranks == (1,) * (len(modes) + 1)
    np.testing.assert_array_equal(W.to_dense(), np.eye(math.prod(modes)))


def test_zeros_ones_and_eye_are_float64():
    for train in (tt.zeros((2, 3)), tt.ones((2, 3)), tt.eye((2, 3))):
        assert train.dtype == np.float64


@given(shapes(), st.integers(1, 9))
def test_random_with_one_rank_clips_it_to_what_the_modes_can_use(shape, rank):
    x = tt.random(shape, rank, rng=0)
    cuts = range(1, len(shape))
    usable = [min(rank, math.prod(shape[:k]), math.prod(shape[k:])) for k in cuts]
    assert x.shape == shape
    assert x.ranks == (1, *usable, 1)


def test_random_takes_a_list_of_ranks_as_it_is():
    assert tt.random((2, 2, 2), [5, 7], rng=0).ranks == (1, 5, 7, 1)
    assert tt.random((2, 2, 2), (1, 5, 7, 1), rng=0).ranks == (1, 5, 7, 1)
    assert tt.random_matrix((2, 2), (3, 1), [9], rng=0).ranks == (1, 9, 1)


def test_random_matrix_clips_one_rank_to_what_the_modes_can_use():
    W = tt.random_matrix((2, 2, 2), (1, 3, 1), 50, rng=0)
    assert W.row_modes == (2, 2, 2)
    assert W.col_modes == (1, 3, 1)
    assert W.ranks == (1, 2, 2, 1)


@given(dtypes())
def test_random_has_the_dtype_asked_for(dtype):
    assert tt.random((2, 3), 2, rng=0, dtype=dtype).dtype == dtype
    assert tt.random_matrix((2, 3), (3, 2), 2, rng=0, dtype=dtype).dtype == dtype


def test_random_is_float64_by_default():
    assert tt.random((2, 3), 2).dtype == np.float64
    assert tt.random((2, 3), 2, dtype=float).dtype == np.float64
    assert tt.random((2, 3), 2, dtype=complex).dtype == np.complex128


def test_random_follows_its_seed():
    x, y, z = (tt.random((3, 4, 5), 3, rng=seed) for seed in (7, 7, 8))
    np.testing.assert_array_equal(x.to_dense(), y.to_dense())
    assert not np.array_equal(x.to_dense(), z.to_dense())


def test_random_with_an_int_equals_random_with_its_generator():
    x = tt.random((3, 4), 2, rng=5)
    y = tt.random((3, 4), 2, rng=np.random.default_rng(5))
    np.testing.assert_array_equal(x.to_dense(), y.to_dense())


def test_random_with_a_generator_advances_it():
    rng = np.random.default_rng(5)
    x, y = tt.random((3, 4), 2, rng=rng), tt.random((3, 4), 2, rng=rng)
    assert not np.array_equal(x.to_dense(), y.to_dense())


def test_random_leaves_the_global_state_of_numpy_alone():
    before = np.random.get_state()[1].tobytes()  # noqa: NPY002
    tt.random((3, 4), 2)
    assert np.random.get_state()[1].tobytes() == before  # noqa: NPY002


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("ranks", [(1, 1), (3, 2), (8, 5)], ids=str)
def test_entries_of_a_random_tensor_have_variance_one(ranks, dtype):
    """The variance of an entry is the product of the cores' variances and the inner ranks.

    The variance of a core of K normal entries is seen to within 6 sqrt(2 / K), six sigma.
    """
    x = tt.random((2000, 1000, 2000), list(ranks), rng=3, dtype=dtype)
    variances = [float(np.mean(np.abs(core) ** 2, dtype=float)) for core in x.cores]
    spread = sum(6 * math.sqrt(2 / core.size) for core in x.cores)
    assert abs(math.log(math.prod(variances) * math.prod(ranks))) <= spread


def test_entries_of_a_random_matrix_have_variance_one():
    W = tt.random_matrix((50, 40), (60, 50), [4], rng=3)
    variances = [float(np.mean(core**2)) for core in W.cores]
    spread = sum(6 * math.sqrt(2 / core.size) for core in W.cores)
    assert abs(math.log(math.prod(variances) * 4)) <= spread


def test_a_long_random_train_has_ordinary_cores():
    x = tt.random((4,) * 1000, 8, rng=0)
    sizes = [float(np.abs(core).max()) for core in x.cores]
    assert min(sizes) > 1e-3
    assert max(sizes) < 1e3


@given(st.lists(dense_arrays((3,)), min_size=1, max_size=4))
def test_rank_one_is_the_outer_product(vectors):
    x = tt.rank_one(vectors)
    exact = np.ones(())
    for vector in vectors:
        exact = np.multiply.outer(exact, vector.astype(np.clongdouble))
    dtype = np.result_type(*(vector.dtype.newbyteorder("=") for vector in vectors))
    assert x.dtype == dtype
    assert x.ranks == (1,) * (len(vectors) + 1)
    eps = np.finfo(dtype).eps
    assert_within(x.to_dense(), exact, 4 * len(vectors) * eps * np.abs(exact))


def test_rank_one_takes_vectors_of_different_lengths():
    x = tt.rank_one([np.array([1.0, 2]), np.array([3.0]), np.array([1.0, 0, -1])])
    np.testing.assert_array_equal(x.to_dense(), [[[3, 0, -3]], [[6, 0, -6]]])
