"""The compiled kernels: against their twins, to the last byte of buffers, in threads and forks."""

import itertools
import json
import multiprocessing
import os
import platform
import shutil
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numba import njit

import ttcore as tt
from ttcore.kernels.cpu import chain as cpu
from ttcore.kernels.cpu import pool, tables, target, team
from ttcore.kernels.cpu.emitter import STEPS
from ttcore.kernels.cpu.gemm import gemm, gemm_ahead, gemm_nt
from ttcore.kernels.cpu.simd import turn
from ttcore.kernels.portable import chain as portable
from ttcore.typing import Stage

pytestmark = pytest.mark.adapters  # that environment has an older Numba

DTYPES = [np.float32, np.float64]
GUARD = 64


@njit
def run(zero, m, n, k, a, ai, row, col, b, bi, ldb, c, ci, ldc, add):
    size = a.itemsize
    gemm(
        zero, m, n, k, np.uintp(a.ctypes.data + ai * size), row, col,
        np.uintp(b.ctypes.data + bi * size), ldb, np.uintp(c.ctypes.data + ci * size), ldc, add,
    )  # fmt: skip


@njit
def run_ahead(zero, m, n, k, a, ai, row, col, b, bi, c, ci, add, lines, jump):
    size = a.itemsize
    return gemm_ahead(
        zero, m, n, k, np.uintp(a.ctypes.data + ai * size), row, col,
        np.uintp(b.ctypes.data + bi * size), n, np.uintp(c.ctypes.data + ci * size), n, add,
        np.uintp(c.ctypes.data), 3, lines, jump,
    )  # fmt: skip


@njit
def run_nt(zero, m, n, k, count, a, ai, b, bi, c, ci):
    size = a.itemsize
    gemm_nt(
        zero, m, n, k, count, np.uintp(a.ctypes.data + ai * size), k, m * k,
        np.uintp(b.ctypes.data + bi * size), k, n * k, np.uintp(c.ctypes.data + ci * size), n,
    )  # fmt: skip


def guarded(x):
    """A flat array with the entries of x between guards of NaN."""
    wall = np.full(GUARD, np.nan, x.dtype)
    return np.concatenate([wall, x.ravel(), wall])


