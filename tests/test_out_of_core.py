"""Arrays read in blocks: the same promise, in the memory that the promise leaves."""

import json
import math
import subprocess
import sys
import threading
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ttcore as tt
from ttcore import sources, streaming
from ttcore.mapped import Mapped
from ttcore.testing import DTYPES, dense, dense_matrix

TOLERANCES = [None, 1e-1, 1e-3, 1e-6, 1e-9]
SHAPES = [
    (16, 6, 7, 8),
    (4, 4, 4, 4, 4, 4),
    (1, 13, 1, 17, 5, 1),
    (2, 3000),
    (3000, 2),
    (50, 2, 50),
]


class Recorded:
    """An array that is nothing but a source of slices, and what was read of it."""

    def __init__(self, array):
        self._array = array
        self.shape, self.dtype = array.shape, array.dtype
        self.read, self.largest = 0, 0
        self._lock = threading.Lock()

    def __getitem__(self, key):
        assert self._lock.acquire(blocking=False), "two threads at a time"
        assert all(isinstance(k, slice) for k in (key if isinstance(key, tuple) else (key,)))
        piece = self._array[key]
        self.read += piece.size
        self.largest = max(self.largest, piece.size)
        self._lock.release()
        return piece

    @property
    def passes(self):
        return self.read / self._array.size


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """So that tiny data span many blocks, and little is kept."""
    monkeypatch.setattr(streaming, "BLOCK", 500)
    monkeypatch.setattr(streaming, "STATE", 2**14)
    monkeypatch.setattr(sources, "SMALL", 0)


def floor(a, shape):
    """See test_decompose."""
    unit = np.finfo(a.dtype).eps if a.dtype.kind in "fc" else 2.0**-52
    short = max(min(math.prod(shape[:k]), math.prod(shape[k:])) for k in range(len(shape) + 1))
    return 4 * short * math.sqrt(len(shape)) * float(unit)


def low_rank(shape, dtype, noise=0.0, seed=0):
    rng = np.random.default_rng(seed)
    a = tt.random(shape, 2, rng=rng).to_dense() + noise * rng.standard_normal(shape)
    if np.issubdtype(dtype, np.complexfloating):
        a = a + 1j * tt.random(shape, 2, rng=rng).to_dense()
    return a.astype(dtype)


def smooth(shape):
    return 1 / (1 + sum(np.ix_(*(np.arange(n) / n for n in shape))))


def check(a, eps, made=Recorded):
    """The promise, and the truth of the report; returns the source and the ranks."""
    source = made(a)
    x, info = tt.from_dense(source, eps=eps, full_output=True)
    size = float(np.linalg.norm(a.ravel()))
    error = float(np.linalg.norm((dense(x) - a).ravel()))
    rounding = floor(a, a.shape) * size
    assert x.shape == a.shape
    assert error <= (eps or 0) * size + rounding
    assert error <= info.error * size + rounding
    if info.error_kind == "measured":
        assert info.error * size <= error + rounding
    assert error <= math.hypot(*info.discarded, 0) + rounding or info.error_kind == "bound"
    return source, x.ranks


