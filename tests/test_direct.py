"""Layers on addresses: the bits are those of `ttcore.layers.fc`, and only what fits is taken."""

import numpy as np
import pytest

from ttcore import planner
from ttcore.kernels.cpu import direct as kernel
from ttcore.kernels.cpu import team
from ttcore.layers import direct, fc, init_cores

LAYERS = {
    "one core": ((5,), (3,), 1),
    "two": ((4, 7), (5, 3), 3),
    "ones": ((1, 6, 1), (1, 1, 7), 2),
    "primes": ((3, 7, 13), (5, 11, 2), (1, 4, 3, 1)),
    "four": ((4, 7, 4, 7), (5, 5, 8, 4), 3),
    "in halves": ((8, 16, 16), (8, 16, 16), 8),
}


LONE = {name: {"four": 9, "in halves": 1}.get(name, 99) for name in LAYERS}  # rows for one thread


def arrays(name, batch, dtype, seed=0):
    ins, outs, rank = LAYERS[name]
    rng = np.random.default_rng(seed)
    cores = [g.astype(dtype) for g in init_cores(ins, outs, rank, rng=rng)]
    x = rng.standard_normal((*batch, np.prod(ins))).astype(dtype)
    gy = rng.standard_normal((*batch, np.prod(outs))).astype(dtype)
    return cores, x, gy, rng.standard_normal(gy.shape[-1]).astype(dtype)


def product(cores, x, bias, workers):
    shapes = tuple(g.shape for g in cores)
    found = direct.product(x.dtype, x.shape, shapes, None if bias is None else bias.shape, workers)
    y = np.full(found.output, np.nan, x.dtype)
    shift = 0 if bias is None else bias.ctypes.data
    found.run([g.ctypes.data for g in cores], x.ctypes.data, shift, y.ctypes.data)
    return y


def gradients(cores, x, gy, workers):
    found = direct.gradients(x.dtype, x.shape, tuple(g.shape for g in cores), workers)
    assert gy.shape == found.output
    gx, *gcores = results = [np.full_like(a, np.nan) for a in (x, *cores)]
    found.run(
        [g.ctypes.data for g in cores],
        x.ctypes.data,
        gy.ctypes.data,
        gx.ctypes.data,
        [g.ctypes.data for g in gcores],
    )
    return results


@pytest.fixture
def compiled(monkeypatch):
    """`fc` takes compiled kernels for the smallest layers too."""
    monkeypatch.setattr(planner, "WORTH", 0)
    for cached in (planner.order, planner.compiled_order):
        cached.cache_clear()
    yield
    for cached in (planner.order, planner.compiled_order):
        cached.cache_clear()


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("batch", [(), (1,), (2,), (7,), (3, 0, 2), (2, 1, 3), (33,)], ids=str)
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("workers", [1, 2])
def test_the_bits_are_those_of_the_functions_of_arrays(name, batch, dtype, workers):
    cores, x, gy, bias = arrays(name, batch, dtype)
    shapes = tuple(g.shape for g in cores)
    rows = int(np.prod(batch))
    if rows == 0 or (workers > 1 and rows > LONE[name]):  # nothing, or enough for a pool
        assert direct.gradients(x.dtype, x.shape, shapes, workers) is None
        return
    before = [a.tobytes() for a in (*cores, x, gy, bias)]
    for shift in (None, bias):
        y = product(cores, x, shift, workers)
        assert y.tobytes() == fc.forward(cores, x, shift, workers=workers).tobytes()
    gx, gcores, _ = fc.backward(cores, x, gy, workers=workers)
    for got, want in zip(gradients(cores, x, gy, workers), (gx, *gcores), strict=True):
        assert got.tobytes() == want.tobytes()
    assert [a.tobytes() for a in (*cores, x, gy, bias)] == before


