"""TT-matrix times rows: the layers of the bench list, their gradients, and the dense product."""

import numpy as np
import pytest

import ttcore as tt

VGG = (4, 4, 4, 4, 4, 4), (2, 7, 8, 8, 7, 4)  # 25088 -> 4096
EVEN = (4, 8, 8, 4), (4, 8, 8, 4)  # 1024 -> 1024
FINE = (4, 4, 4, 4, 4), (4, 4, 4, 4, 4)
WIDE = (8, 8, 6, 8), (4, 4, 6, 8)  # 768 -> 3072
TALL = (8, 8, 8, 8, 8, 8), (4, 4, 4, 4, 4, 3)  # 3072 -> 262144
ODD = (5, 7, 11, 13), (5, 7, 11, 13)  # 5005 -> 5005


def _case(modes, rank, batch, dtype="float32", *, full=False):
    rows, cols = ("x".join(map(str, part)) for part in modes)
    marks = [pytest.mark.full] if full else []
    name = f"{cols}->{rows}-r={rank}-B={batch}-{dtype}"
    return pytest.param(modes, rank, batch, dtype, id=name, marks=marks)


CASES = [
    *(
        _case(VGG, rank, batch, full=rank != 4 or batch == 1000)
        for rank in (1, 2, 4, 8, 16)
        for batch in (1, 10, 100, 1000)
    ),
    *(_case(EVEN, 8, batch) for batch in (1, 100, 1000)),
    *(_case(FINE, 8, batch, full=True) for batch in (1, 100, 1000)),
    _case(WIDE, 16, 512),
    _case(ODD, 8, 100),
    *(_case(TALL, 10, batch, full=batch > 1) for batch in (1, 100)),
    *(_case(VGG, 4, 100, dtype, full=True) for dtype in ("float64", "complex64", "complex128")),
]
LAYERS = pytest.mark.parametrize(("modes", "rank", "batch", "dtype"), CASES)
DENSE = [
    *(_case(VGG, 4, batch) for batch in (1, 100)),
    *(_case(EVEN, 8, batch) for batch in (1, 100, 1000)),
    _case(WIDE, 16, 512),
    _case(ODD, 8, 100),
]


def layer(modes, rank, dtype):
    return tt.random_matrix(*modes, rank, rng=0, dtype=dtype)


def rows(batch, length, dtype):
    rng = np.random.default_rng(batch)
    x = rng.standard_normal((batch, length))
    if np.dtype(dtype).kind == "c":
        x = x + 1j * rng.standard_normal((batch, length))
    return x.astype(dtype)


def wide(array):
    """In double precision."""
    return array.astype(np.result_type(array.dtype, np.float64))


def check(found, exact, tolerance):
    np.testing.assert_allclose(found, exact, rtol=0, atol=tolerance * np.abs(exact).max())


def tolerance(dtype):
    """Some hundred roundings: what a chain of short products may lose."""
    return 200 * float(np.finfo(dtype).eps)


def sample(batch):
    """The rows whose answers are compared with those in double precision."""
    return np.unique([0, batch // 2, batch - 1])


@LAYERS
def bench_apply(benchmark, modes, rank, batch, dtype):
    matrix = layer(modes, rank, dtype)
    x = rows(batch, matrix.shape[1], dtype)
    plan = matrix.plan(batch=batch)
    benchmark.extra_info.update(flop=plan.flops, bytes=plan.bytes)
    matrix.apply(x)  # plans and compiles outside the clock
    y = benchmark(matrix.apply, x)
    some = sample(batch)
    check(y[some], wide(matrix).apply(wide(x[some])), tolerance(dtype))


@LAYERS
def bench_backward(benchmark, modes, rank, batch, dtype):
    matrix = layer(modes, rank, dtype)
    x, gy = rows(batch, matrix.shape[1], dtype), rows(batch, matrix.shape[0], dtype)
    plan = matrix.plan(batch=batch)
    benchmark.extra_info.update(flop=3 * plan.flops, bytes=3 * plan.bytes)
    tt.linear.matvec_backward(matrix.cores, x, gy)
    gx, gcores = benchmark(tt.linear.matvec_backward, matrix.cores, x, gy)
    some = sample(batch)
    check(gx[some], wide(matrix).H.apply(wide(gy[some]).conj()).conj(), tolerance(dtype))
    # the product is linear in each core: all gradients have the same inner product with their core
    loss = np.vdot(wide(gy), wide(matrix.apply(x)))
    size = np.linalg.norm(wide(gy)) * np.linalg.norm(wide(matrix.apply(x)))
    for g, core in zip(gcores, matrix.cores, strict=True):
        assert abs(np.vdot(wide(g), wide(core)) - loss) <= tolerance(dtype) * size


@pytest.mark.parametrize(("modes", "rank", "batch", "dtype"), DENSE)
def bench_dense(benchmark, modes, rank, batch, dtype):
    """The baseline."""
    matrix = layer(modes, rank, dtype)
    weights = matrix.to_dense()  # (M, N)
    x = rows(batch, matrix.shape[1], dtype)
    traffic = weights.nbytes + x.nbytes + batch * matrix.shape[0] * x.itemsize
    benchmark.extra_info.update(flop=2 * batch * weights.size, bytes=traffic)
    y = benchmark(lambda: x @ weights.T)
    some = sample(batch)
    check(y[some], matrix.apply(x[some]), 10 * tolerance(dtype))
