"""The step from one interface to the next: twins, sizes, layouts."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ttcore as tt
from ttcore.kernels import dispatch
from ttcore.kernels.cpu import interfaces as compiled
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
    for kernel in (compiled, portable):
        found, squares = kernel.advance(p, g, h)
        assert found.dtype == dtype
        assert (np.abs(found - exact) <= bound).all()
        if kernel is compiled:
            expected = [np.sum(x.astype(float) ** 2) for x in (g, h)]
            np.testing.assert_allclose(squares, expected, rtol=r * s * t * u * n * 2.0**-53)


def test_nan_spreads_as_in_the_twin():
    p, g, h = np.ones((9, 9)), np.ones((9, 5, 9)), np.ones((9, 5, 9))
    h[2, 3, 4] = np.nan
    np.testing.assert_array_equal(
        np.isnan(compiled.advance(p, g, h)[0]), np.isnan(portable.advance(p, g, h)[0])
    )


@pytest.mark.parametrize("exponents", [(-600, 600), (600, -600), (-1000, 1000), (700, 700)])
def test_cores_far_out_of_range_are_scaled_in_compiled_steps(exponents):
    x, y = (tt.random((20,) * 5, 60, rng=seed) for seed in (0, 1))
    assert dispatch.interfaces(x.cores[2], y.cores[2]) is compiled
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
    assert dispatch.interfaces(x.cores[2], y.cores[2]) is compiled
    expected = tt.vdot(x, y)
    monkeypatch.setattr(pool, "usable_cpus", lambda: 1)
    assert tt.vdot(x, y) == expected


def test_large_interfaces_and_complex_ones_are_left_to_blas():
    g = np.ones((300, 4, 300))
    assert dispatch.interfaces(g, g) is portable
    z = np.ones((60, 20, 60), complex)
    assert dispatch.interfaces(z, z) is portable