@pytest.mark.parametrize("eps", TOLERANCES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_error_is_at_most_eps_times_norm(dtype, shape, eps):
    check(low_rank(shape, dtype), eps)
    check(low_rank(shape, dtype, noise=1e-4), eps)


@pytest.mark.parametrize("eps", TOLERANCES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_smooth_and_random_arrays_keep_the_promise(shape, eps):
    check(smooth(shape), eps)
    check(np.random.default_rng(0).standard_normal(shape), eps)


@given(
    st.integers(0, 2**32 - 1),
    st.lists(st.integers(1, 9), min_size=1, max_size=6),
    st.sampled_from(TOLERANCES),
    st.integers(-8, 8),
)
def test_any_shape_with_a_row_of_its_own(seed, shape, eps, exponent):
    """One entry line of any size, which hardly any sample shows."""
    rng = np.random.default_rng(seed)
    a = low_rank(shape, np.float64, seed=seed)
    a[tuple(rng.integers(0, n) for n in shape[:-1])] *= 10.0**exponent
    check(a, eps)


@pytest.mark.parametrize("spectrum", [np.logspace(0, -14, 64), np.ones(64), 1 / np.arange(1, 65)])
@pytest.mark.parametrize("eps", [1e-2, 1e-5, 1e-8, 1e-11])
def test_hard_spectra_keep_the_promise(spectrum, eps):
    rng = np.random.default_rng(0)
    u, v = (np.linalg.qr(rng.standard_normal((n, 64)))[0] for n in (2**12, 64))
    check(((u * spectrum) @ v.T).reshape((4,) * 9), eps)


def test_blocks_are_small_and_low_ranks_are_found_in_one_pass():
    source, ranks = check(low_rank((4,) * 9, np.float64, noise=1e-10), 1e-6)
    assert source.largest <= streaming.BLOCK
    assert source.passes <= 1.5  # and a sample
    assert ranks == (1, *(2,) * 8, 1)


def test_smooth_arrays_are_read_once(monkeypatch):
    monkeypatch.setattr(streaming, "STATE", 2**20)
    source, _ = check(smooth((8,) * 6), 1e-6)
    assert source.passes <= 1.5


def test_no_gram_matrix_is_made_where_reflections_follow(monkeypatch):
    monkeypatch.setattr(streaming, "STATE", 2**20)
    source, _ = check(np.random.default_rng(0).standard_normal((4,) * 8), 1e-12)
    assert source.passes <= 2.5  # a sample, the triangle, the projection


def test_the_ranks_are_those_of_the_array_in_memory():
    for a in (low_rank((4,) * 8, np.float64, noise=1e-5), smooth((8,) * 5)):
        for eps in (1e-2, 1e-3, 1e-8):
            assert tt.from_dense(Recorded(a), eps=eps).ranks == tt.from_dense(a, eps=eps).ranks


def test_max_rank_is_kept_and_the_error_reported():
    a = smooth((8,) * 5)
    x, info = tt.from_dense(Recorded(a), max_rank=2, full_output=True)
    assert max(x.ranks) == 2
    error = np.linalg.norm(x.to_dense() - a) / np.linalg.norm(a)
    assert error <= info.error + 1e-14
    assert error <= 1.1 * tt.from_dense(a, max_rank=2, full_output=True)[1].error


@pytest.mark.parametrize("c", [1e-300, 1e-160, 1e160, 1e300])
def test_nothing_depends_on_the_scale(c):
    a = smooth((6,) * 5)
    for eps in (1e-2, 1e-8, None):
        x = tt.from_dense(Recorded(a * c), eps=eps)
        assert x.ranks == tt.from_dense(Recorded(a), eps=eps).ranks
        error = np.linalg.norm(x.to_dense() / c - a)
        assert error <= ((eps or 0) + floor(a, a.shape)) * np.linalg.norm(a)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [(0, 0, 0), (7, 3, 12), (29, 19, 19)])
def test_what_is_not_finite_is_refused_by_its_place(value, place):
    a = low_rank((30, 20, 20), np.float64)
    a[place] = value
    with pytest.raises(tt.TTValueError, match="NaN or Inf.*" + r"\({}, {}, {}\)".format(*place)):
        tt.from_dense(Recorded(a), eps=1e-3)


@pytest.mark.parametrize("dtype", [np.float16, np.int16, np.uint8, np.bool_, ">f8", ">c8"], ids=str)
def test_other_dtypes_are_converted_block_by_block(dtype):
    a = (np.arange(12_000) % 7 % 2).reshape(30, 20, 20).astype(dtype)
    x = tt.from_dense(Recorded(a))
    assert x.dtype == tt.from_dense(a[:1]).dtype
    wide = a.astype(x.dtype)
    assert np.linalg.norm(x.to_dense() - wide) <= floor(wide, a.shape) * np.linalg.norm(wide)


def test_zero_is_a_train_of_ranks_one():
    assert tt.from_dense(Recorded(np.zeros((30, 20, 20)))).ranks == (1, 1, 1, 1)


def test_one_mode_is_loaded():
    a = np.arange(1000.0)
    np.testing.assert_array_equal(tt.from_dense(Recorded(a)).to_dense(), a)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("mode", ["r", "r+", "c"])
def test_memmaps(tmp_path, order, mode):
    a = np.asarray(low_rank((20, 30, 40), np.float64), order=order)
    np.save(tmp_path / "a.npy", a)
    mapped = np.load(tmp_path / "a.npy", mmap_mode=mode)
    if mode != "r":
        a = a.copy()
        mapped[3] = a[3] = 1.0  # in a copy-on-write map, in memory alone
    check(a, 1e-8, made=lambda _: mapped)
    check(a[::2, ::-1], 1e-8, made=lambda _: mapped[::2, ::-1])
    check(a.T, 1e-8, made=lambda _: mapped.T)
    assert (mapped == a).all()


@pytest.mark.parametrize("fate", ["replaced", "removed"])
def test_a_mapped_file_is_read_whatever_its_name_stands_for_now(tmp_path, fate):
    a = low_rank((20, 30, 40), np.float64)
    path = tmp_path / "a.npy"
    np.save(path, a)
    mapped = np.load(path, mmap_mode="r")
    path.unlink()
    if fate == "replaced":
        np.save(path, np.zeros_like(a))
    check(a, 1e-8, made=lambda _: mapped)


def test_a_map_may_begin_anywhere_in_its_file(tmp_path):
    a = low_rank((20, 30, 40), np.float64)
    (tmp_path / "a").write_bytes(bytes(10_008) + a.tobytes())
    mapped = np.memmap(tmp_path / "a", a.dtype, "r", offset=10_008, shape=a.shape)
    check(a, 1e-8, made=lambda _: mapped)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the map itself is read")
def test_a_mapped_file_is_read_without_its_pages(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(1000.0))
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    out = np.empty(300)
    assert Mapped(mapped).read(mapped[100:400], out)
    np.testing.assert_array_equal(out, np.arange(100.0, 400.0))
    with (tmp_path / "a.npy").open("r+b") as file:
        file.truncate(128 + 8 * 150)
    with pytest.raises(EOFError, match="within the array"):
        Mapped(mapped).read(mapped[100:400], out)


class Doubled(np.memmap):
    """Its slices are arrays elsewhere."""

    def __getitem__(self, key):
        return 2.0 * np.asarray(super().__getitem__(key))


def test_a_map_may_give_slices_that_lie_elsewhere(tmp_path):
    a = low_rank((20, 30, 40), np.float64)
    np.save(tmp_path / "a.npy", a)
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r").view(Doubled)
    check(2.0 * a, 1e-8, made=lambda _: mapped)


def test_only_plain_memmaps_are_read_by_two_threads(tmp_path):
    array = np.zeros((4, 4))
    array.tofile(tmp_path / "a")
    mapped = np.memmap(tmp_path / "a", float, "r", shape=(4, 4))
    found = [sources.Source(a, "a", None).readers for a in (mapped, mapped.view(Doubled), array)]
    assert found == [2, 1, 1]


@pytest.mark.parametrize("chunks", [None, (7, 7, 7)])
def test_data_sets_of_hdf5(tmp_path, chunks):
    h5py = pytest.importorskip("h5py")
    a = low_rank((20, 30, 40), np.float32)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        data = file.create_dataset("a", data=a, chunks=chunks)
        check(a, 1e-4, made=lambda _: data)
        wide = file.create_dataset("wide", data=a.reshape(4, -1), chunks=chunks and (2, 100))
        check(a.reshape(4, -1), 1e-4, made=lambda _: wide)


@pytest.mark.parametrize("eps", TOLERANCES)
@pytest.mark.parametrize(
    "shape",
    [
        ((2, 3, 4), (5, 6, 1)),
        ((1, 8, 1), (8, 1, 9)),
        ((7,) * 3, (7,) * 3),
        ((2, 100), (2, 60)),  # tall from the wrong end only
    ],
    ids=str,
)
def test_matrices_are_permuted_block_by_block(shape, eps):
    rows, cols = shape
    rng = np.random.default_rng(0)
    for A in (
        dense_matrix(tt.random_matrix(rows, cols, 2, rng=0)).astype(float),
        rng.standard_normal((math.prod(rows), math.prod(cols))),
    ):
        for source in (Recorded(A), A):
            W, info = tt.matrix_from_dense(source, rows, cols, eps=eps, full_output=True)
            assert (W.row_modes, W.col_modes) == (tuple(rows), tuple(cols))
            pairs = [m * n for m, n in zip(rows, cols, strict=True)]
            error, size = np.linalg.norm(dense_matrix(W) - A), np.linalg.norm(A)
            assert error <= ((eps or 0) + floor(A, pairs)) * size
            assert error <= (info.error + floor(A, pairs)) * size


@pytest.mark.parametrize("eps", [0.3, 0.1, 1e-2])
def test_a_large_matrix_in_memory_has_the_ranks_of_a_small_one(monkeypatch, eps):
    """It may be read again, so that no budget goes to what a sample missed."""
    monkeypatch.setattr(streaming, "BLOCK", 2**16)
    rows = cols = (48, 4, 4)
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.standard_normal((256, 256)))[0]
    left = np.linalg.qr(rng.standard_normal((2304, 256)))[0] * 0.95 ** np.arange(256)
    A = (left @ basis.T).reshape(48, 48, 4, 4, 4, 4).transpose(0, 2, 4, 1, 3, 5).reshape(768, 768)
    found = []
    for small in (0, 2**30):
        monkeypatch.setattr(sources, "SMALL", small)
        found.append(tt.matrix_from_dense(A, rows, cols, eps=eps, full_output=True))
    (W, info), (V, expected) = found
    assert W.ranks == V.ranks
    assert info.error_kind == expected.error_kind == "measured"
    assert info.error == pytest.approx(expected.error, rel=1e-6)


