"""Entries of a train of order 20 at a batch of multi-indices."""

import numpy as np
import pytest

import ttcore as tt

ORDER = 20


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("mode", [4, 20], ids="n={}".format)
@pytest.mark.parametrize("rank", [4, 20], ids="r={}".format)
@pytest.mark.parametrize(
    "batch", [1_000, 100_000, pytest.param(1_000_000, marks=pytest.mark.full)], ids="B={}".format
)
def bench_gather(benchmark, batch, rank, mode, dtype):
    train = tt.random((mode,) * ORDER, rank, rng=0, dtype=dtype)
    index = np.random.default_rng(batch).integers(mode, size=(batch, ORDER))
    pairs = sum(r * s for r, s in zip(train.ranks, train.ranks[1:], strict=False))
    traffic = train.nbytes + index.nbytes + batch * np.dtype(dtype).itemsize
    benchmark.extra_info.update(flop=2 * batch * pairs, bytes=traffic)
    train.gather(index[:10])
    values = benchmark.pedantic(train.gather, (index,), rounds=5, warmup_rounds=1)
    for b in (0, batch // 2, batch - 1):
        row, size = np.ones((1, 1)), np.ones((1, 1))
        for core, i in zip(train.cores, index[b], strict=True):
            row, size = row @ core[:, i, :].astype(float), size @ abs(core[:, i, :].astype(float))
        assert abs(values[b] - row.item()) <= 1000 * np.finfo(dtype).eps * size.item()
