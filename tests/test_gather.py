"""Entries of a train, and rows of a TT-matrix, at batches of indices; gradients; both backends."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numba import njit

import ttcore as tt
from ttcore import indexing, rows
from ttcore.kernels import dispatch
from ttcore.kernels.cpu import pool
from ttcore.kernels.cpu.picked import accumulate, multiply
from ttcore.kernels.cpu.simd import vector_lanes
from ttcore.kernels.portable.rows import summed
from ttcore.testing import (
    assert_within,
    dense,
    dense_matrix,
    gamma,
    magnitude,
    matvec_gradients,
    tt_matrices,
    tt_tensors,
)

portable, cpu = dispatch.gather(compiled=False), dispatch.gather(compiled=True)
portable_rows, cpu_rows = dispatch.rows(compiled=False), dispatch.rows(compiled=True)
DTYPES = [np.float32, np.float64]
GUARD = 64
TRAINS = {  # modes, rank
    "one core": ((7,), 1),
    "two cores": ((3, 5), 3),
    "modes of 1": ((1, 4, 1, 3), 2),
    "many small": ((2,) * 11, 7),
    "primes": ((5, 7, 13), 11),
    "ranks beyond three registers": ((3, 7, 5, 4), 67),
    "more digits than rows": ((3, 2000, 1999, 2), 5),
}
LAYOUTS = {
    "plain": lambda a: a,
    "read-only": lambda a: a,
    "strided": lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
    "reversed": lambda a: a[::-1].copy()[::-1],
    "Fortran": np.asfortranarray,
    "misaligned": lambda a: (
        np.frombuffer(b"\0" + a.tobytes(), np.uint8)[1:].view(a.dtype).reshape(a.shape)
    ),
}


@pytest.fixture
def small_blocks(monkeypatch):
    """Tiny data spans several blocks and several partial sums."""
    for name, value in {"ROWS": 16, "LEAST": 8, "STATES": 2**12, "GRAIN": 1000}.items():
        monkeypatch.setattr(cpu, name, value)
    cpu._tables.cache_clear()
    yield
    cpu._tables.cache_clear()


def train(name, dtype, seed=0):
    modes, rank = TRAINS[name]
    return tt.random(modes, [1, *[rank] * (len(modes) - 1), 1], rng=seed, dtype=dtype)


def indices(modes, batch, seed=0):
    rng = np.random.default_rng(seed)
    return np.stack([rng.integers(-n, n, batch) for n in modes], axis=1)


def normal(shape, dtype, seed=1):
    """Complex for a complex dtype."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape)
    return (x + 1j * rng.standard_normal(shape) if np.dtype(dtype).kind == "c" else x).astype(dtype)


def entries(cores, index):
    """Entries by definition, and the entries of the absolute values, in extended precision."""
    found, sizes = [], []
    for row in index:
        value = size = np.ones((1, 1), np.longdouble)
        for core, i in zip(cores, row, strict=True):
            value, size = value @ core[:, i, :], size @ np.abs(core[:, i, :])
        found.append(value[0, 0])
        sizes.append(size[0, 0])
    return np.array(found), np.array(sizes)


def gradients(cores, index, gy):
    """Gradients of the cores by definition: conjugates of all that multiplies a slice."""
    kind = np.clongdouble if any(map(np.iscomplexobj, (*cores, gy))) else np.longdouble
    found = [np.zeros(core.shape, kind) for core in cores]
    for row, g in zip(index, gy, strict=True):
        slices = [core[:, i, :].astype(kind) for core, i in zip(cores, row, strict=True)]
        one = [np.ones((1, 1), kind)]
        lefts = list(itertools.accumulate(slices, np.matmul, initial=one[0]))
        rights = list(itertools.accumulate(reversed(slices), lambda x, y: y @ x, initial=one[0]))
        for k, i in enumerate(row):
            found[k][:, i, :] += g * (rights[len(cores) - 1 - k] @ lefts[k]).conj().T
    return found


def assert_gradients(got, cores, index, gy):
    exact = gradients(cores, index, gy)
    sizes = gradients([np.abs(core) for core in cores], index, np.abs(gy))
    dtype = cores[0].dtype
    bound = gamma(dtype, cores) + 4 * (len(gy) + 8) * np.finfo(dtype).eps
    for g, want, size, core in zip(got, exact, sizes, cores, strict=True):
        assert g.dtype == core.dtype
        assert_within(g, want, bound * size)


