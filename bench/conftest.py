"""What the benchmarks share: the VGG layer, a noisy train, and the machine in the report."""

import os

import numpy as np
import pytest
import threadpoolctl

import ttcore as tt


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
def vgg():
    """The 25088 -> 4096 layer of VGG at rank 4."""
    return tt.random_matrix((4,) * 6, (2, 7, 8, 8, 7, 4), 4, rng=0, dtype=np.float32)


@pytest.fixture(scope="session")
def noisy_train():
    """A function of the noise: an array 4^12 of rank 16, norm 1, and noise of the given norm."""
    rng = np.random.default_rng(0)
    array = tt.random((4,) * 12, 16, rng=rng).to_dense()
    array /= np.linalg.norm(array)
    noise = rng.standard_normal(array.shape)
    noise /= np.linalg.norm(noise)
    return lambda size: array + size * noise
