"""The compiled Gram matrix of a product, factored: against NumPy, and in the rounding of trains."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ttcore as tt
from ttcore.kernels import dispatch
from ttcore.kernels.cpu import grams
from ttcore.operands import Formed
from ttcore.rounding import round_cores
from ttcore.rowspace import factor_of_product

SIDES = st.sampled_from([1, 2, 5, 7, 8, 13, 31, 67])


def operands(r, n, s, c, seed=0):
    """A core and a lower triangular matrix, well conditioned both."""
    rng = np.random.default_rng(seed)
    core, w = rng.standard_normal((r, n, s)), rng.standard_normal((s, c))
    return core, np.tril(w) / np.sqrt(s) + 2.0 * np.eye(s, c)


def factor(core, w):
    return grams.factor(core, w, 1e-90, 1e90)


def check(core, w, found):
    """The bounds of Gram matrices and of Cholesky's decomposition, entry by entry."""
    upper, sizes = found
    r = len(core)
    rows = np.tensordot(core, w, 1).reshape(r, -1)
    norms = np.linalg.norm(rows, axis=1)
    made = np.tensordot(np.abs(core), np.abs(w), 1).reshape(r, -1)  # what rounding is relative to
    worst = np.linalg.norm(made, axis=1)
    near = (r + sum(core.shape) + rows.shape[1]) * 2.0**-52
    assert (np.tril(upper, -1) == 0).all()
    assert (np.abs(sizes - norms) <= near * worst**2 / norms).all()
    lower = sizes[:, None] * upper.T
    assert (np.abs(lower @ lower.T - rows @ rows.T) <= 4 * near * np.outer(worst, worst)).all()


@given(r=SIDES, n=st.sampled_from([1, 2, 3, 7]), s=SIDES, c=SIDES, full=st.booleans())
def test_equals_numpy(r, n, s, c, full):
    core, w = operands(r, n, s, c)
    if full:
        w[0] = 1.0
    found = factor(core, w)
    rank = n * min(s, c)
    if 2 * r <= rank or r == 1:
        check(core, w, found)
    elif r > rank + 1:  # the rows depend on each other
        assert found is None or np.diagonal(found[0]).min() < 1e-6


def test_operands_may_have_any_strides_and_be_read_only():
    core, w = operands(67, 5, 40, 40)
    want = factor(core, w)
    strided = [np.asfortranarray(core), np.repeat(w, 2, axis=1)[:, ::2]]
    for x in strided:
        x.flags.writeable = False
    for a, b in zip(factor(*strided), want, strict=True):
        np.testing.assert_array_equal(a, b)


def test_columns_may_begin_with_zeros_or_hold_nothing_else():
    core, w = operands(9, 5, 40, 40)
    w[:, 7:19] = 0.0
    w[:30, 2] = 0.0
    check(core, w, factor(core, w))
    assert factor(core, np.zeros_like(w)) is None


def test_bits_do_not_depend_on_the_number_of_workers(same_bits):
    for seed, shape in enumerate([(67, 7, 40, 40), (200, 3, 90, 90), (13, 20, 31, 7)]):
        core, w = operands(*shape, seed)
        same_bits(grams, partial(factor, core, w))


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e200, 0.0])
def test_rows_out_of_range_have_no_factor(value):
    core, w = operands(9, 5, 10, 10)
    core[4] = value
    assert factor(core, w) is None


@pytest.mark.parametrize("scale", [1e-100, 1e100])
def test_norms_of_rows_have_limits(scale):
    core, w = operands(9, 5, 10, 10)
    core[4] *= scale
    assert grams.factor(core, w, 2.0**-300, 2.0**300) is None
    assert grams.factor(core, w, 2.0**-400, 2.0**400) is not None


@pytest.mark.parametrize(("near", "trusted"), [(1e-2, True), (1e-3, False), (1e-7, False)])
def test_one_gram_matrix_is_trusted_where_rows_are_independent_to_three_digits(near, trusted):
    rng = np.random.default_rng(0)
    a = rng.standard_normal((40, 20, 80))
    core = np.concatenate([a, a + near * rng.standard_normal(a.shape)])
    w = np.eye(80)
    assert factor(core, w) is not None
    found = factor_of_product(core, w, 2.0**250)
    assert (found is not None) == trusted
    if found is not None:
        assert found.flags.c_contiguous
        rows = core.reshape(80, -1)
        np.testing.assert_allclose(found @ found.T, rows @ rows.T, rtol=0, atol=1e-9)