# tiles


@njit
def run_multiply(zero, order, k, a, lda, b, ldb, c, ldc, n):
    size = a.itemsize
    multiply(
        zero, order.size, n, k, np.uintp(order.ctypes.data),
        np.uintp(a.ctypes.data + GUARD * size), lda, np.uintp(b.ctypes.data + GUARD * size), ldb,
        np.uintp(c.ctypes.data + GUARD * size), ldc,
    )  # fmt: skip
    return order.size + a.size + b.size + c.size


@njit
def run_accumulate(zero, order, m, a, lda, b, ldb, c, ldc, n):
    size = a.itemsize
    accumulate(
        zero, m, n, order.size, np.uintp(order.ctypes.data),
        np.uintp(a.ctypes.data + GUARD * size), lda, np.uintp(b.ctypes.data + GUARD * size), ldb,
        np.uintp(c.ctypes.data + GUARD * size), ldc,
    )  # fmt: skip
    return order.size + a.size + b.size + c.size


@njit
def lanes_of(zero):
    return vector_lanes(zero)


def guarded(x):
    wall = np.full(GUARD, np.nan, x.dtype)
    return np.concatenate([wall, x.ravel(), wall])


SIZES = st.sampled_from([1, 2, 3, 4, 5, 7, 8, 9, 13, 15, 16, 17, 31, 40])


@pytest.mark.parametrize("dtype", DTYPES)
@given(m=SIZES, k=SIZES, registers=st.integers(1, 7), seed=st.integers(0, 9))
def test_rows_are_multiplied_where_they_stand(dtype, m, k, registers, seed):
    """Guards of NaN around all three; rows that the list does not name keep what they held."""
    rng = np.random.default_rng(seed)
    n, height = registers * int(lanes_of(dtype(0))), 2 * m
    a = rng.standard_normal((height, k + 3)).astype(dtype)
    a[:, k:] = np.nan  # what pads a row is not read
    b = rng.standard_normal((k, n)).astype(dtype)
    out = guarded(np.full((height, n), 3, dtype))
    order = rng.permutation(height)[:m]
    run_multiply(dtype(0), order, k, guarded(a), k + 3, guarded(b), n, out, n, n)
    want = np.full((height, n), 3, np.longdouble)
    want[order] = a[order, :k].astype(np.longdouble) @ b
    bound = np.zeros((height, n))
    bound[order] = k * np.finfo(dtype).eps * (np.abs(a[order, :k]) @ np.abs(b))
    assert_within(out[GUARD:-GUARD].reshape(height, n), want, bound)
    assert np.isnan(out[:GUARD]).all()
    assert np.isnan(out[-GUARD:]).all()


@pytest.mark.parametrize("dtype", DTYPES)
@given(m=SIZES, count=SIZES, registers=st.integers(1, 7), seed=st.integers(0, 9))
def test_products_of_chosen_rows_are_added(dtype, m, count, registers, seed):
    rng = np.random.default_rng(seed)
    n, height = registers * int(lanes_of(dtype(0))), 2 * count
    a = rng.standard_normal((height, m)).astype(dtype)
    b = rng.standard_normal((height, n)).astype(dtype)
    out = guarded(np.full((m, n), 3, dtype))
    order = rng.permutation(height)[:count]
    run_accumulate(dtype(0), order, m, guarded(a), m, guarded(b), n, out, n, n)
    want = 3 + a[order].T.astype(np.longdouble) @ b[order]
    size = 3 + np.abs(a[order]).T @ np.abs(b[order])
    bound = (count + 1) * np.finfo(dtype).eps * size
    assert_within(out[GUARD:-GUARD].reshape(m, n), want, bound)
    assert np.isnan(out[:GUARD]).all()
    assert np.isnan(out[-GUARD:]).all()


