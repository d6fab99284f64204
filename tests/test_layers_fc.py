import copy
import math
import pickle
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ttcore as tt
from ttcore.layers import FC
from ttcore.layers.fc import backward, forward
from ttcore.testing import (
    DTYPES,
    assert_within,
    dense_matrix,
    gamma,
    magnitude,
    matvec_gradients,
    relayout,
    tt_matrices,
)

SEEDS = st.integers(0, 2**32 - 1)
LEADS = st.sampled_from([(), (1,), (7,), (0,), (2, 3), (3, 0, 2), (37,)])
HALF = 2.0**-11  # unit roundoff of float16


def normal(rng, shape, dtype):
    values = rng.standard_normal(shape)
    if np.dtype(dtype).kind == "c":
        values = values + 1j * rng.standard_normal(shape)
    return values.astype(dtype)


def check_forward(cores, x, bias, y, extra=0.0):
    """Within the rounding of the product and of one addition."""
    wide = np.clongdouble if np.iscomplexobj(y) else np.longdouble
    exact = x.astype(wide) @ dense_matrix(cores).T + bias
    size = np.abs(x).astype(np.longdouble) @ magnitude(cores).T + np.abs(bias)
    computed = np.float32 if y.dtype == np.float16 else y.dtype
    bound = (gamma(computed, cores) + 2 * np.finfo(computed).eps) * size
    assert_within(y, exact, bound + extra * (np.abs(exact) + bound))


def check_backward(cores, x, gy, gx, gcores, gbias):
    """Within the rounding of the gradients, whose sums run over the batch too."""
    rows, slopes = x.reshape(-1, x.shape[-1]), gy.reshape(-1, gy.shape[-1])
    exact_x, exact_cores = matvec_gradients(cores, rows, slopes)
    size_x, sizes = matvec_gradients([np.abs(g) for g in cores], np.abs(rows), np.abs(slopes))
    unit = np.finfo(gx.dtype).eps
    bound = gamma(gx.dtype, cores) + 4 * unit * (len(rows) + rows.shape[1] + slopes.shape[1])
    assert_within(gx.reshape(rows.shape), exact_x, bound * size_x)
    for gradient, exact, size in zip(gcores, exact_cores, sizes, strict=True):
        assert_within(gradient, exact, bound * size)
    assert_within(
        gbias,
        slopes.astype(np.clongdouble).sum(axis=0),
        4 * unit * len(rows) * np.abs(slopes).sum(axis=0),
    )


@given(tt_matrices(), SEEDS, LEADS)
def test_forward_is_the_dense_layer_for_any_leading_axes(W, seed, lead):
    rng = np.random.default_rng(seed)
    x, bias = (normal(rng, shape, W.dtype) for shape in ((*lead, W.shape[1]), W.shape[0]))
    y = forward(W.cores, x, bias)
    assert y.shape == (*lead, W.shape[0])
    assert y.dtype == W.dtype
    check_forward(W.cores, x, bias, y)
    check_forward(W.cores, x, np.zeros_like(bias), forward(W.cores, x))


@given(tt_matrices(), SEEDS, LEADS)
def test_backward_is_the_gradient_by_definition(W, seed, lead):
    rng = np.random.default_rng(seed)
    shapes = (*lead, W.shape[1]), (*lead, W.shape[0]), (W.shape[0],)
    x, gy, bias = (normal(rng, shape, W.dtype) for shape in shapes)
    gx, gcores, gbias = backward(W.cores, x, gy, bias)
    assert gx.shape == x.shape
    assert {a.dtype for a in (gx, *gcores, gbias)} == {W.dtype}
    check_backward(W.cores, x, gy, gx, gcores, gbias)
    again = backward(W.cores, x, gy)
    assert again[2] is None
    assert again[0].tobytes() == gx.tobytes()