def operands(m, n, k, dtype, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((m, k)).astype(dtype), rng.standard_normal((k, n)).astype(dtype)


SIZES = st.sampled_from([1, 2, 3, 4, 5, 7, 8, 9, 12, 13, 15, 16, 17, 31, 32, 33, 40, 47, 64, 67])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("turned", [False, True])
@given(m=SIZES, n=SIZES, k=st.sampled_from([0, 1, 2, 7, 28, 65]), add=st.booleans())
def test_gemm_equals_numpy_and_stays_inside_its_buffers(dtype, turned, m, n, k, add):
    """Guards of NaN around all three: what is read outside spreads, what is written is seen."""
    a, b = operands(m, n, k, dtype)
    c = np.full((m, n), 3, dtype)
    left = guarded(a.T if turned else a)
    row, col = (1, m) if turned else (k, 1)
    right, out = guarded(b), guarded(c)
    run(dtype(0), m, n, k, left, GUARD, row, col, right, GUARD, n, out, GUARD, n, add)
    got = out[GUARD:-GUARD].reshape(m, n)
    exact = a.astype(np.longdouble) @ b + 3 * add
    bound = (k + 2) * np.finfo(dtype).eps * (np.abs(a) @ np.abs(b) + 3)
    assert (np.abs(got - exact) <= bound).all()
    assert np.isnan(out[:GUARD]).all()
    assert np.isnan(out[-GUARD:]).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("turned", [False, True])
@given(m=SIZES, n=SIZES, k=st.sampled_from([0, 1, 2, 7, 28, 65]), add=st.booleans())
def test_what_is_asked_for_ahead_changes_no_bit_of_a_product(dtype, turned, m, n, k, add):
    """Wherever it lies, also where there is no memory."""
    a, b = operands(m, n, k, dtype)
    left, right = guarded(a.T if turned else a), guarded(b)
    row, col = (1, m) if turned else (k, 1)
    want, got = (guarded(np.full((m, n), 3, dtype)) for _ in range(2))
    run(dtype(0), m, n, k, left, GUARD, row, col, right, GUARD, n, want, GUARD, n, add)
    count = run_ahead(
        dtype(0), m, n, k, left, GUARD, row, col, right, GUARD, got, GUARD, add, 1 + k, 2**50
    )
    np.testing.assert_array_equal(got, want)
    width = 2 * target.vector_bytes() // np.dtype(dtype).itemsize
    assert count == n // width * (k // STEPS)


@pytest.mark.parametrize("dtype", DTYPES)
@given(
    m=st.sampled_from([1, 3, 4, 5, 8, 13]),
    n=st.sampled_from([1, 3, 4, 7, 16]),
    k=st.sampled_from([1, 2, 7, 15, 16, 17, 40]),
    count=st.sampled_from([0, 1, 2, 5]),
)
def test_gemm_nt_equals_numpy_and_stays_inside_its_buffers(dtype, m, n, k, count):
    rng = np.random.default_rng(0)
    a = rng.standard_normal((count, m, k)).astype(dtype)
    b = rng.standard_normal((count, n, k)).astype(dtype)
    out = guarded(np.full((m, n), 3, dtype))
    run_nt(dtype(0), m, n, k, count, guarded(a), GUARD, guarded(b), GUARD, out, GUARD)
    exact = np.einsum("omk,onk->mn", a.astype(np.longdouble), b) + 3
    size = np.einsum("omk,onk->mn", np.abs(a), np.abs(b)) + 3
    assert (
        np.abs(out[GUARD:-GUARD].reshape(m, n) - exact)
        <= (k * count + 40) * np.finfo(dtype).eps * size
    ).all()
    assert np.isnan(out[:GUARD]).all()
    assert np.isnan(out[-GUARD:]).all()


@njit
def run_turn(zero, m, n, a, ai, c, ci):
    size = a.itemsize
    turn(zero, m, n, np.uintp(a.ctypes.data + ai * size), n, np.uintp(c.ctypes.data + ci * size), m)


@pytest.mark.parametrize("dtype", DTYPES)
@given(m=SIZES, n=SIZES)
def test_turn_transposes_and_stays_inside_its_buffers(dtype, m, n):
    a, _ = operands(m, n, n, dtype)
    out = guarded(np.full((n, m), 3, dtype))
    run_turn(dtype(0), m, n, guarded(a), GUARD, out, GUARD)
    np.testing.assert_array_equal(out[GUARD:-GUARD].reshape(n, m), a[:m, :n].T)
    assert np.isnan(out[:GUARD]).all()
    assert np.isnan(out[-GUARD:]).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_spread_as_in_numpy(dtype, value):
    a, b = operands(9, 37, 11, dtype)
    a[4, 3] = value
    c = np.zeros((9, 37), dtype)
    run(dtype(0), 9, 37, 11, a.ravel(), 0, 11, 1, b.ravel(), 0, 37, c.ravel(), 0, 37, False)
    with np.errstate(invalid="ignore"):
        want = a @ b
    np.testing.assert_array_equal(np.isfinite(c), np.isfinite(want))
    np.testing.assert_array_equal(np.isnan(c), np.isnan(want))


GENERIC = """
import json, re
import numpy as np
import ttcore as tt
from ttcore.typing import Stage
from ttcore.kernels.cpu import chain, target, stages, gemm
W = tt.random_matrix((3, 5, 4), (4, 3, 7), 3, rng=0, dtype=np.float32)
x = np.random.default_rng(0).standard_normal((5, W.shape[1])).astype(np.float32)
y = chain.matvec(W.cores, x, W.plan(batch=5).stages)
code = "".join(gemm.gemm.inspect_asm().values())
print(json.dumps({
    "error": float(np.abs(y - x @ W.to_dense().T).max()),
    "bytes": target.vector_bytes(), "fma": target.has_fma(),
    "fused": len(re.findall(r"vfmadd\\w+ps", code)),
    "calls": len(re.findall(r"\\bfmaf?\\b", code)),
    "zmm": code.count("zmm"), "ymm": code.count("ymm"),
}))
"""


def in_a_process(code, cwd=None, **environment):
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def test_the_assembly_multiplies_and_adds_in_full_registers(tmp_path):
    answer = in_a_process(GENERIC, TTCORE_CACHE_DIR=str(tmp_path))
    assert answer["calls"] == 0, "calls of the C library's fma"
    assert answer["bytes"] == target.vector_bytes()
    register = {64: "zmm", 32: "ymm"}.get(target.vector_bytes())
    if register:
        assert answer["fused"] >= 16
        assert answer[register] > 100


@pytest.mark.skipif(sys.platform == "darwin", reason="Arm has no generic target without an FMA")
@pytest.mark.parametrize(
    ("name", "features", "width"),
    [("generic", "", 16), ("haswell", "+avx2,+fma,+avx,+sse4.2", 32)],
    ids=["generic", "AVX2"],
)
def test_other_targets_compile_to_their_registers(name, features, width, tmp_path):
    if name != "generic" and not {"avx2", "fma"} <= target.features():
        pytest.skip("this processor cannot run AVX2")
    answer = in_a_process(
        GENERIC,
        NUMBA_CPU_NAME=name, NUMBA_CPU_FEATURES=features, TTCORE_CACHE_DIR=str(tmp_path),
    )  # fmt: skip
    assert answer["bytes"] == width
    assert answer["fma"] == (width > 16)
    assert answer["error"] < 1e-4
    assert answer["calls"] == answer["zmm"] == 0
    assert (answer["ymm"] > 0) == (width == 32)


TILES = """
import json, re
import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from ttcore.kernels.cpu import emitter, simd
module = ir.Module("tile")
module.triple = llvm.get_default_triple()
i64 = ir.IntType(64)
for zero in (types.float32, types.float64):
    kind = ir.FunctionType(ir.VoidType(), [i64] * 8)
    builder = ir.IRBuilder(ir.Function(module, kind, zero.name).append_basic_block())
    emit = emitter.Emitter(builder, zero)
    a, b, c, row, col, ldb, ldc, k = builder.function.args
    places = {n: emit.pointer(x) for n, x in zip("abc", (a, b, c))}
    simd._tile(emit, simd.TALL, [emitter.constant(0), emitter.constant(emit.lanes)], None, {
        **places, "row": row, "col": col, "ldb": ldb, "ldc": ldc, "k": k,
        "add": ir.Constant(ir.IntType(1), 0),
    })
    builder.ret_void()
llvm.initialize_native_target()
llvm.initialize_native_asmprinter()
machine = llvm.Target.from_default_triple().create_target_machine(cpu="CPU", opt=3)
code = machine.emit_assembly(llvm.parse_assembly(str(module)))
print(json.dumps({
    "fused": len(re.findall(r"vfmadd", code)),
    "spilled": len(re.findall(r"[yz]mm.*\\(%rsp\\)|\\(%rsp\\).*[yz]mm", code)),
}))
"""


@pytest.mark.skipif(platform.machine() not in {"x86_64", "AMD64"}, reason="x86 only")
@pytest.mark.parametrize(
    ("name", "features", "sums"),
    [("haswell", "+avx2,+fma,+avx", 12), ("skylake-avx512", "+avx512f,+avx2,+fma,+avx", 16)],
    ids=["sixteen", "thirty-two"],
)
def test_the_sums_of_a_tile_stay_in_registers(name, features, sums):
    answer = in_a_process(
        TILES.replace("CPU", name), NUMBA_CPU_NAME=name, NUMBA_CPU_FEATURES=features
    )
    assert answer == {"fused": 2 * (STEPS + 1) * sums, "spilled": 0}


CROSS = """
import json, re
import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from ttcore.kernels.cpu import emitter, simd
emitter.vector_bytes, emitter.has_fma = (lambda: 16), (lambda: True)
module = ir.Module("tile")
module.triple = "aarch64-unknown-linux-gnu"
i64 = ir.IntType(64)
kind = ir.FunctionType(ir.VoidType(), [i64] * 8)
for name, zero in (("single", types.float32), ("double", types.float64)):
    function = ir.Function(module, kind, name)
    builder = ir.IRBuilder(function.append_basic_block())
    emit = emitter.Emitter(builder, zero)
    a, b, c, row, col, ldb, ldc, k = function.args
    places = {n: emit.pointer(x) for n, x in zip("abc", (a, b, c))}
    simd._tile(emit, 8, [emitter.constant(0), emitter.constant(emit.lanes)], None, {
        **places, "row": row, "col": col, "ldb": ldb, "ldc": ldc, "k": k,
        "add": ir.Constant(ir.IntType(1), 0),
    })
    builder.ret_void()
llvm.initialize_all_targets()
llvm.initialize_all_asmprinters()
machine = llvm.Target.from_triple(module.triple).create_target_machine(cpu="cortex-a72", opt=3)
code = machine.emit_assembly(llvm.parse_assembly(str(module)))
print(json.dumps({
    "single": len(re.findall(r"fmla\\s+v\\d+\\.4s", code)),
    "double": len(re.findall(r"fmla\\s+v\\d+\\.2d", code)),
    "calls": len(re.findall(r"\\bbl\\b", code)),
}))
"""


def test_arm_gets_vector_multiply_adds_and_no_calls():
    """Assembly for a processor that is not here: 8 x 2 accumulators stay in its 32 registers."""
    try:
        answer = in_a_process(CROSS)
    except AssertionError as error:
        if "No available targets" in str(error) or "nable to find target" in str(error):
            pytest.skip("this LLVM was built without Arm")
        raise
    sums = 16 * (STEPS + 1)
    assert answer == {"single": sums, "double": sums, "calls": 0}


SHUTDOWN = """
import atexit, json, threading
import numpy as np
import ttcore as tt
W = tt.random_matrix((4, 8, 8, 4), (4, 8, 8, 4), 8, rng=0, dtype=np.float32)
x = np.ones((200, 1024), np.float32)
want = W.apply(x)

def late():
    print(json.dumps(bool((W.apply(x) == want).all())))

atexit.register(late)

def busy():
    while True:
        W.apply(x)

threading.Thread(target=busy, daemon=True).start()
"""


def test_calls_while_the_interpreter_shuts_down_are_served():
    assert in_a_process(SHUTDOWN) is True


SHAPES = [
    ((4, 8, 8, 4), (4, 8, 8, 4), 8),
    ((3, 1, 5), (2, 7, 1), 3),
    ((5, 7, 11, 13), (13, 11, 7, 5), 6),
    ((7,), (13,), 1),
    ((1, 1), (1, 1), 2),
    ((2, 3), (3, 2), 9),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "cols", "rank"), SHAPES, ids=str)
