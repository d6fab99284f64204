"""What the benchmarks share: layers, a noisy array, and the machine in the report."""

import os
from functools import cache

import numpy as np
import pytest
import threadpoolctl

import ttcore as tt


def pytest_configure(config):
    config.addinivalue_line("markers", "full: left out by `make bench`; ARGS=\"-m ''\" runs all")


def pytest_benchmark_update_machine_info(config, machine_info):
    """Record what runs the products."""
    machine_info["blas"] = [
        {
            key: pool[key]
            for key in ("internal_api", "version", "num_threads", "architecture")
            if key in pool
        }
        for pool in threadpoolctl.threadpool_info()
    ]
    machine_info["cpus"] = os.cpu_count()


@pytest.fixture(scope="session")
def noisy():
    """A function of (shape, rank, size): an array of norm 1 and that rank, and noise."""

    @cache
    def parts(shape, rank):
        rng = np.random.default_rng(0)
        array = tt.random(shape, rank, rng=rng).to_dense()
        array /= np.linalg.norm(array)
        noise = rng.standard_normal(array.shape)
        noise /= np.linalg.norm(noise)
        return array, noise

    def made(shape, rank, size):
        array, noise = parts(shape, rank)
        return array + size * noise

    yield made
    parts.cache_clear()