@pytest.mark.parametrize("n", [1, 2, 31, 32, 33, 100])
def test_cholesky(n):
    x = np.random.default_rng(0).standard_normal((n, 2 * n))
    gram = x @ x.T
    upper = np.triu(gram)
    upper[np.tril_indices(n, -1)] = np.nan  # is not read
    assert grams.cholesky(upper)
    near = (n + 2) * 2.0**-52 * np.outer(*[np.sqrt(np.diagonal(gram))] * 2)
    assert (np.abs(upper.T @ upper - gram) <= near).all()
    assert (np.tril(upper, -1) == 0).all()
    gram[n // 2, n // 2] = -1.0
    assert not grams.cholesky(gram)


def train(eps, rank=12):
    """Of this rank, and a tail of rank 68."""
    x = tt.random((20,) * 7, rank, rng=0)
    y = tt.random((20,) * 7, 68, rng=1)
    return x * (1 / x.norm()) + y * (eps / y.norm())


@pytest.mark.parametrize("method", ["svd", "gram"])
@pytest.mark.parametrize("eps", [1e-3, 1e-10])
def test_rounding_is_the_same_without_it(method, eps, monkeypatch):
    x = train(eps)
    calls = []
    plain = grams.factor
    monkeypatch.setattr(grams, "factor", lambda *args: calls.append(args) or plain(*args))
    got = x.round(eps=10 * eps, method=method)
    assert len(calls) == 4  # of all bonds but the last, behind which there are too few columns
    monkeypatch.setattr(dispatch, "is_grammed", lambda *_: False)
    want = x.round(eps=10 * eps, method=method)
    assert len(calls) == 4
    assert got.ranks == want.ranks == (1, *[12] * 6, 1)
    for y in (got, want):
        assert (y - x).norm() <= 10 * eps * x.norm()
    assert (got - want).norm() <= 1e-6 * eps + 1e-13


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_a_core_out_of_range_goes_the_plain_way(scale):
    x = train(1e-3)
    cores = list(x.cores)
    cores[3] = cores[3] * scale
    got, info, _ = round_cores(tuple(cores), eps=1e-2)
    assert info.ranks == (1, *[12] * 6, 1)
    cores[3] = cores[3] / scale
    back = tt.TTTensor(got) * (1 / scale)
    assert (back - x).norm() <= 1e-2 * x.norm()


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e200])
def test_what_hides_behind_zeros_comes_to_light(value):
    """A column of core 4 meets zeros from the right: the kernel leaves it out."""
    cores = [np.array(core) for core in train(1e-3).cores]
    cores[5][0] = 0.0
    want = tt.TTTensor(tuple(cores))
    cores[4] = cores[4].copy()
    cores[4][:, :, 0] = value
    if np.isfinite(value):
        got, _, _ = round_cores(tuple(cores), eps=1e-2)
        assert (tt.TTTensor(got) - want).norm() <= 1e-2 * want.norm()
    else:
        with pytest.raises(tt.TTValueError, match="core 4 holds NaN or Inf"):
            round_cores(tuple(cores), eps=1e-2)


def test_matrices_are_rounded_by_it_too(monkeypatch):
    x = train(1e-3)
    modes = (4, 5)
    W = tt.TTMatrix(tuple(core.reshape(-1, *modes, core.shape[2]) for core in x.cores))
    calls = []
    plain = grams.factor
    monkeypatch.setattr(grams, "factor", lambda *args: calls.append(args) or plain(*args))
    got = W.round(eps=1e-2)
    assert len(calls) == 4
    assert (got - W).norm() <= 1e-2 * W.norm()


def test_few_rows_that_span_the_others_are_found_first(monkeypatch):
    """By what reads each core once only."""
    x = tt.random((20,) * 7, 12, rng=0)
    both = sum((x * c for c in (1.0, 0.5, 2.0, 0.1, 3.0)), start=x)
    assert Formed(both.cores).is_factored(3, np.eye(both.ranks[4]))
    monkeypatch.setattr(grams, "factor", None)
    got = both.round(eps=1e-10)
    assert got.ranks == x.ranks


def test_graded_rows_keep_the_promise():
    """Where one Gram matrix is blind: the small directions count."""
    x = tt.random((20,) * 6, 40, rng=0)
    y = tt.random((20,) * 6, 40, rng=1)
    near = x + (x * (1 / x.norm()) + y * (1e-9 / y.norm())) * x.norm()
    assert Formed(near.cores).is_factored(2, np.eye(near.ranks[3]))
    got = near.round(eps=1e-12, method="gram")
    assert (got - near).norm() <= 1e-12 * near.norm()


def test_single_precision_and_small_trains_are_not_for_it():
    x = train(1e-3)
    w = np.eye(80)
    assert Formed(x.cores).is_factored(2, w)
    assert not Formed(x.astype(np.float32).cores).is_factored(2, w.astype(np.float32))
    small = tt.random((4,) * 6, 80, rng=0)
    assert not Formed(small.cores).is_factored(2, np.eye(small.ranks[3]))
