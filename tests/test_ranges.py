"""The compiled range of a core: against NumPy, on odd sizes, out of range, with any workers."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ttcore as tt
from ttcore import sketching
from ttcore.kernels import dispatch
from ttcore.kernels.cpu import ranges, reflections, slices
from ttcore.operands import Formed

DTYPES = [np.float32, np.float64]
PROBES = 3


def operands(m, r, n, s, size, dtype, seed=0):
    """t, core, w as `found` gets them."""
    rng = np.random.default_rng(seed)
    t, core = rng.standard_normal((m, r)), rng.standard_normal((r, n, s))
    w = rng.uniform(-1, 1, (s, PROBES + size))
    return [x.astype(dtype) for x in (t, core, w)]


def found(t, core, w, noise=1e-12, room=1e30):
    return ranges.found(t, core, w, PROBES, noise, room)


def check(t, core, w, rank, result):
    """That ``result`` is what `found` promises, where the products have this rank."""
    q, back, exponent, norm, rest = result
    u = np.finfo(core.dtype).eps
    rows = np.tensordot(t.astype(np.float64), core, 1).reshape(-1, core.shape[2])
    seen = rows @ w
    size = np.linalg.norm(rows)
    near = 50 * (rows.shape[0] + rows.shape[1]) * u  # of products and reflections
    assert q.shape == (len(rows), rank)
    assert q.dtype == back.dtype == core.dtype
    assert q.flags.c_contiguous
    assert np.abs(q.T.astype(np.float64) @ q - np.eye(rank)).max() <= near
    sketch = seen[:, PROBES:]
    missed = np.linalg.norm(sketch - q @ (q.T @ sketch))
    assert missed <= near * max(1.0, size) * np.linalg.norm(w)
    exact = q.T.astype(np.float64) @ rows
    assert np.abs(np.ldexp(back.astype(np.float64), exponent) - exact).max() <= near * size
    probes = seen[:, :PROBES]
    outside = np.linalg.norm(probes - q @ (q.T @ probes))
    assert abs(rest / norm - outside / np.linalg.norm(probes)) <= near
    scale = np.log2(norm / np.linalg.norm(probes))
    assert abs(scale - np.round(scale)) <= 2 * near


@pytest.mark.parametrize("dtype", DTYPES)
@given(
    m=st.sampled_from([1, 5, 7, 22]),
    r=st.sampled_from([1, 3, 13, 67]),
    n=st.sampled_from([1, 2, 7, 20]),
    s=st.sampled_from([1, 7, 13, 97]),
    size=st.sampled_from([1, 2, 7, 16]),
)
def test_equals_numpy(dtype, m, r, n, s, size):
    t, core, w = operands(m, r, n, s, size, dtype)
    rank = min(m * n, r * n, s, size)
    if size > m * n:
        return
    result = found(t, core, w, 1e-5 if dtype == np.float32 else 1e-12)
    if rank < size:  # noise behind a column that nearly depends on others may count
        rank = max(rank, result[0].shape[1])
    check(t, core, w, rank, result)


def test_a_core_of_several_blocks_and_any_strides():
    t, core, w = operands(9, 300, 3, 200, 10, np.float64)
    want = found(t, core, w)
    assert 2 * slices.BLOCK < 300 * 200
    check(t, core, w, 10, want)
    strided = [np.asfortranarray(x) for x in (t, core, w)]
    for x in strided:
        x.flags.writeable = False
    for a, b in zip(found(*strided), want, strict=True):
        np.testing.assert_array_equal(a, b)


def test_bits_do_not_depend_on_the_number_of_workers(same_bits):
    for seed, shape in enumerate([(22, 80, 9, 90, 22), (7, 300, 5, 200, 16), (5, 13, 20, 67, 7)]):
        these = operands(*shape, np.float64, seed)
        same_bits(ranges, partial(found, *these))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rank", [1, 4])
def test_columns_that_only_noise_needs_are_left_out(dtype, rank):
    t, core, w = operands(10, 20, 5, 30, 8, dtype)
    t = t[:, :rank] @ np.eye(rank, 20, dtype=dtype)
    core[:, 1:] = 0  # of the first slice alone: of the rank of t
    check(t, core, w, rank, found(t, core, w, 1e-5 if dtype == np.float32 else 1e-12))


@pytest.mark.parametrize("scale", [1e-60, 2.0**-20, 2.0**20, 1e60])
def test_products_far_from_one_are_scaled_exactly(scale):
    t, core, w = operands(7, 20, 5, 30, 8, np.float64)
    shift = np.frexp(scale)[1]
    want = found(t, core, w)
    q, back, exponent, norm, rest = found(t, np.ldexp(core, shift), w, room=2.0**1000)
    np.testing.assert_array_equal(q, want[0])
    np.testing.assert_array_equal(np.ldexp(back, exponent - shift), np.ldexp(want[1], want[2]))
    assert np.frexp(norm)[0] == np.frexp(want[3])[0]
    assert rest / norm == want[4] / want[3]
    for x in (back, norm):
        assert 2.0**-17 < np.linalg.norm(x) < 2.0**17


@pytest.mark.parametrize("tiny", [-540, -600, -1000, -1060])
def test_products_may_vanish_beside_the_core(tiny):
    """The core meets small rows of w alone: squares of the products underflow."""
    t, core, w = operands(5, 20, 7, 30, 10, np.float64)
    core[:, :, 15:] = 0
    w[:15] = np.ldexp(w[:15], tiny)
    q, _, _, norm, rest = found(t, core, w, 1e-3 if tiny < -1000 else 1e-12)
    sketch = np.tensordot(t, core, 1).reshape(35, 30)[:, :15] @ np.ldexp(w[:15, PROBES:], -tiny)
    left = sketch - q @ (q.T @ sketch)
    assert np.linalg.norm(left) <= (1e-2 if tiny < -1000 else 1e-12) * np.linalg.norm(sketch)
    assert q.shape[1] == 10
    assert 0.0 < rest < norm


@pytest.mark.parametrize("value", [0.0, 1e-40, 1e40, np.nan, np.inf])
def test_what_leaves_the_room_is_not_found(value):
    t, core, w = operands(7, 20, 5, 30, 8, np.float64)
    assert found(t, np.full_like(core, value), w) is None


@pytest.mark.parametrize("shape", [(2, 1), (7, 7), (13, 5), (440, 22), (101, 64)], ids=str)
@pytest.mark.parametrize("tiny", [0, -480, -520, -1030])
def test_reflections_are_householders(shape, tiny):
    """Also of columns whose squares vanish, of columns of zeros, and of equal ones."""
    rng = np.random.default_rng(0)
    a = rng.standard_normal(shape)
    a[:, -1] = np.ldexp(a[:, -1], tiny)
    if shape[1] > 5:
        a[:, 2] = 0.0
        a[:, 3] = a[:, 4]
    q, r = np.empty(shape), np.empty((shape[1],) * 2)
    reflections.qr(a, q, r)
    near = 20 * sum(shape) * 2.0**-53
    assert np.abs(q.T @ q - np.eye(shape[1])).max() <= near
    assert (np.tril(r, -1) == 0).all()
    sizes = np.linalg.norm(a, axis=0)
    rest = np.linalg.norm(a - q @ r, axis=0)
    assert (rest <= near * sizes + 1e-320).all()


def sketched(cores, allowed_error):
    """The sketch, and what it asked about."""
    asked = []

    def allowed(*args):
        asked.append(args)
        return allowed_error

    operand = Formed(tuple(cores))
    assert dispatch.is_sketched(operand.cores[1:], 54)
    return sketching.sketch(operand, 34, allowed, np.random.default_rng(0)), asked


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("eps", [0.0, 1e-3, 0.3])
@pytest.mark.parametrize("shift", [0, 20, -20])
def test_a_sketch_is_the_same_without_it(dtype, eps, shift, monkeypatch):
    """Of trains that are compiled: same random vectors, the same ranges but for rounding."""
    x = tt.random((20,) * 6, 30, rng=0, dtype=dtype)
    x = x * (1 / x.norm())
    y = tt.random((20,) * 6, 90, rng=1, dtype=dtype)
    cores = list((x + y * (eps / y.norm())).cores)
    cores[2], cores[3] = np.ldexp(cores[2], shift), np.ldexp(cores[3], 2 * shift)
    limit = 0.0 if eps else 1e-5
    got, asked = sketched(cores, limit)
    monkeypatch.setattr(dispatch, "is_ranged", lambda *_: False)
    want, expected = sketched(cores, limit)
    near = 1e-3 if dtype == np.float32 else 1e-11
    if eps:  # else noise decides about the last columns
        assert [core.shape for core in got.cores] == [core.shape for core in want.cores]
    assert got.missed == pytest.approx(want.missed, rel=near, abs=near)
    values = [
        [np.ldexp(value, e - 3 * shift) for _, value, e in both] for both in (asked, expected)
    ]
    assert values[0] == pytest.approx(values[1], rel=near)
    a, b = (tt.TTTensor(one.cores) * 2.0 ** (one.exponent - 3 * shift) for one in (got, want))
    assert (a - b).norm() <= near * b.norm()


def test_a_huge_core_that_zeros_had_hidden():
    """It meets zeros in the sketch of what is right of it, and then comes to light."""
    x = tt.random((20,) * 6, 90, rng=0)
    cores = [np.array(core) for core in x.cores]
    cores[3][:, :, 45:] *= 1e170
    cores[4][45:] = 0.0
    cores[4][45, 0, :] = 1e-170
    got = tt.TTTensor(tuple(cores)).round(eps=1e-3, method="randomized", rng=0)
    want = tt.TTTensor(tuple(cores)).round(eps=1e-3)
    assert (got - want).norm() <= 3e-3 * want.norm()
