"""The pair behind every layer: matvec on rows and its gradients."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ttcore as tt
from ttcore.testing import (
    DTYPES,
    assert_within,
    dense_matrix,
    gamma,
    magnitude,
    matvec_gradients,
    tt_matrices,
)

SEEDS = st.integers(0, 2**32 - 1)
SHAPES = {
    "one core": ((5,), (7,), 1),
    "two cores": ((4, 6), (5, 3), 4),
    "modes of 1": ((1, 4, 1), (3, 1, 2), 3),
    "wide": ((2, 2, 2), (5, 5, 4), 4),
    "tall": ((5, 4, 5), (2, 2, 2), 4),
    "overfull": ((2, 2), (2, 2), [9]),
}


def normal(rng, shape, dtype):
    values = rng.standard_normal(shape)
    if np.issubdtype(dtype, np.complexfloating):
        values = values + 1j * rng.standard_normal(shape)
    return values.astype(dtype)


def problem(name, dtype, batch=3, seed=0):
    rows, cols, ranks = SHAPES[name]
    W = tt.random_matrix(rows, cols, ranks, rng=seed, dtype=dtype)
    rng = np.random.default_rng(seed)
    x, gy = (normal(rng, (batch, n), dtype) for n in W.shape[::-1])
    return W.cores, x, gy


def assert_gradients_equal_definition(cores, x, gy, gx, gcores):
    exact_x, exact_cores = matvec_gradients(cores, x, gy)
    sizes = [np.abs(core) for core in cores]
    size_x, size_cores = matvec_gradients(sizes, np.abs(x), np.abs(gy))
    coarse = gamma(x.dtype, cores)
    assert_within(gx, exact_x, coarse * size_x)
    # the gradient of a core also sums over the batch
    coarse += 4 * len(x) * float(np.finfo(x.dtype).eps)
    assert len(gcores) == len(cores)
    for g, exact, size in zip(gcores, exact_cores, size_cores, strict=True):
        assert_within(g, exact, coarse * size)


@given(tt_matrices(), SEEDS, st.sampled_from([0, 1, 2, 37]))
def test_matvec_of_rows_equals_dense(W, seed, batch):
    x = normal(np.random.default_rng(seed), (batch, W.shape[1]), W.dtype)
    y = tt.linear.matvec(W.cores, x)
    assert y.shape == (batch, W.shape[0])
    assert y.dtype == W.dtype
    exact = x @ dense_matrix(W).T
    assert_within(y, exact, gamma(W.dtype, W) * (np.abs(x) @ magnitude(W).T))


@given(tt_matrices(), SEEDS, st.sampled_from([0, 1, 2, 37]))
def test_matvec_backward_equals_the_definition(W, seed, batch):
    rng = np.random.default_rng(seed)
    x, gy = (normal(rng, (batch, n), W.dtype) for n in W.shape[::-1])
    gx, gcores = tt.linear.matvec_backward(W.cores, x, gy)
    assert gx.dtype == W.dtype
    assert [g.shape for g in gcores] == [core.shape for core in W.cores]
    assert all(g.dtype == W.dtype for g in gcores)
    assert_gradients_equal_definition(W.cores, x, gy, gx, gcores)


@pytest.mark.parametrize("batch", [1, 37, 300])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_forward_and_backward_hold_at_the_sizes_of_a_layer(dtype, batch):
    W = tt.random_matrix((4, 8, 4), (8, 4, 4), 8, rng=0, dtype=dtype)
    rng = np.random.default_rng(1)
    x, gy = (normal(rng, (batch, n), dtype) for n in W.shape[::-1])
    exact = x @ dense_matrix(W).T
    assert_within(
        tt.linear.matvec(W.cores, x), exact, gamma(dtype, W) * (np.abs(x) @ magnitude(W).T)
    )
    assert_gradients_equal_definition(W.cores, x, gy, *tt.linear.matvec_backward(W.cores, x, gy))


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("dtype", [np.float64, np.complex128], ids=["real", "complex"])
def test_gradients_equal_central_differences(name, dtype):
    """L = Re sum conj(gy) y has gradient dL/da + i dL/db; y is linear in each single array.

    A central difference of a linear function has no truncation error, only the rounding of
    two values of L divided by 2 h; h is 1.
    """
    cores, x, gy = problem(name, dtype)
    gx, gcores = tt.linear.matvec_backward(cores, x, gy)
    arrays, gradients = [x, *cores], [gx, *gcores]

    def loss(values):
        return float(np.vdot(gy, tt.linear.matvec(tuple(values[1:]), values[0])).real)

    rng = np.random.default_rng(5)
    for which, gradient in enumerate(gradients):
        for _ in range(3):
            index = tuple(rng.integers(0, n) for n in gradient.shape)
            for direction in (1,) if dtype is np.float64 else (1, 1j):
                ends, sizes = [], []
                for sign in (1, -1):
                    moved = [a.copy() for a in arrays]
                    moved[which][index] += sign * direction
                    ends.append(loss(moved))
                    size = magnitude(moved[1:]) @ np.abs(moved[0]).T
                    sizes.append(float((size * np.abs(gy).T).sum()))
                difference = (ends[0] - ends[1]) / 2
                expected = (gradient[index] * np.conj(direction)).real
                bound = (gamma(dtype, cores) + 4e-16 * gy.size) * sum(sizes)
                assert abs(difference - expected) <= bound


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gradients_equal_those_of_torch_through_the_portable_forward(name, dtype):
    torch = pytest.importorskip("torch", reason="compares with torch's autodiff")
    cores, x, gy = problem(name, dtype)
    leaves = [torch.tensor(np.array(a), requires_grad=True) for a in (x, *cores)]
    y = tt.linear.matvec(tuple(leaves[1:]), leaves[0])
    assert isinstance(y, torch.Tensor)
    y.backward(torch.tensor(gy))
    gx, *gcores = [leaf.grad.numpy() for leaf in leaves]
    assert_gradients_equal_definition(cores, x, gy, gx, gcores)
    ours_x, ours = tt.linear.matvec_backward(cores, x, gy)
    assert_gradients_equal_definition(cores, x, gy, ours_x, ours)


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("dtype", [np.float32, np.complex64], ids=["float32", "complex64"])
def test_gradients_equal_those_of_jax_through_the_portable_forward(name, dtype):
    """JAX propagates cotangents without conjugating, so conjugates go in and come out."""
    jax = pytest.importorskip("jax", reason="compares with JAX's autodiff")
    cores, x, gy = problem(name, dtype)
    y, pull = jax.vjp(
        lambda x, *cores: tt.linear.matvec(cores, x), *(jax.numpy.asarray(a) for a in (x, *cores))
    )
    assert isinstance(y, jax.Array)
    gx, *gcores = (np.conj(np.asarray(g)) for g in pull(jax.numpy.asarray(gy.conj())))
    assert_gradients_equal_definition(cores, x, gy, gx, gcores)


def test_matvec_works_under_jit_of_jax():
    jax = pytest.importorskip("jax", reason="compiles the portable forward with JAX")
    cores, x, _ = problem("two cores", np.float32)
    cores = tuple(jax.numpy.asarray(core) for core in cores)
    y = jax.jit(tt.linear.matvec)(cores, x)
    exact = x @ dense_matrix([np.asarray(core) for core in cores]).T
    bound = gamma(np.float32, cores) * (np.abs(x) @ magnitude([np.asarray(g) for g in cores]).T)
    assert_within(y, exact, bound)


@pytest.mark.parametrize("batch", [1, 37, 300])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_forward_and_backward_twice_give_identical_bits(dtype, batch):
    W = tt.random_matrix((4, 8, 4), (8, 4, 4), 8, rng=0, dtype=dtype)
    rng = np.random.default_rng(1)
    x, gy = (normal(rng, (batch, n), dtype) for n in W.shape[::-1])

    def run():
        gx, gcores = tt.linear.matvec_backward(W.cores, x, gy)
        return [a.tobytes() for a in (tt.linear.matvec(W.cores, x), gx, *gcores)]

    assert run() == run()


def test_matvec_is_safe_under_concurrent_callers():
    from concurrent.futures import ThreadPoolExecutor

    W = tt.random_matrix((4, 8, 4), (8, 4, 4), 8, rng=0)
    batches = [np.random.default_rng(k).standard_normal((50, 128)) for k in range(8)]
    alone = [tt.linear.matvec(W.cores, x).tobytes() for x in batches]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda x: tt.linear.matvec(W.cores, x).tobytes(), batches))
    assert together == alone


def test_the_arguments_are_not_written_to():
    cores, x, gy = problem("two cores", np.float64)
    before = [a.tobytes() for a in (x, gy, *cores)]
    tt.linear.matvec(cores, x)
    tt.linear.matvec_backward(cores, x, gy)
    assert [a.tobytes() for a in (x, gy, *cores)] == before


def test_empty_batches_have_zero_gradients():
    W = tt.random_matrix((2, 3), (3, 2), 2, rng=0)
    gx, gcores = tt.linear.matvec_backward(W.cores, np.zeros((0, 6)), np.zeros((0, 6)))
    assert gx.shape == (0, 6)
    assert all(g.shape == core.shape for g, core in zip(gcores, W.cores, strict=True))
    assert not any(g.any() for g in gcores)


@pytest.mark.parametrize("layout", ["F", "strided", "reversed", "readonly"])
def test_rows_in_any_layout_give_the_same_gradients(layout):
    from ttcore.testing import relayout

    cores, x, gy = problem("wide", np.float64)
    gx, gcores = tt.linear.matvec_backward(cores, relayout(x, layout), relayout(gy, layout))
    assert_gradients_equal_definition(cores, x, gy, gx, gcores)


@pytest.mark.parametrize("d", [10, 25])
def test_products_of_many_small_cores_equal_those_of_the_dense_matrix_of_two(d):
    """kron of 2 x 1 cores: 2**d rows, one column, so the dense answer is at hand for d = 10."""
    rng = np.random.default_rng(0)
    cores = tuple(rng.standard_normal((1, 2 if k < 10 else 1, 1, 1)) for k in range(d))
    y = tt.linear.matvec(cores, np.ones((1, 1)))
    exact = dense_matrix(cores)[:, 0][None]
    assert_within(y, exact, gamma(float, cores) * np.abs(exact))
    assert math.prod(y.shape) == 2**10