def test_a_row_in_halves_waits_for_nobody(monkeypatch):
    """The helper is awake or not, the board somebody else's or free: the bits are the same."""
    cores, x, gy, bias = arrays("in halves", (1,), np.float32)
    shapes = tuple(g.shape for g in cores)
    order = planner.compiled_order(shapes, 1, "float32", "rows")
    assert kernel.program(shapes, order.stages, 1, "float32", 2, back=False).shared
    y, grads = product(cores, x, bias, 2), gradients(cores, x, gy, 2)
    taken = team.new_board()
    taken[team.OWNED] = taken[team.AWAKE] = 1
    alone = team.new_board()
    alone[team.AWAKE] = 1
    for board in (taken, alone):
        monkeypatch.setattr(team, "board_for", lambda dtype, workers, board=board: board)
        assert product(cores, x, bias, 2).tobytes() == y.tobytes()
        for got, want in zip(gradients(cores, x, gy, 2), grads, strict=True):
            assert got.tobytes() == want.tobytes()


@pytest.mark.parametrize(
    ("dtype", "x", "cores", "bias"),
    [
        (np.float32, (2, 27), ((1, 5, 4, 3), (3, 3, 7, 1)), None),
        (np.float32, (2, 28), ((1, 5, 4, 3), (2, 3, 7, 1)), None),
        (np.float32, (2, 28), ((1, 5, 4, 3), (3, 3, 7, 2)), None),
        (np.float32, (2, 28), ((1, 5, 4, 3), (3, 3, 7, 1)), (14,)),
        (np.float32, (2, 28), ((1, 5, 4, 3), (3, 21, 1)), None),
        (np.float32, (2, 28), (), None),
        (np.float32, (), ((1, 5, 4, 3), (3, 3, 7, 1)), None),
        (np.complex64, (2, 28), ((1, 5, 4, 3), (3, 3, 7, 1)), None),
        (np.int64, (2, 28), ((1, 5, 4, 3), (3, 3, 7, 1)), None),
    ],
)
def test_what_does_not_fit_is_left_to_the_functions_of_arrays(dtype, x, cores, bias):
    assert direct.product(np.dtype(dtype), x, cores, bias, 1) is None


def test_much_work_is_left_to_the_pool():
    shapes = tuple(g.shape for g in arrays("four", (1,), np.float32)[0])
    asked = (np.dtype(np.float32), (5000, 784), shapes)
    assert direct.product(*asked, None, 2) is None
    assert direct.gradients(*asked, 2) is None
    assert direct.product(*asked, None, 1) is not None


def test_an_order_that_was_measured_meanwhile_is_taken():
    ins, outs, rank = (4, 6, 5), (3, 4, 7), 5
    cores = init_cores(ins, outs, rank, rng=0)
    shapes, x = tuple(g.shape for g in cores), np.ones((16, 120))
    modes = planner.modes_of(shapes)
    before = product(cores, x, None, 1)
    orders = planner.candidates(modes, 16, "float64", "rows", compiled=True, keep=5)
    other = next(o for o in reversed(orders) if o[1] != orders[0][1])
    try:
        planner.remember(modes, 16, "float64", planner.Order(other[1], True, other[0]))
        found = direct.product(x.dtype, x.shape, shapes, None, 1)
        assert found.run.args[0] is kernel.program(shapes, other[1], 16, "float64", 1, back=False)
        assert np.allclose(product(cores, x, None, 1), before, rtol=0, atol=1e-11)
    finally:
        planner._remembered.clear()
        planner.order.cache_clear()
        planner.compiled_order.cache_clear()
        direct._found.cache_clear()


@pytest.mark.parametrize(
    "shape", [(0, 3), (5, 0), (128, 3), (129, 1), (70_001, 7), (1000, 2048), (40_000, 1)], ids=str
)
def test_long_sums_are_sums_of_short_ones(shape):
    a = np.random.default_rng(0).random(shape).astype(np.float32)
    levels = 1 + np.ceil(np.log(max(shape[0], 2)) / np.log(fc.SUMMED))
    bound = levels * 2 * fc.SUMMED * 2.0**-24 * a.sum(axis=0, dtype=float)
    assert (np.abs(fc.sum_of_rows(a) - a.sum(axis=0, dtype=float)) <= bound).all()