@pytest.mark.parametrize("batch", [0, 1, 3, 37])
def test_the_chain_equals_its_twin(dtype, rows, cols, rank, batch):
    W = tt.random_matrix(rows, cols, [rank] * (len(rows) - 1), rng=0, dtype=dtype)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((batch, W.shape[1])).astype(dtype)
    gy = rng.standard_normal((batch, W.shape[0])).astype(dtype)
    stages = W.plan(batch=batch).stages
    rounding = 200 * np.finfo(dtype).eps
    pairs = [(cpu.matvec(W.cores, x, stages), portable.matvec(W.cores, x, stages))]
    columns = np.ascontiguousarray(x.T)
    pairs += [(cpu.matmat(W.cores, columns, stages), portable.matmat(W.cores, columns, stages))]
    (gx, gcores), (hx, hcores) = (
        module.matvec_backward(W.cores, x, gy, stages) for module in (cpu, portable)
    )
    for got, want in [*pairs, (gx, hx), *zip(gcores, hcores, strict=True)]:
        assert got.shape == want.shape
        assert got.dtype == want.dtype
        if got.size:
            np.testing.assert_allclose(
                got, want, rtol=0, atol=rounding * max(np.abs(want).max(), 1)
            )


@pytest.mark.parametrize("page", [1, tables.PAGE_ENTRIES], ids=["rows apart", "rows in a row"])
@given(data=st.data())
def test_any_stages_of_any_direction_give_the_same(page, data):
    """Stages that the planner would not choose: from the left, from both ends, merged or not."""
    d = data.draw(st.integers(1, 4))
    rows, cols = ([data.draw(st.integers(1, 5)) for _ in range(d)] for _ in range(2))
    ranks = [1, *(data.draw(st.integers(1, 4)) for _ in range(d - 1)), 1]
    W = tt.random_matrix(rows, cols, ranks, rng=0)
    middle = data.draw(st.integers(0, d))
    bounds = sorted({0, middle, d, *data.draw(st.lists(st.integers(0, d), max_size=2))})
    spans = list(itertools.pairwise(bounds))
    size = np.prod
    stages = []
    stages += [
        Stage(
            first,
            last,
            0,
            int(size(cols[:first])),
            ranks[first] * int(size(rows[first:last])),
            int(size(cols[first:last])) * ranks[last],
            int(size(rows[last:])),
        )
        for first, last in reversed(spans)
        if first >= middle
    ]
    behind = int(size(rows[middle:]))
    for first, last in [span for span in spans if span[1] <= middle]:
        m, n = int(size(rows[first:last])), int(size(cols[first:last]))
        outer = int(size(rows[:first]))
        if last == middle:
            stages.append(Stage(first, last, 2, outer, m, ranks[first] * n * ranks[last], behind))
        else:
            ahead = int(size(cols[last:middle])) * ranks[middle] * behind
            stages.append(Stage(first, last, 1, outer, m * ranks[last], ranks[first] * n, ahead))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "PAGE_ENTRIES", page)
        tables.tables_of.cache_clear()
        tables.tables_of(tuple(core.shape for core in W.cores), tuple(stages))  # kept for below
    x = np.random.default_rng(0).standard_normal((3, W.shape[1]))
    gy = np.random.default_rng(1).standard_normal((3, W.shape[0]))
    A = W.to_dense()
    size_of = np.abs(A).max() * 1e-11
    for module in (cpu, portable):
        np.testing.assert_allclose(module.matvec(W.cores, x, stages), x @ A.T, atol=size_of)
        gx, gcores = module.matvec_backward(W.cores, x, gy, stages)
        np.testing.assert_allclose(gx, gy @ A, atol=size_of)
        if module is cpu:
            found = gcores
    for got, want in zip(found, gcores, strict=True):
        np.testing.assert_allclose(got, want, atol=1e-10)


