"""The step from one interface to the next: twins, sizes, layouts."""

import signal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ttcore as tt
from ttcore.kernels import dispatch
from ttcore.kernels.cpu import inner as compiled
from ttcore.kernels.cpu import pool
from ttcore.kernels.portable import interfaces as portable

SIZES = st.sampled_from([1, 2, 7, 8, 13, 17, 31])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@given(r=SIZES, s=SIZES, t=SIZES, u=SIZES, n=st.integers(1, 9), data=st.data())
def test_the_compiled_step_equals_its_definition(dtype, r, s, t, u, n, data):
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    p = rng.standard_normal((r, s)).astype(dtype)
    g, h = (rng.standard_normal(shape).astype(dtype) for shape in ((r, n, t), (s, n, u)))
    if data.draw(st.booleans()):
        g, h, p = np.asfortranarray(g), np.asfortranarray(h), np.asfortranarray(p)
    for x in (p, g, h):
        x.flags.writeable = False
    wide = [x.astype(np.longdouble) for x in (p, g, h)]
    exact = np.einsum("rit,rs,siu->tu", wide[1], wide[0], wide[2])
    size = np.einsum("rit,rs,siu->tu", *(np.abs(x) for x in (wide[1], wide[0], wide[2])))
    bound = (r * n + s + 4) * float(np.finfo(dtype).eps) * size
    swept, exponent, done = compiled.sweep(p, [(g, h)], 2.0**60)
    assert done == 1
    for found in (swept * 2.0**exponent, portable.advance(p, g, h)):
        assert found.dtype == dtype
        assert (np.abs(found - exact) <= bound).all()


def cores_of(rng, modes, rank, dtype=np.float64):
    ranks = [3, *[rank] * (len(modes) - 1), 4]
    return [
        rng.standard_normal(shape).astype(dtype)
        for shape in zip(ranks, modes, ranks[1:], strict=False)
    ]


def steps(interface, pairs):
    for g, h in pairs:
        interface = portable.advance(interface, g, h)
    return interface


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("scale", [1.0, 1e-5, 1e5])
def test_a_sweep_equals_its_steps(dtype, scale):
    """Its interface would leave the range of float32 on the way."""
    rng = np.random.default_rng(0)
    modes = (4, 1, 7, 13, 2, 3, 5, 4, 3)
    pairs = list(zip(cores_of(rng, modes, 9), cores_of(rng, modes, 11), strict=True))
    p = rng.standard_normal((3, 3))
    exact = steps(p, pairs)
    narrow = [((scale * g).astype(dtype), h.astype(dtype)) for g, h in pairs]
    found, exponent, done = compiled.sweep(p.astype(dtype), narrow, 2.0**60)
    assert done == len(modes)
    assert exponent or scale == 1.0
    assert np.isfinite(found).all()
    assert 2.0**-17 < np.linalg.norm(found) < 2.0**17
    wide = found.astype(np.float64) * (2.0**exponent / scale ** len(modes))
    size = steps(np.abs(p), [(np.abs(g), np.abs(h)) for g, h in pairs])
    length = sum(11 + 11 * n for n in modes)
    assert (np.abs(wide - exact) <= (length + 50) * float(np.finfo(dtype).eps) * size).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300, 0.0])
def test_a_sweep_ends_before_a_core_that_is_not_ordinary(value):
    rng = np.random.default_rng(0)
    gs, hs = (cores_of(rng, (4, 5, 6, 7), 8) for _ in range(2))
    for k in range(4):
        for cores in (gs, hs):
            kept = cores[k]
            cores[k] = kept * 0.0 if value == 0.0 else kept.copy()
            cores[k][1, 2, 3] = value
            pairs = list(zip(gs, hs, strict=True))
            found, exponent, done = compiled.sweep(np.ones((3, 3)), pairs, 2.0**500)
            assert done == k
            expected = steps(np.ones((3, 3)), pairs[:k])
            np.testing.assert_allclose(found * 2.0**exponent, expected, rtol=1e-12)
            cores[k] = kept


def test_nan_spreads_through_an_inner_product():
    x = tt.random((20,) * 5, 60, rng=0)
    cores = list(x.cores)
    assert dispatch.is_swept(cores[2], cores[2])
    for value in (np.nan, np.inf):
        broken = cores[2].copy()
        broken[2, 3, 4] = value
        assert not np.isfinite(tt.algebra.vdot(x.cores, (*cores[:2], broken, *cores[3:])))


def test_a_sweep_of_orthogonal_trains_is_zero():
    g = np.zeros((4, 6, 4))
    h = np.zeros((4, 6, 4))
    g[:, :3], h[:, 3:] = 1.0, 1.0
    found, exponent, done = compiled.sweep(np.ones((4, 4)), [(g, h)] * 3, 2.0**500)
    assert (done, exponent) == (3, 0)
    assert not found.any()


