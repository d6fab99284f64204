"""The VGG layer, forward and backward, beside the dense product."""

import numpy as np
import pytest

import ttcore as tt

BATCHES = pytest.mark.parametrize("batch", [1, 10, 100], ids="B={}".format)


def rows(batch, length):
    return np.random.default_rng(batch).standard_normal((batch, length), dtype=np.float32)


@BATCHES
def bench_apply(benchmark, vgg, batch):
    x = rows(batch, vgg.shape[1])
    plan = vgg.plan(batch=batch)
    benchmark.extra_info.update(flop=plan.flops, bytes=plan.bytes)
    y = benchmark(vgg.apply, x)
    exact = vgg.astype(np.float64).apply(x.astype(np.float64))
    np.testing.assert_allclose(y, exact, atol=1e-5 * np.abs(exact).max())


@BATCHES
def bench_backward(benchmark, vgg, batch):
    x, gy = rows(batch, vgg.shape[1]), rows(batch, vgg.shape[0])
    benchmark.extra_info["flop"] = 3 * vgg.plan(batch=batch).flops
    gx, _ = benchmark(tt.linear.matvec_backward, vgg.cores, x, gy)
    exact = vgg.T.astype(np.float64).apply(gy.astype(np.float64))
    np.testing.assert_allclose(gx, exact, atol=1e-5 * np.abs(exact).max())


@BATCHES
def bench_dense(benchmark, vgg, batch):
    """The baseline: 411 MB of weights."""
    x = rows(batch, vgg.shape[1])
    weights = np.random.default_rng(0).standard_normal(vgg.shape, dtype=np.float32)
    benchmark.extra_info["flop"] = 2 * batch * weights.size
    y = benchmark(lambda: x @ weights.T)
    assert y.shape == (batch, vgg.shape[0])