# entries


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", TRAINS)
@pytest.mark.parametrize("batch", [0, 1, 37, 301])
def test_both_backends_give_the_entries_and_gradients(name, dtype, batch, small_blocks):
    x = train(name, dtype)
    index = indices(x.shape, batch)
    gy = normal(batch, dtype)
    exact, size = entries(x.cores, index)
    for backend in (portable, cpu):
        got = backend.gather(x.cores, index)
        assert got.dtype == dtype
        assert_within(got, exact, gamma(dtype, x) * size)
        assert_gradients(backend.gather_backward(x.cores, index, gy), x.cores, index, gy)


@given(x=tt_tensors(), batch=st.integers(0, 30), seed=st.integers(0, 99), wide=st.booleans())
def test_gather_and_its_gradients_by_definition(x, batch, seed, wide):
    index = indices(x.shape, batch, seed)
    gy = normal(batch, x.dtype)
    exact = dense(x)[tuple(index.T)]
    assert_within(x.gather(index), exact, gamma(x.dtype, x) * magnitude(x)[tuple(index.T)])
    index = index.astype(np.int64 if wide else np.int16)
    cores = [np.asarray(core, x.dtype) for core in x.cores]
    assert_gradients(indexing.gather_backward(x.cores, index, gy), cores, index, gy)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_layout_of_the_arrays_changes_no_bit(layout, dtype, small_blocks):
    x = train("primes", dtype)
    index = indices(x.shape, 100)
    gy = normal(100, dtype)
    changed = [LAYOUTS[layout](a) for a in (*x.cores, index, gy)]
    for a in changed:
        a.flags.writeable = False
    *cores, other, other_gy = changed
    assert cpu.gather(tuple(cores), other).tobytes() == cpu.gather(x.cores, index).tobytes()
    got = cpu.gather_backward(tuple(cores), other, other_gy)
    want = cpu.gather_backward(x.cores, index, gy)
    for g, h in zip(got, want, strict=True):
        np.testing.assert_array_equal(g, h)


@pytest.mark.parametrize("name", ["many small", "primes"])
def test_the_bits_do_not_depend_on_the_number_of_workers(name, small_blocks, monkeypatch):
    monkeypatch.setattr(pool, "usable_cpus", lambda: 8)
    x = train(name, np.float64)
    index = indices(x.shape, 3000)
    gy = normal(3000, np.float64)
    found = []
    for workers in (1, 2, 5):
        every = (
            cpu.gather(x.cores, index, workers),
            *cpu.gather_backward(x.cores, index, gy, workers),
        )
        found.append(b"".join(a.tobytes() for a in every))
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [name for name in TRAINS if name != "one core"])
def test_the_programs_stay_inside_their_buffers(name, dtype, small_blocks, monkeypatch):
    """Scratch of NaN between walls, and walls of NaN around the cores."""
    lent = []

    def take(entries, kind):
        fill = np.nan if kind.kind == "f" else -(2**40)
        whole = np.full(entries + 2 * GUARD, fill, kind)
        lent.append((whole, fill))
        return whole[GUARD:-GUARD]

    monkeypatch.setattr(cpu, "take", take)
    monkeypatch.setattr(cpu, "give", lambda buffer: None)
    monkeypatch.setattr(cpu, "aligned_array", take)
    x = train(name, dtype)
    index = indices(x.shape, 100)
    gy = normal(100, dtype)
    exact, size = entries(x.cores, index)
    assert_within(cpu.gather(x.cores, index), exact, gamma(dtype, x) * size)
    assert_gradients(cpu.gather_backward(x.cores, index, gy), x.cores, index, gy)
    assert len(lent) >= 4
    for whole, fill in lent:
        for wall in (whole[:GUARD], whole[-GUARD:]):
            np.testing.assert_array_equal(wall, np.full(GUARD, fill, whole.dtype))


