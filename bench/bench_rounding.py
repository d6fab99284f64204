"""Rounding trains of order 20, modes 20, from rank 200 to 20.

A: ten scaled copies of one train of rank 20. B: rank 20, and a tail of rank 180 and norm 1e-10.
"""

import pytest

import ttcore as tt

ORDER, MODE, RANK, EPS = 20, 20, 20, 1e-8
WEIGHTS = [1.0 + 0.1 * k for k in range(10)]


@pytest.fixture(scope="module")
def base():
    x = tt.random((MODE,) * ORDER, RANK, rng=0)
    return x * (1 / x.norm())


@pytest.fixture(scope="module")
def copies(base):
    terms = [weight * base for weight in WEIGHTS]
    total = sum(terms[1:], start=terms[0])
    return total, sum(WEIGHTS) * base


@pytest.fixture(scope="module")
def tailed(base):
    tail = tt.random((MODE,) * ORDER, 180, rng=1)
    return base + tail * (1e-10 / tail.norm()), base


def sweep_flops(rank, kept):
    """Of QR without Q from one end, and of the SVDs and projections from the other."""
    return ORDER * (2 * MODE * rank**3 + 4 * MODE * kept * rank**2)


def check(rounded, exact):
    assert max(rounded.ranks) == RANK
    assert tt.distance(rounded, exact) <= 2 * EPS * exact.norm()


@pytest.mark.parametrize("case", ["A", "B"], ids="case={}".format)
@pytest.mark.parametrize("method", ["svd", "gram", "randomized"])
def bench_round(benchmark, request, case, method):
    train, exact = request.getfixturevalue("copies" if case == "A" else "tailed")
    assert max(train.ranks) == 200
    benchmark.extra_info.update(flop=sweep_flops(200, RANK), bytes=2 * train.nbytes)
    options = {"eps": EPS, "method": method}
    if method == "randomized":
        options["rng"] = 0
    rounded = benchmark.pedantic(train.round, (), options, rounds=5, warmup_rounds=1)
    check(rounded, exact)


def bench_round_sum(benchmark, base, copies):
    terms = [(weight, base) for weight in WEIGHTS]
    benchmark.extra_info.update(flop=sweep_flops(200, RANK), bytes=10 * base.nbytes)
    rounded = benchmark.pedantic(tt.round_sum, (terms,), {"eps": EPS}, rounds=5, warmup_rounds=1)
    check(rounded, copies[1])
