"""Inner products, norms, sums and products of trains of order 20, modes 20."""

import numpy as np
import pytest

import ttcore as tt

ORDER, MODE = 20, 20
SMALL = 3, 4, 5, 6, 3  # where the dense answer is at hand

RANKS = pytest.mark.parametrize("rank", [10, 100], ids="r={}".format)
DTYPES = pytest.mark.parametrize(
    "dtype",
    ["float64", pytest.param("float32", marks=pytest.mark.full), "complex128"],
)


def pair(shape, rank, dtype):
    trains = [tt.random(shape, rank, rng=seed, dtype=dtype) for seed in (0, 1)]
    return [train * (1 / train.norm()) for train in trains]


def per(dtype):
    return 8 if np.dtype(dtype).kind == "c" else 2


def tolerance(dtype):
    return 1000 * float(np.finfo(dtype).eps)


@RANKS
@DTYPES
def bench_vdot(benchmark, rank, dtype):
    x, y = pair((MODE,) * ORDER, rank, dtype)
    flop = 2 * per(dtype) * ORDER * MODE * rank**3
    benchmark.extra_info.update(flop=flop, bytes=x.nbytes + y.nbytes)
    tt.vdot(x, y)
    value = benchmark(tt.vdot, x, y)
    interface = np.ones((1, 1))
    for g, h in zip(x.cores, y.cores, strict=True):  # two products a core, by NumPy
        half = np.tensordot(interface, h, axes=(1, 0))
        interface = np.tensordot(g.conj(), half, axes=((0, 1), (0, 1)))
    assert abs(value - interface.item()) <= tolerance(dtype)  # of trains of norm 1


@RANKS
@DTYPES
def bench_norm(benchmark, rank, dtype):
    x, _ = pair((MODE,) * ORDER, rank, dtype)
    x = tt.TTTensor(x.cores)  # forgets where its orthogonality centre is, if it knew
    flop = 2 * per(dtype) * ORDER * MODE * rank**3
    benchmark.extra_info.update(flop=flop, bytes=x.nbytes)
    x.norm()
    assert abs(benchmark(x.norm) - 1) <= tolerance(dtype)


@RANKS
def bench_add(benchmark, rank):
    x, y = pair((MODE,) * ORDER, rank, "float64")
    total = x + y
    benchmark.extra_info.update(flop=0, bytes=x.nbytes + y.nbytes + total.nbytes)
    total = benchmark(lambda: x + y)
    assert max(total.ranks) == 2 * rank
    expected = x.norm() ** 2 + y.norm() ** 2 + 2 * tt.vdot(x, y)
    assert abs(total.norm() ** 2 - expected) <= 1e-12
    x, y = pair(SMALL, 3, "float64")
    np.testing.assert_allclose((x + y).to_dense(), x.to_dense() + y.to_dense(), atol=1e-14)


@pytest.mark.parametrize("rank", [5, 10], ids="r={}".format)
def bench_multiply(benchmark, rank):
    x, y = pair((MODE,) * ORDER, rank, "float64")
    product = x * y
    entries = sum(core.size for core in product.cores)
    benchmark.extra_info.update(flop=entries, bytes=x.nbytes + y.nbytes + product.nbytes)
    product = benchmark(lambda: x * y)
    assert max(product.ranks) == rank**2
    ones = tt.ones(x.shape)
    assert abs(tt.vdot(product, ones) / tt.vdot(x, y) - 1) <= 1e-9
    x, y = pair(SMALL, 3, "float64")
    np.testing.assert_allclose((x * y).to_dense(), x.to_dense() * y.to_dense(), atol=1e-14)