def test_cores_are_merged_where_it_pays_and_nowhere_else():
    def groups(modes, rank, batch):
        ranks = (1, *[rank] * (len(modes) - 1), 1)
        return cpu._grouped(modes, ranks, batch, 8, 1024, gradients=False)

    few = groups((4,) * 20, 8, 100)
    many = groups((4,) * 20, 8, 10**6)
    assert len(many) < len(few)
    for found in (few, many, groups((3, 2), 1, 10**6), groups((2,) * 30, 1, 10**9)):
        assert len(found) >= 2
        assert [k for first, last in found for k in range(first, last)] == [*range(found[-1][1])]
    assert len(groups((3000,) * 5, 30, 10**6)) == 5  # no merged core would fit


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_what_is_not_finite_reaches_its_entries_and_no_other(value, place):
    cores = [np.array(core) for core in train("primes", np.float64).cores]
    cores[place][0, 2, 0] = value
    index = indices((5, 7, 13), 500)
    with np.errstate(invalid="ignore"):
        got, want = (f.gather(tuple(cores), index) for f in (cpu, portable))
    touched = index[:, place] % cores[place].shape[1] == 2
    np.testing.assert_array_equal(np.isfinite(got), ~touched)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))


@pytest.mark.parametrize("backend", [portable, cpu])
def test_gradients_are_difference_quotients(backend):
    """Entries are linear in each number of a core: central differences have no truncation error."""
    x = train("two cores", np.float64)
    index = indices(x.shape, 50)
    gy = normal(50, np.float64)
    got = backend.gather_backward(x.cores, index, gy)
    for k, core in enumerate(x.cores):
        for place in np.ndindex(core.shape):
            losses = []
            for step in (0.5, -0.5):
                cores = [np.array(c) for c in x.cores]
                cores[k][place] += step
                losses.append(gy @ portable.gather(tuple(cores), index))
            assert abs(got[k][place] - (losses[0] - losses[1])) <= 1e3 * 2**-52 * np.abs(gy).sum()


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
def test_gradients_are_those_of_torch(dtype):
    torch = pytest.importorskip("torch", reason="torch is the oracle")
    x = train("primes", dtype)
    index = indices(x.shape, 60)
    gy = normal(60, dtype)
    leaves = [torch.tensor(np.array(core), requires_grad=True) for core in x.cores]
    y = indexing.gather(leaves, index)
    y.backward(torch.tensor(gy))
    of_torch = indexing.gather_backward(leaves, torch.tensor(index), torch.tensor(gy))
    of_numpy = indexing.gather_backward(x.cores, index, gy)
    for leaf, g, h in zip(leaves, of_torch, of_numpy, strict=True):
        bound = 200 * np.finfo(dtype).eps * float(leaf.grad.abs().max())
        assert_within(g.detach().numpy(), leaf.grad.numpy(), bound)
        assert_within(h, leaf.grad.numpy(), bound)


def test_the_scale_of_the_cores_does_not_matter():
    x = train("primes", np.float64)
    index, gy = indices(x.shape, 30), np.ones(30)
    shifts = [-900, 300, 600]
    cores = [core * 2.0**e for core, e in zip(x.cores, shifts, strict=True)]
    bound = gamma(np.float64, x)
    got, want = indexing.gather(cores, index), x.gather(index)
    assert_within(got, want, 2 * bound * entries(x.cores, index)[1])
    got = indexing.gather_backward([2.0**-40 * core for core in cores], index, gy)
    want = gradients(x.cores, index, gy)
    sizes = gradients([np.abs(core) for core in x.cores], index, gy)
    for g, h, size, e in zip(got, want, sizes, shifts, strict=True):
        assert_within(g * 2.0**e * 2.0**80, h, 2 * (bound + 64 * 2**-52) * size)


def test_a_real_core_gets_the_real_part():
    x = train("two cores", np.float64)
    index, gy = indices(x.shape, 9), np.arange(9) * (1 + 2j)
    assert_gradients(indexing.gather_backward(x.cores, index, gy), x.cores, index, gy.real)


def test_large_calls_of_real_arrays_are_compiled(monkeypatch):
    called = []
    original = dispatch.gather
    monkeypatch.setattr(dispatch, "gather", lambda c: called.append(c) or original(c))
    x = tt.random((4,) * 10, 8, rng=0)
    long = tt.random((3, 10_000, 3), 8, rng=0)  # a few slices of many
    for cores, batch in [(x, 10), (x, 1000), (x * 1j, 1000), (long, 5000)]:
        index = np.zeros((batch, cores.ndim), int)
        cores.gather(index)
        indexing.gather_backward(cores.cores, index, np.ones(batch))
    assert called == [False, False, True, True, False, False, False, False]