def test_a_supercore_may_be_smaller_than_what_it_is_merged_from():
    """Ranks above what the modes can use: 1 x 2 x 2 x 60 on the way to 1 x 8 x 8 x 1."""
    W = tt.random_matrix((2, 2, 2), (2, 2, 2), (60, 60), rng=0)
    x = np.random.default_rng(0).standard_normal((5, 8))
    stages = [Stage(0, 3, 0, 1, 8, 8, 1)]
    for _ in range(20):  # a write outside shows in the heap
        got = cpu.matvec(W.cores, x, stages)
    np.testing.assert_allclose(got, x @ W.to_dense().T, atol=1e-9)


def layer():
    return tt.random_matrix((4, 8, 8, 4), (4, 8, 8, 4), 8, rng=0, dtype=np.float32)


def rows(batch, n=1024, dtype=np.float32):
    return np.random.default_rng(0).standard_normal((batch, n)).astype(dtype)


def test_large_calls_are_served_by_the_compiled_kernels(monkeypatch):
    called = []
    original = cpu.matvec
    monkeypatch.setattr(cpu, "matvec", lambda *args: called.append(1) or original(*args))
    W = layer()
    W.apply(rows(64))
    assert called == [1]
    W.astype(complex).apply(rows(64))
    tt.eye((2, 2)).apply(np.ones((1, 4)))
    assert called == [1]


