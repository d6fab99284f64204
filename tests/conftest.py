"""Hypothesis profiles, and what may be skipped.

HYPOTHESIS_PROFILE chooses another profile. With TTCORE_NOTHING_MISSING in the environment, as in
`make test-adapters`, a test that `importorskip` skips has failed.
"""

import os

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
