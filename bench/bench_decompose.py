"""TT-SVD of dense arrays, in copies of the array."""

import time

import numpy as np
import pytest

import ttcore as tt

FOURS, LONGER, TWOS = (4,) * 12, (4,) * 13, (2,) * 24


def _case(shape, rank, noise, eps, dtype="float64", *, full=False):
    name = f"{shape[0]}^{len(shape)}-r={rank}-noise={noise:g}-eps={eps}-{dtype}"
    marks = [pytest.mark.full] if full else []
    return pytest.param(shape, rank, noise, eps, dtype, id=name, marks=marks)


@pytest.mark.parametrize(
    ("shape", "rank", "noise", "eps", "dtype"),
    [
        _case(FOURS, 16, 1e-10, 1e-3),
        _case(FOURS, 16, 1e-10, 1e-6),
        _case(FOURS, 16, 1e-10, 1e-8),
        _case(FOURS, 16, 1e-12, 1e-10),
        _case(FOURS, 16, 0.0, None),
        _case(TWOS, 10, 1e-10, 1e-8),
        _case(FOURS, 16, 1e-5, 1e-3, "float32"),
        _case(TWOS, 10, 1e-5, 1e-3, "float32"),
        _case(LONGER, 16, 1e-10, 1e-6, full=True),
        _case(LONGER, 16, 1e-10, 1e-8, full=True),
    ],
)
def bench_from_dense(benchmark, noisy, shape, rank, noise, eps, dtype):
    a = noisy(shape, rank, noise).astype(dtype)
    target = np.empty_like(a)
    copies = []
    for _ in range(5):
        start = time.perf_counter()
        np.copyto(target, a)
        copies.append(time.perf_counter() - start)
    del target
    # one pass that forms the Gram matrix of the unfolding with the trailing modes merged
    width = shape[0] ** (3 if shape[0] == 4 else 5)
    benchmark.extra_info.update(flop=a.size * width, bytes=a.nbytes)
    train = benchmark.pedantic(tt.from_dense, (a,), {"eps": eps}, rounds=5, warmup_rounds=1)
    benchmark.extra_info["copies"] = round(benchmark.stats.stats.min / min(copies), 1)
    expected = [min(rank, shape[0] ** k, shape[0] ** (len(shape) - k)) for k in range(len(shape))]
    assert train.ranks[:-1] == tuple(expected)
    error = np.linalg.norm((train.to_dense() - a).ravel())
    assert error <= (eps or 1e-13)