@pytest.mark.parametrize(
    ("index", "error", "words"),
    [
        ([[0, 0]], tt.TTShapeError, ["(1, 2)", "(batch, 3)"]),
        ([[0, 3, 0]], tt.TTIndexError, ["indices[0, 1] = 3", "size 3"]),
        (np.array([[0, 0, 2**64 - 1]], np.uint64), tt.TTIndexError, ["indices[0, 2]"]),
        ([[0, 0, np.iinfo(np.int64).max]], tt.TTIndexError, ["indices[0, 2]"]),
        ([[0, np.iinfo(np.int64).min, 0]], tt.TTIndexError, ["indices[0, 1]"]),
    ],
    ids=str,
)
def test_wrong_indices_are_refused(index, error, words):
    x = tt.ones((2, 3, 4))
    for call in (
        lambda: indexing.gather(x.cores, index),
        lambda: indexing.gather_backward(x.cores, index, np.ones(1)),
    ):
        with pytest.raises(error) as caught:
            call()
        assert [word for word in words if word not in str(caught.value)] == []


def test_a_wrong_index_behind_many_right_ones_is_named():
    index = np.zeros((10_000, 3), int)
    index[9_999, 2] = -5
    with pytest.raises(tt.TTIndexError, match=r"indices\[9999, 2\] = -5"):
        tt.ones((2, 3, 4)).gather(index)


def test_a_gradient_of_another_length_is_refused():
    x = tt.ones((2, 3, 4))
    with pytest.raises(tt.TTShapeError, match=r"\(2,\).*\(1,\)"):
        indexing.gather_backward(x.cores, [[0, 0, 0]], np.ones(2))
    with pytest.raises(tt.TTValueError, match="workers=0"):
        x.gather([[0, 0, 0]], workers=0)


# rows of a matrix

MATRICES = {  # row modes, column modes, rank
    "one core": ((5,), (3,), 1),
    "two cores": ((3, 4), (2, 5), 3),
    "modes of 1": ((1, 4, 1), (2, 1, 3), 2),
    "primes": ((5, 7, 3), (3, 5, 7), 11),
    "many small": ((2,) * 7, (3, 1, 2, 1, 2, 2, 2), 5),
}


def matrix(name, dtype):
    modes, cols, rank = MATRICES[name]
    ranks = [1, *[rank] * (len(modes) - 1), 1]
    return tt.random_matrix(modes, cols, ranks, rng=0, dtype=dtype)


def assert_rows(W, index, gy, backward):
    """The gradients against those of W.T times columns of the identity."""
    cores = tuple(np.asarray(core, W.dtype).transpose(0, 2, 1, 3) for core in W.cores)
    chosen = np.eye(W.shape[0])[index]
    _, want = matvec_gradients(cores, chosen, gy)
    _, size = matvec_gradients([np.abs(core) for core in cores], chosen, np.abs(gy))
    bound = gamma(W.dtype, W) + 4 * (len(gy) + 8) * np.finfo(W.dtype).eps
    for g, h, s in zip(backward, want, size, strict=True):
        assert_within(g, h.transpose(0, 2, 1, 3), bound * s.transpose(0, 2, 1, 3))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.parametrize("worth", [0, math.inf], ids=["compiled", "portable"])
@pytest.mark.parametrize("batch", [0, 1, 37, 301])
def test_both_backends_give_rows_and_gradients(name, dtype, batch, worth, monkeypatch):
    monkeypatch.setattr(rows, "WORTH", worth)
    monkeypatch.setattr(portable_rows, "CHUNK_BYTES", 1000)
    W = matrix(name, dtype)
    rng = np.random.default_rng(0)
    index = rng.integers(-W.shape[0], W.shape[0], batch)
    gy = rng.standard_normal((batch, W.shape[1])).astype(dtype)
    got = W.gather_rows(index)
    assert got.dtype == dtype
    assert_within(got, dense_matrix(W)[index], gamma(dtype, W) * magnitude(W)[index])
    assert_rows(W, index, gy, rows.gather_rows_backward(W.cores, index, gy))