def test_a_large_matrix_in_memory_is_not_copied_whole(monkeypatch):
    monkeypatch.undo()  # blocks of the usual size
    modes = (4,) * 6
    A = tt.random_matrix(modes, modes, 2, rng=0).to_dense()
    tracemalloc.start()
    try:
        W = tt.matrix_from_dense(A, modes, modes, eps=1e-6)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert W.ranks == (1, 2, 2, 2, 2, 2, 1)
    assert peak < A.nbytes / 2


def test_what_is_not_finite_in_a_matrix_is_named_by_row_and_column():
    A = np.ones((24, 30))
    A[17, 23] = np.nan
    with pytest.raises(tt.TTValueError, match=r"\(17, 23\)"):
        tt.matrix_from_dense(Recorded(A), (2, 3, 4), (5, 3, 2))


def test_a_source_that_gives_something_else_is_refused():
    class Wrong(Recorded):
        def __getitem__(self, key):
            return super().__getitem__(key)[..., :-1]

    with pytest.raises(tt.TTShapeError, match="gave float64 of shape"):
        tt.from_dense(Wrong(np.ones((30, 20, 20))))


def test_an_error_of_the_source_is_raised():
    class Broken(Recorded):
        def __getitem__(self, key):
            if self.read > 5000:
                raise OSError("the disk is gone")
            return super().__getitem__(key)

    with pytest.raises(OSError, match="gone"):
        tt.from_dense(Broken(np.ones((30, 20, 20))))