@pytest.mark.parametrize(
    "change",
    [
        np.asfortranarray,
        lambda x: x[::-1],
        lambda x: np.repeat(x, 2, axis=1)[:, ::2],
        lambda x: (
            np.frombuffer(b"\0" + x.tobytes(), np.uint8)[1:].view(np.float32).reshape(x.shape)
        ),
        lambda x: np.broadcast_to(x[:1], x.shape),
        lambda x: x.astype(">f4"),
    ],
    ids=["Fortran", "reversed", "strided", "misaligned", "broadcast", "big-endian"],
)
def test_any_layout_of_the_rows_is_taken(change):
    W, x = layer(), change(rows(50))
    x.flags.writeable = False
    want = np.asarray(x, np.float64) @ W.to_dense().T
    np.testing.assert_allclose(W.apply(x), want, atol=2e-4 * np.abs(want).max())


def test_bits_do_not_depend_on_the_number_of_workers(monkeypatch):
    W, x, gy = layer(), rows(333), rows(333) + 1
    results = []
    for cpus in (1, 2, 3, 7):
        monkeypatch.setattr(pool, "usable_cpus", lambda n=cpus: n)
        monkeypatch.setattr(pool, "_helpers", pool._Helpers())
        gx, gcores = tt.linear.matvec_backward(W.cores, x, gy)
        results.append([W.apply(x), gx, *gcores])
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert a.tobytes() == b.tobytes()


def test_eight_concurrent_callers_get_the_right_answers():
    W, x = layer(), rows(200)
    want = W.apply(x)
    wrong = []

    def call():
        wrong.extend(1 for _ in range(20) if W.apply(x).tobytes() != want.tobytes())

    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


