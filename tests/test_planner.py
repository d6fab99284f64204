"""The contraction plan: what it says, and that it is worth its name."""

import json
import re
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ttcore as tt
from ttcore import planner
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


@pytest.fixture
def forgetful(monkeypatch):
    """Whatever is remembered is forgotten after the test."""
    monkeypatch.setattr(planner, "_remembered", {})
    planner.order.cache_clear()
    yield
    planner.order.cache_clear()


@given(tt_matrices(), st.sampled_from([1, 2, 37, 1000]), st.booleans())
def test_every_candidate_is_a_possible_order_and_the_cheapest_comes_first(W, batch, compiled):
    modes = planner.modes_of(tuple(g.shape for g in W.cores))
    found = planner.candidates(modes, batch, "float32", "rows", compiled=compiled, keep=50)
    assert [cost for cost, _ in found] == sorted(cost for cost, _ in found)
    assert len({stages for _, stages in found}) == len(found)
    for _, stages in found:
        assert planner.is_possible(modes, stages)
        assert not planner.is_possible(modes, stages[1:])
        assert not planner.is_possible(modes, (*stages, stages[-1]))
    best = planner.candidates(modes, batch, "float32", "rows", compiled=compiled)
    assert best[0][0] == pytest.approx(found[0][0], rel=1e-12)


def test_all_orders_of_three_cores_are_candidates():
    """Cuts at any of 2 bonds, and a middle at any of 4; a first or last stage alone is both."""
    modes = planner.Modes((2, 3, 2), (3, 2, 3), (1, 2, 2, 1))
    found = planner.candidates(modes, 8, "float64", "rows", compiled=True, keep=1000)
    compositions = {0: 1, 1: 1, 2: 2, 3: 4}  # of so many cores into supercores
    assert len(found) == sum(compositions[k] * compositions[3 - k] for k in range(4))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex64])
def test_a_tuned_plan_is_used_saved_and_read_again(dtype, tmp_path, forgetful):
    W = tt.random_matrix((4, 8, 8, 4), (4, 8, 8, 4), 8, rng=0, dtype=dtype)
    x = np.random.default_rng(0).standard_normal((40, 1024)).astype(dtype)
    want = W.apply(x)
    tuned = W.plan(batch=40, tune=True)
    assert tuned.seconds > 0
    assert tuned.compiled == (dtype is not np.complex64)
    assert W.plan(batch=40).stages == W.plan(batch=64).stages == tuned.stages
    got = W.apply(x)
    np.testing.assert_allclose(got, want, atol=1e-4 * np.abs(want).max())
    path = tmp_path / "plan.json"
    tt.save_plan(tuned, path)
    assert [p.name for p in tmp_path.iterdir()] == ["plan.json"]
    planner._remembered.clear()
    planner.order.cache_clear()
    assert tt.load_plan(path) == tuned
    assert W.plan(batch=40) == tuned


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "holds no plan"),
        ("[]", "holds no plan"),
        ('{"format": "ttcore plan 9"}', "expected 'ttcore plan 1'"),
        ('{"format": "ttcore plan 1"}', "KeyError"),
    ],
)
def test_a_file_that_holds_no_plan_is_refused(text, message, tmp_path):
    path = tmp_path / "plan.json"
    path.write_text(text)
    with pytest.raises(tt.TTFormatError, match=message):
        tt.load_plan(path)


def test_a_plan_whose_stages_do_not_fit_is_refused(tmp_path, forgetful):
    path = tmp_path / "plan.json"
    tt.save_plan(tt.random_matrix((4, 4), (4, 4), 3, rng=0).plan(), path)
    data = json.loads(path.read_text())
    data["stages"][0][5] += 1
    path.write_text(json.dumps(data))
    with pytest.raises(tt.TTFormatError, match="do not contract"):
        tt.load_plan(path)
    with pytest.raises(tt.TTTypeError, match="expected a Plan"):
        tt.save_plan("plan", path)
    assert json.loads(path.read_text()) == data


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("max_bytes", [1, 2**28])
def test_a_prepared_matrix_gives_the_same_products(dtype, max_bytes):
    W = tt.random_matrix((4, 8, 8, 4), (4, 8, 8, 4), 8, rng=0, dtype=dtype)
    P = W.prepare(batch=30, max_bytes=max_bytes)
    x = np.random.default_rng(0).standard_normal((3, 10, 1024)).astype(dtype)
    want = W.apply(x)
    got = P.apply(x)
    assert got.shape == want.shape
    assert got.dtype == want.dtype
    np.testing.assert_allclose(got, want, atol=200 * np.finfo(dtype).eps * np.abs(want).max())
    assert P.shape == W.shape
    np.testing.assert_array_equal(P.apply(x[0, 0]).shape, (1024,))
    with pytest.raises(tt.TTTypeError, match="prepared in"):
        P.apply(x.real.astype(np.float32 if dtype != np.float32 else np.float64))
    with pytest.raises(tt.TTShapeError, match="N = 1024"):
        P.apply(x[..., :-1])


def test_a_small_dense_matrix_is_kept_when_asked_and_nothing_large_unasked():
    W = tt.random_matrix((16, 16), (16, 16), 16, rng=0)
    assert len(W.prepare(batch=1000).plan.stages) == 1
    assert W.prepare(batch=1000).nbytes == 256 * 256 * 8
    assert W.prepare(batch=1000, max_bytes=1).nbytes < 256 * 256 * 8
    assert "256 x 256" in repr(W.prepare())


@pytest.mark.parametrize("workers", [1, 2, 3, -1])
def test_the_number_of_workers_does_not_change_a_bit(workers):
    W = tt.random_matrix((8, 8, 8), (8, 8, 8), 16, rng=0)
    for batch in (1, 3, 200):
        x = np.random.default_rng(0).standard_normal((batch, 512))
        assert W.apply(x, workers=workers).tobytes() == W.apply(x).tobytes()
        one = tt.linear.matvec_backward(W.cores, x, x)
        other = tt.linear.matvec_backward(W.cores, x, x, workers=workers)
        assert all(a.tobytes() == b.tobytes() for a, b in zip(one[1], other[1], strict=True))


@pytest.mark.parametrize(
    ("workers", "error"), [(0, tt.TTValueError), (-1000, tt.TTValueError), ("2", tt.TTTypeError)]
)
def test_a_wrong_number_of_workers_is_refused(workers, error):
    with pytest.raises(error, match="workers="):
        tt.eye((2, 2)).apply(np.ones((1, 4)), workers=workers)
