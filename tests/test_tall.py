"""Passes over a tall matrix: the compiled ones and their twins; the sample that saves some."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ttcore as tt
from ttcore.kernels import dispatch
from ttcore.kernels.cpu import tsqr as cpu
from ttcore.kernels.portable import tsqr as portable

DTYPES = [np.float32, np.float64]
SHAPES = [(1, 1), (7, 3), (65, 13), (300, 16), (1000, 64), (513, 67)]
LAYOUTS = {
    "plain": lambda a: a,
    "strided": lambda a: np.repeat(a, 2, axis=1)[:, ::2],
    "reversed": lambda a: a[::-1],
    "Fortran": np.asfortranarray,
    "misaligned": lambda a: (
        np.frombuffer(b"\0" + a.tobytes(), np.uint8)[1:].view(a.dtype).reshape(a.shape)
    ),
}


def matrix(shape, dtype, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def basis(m, r, seed=1):
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((m, max(r, 1))))[0][:, :r]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_compiled_passes_equal_their_twins(dtype, shape, layout, monkeypatch):
    monkeypatch.setattr(cpu, "SHARE", 2**10)  # so that there are several shares
    a = LAYOUTS[layout](matrix(shape, dtype))
    a.flags.writeable = False
    n, m = shape
    v = basis(m, (m + 1) // 2)
    u = np.finfo(np.float64).eps
    size = float(np.linalg.norm(np.asarray(a, np.float64)))
    for scale in (1.0, 0.25):
        bound = 4 * (n + m) * u * (scale * size) ** 2
        got, want = cpu.gram(a, scale=scale), portable.gram(a, scale=scale)
        assert np.abs(got - want).max() <= bound
        assert (got == got.T).all()
        got, want = (f.gram(a, scale=scale, basis=v) for f in (cpu, portable))
        assert np.abs(got - want).max() <= bound
    z, inner, missed = cpu.deflate(a, v)
    exact = np.asarray(a, np.float64) @ v
    rounding = 4 * m * np.finfo(dtype).eps * size
    assert z.dtype == dtype
    assert np.abs(z - exact).max() <= rounding
    assert np.abs(inner - exact.T @ exact).max() <= 4 * (n + m) * u * size**2
    residual = np.linalg.norm(np.asarray(a, np.float64) - exact @ v.T)
    assert abs(missed - residual) <= rounding
    other, error = cpu.project(a, v)
    assert other.tobytes() == z.tobytes()
    assert error == missed


def is_a_triangle_of(r, a):
    """Upper triangular, and backward stable: A + E = Q R, ‖E‖ <= c u ‖A‖ with c = O(m sqrt(m))."""
    assert (np.tril(r, -1) == 0).all()
    a = np.asarray(a, np.float64)
    m = a.shape[1]
    bound = 4 * m * np.finfo(np.float64).eps * np.linalg.norm(a)
    want = np.zeros(m)
    want[: min(a.shape)] = np.linalg.svd(a, compute_uv=False)
    assert np.abs(np.linalg.svd(r, compute_uv=False) - want).max() <= bound


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [*SHAPES, (5, 31), (700, 24), (600, 525)], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_compiled_triangle_is_that_of_a_householder_qr(dtype, shape, layout, monkeypatch):
    monkeypatch.setattr(cpu, "SHARE", 2**10)
    monkeypatch.setattr(cpu, "HIGH", 1)
    a = LAYOUTS[layout](matrix(shape, dtype))
    a.flags.writeable = False
    r = cpu.householder(a, scale=0.25)
    is_a_triangle_of(r, a * a.dtype.type(0.25))
    twin = portable.householder(a, scale=0.25)
    rank = min(shape)
    size = np.linalg.norm(np.asarray(a, np.float64))
    # columns of a random matrix are independent: rows are then unique but for their signs
    bound = 1e4 * shape[1] * np.finfo(np.float64).eps * size
    assert np.abs(np.abs(r[:rank]) - np.abs(twin[:rank])).max() <= bound
    assert np.abs(r[rank:]).max(initial=0) <= bound
    more = matrix((29, shape[1]), dtype, seed=2)
    for kernel in (cpu, portable):
        is_a_triangle_of(kernel.householder(more, start=r), np.r_[a * a.dtype.type(0.25), more])


@pytest.mark.parametrize(
    "columns",
    [
        np.zeros(24),
        np.r_[np.zeros(5), np.ones(19)],
        np.r_[np.ones(7), 0, np.ones(16)],
        np.logspace(0, -16, 24),
        np.logspace(-170, 0, 24),
        np.logspace(0, -300, 24),
    ],
    ids=["zero", "empty first", "one empty", "graded", "squares underflow", "nearly all underflow"],
)
@pytest.mark.parametrize("rank", [2, 24])
def test_triangles_of_hard_matrices(columns, rank):
    rng = np.random.default_rng(0)
    a = rng.standard_normal((3000, rank)) @ rng.standard_normal((rank, 24)) * columns
    r = cpu.householder(a)
    assert np.isfinite(r).all()
    is_a_triangle_of(r, a)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_shows_in_all_results(value):
    a = matrix((400, 13), np.float64)
    a[333, 7] = value
    with np.errstate(invalid="ignore"):
        assert not np.isfinite(cpu.gram(a)).all()
        assert not np.isfinite(cpu.deflate(a, basis(13, 5))[2])
        assert not np.isfinite(cpu.householder(a)).all()


def test_the_bits_do_not_depend_on_the_number_of_workers(monkeypatch):
    a, v = matrix((20_000, 64), np.float64), basis(64, 16)
    monkeypatch.setattr(cpu, "SHARE", 2**14)
    found = []
    for workers in (1, 2, 5):
        monkeypatch.setattr("ttcore.kernels.cpu.pool.usable_cpus", lambda n=workers: n)
        results = (*cpu.deflate(a, v), cpu.householder(a))
        found.append(b"".join(np.asarray(x).tobytes() for x in results))
    assert found[0] == found[1] == found[2]


def test_large_real_arrays_are_served_by_the_compiled_passes():
    assert dispatch.passes(np.zeros((2**12, 64))) is cpu
    assert dispatch.passes(np.zeros((2**12, 64), complex)) is portable
    assert dispatch.passes(np.zeros((4, 4))) is portable


def decomposed(a, eps):
    t, info = tt.from_dense(a, eps=eps, full_output=True)
    error = np.linalg.norm(np.asarray(t.to_dense(), np.float64) - a)
    size = np.linalg.norm(np.asarray(a, np.float64))
    u = np.finfo(a.dtype).eps
    assert error <= eps * size + 64 * np.sqrt(a.ndim) * u * size
    assert abs(info.error * size - error) <= 64 * np.sqrt(a.ndim) * u * size
    return t


SPECTRA = {
    "flat": np.ones(64),
    "clusters": np.repeat([1, 1e-4, 1e-8, 1e-12], 16),
    "16 decades": np.logspace(0, -16, 64),
    "one large value over a flat tail": np.r_[1, np.full(63, 1e-7)],
    "slow": 1 / np.arange(1, 65),
}


@pytest.mark.parametrize("eps", [1e-1, 1e-3, 1e-6, 1e-7, 1e-8, 1e-10, 1e-12, 1e-14])
@pytest.mark.parametrize("spectrum", SPECTRA)
def test_hard_spectra_keep_the_guarantee(spectrum, eps):
    rng = np.random.default_rng(0)
    u = np.linalg.qr(rng.standard_normal((2**12, 64)))[0]
    v = np.linalg.qr(rng.standard_normal((64, 64)))[0]
    decomposed(((u * SPECTRA[spectrum]) @ v.T).reshape((4,) * 9), eps)


@given(
    seed=st.integers(0, 2**32 - 1),
    where=st.integers(0, 2**12 - 1),
    eps=st.sampled_from([0.1, 1e-6]),
)
def test_rows_that_no_sample_shows_are_not_lost(seed, where, eps):
    """All rows but one lie in a plane; that one, of any size, is hardly ever drawn."""
    rng = np.random.default_rng(seed)
    a = rng.standard_normal((2**12, 2)) @ rng.standard_normal((2, 64))
    a[where] = 10.0 ** rng.integers(-8, 8) * rng.standard_normal(64)
    decomposed(a.reshape((4,) * 9), eps)


@pytest.mark.parametrize("where", range(0, 4096, 409))
def test_a_row_that_hides_all_others_from_the_gram_matrix(where):
    """It lies in the plane that the sample shows, so that nothing is missed by the basis."""
    rng = np.random.default_rng(0)
    a = rng.standard_normal((4096, 4)) @ rng.standard_normal((4, 64))
    a[where] *= 1e12
    decomposed(a.reshape((4,) * 9), 1e-14)


@pytest.mark.parametrize("shape", [(64, 16, 16), (256, 64, 64)])
def test_a_budget_beyond_the_norm_leaves_ranks_of_one(shape):
    t = tt.from_dense(np.random.default_rng(0).random(shape), eps=5)
    assert t.ranks == (1, 1, 1, 1)


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_pass_is_enough_where_the_ranks_are_low(dtype, monkeypatch):
    a = tt.random((4,) * 10, 6, rng=0, dtype=dtype).to_dense()
    read = []
    original = cpu.tall.sweep
    monkeypatch.setattr(
        cpu.tall, "sweep", lambda *args: read.append(len(args[1])) or original(*args)
    )
    decomposed(a, 1e-4)
    assert sum(read[: cpu.SHARES]) == a.size // 64  # rows of the first matrix, once
    assert sum(read) <= 1.5 * a.size // 64