HALVED = ((4, 4, 4, 4, 4), (3, 7, 8, 5, 7), 4)  # a row of a million flops: two threads share it


def halved_layer(dtype=np.float32):
    rows_, cols, rank = HALVED
    return tt.random_matrix(rows_, cols, rank, rng=0, dtype=dtype)


def both_ways(W, x, gy, workers):
    y = tt.linear.matvec(W.cores, x, workers=workers)
    gx, gcores = tt.linear.matvec_backward(W.cores, x, gy, workers=workers)
    return [a.tobytes() for a in (y, gx, *gcores)]


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_row_shared_by_two_threads_has_the_same_bits(dtype):
    """Calls that come fast find the helper awake; which half it takes differs from call to call."""
    W = halved_layer(dtype)
    x, gy = rows(1, W.shape[1], dtype), rows(1, W.shape[0], dtype)
    stages = W.plan().stages
    assert cpu.prepare(W.cores, stages).info.halved > 0
    want = both_ways(W, x, gy, 1)
    for _ in range(300):
        assert both_ways(W, x, gy, 2) == want
    gx, gcores = tt.linear.matvec_backward(W.cores, x, gy)
    for got, twin in zip(
        [tt.linear.matvec(W.cores, x), gx, *gcores],
        [
            portable.matvec(W.cores, x, stages),
            *flat(portable.matvec_backward(W.cores, x, gy, stages)),
        ],
        strict=True,
    ):
        np.testing.assert_allclose(
            got, twin, rtol=0, atol=200 * np.finfo(dtype).eps * np.abs(twin).max()
        )


def flat(pair):
    return [pair[0], *pair[1]]


def test_the_helper_takes_part():
    """It does: among calls that come fast some half is not the caller's."""
    W = halved_layer()
    x = rows(1, W.shape[1])
    tt.linear.matvec(W.cores, x, workers=2)
    board = team._teams[x.dtype].board
    entered = 0
    for _ in range(20_000):
        tt.linear.matvec(W.cores, x, workers=2)
        entered += board[team.AWAKE]
        if entered > 1000:
            return
    raise AssertionError("nobody woke up")


def test_a_helper_that_was_late_is_left_alone_for_a_while():
    """As when the system stops it within a half: the caller waits, once."""
    W = halved_layer()
    x, gy = rows(1, W.shape[1]), rows(1, W.shape[0])
    want = both_ways(W, x, gy, 2)
    board = team._teams[x.dtype].board
    deadline = time.monotonic() + 20
    while team.board_for(x.dtype, 2) is not board:  # somebody was late before
        assert time.monotonic() < deadline
    board[team.INSIDE] += 1  # somebody is inside, and stays there

    def leave():
        time.sleep(0.05)
        board[team.INSIDE] -= 1

    slow = threading.Thread(target=leave)
    slow.start()
    start = time.monotonic()
    assert both_ways(W, x, gy, 2) == want
    slow.join()
    assert team.board_for(x.dtype, 2) is not board
    while team.board_for(x.dtype, 2) is not board:
        assert both_ways(W, x, gy, 2) == want
    assert time.monotonic() - start > team.REST


def test_many_callers_of_single_rows_get_the_right_answers():
    """One of them has the board; the others work alone."""
    W = halved_layer()
    x, gy = rows(1, W.shape[1]), rows(1, W.shape[0])
    want = both_ways(W, x, gy, 2)
    wrong = []

    def call():
        wrong.extend(1 for _ in range(100) if both_ways(W, x, gy, 2) != want)

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_an_exception_in_a_block_reaches_the_caller():
    def block(first, last):
        raise ZeroDivisionError(f"{first} {last}")

    with pytest.raises(ZeroDivisionError):
        pool.run_blocks(block, 10, 2)


def test_helpers_keep_nothing_alive():
    """Neither while they look for more work, nor when they sleep."""
    for pause in (0.0, 0.2):
        data = np.zeros(1000)
        gone = weakref.ref(data)

        def block(first, last, data=data):
            time.sleep(0.01)
            data[first:last] += 1

        pool.run_blocks(block, 1000, 1, 2)
        del block, data
        time.sleep(0.02 + pause)
        assert gone() is None