@pytest.mark.parametrize("dtype", [np.float64, np.complex128], ids=["real", "complex"])
def test_gradients_equal_central_differences(dtype):
    """The loss Re sum conj(gy) y is linear in each single entry: its differences are exact."""
    rng = np.random.default_rng(0)
    cores = [normal(rng, shape, dtype) for shape in ((1, 3, 2, 4), (4, 1, 7, 2), (2, 5, 1, 1))]
    arrays = [normal(rng, (2, 3, 14), dtype), normal(rng, 15, dtype), *cores]
    gy = normal(rng, (2, 3, 15), dtype)
    gx, gcores, gbias = backward(cores, arrays[0], gy, arrays[1])

    def loss(values):
        return float(np.vdot(gy, forward(values[2:], values[0], values[1])).real)

    size = np.abs(arrays[0]) @ magnitude(cores).T + np.abs(arrays[1])
    for which, gradient in enumerate([gx, gbias, *gcores]):
        for _ in range(5):
            index = tuple(rng.integers(0, n) for n in gradient.shape)
            for direction in (1,) if dtype is np.float64 else (1, 1j):
                ends = []
                for sign in (1, -1):
                    moved = [a.copy() for a in arrays]
                    moved[which][index] += sign * direction
                    ends.append(loss(moved))
                expected = (gradient[index] * np.conj(direction)).real
                # a step of 1 at most doubles an entry's share of the sums
                bound = (gamma(dtype, cores) + 4e-16 * gy.size) * 10 * (size * np.abs(gy)).sum()
                assert abs((ends[0] - ends[1]) / 2 - expected) <= bound


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gradients_equal_those_of_torch_through_the_dense_layer(dtype):
    torch = pytest.importorskip("torch", reason="compares with torch's autodiff")
    rng = np.random.default_rng(0)
    W = tt.random_matrix((3, 1, 5), (2, 7, 3), 4, rng=0, dtype=dtype)
    x, gy, bias = (normal(rng, shape, dtype) for shape in ((4, 42), (4, 15), (15,)))
    leaves = [torch.tensor(np.array(a), requires_grad=True) for a in (x, bias, *W.cores)]
    weight = leaves[2]
    for core in leaves[3:]:  # (1, M, N, r) times (r, m, n, r')
        step = torch.einsum("amnb,bpqc->ampnqc", weight, core)
        weight = step.reshape(1, step.shape[1] * step.shape[2], -1, step.shape[-1])
    y = torch.nn.functional.linear(leaves[0], weight[0, :, :, 0], leaves[1])
    y.backward(torch.tensor(gy))
    gx, gbias, *gcores = (leaf.grad.numpy() for leaf in leaves)
    check_backward(W.cores, x, gy, gx, gcores, gbias)
    check_backward(W.cores, x, gy, *backward(W.cores, x, gy, bias))


@pytest.mark.parametrize("batch", [1, 13, 300])
def test_half_precision_is_computed_in_single_and_rounded_once(batch):
    rng = np.random.default_rng(0)
    W = tt.random_matrix((4, 8, 4), (8, 4, 4), 8, rng=0, dtype=np.float32)
    cores = [(0.1 * g).astype(np.float16) for g in W.cores]
    x, gy = (normal(rng, (batch, n), np.float16) for n in W.shape[::-1])
    bias = normal(rng, W.shape[0], np.float16)
    y = forward(cores, x, bias)
    assert y.dtype == np.float16
    check_forward([g.astype(np.float32) for g in cores], x, bias, y, extra=2 * HALF)
    assert forward([g.astype(np.float32) for g in cores], x).dtype == np.float16
    assert forward(cores, x.astype(np.float32)).dtype == np.float32
    gradients = backward(cores, x, gy, bias)
    assert {a.dtype for a in (gradients[0], *gradients[1], gradients[2])} == {np.dtype(np.float16)}
    wide = [g.astype(np.float32) for g in cores]
    exact = backward(wide, x.astype(np.float32), gy.astype(np.float32), bias.astype(np.float32))
    flat = zip(
        [gradients[0], *gradients[1], gradients[2]], [exact[0], *exact[1], exact[2]], strict=True
    )
    assert all((narrow == single.astype(np.float16)).all() for narrow, single in flat)


