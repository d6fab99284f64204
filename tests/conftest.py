"""Hypothesis profiles, which tests run beside the frameworks, and what may be skipped.

HYPOTHESIS_PROFILE chooses another profile. With TTCORE_NOTHING_MISSING in the environment, as in
`make test-adapters`, a test that `importorskip` skips has failed.
"""

import inspect
import os
import re

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("default", deadline=None, max_examples=30)
settings.register_profile("ci", settings.get_profile("default"), derandomize=True)
settings.register_profile(
    "deep", deadline=None, max_examples=10_000, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile(
    os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "default")
)


def pytest_configure(config):
    config.addinivalue_line("markers", "adapters: runs in `make test-adapters` too")


def pytest_collection_modifyitems(items):
    """Mark what needs a framework: it says so in its folder, its parameters or its code."""
    for item in items:
        code = inspect.getsource(item.function) if hasattr(item, "function") else ""
        if "adapters" in item.path.parts or re.search(r"torch|jax", item.name + code):
            item.add_marker("adapters")


@pytest.fixture
def same_bits(monkeypatch):
    """Asserts that a call gives the same arrays by one worker of a kernel and, often, by four."""
    from ttcore.kernels.cpu import pool

    def check(kernel, call):
        monkeypatch.setattr(kernel, "usable_cpus", lambda: 1)
        want = call()
        monkeypatch.setattr(kernel, "usable_cpus", lambda: 4)
        monkeypatch.setattr(pool, "usable_cpus", lambda: 4)
        for _ in range(5):
            for a, b in zip(call(), want, strict=True):
                np.testing.assert_array_equal(a, b)

    return check


if os.environ.get("TTCORE_NOTHING_MISSING"):

    def failed_if_missing(report, excinfo):
        """The report; a skip that `importorskip` made is a failure."""
        if report.skipped and excinfo and excinfo.traceback[-1].name == "importorskip":
            report.outcome, report.longrepr = "failed", f"{excinfo.value} may not be missing here"
        return report

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(item, call):
        return failed_if_missing((yield), call.excinfo)

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(collector):
        report = yield
        return failed_if_missing(report, report.call.excinfo)
