"""The compiled cut of a core: against NumPy, on odd sizes, out of range, and in rounding."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ttcore as tt
from ttcore.kernels.cpu import cuts
from ttcore.leading import within
from ttcore.operands import Formed
from ttcore.rounding import round_cores

DTYPES = [np.float32, np.float64]


def operands(m, r, n, s, c, size, dtype, seed=0):
    """t, core, w, randoms as `found` gets them."""
    rng = np.random.default_rng(seed)
    shapes = (m, r), (r, n, s), (s, c), (c, size)
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes]


def found(t, core, w, randoms, room=1e30):
    return cuts.found(t, core, w, randoms, room)


def check(t, core, w, randoms, result, scale=1.0):
    """That ``result`` is what `found` promises; ``scale`` is that of w."""
    q, back, lower, norm, rest = result
    dtype, u = core.dtype, float(np.finfo(core.dtype).eps)
    t, core, w, randoms = (x.astype(np.float64) for x in (t, core, w / scale, randoms))
    rows = np.tensordot(t, core, 1).reshape(-1, core.shape[2])
    x = rows @ w
    size = randoms.shape[1]
    near = 10 * (sum(x.shape) + len(core) + len(w)) * u  # of products and reflections
    made = np.linalg.norm(np.abs(rows) @ np.abs(w))  # what rounding is relative to
    assert q.shape == (len(rows), size)
    assert q.flags.c_contiguous
    assert q.dtype == back.dtype == dtype
    q = q.astype(np.float64)
    assert np.abs(q.T @ q - np.eye(size)).max() <= near
    seen = x @ randoms
    assert np.linalg.norm(seen - q @ (q.T @ seen)) <= near * made * np.linalg.norm(randoms)
    assert np.abs(back - q.T @ rows).max() <= near * np.linalg.norm(rows)
    inside = q.T @ x
    lower = lower / scale
    assert np.abs(lower @ lower.T - inside @ inside.T).max() <= near * made**2
    assert abs(norm / scale - np.linalg.norm(x)) <= near * made
    assert abs(rest / scale - np.linalg.norm(x - q @ inside)) <= near * made


@pytest.mark.parametrize("dtype", DTYPES)
@given(
    m=st.sampled_from([1, 5, 7, 22]),
    r=st.sampled_from([1, 3, 13, 67]),
    n=st.sampled_from([1, 2, 7, 20]),
    s=st.sampled_from([1, 7, 13, 97]),
    c=st.sampled_from([1, 2, 13, 31, 67]),
    size=st.sampled_from([1, 2, 7, 16]),
    zeros=st.sampled_from(["none", "upper", "lower", "first rows"]),
)
def test_equals_numpy(dtype, m, r, n, s, c, size, zeros):
    if size > min(m * n, c):
        return
    t, core, w, randoms = operands(m, r, n, s, c, size, dtype)
    if zeros == "first rows":
        w[: s // 2] = 0.0
    elif zeros != "none":
        w = np.tril(w) if zeros == "upper" else np.triu(w)
    check(t, core, w, randoms, found(t, core, w, randoms))


def test_operands_may_have_any_strides_and_be_read_only():
    these = operands(9, 300, 3, 200, 90, 24, np.float64)
    want = found(*these)
    check(*these, want)
    strided = [np.asfortranarray(x) for x in these]
    strided[2] = np.repeat(these[2], 2, axis=1)[:, ::2]
    for x in strided:
        x.flags.writeable = False
    for a, b in zip(found(*strided), want, strict=True):
        np.testing.assert_array_equal(a, b)


def test_bits_do_not_depend_on_the_number_of_workers(same_bits):
    shapes = [(22, 80, 9, 90, 90, 24), (7, 300, 13, 200, 77, 48), (5, 13, 20, 67, 31, 7)]
    for seed, shape in enumerate(shapes):
        these = operands(*shape, np.float64, seed)
        same_bits(cuts, partial(found, *these))


@pytest.mark.parametrize("where", ["core", "w"])
@pytest.mark.parametrize("value", [0.0, 1e-40, 1e40, np.nan, np.inf])
def test_what_leaves_the_room_is_not_found(where, value):
    t, core, w, randoms = operands(7, 20, 5, 30, 30, 8, np.float64)
    (core if where == "core" else w)[:] = value
    assert found(t, core, w, randoms) is None


@pytest.mark.parametrize("scale", [2.0**-240, 2.0**240])
def test_the_product_may_be_far_from_one(scale):
    t, core, w, randoms = operands(7, 20, 5, 30, 30, 8, np.float64)
    check(t, core, w * scale, randoms, found(t, core, w * scale, randoms, 2.0**500), scale)


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_a_few_directions_hold_is_found_whole(dtype):
    t, core, w, randoms = operands(10, 20, 5, 60, 70, 8, dtype)
    core[:] = core[:, :, :3] @ np.ones((3, 60), dtype) + core[:, :, :1]
    check(t, core, w, randoms, found(t, core, w, randoms))
    *_, norm, rest = found(t, core, w, randoms)
    assert 0.0 < rest <= 300 * np.finfo(dtype).eps * norm


def train(rank, eps, dtype=np.float64, size=90, d=6, n=20):
    """Of this rank, and a tail up to rank ``size`` with relative norm eps."""
    x = tt.random((n,) * d, rank, rng=0, dtype=dtype)
    y = tt.random((n,) * d, size - rank, rng=1, dtype=dtype)
    return x * (1 / x.norm()) + y * (eps / y.norm())


@pytest.fixture
def widths(monkeypatch):
    """Of the cuts that the kernel makes."""
    seen = []
    plain = cuts.found
    monkeypatch.setattr(cuts, "found", lambda *args: seen.append(args[3].shape[1]) or plain(*args))
    return seen


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("method", ["svd", "gram"])
@pytest.mark.parametrize("eps", [1e-2, 1e-5])
def test_rounding_is_the_same_without_it(dtype, method, eps, widths, monkeypatch):
    x = train(12, eps, dtype)
    got, info = x.round(eps=10 * eps, method=method, full_output=True)
    assert widths == [24, 24, 24]  # of all bonds right of which there is a large factor
    monkeypatch.setattr(Formed, "is_cut", lambda *_: False)
    want, expected = x.round(eps=10 * eps, method=method, full_output=True)
    assert info.ranks == expected.ranks == (1, *[12] * 5, 1)
    near = 300 * float(np.finfo(dtype).eps)
    assert (got - want).norm() <= 1e-4 * eps + near
    assert info.error == pytest.approx(expected.error, rel=1e-4, abs=near)
    assert info.discarded == pytest.approx(expected.discarded, rel=1e-4, abs=near)
    assert (got - x).norm() == pytest.approx(info.error * x.norm(), rel=1e-4, abs=near)


@pytest.mark.parametrize(
    ("rank", "expected"), [(16, [24, 24, 24, 24]), (40, [24, 48, 48, 48]), (60, [24, 48])]
)
def test_as_many_combinations_as_it_takes(rank, expected, widths):
    """Twice as many from the next core on, up to where LAPACK takes over."""
    x = train(rank, 1e-6, size=170, d=7)
    got = x.round(eps=1e-5)
    assert widths == expected
    assert got.ranks[2:6] == (rank,) * 4
    assert (got - x).norm() <= 1e-5 * x.norm()


def test_short_sides_are_no_reason_for_more(widths):
    """Left of the first bonds are few rows, right of the last ones few columns."""
    x = train(20, 1e-6, size=110, d=16, n=4)
    got = x.round(eps=1e-5)
    assert widths == [24] * 9
    assert got.ranks[3:14] == (20,) * 11
    assert (got - x).norm() <= 1e-5 * x.norm()


def test_a_tail_of_orthonormal_cores_takes_what_it_needs(widths):
    """Where few rows, but more than three times the combinations, span the others."""
    ranks = (1, 8, 64, 80, 80, 76, 68, 60, 52, 44, 36, 28, 20, 1)  # growing slowly from the right
    x = tt.random((8,) * 12 + (20,), ranks, rng=0)
    copies = x + 0.5 * x + 2.0 * x + 3.0 * x
    got = copies.round(eps=1e-10)
    assert Formed(copies.cores).is_cut(3, np.eye(80), np.eye(80), 24)
    assert not widths
    assert got.ranks == x.ranks
    assert (got - copies).norm() <= 1e-10 * copies.norm()


def test_behind_a_center_nothing_is_multiplied(widths):
    x = train(12, 1e-3, size=110).orthogonalize(2)
    got = x.round(eps=1e-2)
    assert widths == [24]
    assert got.ranks == (1, *[12] * 5, 1)
    assert (got - x).norm() <= 1e-2 * x.norm()


@pytest.mark.parametrize("shift", [-400, -30, 30, 400])
def test_cores_of_any_size(shift, widths):
    x = train(12, 1e-3)
    cores = tuple(np.ldexp(core, shift) if k < 5 else core for k, core in enumerate(x.cores))
    got, info, _ = round_cores(cores, eps=1e-2)
    assert widths == ([24] * 3 if abs(shift) < 100 else [])
    back = tt.TTTensor(tuple(got)) * 2.0**-shift
    for _ in range(4):
        back = back * 2.0**-shift
    assert (back - x).norm() == pytest.approx(info.error * x.norm(), rel=1e-6)


def test_the_first_bond_tells_what_may_be_missed(widths):
    """It is cut the plain way, however many rows there are."""
    rng = np.random.default_rng(0)
    shapes = (1, 100, 90), (90, 120, 90), (90, 120, 90), (90, 100, 1)
    cores = [rng.standard_normal(shape) * 0.7 ** np.arange(shape[2]) for shape in shapes]
    cores[0] = np.tensordot(cores[0][:, :, :12], rng.standard_normal((12, 90)), 1)  # no tail here
    x = tt.TTTensor(tuple(cores))
    assert Formed(x.cores).is_cut(0, np.eye(1), np.eye(90), 24)
    got, info = x.round(eps=1e-3, full_output=True)
    assert widths
    assert 1e-4 * x.norm() < (got - x).norm() <= 1e-3 * x.norm()
    assert info.error == pytest.approx((got - x).norm() / x.norm(), rel=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("above", [2.0, 20.0])
def test_what_is_more_than_noise_is_kept(dtype, above, widths, monkeypatch):
    """Without a tolerance; of 90 rows and more, whose noise is 2 sqrt(90) u."""
    x = train(12, above * 2 * np.sqrt(90) * np.finfo(dtype).eps, np.float64).astype(dtype)
    got = x.round()
    assert widths
    monkeypatch.setattr(Formed, "is_cut", lambda *_: False)
    assert got.ranks == x.round().ranks
    assert max(got.ranks) > 12


@pytest.mark.parametrize(
    ("budget", "cap", "rank"),
    [
        (0.2, 9, 2),  # the third value fits beside the rest
        (0.105, 9, None),  # it does not, but it alone would: the whole may need only two
        (0.09, 9, 3),
        (0.01, 9, None),  # the rest is too much
        (0.2, 1, 1),  # a cap, and the rest is little beside what it leaves
        (0.04, 2, None),  # beside what this one leaves, it is not
    ],
)
def test_a_range_is_enough_where_no_fewer_vectors_can_do(budget, cap, rank):
    """Values 1, 1/2, 1/10 and a rest of 1/20; of 2e-4 where a cap counts."""
    rest = 2e-4 if cap < 9 else 0.05
    found = within(np.diag([1.0, 0.5, 0.1]), rest, budget, cap)
    assert (found.vectors.shape[1] if found else None) == rank
    if found:
        tail = np.array([1.0, 0.5, 0.1, rest])[[*range(rank, 4)]]
        assert found.missed == pytest.approx(np.linalg.norm(tail))


@pytest.mark.parametrize("cap", [np.inf, 5])
def test_no_more_vectors_than_an_svd_takes_and_none_worse(cap, widths, monkeypatch):
    """Of values that fall slowly, where those of the range are smaller than the true ones."""
    rng = np.random.default_rng(3)
    for eps in (0.5, 0.3, 0.2, 0.1):
        cores = [np.array(core) for core in tt.random((20,) * 6, 100, rng=rng).cores]
        x = tt.TTTensor(tuple(core * 0.9 ** np.arange(core.shape[2]) for core in cores))
        widths.clear()
        with monkeypatch.context() as patched:
            got, info = x.round(eps=eps, max_rank=min(cap, 100), full_output=True)
            assert widths
            patched.setattr(Formed, "is_cut", lambda *_: False)
            want, expected = x.round(eps=eps, max_rank=min(cap, 100), full_output=True)
        assert got.ranks == want.ranks
        assert info.error <= (1 + 1e-5) * expected.error


def test_complex_trains_go_the_plain_way(widths):
    x = train(12, 1e-3)
    z = x + 1j * tt.random(x.shape, 3, rng=5) * 1e-4
    assert Formed(z.cores).is_heavy
    got = z.round(eps=1e-2)
    assert not widths
    assert (got - z).norm() <= 1e-2 * z.norm()


def test_cores_may_drift_far_from_one_together(widths):
    """So far that the squares of their product would leave the range."""
    x = train(12, 1e-3, d=9)
    cores = tuple(np.ldexp(core, 100) for core in x.cores[:-1])
    got, info, _ = round_cores((*cores, np.ldexp(x.cores[-1], -800)), eps=1e-2)
    assert widths == [24] * 6
    assert (tt.TTTensor(tuple(got)) - x).norm() == pytest.approx(info.error * x.norm(), rel=1e-6)


@pytest.mark.parametrize("cap", [4, 7, 12, 20])
@pytest.mark.parametrize("eps", [0.0, 1e-6, 1e-1])
def test_caps_are_kept_and_used(cap, eps, widths, monkeypatch):
    x = train(12, 1e-6)
    got, info = x.round(eps=eps, max_rank=cap, full_output=True)
    monkeypatch.setattr(Formed, "is_cut", lambda *_: False)
    want, expected = x.round(eps=eps, max_rank=cap, full_output=True)
    assert widths
    assert got.ranks == want.ranks
    assert info.error == pytest.approx(expected.error, rel=1e-6, abs=1e-13)
    assert (got - x).norm() == pytest.approx(info.error * x.norm(), rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("decay", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("eps", [1e-1, 1e-4, 1e-8, 1e-12])
def test_the_promise_is_kept_where_values_decay(decay, eps, widths):
    """No value stands out: what the combinations leave decides about ranks."""
    x = tt.random((20,) * 6, 100, rng=0)
    cores = [core * decay ** np.arange(core.shape[2]) for core in x.cores]
    x = tt.TTTensor(tuple(cores))
    got, info = x.round(eps=eps, full_output=True)
    error = (got - x).norm() / x.norm()
    assert widths or 20 * max(got.ranks) <= 72  # rows enough for a sketch of 24
    assert error <= eps
    assert info.error == pytest.approx(error, rel=1e-3, abs=1e-14)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e200])
def test_what_hides_behind_zeros_comes_to_light(value):
    """A column of core 3 meets zeros from the right."""
    cores = [np.array(core) for core in train(12, 1e-3).cores]
    cores[4][0] = 0.0
    want = tt.TTTensor(tuple(cores))
    cores[3] = cores[3].copy()
    cores[3][:, :, 0] = value
    if np.isfinite(value):
        got, _, _ = round_cores(tuple(cores), eps=1e-2)
        assert (tt.TTTensor(got) - want).norm() <= 1e-2 * want.norm()
    else:
        with pytest.raises(tt.TTValueError, match="core 3 holds NaN or Inf"):
            round_cores(tuple(cores), eps=1e-2)
