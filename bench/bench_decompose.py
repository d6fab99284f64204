"""TT-SVD of 4^12 numbers of rank 16, in copies of the array."""

import time

import numpy as np
import pytest

import ttcore as tt


@pytest.mark.parametrize(
    ("noise", "eps"),
    [(1e-10, 1e-3), (1e-10, 1e-6), (1e-10, 1e-8), (1e-12, 1e-10), (0.0, None)],
    ids=lambda value: f"{value}",
)
def bench_from_dense(benchmark, noisy_train, noise, eps):
    a = noisy_train(noise)
    target = np.empty_like(a)
    copies = []
    for _ in range(5):
        start = time.perf_counter()
        np.copyto(target, a)
        copies.append(time.perf_counter() - start)
    train = benchmark.pedantic(tt.from_dense, (a,), {"eps": eps}, rounds=5, warmup_rounds=1)
    benchmark.extra_info["copies"] = round(benchmark.stats.stats.min / min(copies), 1)
    assert train.ranks[1:-1] == (4, *[16] * 9, 4)
    assert np.linalg.norm(train.to_dense() - a) <= (eps or 1e-13)
