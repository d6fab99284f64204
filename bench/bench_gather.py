"""Entries of a train of order 20 at a batch of multi-indices; rows of a TT-matrix; gradients."""

import numpy as np
import pytest

import ttcore as tt

ORDER = 20
TABLES = {  # row modes, column modes, rank: a vocabulary times the width of an embedding
    "50250x512-r=16": ((25, 30, 67), (8, 8, 8), 16),
    "50000x512-r=16-two-cores": ((200, 250), (16, 32), 16),
    "1000000x256-r=32": ((100, 100, 100), (4, 8, 8), 32),
}
BATCHES = pytest.mark.parametrize("batch", [64, 1024, 8192], ids="B={}".format)


CASES = [
    pytest.mark.parametrize("dtype", ["float64", "float32"]),
    pytest.mark.parametrize("mode", [4, 20], ids="n={}".format),
    pytest.mark.parametrize("rank", [4, 20], ids="r={}".format),
    pytest.mark.parametrize(
        "batch",
        [1_000, 100_000, pytest.param(1_000_000, marks=pytest.mark.full)],
        ids="B={}".format,
    ),
]


def entries(bench):
    """With all cases of trains."""
    for mark in CASES:
        bench = mark(bench)
    return bench


def drawn(batch, rank, mode, dtype):
    """A train, indices, and the multiply-adds of an entry."""
    train = tt.random((mode,) * ORDER, rank, rng=0, dtype=dtype)
    index = np.random.default_rng(batch).integers(mode, size=(batch, ORDER))
    return train, index, sum(r * s for r, s in zip(train.ranks, train.ranks[1:], strict=False))


@entries
def bench_gather(benchmark, batch, rank, mode, dtype):
    train, index, pairs = drawn(batch, rank, mode, dtype)
    traffic = train.nbytes + index.nbytes + batch * np.dtype(dtype).itemsize
    benchmark.extra_info.update(flop=2 * batch * pairs, bytes=traffic)
    train.gather(index)  # compiles outside the clock
    values = benchmark.pedantic(train.gather, (index,), rounds=5, warmup_rounds=1)
    for b in (0, batch // 2, batch - 1):
        row, size = np.ones((1, 1)), np.ones((1, 1))
        for core, i in zip(train.cores, index[b], strict=True):
            row, size = row @ core[:, i, :].astype(float), size @ abs(core[:, i, :].astype(float))
        assert abs(values[b] - row.item()) <= 1000 * np.finfo(dtype).eps * size.item()


@entries
def bench_gather_backward(benchmark, batch, rank, mode, dtype):
    train, index, pairs = drawn(batch, rank, mode, dtype)
    gy = np.random.default_rng(0).standard_normal(batch).astype(dtype)
    benchmark.extra_info.update(flop=6 * batch * pairs, bytes=2 * train.nbytes + index.nbytes)
    args = train.cores, index, gy
    tt.indexing.gather_backward(*args)
    gcores = benchmark.pedantic(tt.indexing.gather_backward, args, rounds=5, warmup_rounds=1)
    # entries are linear in each core: all gradients have the same inner product with their core
    values = train.gather(index).astype(float)
    size = np.linalg.norm(gy) * np.linalg.norm(values)
    for g, core in zip(gcores, train.cores, strict=True):
        found = np.vdot(g.astype(float), core.astype(float))
        assert abs(found - gy @ values) <= 1000 * np.finfo(dtype).eps * size


def looked_up(name, batch):
    """A TT-matrix, rows, and the flops of the last product of their halves."""
    modes, cols, rank = TABLES[name]
    matrix = tt.random_matrix(modes, cols, rank, rng=0, dtype="float32")
    index = np.random.default_rng(batch).integers(matrix.shape[0], size=batch)
    return matrix, index, 2 * batch * matrix.shape[1] * rank


@pytest.mark.parametrize("table", TABLES)
@BATCHES
def bench_gather_rows(benchmark, batch, table):
    matrix, index, flops = looked_up(table, batch)
    benchmark.extra_info.update(flop=flops, bytes=matrix.nbytes + 4 * batch * matrix.shape[1])
    matrix.gather_rows(index)
    found = benchmark(matrix.gather_rows, index)
    for b in (0, batch - 1):
        want = matrix[int(index[b]), :].to_dense().ravel()
        np.testing.assert_allclose(found[b], want, rtol=0, atol=1e-4 * np.abs(want).max())


@pytest.mark.parametrize("table", TABLES)
@BATCHES
def bench_gather_rows_backward(benchmark, batch, table):
    matrix, index, flops = looked_up(table, batch)
    gy = np.random.default_rng(0).standard_normal((batch, matrix.shape[1])).astype("float32")
    benchmark.extra_info.update(flop=3 * flops, bytes=2 * matrix.nbytes + gy.nbytes)
    args = matrix.cores, index, gy
    tt.rows.gather_rows_backward(*args)
    gcores = benchmark(tt.rows.gather_rows_backward, *args)
    found = matrix.gather_rows(index)
    loss, size = np.vdot(gy, found), np.linalg.norm(gy) * np.linalg.norm(found)
    for g, core in zip(gcores, matrix.cores, strict=True):
        assert abs(np.vdot(g, core) - loss) <= 1e-4 * size


@BATCHES
@pytest.mark.parametrize("shape", [(50_000, 512)], ids=str)
def bench_dense_rows(benchmark, batch, shape):
    """The baseline: rows of a dense matrix that is there."""
    matrix = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    index = np.random.default_rng(batch).integers(shape[0], size=batch)
    benchmark.extra_info.update(flop=0, bytes=8 * batch * shape[1])
    found = benchmark(np.take, matrix, index, axis=0)
    assert (found[-1] == matrix[index[-1]]).all()
