"""The contraction plan: what it says, and that it is worth its name."""

import re
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ttcore as tt
from ttcore.testing import DTYPES, assert_within, dense_matrix, gamma, magnitude, tt_matrices


@given(tt_matrices(), st.sampled_from([1, 2, 37, 1000]), st.sampled_from([None, *DTYPES]))
def test_a_plan_counts_flops_bytes_and_stages(W, batch, dtype):
    plan = W.plan(batch=batch, dtype=dtype)
    assert plan.flops > 0
    assert plan.bytes > 0
    kind = W.dtype if dtype is None else dtype
    of_one = 8 if np.issubdtype(kind, np.complexfloating) else 2  # a multiply-add
    assert plan.dense_flops == of_one * batch * W.shape[0] * W.shape[1]
    assert len(plan.stages) >= 1


def test_numbers_of_a_plan_are_python_ints():
    plan = tt.random_matrix((4, 4), (4, 4), 3, rng=0).plan(batch=8)
    assert {type(n) for n in (plan.flops, plan.bytes, plan.dense_flops)} == {int}


@pytest.mark.parametrize("batch", [1, 64, 1024])
def test_a_plan_prints_as_a_table_with_its_totals(batch):
    W = tt.random_matrix((4,) * 6, (4,) * 6, 8, rng=0)
    text = str(W.plan(batch=batch))
    lines = text.splitlines()
    assert len(lines) >= 1 + len(W.plan(batch=batch).stages)
    for pattern in (r"\d [kMGT]?flop", r"\d [kMGT]?(B|bytes)\b", r"dense \d"):
        assert re.search(pattern, text), text


def test_batch_1_and_the_dtype_of_the_matrix_are_the_defaults():
    W = tt.random_matrix((4,) * 4, (4,) * 4, 8, rng=0, dtype=np.float32)
    assert str(W.plan()) == str(W.plan(batch=1, dtype=np.float32))


@pytest.mark.parametrize("d", [3, 6, 10])
def test_flops_of_a_plan_are_far_below_dense_where_the_train_is_small(d):
    """Ranks of 4 on modes of 4: one end to the other costs 2 B 4**d (4 * 4 * 4) a core at most."""
    plan = tt.random_matrix((4,) * d, (4,) * d, 4, rng=0).plan(batch=256)
    sweep = d * 2 * 256 * 4**d * 64
    assert plan.flops <= max(sweep, 1)
    assert d == 3 or plan.flops < plan.dense_flops


def test_the_cost_of_a_plan_grows_with_the_batch():
    W = tt.random_matrix((4,) * 6, (4,) * 6, 8, rng=0)
    plans = [W.plan(batch=batch) for batch in (1, 10, 100, 1000)]
    assert sorted(plan.flops for plan in plans) == [plan.flops for plan in plans]


def test_a_plan_for_full_ranks_costs_no_more_than_dense():
    """Ranks that the modes cannot use: the dense matrix is cheaper than any sweep."""
    W = tt.random_matrix((8, 8), (8, 8), [64], rng=0)
    plan = W.plan(batch=4096)
    assert plan.flops <= 2 * plan.dense_flops


@pytest.mark.parametrize("batch", [1, 1000])
@pytest.mark.parametrize("d", [2, 20, 60, 200])
def test_planning_takes_no_time_at_any_order(d, batch):
    """The promise is a millisecond; a second leaves room for a loaded machine, not for 2**d."""
    W = tt.random_matrix((4,) * (d // 2) + (1,) * (d - d // 2), (5,) * d, 8, rng=0)
    start = time.perf_counter()
    plan = W.plan(batch=batch)
    assert time.perf_counter() - start < 1
    assert plan.flops > 0


@pytest.mark.parametrize("batch", [0, 1, 7, 64, 500])
@pytest.mark.parametrize(
    ("rows", "cols", "ranks"),
    [
        ((2, 2, 2, 2), (2, 2, 2, 2), 3),
        ((16, 2, 1), (1, 3, 16), [20, 20]),
        ((7, 3), (3, 11), [1]),
        ((1,) * 5, (2,) * 5, 2),
        ((2,) * 5, (1,) * 5, 2),
        ((8, 8), (8, 8), [64]),
        ((3, 3, 3), (3, 3, 3), [1, 9]),
    ],
)
def test_whatever_the_plan_the_product_is_that_of_the_dense_matrix(rows, cols, ranks, batch):
    W = tt.random_matrix(rows, cols, ranks, rng=0)
    x = np.random.default_rng(1).standard_normal((batch, W.shape[1]))
    exact = x @ dense_matrix(W).T
    assert_within(W.apply(x), exact, gamma(float, W) * (np.abs(x) @ magnitude(W).T))


def test_equal_problems_share_a_plan():
    W, V = (tt.random_matrix((4, 5), (5, 4), 3, rng=seed) for seed in (0, 1))
    assert str(W.plan(batch=9)) == str(V.plan(batch=9))