def test_bfloat16_of_torch_stays_bfloat16_and_is_followed_by_autograd():
    torch = pytest.importorskip("torch", reason="NumPy has no bfloat16")
    W = tt.random_matrix((4, 4), (4, 4), 3, rng=0, dtype=np.float32)
    cores = [torch.tensor(np.array(g)).bfloat16().requires_grad_() for g in W.cores]
    x, bias = torch.ones((2, 3, 16)).bfloat16(), torch.ones(16).bfloat16()
    y = forward(cores, x, bias)
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    gx, gcores, gbias = backward(cores, x, torch.ones_like(y), bias)
    assert {gx.dtype, gbias.dtype, *(g.dtype for g in gcores)} == {torch.bfloat16}
    for core, gradient in zip(cores, gcores, strict=True):
        assert core.grad.dtype == torch.bfloat16
        assert torch.allclose(core.grad.float(), gradient.float(), rtol=2**-7)  # two roundings


def test_gradients_have_the_dtype_of_their_operands_and_are_then_the_real_part():
    W = tt.random_matrix((2, 3), (3, 2), 2, rng=0)
    rng = np.random.default_rng(0)
    x, gy = np.ones((5, 6), np.float32), normal(rng, (5, 6), complex)
    mixed = [W.cores[0].astype(np.float32), W.cores[1].astype(complex)]
    gx, gcores, gbias = backward(mixed, x, gy, np.ones(6))
    assert [g.dtype.name for g in gcores] == ["float32", "complex128"]
    assert (gx.dtype.name, gbias.dtype.name) == ("float32", "float64")
    wide = [g.astype(complex) for g in mixed]
    exact = backward(wide, x.astype(complex), gy, np.ones(6, complex))
    np.testing.assert_allclose(gx, exact[0].real, rtol=1e-6)
    np.testing.assert_allclose(gcores[0], exact[1][0].real, rtol=1e-6)
    np.testing.assert_allclose(gcores[1], exact[1][1], rtol=1e-6)
    np.testing.assert_allclose(gbias, exact[2].real, rtol=1e-12)


@pytest.mark.parametrize("layout", ["F", "strided", "reversed", "readonly", "swapped"])
def test_any_layout_gives_the_same_and_nothing_is_written_to(layout):
    W = tt.random_matrix((3, 7), (5, 1), 2, rng=0)
    rng = np.random.default_rng(0)
    plain = [rng.standard_normal(shape) for shape in ((4, 5), (4, 21), (21,))]
    moved = [relayout(a, layout) for a in plain]
    cores = [relayout(np.array(g), layout) for g in W.cores]
    before = [a.tobytes() for a in (*moved, *cores)]
    check_forward(W.cores, plain[0], plain[2], forward(cores, moved[0], moved[2]))
    check_backward(W.cores, *plain[:2], *backward(cores, *moved))
    assert [a.tobytes() for a in (*moved, *cores)] == before


class Other(np.ndarray):
    """Arrays that are checked one by one, since their type is another."""


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex128"])
@pytest.mark.parametrize("lead", [(), (0,), (1,), (3, 2)], ids=str)
def test_known_shapes_and_a_look_at_everything_give_the_same_bits(lead, dtype):
    rng = np.random.default_rng(0)
    cores = [g.astype(dtype) for g in tt.layers.init_cores((4, 7), (5, 3), 3, rng=0)]
    x, gy, bias = (normal(rng, shape, dtype) for shape in ((*lead, 28), (*lead, 15), (15,)))
    others = [g.view(Other) for g in cores]
    for shift in (bias, None):
        y = forward(cores, x, shift)
        assert np.array_equal(y, forward(others, x, shift))
        assert y.dtype == dtype
        gx, gcores, gbias = backward(cores, x, gy, shift)
        same = backward(others, x, gy, shift)
        assert np.array_equal(gx, same[0])
        assert gx.shape == x.shape
        for g, h in zip(gcores, same[1], strict=True):
            assert np.array_equal(g, h)
        assert (gbias is None) == (shift is None)
        assert shift is None or np.array_equal(gbias, same[2])


