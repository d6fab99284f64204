"""Hypothesis profiles; the environment variable HYPOTHESIS_PROFILE chooses another one."""

import os

from hypothesis import HealthCheck, settings

settings.register_profile("default", deadline=None, max_examples=30)
settings.register_profile("ci", settings.get_profile("default"), derandomize=True)
settings.register_profile(
    "deep", deadline=None, max_examples=10_000, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile(
    os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "default")
)