def test_a_helper_survives_what_its_work_raises(monkeypatch):
    monkeypatch.setattr(pool, "_helpers", pool._Helpers())
    shown = []
    monkeypatch.setattr(threading, "excepthook", lambda x: shown.append(x.exc_type))
    done = threading.Event()
    pool.call_helpers(lambda: 1 // 0, 1)
    pool.call_helpers(done.set, 1)
    assert done.wait(20)
    assert shown == [ZeroDivisionError]


@given(st.integers(0, 300), st.integers(1, 40), st.integers(1, 5))
def test_blocks_cover_everything_once(count, grain, workers):
    done = []
    pool.run_blocks(lambda first, last: done.append((first, last)), count, grain, workers)
    assert [i for first, last in sorted(done) for i in range(first, last)] == list(range(count))
    assert all(last - first >= grain for first, last in sorted(done)[:-1])


def _child(queue):
    W = halved_layer()
    queue.put(layer().apply(rows(200)).tobytes())
    queue.put([W.apply(rows(1, W.shape[1])).tobytes() for _ in range(200)])


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")
def test_children_compute_after_fork_and_spawn(method):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} on this system")
    want = layer().apply(rows(200)).tobytes()  # the parent's pool is alive
    W = halved_layer()
    single = [W.apply(rows(1, W.shape[1])).tobytes() for _ in range(200)]  # and its helper
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    child = context.Process(target=_child, args=(queue,))
    child.start()
    assert queue.get(timeout=120) == want
    assert queue.get(timeout=120) == single
    child.join(timeout=60)
    assert child.exitcode == 0


FIRST_CALL = """
import json, sys
import numpy as np
import ttcore as tt
W = tt.random_matrix((4, 8, 8, 4), (4, 8, 8, 4), 8, rng=0, dtype=np.float32)
x = np.ones((64, 1024), np.float32)
y = W.apply(x)
from ttcore.kernels.cpu import cache, merging, stages
hits = sum(sum(f.stats.cache_hits.values()) for f in (stages.forward, merging.build))
print(json.dumps({
    "hits": hits, "sum": float(y.sum()),
    "scipy": "scipy.linalg" in sys.modules,
    "files": sorted(p.name for p in cache.folder().glob("*")) if cache.folder().exists() else [],
}))
"""


def test_a_second_process_finds_everything_compiled(tmp_path):
    first = in_a_process(FIRST_CALL, TTCORE_CACHE_DIR=str(tmp_path))
    second = in_a_process(FIRST_CALL, TTCORE_CACHE_DIR=str(tmp_path))
    assert first["hits"] == 0
    assert second["hits"] == 2
    assert second["files"] == first["files"] != []
    assert second["sum"] == first["sum"]
    assert first["scipy"]  # with all that Numba loads before it compiles,
    assert not second["scipy"]  # and need not when it does not


def test_two_processes_may_fill_the_cache_at_once(tmp_path):
    command = [sys.executable, "-c", FIRST_CALL]
    environment = {**os.environ, "TTCORE_CACHE_DIR": str(tmp_path)}
    both = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    answers = [json.loads(process.communicate(timeout=240)[0]) for process in both]
    assert answers[0]["sum"] == answers[1]["sum"]
    assert in_a_process(FIRST_CALL, TTCORE_CACHE_DIR=str(tmp_path))["hits"] == 2


def test_without_a_writable_cache_folder_it_works_all_the_same(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    answer = in_a_process(FIRST_CALL, TTCORE_CACHE_DIR=str(blocked / "below"))
    assert answer["files"] == []


def test_an_edited_kernel_is_compiled_anew(tmp_path):
    """A copy of the package, its tile edited between two processes that share a cache folder."""
    source = Path(tt.__file__).parent
    copy = tmp_path / "src" / "ttcore"
    shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__"))
    environment = {"TTCORE_CACHE_DIR": str(tmp_path / "cache"), "PYTHONPATH": str(copy.parent)}
    before = in_a_process(FIRST_CALL, copy.parent, **environment)
    emitter = copy / "kernels" / "cpu" / "emitter.py"
    text = emitter.read_text(encoding="utf-8")
    edited = text.replace("[ir.Constant(self.scalar, 0.0)]", "[ir.Constant(self.scalar, 1.0)]")
    assert edited != text
    emitter.write_text(edited, encoding="utf-8")
    after = in_a_process(FIRST_CALL, copy.parent, **environment)
    assert after["hits"] == 0
    assert after["sum"] != before["sum"]
