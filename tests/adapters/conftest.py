"""What torch has compiled in one test is forgotten before the next."""

import sys

import pytest


@pytest.fixture(autouse=True)
def fresh_compiler():
    yield
    if "torch._dynamo" in sys.modules:
        sys.modules["torch._dynamo"].reset()
