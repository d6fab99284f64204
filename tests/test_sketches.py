"""The compiled sketch: against the plain one, on odd sizes, out of range, with any workers."""

import json
import os
import subprocess
import sys
import threading
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import ttcore as tt
from ttcore import sketching
from ttcore.kernels import dispatch
from ttcore.kernels.cpu import sketches
from ttcore.operands import Formed
from ttcore.rowspace import of_few, spans_more

DTYPES = [np.float32, np.float64]


def by_numpy(cores, randoms):
    """Of one set of columns."""
    found, w = [], np.ones((1, 1))
    for core, random in zip(cores, randoms, strict=True):
        half = np.tensordot(core.astype(np.float64), w, 1)
        w = half.reshape(len(core), -1) @ random
        found.append(w)
    return found


def drawn(cores, sizes, dtype):
    """For each core, one random matrix for each set."""
    rng = np.random.default_rng(0)
    return [
        [rng.standard_normal((core.shape[1] * (size if k else 1), size)).astype(dtype)
         for size in sizes]
        for k, core in enumerate(cores)
    ]  # fmt: skip


def swept(cores, randoms, sizes):
    return sketches.products(cores, randoms, sizes, 1e30)


@pytest.mark.parametrize("dtype", DTYPES)
@given(
    modes=st.lists(st.sampled_from([1, 2, 7, 13, 300]), min_size=1, max_size=3),
    ranks=st.lists(st.sampled_from([1, 5, 7, 33]), min_size=3, max_size=3),
    sizes=st.lists(st.sampled_from([1, 3, 10]), min_size=1, max_size=2),
)
def test_products_equal_numpy(dtype, modes, ranks, sizes):
    x = tt.random([2, *modes], ranks[: len(modes)], rng=0, dtype=dtype)
    cores = x.cores[:0:-1]
    randoms = drawn(cores, sizes, dtype)
    found, exponents = swept(cores, randoms, sizes)
    assert len(found) == len(cores)
    total = np.cumsum(exponents, axis=0)
    for t, (first, last) in enumerate(pairwise(np.cumsum([0, *sizes]))):
        each = by_numpy(cores, [random[t] for random in randoms])
        for got, want, shift in zip(found, each, total[:, t], strict=True):
            columns = got[:, first:last].astype(np.float64)
            assert 0.5 <= np.abs(columns).max() < 1.0
            bound = 1e3 * np.finfo(dtype).eps * np.abs(want).max()
            np.testing.assert_allclose(np.ldexp(columns, shift), want, rtol=0, atol=bound)


def test_cores_may_be_read_only_and_have_any_strides():
    x = tt.random((3, 5, 7), 9, rng=0)
    cores = x.cores[:0:-1]
    randoms = drawn(cores, [4], np.float64)
    want, _ = swept(cores, randoms, [4])
    strided = [np.asfortranarray(core) for core in cores]
    for core in strided:
        core.flags.writeable = False
    got, _ = swept(strided, randoms, [4])
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(a, b)


def test_bits_do_not_depend_on_the_number_of_workers(monkeypatch):
    cores = tt.random((3, 40, 30, 20), 60, rng=0).cores[:0:-1]
    randoms = drawn(cores, [22, 10], np.float64)
    want, _ = swept(cores, randoms, [22, 10])
    monkeypatch.setattr(sketches, "usable_cpus", lambda: 1)
    got, _ = swept(cores, randoms, [22, 10])
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("scale", [1e-200, 1.0, 1e200, 0.0])
def test_a_core_out_of_range_ends_the_sweep_and_not_the_sketch(monkeypatch, scale):
    """Of a train that is large enough for the sweep: the rest goes the plain way."""
    cores = list(tt.random((20,) * 10, 100, rng=0).cores)
    cores[3] = cores[3] * scale
    products = []
    for compiled in (True, False):
        if not compiled:
            monkeypatch.setattr(dispatch, "is_sketched", lambda *_: False)
        operand = Formed(tuple(cores))
        assert dispatch.is_sketched(operand.cores[1:], 32) == compiled
        found = sketching._right_products(operand, (10, 22), np.random.default_rng(0))
        products.append((found, operand.exponent))
    (got, e), (want, f) = products
    for one, other in zip(got, want, strict=True):
        assert one.keys() == other.keys()
        for k, (w, shift) in one.items():
            v, expected = other[k]
            size = np.abs(v).max()
            near = np.ldexp(w, shift + e - expected - f)
            np.testing.assert_allclose(near, v, rtol=0, atol=1e-12 * size)


@given(
    rank=st.integers(1, 60),
    columns=st.integers(1, 6),
    noise=st.integers(0, 3),
    seed=st.integers(0, 2**32 - 1),
)
@example(rank=11, columns=3, noise=0, seed=0)  # exactly the most that few may be
def test_what_is_called_hopeless_is_hopeless(rank, columns, noise, seed):
    """Rows that few others span, and rows that none do; the first slices may be noise."""
    rng = np.random.default_rng(seed)
    left = rng.standard_normal((60, rank))
    core = np.tensordot(left, rng.standard_normal((rank, 30, 5)), 1)
    core[:, :noise] = 1e-20 * rng.standard_normal((60, noise, 5))
    w = rng.standard_normal((5, columns))
    rows = np.tensordot(core, w, 1).reshape(60, -1)
    if spans_more(core, w, columns):
        assert of_few(rows, columns) is None
    else:
        assert 3 * (columns + 8) <= 60
        assert noise or rank <= columns + 8 or 30 * columns <= 60


PLANTED = """
import json
import ttcore as tt
x = tt.random((20,) * 8, 20, rng=0)
x = x * (1 / x.norm())
tail = tt.random((20,) * 8, 100, rng=1)
both = x + tail * (1e-10 / tail.norm())
got = both.round(eps=1e-8, method="randomized", rng=0)
print(json.dumps([dispatch.is_sketched(both.cores[1:], 32), max(got.ranks), (got - x).norm()]))
"""


@pytest.mark.parametrize("compiled", [True, False])
def test_rounding_finds_what_was_planted(compiled):
    """Where what is freed is overwritten at once: the kernel works with addresses."""
    change = "" if compiled else "dispatch.is_sketched = lambda *_: False\n"
    code = "from ttcore.kernels import dispatch\n" + change + PLANTED
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "MALLOC_PERTURB_": "165"},
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    sketched, rank, error = json.loads(done.stdout)
    assert sketched == compiled
    assert rank == 20
    assert error < 1e-8


def test_a_helper_asks_for_its_room_before_it_enters(monkeypatch):
    """Where there is none it leaves all to the caller, who does not wait for it."""
    cores = tt.random((3, 40, 30, 20), 60, rng=0).cores[:0:-1]
    randoms = drawn(cores, [22, 10], np.float64)
    want, _ = swept(cores, randoms, [22, 10])
    caller = threading.current_thread()
    plain = sketches.aligned_array

    def scarce(entries, dtype):
        if threading.current_thread() is not caller:
            raise MemoryError
        return plain(entries, dtype)

    monkeypatch.setattr(sketches, "aligned_array", scarce)
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    got, _ = swept(cores, randoms, [22, 10])
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(a, b)