def test_bits_do_not_depend_on_workers(monkeypatch):
    a = low_rank((4,) * 10, np.float64, noise=1e-9)
    monkeypatch.setattr(streaming, "BLOCK", 2**18)
    found = []
    for workers in (1, 2, 5):
        monkeypatch.setattr("ttcore.kernels.cpu.pool.usable_cpus", lambda n=workers: n)
        found.append(b"".join(g.tobytes() for g in tt.from_dense(Recorded(a), eps=1e-6).cores))
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("made", [np.asarray, Recorded])
def test_progress_counts_the_bytes_read(made, capsys):
    pytest.importorskip("tqdm")
    tt.from_dense(made(smooth((8,) * 5)), eps=1e-3, progress=True)
    assert "100%" in capsys.readouterr().err
    A = np.ones((16, 16))
    tt.matrix_from_dense(made(A), (4, 4), (4, 4), progress=True)
    assert "100%" in capsys.readouterr().err


def test_progress_needs_tqdm(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    with pytest.raises(tt.TTValueError, match=r"ttcore\[cli\]"):
        tt.from_dense(np.ones((2, 2)), progress=True)


SCRIPT = """
import json, os, resource, sys
import numpy as np
import ttcore as tt

class Generated:
    '''2 GiB of rank 3, never all in memory.'''
    shape, dtype = (2, *(4,) * 13, 2), np.dtype(np.float64)

    def __getitem__(self, key):
        key = key if isinstance(key, tuple) else (key,)
        axes = [np.arange(n) for n in self.shape]
        parts = np.ix_(*(x[k] for x, k in zip(axes, key)), *axes[len(key):])
        total = sum(x * (0.1 + k) for k, x in enumerate(parts))
        return np.sin(total) + 0.5

rng = np.random.default_rng(0)
small = tt.random((4,) * 10, 3, rng=0).to_dense()
tt.from_dense(small, eps=1e-8)  # kernels are compiled
if sys.argv[1] == "cap":
    pages = int(open("/proc/self/statm").read().split()[0])
    cap = pages * os.sysconf("SC_PAGE_SIZE") + 400 * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (cap, cap))
x, info = tt.from_dense(Generated(), eps=1e-8, full_output=True)
entries = np.array([[rng.integers(n) for n in x.shape] for _ in range(100)])
want = [Generated()[tuple(slice(i, i + 1) for i in row)].item() for row in entries]
print(json.dumps({"ranks": x.ranks, "error": info.error,
                  "off": float(np.abs(x.gather(entries) - want).max())}))
"""


def test_two_gib_in_a_fifth_of_that():
    pytest.importorskip("resource", reason="the memory cap needs the resource module (POSIX)")
    if sys.platform != "linux":
        pytest.skip("the memory in use is read from /proc")
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, "cap"],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    answer = json.loads(run.stdout.splitlines()[-1])
    assert max(answer["ranks"]) == 3
    assert answer["error"] <= 1e-8
    assert answer["off"] <= 1e-6