def test_an_order_measured_between_two_calls_serves_the_second(monkeypatch):
    from ttcore import planner
    from ttcore.kernels.portable import chain

    cores = tt.layers.init_cores((4, 7), (5, 3), 3, rng=0)
    modes = planner.modes_of(tuple(g.shape for g in cores))
    found = planner.candidates(modes, 1, "float64", "rows", compiled=False, keep=2)
    seen = []
    product = chain.matvec

    def watch(*arguments):
        seen.append(arguments[2])
        return product(*arguments)

    monkeypatch.setattr(chain, "matvec", watch)
    monkeypatch.setattr(planner, "_remembered", {})
    planner.order.cache_clear()
    x = np.ones((1, 28))
    forward(cores, x)
    seconds, stages = found[1]
    planner.remember(modes, 1, "float64", planner.Order(stages, False, seconds))
    forward(cores, x)
    planner.order.cache_clear()
    assert seen == [found[0][1], stages]


def test_the_number_of_workers_does_not_change_a_bit():
    layer = FC.random((4, 8, 4), (8, 4, 4), 8, rng=0, dtype=np.float32)
    x, gy = np.random.default_rng(1).standard_normal((2, 300, 128), dtype=np.float32)
    one, two = (layer.forward(x, workers=n) for n in (1, 2))
    assert one.tobytes() == two.tobytes()
    for a, b in zip(*(layer.backward(x, gy, workers=n)[1] for n in (1, 2)), strict=True):
        assert a.tobytes() == b.tobytes()


def test_nan_in_one_vector_stays_in_it():
    layer = FC.random((4, 4), (4, 4), 2, rng=0)
    x = np.ones((3, 16))
    x[1, 5] = np.nan
    y = layer.forward(x)
    assert np.isfinite(y[[0, 2]]).all()
    assert np.isnan(y[1]).all()


