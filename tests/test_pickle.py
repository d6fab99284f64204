"""Trains travel and last: pickle, copy, weakref, other processes; nobody's array is written to."""

import copy
import gc
import multiprocessing
import pickle
import weakref

import numpy as np
import pytest
from hypothesis import given

import ttcore as tt
from ttcore.testing import DTYPES, tt_matrices, tt_tensors

COPIERS = {
    "pickle 2": lambda x: pickle.loads(pickle.dumps(x, protocol=2)),
    "pickle 5": lambda x: pickle.loads(pickle.dumps(x, protocol=5)),
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "method": lambda x: x.copy(),
}


def assert_same(x, y):
    assert type(x) is type(y)
    assert x.dtype == y.dtype
    assert x.ranks == y.ranks
    for g, h in zip(x.cores, y.cores, strict=True):
        np.testing.assert_array_equal(g, h)


@pytest.mark.parametrize("copier", COPIERS)
@given(x=tt_tensors())
def test_tensors_come_back_equal(copier, x):
    assert_same(COPIERS[copier](x), x)


@pytest.mark.parametrize("copier", COPIERS)
@given(W=tt_matrices())
def test_matrices_come_back_equal(copier, W):
    assert_same(COPIERS[copier](W), W)


@pytest.mark.parametrize("copier", COPIERS)
def test_a_copy_of_a_rounded_train_has_the_same_norm(copier):
    x = tt.random((4, 5, 6), 3, rng=0).round(eps=0.1)
    assert COPIERS[copier](x).norm() == x.norm()


def test_long_trains_pickle_without_recursion():
    x = tt.random((2,) * 2000, 2, rng=0)
    assert_same(pickle.loads(pickle.dumps(x)), x)


def test_the_pickle_of_a_train_is_little_larger_than_its_cores():
    """Views are stored, not the arrays that they look into."""
    wide = np.ones((1, 10, 1000))
    x = tt.TTTensor([wide[:, :, :1]])
    assert len(pickle.dumps(x)) < 2000


def test_trains_can_be_referred_to_weakly_and_are_freed_without_the_collector():
    gc.disable()
    try:
        for x in (tt.ones((2, 3)), tt.eye((2, 3))):
            reference = weakref.ref(x)
            assert reference() is x
        del x
        assert reference() is None
    finally:
        gc.enable()


def test_trains_cross_to_a_spawned_process_and_back():
    x = tt.random((3, 4, 5), 2, rng=0)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert_same(pool.apply(copy.deepcopy, (x,)), x)
        assert pool.apply(tt.TTTensor.norm, (x,)) == x.norm()


def test_functions_on_trains_pickle_by_name():
    assert pickle.loads(pickle.dumps(tt.vdot)) is tt.vdot
    assert pickle.loads(pickle.dumps(tt.TTMatrix)) is tt.TTMatrix


# Immutability


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_cores_are_read_only_and_the_arrays_given_stay_writable(dtype):
    cores = [np.ones((1, 3, 2), dtype), np.ones((2, 4, 1), dtype)]
    x = tt.TTTensor(cores)
    for core in x.cores:
        assert not core.flags.writeable
        with pytest.raises(ValueError, match="read-only"):
            core[...] = 0
    assert all(core.flags.writeable for core in cores)


def test_cores_are_a_tuple():
    assert isinstance(tt.ones((2, 3)).cores, tuple)
    assert isinstance(tt.eye((2, 3)).cores, tuple)


RESULTS = {
    "add": lambda x: x + x,
    "negate": lambda x: -x,
    "scale by one": lambda x: x * 1.0,
    "multiply": lambda x: x * x,
    "round": lambda x: x.round(eps=0.1),
    "round within rank": lambda x: x.round(max_rank=10),
    "orthogonalize": lambda x: x.orthogonalize(0),
    "real": lambda x: x.real,
    "conj": lambda x: x.conj(),
    "astype": lambda x: x.astype(float),
    "copy": lambda x: x.copy(),
    "sum": lambda x: x.sum(axis=0),
    "round_sum": lambda x: tt.round_sum([(1.0, x)]),
    "norm": lambda x: x.norm(),
    "vdot": lambda x: tt.vdot(x, x),
    "distance": lambda x: tt.distance(x, x),
}


@pytest.mark.parametrize("name", RESULTS)
def test_arrays_given_are_never_written_to_by(name):
    rng = np.random.default_rng(0)
    cores = [rng.standard_normal(s) for s in [(1, 3, 2), (2, 1, 2), (2, 4, 1)]]
    before = [core.tobytes() for core in cores]
    RESULTS[name](tt.TTTensor(cores))
    assert [core.tobytes() for core in cores] == before
    assert all(core.flags.writeable for core in cores)


@pytest.mark.parametrize("name", RESULTS)
@pytest.mark.parametrize("shape", [(5,), (3, 4), (1, 4, 1)], ids=str)
def test_writing_to_the_arrays_given_never_leaves_a_remembered_norm_behind(name, shape):
    """A result may share memory with the arrays given, or not; its norm is that of its cores."""
    rng = np.random.default_rng(0)
    ranks = (1, *(2,) * (len(shape) - 1), 1)
    cores = [
        rng.standard_normal((r, n, s)) for r, n, s in zip(ranks, shape, ranks[1:], strict=False)
    ]
    x = tt.TTTensor(cores)
    result = RESULTS[name](x)
    trains = [x, result] if isinstance(result, tt.TTTensor) else [x]
    for train in trains:
        train.norm()
    for core in cores:
        np.multiply(core, 3.0, out=core)
    for train in trains:
        exact = np.linalg.norm(np.ravel(train.to_dense()))
        assert train.norm() == pytest.approx(exact, rel=1e-13)
        assert tt.TTTensor(train.cores).norm() == pytest.approx(exact, rel=1e-13)


def test_writing_to_the_vector_given_does_not_change_a_product():
    x = np.ones(6)
    W = tt.eye((2, 3))
    y = W @ x
    x[:] = 7
    np.testing.assert_array_equal(y, np.ones(6))
    y[:] = 5  # the result is the caller's own
    np.testing.assert_array_equal(W @ np.ones(6), np.ones(6))


def test_to_dense_returns_an_array_of_the_callers_own():
    for train in (tt.ones((3,)), tt.ones((3, 1)), tt.eye((3,))):
        full = train.to_dense()
        full[...] = 7
        assert (train.to_dense() != 7).all()
        array = np.asarray(train)
        if array.flags.writeable:
            array[...] = 7
        assert (train.to_dense() != 7).all()