@given(W=tt_matrices(), batch=st.integers(0, 30), seed=st.integers(0, 99), data=st.data())
def test_rows_columns_and_gradients_by_definition(W, batch, seed, data):
    rng = np.random.default_rng(seed)
    index = rng.integers(-W.shape[0], W.shape[0], batch)
    gy = normal((batch, W.shape[1]), W.dtype)
    A, size, bound = dense_matrix(W), magnitude(W), gamma(W.dtype, W)
    assert_within(W.gather_rows(index), A[index], bound * size[index])
    assert_rows(W, index, gy, rows.gather_rows_backward(W.cores, index, gy))
    columns = data.draw(st.lists(st.integers(-W.shape[1], W.shape[1] - 1), max_size=5))
    got = W.gather_columns(np.array(columns, int))
    assert_within(got, A.T[columns].reshape(got.shape), bound * size.T[columns].reshape(got.shape))


@pytest.mark.parametrize("distinct", range(1, 12))
def test_every_place_of_the_cut_gives_the_same_rows(distinct, monkeypatch):
    W = matrix("many small", np.float64)
    index = np.arange(distinct)
    gy = np.random.default_rng(0).standard_normal((distinct, W.shape[1]))
    for cut in range(8):
        monkeypatch.setattr(rows, "_split", lambda shapes, count, cut=cut: cut)
        got = W.gather_rows(index)
        assert_within(got, dense_matrix(W)[index], gamma(W.dtype, W) * magnitude(W)[index])
        assert_rows(W, index, gy, rows.gather_rows_backward(W.cores, index, gy))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("worth", [0, math.inf], ids=["compiled", "portable"])
def test_the_layout_changes_no_bit_of_rows(layout, worth, monkeypatch):
    monkeypatch.setattr(rows, "WORTH", worth)
    W = matrix("primes", np.float64)
    rng = np.random.default_rng(0)
    index, gy = rng.integers(105, size=50), rng.standard_normal((50, 105))
    changed = [LAYOUTS[layout](a) for a in (*W.cores, index, gy)]
    for a in changed:
        a.flags.writeable = False
    *cores, other, other_gy = changed
    np.testing.assert_array_equal(rows.gather_rows(cores, other), W.gather_rows(index))
    for g, h in zip(
        rows.gather_rows_backward(cores, other, other_gy),
        rows.gather_rows_backward(W.cores, index, gy),
        strict=True,
    ):
        np.testing.assert_allclose(g, h, rtol=1e-13, atol=1e-13)


def test_the_bits_of_rows_do_not_depend_on_the_number_of_workers(monkeypatch):
    monkeypatch.setattr(pool, "usable_cpus", lambda: 8)
    monkeypatch.setattr(rows, "WORTH", 0)
    monkeypatch.setattr(cpu_rows, "GRAIN", 1)
    monkeypatch.setattr("ttcore.linear.usable_cpus", lambda: 8)
    W = matrix("primes", np.float64)
    rng = np.random.default_rng(0)
    index, gy = rng.integers(105, size=500), rng.standard_normal((500, 105))
    found = []
    for workers in (1, 2, 5):
        every = (
            rows.gather_rows(W.cores, index, workers=workers),
            *rows.gather_rows_backward(W.cores, index, gy, workers=workers),
        )
        found.append(b"".join(a.tobytes() for a in every))
    assert found[0] == found[1] == found[2]


def test_repeated_rows_are_computed_once(monkeypatch):
    W = matrix("primes", np.float64)
    counts = []
    original = portable_rows.products

    def products(left, right, first, second, which, workers=None):
        counts.append((first.size, which.size))
        return original(left, right, first, second, which, workers)

    monkeypatch.setattr(portable_rows, "products", products)
    W.gather_rows(np.array([4, -1, 104, 4, 4, 104]))  # two rows
    assert counts[-1] == (2, 6)
    assert max(distinct for distinct, _ in counts) == 2