BAD = {
    "x": (lambda W: forward(W, np.ones((3, 5))), tt.TTShapeError, ["(3, 5)", "N = 6"]),
    "x a scalar": (lambda W: forward(W, 3.0), tt.TTShapeError, ["()", "N = 6"]),
    "bias": (lambda W: forward(W, np.ones(6), np.ones(3)), tt.TTShapeError, ["(3,)", "(20,)"]),
    "bias a matrix": (
        lambda W: forward(W, np.ones(6), np.ones((1, 20))),
        tt.TTShapeError,
        ["(1, 20)"],
    ),
    "gy": (
        lambda W: backward(W, np.ones((2, 6)), np.ones((3, 20))),
        tt.TTShapeError,
        ["(3, 20)", "(2, 20)"],
    ),
    "bias behind": (
        lambda W: backward(W, np.ones(6), np.ones(20), np.ones(19)),
        tt.TTShapeError,
        ["(19,)", "(20,)"],
    ),
    "cores": (lambda W: forward([np.ones((1, 2, 1))], np.ones(2)), tt.TTShapeError, ["4 axes"]),
    "strings": (lambda W: forward(W, ["a"] * 6), tt.TTTypeError, ["x has dtype"]),
    "workers": (lambda W: forward(W, np.ones(6), workers=0), tt.TTValueError, ["workers=0"]),
    "weight": (lambda W: FC.from_dense(np.ones(4)), tt.TTShapeError, ["(4,)", "out_features"]),
    "modes too small": (
        lambda W: FC.from_dense(np.ones((4, 6)), (2, 2), (2, 2)),
        tt.TTShapeError,
        ["multiply to 4", "6 columns"],
    ),
    "modes too large": (
        lambda W: FC.from_dense(np.ones((4, 6)), (2, 4), (2, 2)),
        tt.TTShapeError,
        ["multiply to 8"],
    ),
    "modes of one side": (
        lambda W: FC.from_dense(np.ones((4, 6)), (2, 3)),
        tt.TTTypeError,
        ["both"],
    ),
    "number of modes": (
        lambda W: FC.from_dense(np.ones((4, 6)), (2, 3), (4,)),
        tt.TTShapeError,
        ["(2, 3)", "(4,)"],
    ),
    "features": (lambda W: FC(W, in_features=7), tt.TTShapeError, ["in_features=7", "1..6"]),
    "padded x": (
        lambda W: FC(W, in_features=5).forward(np.ones((2, 6))),
        tt.TTShapeError,
        ["(2, 6)", "N = 5"],
    ),
    "padded gy": (
        lambda W: FC(W, out_features=19).backward(np.ones(6), np.ones(20)),
        tt.TTShapeError,
        ["(20,)", "M = 19"],
    ),
    "bias of the layer": (lambda W: FC(W, np.ones(3)), tt.TTShapeError, ["(3,)", "(20,)"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_error_that_explains(case):
    call, kind, words = BAD[case]
    W = tt.layers.init_cores((2, 3), (4, 5), 2, rng=0)
    with pytest.raises(kind) as error:
        call(W)
    assert [word for word in words if word not in str(error.value)] == []


# the layer as an object


def test_a_layer_from_a_dense_weight_computes_what_the_dense_one_does():
    rng = np.random.default_rng(0)
    weight, bias, x = rng.standard_normal((12, 28)), rng.standard_normal(12), np.ones((3, 28))
    layer = FC.from_dense(weight, bias=bias)
    size = np.linalg.norm(weight)
    assert np.linalg.norm(layer.to_dense() - weight) <= 1e-13 * size
    np.testing.assert_allclose(layer(x), x @ weight.T + bias, atol=1e-12)
    assert (layer.in_features, layer.out_features) == (28, 12)


@given(st.floats(0.01, 0.9), SEEDS)
def test_from_dense_keeps_to_eps(eps, seed):
    weight = np.random.default_rng(seed).standard_normal((12, 14))
    layer = FC.from_dense(weight, (7, 2), (3, 4), eps=eps)
    assert np.linalg.norm(layer.to_dense() - weight) <= (eps + 1e-13) * np.linalg.norm(weight)


@pytest.mark.parametrize("dtype", [np.float64, np.float16], ids=["double", "half"])
def test_padding_is_invisible(dtype):
    rng = np.random.default_rng(0)
    weight, bias = rng.standard_normal((11, 13)), rng.standard_normal(11)
    layer = FC.from_dense(weight, (4, 4), (3, 4), bias=bias, pad=True)
    assert layer.to_dense().shape == weight.shape
    x, gy = rng.standard_normal((2, 5, 13)).astype(dtype), rng.standard_normal((2, 5, 11))
    tolerance = 1e-12 if dtype is np.float64 else 0.02  # of rounding sums of 13 terms to float16
    y = layer.forward(x)
    assert y.dtype == dtype
    np.testing.assert_allclose(y, x @ weight.T + bias, rtol=tolerance, atol=tolerance)
    gx, gcores, gbias = layer.backward(x, gy.astype(dtype))
    assert gx.dtype == dtype
    assert [g.shape for g in gcores] == [g.shape for g in layer.cores]
    np.testing.assert_allclose(gx, gy @ weight, rtol=tolerance, atol=4 * tolerance)
    np.testing.assert_allclose(gbias, gy.sum(axis=(0, 1)), rtol=tolerance, atol=4 * tolerance)
    assert "in_features=13, out_features=11" in repr(layer)


@given(tt_matrices(), SEEDS)
def test_clipping_removes_useless_ranks_and_nothing_else(W, seed):
    layer = FC(W.cores)
    found = layer.clip()
    pairs = [m * n for m, n in zip(W.row_modes, W.col_modes, strict=True)]
    limits = [min(math.prod(pairs[:k]), math.prod(pairs[k:])) for k in range(len(pairs) + 1)]
    assert all(new <= limit for new, limit in zip(found.ranks, limits, strict=True))
    assert all(new <= old for new, old in zip(found.ranks, layer.ranks, strict=True))
    # and each is what it was, or all that one side of the bond can use
    for k, (m, n) in enumerate(pairwise(pairs), start=1):
        r, s = found.ranks[k - 1], found.ranks[k + 1]
        assert found.ranks[k] in {layer.ranks[k], r * m, n * s}
    assert found.dtype == layer.dtype
    assert_within(dense_matrix(found.cores), dense_matrix(W), gamma(W.dtype, W) * magnitude(W))


def test_clipping_leaves_cores_away_from_over_full_bonds_as_they_are():
    layer = FC.random((4, 4, 4), (4, 4, 4), (5, 17), rng=0)
    found = layer.clip()
    assert found.ranks == (1, 5, 16, 1)
    assert found.cores[0].tobytes() == layer.cores[0].tobytes()
    assert FC.random((4, 4), (4, 4), 16, rng=0).clip().ranks == (1, 16, 1)


def test_rounding_a_trained_layer_keeps_bias_and_sizes_and_to_eps():
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((11, 13))
    layer = FC.from_dense(weight, (4, 4), (3, 4), bias=np.arange(11.0), pad=True)
    found = layer.round(eps=0.3)
    assert found.num_params < layer.num_params
    assert np.linalg.norm(found.to_dense() - weight) <= 0.3 * np.linalg.norm(weight) + 1e-12
    assert found.bias.tolist() == list(range(11))
    assert (found.in_features, found.out_features) == (13, 11)
    assert layer.round(max_rank=2, method="gram").ranks == (1, 2, 1)
    assert layer.round(max_rank=2, method="randomized", rng=0).ranks == (1, 2, 1)


def test_costs_are_those_of_the_plan():
    layer = FC.random((4, 7, 4, 7), (5, 5, 8, 4), 3, rng=0, dtype=np.float32)
    assert layer.num_params == 747 + 800
    assert layer.nbytes == 4 * layer.num_params
    plan = layer.plan(batch=10)
    assert (plan.flops, plan.bytes) == (layer.flops(batch=10), layer.bytes(batch=10))
    assert layer.predicted_time(batch=10) == plan.seconds > 0
    assert layer.predicted_time(batch=10, gradients=True) > plan.seconds
    assert layer.flops(batch=10) < 2 * 10 * 784 * 800


def test_layers_are_values():
    cores = tt.layers.init_cores((2, 3), (4, 5), 2, rng=0)
    layer = FC(cores, np.ones(20), in_features=5)
    for twin in (pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer)):
        assert [g.tobytes() for g in twin.cores] == [g.tobytes() for g in cores]
        assert (twin.in_features, twin.out_features) == (5, 20)
        assert twin.bias.tolist() == [1.0] * 20
    with pytest.raises(AttributeError):
        layer.bias = None
    with pytest.raises(ValueError, match="read-only"):
        layer.cores[0][:] = 0
    cores[0][:] = 0  # the caller's arrays stay writable


def test_a_layer_takes_arrays_of_torch():
    torch = pytest.importorskip("torch", reason="layers of another library's arrays")
    layer = FC.random((4, 4), (4, 4), 3, rng=0)
    other = FC([torch.tensor(np.array(g)) for g in layer.cores], torch.zeros(16), in_features=13)
    x = np.random.default_rng(0).standard_normal((3, 16))
    x[:, 13:] = 0
    y = other.forward(torch.tensor(x[:, :13]))
    np.testing.assert_allclose(y.numpy(), layer.forward(x), atol=1e-12)