@pytest.mark.parametrize("exponents", [(-600, 600), (600, -600), (-1000, 1000), (700, 700)])
def test_cores_far_out_of_range_are_scaled_in_compiled_steps(exponents):
    x, y = (tt.random((20,) * 5, 60, rng=seed) for seed in (0, 1))
    assert dispatch.is_swept(x.cores[2], y.cores[2])
    expected = tt.log_vdot(x, y)
    scaled = [
        tt.TTTensor([g * 2.0**exponent if k == 2 else g for k, g in enumerate(train.cores)])
        for train, exponent in zip((x, y), exponents, strict=True)
    ]
    sign, size = tt.log_vdot(*scaled)
    assert sign == expected[0]
    np.testing.assert_allclose(size - sum(exponents) * np.log(2.0), expected[1], rtol=1e-13)


def test_bits_do_not_depend_on_the_threads(monkeypatch):
    x, y = (tt.random((20,) * 5, 60, rng=seed) for seed in (0, 1))
    assert dispatch.is_swept(x.cores[2], y.cores[2])
    found = set()
    for cpus in (1, 2, 3, 4):
        for module in (pool, compiled):
            monkeypatch.setattr(module, "usable_cpus", lambda n=cpus: n)
        monkeypatch.setattr(pool, "_helpers", pool._Helpers())
        found |= {tt.vdot(x, y) for _ in range(20)}
        assert len(pool._helpers._threads) == cpus - 1
    assert len(found) == 1


@pytest.mark.parametrize("exponents", [(0, 4.8, *[249.9] * 5, 0), (0, *[-245] * 6, 0)])
def test_interfaces_stay_in_range_between_ordinary_cores(exponents):
    """Each norm is just within what a core may have, and each product far out of range."""
    cores = [np.ones((1, 20, 60)), *[np.ones((60, 20, 60))] * 6, np.ones((60, 20, 1))]
    cores = [g / np.linalg.norm(g) for g in cores]
    expected = tt.log_vdot(tt.TTTensor(cores), tt.TTTensor(cores))
    scaled = tt.TTTensor([g * 2.0**e for g, e in zip(cores, exponents, strict=True)])
    sign, size = tt.log_vdot(scaled, scaled)
    assert sign == expected[0]
    np.testing.assert_allclose(
        size - 2 * sum(exponents) * np.log(2.0), expected[1], rtol=1e-12, atol=1e-11
    )


def test_entries_far_below_the_norms_are_not_lost():
    """Beside the block that the first core sees, there is one that makes the norms."""
    g = np.zeros((60, 20, 60))
    g[0, :, 0], g[1:, :, 1:] = 2.0**-280, 2.0**-200
    first, last = np.zeros((1, 20, 60)), np.ones((60, 20, 1))
    first[:, :, 0] = 1.0
    cores = [first, g, g, g, last]
    sign, size = tt.log_vdot(tt.TTTensor(cores), tt.TTTensor(cores))
    assert sign == 1.0
    assert size == pytest.approx(np.log(20.0**5) - 6 * 280 * np.log(2.0), rel=1e-12)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers of the system")
def test_an_interrupt_sends_the_helpers_home(monkeypatch):
    monkeypatch.setattr(pool, "_helpers", pool._Helpers())
    boards = []
    make = compiled.boards.new_board
    monkeypatch.setattr(compiled.boards, "new_board", lambda: boards.append(make()) or boards[-1])

    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    g = np.ones((100, 20, 100))
    compiled.sweep(np.ones((100, 100)), [(g, g)], 2.0**500)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        with pytest.raises(KeyboardInterrupt):
            compiled.sweep(np.ones((100, 100)), [(g, g)] * 200, 2.0**500)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert boards[-1][compiled.boards.DONE]


def test_cores_out_of_range_cost_two_readings_each(monkeypatch):
    """And not a sweep over all that are left."""
    x = tt.random((20,) * 40, 40, rng=0)
    scaled = tt.TTTensor([g * 2.0**400 for g in x.cores])
    swept = []
    sweep = compiled.sweep
    monkeypatch.setattr(
        compiled, "sweep", lambda p, pairs, room: swept.append(len(pairs)) or sweep(p, pairs, room)
    )
    expected = tt.log_vdot(x, x)[1] + 2 * 40 * 400 * np.log(2.0)
    swept.clear()
    assert tt.log_vdot(scaled, scaled)[1] == pytest.approx(expected, rel=1e-12)
    assert sum(swept) < 2 * 40


def test_large_interfaces_and_complex_ones_are_left_to_blas():
    g = np.ones((300, 4, 300))
    assert not dispatch.is_swept(g, g)
    z = np.ones((60, 20, 60), complex)
    assert not dispatch.is_swept(z, z)