def test_rows_beyond_the_range_of_ints():
    W = tt.random_matrix((2,) * 70, (1,) * 68 + (2, 3), 3, rng=0)
    index = [5, -1, -(2**62), 2**62 + 12345]
    got = W.gather_rows(index)
    for b, i in enumerate(index):
        want = np.array([W[i, j] for j in range(6)])
        np.testing.assert_allclose(got[b], want, rtol=1e-10, atol=1e-12 * np.abs(want).max())


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_gradients_of_rows_are_those_of_torch(dtype):
    torch = pytest.importorskip("torch", reason="torch is the oracle")
    W = matrix("primes", dtype)
    index = np.random.default_rng(0).integers(105, size=50)
    gy = normal((50, 105), dtype)
    leaves = [torch.tensor(np.array(core), requires_grad=True) for core in W.cores]
    y = rows.gather_rows(leaves, torch.tensor(index))
    y.backward(torch.tensor(gy))
    table = torch.tensor(W.to_dense())
    np.testing.assert_allclose(
        y.detach().numpy(), torch.nn.functional.embedding(torch.tensor(index), table), atol=1e-12
    )
    of_torch = rows.gather_rows_backward(leaves, index, torch.tensor(gy))
    of_numpy = rows.gather_rows_backward(W.cores, index, gy)
    for leaf, g, h in zip(leaves, of_torch, of_numpy, strict=True):
        bound = 1e3 * np.finfo(dtype).eps * float(leaf.grad.abs().max())
        assert_within(g.detach().numpy(), leaf.grad.numpy(), bound)
        assert_within(h, leaf.grad.numpy(), bound)


def test_nan_stays_in_its_rows(monkeypatch):
    for worth in (0, math.inf):
        monkeypatch.setattr(rows, "WORTH", worth)
        cores = [np.array(core) for core in matrix("primes", np.float64).cores]
        cores[1][0, 2, 0, 0] = np.nan
        index = np.arange(105)
        touched = index // 3 % 7 == 2
        got = np.isnan(rows.gather_rows(cores, index))
        np.testing.assert_array_equal(got.any(axis=1), touched)


def test_scales_of_rows_are_evened():
    W = matrix("primes", np.float64)
    shifts = [-900, 300, 600]
    cores = [core * 2.0**e for core, e in zip(W.cores, shifts, strict=True)]
    index, gy = np.arange(50), np.ones((50, 105))
    bound = gamma(W.dtype, W)
    got = rows.gather_rows(cores, index)
    assert_within(got, dense_matrix(W)[index], bound * magnitude(W)[index])
    backward = rows.gather_rows_backward(cores, index, gy)
    assert_rows(W, index, gy, [g * 2.0**e for g, e in zip(backward, shifts, strict=True)])


@pytest.mark.parametrize(
    ("index", "error", "words"),
    [
        ([[0, 1]], tt.TTShapeError, ["(1, 2)", "reshape(-1)"]),
        (3, tt.TTShapeError, ["()"]),
        ([0, 105], tt.TTIndexError, ["index 1", "105"]),
        ([0, 1, -106], tt.TTIndexError, ["index 2", "-106"]),
        ([0.0], tt.TTIndexError, ["float64"]),
        (np.array([2**64 - 1], np.uint64), tt.TTIndexError, ["index 0"]),
    ],
    ids=str,
)
def test_wrong_rows_are_refused(index, error, words):
    W = matrix("primes", np.float64)
    for call in (
        lambda: W.gather_rows(index),
        lambda: W.gather_columns(index),
        lambda: rows.gather_rows_backward(W.cores, index, np.ones((1, 105))),
    ):
        with pytest.raises(error) as caught:
            call()
        assert [word for word in words if word not in str(caught.value)] == []


def test_rows_that_no_memory_holds_are_refused():
    W = tt.random_matrix((2,) * 70, (2,) * 70, 2, rng=0)
    with pytest.raises(tt.TTSizeError, match="1180591620717411303424"):
        W.gather_rows([0])
    with pytest.raises(tt.TTShapeError, match=r"\(1, 3\)"):
        rows.gather_rows_backward(matrix("primes", np.float64).cores, [0], np.ones((1, 3)))


@given(
    groups=st.lists(st.integers(0, 6), max_size=40),
    count=st.integers(7, 9),
    dtype=st.sampled_from(["f4", "c16"]),
)
def test_sums_of_groups(groups, count, dtype):
    numbers = np.array(groups, np.intp)
    x = np.random.default_rng(0).integers(-9, 9, (numbers.size, 2, 3)).astype(dtype)
    want = np.zeros((count, 2, 3), dtype)
    np.add.at(want, numbers, x)
    np.testing.assert_array_equal(summed(x, numbers, count), want)
